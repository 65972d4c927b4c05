// The page: its parts, the address that restores their state, and terms that explain themselves.

import { announce } from "./dom.js";
import { mountTerms } from "./glossary.js";
import { mount } from "./part.js";
import { PARTS } from "./parts.js";
import { fragment, restore } from "./settings.js";

const parts = PARTS.map(mount), all = parts.map((part) => part.settings);
const notice = document.getElementById("notice");
let current = all[0].id, waiting = 0;

function write() {
  clearTimeout(waiting);
  waiting = 0;
  history.replaceState(null, "", fragment(all, current));
}

/** Follow the address. One without settings, such as that of a heading, leaves the settings as they are. */
function read() {
  const text = location.hash;
  if (text.includes("?")) {
    const faults = restore(all, text);
    notice.hidden = !faults.length;
    notice.textContent = faults.length ? `In this link, ${faults.join("; ")}. The initial value is shown instead.` : "";
  }
  const id = text.slice(1).split("?")[0], wanted = document.getElementById(id);
  if (!wanted) return;
  if (all.some((settings) => settings.id === id)) current = id;
  wanted.closest("details")?.setAttribute("open", "");
  wanted.scrollIntoView();
  if (!text.includes("?")) write();
}

for (const settings of all) {
  settings.listeners.push((changes, byUser) => {
    if (!byUser) return;
    current = settings.id;
    clearTimeout(waiting);
    waiting = setTimeout(write, 200);
  });
}
document.addEventListener("address", write);
window.addEventListener("hashchange", read);
mountTerms();
read();
globalThis.rmsprop = Object.fromEntries(parts.map((part) => [part.settings.id, part])); // for tests and the curious
document.documentElement.dataset.ready = "true";
announce("");
