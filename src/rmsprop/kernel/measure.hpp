// The statistics of a piece: a sweep makes them while it steps, and what is rare is looked for while the piece is still
// in the first cache. rmsprop/statistics.py defines them.
//
// A piece is added up in the type that computes and the pieces in double; where a square has left the range of float, the
// piece is added up in double instead.
#pragma once

#include <cstring>
#include <limits>
#include <type_traits>

#ifdef __AVX512BW__
#include <immintrin.h>
#endif

#include "step.hpp"
#include "sweep.hpp"

namespace {

using rmsprop::kPiece;
using rmsprop::kWide;
using rmsprop::Tally;

template <class T>
using BitsOf = std::conditional_t<sizeof(T) == sizeof(float), std::int32_t, std::int64_t>;

// How many elements are measured at a time where they lie: 56 KiB with p, g and v, mostly in the first cache.
template <class T>
constexpr std::int64_t kSpan = kWide * sizeof(float) / sizeof(T);

// What a measured sweep leaves of a piece: p and v before the step, s after E5 unless that is v, d, and what it has added
// up. What is rare, it does not count, but finds out whether there is any: by the least square of a gradient and of a
// change, and by the least s.
template <class T>
struct Seen {
  alignas(64) T p[kSpan<T>], v[kSpan<T>], s[kSpan<T>], d[kSpan<T>];
  const T* variance;  // where s is
  T sums[rmsprop::kSums], largest, least_change, least_gradient, least_s;  // NaN where there is one, or not
  BitsOf<T> floor;
};

template <class T>
BitsOf<T> bits_of(T x) {
  BitsOf<T> bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}
template <class T>
T from_bits(BitsOf<T> bits) {
  T x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
template <class T>
constexpr BitsOf<T> kMost = std::numeric_limits<BitsOf<T>>::max();

inline float size_of(float x) { return __builtin_fabsf(x); }
inline double size_of(double x) { return __builtin_fabs(x); }

// The first number whose square is not finite.
template <class T>
constexpr T limit() {
  return sizeof(T) == sizeof(float) ? T(0x1p64) : T(0x1p512);
}

// The exponent of d as it is stored, as far as a byte holds it: all of them in float, in double those of the bins. It is
// kLow for what is smaller, 0 included, and kHigh for ∞, NaN and, in double, what is larger than the last bin.
constexpr std::uint8_t kLow = 0, kHigh = 255;
template <class T>
inline std::uint8_t code_of(T d) {
  BitsOf<T> k = bits_of(d) >> (std::numeric_limits<T>::digits - 1);
  if constexpr (sizeof(T) == sizeof(double)) {
    k -= std::numeric_limits<double>::max_exponent - std::numeric_limits<float>::max_exponent;
    k = k < kLow ? kLow : k;
    k = k > kHigh ? kHigh : k;
  }
  return static_cast<std::uint8_t>(k);
}

inline int bin_of(int code) {
  int k = code - (std::numeric_limits<float>::max_exponent - 1 + rmsprop::kFirst);
  return k < 0 ? 0 : k > rmsprop::kBins - 1 ? rmsprop::kBins - 1 : k;
}

// How many of n codes are `code`; n is a multiple of kBytes.
constexpr std::int64_t kBytes = 64;
inline std::int64_t count_of(std::uint8_t code, const std::uint8_t* codes, std::int64_t n) {
  std::int64_t sum = 0;
#ifdef __AVX512BW__  // which the compiler does not find: masks are counted as they are
  __m512i wanted = _mm512_set1_epi8(static_cast<char>(code));
  for (std::int64_t i = 0; i < n; i += kBytes) {
    sum += __builtin_popcountll(_mm512_cmpeq_epi8_mask(_mm512_load_si512(codes + i), wanted));
  }
#else
  std::uint8_t found[kBytes] = {};
  static_assert(kWide / kBytes < 256);
  for (std::int64_t i = 0; i < n; i += kBytes) {
    for (std::int64_t k = 0; k < kBytes; ++k) found[k] += codes[i + k] == code;
  }
  for (std::uint8_t x : found) sum += x;
#endif
  return sum;
}

// Counts the exponents of a piece; each is looked for in turn, unless these are many.
template <class T>
void count(const T* d, std::int64_t n, std::int64_t* counts) {
  alignas(kBytes) std::uint8_t codes[kSpan<T>];
  for (std::int64_t i = 0; i < n; ++i) codes[i] = code_of(d[i]);
  std::int64_t whole = (n + kBytes - 1) / kBytes * kBytes;
  std::memset(codes + n, codes[0], static_cast<std::size_t>(whole - n));
  std::uint8_t low = kHigh, high = kLow;
#pragma omp simd reduction(min : low) reduction(max : high)
  for (std::int64_t i = 0; i < whole; ++i) {
    low = codes[i] < low ? codes[i] : low;
    high = codes[i] > high ? codes[i] : high;
  }
  if (low == kLow || high == kHigh || high - low > 24) {
    for (std::int64_t i = 0; i < n; ++i) {
      if (d[i] > 0 && d[i] < std::numeric_limits<T>::infinity()) ++counts[bin_of(codes[i])];
    }
    return;
  }
  counts[bin_of(codes[0])] -= whole - n;
  for (int k = low; k <= high; ++k) counts[bin_of(k)] += count_of(static_cast<std::uint8_t>(k), codes, whole);
}

// Whether squares added up in T may have been too large or too small for it.
template <class T>
inline bool doubtful(T sum) {
  return !(sum > (sizeof(T) == sizeof(float) ? T(0x1p-90) : T(0x1p-900)) && sum < std::numeric_limits<T>::infinity());
}

// Σ(a·x)² in double.
template <class T>
double wide_squares(const T* x, double a, std::int64_t n) {
  double sum = 0;
  for (std::int64_t i = 0; i < n; ++i) sum += (a * static_cast<double>(x[i])) * (a * static_cast<double>(x[i]));
  return sum;
}

template <class T>
double wide_sum(const T* x, std::int64_t n) {
  double sum = 0;
  for (std::int64_t i = 0; i < n; ++i) sum += static_cast<double>(x[i]);
  return sum;
}

// The same sums of the gradient as it was given and the parameter as it is stored, where the sweep has seen others.
template <class T>
void see_again(Seen<T>& seen, const T* g, T sign, const T* p, std::int64_t n) {
  T gradient = 0, update = 0, parameter = 0;
  BitsOf<T> largest = 0;
#pragma omp simd reduction(+ : gradient, update, parameter) reduction(max : largest)
  for (std::int64_t i = 0; i < n; ++i) {
    T x = sign * g[i], change = p[i] - seen.p[i];
    BitsOf<T> size = bits_of(size_of(change));
    gradient += x * x;
    update += change * change;
    parameter += p[i] * p[i];
    largest = size > largest ? size : largest;
  }
  seen.sums[rmsprop::kGradient] = gradient;
  seen.sums[rmsprop::kUpdate] = update;
  seen.sums[rmsprop::kParameter] = parameter;
  seen.largest = from_bits<T>(largest);
  seen.least_change = 0;  // it may be
}

template <class T>
void count_rare(const Seen<T>& seen, const T* g, T sign, const T* p, std::int64_t n, Tally& tally) {
  BitsOf<T> nonfinite = 0, zero = 0, unchanged = 0;
#pragma omp simd reduction(+ : nonfinite, zero, unchanged)
  for (std::int64_t i = 0; i < n; ++i) {
    T x = sign * g[i], change = p[i] - seen.p[i];
    nonfinite += !(size_of(x) < limit<T>());
    zero += x == 0;
    unchanged += (x != 0) & (change == 0);
  }
  tally.sums[rmsprop::kNonfinite] += static_cast<double>(nonfinite);
  tally.sums[rmsprop::kZero] += static_cast<double>(zero);
  tally.sums[rmsprop::kUnchanged] += static_cast<double>(unchanged);
}

// Adds a piece to the tally: of the gradient g, the parameter p as it is now, and the average m, null unless centered.
template <class T>
void add_piece(Seen<T>& seen, const rmsprop::Scalars<T>& c, const T* g, const T* p, const T* m, std::int64_t n,
               Tally& tally) {
  using namespace rmsprop;
  const T* s = seen.variance;
  constexpr T infinity = std::numeric_limits<T>::infinity();
  double sums[kSums], largest = static_cast<double>(seen.largest);
  for (int k = 0; k < kSums; ++k) sums[k] = static_cast<double>(seen.sums[k]);
  if (doubtful(seen.sums[kGradient])) sums[kGradient] = wide_squares(g, static_cast<double>(c.sign), n);
  if (doubtful(seen.sums[kParameter])) sums[kParameter] = wide_squares(p, 1, n);
  if (!(seen.sums[kHistory] < infinity)) sums[kHistory] = wide_sum(seen.v, n);
  if (m && doubtful(seen.sums[kSignal])) {
    sums[kSignal] = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      double mean = static_cast<double>(m[i] / c.weight);
      sums[kSignal] += mean * mean;
    }
  }
  if (m && !(seen.sums[kNoise] < infinity)) sums[kNoise] = wide_sum(s, n);
  if (doubtful(seen.sums[kUpdate])) {
    sums[kUpdate] = largest = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      double change = static_cast<double>(p[i]) - static_cast<double>(seen.p[i]), size = size_of(change);
      sums[kUpdate] += change * change;
      largest = largest != largest || size <= largest ? largest : size;
    }
  }
  for (int k = 0; k < (m ? kSums : kSignal); ++k) tally.add(k, sums[k]);
  double& top = tally.sums[kLargest];
  top = top != top || largest <= top ? top : largest;
  // The least s has the least root.
  if (seen.least_s < c.eps_inside || !(root(seen.least_s) >= c.eps_outside)) {
    const T inside = c.eps_inside > 0 ? c.eps_inside : -infinity;  // no s, where ε is outside
    BitsOf<T> eps = 0;
#pragma omp simd reduction(+ : eps)
    for (std::int64_t i = 0; i < n; ++i) eps += (s[i] < inside) | (root(s[i] + c.eps_inside) < c.eps_outside);
    tally.sums[kEps] += static_cast<double>(eps);
  }
  tally.sums[kFloor] += static_cast<double>(seen.floor);
  // A gradient that is not finite, or whose square is not, has made its sum so; a NaN may have hidden a 0.
  if (!(seen.least_change > 0) || !(seen.least_gradient > 0) || !(seen.sums[kGradient] < infinity)) {
    count_rare(seen, g, c.sign, p, n, tally);
  }
  if (tally.bins) count(seen.d, n, tally.bins);
}

}  // namespace
