// One step of the rule, E1 to E9 of rmsprop/rule.py, for one element: the only place where the kernel does arithmetic.
//
// The operations and their order are those of rule.py, so that the results are the same bits. A choice that costs
// nothing as a number is a number (a factor of 1, an addend of 0, both exact); the others are template arguments.
// Compile without contraction into fused multiply-adds and without fast-math.
#pragma once

#include "sweep.hpp"

namespace {  // each instruction set compiles its own copy: the linker must not merge them

inline float root(float x) { return __builtin_sqrtf(x); }
inline double root(double x) { return __builtin_sqrt(x); }

// NumPy's maximum where b is NaN only if a is, as of a difference and κ times what it was taken from: one instruction.
template <class T>
inline T maximum(T a, T b) {
  return a < b ? b : a;
}

// What a step makes on the way: s and m̂ after E5, whether s is one of E5's floors (1 or 0), the root in E6, and d. It is
// a result, since a loop in which addresses are taken is not vectorised as well.
template <class T>
struct Element {
  T p, v, m, b, s, mean, at_floor, root, d;
};

template <int index, class T>
inline Element<T> step(const rmsprop::Scalars<T>& c, T p, T g, T v, T m, T b) {
  using namespace rmsprop;
  constexpr Form form = form_of(index);
  g = c.sign * g;                                                    // E1
  if constexpr (form.decay == Decay::l2) g = g + c.lambda * p;       // E2
  if constexpr (form.decay == Decay::decoupled) p = p - c.lambda * p;
  v = c.beta * v + (c.fresh * g) * g;                                // E3
  if constexpr (form.centered) m = m + c.fresh * (g - m);            // E4
  T s = v, whole = v, mean = m, at_floor = T(0);                     // E5
  if constexpr (form.corrected) {
    T rest = v - c.start, floor = c.kappa * v;
    at_floor = rest < floor ? T(1) : T(0);
    s = maximum(rest, floor) / c.weight;
    whole = v / c.weight;
    mean = m / c.weight;
  }
  if constexpr (form.centered) {
    T rest = s - mean * mean, floor = c.kappa * whole;
    at_floor = rest < floor ? T(1) : at_floor;
    s = maximum(rest, floor);
  }
  T w = root(s + c.eps_inside), d = w + c.eps_outside;               // E6
  T u = d != 0 ? g / d : T(0);                                       // E7
  u = c.inner * u;                                                   // E8
  T r = u;
  if constexpr (form.momentum != Momentum::none) {
    b = c.mu * b + u;
    r = form.momentum == Momentum::nesterov ? u + c.mu * b : b;
  }
  p = p - c.outer * r;                                               // E9
  return {p, v, m, b, s, mean, at_floor, w, d};
}

}  // namespace
