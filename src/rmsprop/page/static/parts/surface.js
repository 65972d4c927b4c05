// Optimizers on a surface: RMSprop in all its variants beside five others.

import { axisOf, chartFigure, drawChart, drawLegend } from "../chart.js";
import { race } from "../descent.js";
import { h, short } from "../dom.js";
import { choice, flag, number, rate, shownStep, stops125 } from "../fields.js";
import { PYTHON_GAUSSIAN } from "../noise.js";
import { OTHERS } from "../optimizers.js";
import { py, pyRule } from "../python.js";
import { Rule } from "../rule.js";
import { RULE_KEYS, profileList, ruleFields, ruleOf } from "../rule_fields.js";
import { SURFACES } from "../surfaces.js";
import { SurfaceView } from "./surface_view.js";

const NAMES = Object.keys(OTHERS), FIRST = SURFACES.ravine;
const fields = {
  surface: choice("Surface", "ravine", Object.fromEntries(Object.entries(SURFACES).map(([key, { title }]) => [key, title]))),
  angle: number("Angle of ravine and bowl, degrees", 0, { max: 90, stops: [0, 5, 10, 15, 20, 25, 30, 35, 40, 45, 60, 75, 90] }),
  x: number("Start x", FIRST.start[0], { min: -10, max: 10 }), y: number("Start y", FIRST.start[1], { min: -10, max: 10 }),
  noise: number("Noise of gradients", 0, { stops: [0, 0.1, 0.3, 1, 3] }),
  seed: number("Seed of the noise", 1, { whole: true, max: 4294967295 }),
  steps: number("Steps", 150, { whole: true, min: 1, max: 2000, stops: [50, 100, 150, 200, 300, 500] }),
  t: shownStep(),
  ...ruleFields({ eta: FIRST.rates.rmsprop }),
  ...Object.fromEntries(NAMES.flatMap((name) => [
    [name, flag(OTHERS[name].name, ["sgd", "momentum", "adam"].includes(name))],
    [`lr_${name}`, rate(FIRST.rates[name], stops125(1e-4, 50), `η of ${OTHERS[name].name}`)],
  ])),
};
const startsAt = (key) => ({ surface: key, x: SURFACES[key].start[0], y: SURFACES[key].start[1], eta: SURFACES[key].rates.rmsprop,
  ...Object.fromEntries(NAMES.map((name) => [`lr_${name}`, SURFACES[key].rates[name]])) });
const rounded = (x) => Math.round(Math.max(-10, Math.min(10, x)) * 100) / 100;
const ratesOf = (s) => Object.fromEntries(NAMES.filter((name) => s[name]).map((name) => [name, s[`lr_${name}`]]));
const title = (name) => (name === "rmsprop" ? "RMSprop" : OTHERS[name].name);

function compute(s) {
  const surface = SURFACES[s.surface], prepared = surface.prepare(s.angle);
  const options = { start: [s.x, s.y], steps: s.steps, noise: s.noise, seed: s.seed };
  return { surface, prepared, runs: race(ruleOf(s), surface, prepared, options, ratesOf(s)) };
}

/** Return the first step after which the loss is a hundredth of its start; Infinity if none is. */
function arrival({ losses }) {
  const at = losses.findIndex((loss) => loss <= losses[0] / 100);
  return at < 0 ? Infinity : at;
}

function python(result, s) {
  const others = NAMES.filter((name) => s[name]);
  const noise = s.noise ? ` + ${py(s.noise)} * np.array([gaussian(${s.seed}, 2 * t), gaussian(${s.seed}, 2 * t + 1)])` : "";
  return `import numpy as np
from rmsprop import Rule, init, update

rule = ${pyRule(ruleOf(s))}
start = np.array([${py(s.x)}, ${py(s.y)}])
${result.surface.python(result.prepared)}${s.noise ? `\n\n${PYTHON_GAUSSIAN}` : ""}

def rmsprop(p, g, s, lr):
    return update(rule, p, g, s)

${others.map((name) => `\n${OTHERS[name].python}\n`).join("")}
shown = {}
for step, state, lr in (
    (rmsprop, init(rule, start), rule.lr),
${others.map((name) => `    (${name}, ${OTHERS[name].pythonStart ?? "0.0"}, ${py(s[`lr_${name}`])}),\n`).join("")}):
    p = start
    with np.errstate(all="ignore"):
        for t in range(${s.steps}):
            if np.abs(p).max() > 1e100:
                break  # diverged
            p, state = step(p, gradient(p)${noise}, state, lr)
    shown[step.__name__] = p.tolist()
print(shown)
`;
}

