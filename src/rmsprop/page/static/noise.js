// Numbers that look random and are the same in every browser and in Python: a hash of the seed and an index.

/** Hash 32 bits to 32 bits, one to one: lowbias32 of nullprogram.com/blog/2018/07/31/. */
export function hash(x) {
  x = Math.imul(x ^ (x >>> 16), 0x7feb352d);
  x = Math.imul(x ^ (x >>> 15), 0x846ca68b);
  return (x ^ (x >>> 16)) >>> 0;
}

/** Return a number of mean 0 and variance 1, nearly Gaussian: the sum of twelve uniform numbers, minus 6. */
export function gaussian(seed, index) {
  const key = hash(seed);
  let sum = 0;
  for (let k = 0; k < 12; k += 1) sum += hash((key + 12 * index + k) >>> 0) / 4294967296;
  return sum - 6;
}

/** `gaussian` in Python, for the snippets. */
export const PYTHON_GAUSSIAN = `\
def hashed(x):
    x = ((x ^ x >> 16) * 0x7FEB352D) & 0xFFFFFFFF
    x = ((x ^ x >> 15) * 0x846CA68B) & 0xFFFFFFFF
    return x ^ x >> 16


def gaussian(seed, index):
    key = hashed(seed)
    return sum(hashed((key + 12 * index + k) & 0xFFFFFFFF) / 2**32 for k in range(12)) - 6
`;
