// Stochastic rounding of float to bfloat16 and to packed 8-bit state, and unpacking. Noise picks the neighbour above or
// below, with the probabilities that keep the mean. rmsprop/torch/low_precision.py has the same bits.
#pragma once

#include <algorithm>
#include <type_traits>

#include "half.hpp"
#include "noise.hpp"
#include "sweep.hpp"

namespace {

using rmsprop::kBlock;

// bfloat16: finite numbers above the largest become the largest. A finite average stays finite.
inline std::uint16_t stochastic_bfloat16(float x, std::uint32_t noise) {
  std::uint32_t f = as_bits(x), sign = f >> 16 & 0x8000u, magnitude = f & 0x7fffffffu;
  std::uint32_t rounded = (magnitude + (noise >> 16)) >> 16;
  rounded = rounded > 0x7f7fu ? 0x7f7fu : rounded;
  rounded = magnitude > 0x7f800000u ? 0x7fc0u : magnitude == 0x7f800000u ? 0x7f80u : rounded;
  return static_cast<std::uint16_t>(sign | rounded);
}

// 8 bits: a block of numbers shares a power of two, stored as exponent + 127. A stored 255 makes the whole block NaN.
// A code has three bits of mantissa, and either five bits of exponent or a sign and four bits of exponent. The highest
// exponent stands for [1, 2), the lowest for subnormal numbers.

inline float power_of_two(int exponent) { return as_float(static_cast<std::uint32_t>(exponent + 127) << 23); }

template <bool has_sign>
struct Code {
  static constexpr std::uint32_t top = has_sign ? 15 : 31;             // exponent of codes in [1, 2)
  static constexpr std::uint32_t largest = top << 3 | 7, offset = (127 - top) << 3;
  static constexpr float normal = has_sign ? 0x1p-14f : 0x1p-30f;      // the smallest normal number
  static constexpr float quantum = normal / 8;
};

// The size of a whole block, known to the compiler. The last block may be smaller: its size is an integer.
using Whole = std::integral_constant<std::int64_t, kBlock>;

template <bool has_sign, class Size>
inline void unpack(const std::uint8_t* __restrict__ codes, std::uint8_t exponent, float* __restrict__ to, Size n) {
  using C = Code<has_sign>;
  int e = exponent - 127, half = e >> 1;  // two factors, because 2⁻¹²⁷ is subnormal
  float first = exponent == 255 ? as_float(0x7fc00000u) : power_of_two(half), second = power_of_two(e - half);
  for (std::int64_t i = 0; i < n; ++i) {
    std::uint32_t c = codes[i], k = has_sign ? c & 127u : c;
    float y = k < 8 ? static_cast<float>(static_cast<std::int32_t>(k)) * C::quantum : as_float((k + C::offset) << 20);
    y = y * first * second;
    to[i] = has_sign ? as_float(as_bits(y) | (c & 128u) << 24) : y;
  }
}

// `index` is the index of the first element in the array. The noise depends on it.
template <bool has_sign, class Size>
inline void pack(const float* __restrict__ from, std::uint8_t* __restrict__ codes, std::uint8_t* exponent, Size n,
                 std::uint32_t key, std::uint32_t index) {
  using C = Code<has_sign>;
  std::uint32_t most = 0;
  for (std::int64_t i = 0; i < n; ++i) most = std::max(most, as_bits(from[i]) & 0x7fffffffu);
  // Mantissas above 1.875 take the next power of two, so that rounding up stays in range.
  std::uint32_t shared = most >= 0x7f800000u ? 255u : std::min((most + (1u << 20) - 1) >> 23, 254u);
  *exponent = static_cast<std::uint8_t>(shared);
  int e = static_cast<int>(std::min(shared, 254u)) - 127, half = e >> 1;
  float first = power_of_two(-half), second = power_of_two(half - e);
  for (std::int64_t i = 0; i < n; ++i) {
    std::uint32_t noise = hash(key + index + static_cast<std::uint32_t>(i)) >> 12, bits = as_bits(from[i]);
    float y = as_float(bits & 0x7fffffffu) * first * second;
    float r = static_cast<float>(static_cast<std::int32_t>(noise)) * 0x1p-20f;
    float subnormal = (y < C::normal ? y : C::normal) * (1 / C::quantum);  // never NaN, which no integer can hold
    std::uint32_t small = static_cast<std::uint32_t>(static_cast<std::int32_t>(subnormal + r));
    std::uint32_t large = ((as_bits(y) + noise) >> 20) - C::offset;
    std::uint32_t k = std::min(y < C::normal ? small : large, C::largest);
    // v is 0 only where all gradients were 0. Rounding v up shortens a step; rounding v to 0 would lengthen it.
    if (!has_sign) k = std::max(k, from[i] != 0 ? 1u : 0u);
    codes[i] = static_cast<std::uint8_t>(shared == 255u ? 0u : has_sign ? k | (bits >> 24 & 128u) : k);
  }
}

// Unpacks n elements, from `at` on, of an average of `size` elements. `at` is the start of a block.
template <bool has_sign>
void unpack(const std::uint8_t* packed, std::int64_t size, std::int64_t at, std::int64_t n, float* to) {
  const std::uint8_t *codes = packed + at, *exponents = packed + size + at / kBlock;
  std::int64_t i = 0;
  for (; i + kBlock <= n; i += kBlock) unpack<has_sign>(codes + i, exponents[i / kBlock], to + i, Whole());
  if (i < n) unpack<has_sign>(codes + i, exponents[i / kBlock], to + i, n - i);
}

template <bool has_sign>
void pack(
    const float* from, std::uint8_t* packed, std::int64_t size, std::int64_t at, std::int64_t n, std::uint32_t key) {
  std::uint8_t *codes = packed + at, *exponents = packed + size + at / kBlock;
  auto index = static_cast<std::uint32_t>(at);
  std::int64_t i = 0;
  for (; i + kBlock <= n; i += kBlock) {
    pack<has_sign>(from + i, codes + i, exponents + i / kBlock, Whole(), key, index + static_cast<std::uint32_t>(i));
  }
  if (i < n) {
    pack<has_sign>(from + i, codes + i, exponents + i / kBlock, n - i, key, index + static_cast<std::uint32_t>(i));
  }
}

}  // namespace
