// Sweeps over touched rows of a table: entries of the gradient are added up, averages that lag are caught up with, and
// the row is stepped as any memory is.
#pragma once

#include <cmath>
#include <limits>

#include "rows.hpp"
#include "stage.hpp"

namespace {

using rmsprop::Entry;
using rmsprop::Rows;

// The gradient of touched row `i`, n numbers of it from `at` on: the first entry, plus the others in their order. It lies
// where the only entry does, else in `here`.
template <class T>
T* sum(const Rows& rows, std::int64_t i, std::int64_t at, std::int64_t n, T* here) {
  const Entry *entry = rows.entries + rows.starts[i], *end = rows.entries + rows.starts[i + 1];
  void* values = const_cast<void*>(rows.task.arrays.g);
  auto load_entry = [&](T* into) {
    return load(values, rows.task.stage.param, true, 0, entry->place * rows.width + at, n, into);
  };
  T* g = load_entry(here);
  if (end - entry == 1) return g;
  for (std::int64_t k = 0; g != here && k < n; ++k) here[k] = g[k];
  T more[kPiece];
  while (++entry != end) {
    const T* x = load_entry(more);
    for (std::int64_t k = 0; k < n; ++k) here[k] += x[k];
  }
  return here;
}

// Multiplies an average by βᵏ for the k steps that it lags: 0 is what β, k times, makes of all but infinity.
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

template <class T>
bool rows_finite(const Rows& rows, std::int64_t begin, std::int64_t end) {
  T sign = static_cast<const rmsprop::Scalars<T>*>(rows.task.scalars)->sign, here[kPiece];
  for (std::int64_t i = begin; i < end; ++i) {
    for (std::int64_t at = 0; at < rows.width; at += kPiece) {
      std::int64_t n = std::min(kPiece, rows.width - at);
      if (!all_finite(sum(rows, i, at, n, here), n, sign)) return false;
    }
  }
  return true;
}

// Returns whether all gradients were finite, if they are to be cleaned. State is of type T: rows have none in fewer bits.
template <class T>
bool rows(const Rows& rows, std::int64_t begin, std::int64_t end) {
  alignas(64) T p[kPiece], g[kPiece];
  const Stage& stage = rows.task.stage;
  const Arrays& a = rows.task.arrays;
  T sign = static_cast<const rmsprop::Scalars<T>*>(rows.task.scalars)->sign, weight = 1;
  std::int64_t lag = 0;
  bool finite = true;
  for (std::int64_t i = begin; i < end; ++i) {
    std::int64_t row = rows.entries[rows.starts[i]].row;
    // A counter that was set back may be behind a row, which then does not lag.
    std::int64_t own = rows.row_step ? std::max<std::int64_t>(0, rows.step - rows.row_step[row]) : 0;
    if (own != lag) {
      lag = own;
      weight = static_cast<T>(std::pow(rows.decay, static_cast<double>(lag)));
    }
    for (std::int64_t at = 0; at < rows.width; at += kPiece) {
      std::int64_t n = std::min(kPiece, rows.width - at), first = row * rows.width + at;
      T* gradient = sum(rows, i, at, n, g);
      if (stage.cleaned && !all_finite(gradient, n, sign)) {
        clean(gradient, g, n, sign);
        gradient = g;
        finite = false;
      }
      auto own = [first](void* x) { return x ? static_cast<T*>(x) + first : nullptr; };
      Arrays piece{load(a.p, stage.param, true, 0, first, n, p), gradient, own(a.v), own(a.m), own(a.b), n};
      catch_up(own(a.v), n, rows.decay, weight);
      catch_up(own(a.m), n, rows.decay, weight);
      rows.task.sweep(piece, rows.task.scalars, 0, n);
      store(p, a.p, stage.param, true, stage.stochastic, stage.keys[0], 0, first, n);
    }
    if (rows.row_step) rows.row_step[row] = rows.step + 1;
  }
  return finite;
}

}  // namespace
