// A question to answer before trying. The right answer is computed by the rule when the reader asks for it.

import { announce } from "./dom.js";

/** Make the question in `box` work; `answer()` returns the value of the right choice. */
export function mountQuestion(box, answer) {
  const verdict = box.querySelector(".verdict"), explanation = box.querySelector(".explanation");
  explanation.hidden = true;
  box.querySelector("button").addEventListener("click", () => {
    const chosen = box.querySelector("input:checked");
    const right = box.querySelector(`input[value="${answer()}"]`);
    explanation.hidden = !chosen;
    verdict.textContent = !chosen ? "Choose an answer first."
      : chosen === right ? "Right." : `The answer is: ${right.parentElement.textContent.trim()}`;
    announce(`${verdict.textContent} ${chosen ? explanation.textContent : ""}`);
  });
}
