// Controls of a part's settings: sliders with text boxes, check boxes, lists, presets and the player.

import { h, newId } from "./dom.js";

function numberControl(settings, key, field) {
  const id = newId(key), fault = h("p", { class: "fault", id: `${id}-fault`, hidden: true });
  const box = h("input", { id, class: "box", type: "text", inputmode: "decimal", autocomplete: "off",
    "aria-describedby": fault.id });
  const slider = h("input", { type: "range", min: 0, max: Math.max(field.stops.length - 1, 0), step: 1,
    "aria-label": `${field.label}, slider`, hidden: field.stops.length < 2 });
  const nearest = (value) => field.stops.reduce((best, stop, i) => (
    Math.abs(stop - value) < Math.abs(field.stops[best] - value) ? i : best), 0);
  slider.addEventListener("input", () => settings.set({ [key]: field.stops[Number(slider.value)] }));
  box.addEventListener("change", () => {
    try {
      settings.set({ [key]: field.parse(box.value.replace("−", "-")) });
    } catch (error) {
      fault.textContent = `${error.message}, not ${box.value.slice(0, 20) || "empty"}`;
      fault.hidden = false;
      box.setAttribute("aria-invalid", "true");
    }
  });
  const show = (value) => {
    box.value = String(value);
    box.removeAttribute("aria-invalid");
    fault.hidden = true;
    if (field.stops.length) {
      slider.value = nearest(value);
      slider.setAttribute("aria-valuetext", String(value));
    }
  };
  const control = h("div", { class: "control" }, h("label", { for: id }, field.label), box, slider, fault);
  return { control, show };
}

function flagControl(settings, key, field) {
  const box = h("input", { type: "checkbox", onchange: () => settings.set({ [key]: box.checked }) });
  const control = h("label", { class: "control flag" }, box, field.label);
  return { control, show: (value) => { box.checked = value; } };
}

function choiceControl(settings, key, field) {
  const id = newId(key);
  const list = h("select", { id, onchange: () => settings.set({ [key]: list.value }) },
    ...Object.entries(field.options).map(([value, label]) => h("option", { value }, label)));
  const control = h("div", { class: "control" }, h("label", { for: id }, field.label), list);
  return { control, show: (value) => { list.value = value; } };
}

const KINDS = { number: numberControl, flag: flagControl, choice: choiceControl };

/** Return a group of controls for the settings `keys`; it is folded if `legend` begins with +. */
export function controlsOf(settings, keys, legend) {
  const folded = legend.startsWith("+ "), title = legend.replace("+ ", "");
  const group = folded ? h("details", { class: "controls" }, h("summary", {}, title))
    : h("fieldset", { class: "controls" }, h("legend", {}, title));
  for (const key of keys) {
    const field = settings.fields[key], { control, show } = KINDS[field.kind](settings, key, field);
    control.dataset.key = key;
    group.append(control);
    show(settings.values[key]);
    settings.listeners.push((changes) => { if (key in changes) show(changes[key]); });
  }
  return group;
}

/** Return buttons that set all settings of a part at once: its initial values and those of the preset. */
export function presetsOf(settings, presets) {
  const buttons = presets.map(({ name, values }) => {
    const button = h("button", { type: "button", onclick: () => settings.set({ ...settings.initial(), ...values }) }, name);
    const show = () => button.setAttribute("aria-pressed", settings.equals(values));
    settings.listeners.push(show);
    show();
    return button;
  });
  return h("div", { class: "presets", role: "group", "aria-label": "Presets" }, ...buttons);
}

const STILL = window.matchMedia("(prefers-reduced-motion: reduce)");

const SECONDS = 6; // length of a film

/** Return the player of a part that has the setting `t`; `last()` is its last step, or another `unit`. */
export function playerOf(settings, last, unit = "step") {
  let frame = 0, started = 0, from = 0;
  const shown = () => Math.min(settings.values.t, last());
  const play = h("button", { type: "button", class: "play" }, "Play");
  const stop = () => {
    if (!frame) return;
    cancelAnimationFrame(frame);
    frame = 0;
    play.textContent = "Play";
    settings.set({ t: settings.values.t >= last() ? Infinity : settings.values.t });
  };
  const film = (now) => {
    started ||= now;
    const t = Math.min(from + Math.floor(((now - started) / 1000 / SECONDS) * last()), last());
    frame = requestAnimationFrame(film);
    if (t !== settings.values.t) settings.set({ t }, false);
    if (t >= last()) stop();
  };
  play.addEventListener("click", () => {
    if (frame) return stop();
    from = shown() >= last() ? 0 : shown();
    if (STILL.matches) return settings.set({ t: Infinity }); // no motion: the last step at once
    started = 0;
    play.textContent = "Pause";
    frame = requestAnimationFrame(film);
  });
  const go = (t) => {
    stop();
    settings.set({ t: t >= last() ? Infinity : Math.max(0, t) });
  };
  const scrub = h("input", { type: "range", min: 0, step: 1, "aria-label": "Step shown", oninput: () => go(Number(scrub.value)) });
  const count = h("span", { class: "count" });
  const player = h("div", { class: "player", role: "group", "aria-label": "Player" }, play,
    h("button", { type: "button", onclick: () => go(0) }, "To start"),
    h("button", { type: "button", onclick: () => go(shown() - 1), "aria-label": `One ${unit} back` }, "−1"),
    h("button", { type: "button", onclick: () => go(shown() + 1), "aria-label": `One ${unit} forward` }, "+1"), scrub, count);
  const show = () => {
    scrub.max = last();
    scrub.value = shown();
    count.textContent = `${unit} ${shown()} of ${last()}`;
    scrub.setAttribute("aria-valuetext", count.textContent);
  };
  settings.listeners.push((changes) => {
    if (frame && Object.keys(changes).some((key) => key !== "t")) [from, started] = [0, 0]; // another film
    show();
  });
  show();
  return player;
}
