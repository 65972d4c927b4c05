// ε is a dial: from RMSprop at 0 to SGD with momentum at infinity.

import { axisOf, chartFigure, drawChart, drawLegend } from "../chart.js";
import { descend } from "../descent.js";
import { short } from "../dom.js";
import { decay, eps, momentum, number, rate, shownStep } from "../fields.js";
import { py, pyRule } from "../python.js";
import { Rule, init, update } from "../rule.js";
import { SURFACES } from "../surfaces.js";
import { SurfaceView } from "./surface_view.js";

const surface = { ...SURFACES.bowl, turns: false }, prepared = surface.prepare(30), START = surface.start;
const fields = {
  eps: eps(0.01, [0, 1e-8, 1e-4, 1e-2, 0.1, 1, 10, 100, 1000, 10000]), eta: rate(0.02), beta: decay(0.9), mu: momentum(0.9),
  steps: number("Steps", 120, { whole: true, min: 1, max: 2000, stops: [50, 120, 200, 500] }), t: shownStep(),
};
/** η is multiplied by 1 + ε: at a large ε the steps would be short otherwise. */
const ruleOf = (s) => Rule({ lr: s.eta * (1 + s.eps), decay: s.beta, eps: s.eps, momentum: s.mu });
const rmsprop = (rule) => ({
  start: () => init(rule),
  step(p, g, state) {
    const done = update(rule, p, g, state);
    return [done.p, done.state, done.d ? rule.eps / done.d : 0];
  },
});
const sgd = (mu) => ({
  start: () => 0,
  step(p, g, b, lr) {
    b = mu * b + g;
    return [p - lr * b, b];
  },
});

function compute(s) {
  const options = { start: START, steps: s.steps }, rule = ruleOf(s);
  const runs = { rmsprop: descend(rmsprop(rule), surface, prepared, { ...options, lr: rule.lr }),
    momentum: descend(sgd(s.mu), surface, prepared, { ...options, lr: s.eta }) };
  const apart = runs.rmsprop.path.map(([x, y], i) => Math.hypot(x - runs.momentum.path[i]?.[0], y - runs.momentum.path[i]?.[1]));
  const shares = runs.rmsprop.rates.flat();
  return { runs, apart, share: shares.reduce((a, b) => a + b, 0) / shares.length };
}

export const part = {
  id: "dial", fields, compute,
  presets: [
    { name: "ε = 1e−8: RMSprop", values: { eps: 1e-8 } },
    { name: "ε = 1: Inception, MobileNet", values: { eps: 1 } },
    { name: "ε = 10000: SGD", values: { eps: 10000 } },
  ],
  groups: { "The dial and the rule": ["eps", "eta", "beta", "mu", "steps"] },
  view() {
    part.picture = chartFigure("dial-picture", "RMSprop with this ε, and SGD with momentum and rate η", 440);
    part.apart = chartFigure("dial-apart", "Distance between the two paths", 180);
    part.ground = new SurfaceView(part.picture, { moveStart: () => {}, turn: () => {} });
    return [part.picture, part.apart];
  },
  last: ({ runs }) => runs.rmsprop.path.length - 1,
  draw(result, s) {
    const t = Math.min(s.t, s.steps);
    const anew = part.ground.ground(surface, prepared, { start: null, angle: 30, names: ["momentum", "rmsprop"],
      label: `A bowl. ${part.summary(result, s)}` });
    if (anew || part.shown !== result) {
      part.ground.load(result.runs);
      drawLegend(part.picture, [{ name: "RMSprop", style: "rmsprop" }, { name: "SGD with momentum", style: "momentum" }]);
      part.chart = drawChart(part.apart, { label: "Distance between the paths", height: 180, cursor: t,
        x: { min: 0, max: s.steps, label: "step" }, y: axisOf(result.apart, { label: "distance", zero: true }),
        series: [{ style: "main", points: result.apart.map((x, i) => [i, x]) }] });
    }
    part.shown = result;
    part.ground.frame(t);
    part.chart.moveCursor(t);
  },
  summary: ({ apart, share }) => `ε is ${short(100 * share, 3)} % of the divisor √v + ε, on average. The paths are at most ${
    short(Math.max(...apart.filter(Number.isFinite)), 3)} apart; they start ${short(Math.hypot(...START), 3)} from the minimum.`,
  numbers: ({ runs }) => ({ rmsprop: runs.rmsprop.path.at(-1), sgd: runs.momentum.path.at(-1) }),
  python: (result, s) => `import numpy as np
from rmsprop import Rule, init, update

rule = ${pyRule(ruleOf(s))}
${surface.python(prepared)}

p = q = np.array(${py(START)})
state, buffer = init(rule, p), np.zeros(2)
for _ in range(${s.steps}):
    p, state = update(rule, p, gradient(p), state)
    buffer = ${py(s.mu)} * buffer + gradient(q)
    q = q - ${py(s.eta)} * buffer
shown = {"rmsprop": p.tolist(), "sgd": q.tolist()}
print(shown)
`,
  /** Whether the paths are the same to 1 % at ε = 10000. */
  answer() {
    const initial = Object.fromEntries(Object.entries(fields).map(([key, field]) => [key, field.initial]));
    const farthest = (value) => Math.max(...compute({ ...initial, eps: value }).apart);
    return farthest(10000) < 0.01 * Math.hypot(...START) ? "same" : farthest(10000) < farthest(1e-8) / 2 ? "half" : "far";
  },
};
