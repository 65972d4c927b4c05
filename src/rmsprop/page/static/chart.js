// Charts as SVG. They have the width of their holder; colours and dashes come from the style sheet.

import { h, short, svg } from "./dom.js";

const LEFT = 64, RIGHT = 12, TOP = 10, BOTTOM = 36;

/** Return about `count` round numbers between two ends. */
export function ticks(min, max, count = 5) {
  const rough = (max - min) / count, unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((x) => x * unit).find((x) => x >= rough);
  const found = [];
  for (let k = Math.ceil(min / step - 1e-9); k * step <= max + step * 1e-9; k += 1) found.push(k * step);
  return found;
}

/** Name a tick of a logarithmic axis. */
const nameOfPower = (at) => (at >= 0.01 && at < 1e4 ? short(at, 3) : at.toExponential(0).replace("+", "").replace("-", "−"));

function logTicks(min, max) {
  const first = Math.ceil(Math.log10(min) - 1e-9), last = Math.floor(Math.log10(max) + 1e-9);
  const every = Math.max(1, Math.ceil((last - first) / 5));
  const found = [];
  for (let k = first; k <= last; k += every) found.push(Number(`1e${k}`));
  if (found.length > 1) return found;
  const between = [];
  for (let k = first - 1; k <= last + 1; k += 1) between.push(...[1, 2, 5].map((digit) => Number(`${digit}e${k}`)));
  const inside = between.filter((x) => x >= min && x <= max);
  return inside.length ? inside : [min, max];
}

const named = (axis, at) => (axis.log ? nameOfPower(at) : short(at, 3));

/** Return a function from values to pixels. */
function scale({ min, max, log }, from, to) {
  const f = log ? Math.log10 : (x) => x, low = f(min), span = f(max) - low || 1;
  return (x) => from + ((f(x) - low) / span) * (to - from);
}

/** Return an axis from 0, or from the smallest number, to the largest; with `log`, of the numbers above 0. */
export function axisOf(values, { label, log = false, zero = false, least = 0 }) {
  const fit = values.filter((x) => Number.isFinite(x) && (!log || x > 0));
  if (!fit.length) return { label, log, min: log ? 0.1 : 0, max: 1 };
  let min = fit.reduce((a, b) => Math.min(a, b)), max = fit.reduce((a, b) => Math.max(a, b));
  if (log) return { label, log, min: Math.max(min, max * 1e-16) / 1.3, max: max * 1.3 };
  if (zero) [min, max] = [Math.min(min, 0), Math.max(max, 0)];
  const margin = Math.max((max - min) * 0.06, least, Math.abs(max) * 1e-6, 1e-12);
  return { label, log, min: min < 0 || !zero ? min - margin : 0, max: max + margin };
}

function path(points, x, y, axis) {
  let text = "", pen = "M";
  for (const [a, b] of points) {
    if (!Number.isFinite(b) || (axis.log && !(b > 0))) {
      pen = "M";
      continue;
    }
    text += `${pen}${x(a).toFixed(1)} ${y(b).toFixed(1)}`;
    pen = "L";
  }
  return text;
}

/**
 * Draw a chart into a figure, in place of the last one.
 *
 * `series` is a list of { name, style, points, bars }; `lines` are horizontal { at, name }; `cursor` is a vertical line.
 * Returns the functions from values to pixels, the SVG, its edges in pixels, and moveCursor.
 */
