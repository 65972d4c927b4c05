// A convex problem on which RMSprop goes to the worst point, and the β that decides.

import { axisOf, chartFigure, drawChart } from "../chart.js";
import { short } from "../dom.js";
import { decay, flag, number, rate, shownStep } from "../fields.js";
import { py, pyRule } from "../python.js";
import { Rule, init, update } from "../rule.js";

const fields = {
  beta: decay(0.9, [0.5, 0.9, 0.93, 0.94, 0.95, 0.96, 0.97, 0.98, 0.99, 0.999]),
  c: number("Large gradient C, once in C steps", 10, { whole: true, min: 3, max: 100, stops: [3, 4, 5, 8, 10, 16, 20, 32] }),
  eta: rate(1, [0.1, 0.2, 0.5, 1, 2], "Learning rate η, divided by √t"),
  amsgrad: flag("Keep the largest v (AMSGrad)"),
  steps: number("Steps", 4000, { whole: true, min: 10, max: 50000, stops: [1000, 2000, 4000, 10000, 20000] }),
  t: shownStep(),
};
const ruleOf = (s) => Rule({ lr: s.eta, decay: s.beta, eps: 0, amsgrad: s.amsgrad });

/** Return x after each step. */
export function run(rule, c, steps) {
  let x = 0, state = init(rule);
  const path = [x];
  for (let t = 1; t <= steps; t += 1) {
    const done = update({ ...rule, lr: rule.lr / Math.sqrt(t) }, x, t % c === 1 ? c : -1, state);
    state = done.state;
    x = Math.max(-1, Math.min(1, done.p));
    path.push(x);
  }
  return path;
}

/** Return how far a period of small steps moves x towards −1, in units of the rate. */
export function drift(beta, c) {
  const a = (1 - beta) * (c * c - 1) / (1 - beta ** c);
  let sum = c / Math.sqrt(1 + a);
  for (let j = 1; j < c; j += 1) sum -= 1 / Math.sqrt(1 + a * beta ** j);
  return sum;
}

/** Return the β above which x moves to −1, by bisection. */
export function threshold(c) {
  let low = 0, high = 1 - 1e-9;
  for (let k = 0; k < 60; k += 1) {
    const middle = (low + high) / 2;
    if (drift(middle, c) > 0) high = middle;
    else low = middle;
  }
  return high;
}

export const part = {
  id: "wrong", fields,
  presets: [
    { name: "β = 0.9 goes wrong", values: {} },
    { name: "β = 0.99 goes right", values: { beta: 0.99 } },
    { name: "β = 0.9 with AMSGrad", values: { amsgrad: true } },
  ],
  groups: { "The problem and the rule": ["beta", "c", "eta", "amsgrad", "steps"] },
  view() {
    part.path = chartFigure("wrong-path", "x, kept between −1 and 1; the best point is −1", 240);
    return [part.path];
  },
  compute: (s) => ({ path: run(ruleOf(s), s.c, s.steps) }),
  last: ({ path }) => path.length - 1,
  draw({ path }, s) {
    const t = Math.min(s.t, s.steps);
    drawChart(part.path, { label: `x over ${s.steps} steps`, height: 240, x: { min: 1, max: s.steps, log: true, label: "step" },
      y: { ...axisOf([-1, 1], { label: "x" }) }, cursor: Math.max(t, 1),
      lines: [{ at: 1, name: "worst point" }, { at: -1, name: "best point" }],
      series: [{ style: "main", points: path.map((x, i) => [i, x]).slice(1, t + 1) }] });
  },
  summary({ path }, s) {
    const limit = threshold(s.c), side = s.amsgrad ? "With the largest v" : s.beta < limit ? `β is below ${short(limit, 6)}`
      : `β is above ${short(limit, 6)}`;
    const way = s.amsgrad || s.beta >= limit ? "x moves to the best point, −1" : "x moves to the worst point, 1";
    return `${side}: ${way}. After ${s.steps} steps x is ${short(path.at(-1))}.`;
  },
  numbers: ({ path }, s) => ({ x: path.at(-1), threshold: Number(threshold(s.c).toFixed(9)) }),
  python: (result, s) => `from dataclasses import replace

import numpy as np
from rmsprop import Rule, init, update

rule = ${pyRule(ruleOf(s))}
x = np.zeros(1)
state = init(rule, x)
for t in range(1, ${s.steps + 1}):
    gradient = np.array([${py(s.c)} if t % ${s.c} == 1 else -1.0])
    x, state = update(replace(rule, lr=${py(s.eta)} / t**0.5), x, gradient, state)
    x = np.clip(x, -1.0, 1.0)


def drift(beta, c):
    a = (1 - beta) * (c * c - 1) / (1 - beta**c)
    return c / (1 + a) ** 0.5 - sum(1 / (1 + a * beta**j) ** 0.5 for j in range(1, c))


low, high = 0.0, 1 - 1e-9
for _ in range(60):
    middle = (low + high) / 2
    low, high = (low, middle) if drift(middle, ${s.c}) > 0 else (middle, high)
shown = {"x": float(x[0]), "threshold": round(high, 9)}
print(shown)
`,
  /** Where x goes with β = 0.9 and C = 10. */
  answer() {
    const x = run(Rule({ lr: 1, decay: 0.9, eps: 0 }), 10, 4000).at(-1);
    return x > 0.5 ? "worst" : x < -0.5 ? "best" : "between";
  },
};
