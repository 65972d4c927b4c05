// What v remembers of a sequence of gradients that the reader draws.

import { axisOf, chartFigure, drawChart } from "../chart.js";
import { h, short } from "../dom.js";
import { decay, flag, numbers, rate, start } from "../fields.js";
import { py, pyList, pyRule } from "../python.js";
import { PYTHON_RPROP, rprop } from "../rprop.js";
import { Rule, init, update } from "../rule.js";

const COUNT = 60;
const fill = (value) => new Array(COUNT).fill(value);
const SPIKE = fill(1).with(20, 10);
const STOP = fill(1).fill(0, 20);
const NINE_AND_ONE = fill(0).map((_, i) => (i % 10 === 9 ? -0.09 : 0.01));
const fields = {
  beta: decay(0.9), eta: rate(0.01), v0: start(), correction: flag("Bias correction"), rprop: flag("Rprop beside it"),
  g: numbers("Gradients", SPIKE, { least: 2, most: COUNT }),
};
const ruleOf = (s) => Rule({ lr: s.eta, decay: s.beta, initial_square_avg: s.v0, bias_correction: s.correction });

/** Return v, d, g/d and the position after each step, from a parameter at 0. */
export function follow(rule, gradients) {
  let p = 0, state = init(rule);
  return gradients.map((g) => {
    const done = update(rule, p, g, state);
    ({ p, state } = done);
    return { v: state.square_avg, d: done.d, u: done.u, p };
  });
}

const points = (values) => values.map((value, i) => [i + 1, value]);

/** Let the reader draw gradients with a pointer or with the arrow keys. */
function drawable(part, settings) {
  const figure = part.drawn;
  let step = 20, drawing = false;
  const change = (k, value) => settings.set({
    g: settings.values.g.map((g, i) => (i === k ? Math.round(Math.max(-1e4, Math.min(1e4, value)) * 100) / 100 : g)) });
  const at = (event) => {
    const frame = figure.querySelector("svg.chart").getBoundingClientRect(), { width, height, left, right } = part.chart;
    const x = (event.clientX - frame.left) * width / frame.width, y = (event.clientY - frame.top) * height / frame.height;
    const k = Math.round((x - left) / (right - left) * (part.axes.x.max - part.axes.x.min) + part.axes.x.min) - 1;
    const { min, max } = part.held ?? part.axes.y;
    return [k, max - (y - 10) / (height - 46) * (max - min)];
  };
  const draw = (event) => {
    const [k, value] = at(event);
    if (k < 0 || k >= settings.values.g.length) return;
    step = k;
    change(k, Math.abs(value) < (part.axes.y.max - part.axes.y.min) / 60 ? 0 : value);
  };
  figure.addEventListener("pointerdown", (event) => {
    if (!event.target.closest("svg.chart")) return;
    event.preventDefault();
    drawing = true;
    part.held = part.axes.y; // the axis stays while the pointer is down
    draw(event);
  });
  document.addEventListener("pointermove", (event) => { if (drawing) draw(event); });
  for (const end of ["pointerup", "pointercancel"]) {
    document.addEventListener(end, () => {
      if (!drawing) return;
      drawing = false;
      part.held = null;
      settings.set({});
    });
  }
  const editor = h("div", { class: "editor", tabindex: 0, role: "slider", "aria-label": "Gradient of a step: left and right "
    + "choose the step, up and down change its gradient" });
  const show = () => {
    step = Math.min(step, settings.values.g.length - 1);
    const text = `Step ${step + 1}: gradient ${short(settings.values.g[step])}`;
    editor.textContent = `${text}. Draw in the picture, or press arrow keys here.`;
    editor.setAttribute("aria-valuetext", text);
    editor.setAttribute("aria-valuenow", settings.values.g[step]);
  };
  editor.addEventListener("keydown", (event) => {
    const sideways = { ArrowLeft: -1, ArrowRight: 1 }[event.key], up = { ArrowDown: -1, ArrowUp: 1 }[event.key];
    if (!sideways && !up) return;
    event.preventDefault();
    if (sideways) {
      step = Math.max(0, Math.min(settings.values.g.length - 1, step + sideways));
      show();
    } else change(step, settings.values.g[step] + up * (event.shiftKey ? 1 : 0.1));
  });
  settings.listeners.push(show);
  show();
  return editor;
}