export function drawChart(figure, { label, x: xAxis, y: yAxis, series, lines = [], cursor = null, height = 220 }) {
  const width = Math.max(240, Math.round(figure.clientWidth));
  const x = scale(xAxis, LEFT, width - RIGHT), y = scale(yAxis, height - BOTTOM, TOP);
  const clip = `${figure.id}-clip`;
  const stops = xAxis.names?.map((name, i) => [i, name])
    ?? (xAxis.log ? logTicks : ticks)(xAxis.min, xAxis.max, width < 500 ? 4 : 8).map((at) => [at, named(xAxis, at)]);
  const grid = stops.map(([at, name]) => svg("g", {},
    svg("line", { class: "grid", x1: x(at), x2: x(at), y1: TOP, y2: height - BOTTOM }),
    svg("text", { class: "tick", x: x(at), y: height - BOTTOM + 15, "text-anchor": "middle" }, name)));
  const levels = (yAxis.log ? logTicks : ticks)(yAxis.min, yAxis.max, 4).map((at) => svg("g", {},
    svg("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(at), y2: y(at) }),
    svg("text", { class: "tick", x: LEFT - 6, y: y(at) + 4, "text-anchor": "end" }, named(yAxis, at))));
  const inside = lines.filter(({ at }) => at >= yAxis.min && at <= yAxis.max);
  const marks = inside.map(({ at }) => svg("line", { class: "mark", x1: LEFT, x2: width - RIGHT, y1: y(at), y2: y(at) }));
  const names = inside.map(({ at, name }) => svg("text", { class: "tick marked", x: width - RIGHT - 4, y: y(at) - 5,
    "text-anchor": "end" }, name)); // above the series
  const drawn = series.map(({ style, points, bars }) => {
    if (!bars) return svg("path", { class: `line ${style}`, d: path(points, x, y, yAxis) });
    const bar = Math.max(1, (x(1) - x(0)) * 0.6), base = y(Math.max(yAxis.min, 0));
    return svg("g", { class: `bars ${style}` }, ...points.filter(([, b]) => Number.isFinite(b)).map(([a, b]) => svg("rect", {
      x: (x(a) - bar / 2).toFixed(1), width: bar.toFixed(1),
      y: Math.min(base, y(b)).toFixed(1), height: Math.max(1, Math.abs(y(b) - base)).toFixed(1) })));
  });
  const shown = cursor === null ? [] : [svg("line", { class: "cursor", x1: x(cursor), x2: x(cursor), y1: TOP,
    y2: height - BOTTOM })];
  const image = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label, class: "chart" },
    svg("clipPath", { id: clip }, svg("rect", { x: LEFT, y: TOP - 4, width: width - RIGHT - LEFT,
      height: height - BOTTOM - TOP + 8 })),
    ...grid, ...levels, ...marks, svg("g", { "clip-path": `url(#${clip})` }, ...drawn, ...shown), ...names,
    svg("text", { class: "axis", x: (LEFT + width) / 2, y: height - 4, "text-anchor": "middle" }, xAxis.label),
    svg("text", { class: "axis", x: 0, y: 0, "text-anchor": "middle",
      transform: `translate(13 ${(height - BOTTOM + TOP) / 2}) rotate(-90)` }, yAxis.label));
  replaceImage(figure, image);
  drawLegend(figure, series.filter(({ name }) => name));
  const moveCursor = (at) => {
    for (const end of ["x1", "x2"]) shown[0].setAttribute(end, x(at).toFixed(1));
  };
  return { x, y, image, width, height, left: LEFT, right: width - RIGHT, moveCursor };
}

/** Put an SVG into a figure, in place of the last one. */
export function replaceImage(figure, image) {
  const old = figure.querySelector("svg.chart");
  if (old) old.replaceWith(image);
  else figure.querySelector("figcaption").after(image);
}

/** List the series under a chart, each with a piece of its line. */
export function drawLegend(figure, series) {
  let list = figure.querySelector("ul.legend");
  const names = series.map(({ name, style }) => `${name}/${style}`).join("|");
  if (list?.dataset.names === names) return;
  list?.remove();
  list = h("ul", { class: "legend" }, ...series.map(({ name, style, bars }) => h("li", {},
    svg("svg", { class: "swatch", viewBox: "0 0 28 10", "aria-hidden": "true" }, bars
      ? svg("g", { class: `bars ${style}` }, svg("rect", { x: 8, y: 0, width: 10, height: 10 }))
      : svg("path", { class: `line ${style}`, d: "M0 5H28" })), name)));
  list.dataset.names = names;
  figure.querySelector("svg.chart").after(list);
}

/** Return a figure with a title, to draw in. */
export function chartFigure(id, title, height = 220) {
  const figure = h("figure", { id, class: "chart-holder" }, h("figcaption", {}, title));
  figure.style.setProperty("--height", `${height}px`);
  return figure;
}
