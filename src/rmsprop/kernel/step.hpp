// One step of the rule for one element: E1 to E9 of rmsprop/rule.py. All arithmetic of the kernel is here.
//
// Operations and their order are those of rule.py: results have the same bits. An option that costs no time as a number
// is a number: a factor of 1 or an addend of 0, both exact. The other options are template arguments.
// Compile without contraction into fused multiply-adds and without fast-math.
#pragma once

#include "sweep.hpp"

namespace {  // every instruction set compiles a copy, which the linker must not merge

inline float root(float x) { return __builtin_sqrtf(x); }
inline double root(double x) { return __builtin_sqrt(x); }

// Equals NumPy's maximum if b is NaN only where a is NaN, as in E5. Compiles to one instruction.
template <class T>
inline T maximum(T a, T b) {
  return a < b ? b : a;
}

// Equals NumPy's maximum for all numbers: NaN if either is NaN.
template <class T>
inline T maximum_or_nan(T a, T b) {
  return b != b ? b : maximum(a, b);
}

// The results of a step, and for the statistics: s and m̂ of E5, whether s is a floor of E5 (1 or 0), the root of E6,
// d. Returned by value: compilers vectorise a loop less well where addresses are taken.
template <class T>
struct Element {
  T p, v, m, b, w, s, m_hat, at_floor, root, d;
};

template <int index, class T>
inline Element<T> step(const rmsprop::Scalars<T>& c, T p, T g, T v, T m, T b, T w) {
  using namespace rmsprop;
  constexpr Form form = form_of(index);
  g = c.sign * g;                                                    // E1
  if constexpr (form.decay == Decay::l2) g = g + c.lambda * p;       // E2
  if constexpr (form.decay == Decay::decoupled) p = p - c.lambda * p;
  v = c.beta * v + (c.one_minus_beta * g) * g;                       // E3
  T top = v;
  if constexpr (form.amsgrad) top = w = maximum_or_nan(w, v);
  if constexpr (form.centered) m = m + c.one_minus_beta * (g - m);   // E4
  T s = top, v_hat = top, m_hat = m, at_floor = T(0);                // E5
  if constexpr (form.corrected) {
    T difference = top - c.decayed_v0, floor = c.kappa * top;
    at_floor = difference < floor ? T(1) : T(0);
    s = maximum(difference, floor) / c.one_minus_power;
    v_hat = top / c.one_minus_power;
    m_hat = m / c.one_minus_power;
  }
  if constexpr (form.centered) {
    T difference = s - m_hat * m_hat, floor = c.kappa * v_hat;
    at_floor = difference < floor ? T(1) : at_floor;
    s = maximum(difference, floor);
  }
  T root_s = root(s + c.eps_inside), d = root_s + c.eps_outside;     // E6
  T n = g;                                                           // E7
  if constexpr (form.first_moment()) {
    b = b + c.one_minus_mu * (g - b);
    n = form.momentum == Momentum::first_nesterov ? c.a * b + c.c * g : c.a * b;
  }
  T u = d != 0 ? n / d : T(0);
  u = c.lr_inside * u;                                               // E8
  T r = u;
  if constexpr (form.has_buffer() && !form.first_moment()) {
    b = c.mu * b + u;
    r = form.momentum == Momentum::nesterov ? u + c.mu * b : b;
  }
  p = p - c.lr_outside * r;                                          // E9
  return {p, v, m, b, w, s, m_hat, at_floor, root_s, d};
}

}  // namespace
