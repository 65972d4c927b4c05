// Averages in fewer bits, as `rmsprop.torch` stores them: bfloat16, and eight bits with an exponent per 32 numbers.
//
// The noise of stochastic rounding is a hash of the seed, the parameter's index, the step and the element. So the bits
// are those of the kernel.

import { step32 } from "./float32.js";
import { hash } from "./noise.js";

const AVERAGES = ["square_avg", "grad_avg", "momentum_buffer", "max_square_avg"];
const BLOCK = 32, LARGEST = 0x7f7f;
const BIAS = { false: 31, true: 15 }; // biased exponent of [1, 2), by whether the code has a sign
const KAPPAS = { float32: 2 ** -21, "bfloat16-nearest": 2 ** -5, bfloat16: 2 ** -5, uint8: 2 ** -1 };
export const FORMATS = Object.keys(KAPPAS);

const floats = new Float32Array(1), integers = new Int32Array(floats.buffer);

function bitsOf(x) {
  floats[0] = x;
  return integers[0];
}

function ofBits(bits) {
  integers[0] = bits;
  return floats[0];
}

/** Return the noise keys of the averages, by name. */
export function noiseKeys(seed, index, step) {
  const key = hash((hash((hash(seed) ^ index) >>> 0) ^ step) >>> 0);
  return Object.fromEntries(AVERAGES.map((name, i) => [name, hash((key + i + 1) >>> 0)]));
}

function bfloat16(x, noise) {
  if (!Number.isFinite(x)) return x;
  const magnitude = Math.min(bitsOf(Math.abs(x)), 0x7f7fffff);
  const rounded = ofBits(Math.min((magnitude + noise) >>> 16, LARGEST) << 16);
  return x < 0 || Object.is(x, -0) ? -rounded : rounded;
}

/** Round a float32 to bfloat16 by the noise of `key` at `element`. */
export function roundStochastically(x, key, element) {
  return bfloat16(x, hash((element + key) >>> 0) >>> 16);
}

/** Round a float32 to the nearest bfloat16, ties to even. */
export function roundToNearest(x) {
  return bfloat16(x, 0x7fff + ((bitsOf(Math.abs(x)) >>> 16) & 1));
}

function format(signed) {
  const normal = 2 ** (1 - BIAS[signed]);
  return { normal, quantum: normal / 8, offset: (127 - BIAS[signed]) << 3 };
}

/** Return the codes of `numbers` in eight bits and the exponent of each block; `key` null rounds to nearest. */
export function pack(numbers, signed, key) {
  const { normal, quantum, offset } = format(signed), f = Math.fround;
  const codes = [], exponents = [];
  for (let start = 0; start < numbers.length; start += BLOCK) {
    const block = numbers.slice(start, start + BLOCK);
    const largest = Math.max(...block.map((x) => bitsOf(Math.abs(x))));
    const shared = largest >= 0x7f800000 ? 255 : Math.min((largest + (1 << 20) - 1) >> 23, 254);
    const exponent = Math.min(shared, 254) - 127, half = exponent >> 1;
    block.forEach((x, i) => {
      const y = f(f(Math.abs(x) * 2 ** -half) * 2 ** (half - exponent));
      const noise = key === null ? 1 << 19 : hash((start + i + key) >>> 0) >>> 12;
      const small = Math.trunc(f(f((Math.min(y, normal) || 0) * (1 / quantum)) + noise * 2 ** -20));
      const large = ((Math.min(bitsOf(y), 0x7f800000) + noise) >> 20) - offset;
      let code = Math.min(y < normal ? small : large, (BIAS[signed] << 3) | 7);
      if (signed) code |= (x < 0 || Object.is(x, -0) ? 1 : 0) << 7;
      else code = Math.max(code, x !== 0 ? 1 : 0); // otherwise the step would divide by ε alone
      codes.push(shared === 255 ? 0 : code);
    });
    exponents.push(shared);
  }
  return { codes, exponents };
}

/** Return the numbers of packed codes. */
export function unpack({ codes, exponents }, signed) {
  const { quantum, offset } = format(signed), f = Math.fround;
  return codes.map((code, i) => {
    const shared = exponents[Math.floor(i / BLOCK)];
    if (shared === 255) return NaN;
    const k = signed ? code & 127 : code, half = (shared - 127) >> 1;
    const y = k < 8 ? k * quantum : ofBits((k + offset) << 20);
    const x = f(f(y * 2 ** half) * 2 ** (shared - 127 - half));
    return signed && code > 127 ? -x : x;
  });
}

function stored(numbers, name, kind, key) {
  if (kind === "bfloat16") return numbers.map((x, i) => roundStochastically(x, key, i));
  if (kind === "bfloat16-nearest") return numbers.map(roundToNearest);
  const signed = name !== "square_avg";
  return kind === "uint8" ? unpack(pack(numbers, signed, key), signed) : numbers;
}

/** Return the averages before the first step of `count` numbers. */
export function initial(rule, kind, count) {
  const start = stored([Math.fround(rule.initial_square_avg)], "square_avg", kind === "uint8" ? "uint8" : "float32", null);
  const full = (x) => new Array(count).fill(x);
  return { square_avg: full(kind === "bfloat16" ? roundToNearest(start[0]) : start[0]), grad_avg: full(0),
    momentum_buffer: full(0) };
}

/** Step an array of parameters, and store the averages in the format `kind`. Averages are float32 numbers. */
export function stepStored(rule, t, params, grads, averages, kind, seed = 1, index = 0) {
  const names = ["square_avg", ...(rule.centered ? ["grad_avg"] : []), ...(rule.momentum ? ["momentum_buffer"] : [])];
  const results = params.map((p, i) => step32(rule, t, p, grads[i], {
    square_avg: averages.square_avg[i], grad_avg: averages.grad_avg[i], momentum_buffer: averages.momentum_buffer[i],
  }, KAPPAS[kind]));
  const keys = noiseKeys(seed, index, t), after = { ...averages };
  for (const name of names) after[name] = stored(results.map((x) => x.averages[name]), name, kind, keys[name]);
  return { params: results.map((x) => x.p), averages: after };
}
