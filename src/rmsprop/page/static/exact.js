// Powers, exp and log of doubles, rounded to the nearest double, as the C library under Python rounds nearly all of them.
//
// Functions of JavaScript engines differ from the C library's in the last bit: powers of Node 20 in one of 13 cases.
// Here each result is computed as a sum of two doubles, hi + lo, with about 100 bits. Rounding it once gives the nearest
// double, in every browser.

const SPLIT = 134217729; // 2²⁷ + 1: splits a double into two halves of 26 bits

function twoSum(a, b) {
  const sum = a + b, part = sum - a;
  return [sum, (a - (sum - part)) + (b - part)];
}

function twoProduct(a, b) {
  const product = a * b, ca = SPLIT * a, cb = SPLIT * b;
  const aHi = ca - (ca - a), aLo = a - aHi, bHi = cb - (cb - b), bLo = b - bHi;
  return [product, ((aHi * bHi - product) + aHi * bLo + aLo * bHi) + aLo * bLo];
}

function multiply([a, al], [b, bl]) {
  const [hi, lo] = twoProduct(a, b);
  return twoSum(hi, lo + (a * bl + al * b));
}

function add([a, al], [b, bl]) {
  const [hi, lo] = twoSum(a, b);
  return twoSum(hi, lo + (al + bl));
}

function divide(x, y) {
  const first = x[0] / y[0];
  const rest = add(x, multiply([-first, 0], y));
  return twoSum(first, rest[0] / y[0]);
}

/** Return base to the power of a whole exponent ≥ 0. */
export function power(base, exponent) {
  const plain = Math.pow(base, exponent);
  if (!(Math.abs(plain) > 1e-280 && Math.abs(plain) < 1e280)) return plain; // lo would be below the smallest double
  let result = [1, 0], square = [base, 0];
  for (let n = exponent; n > 0; n = Math.floor(n / 2)) {
    if (n % 2 === 1) result = multiply(result, square);
    if (n > 1) square = multiply(square, square);
  }
  return result[0];
}

/** Return eˣ − 1 as hi + lo: the series of x/2ⁿ, then n times y ← y·(2 + y). */
function expm1Pair(x) {
  let halvings = 0;
  for (let size = Math.abs(x[0]); size > 1 / 64; size /= 2) halvings += 1;
  const scale = Math.pow(2, -halvings), small = [x[0] * scale, x[1] * scale];
  let term = small, sum = small;
  for (let n = 2; n < 16; n += 1) {
    term = divide(multiply(term, small), [n, 0]);
    sum = add(sum, term);
  }
  for (; halvings > 0; halvings -= 1) sum = multiply(sum, add([2, 0], sum));
  return sum;
}

function expPair(x) {
  if (x[0] >= 0) return add([1, 0], expm1Pair(x));
  return divide([1, 0], add([1, 0], expm1Pair([-x[0], -x[1]])));
}

export function exp(x) {
  if (!Number.isFinite(x) || Math.abs(x) > 600) return Math.exp(x);
  return expPair([x, 0])[0];
}

let lastArgument = NaN, lastLog = NaN; // β and μ stay the same from step to step

/** One Newton step from log x: the correction is x·e⁻ʸ − 1. */
export function log(x) {
  if (x !== lastArgument) [lastArgument, lastLog] = [x, computedLog(x)];
  return lastLog;
}

function computedLog(x) {
  if (!(x > 1e-280 && x < 1e280) || x === 1) return Math.log(x);
  const y = Math.log(x);
  const [hi, lo] = add(multiply([x, 0], expPair([-y, 0])), [-1, 0]);
  return y + (hi + lo - hi * hi / 2);
}
