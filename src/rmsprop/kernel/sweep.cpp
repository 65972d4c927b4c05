// The loop over one parameter, for every type and form. Compiled once for each instruction set, with RMSPROP_ISA its
// name; there is no code of its own for the elements that do not fill a vector: the compiler makes both from one step.
#include "half.hpp"
#include "step.hpp"

namespace {

using rmsprop::Arrays;
using rmsprop::Form;
using rmsprop::Scalars;
using rmsprop::Sweep;

template <class Stored, class T, int index>
void sweep(const Arrays& a, const void* scalars, std::int64_t begin, std::int64_t end) {
  constexpr Form form = rmsprop::form_of(index);
  constexpr bool has_m = form.centered, has_b = form.momentum != rmsprop::Momentum::none;
  const Scalars<T> c = *static_cast<const Scalars<T>*>(scalars);
  Stored* __restrict__ p = static_cast<Stored*>(a.p);
  const Stored* __restrict__ g = static_cast<const Stored*>(a.g);
  T* __restrict__ v = static_cast<T*>(a.v);
  T* __restrict__ m = static_cast<T*>(a.m);
  T* __restrict__ b = static_cast<T*>(a.b);
  for (std::int64_t i = begin; i < end; ++i) {
    T pi = T(p[i]), mi = T(0), bi = T(0);
    if constexpr (has_m) mi = m[i];
    if constexpr (has_b) bi = b[i];
    step<index>(c, pi, T(g[i]), v[i], mi, bi);
    p[i] = Stored(pi);
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

template <class Stored, class T, int index = 0>
void fill(Sweep* table) {
  table[index] = sweep<Stored, T, index>;
  if constexpr (index + 1 < rmsprop::kForms) fill<Stored, T, index + 1>(table);
}

}  // namespace

namespace rmsprop {
namespace RMSPROP_ISA {

const Sweeps& sweeps() {
  static const Sweeps table = [] {
    Sweeps t;
    fill<float, float>(t.of[static_cast<int>(Type::f32)]);
    fill<double, double>(t.of[static_cast<int>(Type::f64)]);
    fill<bfloat16, float>(t.of[static_cast<int>(Type::bf16)]);
    fill<float16, float>(t.of[static_cast<int>(Type::f16)]);
    t.move = move;
    return t;
  }();
  return table;
}

}  // namespace RMSPROP_ISA
}  // namespace rmsprop
