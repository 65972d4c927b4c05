// The loops over one parameter, for every form and both compute dtypes. Compiled once for each instruction set, named
// by RMSPROP_ISA. Vectors and the elements after the last full vector come from the same step().
#include "row_sweep.hpp"
#include "stage.hpp"
#include "step.hpp"

namespace {

using rmsprop::Form;
using rmsprop::Scalars;

template <class T, int index>
void sweep(const Arrays& a, const void* scalars, std::int64_t begin, std::int64_t end) {
  constexpr Form form = rmsprop::form_of(index);
  constexpr bool has_m = form.centered, has_b = form.has_buffer(), has_w = form.amsgrad;
  const Scalars<T> c = *static_cast<const Scalars<T>*>(scalars);
  T* __restrict__ p = static_cast<T*>(a.p);
  const T* __restrict__ g = static_cast<const T*>(a.g);
  T* __restrict__ v = static_cast<T*>(a.v);
  T* __restrict__ m = static_cast<T*>(a.m);
  T* __restrict__ b = static_cast<T*>(a.b);
  T* __restrict__ w = static_cast<T*>(a.w);
#pragma omp simd  // arrays do not overlap: Clang ignores __restrict__ here
  for (std::int64_t i = begin; i < end; ++i) {
    T mi = T(0), bi = T(0), wi = T(0);
    if constexpr (has_m) mi = m[i];
    if constexpr (has_b) bi = b[i];
    if constexpr (has_w) wi = w[i];
    auto x = step<index>(c, p[i], g[i], v[i], mi, bi, wi);
    p[i] = x.p;
    v[i] = x.v;
    if constexpr (has_m) m[i] = x.m;
    if constexpr (has_b) b[i] = x.b;
    if constexpr (has_w) w[i] = x.w;
  }
}

// Steps a chunk and measures it. Sums cost less beside the root and the division than in a loop of their own.
template <class T, int index>
void measured_sweep(const Arrays& a, const void* scalars, std::int64_t, std::int64_t n) {
  constexpr Form form = rmsprop::form_of(index);
  constexpr bool has_m = form.centered, has_b = form.has_buffer(), has_w = form.amsgrad;
  using Bits = BitsOf<T>;
  const Scalars<T> c = *static_cast<const Scalars<T>*>(scalars);
  ChunkStats<T>& stats = *static_cast<ChunkStats<T>*>(a.stats);
  T* __restrict__ p = static_cast<T*>(a.p);
  const T* __restrict__ g = static_cast<const T*>(a.g);
  T* __restrict__ v = static_cast<T*>(a.v);
  T* __restrict__ m = static_cast<T*>(a.m);
  T* __restrict__ b = static_cast<T*>(a.b);
  T* __restrict__ w = static_cast<T*>(a.w);
  T *__restrict__ p0 = stats.p, *__restrict__ v0 = stats.v;
  T *__restrict__ variance = stats.s, *__restrict__ ds = stats.d;
  T gradient = 0, update = 0, parameter = 0, history = 0, signal = 0, noise = 0;
  // The bits of non-negative numbers have the order of the numbers, and all compilers vectorise integer maxima.
  Bits largest = 0, least_change = kMaxBits<T>, least_gradient = kMaxBits<T>, least_s = kMaxBits<T>, floors = 0;
#pragma omp simd reduction(+ : gradient, update, parameter, history, signal, noise, floors) reduction(max : largest) \
    reduction(min : least_change, least_gradient, least_s)
  for (std::int64_t i = 0; i < n; ++i) {
    T mi = T(0), bi = T(0), wi = T(0);
    if constexpr (has_m) mi = m[i];
    if constexpr (has_b) bi = b[i];
    if constexpr (has_w) wi = w[i];
    T before = p[i], signed_gradient = c.sign * g[i];
    auto x = step<index>(c, before, g[i], v[i], mi, bi, wi);
    p0[i] = before;
    v0[i] = v[i];
    history += v[i];
    p[i] = x.p;
    v[i] = x.v;
    if constexpr (has_m) m[i] = x.m;
    if constexpr (has_b) b[i] = x.b;
    if constexpr (has_w) w[i] = x.w;
    T square = signed_gradient * signed_gradient, change = x.p - before, squared_change = change * change;
    gradient += square;
    update += squared_change;
    parameter += x.p * x.p;
    if constexpr (has_m) {
      signal += x.m_hat * x.m_hat;
      noise += x.s;
    }
    if constexpr (has_m || form.corrected) {
      variance[i] = x.s;
      if (x.at_floor != 0) ++floors;
    }
    Bits squared_change_bits = bits_of(squared_change), square_bits = bits_of(square), s_bits = bits_of(x.s);
    largest = squared_change_bits > largest ? squared_change_bits : largest;
    least_change = squared_change_bits < least_change ? squared_change_bits : least_change;
    least_gradient = square_bits < least_gradient ? square_bits : least_gradient;
    least_s = s_bits < least_s ? s_bits : least_s;
    ds[i] = x.d;
  }
  T sums[rmsprop::kSums] = {gradient, update, parameter, history, signal, noise};
  std::memcpy(stats.sums, sums, sizeof sums);
  stats.largest = root(from_bits<T>(largest));  // exact unless the square overflowed or underflowed
  stats.least_change = from_bits<T>(least_change), stats.least_gradient = from_bits<T>(least_gradient);
  stats.least_s = from_bits<T>(least_s);
  stats.floor = floors;
  stats.variance = has_m || form.corrected ? variance : has_w ? w : v;
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
  table.plain[type][index] = sweep<T, index>;
  table.measured[type][index] = measured_sweep<T, index>;
  if constexpr (index + 1 < rmsprop::kForms) {
    fill<T, index + 1>(table, type);
  } else {
    table.staged[type] = staged<T>;
    table.finite[type] = staged_finite<T>;
    table.rows[type] = rows<T>;
    table.rows_finite[type] = rows_finite<T>;
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
