// The noise of stochastic rounding: a hash of seed, parameter, step and element. Threads and instruction sets change no
// bit. rmsprop/torch/low_precision.py has the same hash in tensor operations.
#pragma once

#include <cstdint>

namespace {

// A bijection whose result looks random: "lowbias32" of https://nullprogram.com/blog/2018/07/31/.
inline std::uint32_t hash(std::uint32_t x) {
  x = (x ^ x >> 16) * 0x7feb352du;
  x = (x ^ x >> 15) * 0x846ca68bu;
  return x ^ x >> 16;
}

}  // namespace
