// Terms explain themselves when pointed at, focused or tapped.

import { h } from "./dom.js";

export function mountTerms() {
  const words = Object.fromEntries([...document.querySelectorAll("#glossary dt")].map(
    (term) => [term.dataset.term, term.nextElementSibling.textContent]));
  for (const term of document.querySelectorAll("dfn[data-term]")) {
    const tip = h("span", { class: "tip", role: "tooltip", id: `tip-${term.dataset.term}-${Math.floor(term.offsetTop)}` },
      words[term.dataset.term]);
    const button = h("button", { type: "button", class: "term", "aria-describedby": tip.id }, term.textContent);
    button.addEventListener("keydown", (event) => { if (event.key === "Escape") button.blur(); });
    term.replaceWith(h("span", { class: "term-holder" }, button, tip));
  }
}