export const part = {
  id: "average", fields,
  presets: [
    { name: "A spike", values: {} },
    { name: "Gradients stop", values: { g: STOP } },
    { name: "Constant, v₀ = 0", values: { g: fill(1) } },
    { name: "Constant, v₀ = 1", values: { g: fill(0.1), v0: 1 } },
    { name: "Nine and one", values: { g: NINE_AND_ONE, rprop: true } },
  ],
  groups: { "The rule": ["beta", "eta", "v0", "correction", "rprop"] },
  view(settings) {
    part.drawn = chartFigure("average-gradients", "Gradients g, and √v, which follows them");
    part.drawn.classList.add("drawable");
    part.steps = chartFigure("average-steps", "Length of the step, in units of η", 180);
    part.path = chartFigure("average-path", "Where the parameter is", 180);
    return [part.drawn, drawable(part, settings), h("div", { class: "pair" }, part.steps, part.path)];
  },
  compute: (s) => ({ steps: follow(ruleOf(s), s.g), rprop: rprop(s.g, s.eta) }),
  draw({ steps, rprop: other }, s) {
    const count = s.g.length, x = { min: 0, max: count + 1, label: "step" }, roots = steps.map(({ v }) => Math.sqrt(v));
    const y = part.held ?? axisOf([...s.g, ...roots], { label: "g and √v", zero: true, least: 0.005 });
    part.axes = { x, y };
    part.chart = drawChart(part.drawn, { label: `${count} gradients and the root of their average`, x, y, series: [
      { name: "gradient g", style: "faint", bars: true, points: points(s.g) }, { name: "√v", style: "main", points: points(roots) }] });
    const sizes = steps.map(({ u }) => Math.abs(u));
    drawChart(part.steps, { label: "Length of each step", height: 180, x, lines: [{ at: 1, name: "η" }],
      y: axisOf([...sizes, 1.2], { label: "|step|/η", zero: true }), series: [{ style: "main", points: points(sizes) }] });
    const both = [{ name: "RMSprop", style: "rmsprop", points: points(steps.map(({ p }) => p)) },
      ...(s.rprop ? [{ name: "Rprop", style: "second", points: points(other) }] : [])];
    drawChart(part.path, { label: "Position after each step", height: 180, x, series: both,
      y: axisOf(both.flatMap((each) => each.points.map(([, p]) => p)), { label: "p", zero: true }) });
  },
  summary({ steps, rprop: other }, s) {
    const window = 1 / (1 - s.beta), weight = 1 - s.beta ** Math.round(window);
    const half = s.beta ? Math.LN2 / -Math.log(s.beta) : 0, longest = Math.max(...steps.map(({ u }) => Math.abs(u)));
    const memory = s.beta ? `v forgets half of the past in ${short(half, 3)} steps; the last ${short(window, 3)} steps have ${
      Math.round(weight * 100)} % of its weight.` : "v is the last g² alone: each step is η·sign(g).";
    const end = s.rprop ? ` RMSprop ends at ${short(steps.at(-1).p, 3)}, Rprop at ${short(other.at(-1), 3)}.` : "";
    return `${memory} The longest step is ${short(longest)} η; with v₀ = 0 no step is longer than ${
      short(1 / Math.sqrt(1 - s.beta))} η.${end}`;
  },
  numbers: ({ steps, rprop: other }, s) => ({ v: steps.map(({ v }) => v), p: steps.map(({ p }) => p),
    ...(s.rprop ? { rprop: other } : {}) }),
  python: (result, s) => `import numpy as np
from rmsprop import Rule, init, update

${s.rprop ? `\n${PYTHON_RPROP}\n\n` : ""}rule = ${pyRule(ruleOf(s))}
gradients = ${pyList(s.g)}
param, shown = np.zeros(1), {"v": [], "p": []}
state = init(rule, param)
for gradient in gradients:
    param, state = update(rule, param, np.array([gradient]), state)
    shown["v"].append(float(state.square_avg[0]))
    shown["p"].append(float(param[0]))
${s.rprop ? `shown["rprop"] = rprop(gradients, ${py(s.eta)})\n` : ""}print(shown)
`,
  /** How much longer the step of a gradient of 10 among gradients of 1 is. */
  answer() {
    const steps = follow(Rule({ lr: 1, decay: 0.9 }), new Array(200).fill(1).with(150, 10));
    const times = steps[150].u / steps[149].u;
    return times > 9 ? "10" : times > 2 ? "3" : "1";
  },
};
