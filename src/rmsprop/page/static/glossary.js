// Terms explain themselves when pointed at, focused or tapped. Escape hides the explanation.

import { h } from "./dom.js";

export function mountTerms() {
  const words = Object.fromEntries([...document.querySelectorAll("#glossary dt")].map(
    (term) => [term.dataset.term, term.nextElementSibling.textContent]));
  for (const term of document.querySelectorAll("dfn[data-term]")) {
    const tip = h("span", { class: "tip", role: "tooltip", id: `tip-${term.dataset.term}-${Math.floor(term.offsetTop)}` },
      words[term.dataset.term]);
    const button = h("button", { type: "button", class: "term", "aria-describedby": tip.id }, term.textContent);
    const holder = h("span", { class: "term-holder" }, button, tip), show = () => holder.classList.remove("dismissed");
    button.addEventListener("focus", show);
    holder.addEventListener("pointerenter", show);
    document.addEventListener("keydown", (event) => { if (event.key === "Escape") holder.classList.add("dismissed"); });
    term.replaceWith(holder);
  }
}
