// Sweeps over memory that does not hold the numbers to compute with: half precision, eight bits, gradients to be cleaned.
// Pieces that fit the first cache are brought into the type that computes, stepped, brought back, and measured, if that
// is wanted.
#pragma once

#include "low_precision.hpp"
#include "measure.hpp"
#include "sweep.hpp"

namespace {

using rmsprop::Arrays;
using rmsprop::Stage;
using rmsprop::Sweep;
using rmsprop::Type;

static_assert(kPiece % kBlock == 0);

// The numbers from `at` on: where they lie if they are of type T, else converted into `here`.
template <class T>
T* load(void* memory, Type type, bool has_sign, std::int64_t size, std::int64_t at, std::int64_t n, T* here) {
  if (memory == nullptr) return nullptr;
  if constexpr (sizeof(T) == sizeof(float)) {
    if (type == Type::bf16) {
      auto* from = static_cast<const bfloat16*>(memory) + at;
      for (std::int64_t i = 0; i < n; ++i) here[i] = from[i];
      return here;
    }
    if (type == Type::f16) {
      auto* from = static_cast<const float16*>(memory) + at;
      for (std::int64_t i = 0; i < n; ++i) here[i] = from[i];
      return here;
    }
    if (type == Type::u8) {
      auto* packed = static_cast<const std::uint8_t*>(memory);
      has_sign ? unpack<true>(packed, size, at, n, here) : unpack<false>(packed, size, at, n, here);
      return here;
    }
  }
  return static_cast<T*>(memory) + at;
}

template <class T>
void store(const T* here, void* memory, Type type, bool has_sign, bool stochastic, std::uint32_t key, std::int64_t size,
           std::int64_t at, std::int64_t n) {
  if (memory == nullptr) return;
  if constexpr (sizeof(T) == sizeof(float)) {
    auto index = static_cast<std::uint32_t>(at);
    if (type == Type::bf16 && stochastic) {
      auto* to = static_cast<bfloat16*>(memory) + at;
      for (std::int64_t i = 0; i < n; ++i) {
        to[i].bits = stochastic_bfloat16(here[i], hash(key + index + static_cast<std::uint32_t>(i)));
      }
    } else if (type == Type::bf16) {
      auto* to = static_cast<bfloat16*>(memory) + at;
      for (std::int64_t i = 0; i < n; ++i) to[i] = bfloat16(here[i]);
    } else if (type == Type::f16) {
      auto* to = static_cast<float16*>(memory) + at;
      for (std::int64_t i = 0; i < n; ++i) to[i] = float16(here[i]);
    } else if (type == Type::u8) {
      auto* packed = static_cast<std::uint8_t*>(memory);
      has_sign ? pack<true>(here, packed, size, at, n, key) : pack<false>(here, packed, size, at, n, key);
    }
  }
}

template <class T>
bool all_finite(const T* g, std::int64_t n, T sign) {
  std::uint32_t bad = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    T x = g[i] * sign;
    bad |= !((x < 0 ? -x : x) < limit<T>());
  }
  return bad == 0;
}

template <class T>
void clean(const T* g, T* to, std::int64_t n, T sign) {
  for (std::int64_t i = 0; i < n; ++i) {
    T x = g[i] * sign;
    to[i] = (x < 0 ? -x : x) < limit<T>() ? g[i] : T(0);
  }
}

template <class T>
bool staged_finite(const Arrays& a, const Stage& stage, const void* scalars, std::int64_t begin, std::int64_t end) {
  T sign = static_cast<const rmsprop::Scalars<T>*>(scalars)->sign, here[kPiece];
  for (std::int64_t at = begin; at < end; at += kPiece) {
    std::int64_t n = std::min(kPiece, end - at);
    if (!all_finite(load(const_cast<void*>(a.g), stage.param, true, a.size, at, n, here), n, sign)) return false;
  }
  return true;
}

// Returns whether all gradients were finite, if they are to be cleaned.
template <class T>
bool staged(const Arrays& a, const Stage& stage, Sweep sweep, const void* scalars, std::int64_t begin,
            std::int64_t end, Tally* tally) {
  alignas(64) T p[kPiece], g[kPiece], v[kPiece], m[kPiece], b[kPiece], clear[kPiece];
  Seen<T> seen;
  const auto& c = *static_cast<const rmsprop::Scalars<T>*>(scalars);
  bool finite = true;
  if (stage.direct()) {  // to be measured where it lies
    auto from = [](void* memory, std::int64_t at) { return memory ? static_cast<T*>(memory) + at : nullptr; };
    for (std::int64_t at = begin; at < end; at += kSpan<T>) {
      std::int64_t n = std::min(kSpan<T>, end - at);
      const T* gradient = static_cast<const T*>(a.g) + at;
      T *param = from(a.p, at), *mean = from(a.m, at);
      sweep({param, gradient, from(a.v, at), mean, from(a.b, at), n, &seen}, scalars, 0, n);
      add_piece(seen, c, gradient, param, mean, n, *tally);
    }
    return true;
  }
  for (std::int64_t at = begin; at < end; at += kPiece) {
    std::int64_t n = std::min(kPiece, end - at);
    Arrays piece;
    piece.p = load(a.p, stage.param, true, a.size, at, n, p);
    T* gradient = load(const_cast<void*>(a.g), stage.param, true, a.size, at, n, g);
    piece.v = load(a.v, stage.state, false, a.size, at, n, v);
    piece.m = load(a.m, stage.state, true, a.size, at, n, m);
    piece.b = load(a.b, stage.state, true, a.size, at, n, b);
    piece.g = gradient;
    if (stage.cleaned && !all_finite(gradient, n, c.sign)) {
      clean(gradient, clear, n, c.sign);
      piece.g = clear;
      finite = false;
    }
    piece.size = n;
    piece.seen = &seen;
    sweep(piece, scalars, 0, n);
    store(p, a.p, stage.param, true, stage.stochastic, stage.keys[0], a.size, at, n);
    store(v, a.v, stage.state, false, true, stage.keys[1], a.size, at, n);
    store(m, a.m, stage.state, true, true, stage.keys[2], a.size, at, n);
    store(b, a.b, stage.state, true, true, stage.keys[3], a.size, at, n);
    if (tally) {
      const T* stored = load(a.p, stage.param, true, a.size, at, n, p);
      if (stored == p || piece.g != gradient) see_again(seen, gradient, c.sign, stored, n);
      add_piece(seen, c, gradient, stored, static_cast<const T*>(piece.m), n, *tally);
    }
  }
  return finite;
}

}  // namespace
