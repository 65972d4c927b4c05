// Two parameters whose gradients differ by a factor of 1000: every number of two steps.

import { axisOf, chartFigure, drawChart } from "../chart.js";
import { h, short } from "../dom.js";
import { decay, eps, flag, number, rate, start } from "../fields.js";
import { py, pyRule } from "../python.js";
import { Rule, init, update } from "../rule.js";

const NAMES = ["A", "B"];
const gradient = (label, initial) => number(label, initial, { min: -1e12, max: 1e12 });
const fields = {
  beta: decay(0.9), eta: rate(0.01), eps: eps(1e-8), v0: start(), correction: flag("Bias correction"),
  a1: gradient("A, step 1", 10), b1: gradient("B, step 1", 0.01),
  a2: gradient("A, step 2", 8), b2: gradient("B, step 2", 0.02),
};
const ROWS = [
  ["gradient g", "g"], ["average v", "v"], ["divisor d", "d"], ["g/d", "u"], ["step η·g/d", "step"],
  ["parameter p", "p"], ["rate η/d", "rate"],
];

const ruleOf = (s) => Rule({ lr: s.eta, decay: s.beta, eps: s.eps, initial_square_avg: s.v0, bias_correction: s.correction });

/** Return for both steps and both parameters the numbers of a step. */
export function steps(rule, gradients) {
  let params = [1, 1], states = [init(rule), init(rule)];
  return gradients.map((grads) => {
    const done = params.map((p, i) => update(rule, p, grads[i], states[i]));
    params = done.map((x) => x.p);
    states = done.map((x) => x.state);
    return done.map((x, i) => ({ g: grads[i], v: x.state.square_avg, d: x.d, u: x.u, step: rule.lr * x.u, p: x.p,
      rate: rule.lr / x.d }));
  });
}

function drawTable(table, result) {
  const head = h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Number"), ...result.flatMap((_, t) =>
    NAMES.map((name) => h("th", { scope: "col", class: "number" }, `${name}, step ${t + 1}`)))));
  const body = h("tbody", {}, ...ROWS.map(([label, key]) => h("tr", {}, h("th", { scope: "row" }, label),
    ...result.flatMap((step) => step.map((numbers) => h("td", { class: "number" }, short(numbers[key], 6)))))));
  table.replaceChildren(h("caption", { class: "hidden" }, "The numbers of both steps"), head, body);
}

/** Draw one quantity of all four steps as bars. */
function drawBars(figure, label, values) {
  drawChart(figure, { label: `${label}: ${values.map((x) => short(x)).join(", ")}`, height: 150,
    x: { min: -0.5, max: 3.5, label: "", names: ["A, step 1", "B, step 1", "A, step 2", "B, step 2"] },
    y: axisOf(values, { label: "size", zero: true }),
    series: [0, 1].map((k) => ({ style: ["main", "second"][k], bars: true, points: [k, k + 2].map((i) => [i, values[i]]) })) });
}

export const part = {
  id: "two", fields,
  presets: [
    { name: "The worked example", values: {} },
    { name: "A million apart", values: { a1: 1000, b1: 0.001, a2: 1000, b2: 0.001 } },
    { name: "ε larger than B’s gradient", values: { eps: 0.1 } },
  ],
  groups: { "The rule": ["beta", "eta", "eps", "v0", "correction"], "Gradients": ["a1", "b1", "a2", "b2"] },
  view: () => {
    part.gradients = chartFigure("two-gradients", "Gradients", 150);
    part.moves = chartFigure("two-steps", "Steps", 150);
    part.table = h("table", { class: "numbers" });
    return [h("div", { class: "pair" }, part.gradients, part.moves),
      h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table of all numbers" }, part.table)];
  },
  compute: (s) => steps(ruleOf(s), [[s.a1, s.b1], [s.a2, s.b2]]),
  draw(result) {
    drawBars(part.gradients, "Gradients", result.flat().map((x) => Math.abs(x.g)));
    drawBars(part.moves, "Steps", result.flat().map((x) => Math.abs(x.step)));
    drawTable(part.table, result);
  },
  summary(result) {
    const [first, second] = result, [a, b] = second;
    return `At step 2 the gradients differ by a factor of ${short(Math.abs(a.g / b.g), 3)}, the steps by a factor of `
      + `${short(Math.abs(a.step / b.step), 3)}. The first step of A is ${short(first[0].u)} times η.`;
  },
  numbers: (result) => ({ p: result[1].map((x) => x.p), v: result[1].map((x) => x.v) }),
  python: (result, s) => `import numpy as np
from rmsprop import ${"Rule, init, update"}

rule = ${pyRule(ruleOf(s))}
param = np.array([1.0, 1.0])
state = init(rule, param)
for gradient in ([${py(s.a1)}, ${py(s.b1)}], [${py(s.a2)}, ${py(s.b2)}]):
    param, state = update(rule, param, np.array(gradient), state)
shown = {"p": param.tolist(), "v": state.square_avg.tolist()}
print(shown)
`,
  /** How much longer A's first step becomes if its gradient is 100 times larger. */
  answer() {
    const rule = Rule({ lr: 0.01, decay: 0.9 });
    const [[before]] = steps(rule, [[10, 0.01]]), [[after]] = steps(rule, [[1000, 0.01]]);
    const times = after.step / before.step;
    return times > 50 ? "100" : times > 5 ? "10" : "1";
  },
};
