// Staged sweeps: for half precision, 8-bit state, and gradients whose non-finite entries count as 0. Each chunk fits
// the first-level cache. The chunk is converted to the compute dtype, stepped, converted to the stored types, and
// measured if there is a tally.
#pragma once

#include <utility>

#include "low_precision.hpp"
#include "measure.hpp"
#include "sweep.hpp"

namespace {

using rmsprop::Arrays;
using rmsprop::Storage;
using rmsprop::Sweep;
using rmsprop::Type;

static_assert(kPackedChunk % kBlock == 0 && kChunk % kPackedChunk == 0);

// Returns n numbers from `offset` on: in place if they are of type T, else converted into `buffer`. Inlined: calls for
// every array of a small chunk would show.
template <class T>
[[gnu::always_inline]] inline T* load(void* memory, Type type, bool has_sign, std::int64_t size, std::int64_t offset,
                                      std::int64_t n, T* buffer) {
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
      auto unpack_chunk = has_sign ? unpack<true> : unpack<false>;
      for (std::int64_t i = 0; i < n; i += kPackedChunk) {
        unpack_chunk(packed, size, offset + i, std::min(kPackedChunk, n - i), buffer + i);
      }
      return buffer;
    }
  }
  return static_cast<T*>(memory) + offset;
}

// Converts n numbers of `buffer` to the stored type and writes them from `offset` on. Numbers of type T are in place.
template <class T>
[[gnu::always_inline]] inline void store(T* buffer, void* memory, Type type, bool has_sign, bool stochastic,
                                         std::uint32_t key, std::int64_t size, std::int64_t offset, std::int64_t n) {
  if constexpr (sizeof(T) == sizeof(float)) {
    if (type == Type::bf16 && stochastic) {
      round_bfloat16(buffer, static_cast<bfloat16*>(memory) + offset, n, key + static_cast<std::uint32_t>(offset));
    } else if (type == Type::bf16) {
      auto* target = static_cast<bfloat16*>(memory) + offset;
      for (std::int64_t i = 0; i < n; ++i) target[i] = bfloat16(buffer[i]);
    } else if (type == Type::f16) {
      auto* target = static_cast<float16*>(memory) + offset;
      for (std::int64_t i = 0; i < n; ++i) target[i] = float16(buffer[i]);
    } else if (type == Type::u8) {
      auto* packed = static_cast<std::uint8_t*>(memory);
      auto pack_chunk = has_sign ? pack<true> : pack<false>;
      for (std::int64_t i = 0; i < n; i += kPackedChunk) {
        pack_chunk(buffer + i, packed, size, offset + i, std::min(kPackedChunk, n - i), key);
      }
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

// A chunk in the compute dtype. Arrays that lie in memory in this dtype are stepped there.
template <class T>
struct Chunk {
  alignas(64) T p[kChunk], g[kChunk], v[kChunk], m[kChunk], b[kChunk], w[kChunk], zeroed[kChunk];
  std::int64_t offset, n = 0;
};

// Steps and measures arrays of type T in place.
template <class T>
void measure_in_place(const Arrays& a, Sweep sweep, const void* scalars, std::int64_t begin, std::int64_t end,
                     Tally& tally) {
  ChunkStats<T> stats;
  auto advance = [](void* memory, std::int64_t n) { return memory ? static_cast<T*>(memory) + n : nullptr; };
  for (std::int64_t offset = begin; offset < end; offset += kMeasuredSize<T>) {
    std::int64_t n = std::min(kMeasuredSize<T>, end - offset);
    const T* gradient = static_cast<const T*>(a.g) + offset;
    T *param = advance(a.p, offset), *mean = advance(a.m, offset);
    Arrays chunk{param, gradient, advance(a.v, offset), mean, advance(a.b, offset), advance(a.w, offset), n, &stats};
    sweep(chunk, scalars, 0, n);
    add_chunk(stats, *static_cast<const rmsprop::Scalars<T>*>(scalars), gradient, param, mean, n, tally);
  }
}

// Returns false if it zeroed a non-finite gradient.
template <class T>
bool staged(const Arrays& a, const Storage& storage, Sweep sweep, const void* scalars, std::int64_t begin,
            std::int64_t end, Tally* tally) {
  if (storage.direct()) return measure_in_place<T>(a, sweep, scalars, begin, end, *tally), true;
  constexpr Type own = sizeof(T) == sizeof(float) ? Type::f32 : Type::f64;
  Chunk<T> chunks[2], *chunk = &chunks[0], *previous = &chunks[1];
  ChunkStats<T> stats;
  const auto& c = *static_cast<const rmsprop::Scalars<T>*>(scalars);
  auto store_all = [&](Chunk<T>& from) {
    auto convert = [&](T* buffer, void* memory, Type type, bool has_sign, bool stochastic, std::uint32_t key) {
      if (memory && type != own) store(buffer, memory, type, has_sign, stochastic, key, a.size, from.offset, from.n);
    };
    convert(from.p, a.p, storage.param, true, storage.stochastic, storage.keys[0]);
    convert(from.v, a.v, storage.state, false, true, storage.keys[1]);
    convert(from.m, a.m, storage.state, true, true, storage.keys[2]);
    convert(from.b, a.b, storage.state, true, true, storage.keys[3]);
    convert(from.w, a.w, storage.state, false, true, storage.keys[4]);
    from.n = 0;
  };
  const std::int64_t size = tally ? kChunk : kPackedChunk;
  bool finite = true;
  for (std::int64_t offset = begin; offset < end; offset += size) {
    std::int64_t n = std::min(size, end - offset);
    auto converted = [&](void* memory, Type type, bool has_sign, T* buffer) {
      if (memory && type == own) return static_cast<T*>(memory) + offset;
      return load(memory, type, has_sign, a.size, offset, n, buffer);
    };
    Arrays arrays;
    T* gradient = converted(const_cast<void*>(a.g), storage.param, true, chunk->g);
    arrays.g = gradient;
    arrays.p = converted(a.p, storage.param, true, chunk->p);
    arrays.v = converted(a.v, storage.state, false, chunk->v);
    arrays.m = converted(a.m, storage.state, true, chunk->m);
    arrays.b = converted(a.b, storage.state, true, chunk->b);
    arrays.w = converted(a.w, storage.state, false, chunk->w);
    arrays.size = n;
    arrays.stats = &stats;
    if (storage.zero_nonfinite && !all_finite(gradient, n, c.sign)) {
      zero_nonfinite(gradient, chunk->zeroed, n, c.sign);
      arrays.g = chunk->zeroed;
      finite = false;
    }
    if (previous->n) store_all(*previous);
    sweep(arrays, scalars, 0, n);
    chunk->offset = offset, chunk->n = n;
    if (tally) {
      store_all(*chunk);
      const T* stored = load(a.p, storage.param, true, a.size, offset, n, chunk->p);
      if (stored == chunk->p || arrays.g != gradient) sum_again(stats, gradient, c.sign, stored, n);
      add_chunk(stats, c, gradient, stored, static_cast<const T*>(arrays.m), n, *tally);
    }
    std::swap(chunk, previous);
  }
  if (previous->n) store_all(*previous);
  return finite;
}

}  // namespace
