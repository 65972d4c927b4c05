// Stochastic rounding of float to bfloat16 and to packed 8-bit state, and unpacking. Noise picks the neighbour above or
// below, with the probabilities that keep the mean. rmsprop/torch/low_precision.py has the same bits.
//
// Loops that compute have 32-bit numbers only, signed because some instruction sets compare no others. A loop of its own
// narrows the results to 16 or 8 bits: a loop with two widths fills only a part of each vector.
#pragma once

#include <algorithm>
#include <cstring>

#include "half.hpp"
#include "noise.hpp"
#include "sweep.hpp"

namespace {

using rmsprop::kBlock;
using rmsprop::kChunk;
using rmsprop::kPackedChunk;

constexpr std::int64_t kChunkBlocks = kPackedChunk / kBlock;
constexpr std::size_t blocks_of(std::int64_t n) { return static_cast<std::size_t>((n + kBlock - 1) / kBlock); }

constexpr std::int32_t kInfinity = 0x7f800000, kLargestBfloat16 = 0x7f7fffff;  // bits; the lower 16 are cut off

inline std::int32_t magnitude_bits(float x) { return static_cast<std::int32_t>(as_bits(x) & 0x7fffffffu); }

// Returns a bfloat16 in the upper 16 bits. `noise` has 16 bits. Finite numbers above the largest become the largest. A
// finite average stays finite.
inline std::uint32_t stochastic_bfloat16(float x, std::uint32_t noise) {
  std::int32_t magnitude = magnitude_bits(x), top = magnitude < kInfinity ? kLargestBfloat16 : kInfinity;
  std::int32_t sum = (magnitude < kInfinity ? magnitude : kInfinity) + static_cast<std::int32_t>(noise);
  std::int32_t rounded = (sum < top ? sum : top) | (magnitude > kInfinity ? 0x400000 : 0);
  return (as_bits(x) & 0x80000000u) | static_cast<std::uint32_t>(rounded);
}

// Rounds n numbers, at most kChunk. `key` includes the index of the first one in the array.
inline void round_bfloat16(const float* __restrict__ from, bfloat16* __restrict__ to, std::int64_t n,
                           std::uint32_t key) {
  alignas(64) std::uint32_t rounded[kChunk];
  for (std::int64_t i = 0; i < n; ++i) {
    rounded[i] = stochastic_bfloat16(from[i], hash16(key + static_cast<std::uint32_t>(i)));
  }
  for (std::int64_t i = 0; i < n; ++i) to[i].bits = static_cast<std::uint16_t>(rounded[i] >> 16);
}

// 8 bits: a block of numbers shares a power of two, stored as exponent + 127. A stored 255 makes the whole block NaN.
// A code has three bits of mantissa, and either five bits of exponent or a sign and four bits of exponent. The highest
// exponent stands for [1, 2), the lowest for subnormal numbers.

inline float power_of_two(int exponent) { return as_float(static_cast<std::uint32_t>(exponent + 127) << 23); }

// A power of two as two factors: 2⁻¹²⁷ is subnormal.
struct Scale {
  float first, second;
};
inline Scale scale_of(int exponent) { return {power_of_two(exponent >> 1), power_of_two(exponent - (exponent >> 1))}; }

template <bool has_sign>
struct Code {
  static constexpr std::int32_t top = has_sign ? 15 : 31;          // exponent of codes in [1, 2)
  static constexpr std::int32_t offset = (127 - top) << 3;         // from codes to the upper bits of a float
  static constexpr float normal = has_sign ? 0x1p-14f : 0x1p-30f;  // the smallest normal number
  static constexpr float quantum = normal / 8;
};

template <bool has_sign>
inline void decode(const std::int32_t* __restrict__ codes, Scale scale, float* __restrict__ to) {
  using C = Code<has_sign>;
  for (std::int32_t i = 0; i < kBlock; ++i) {
    std::int32_t k = has_sign ? codes[i] & 127 : codes[i];
    float normal = as_float(static_cast<std::uint32_t>(k + C::offset) << 20);
    float y = (k < 8 ? static_cast<float>(k) * C::quantum : normal) * scale.first * scale.second;
    to[i] = has_sign ? as_float(as_bits(y) | static_cast<std::uint32_t>(codes[i] & 128) << 24) : y;
  }
}

// `key` includes the index of the first element in the array.
template <bool has_sign>
inline void encode(const float* __restrict__ from, Scale scale, std::uint32_t key, std::int32_t* __restrict__ codes) {
  using C = Code<has_sign>;
  for (std::uint32_t i = 0; i < kBlock; ++i) {
    float x = has_sign ? as_float(as_bits(from[i]) & 0x7fffffffu) : from[i];  // square averages are never −0
    float y = x * scale.first * scale.second;
    auto noise = static_cast<std::int32_t>(hash(key + i) >> 12);
    // Codes with 20 bits behind the point, where noise may carry. `small` stays in the range of integers.
    float small = (y < C::normal ? y : C::normal) * (0x1p20f / C::quantum) + static_cast<float>(noise);
    std::int32_t normal = static_cast<std::int32_t>(as_bits(y)) + (noise - (C::offset << 20));
    std::int32_t k = (y < C::normal ? static_cast<std::int32_t>(small) : normal) >> 20;
    if (has_sign) {
      codes[i] = k | static_cast<std::int32_t>(as_bits(from[i]) >> 24 & 128u);
    } else {
      // v is 0 only where all gradients were 0. Rounding v up shortens a step; rounding v to 0 would lengthen it.
      auto least = static_cast<std::int32_t>((as_bits(x) + 0x7fffffffu) >> 31);  // 0 for 0, else 1
      codes[i] = k > least ? k : least;
    }
  }
}

// Returns the largest magnitude of a block, as bits.
inline std::int32_t largest_of(const float* x) {
  std::int32_t largest = 0;
  for (std::int32_t i = 0; i < kBlock; ++i) largest = std::max(largest, magnitude_bits(x[i]));
  return largest;
}

// Unpacks n elements, at most kPackedChunk, of an average of `size` elements, from `at` on, the start of a block. The
// loops run over a whole chunk, of a length that the compiler knows: `to` has room for it.
template <bool has_sign>
void unpack(const std::uint8_t* packed, std::int64_t size, std::int64_t at, std::int64_t n, float* to) {
  const std::uint8_t *bytes = packed + at, *exponents = packed + size + at / kBlock;
  std::uint8_t padded[kPackedChunk], padded_exponents[kChunkBlocks];
  if (n < kPackedChunk) {
    std::memset(padded, 0, sizeof padded);
    std::memset(padded_exponents, 0, sizeof padded_exponents);
    bytes = static_cast<std::uint8_t*>(std::memcpy(padded, bytes, static_cast<std::size_t>(n)));
    exponents = static_cast<std::uint8_t*>(std::memcpy(padded_exponents, exponents, blocks_of(n)));
  }
  alignas(64) std::int32_t codes[kPackedChunk];
  for (std::int64_t i = 0; i < kPackedChunk; ++i) codes[i] = bytes[i];
  for (std::int64_t b = 0; b < kChunkBlocks; ++b) {
    Scale scale = scale_of(exponents[b] - 127);
    if (exponents[b] == 255) scale.first = as_float(0x7fc00000u);
    decode<has_sign>(codes + b * kBlock, scale, to + b * kBlock);
  }
}

// Packs n elements, at most kPackedChunk, into an average of `size` elements, from `at` on, the start of a block. `from`
// has room for a whole chunk. The scales of all blocks come first: then no code waits for the maximum of its block.
template <bool has_sign>
void pack(float* from, std::uint8_t* packed, std::int64_t size, std::int64_t at, std::int64_t n, std::uint32_t key) {
  constexpr float kLargest = 0x1.ep127f;  // the largest number that a block can hold
  alignas(64) float limited[kPackedChunk];
  alignas(64) std::int32_t codes[kPackedChunk];
  std::uint8_t bytes[kPackedChunk], exponents[kChunkBlocks];
  Scale scales[kChunkBlocks];
  bool too_large = false;
  if (n < kPackedChunk) std::fill(from + n, from + kPackedChunk, 0.0f);
  for (std::int64_t b = 0; b < kChunkBlocks; ++b) {
    std::int32_t largest = largest_of(from + b * kBlock);
    // Mantissas above 1.875 take the next power of two, so that rounding up stays in range.
    std::int32_t shared = std::min((std::min(largest, kInfinity) + (1 << 20) - 1) >> 23, 254);
    scales[b] = scale_of(127 - shared);
    exponents[b] = static_cast<std::uint8_t>(largest < kInfinity ? shared : 255);
    too_large |= largest > static_cast<std::int32_t>(as_bits(kLargest));
  }
  for (std::int64_t i = 0; too_large && i < kPackedChunk; ++i) {
    limited[i] = exponents[i / kBlock] == 255 ? 0 : std::max(-kLargest, std::min(from[i], kLargest));
  }
  const float* numbers = too_large ? limited : from;
  for (std::int64_t b = 0; b < kChunkBlocks; ++b) {
    auto index = static_cast<std::uint32_t>(at + b * kBlock);
    encode<has_sign>(numbers + b * kBlock, scales[b], key + index, codes + b * kBlock);
  }
  for (std::int64_t i = 0; i < kPackedChunk; ++i) bytes[i] = static_cast<std::uint8_t>(codes[i]);
  std::memcpy(packed + at, bytes, static_cast<std::size_t>(n));
  std::memcpy(packed + size + at / kBlock, exponents, blocks_of(n));
}

}  // namespace
