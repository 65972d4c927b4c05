// Sweeps over touched rows: sum the gradient's entries of a row, decay averages that lag, step the row.
#pragma once

#include <cmath>
#include <limits>

#include "rows.hpp"
#include "stage.hpp"

namespace {

using rmsprop::RowEntry;
using rmsprop::Rows;

// Returns n numbers, from `offset` on, of the gradient of touched row `i`: the sum of its entries in their order. A
// single entry of type T is returned in place, everything else in `buffer`.
template <class T>
T* row_gradient(const Rows& rows, std::int64_t i, std::int64_t offset, std::int64_t n, T* buffer) {
  const RowEntry *entry = rows.entries + rows.starts[i], *end = rows.entries + rows.starts[i + 1];
  void* values = const_cast<void*>(rows.task.arrays.g);
  auto load_entry = [&](T* into) {
    return load(values, rows.task.storage.param, true, 0, entry->position * rows.width + offset, n, into);
  };
  T* g = load_entry(buffer);
  if (end - entry == 1) return g;
  for (std::int64_t k = 0; g != buffer && k < n; ++k) buffer[k] = g[k];
  T more[kChunk];
  while (++entry != end) {
    const T* x = load_entry(more);
    for (std::int64_t k = 0; k < n; ++k) buffer[k] += x[k];
  }
  return buffer;
}

// Multiplies an average by `weight`: βᵏ, where k is the lag in steps. If βᵏ underflows to 0, infinity stays infinite,
// as if multiplied by β k times.
template <class T>
void catch_up(T* x, std::int64_t n, double decay, T weight) {
  if (x == nullptr || weight == 1) return;
  if (weight == 0 && decay != 0) {
    constexpr T infinite = std::numeric_limits<T>::infinity();
    for (std::int64_t k = 0; k < n; ++k) x[k] = ((x[k] == infinite) | (x[k] == -infinite)) ? x[k] : x[k] * 0;
  } else {
    for (std::int64_t k = 0; k < n; ++k) x[k] *= weight;
  }
}

// Gives w the maximum that v had while the row lagged: w starts at 0, below a v that starts above.
template <class T>
void raise_maximum(T* w, const T* v, std::int64_t n, T beta) {
  for (std::int64_t k = 0; w && k < n; ++k) w[k] = maximum_or_nan(w[k], v[k] * beta);
}

template <class T>
bool rows_finite(const Rows& rows, std::int64_t begin, std::int64_t end) {
  T sign = static_cast<const rmsprop::Scalars<T>*>(rows.task.scalars)->sign, buffer[kChunk];
  for (std::int64_t i = begin; i < end; ++i) {
    for (std::int64_t offset = 0; offset < rows.width; offset += kChunk) {
      std::int64_t n = std::min(kChunk, rows.width - offset);
      if (!all_finite(row_gradient(rows, i, offset, n, buffer), n, sign)) return false;
    }
  }
  return true;
}

// Returns false if it zeroed a non-finite gradient. The state of rows is never in low precision: its type is T.
template <class T>
bool rows(const Rows& rows, std::int64_t begin, std::int64_t end) {
  alignas(64) T p[kChunk], g[kChunk];
  const Storage& storage = rows.task.storage;
  const Arrays& a = rows.task.arrays;
  const auto& c = *static_cast<const rmsprop::Scalars<T>*>(rows.task.scalars);
  T sign = c.sign, weight = 1;
  std::int64_t lag = 0;
  bool finite = true;
  for (std::int64_t i = begin; i < end; ++i) {
    std::int64_t row = rows.entries[rows.starts[i]].row;
    // A step counter that the user set back may be behind a row. Such a row does not lag.
    std::int64_t row_lag = rows.row_step ? std::max<std::int64_t>(0, rows.step - rows.row_step[row]) : 0;
    if (row_lag != lag) {
      lag = row_lag;
      weight = static_cast<T>(std::pow(rows.decay, static_cast<double>(lag)));
    }
    for (std::int64_t offset = 0; offset < rows.width; offset += kChunk) {
      std::int64_t n = std::min(kChunk, rows.width - offset), first = row * rows.width + offset;
      T* gradient = row_gradient(rows, i, offset, n, g);
      if (storage.zero_nonfinite && !all_finite(gradient, n, sign)) {
        zero_nonfinite(gradient, g, n, sign);
        gradient = g;
        finite = false;
      }
      auto row_of = [first](void* x) { return x ? static_cast<T*>(x) + first : nullptr; };
      Arrays chunk{load(a.p, storage.param, true, 0, first, n, p), gradient, row_of(a.v), row_of(a.m), row_of(a.b),
                   row_of(a.w), n};
      if (lag) raise_maximum(row_of(a.w), row_of(a.v), n, c.beta);
      catch_up(row_of(a.v), n, rows.decay, weight);
      catch_up(row_of(a.m), n, rows.decay, weight);
      rows.task.sweep(chunk, rows.task.scalars, 0, n);
      store(p, a.p, storage.param, true, storage.stochastic, storage.keys[0], 0, first, n);
    }
    if (rows.row_step) rows.row_step[row] = rows.step + 1;
  }
  return finite;
}

}  // namespace
