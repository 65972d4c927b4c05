// Near a minimum RMSprop does not settle: a cycle of size η/2, at the effective rate 2/curvature.

import { axisOf, chartFigure, drawChart } from "../chart.js";
import { h, short } from "../dom.js";
import { choice, decay, number, rate, shownStep, stops125 } from "../fields.js";
import { py, pyRule } from "../python.js";
import { Rule, init, update } from "../rule.js";

const fields = {
  eta: rate(0.1), beta: decay(0.9, [0.5, 0.7, 0.8, 0.9, 0.95, 0.98]),
  curvature: number("Curvature λ", 1, { min: 1e-12, max: 1e12, stops: stops125(1e-3, 1e3) }),
  x0: number("Start x", 1, { min: -1e6, max: 1e6, stops: [0.1, 0.5, 1, 2] }),
  variant: choice("Variant", "plain", { plain: "plain", nesterov: "Nesterov momentum, μ = 0.9", centered: "centered" }),
  steps: number("Steps", 200, { whole: true, min: 2, max: 5000, stops: [100, 200, 500, 1000, 2000] }),
  t: shownStep(),
};
const VARIANTS = { plain: {}, nesterov: { momentum: 0.9, nesterov: true }, centered: { centered: true } };
// Size of the cycle in units of η, and the largest stable rate in units of 1/λ.
const size = (s) => ({ plain: 0.5, nesterov: 2.8 / 3.8, centered: (1 + s.beta) / (4 * Math.sqrt(s.beta)) })[s.variant];
const ruleOf = (s) => Rule({ lr: s.eta, decay: s.beta, eps: 0, ...VARIANTS[s.variant] });

/** Return x after each step on λx²/2, and the effective rates. */
export function descend(rule, curvature, x0, steps) {
  let x = x0, state = init(rule);
  const path = [x], rates = [];
  for (let t = 0; t < steps; t += 1) {
    const done = update(rule, x, curvature * x, state);
    ({ p: x, state } = done);
    path.push(x);
    rates.push(rule.lr / done.d);
  }
  return { path, rates };
}

const last = (path, count) => path.slice(-count).map(Math.abs);
const cycle = (path) => Math.max(...last(path, 2));

export const part = {
  id: "edge", fields,
  presets: [
    { name: "The cycle", values: {} },
    { name: "A thousand times steeper", values: { curvature: 1000 } },
    { name: "From ±0.0001 to ±1", values: { x0: 0.0001, eta: 2 } },
    { name: "Nesterov", values: { variant: "nesterov", steps: 1000 } },
  ],
  groups: { "On λ·x²/2": ["eta", "beta", "curvature", "x0", "variant", "steps"] },
  view() {
    part.positions = chartFigure("edge-path", "Distance from the minimum, |x|");
    part.rates = chartFigure("edge-rates", "Effective rate times curvature, λ·η/√v");
    return [h("div", { class: "pair" }, part.positions, part.rates)];
  },
  compute: (s) => descend(ruleOf(s), s.curvature, s.x0, s.steps),
  last: ({ path }) => path.length - 1,
  draw({ path, rates }, s) {
    const t = Math.min(s.t, s.steps), x = { min: 0, max: s.steps, label: "step" };
    const until = (values) => values.filter(([i]) => i <= t);
    const sizes = path.map((value, i) => [i, Math.abs(value)]), limit = size(s) * s.eta;
    drawChart(part.positions, { label: `Distance from the minimum over ${s.steps} steps`, x, cursor: t,
      y: axisOf([...sizes.map(([, value]) => value), limit], { label: "|x|", log: true }),
      lines: [{ at: limit, name: `${short(size(s), 4)}·η = ${short(limit)}` }], series: [{ style: "main", points: until(sizes) }] });
    const scaled = rates.map((value, i) => [i + 1, value * s.curvature]);
    drawChart(part.rates, { label: "Effective rate times curvature", x, cursor: t,
      y: axisOf(scaled.map(([, value]) => value), { label: "λ·rate", log: true }),
      lines: s.variant === "plain" ? [{ at: 2, name: "stable below 2" }] : [],
      series: [{ style: "main", points: until(scaled) }] });
  },
  summary({ path, rates }, s) {
    return `After ${s.steps} steps |x| is ${short(cycle(path))}, which is ${short(cycle(path) / s.eta)} η; the effective rate is ${
      short(rates.at(-1) * s.curvature)}/λ.`;
  },
  numbers: ({ path, rates }) => ({ x: path.at(-1), rate: rates.at(-1) }),
  python: (result, s) => `import numpy as np
from rmsprop import Rule, init, update
from rmsprop.rule import denominator

rule = ${pyRule(ruleOf(s))}
x = np.array([${py(s.x0)}])
state = init(rule, x)
for _ in range(${s.steps}):
    x, state = update(rule, x, ${py(s.curvature)} * x, state)
shown = {"x": float(x[0]), "rate": float(rule.lr / denominator(rule, state)[0])}
print(shown)
`,
  /** How the cycle's size changes with a curvature a thousand times larger. */
  answer() {
    const rule = Rule({ lr: 0.1, decay: 0.9, eps: 0 });
    const [flat, steep] = [1, 1000].map((curvature) => cycle(descend(rule, curvature, 1, 2000).path));
    return steep < flat / 2 ? "smaller" : steep > flat * 2 ? "larger" : "same";
  },
};
