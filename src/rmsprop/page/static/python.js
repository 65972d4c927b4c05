// Python code that reproduces what a part shows. Doubles are written with all digits they need.

import { DEFAULTS } from "./rule.js";

/** Return a number, boolean, text or list of these as Python code. */
export function py(value) {
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value === "string") return JSON.stringify(value);
  if (Array.isArray(value)) return `[${value.map(py).join(", ")}]`;
  if (Object.is(value, -0)) return "-0.0";
  return Number.isInteger(value) && Math.abs(value) < 1e16 ? value.toFixed(1) : String(value);
}

/** Return a rule as Python code: lr, and the fields that differ from PyTorch's defaults. */
export function pyRule(rule) {
  const fields = Object.keys(DEFAULTS).filter((name) => name === "lr" || rule[name] !== DEFAULTS[name]);
  return `Rule(${fields.map((name) => `${name}=${py(rule[name])}`).join(", ")})`;
}

/** Return a list of numbers as Python code: runs of equal numbers are written as products. */
export function pyList(values) {
  const runs = [];
  for (const x of values) {
    if (runs.length && Object.is(runs.at(-1)[0], x)) runs.at(-1)[1] += 1;
    else runs.push([x, 1]);
  }
  if (runs.length > values.length / 2) return py(values);
  return runs.map(([x, n]) => `[${py(x)}]${n > 1 ? ` * ${n}` : ""}`).join(" + ");
}
