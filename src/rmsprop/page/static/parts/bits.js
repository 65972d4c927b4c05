// The average v stored in float32, bfloat16 and eight bits.

import { axisOf, chartFigure, drawChart } from "../chart.js";
import { short } from "../dom.js";
import { decay, number, shownStep, start } from "../fields.js";
import { FORMATS, initial, stepStored } from "../low_precision.js";
import { PYTHON_GAUSSIAN, gaussian } from "../noise.js";
import { py, pyRule } from "../python.js";
import { Rule } from "../rule.js";

const COUNT = 32;
const TITLES = { float32: "float32", "bfloat16-nearest": "bfloat16, to nearest", bfloat16: "bfloat16, stochastic",
  uint8: "8 bits, stochastic" };
const STYLES = { float32: "main", "bfloat16-nearest": "second", bfloat16: "third", uint8: "fourth" };
const fields = {
  beta: decay(0.999, [0.9, 0.99, 0.995, 0.998, 0.999]), scale: number("Size of the gradients", 0, { stops: [0, 0.1, 0.5, 1, 2, 10] }),
  v0: { ...start(), initial: 1 }, seed: number("Seed", 1, { whole: true, min: 1, max: 2147483647 }),
  steps: number("Steps", 400, { whole: true, min: 1, max: 3000, stops: [100, 200, 400, 1000] }), t: shownStep(),
};
const ruleOf = (s) => Rule({ lr: 1, decay: s.beta, eps: 0, initial_square_avg: s.v0 });
const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;

function run(rule, kind, s) {
  let params = new Array(COUNT).fill(0), averages = initial(rule, kind, COUNT);
  const means = [mean(averages.square_avg)];
  for (let t = 0; t < s.steps; t += 1) {
    const grads = params.map((_, i) => Math.fround(s.scale * gaussian(s.seed, COUNT * t + i)));
    ({ params, averages } = stepStored(rule, t + 1, params, grads, averages, kind));
    means.push(mean(averages.square_avg));
  }
  return { means, v: averages.square_avg, p: params };
}

export const part = {
  id: "bits", fields,
  presets: [
    { name: "Gradients are 0, β = 0.999", values: {} },
    { name: "Gradients are 0, β = 0.9", values: { beta: 0.9, steps: 100 } },
    { name: "Gradients of size 1, v₀ = 0", values: { scale: 1, v0: 0 } },
  ],
  groups: { "The rule and its gradients": ["beta", "scale", "v0", "seed", "steps"] },
  view() {
    part.means = chartFigure("bits-means", "Mean of v over 32 numbers", 260);
    return [part.means];
  },
  compute: (s) => Object.fromEntries(FORMATS.map((kind) => [kind, run(ruleOf(s), kind, s)])),
  last: (result) => result.float32.means.length - 1,
  draw(result, s) {
    const t = Math.min(s.t, s.steps);
    drawChart(part.means, { label: "Mean of v in four formats", height: 260, x: { min: 0, max: s.steps, label: "step" }, cursor: t,
      y: axisOf(FORMATS.flatMap((kind) => result[kind].means), { label: "mean of v", zero: true }), series: FORMATS.map((kind) => ({
        name: TITLES[kind], style: STYLES[kind], points: result[kind].means.slice(0, t + 1).map((value, i) => [i, value]) })) });
  },
  summary: (result, s) => `After ${s.steps} steps the mean of v is ${FORMATS.map((kind) => `${short(result[kind].means.at(-1), 3)} in ${
    TITLES[kind]}`).join("; ")}.`,
  numbers: (result) => Object.fromEntries(FORMATS.map((kind) => [kind, { ...(kind !== "uint8" && { v: result[kind].v }),
    ...(kind !== "bfloat16-nearest" && { p: result[kind].p }) }])),
  python: (result, s) => `import torch
from rmsprop import Rule
from rmsprop.torch import RMSprop

${PYTHON_GAUSSIAN}

rule = ${pyRule(ruleOf(s))}
gradients = [torch.tensor([${py(s.scale)} * gaussian(${s.seed}, ${COUNT} * t + i) for i in range(${COUNT})]) for t in range(${s.steps})]
shown = {}
for name in ("float32", "bfloat16", "uint8"):
    p = torch.zeros(${COUNT}, requires_grad=True)
    optimizer = RMSprop.from_rule([p], rule, state_dtype=None if name == "float32" else name)
    for gradient in gradients:
        p.grad = gradient.clone()
        optimizer.step()
    shown[name] = {"p": p.tolist()}
    if name != "uint8":  # its state holds codes
        shown[name]["v"] = optimizer.state[p]["square_avg"].tolist()
v = torch.full((${COUNT},), rule.initial_square_avg)
for g in gradients:  # rmsprop never rounds v to the nearest bfloat16: this is why
    v = (rule.decay * v + ((1 - rule.decay) * g) * g).bfloat16().float()
shown["bfloat16-nearest"] = {"v": v.tolist()}
print(shown)
`,
  /** What v in bfloat16, rounded to nearest, does when gradients are 0. */
  answer() {
    const s = { beta: 0.999, scale: 0, v0: 1, seed: 1, steps: 400 }, { means } = run(ruleOf(s), "bfloat16-nearest", s);
    return means.at(-1) === 1 ? "stays" : means.at(-1) < 0.7 ? "falls" : "slow";
  },
};
