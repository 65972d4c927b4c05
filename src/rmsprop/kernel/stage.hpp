// Staged sweeps: for half precision, 8-bit state, and gradients whose non-finite entries count as 0. Each chunk fits
// the first-level cache. The chunk is converted to the compute dtype, stepped, converted to the stored types, and
// measured if there is a tally.
#pragma once

#include "low_precision.hpp"
#include "measure.hpp"
#include "sweep.hpp"

namespace {

using rmsprop::Arrays;
using rmsprop::Storage;
using rmsprop::Sweep;
using rmsprop::Type;

static_assert(kChunk % kBlock == 0);

// Returns n numbers from `offset` on: in place if they are of type T, else converted into `buffer`.
template <class T>
T* load(void* memory, Type type, bool has_sign, std::int64_t size, std::int64_t offset, std::int64_t n, T* buffer) {
  if (memory == nullptr) return nullptr;
  if constexpr (sizeof(T) == sizeof(float)) {
    if (type == Type::bf16) {
      auto* source = static_cast<const bfloat16*>(memory) + offset;
      for (std::int64_t i = 0; i < n; ++i) buffer[i] = source[i];
      return buffer;
    }
    if (type == Type::f16) {
      auto* source = static_cast<const float16*>(memory) + offset;
      for (std::int64_t i = 0; i < n; ++i) buffer[i] = source[i];
      return buffer;
    }
    if (type == Type::u8) {
      auto* packed = static_cast<const std::uint8_t*>(memory);
      has_sign ? unpack<true>(packed, size, offset, n, buffer) : unpack<false>(packed, size, offset, n, buffer);
      return buffer;
    }
  }
  return static_cast<T*>(memory) + offset;
}

template <class T>
void store(const T* buffer, void* memory, Type type, bool has_sign, bool stochastic, std::uint32_t key,
           std::int64_t size, std::int64_t offset, std::int64_t n) {
  if (memory == nullptr) return;
  if constexpr (sizeof(T) == sizeof(float)) {
    auto index = static_cast<std::uint32_t>(offset);
    if (type == Type::bf16 && stochastic) {
      auto* target = static_cast<bfloat16*>(memory) + offset;
      for (std::int64_t i = 0; i < n; ++i) {
        target[i].bits = stochastic_bfloat16(buffer[i], hash(key + index + static_cast<std::uint32_t>(i)));
      }
    } else if (type == Type::bf16) {
      auto* target = static_cast<bfloat16*>(memory) + offset;
      for (std::int64_t i = 0; i < n; ++i) target[i] = bfloat16(buffer[i]);
    } else if (type == Type::f16) {
      auto* target = static_cast<float16*>(memory) + offset;
      for (std::int64_t i = 0; i < n; ++i) target[i] = float16(buffer[i]);
    } else if (type == Type::u8) {
      auto* packed = static_cast<std::uint8_t*>(memory);
      has_sign ? pack<true>(buffer, packed, size, offset, n, key) : pack<false>(buffer, packed, size, offset, n, key);
    }
  }
}

template <class T>
bool all_finite(const T* g, std::int64_t n, T sign) {
  std::uint32_t bad = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    T x = g[i] * sign;
    bad |= !((x < 0 ? -x : x) < square_limit<T>());
  }
  return bad == 0;
}

template <class T>
void zero_nonfinite(const T* g, T* target, std::int64_t n, T sign) {
  for (std::int64_t i = 0; i < n; ++i) {
    T x = g[i] * sign;
    target[i] = (x < 0 ? -x : x) < square_limit<T>() ? g[i] : T(0);
  }
}

template <class T>
bool staged_finite(const Arrays& a, const Storage& storage, const void* scalars, std::int64_t begin, std::int64_t end) {
  T sign = static_cast<const rmsprop::Scalars<T>*>(scalars)->sign, buffer[kChunk];
  for (std::int64_t offset = begin; offset < end; offset += kChunk) {
    std::int64_t n = std::min(kChunk, end - offset);
    const T* g = load(const_cast<void*>(a.g), storage.param, true, a.size, offset, n, buffer);
    if (!all_finite(g, n, sign)) return false;
  }
  return true;
}

// Returns false if it zeroed a non-finite gradient.
template <class T>
bool staged(const Arrays& a, const Storage& storage, Sweep sweep, const void* scalars, std::int64_t begin,
            std::int64_t end, Tally* tally) {
  alignas(64) T p[kChunk], g[kChunk], v[kChunk], m[kChunk], b[kChunk], w[kChunk], zeroed[kChunk];
  ChunkStats<T> stats;
  const auto& c = *static_cast<const rmsprop::Scalars<T>*>(scalars);
  bool finite = true;
  if (storage.direct()) {  // measured in place
    auto advance = [](void* memory, std::int64_t n) { return memory ? static_cast<T*>(memory) + n : nullptr; };
    for (std::int64_t offset = begin; offset < end; offset += kMeasuredSize<T>) {
      std::int64_t n = std::min(kMeasuredSize<T>, end - offset);
      const T* gradient = static_cast<const T*>(a.g) + offset;
      T *param = advance(a.p, offset), *mean = advance(a.m, offset);
      Arrays chunk{param, gradient, advance(a.v, offset), mean, advance(a.b, offset), advance(a.w, offset), n, &stats};
      sweep(chunk, scalars, 0, n);
      add_chunk(stats, c, gradient, param, mean, n, *tally);
    }
    return true;
  }
  for (std::int64_t offset = begin; offset < end; offset += kChunk) {
    std::int64_t n = std::min(kChunk, end - offset);
    Arrays chunk;
    chunk.p = load(a.p, storage.param, true, a.size, offset, n, p);
    T* gradient = load(const_cast<void*>(a.g), storage.param, true, a.size, offset, n, g);
    chunk.v = load(a.v, storage.state, false, a.size, offset, n, v);
    chunk.m = load(a.m, storage.state, true, a.size, offset, n, m);
    chunk.b = load(a.b, storage.state, true, a.size, offset, n, b);
    chunk.w = load(a.w, storage.state, false, a.size, offset, n, w);
    chunk.g = gradient;
    if (storage.zero_nonfinite && !all_finite(gradient, n, c.sign)) {
      zero_nonfinite(gradient, zeroed, n, c.sign);
      chunk.g = zeroed;
      finite = false;
    }
    chunk.size = n;
    chunk.stats = &stats;
    sweep(chunk, scalars, 0, n);
    store(p, a.p, storage.param, true, storage.stochastic, storage.keys[0], a.size, offset, n);
    store(v, a.v, storage.state, false, true, storage.keys[1], a.size, offset, n);
    store(m, a.m, storage.state, true, true, storage.keys[2], a.size, offset, n);
    store(b, a.b, storage.state, true, true, storage.keys[3], a.size, offset, n);
    store(w, a.w, storage.state, false, true, storage.keys[4], a.size, offset, n);
    if (tally) {
      const T* stored = load(a.p, storage.param, true, a.size, offset, n, p);
      if (stored == p || chunk.g != gradient) sum_again(stats, gradient, c.sign, stored, n);
      add_chunk(stats, c, gradient, stored, static_cast<const T*>(chunk.m), n, *tally);
    }
  }
  return finite;
}

}  // namespace
