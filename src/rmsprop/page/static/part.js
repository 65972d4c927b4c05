// A part of the page: its settings, presets, pictures, question, link and Python code, put into its section.

import { controlsOf, playerOf, presetsOf } from "./controls.js";
import { announce, copy, h } from "./dom.js";
import { mountQuestion } from "./question.js";
import { Settings } from "./settings.js";

/**
 * Fill the section of a part. A part has:
 * id, fields, presets, groups ({ legend: keys of controls }), view (elements), compute(values), draw(result, values),
 * summary(result, values), python(result, values), numbers(result, values), answer(), for a film last(result), and
 * `version` if compute depends on more than the values. The player stands last in the view, or at .player-place.
 */
export function mount(part) {
  const section = document.getElementById(part.id), stage = section.querySelector(".stage");
  const settings = new Settings(part.id, part.fields);
  const title = section.querySelector("h2").textContent;
  const summary = h("p", { class: "summary" }), code = h("pre", { tabindex: 0, role: "region",
    "aria-label": `Python code that reproduces the numbers of ${title}` });
  let key = null, result = null, waiting = 0;

  function computed() {
    const wanted = JSON.stringify([part.version, settings.changed().filter(([name]) => name !== `${part.id}.t`)]);
    if (wanted !== key) [key, result] = [wanted, part.compute(settings.values)];
    return result;
  }
  function render() {
    waiting = 0;
    part.draw(computed(), settings.values, settings);
    summary.textContent = part.summary(computed(), settings.values);
    if (details?.open) code.textContent = part.python(computed(), settings.values);
  }
  const later = () => { waiting ||= requestAnimationFrame(render); };

  const view = h("div", { class: "view" }, ...part.view(settings));
  if (part.last) {
    const player = playerOf(settings, () => part.last(computed()), part.unit);
    const place = view.querySelector(".player-place");
    if (place) place.replaceWith(player);
    else view.append(player);
  }
  const controls = Object.keys(part.groups).length === 0 ? null : h("form", { class: "settings", onsubmit: (event) => event.preventDefault() },
    ...Object.entries(part.groups).map(([legend, keys]) => controlsOf(settings, keys, legend)));
  for (const extra of part.extras?.(settings) ?? []) controls.append(extra);
  if (part.presets.length) stage.append(presetsOf(settings, part.presets));
  const details = part.python ? h("details", { class: "python", ontoggle: render }, h("summary", {}, "As Python"), code) : null;
  const tools = h("div", { class: "tools" }, h("button", { type: "button", class: "copy-link", onclick: async (event) => {
    document.dispatchEvent(new CustomEvent("address"));
    said(event.target, await copy(location.href));
  } }, "Copy link to this state"));
  if (details) {
    tools.append(h("button", { type: "button", class: "copy-python", onclick: async (event) => {
      said(event.target, await copy(part.python(computed(), settings.values)));
    } }, "Copy as Python"));
  }
  const shown = h("div", { class: "shown" }, view, summary, tools, details);
  stage.append(h("div", { class: controls ? "bench" : "" }, shown, controls));
  const question = section.querySelector(".question");
  if (question) mountQuestion(question, part.answer);

  settings.listeners.push((changes, byUser) => {
    later();
    if (byUser) announce(part.summary(computed(), settings.values));
  });
  new ResizeObserver(later).observe(stage); // the view has no box of its own on narrow screens
  render();
  const api = { settings, numbers: () => part.numbers(computed(), settings.values), section,
    python: () => part.python?.(computed(), settings.values), answer: part.answer };
  return api;
}

function said(button, done) {
  const text = button.dataset.text ??= button.textContent;
  button.textContent = done ? "Copied" : "The browser refused: select the code below";
  announce(button.textContent);
  setTimeout(() => { button.textContent = text; }, 1500);
}
