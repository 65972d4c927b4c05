// bfloat16 and float16 in memory, converted to float and back: round to nearest, ties to even.
//
// Integer operations without branches: every compiler vectorises them, and every machine gives the same bits.
#pragma once

#include <cstdint>
#include <cstring>

namespace {

inline float as_float(std::uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

inline std::uint32_t as_bits(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

struct bfloat16 {
  std::uint16_t bits;

  operator float() const { return as_float(std::uint32_t(bits) << 16); }

  explicit bfloat16(float x) {
    std::uint32_t f = as_bits(x);
    std::uint32_t rounded = (f + 0x7fffu + (f >> 16 & 1u)) >> 16;
    bits = static_cast<std::uint16_t>(x != x ? 0x7fc0u : rounded);
  }
};

struct float16 {
  std::uint16_t bits;

  operator float() const {
    std::uint32_t sign = std::uint32_t(bits & 0x8000u) << 16, magnitude = bits & 0x7fffu;
    std::uint32_t normal = (magnitude << 13) + (112u << 23);
    // Below 2⁻¹⁴ the number is magnitude·2⁻²⁴: place it behind an implicit 1 of weight 2⁻¹⁴, then subtract that 1.
    std::uint32_t small = as_bits(as_float((magnitude << 13) + (113u << 23)) - as_float(113u << 23));
    std::uint32_t special = (magnitude << 13) + (224u << 23);  // infinity and NaN
    std::uint32_t value = magnitude < 0x0400u ? small : magnitude < 0x7c00u ? normal : special;
    return as_float(sign | value);
  }

  explicit float16(float x) {
    std::uint32_t f = as_bits(x), sign = f >> 16 & 0x8000u, magnitude = f & 0x7fffffffu;
    std::uint32_t normal = (magnitude - (112u << 23) + 0x0fffu + (magnitude >> 13 & 1u)) >> 13;
    // Below 2⁻¹⁴: adding 0.5 leaves the multiple of 2⁻²⁴, rounded by the hardware, in the low bits of the sum.
    std::uint32_t small = as_bits(as_float(magnitude) + 0.5f) - as_bits(0.5f);
    std::uint32_t value = magnitude < (113u << 23) ? small : normal;
    value = magnitude >= 0x477ff000u ? 0x7c00u : value;  // 65520 and above round to infinity
    value = magnitude > 0x7f800000u ? 0x7e00u : value;
    bits = static_cast<std::uint16_t>(sign | value);
  }
};

}  // namespace
