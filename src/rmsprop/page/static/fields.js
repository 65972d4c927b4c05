// The settings of a part: what each may be, as text in a link and as a value.

/** A setting that is a number. `stops` are the values that its slider offers; its text box takes any in the range. */
export function number(label, initial, { min = 0, max = Infinity, below = false, whole = false, stops = [] } = {}) {
  const range = max === Infinity ? `at least ${min}` : `from ${min} to ${below ? "below " : ""}${max}`;
  const allowed = `a ${whole ? "whole " : ""}number ${range}`;
  return {
    kind: "number", label, initial, stops, allowed, whole, text: String,
    parse(text) {
      const value = text.trim() === "" ? NaN : Number(text);
      const inside = value >= min && (below ? value < max : value <= max) && Number.isFinite(value);
      if (!inside || (whole && !Number.isInteger(value))) throw new RangeError(`${label} must be ${allowed}`);
      return value;
    },
  };
}

export function flag(label, initial = false) {
  return {
    kind: "flag", label, initial, allowed: "0 or 1", text: (value) => (value ? "1" : "0"),
    parse(text) {
      if (text !== "0" && text !== "1") throw new RangeError(`${label} must be 0 or 1`);
      return text === "1";
    },
  };
}

/** A setting that is one of `options`, { value: label }. */
export function choice(label, initial, options) {
  const allowed = `one of ${Object.keys(options).join(", ")}`;
  return {
    kind: "choice", label, initial, options, allowed, text: String,
    parse(text) {
      if (!Object.hasOwn(options, text)) throw new RangeError(`${label} must be ${allowed}`);
      return text;
    },
  };
}

/** A setting without a control of its own: `least` to `most` numbers. In a link, runs of equal numbers are `x*count`. */
export function numbers(label, initial, { least = 1, most = 200, limit = 1e6 } = {}) {
  const allowed = `${least} to ${most} numbers of size ${limit} or less`;
  return {
    kind: "numbers", label, initial, allowed,
    text(values) {
      const runs = [];
      for (const x of values) {
        if (runs.length && Object.is(runs.at(-1)[0], x)) runs.at(-1)[1] += 1;
        else runs.push([x, 1]);
      }
      return runs.map(([x, count]) => (count > 1 ? `${x}*${count}` : `${x}`)).join("_");
    },
    parse(text) {
      const values = [];
      for (const run of text.split("_")) {
        const [x, count = "1", ...rest] = run.split("*");
        const value = x.trim() === "" ? NaN : Number(x), times = Number(count);
        const fits = Math.abs(value) <= limit && Number.isInteger(times) && times > 0 && times <= most && !rest.length;
        if (!fits || values.length + times > most) throw new RangeError(`${label} must be ${allowed}`);
        values.push(...new Array(times).fill(value));
      }
      if (values.length < least) throw new RangeError(`${label} must be ${allowed}`);
      return values;
    },
  };
}

/** The step that is shown: `end` is the last one. */
export function shownStep() {
  return {
    kind: "step", label: "Step shown", initial: Infinity, allowed: "a whole number, or end",
    text: (value) => (value === Infinity ? "end" : String(value)),
    parse(text) {
      const value = text === "end" ? Infinity : Number(text || "x");
      if (!(value >= 0) || (value !== Infinity && !Number.isInteger(value))) {
        throw new RangeError("the step must be a whole number, or end");
      }
      return value;
    },
  };
}

/** Values from `first` to `last` in steps of 1, 2 and 5. */
export function stops125(first, last) {
  const found = [];
  for (let exponent = -12; exponent <= 12; exponent += 1) {
    for (const digit of [1, 2, 5]) {
      const value = Number(`${digit}e${exponent}`);
      if (value >= first && value <= last) found.push(value);
    }
  }
  return found;
}

const DECAYS = [0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999];
export const decay = (initial, stops = DECAYS) => number("Decay β", initial, { max: 1, below: true, stops });
export const rate = (initial, stops = stops125(1e-4, 10), label = "Learning rate η") => number(label, initial, { stops });
export const eps = (initial, stops = [0, 1e-8, 1e-6, 1e-4, 1e-2, 0.1, 1, 10]) => number("ε", initial, { stops });
export const momentum = (initial, label = "Momentum μ") =>
  number(label, initial, { max: 1, below: true, stops: [0, 0.5, 0.8, 0.9, 0.95, 0.99] });
export const start = () => number("Start of v, v₀", 0, { stops: [0, 0.01, 0.1, 1, 10] });
