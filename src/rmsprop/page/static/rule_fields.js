// The settings of a whole rule, and the profiles of libraries.

import { h, newId } from "./dom.js";
import { decay, eps, flag, momentum, rate, start } from "./fields.js";
import { Rule } from "./rule.js";

export const ruleFields = (initial = {}) => ({
  eta: rate(initial.eta ?? 0.01), beta: decay(initial.beta ?? 0.9), eps: eps(initial.eps ?? 1e-8),
  mu: momentum(initial.mu ?? 0), v0: start(), inside: flag("ε inside the root"), correction: flag("Bias correction"),
  centered: flag("Centered"), nesterov: flag("Nesterov, with momentum"), lr_in: flag("η inside the momentum buffer"),
});
export const RULE_KEYS = Object.keys(ruleFields());

export const ruleOf = (s) => Rule({
  lr: s.eta, decay: s.beta, eps: s.eps, momentum: s.mu, initial_square_avg: s.v0, eps_inside_sqrt: s.inside,
  bias_correction: s.correction, centered: s.centered, nesterov: s.nesterov && s.mu > 0, lr_in_momentum: s.lr_in,
});

const settingsOf = (f) => ({
  beta: f.decay, eps: f.eps, mu: f.momentum, v0: f.initial_square_avg, inside: f.eps_inside_sqrt,
  correction: f.bias_correction, centered: f.centered, nesterov: f.nesterov, lr_in: f.lr_in_momentum,
});

/** Return a list that sets the fields of a library's or paper's rule; it shows whose rule the settings are. */
export function profileList(settings) {
  const all = JSON.parse(document.getElementById("data-profiles").textContent);
  const fitting = Object.entries(all).filter(([, { fields }]) => !fields.first_moment && !fields.amsgrad);
  const id = newId("profile");
  const list = h("select", { id, onchange: () => {
    if (all[list.value]) settings.set(settingsOf(all[list.value].fields));
  } }, h("option", { value: "" }, "your own"), ...fitting.map(([name, { title }]) => h("option", { value: name },
    `${name}: ${title}`)));
  const show = () => {
    const match = fitting.find(([, { fields }]) => Object.entries(settingsOf(fields)).every(
      ([key, value]) => settings.values[key] === value));
    list.value = match ? match[0] : "";
  };
  settings.listeners.push(show);
  show();
  return h("div", { class: "control profile" }, h("label", { for: id }, "Profile: the rule of"), list);
}
