// The noise of stochastic rounding: a hash of seed, parameter, step and element. Threads and instruction sets change no
// bit. rmsprop/torch/low_precision.py has the same hash in tensor operations.
#pragma once

#include <cstdint>

namespace {

// A bijection whose result looks random: "lowbias32" of https://nullprogram.com/blog/2018/07/31/. The last operation of
// hash() leaves the upper 16 bits as they are: hash16() returns these without it.
inline std::uint32_t mix(std::uint32_t x) {
  x = (x ^ x >> 16) * 0x7feb352du;
  return (x ^ x >> 15) * 0x846ca68bu;
}

inline std::uint32_t hash(std::uint32_t x) {
  x = mix(x);
  return x ^ x >> 16;
}

inline std::uint32_t hash16(std::uint32_t x) { return mix(x) >> 16; }

}  // namespace
