// The picture of a surface: lines of equal height, paths, and handles to drag.

import { contours } from "../contours.js";
import { replaceImage } from "../chart.js";
import { svg } from "../dom.js";

/** Return the text of a path that grows by a piece per step, clipped to numbers that a picture can hold. */
function pieces(path, pixel) {
  return path.map((point, i) => {
    const [x, y] = pixel(point).map((a) => Math.max(-1e4, Math.min(1e4, a)));
    return `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`;
  });
}

export class SurfaceView {
  /** `figure` holds the picture; `moveStart` and `turn` are called with the point and the angle that a reader drags. */
  constructor(figure, { moveStart, turn }) {
    Object.assign(this, { figure, moveStart, turn, key: "" });
    figure.classList.add("ground");
  }

  /** Draw the ground and the handles, unless they are there already. Without `start` there is no handle. */
  ground(surface, prepared, { start, angle, names, label }) {
    const width = Math.max(260, Math.round(this.figure.clientWidth));
    const height = Math.round(Math.min(width * (width < 500 ? 0.8 : 0.62), 440));
    const [left, right, bottom, top] = surface.box, unit = Math.min(width / (right - left), height / (top - bottom));
    const middle = [(left + right) / 2, (bottom + top) / 2];
    const box = [middle[0] - width / 2 / unit, middle[0] + width / 2 / unit, middle[1] - height / 2 / unit,
      middle[1] + height / 2 / unit];
    this.pixel = ([x, y]) => [(x - box[0]) * unit, height - (y - box[2]) * unit];
    const key = JSON.stringify([surface.title, angle, width, start, names]);
    if (key === this.key) return false;
    this.key = key;
    const point = (event) => {
      const frame = this.image.getBoundingClientRect(), scale = width / frame.width;
      return [box[0] + (event.clientX - frame.left) * scale / unit, box[2] + (height - (event.clientY - frame.top) * scale) / unit];
    };
    const lines = contours((p) => surface.value(p, prepared), box, this.pixel).map((d) => svg("path", { class: "contour", d }));
    this.paths = Object.fromEntries(names.map((name) => [name, svg("path", { class: `line ${name}` })]));
    this.dots = Object.fromEntries(names.map((name) => [name, svg("circle", { class: `dot ${name}`, r: 5 })]));
    const handles = [];
    if (start) {
      const [x, y] = this.pixel(start);
      handles.push(this.dragged(svg("circle", { class: "handle", cx: x, cy: y, r: 11, tabindex: 0, role: "slider",
        "aria-label": "Start; arrow keys move it", "aria-valuetext": `x ${start[0]}, y ${start[1]}`, "aria-valuenow": start[0] }),
      (event) => this.moveStart(point(event)), (dx, dy) => this.moveStart([start[0] + dx * 0.1, start[1] + dy * 0.1])));
    }
    if (surface.turns) {
      const radius = height / 2 - 16, radians = angle * Math.PI / 180, [cx, cy] = [width / 2, height / 2];
      const end = [cx + Math.cos(radians) * radius, cy - Math.sin(radians) * radius];
      handles.unshift(svg("line", { class: "axis-line", x1: 2 * cx - end[0], y1: 2 * cy - end[1], x2: end[0], y2: end[1] }),
        this.dragged(svg("polygon", { class: "handle turn", points: [[0, -12], [12, 0], [0, 12], [-12, 0]].map(
          ([dx, dy]) => `${end[0] + dx},${end[1] + dy}`).join(" "), tabindex: 0, role: "slider",
          "aria-label": "Angle of the ravine", "aria-valuenow": angle, "aria-valuemin": 0, "aria-valuemax": 90 }), (event) => {
          const [px, py] = point(event), [mx, my] = middle;
          this.turn(Math.max(0, Math.min(90, Math.round(Math.atan2(py - my, px - mx) * 180 / Math.PI))));
        }, (dx, dy) => this.turn(Math.max(0, Math.min(90, angle + 5 * (dx + dy))))));
    }
    const focused = this.image?.contains(document.activeElement) ? document.activeElement.getAttribute("class") : null;
    this.image = svg("svg", { class: "chart surface", viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": label },
      svg("rect", { class: "floor", x: 0.5, y: 0.5, width: width - 1, height: height - 1, rx: 6 }), ...lines,
      ...Object.values(this.paths), ...Object.values(this.dots), ...handles);
    replaceImage(this.figure, this.image);
    if (focused) this.image.querySelector(`[class="${focused}"]`)?.focus();
    return true;
  }

  /** Make an element drag and answer to arrow keys. */
  dragged(element, move, key) {
    element.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      element.focus();
      // The picture is drawn anew while it is dragged, so the document listens.
      const follow = (next) => move(next), end = () => {
        document.removeEventListener("pointermove", follow);
        document.removeEventListener("pointerup", end);
        document.removeEventListener("pointercancel", end);
      };
      document.addEventListener("pointermove", follow);
      document.addEventListener("pointerup", end);
      document.addEventListener("pointercancel", end);
    });
    element.addEventListener("keydown", (event) => {
      const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
      if (!ways[event.key]) return;
      event.preventDefault();
      key(...ways[event.key]);
    });
    return element;
  }

  /** Keep the runs to draw. */
  load(runs) {
    this.runs = Object.fromEntries(Object.entries(runs).map(([name, { path }]) => [name, pieces(path, this.pixel)]));
    this.points = runs;
  }

  /** Draw the paths up to step t. */
  frame(t) {
    for (const [name, texts] of Object.entries(this.runs)) {
      this.paths[name].setAttribute("d", texts.slice(0, t + 1).join(""));
      const path = this.points[name].path, [x, y] = this.pixel(path[Math.min(t, path.length - 1)]);
      this.dots[name].setAttribute("cx", Math.max(-1e4, Math.min(1e4, x)).toFixed(1));
      this.dots[name].setAttribute("cy", Math.max(-1e4, Math.min(1e4, y)).toFixed(1));
    }
  }
}