export const part = {
  id: "surface", fields, compute, python,
  presets: [
    { name: "Ravine", values: {} },
    { name: "Ravine, rotated", values: { angle: 45 } },
    { name: "Saddle", values: startsAt("saddle") },
    { name: "Noisy bowl", values: { ...startsAt("bowl"), noise: 1, angle: 30 } },
    { name: "Rosenbrock", values: { ...startsAt("rosenbrock"), steps: 300 } },
    { name: "Beale", values: { ...startsAt("beale"), steps: 300 } },
    { name: "|x|⁴", values: startsAt("quartic") },
  ],
  groups: {
    "The surface": ["surface", "angle", "x", "y", "noise", "seed", "steps"],
    "RMSprop": RULE_KEYS.slice(0, 4),
    "+ Variants of RMSprop": RULE_KEYS.slice(4),
    "+ Other optimizers": NAMES.flatMap((name) => [name, `lr_${name}`]),
  },
  extras: (settings) => [profileList(settings)],
  view(settings) {
    part.picture = chartFigure("surface-picture", "", 440);
    part.losses = chartFigure("surface-losses", "Loss");
    part.rates = chartFigure("surface-rates", "RMSprop’s effective rates η/d");
    part.ground = new SurfaceView(part.picture, {
      moveStart: ([x, y]) => settings.set({ x: rounded(x), y: rounded(y) }),
      turn: (angle) => settings.set({ angle }),
    });
    settings.listeners.push((changes) => { // another surface has another start and other rates
      if (Object.keys(changes).length === 1 && changes.surface) settings.set(startsAt(changes.surface));
    });
    return [part.picture, h("div", { class: "player-place" }), h("div", { class: "pair" }, part.losses, part.rates)];
  },
  last: (result) => result.runs.rmsprop.path.length - 1,
  draw(result, s) {
    const { surface, prepared, runs } = result, names = Object.keys(runs), t = Math.min(s.t, s.steps);
    const series = names.map((name) => ({ name: title(name), style: name }));
    const anew = part.ground.ground(surface, prepared, { start: [s.x, s.y], angle: s.angle, names,
      label: `${surface.title}. ${part.summary(result, s)}` });
    if (anew || part.shown !== result) {
      part.picture.querySelector("figcaption").textContent = surface.turns
        ? "Drag the start, or the diamond to turn the surface" : "Drag the start";
      part.ground.load(runs);
      drawLegend(part.picture, series);
      this.drawCharts(result, s, t);
    }
    part.shown = result;
    part.ground.frame(t);
    for (const chart of part.charts) chart.moveCursor(Math.max(t, 0));
  },
  drawCharts({ runs, surface }, s, t) {
    const least = surface === SURFACES.saddle ? -0.25 : 0; // losses are shown above their minimum
    const x = { min: 0, max: s.steps, label: "step" }, losses = Object.values(runs).flatMap((run) => run.losses);
    const y = axisOf(losses.map((loss) => loss - least), { label: "loss − minimum", log: true });
    y.max = Math.min(y.max, (losses[0] - least) * 100);
    y.min = Math.max(y.min, y.max * 1e-12);
    const { rates } = runs.rmsprop;
    part.charts = [
      drawChart(part.losses, { label: "Loss of each optimizer over the steps", x, y, cursor: t, series: Object.entries(runs).map(
        ([name, run]) => ({ style: name, points: run.losses.map((loss, i) => [i, loss - least]) })) }),
      drawChart(part.rates, { label: "Effective rates of x and y over the steps", x, cursor: t,
        y: axisOf(rates.flat(), { label: "rate", log: true }), series: ["x", "y"].map((name, i) => ({ name, style: ["main", "second"][i],
          points: rates.map((both, n) => [n + 1, both[i]]) })) }),
    ];
  },
  summary({ runs }, s) {
    const words = Object.entries(runs).map(([name, run]) => {
      const at = arrival(run);
      return at <= s.steps ? `${title(name)} after ${at}` : `${title(name)} not in ${s.steps}`;
    });
    return `Steps until the loss is a hundredth of its start: ${words.join(", ")}. RMSprop ends at (${
      runs.rmsprop.path.at(-1).map((x) => short(x, 3)).join(", ")}).`;
  },
  numbers: ({ runs }) => Object.fromEntries(Object.entries(runs).map(([name, run]) => [name, run.path.at(-1)])),
  /** Whether RMSprop takes fewer, as many or more steps in the rotated ravine. */
  answer() {
    const rule = Rule({ lr: FIRST.rates.rmsprop, decay: 0.9 }), options = { start: FIRST.start, steps: 2000 };
    const [straight, turned] = [0, 45].map((angle) => arrival(race(rule, FIRST, FIRST.prepare(angle), options, {}).rmsprop));
    return turned > 1.1 * straight ? "more" : turned < straight / 1.1 ? "fewer" : "same";
  },
};
