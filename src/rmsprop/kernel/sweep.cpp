// The loop over one parameter, for every form and both types that compute. Compiled once for each instruction set, with RMSPROP_ISA its
// name; there is no code of its own for the elements that do not fill a vector: the compiler makes both from one step.
#include "stage.hpp"
#include "step.hpp"

namespace {

using rmsprop::Form;
using rmsprop::Scalars;

template <class T, int index>
void sweep(const Arrays& a, const void* scalars, std::int64_t begin, std::int64_t end) {
  constexpr Form form = rmsprop::form_of(index);
  constexpr bool has_m = form.centered, has_b = form.momentum != rmsprop::Momentum::none;
  const Scalars<T> c = *static_cast<const Scalars<T>*>(scalars);
  T* __restrict__ p = static_cast<T*>(a.p);
  const T* __restrict__ g = static_cast<const T*>(a.g);
  T* __restrict__ v = static_cast<T*>(a.v);
  T* __restrict__ m = static_cast<T*>(a.m);
  T* __restrict__ b = static_cast<T*>(a.b);
  for (std::int64_t i = begin; i < end; ++i) {
    T mi = T(0), bi = T(0);
    if constexpr (has_m) mi = m[i];
    if constexpr (has_b) bi = b[i];
    step<index>(c, p[i], g[i], v[i], mi, bi);
    if constexpr (has_m) m[i] = mi;
    if constexpr (has_b) b[i] = bi;
  }
}

void move(const Arrays& a, const void*, std::int64_t begin, std::int64_t end) {
  float* __restrict__ p = static_cast<float*>(a.p);
  const float* __restrict__ g = static_cast<const float*>(a.g);
  float* __restrict__ v = static_cast<float*>(a.v);
  for (std::int64_t i = begin; i < end; ++i) {
    p[i] -= g[i];
    v[i] += g[i];
  }
}

template <class T, int index = 0>
void fill(rmsprop::Sweeps& table, int type) {
  table.of[type][index] = sweep<T, index>;
  if constexpr (index + 1 < rmsprop::kForms) {
    fill<T, index + 1>(table, type);
  } else {
    table.staged[type] = staged<T>;
    table.finite[type] = staged_finite<T>;
  }
}

}  // namespace

namespace rmsprop {
namespace RMSPROP_ISA {

const Sweeps& sweeps() {
  static const Sweeps table = [] {
    Sweeps t;
    fill<float>(t, static_cast<int>(Type::f32));
    fill<double>(t, static_cast<int>(Type::f64));
    t.move = move;
    return t;
  }();
  return table;
}

}  // namespace RMSPROP_ISA
}  // namespace rmsprop
