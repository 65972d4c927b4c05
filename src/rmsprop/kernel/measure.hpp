// The statistics of a chunk, defined in rmsprop/statistics.py. A measured sweep sums while it steps. Rare events are
// counted afterwards, while the chunk is in the cache.
//
// A chunk is summed in the compute dtype; the sums of chunks are added in double. If a square overflows or underflows,
// the chunk is summed again in double.
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

using rmsprop::kChunk;
using rmsprop::kMeasuredChunk;
using rmsprop::Tally;

template <class T>
using BitsOf = std::conditional_t<sizeof(T) == sizeof(float), std::int32_t, std::int64_t>;

// Elements of a chunk that is measured in place. ChunkStats, p, g and v take 56 KiB together.
template <class T>
constexpr std::int64_t kMeasuredSize = kMeasuredChunk * sizeof(float) / sizeof(T);

// Results of a measured sweep over a chunk: p and v before the step, s after E5 (unless s is v or w), d, and sums. The
// least squared gradient, the least squared change and the least s tell whether rare events must be counted.
template <class T>
struct ChunkStats {
  alignas(64) T p[kMeasuredSize<T>], v[kMeasuredSize<T>], s[kMeasuredSize<T>], d[kMeasuredSize<T>];
  const T* variance;  // s, or v or w where s is that
  T sums[rmsprop::kSums], largest, least_change, least_gradient, least_s;  // maxima and minima may miss a NaN
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
constexpr BitsOf<T> kMaxBits = std::numeric_limits<BitsOf<T>>::max();

inline float magnitude(float x) { return __builtin_fabsf(x); }
inline double magnitude(double x) { return __builtin_fabs(x); }

// The smallest positive number whose square is not finite.
template <class T>
constexpr T square_limit() {
  return sizeof(T) == sizeof(float) ? T(0x1p64) : T(0x1p512);
}

// Returns the biased exponent that d has as a float. Smaller exponents and 0 give kLow; larger exponents, ∞ and NaN
// give kHigh.
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
  int k = code - (std::numeric_limits<float>::max_exponent - 1 + rmsprop::kFirstBin);
  return k < 0 ? 0 : k > rmsprop::kBins - 1 ? rmsprop::kBins - 1 : k;
}

// Returns how many of n codes equal `code`. n is a multiple of kBytes.
constexpr std::int64_t kBytes = 64;
inline std::int64_t count_of(std::uint8_t code, const std::uint8_t* codes, std::int64_t n) {
  std::int64_t sum = 0;
#ifdef __AVX512BW__  // compilers do not generate this: count the bits of the comparison masks
  __m512i wanted = _mm512_set1_epi8(static_cast<char>(code));
  for (std::int64_t i = 0; i < n; i += kBytes) {
    sum += __builtin_popcountll(_mm512_cmpeq_epi8_mask(_mm512_load_si512(codes + i), wanted));
  }
#else
  std::uint8_t found[kBytes] = {};
  static_assert(kMeasuredChunk / kBytes < 256);
  for (std::int64_t i = 0; i < n; i += kBytes) {
    for (std::int64_t k = 0; k < kBytes; ++k) found[k] += codes[i + k] == code;
  }
  for (std::uint8_t x : found) sum += x;
#endif
  return sum;
}

// Adds the exponents of a chunk to `counts`: in a vectorised pass per exponent or, if there are many, in a scalar pass.
template <class T>
void count(const T* d, std::int64_t n, std::int64_t* counts) {
  alignas(kBytes) std::uint8_t codes[kMeasuredSize<T>];
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

// Returns whether a sum of squares in T may contain an overflow or an underflow.
template <class T>
inline bool is_unreliable(T sum) {
  return !(sum > (sizeof(T) == sizeof(float) ? T(0x1p-90) : T(0x1p-900)) && sum < std::numeric_limits<T>::infinity());
}

// Σ(a·x)² in double.
template <class T>
double squares_in_double(const T* x, double a, std::int64_t n) {
  double sum = 0;
  for (std::int64_t i = 0; i < n; ++i) sum += (a * static_cast<double>(x[i])) * (a * static_cast<double>(x[i]));
  return sum;
}

template <class T>
double sum_in_double(const T* x, std::int64_t n) {
  double sum = 0;
  for (std::int64_t i = 0; i < n; ++i) sum += static_cast<double>(x[i]);
  return sum;
}

// Sums again with the gradient before zeroing and the parameter as stored: the sweep used other values.
template <class T>
void sum_again(ChunkStats<T>& stats, const T* g, T sign, const T* p, std::int64_t n) {
  T gradient = 0, update = 0, parameter = 0;
  BitsOf<T> largest = 0;
#pragma omp simd reduction(+ : gradient, update, parameter) reduction(max : largest)
  for (std::int64_t i = 0; i < n; ++i) {
    T x = sign * g[i], change = p[i] - stats.p[i];
    BitsOf<T> size = bits_of(magnitude(change));
    gradient += x * x;
    update += change * change;
    parameter += p[i] * p[i];
    largest = size > largest ? size : largest;
  }
  stats.sums[rmsprop::kGradient] = gradient;
  stats.sums[rmsprop::kUpdate] = update;
  stats.sums[rmsprop::kParameter] = parameter;
  stats.largest = from_bits<T>(largest);
  stats.least_change = 0;  // not computed; 0 makes add_chunk() call count_rare()
}

template <class T>
void count_rare(const ChunkStats<T>& stats, const T* g, T sign, const T* p, std::int64_t n, Tally& tally) {
  BitsOf<T> nonfinite = 0, zero = 0, unchanged = 0;
#pragma omp simd reduction(+ : nonfinite, zero, unchanged)
  for (std::int64_t i = 0; i < n; ++i) {
    T x = sign * g[i], change = p[i] - stats.p[i];
    nonfinite += !(magnitude(x) < square_limit<T>());
    zero += x == 0;
    unchanged += (x != 0) & (change == 0);
  }
  tally.sums[rmsprop::kNonfinite] += static_cast<double>(nonfinite);
  tally.sums[rmsprop::kZero] += static_cast<double>(zero);
  tally.sums[rmsprop::kUnchanged] += static_cast<double>(unchanged);
}

// Adds a chunk to the tally. g is the gradient, p the parameter after the step, m the average or null if not centered.
template <class T>
void add_chunk(ChunkStats<T>& stats, const rmsprop::Scalars<T>& c, const T* g, const T* p, const T* m, std::int64_t n,
               Tally& tally) {
  using namespace rmsprop;
  const T* s = stats.variance;
  constexpr T infinity = std::numeric_limits<T>::infinity();
  double sums[kSums], largest = static_cast<double>(stats.largest);
  for (int k = 0; k < kSums; ++k) sums[k] = static_cast<double>(stats.sums[k]);
  if (is_unreliable(stats.sums[kGradient])) sums[kGradient] = squares_in_double(g, static_cast<double>(c.sign), n);
  if (is_unreliable(stats.sums[kParameter])) sums[kParameter] = squares_in_double(p, 1, n);
  if (!(stats.sums[kHistory] < infinity)) sums[kHistory] = sum_in_double(stats.v, n);
  if (m && is_unreliable(stats.sums[kSignal])) {
    sums[kSignal] = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      double mean = static_cast<double>(m[i] / c.one_minus_power);
      sums[kSignal] += mean * mean;
    }
  }
  if (m && !(stats.sums[kNoise] < infinity)) sums[kNoise] = sum_in_double(s, n);
  if (is_unreliable(stats.sums[kUpdate])) {
    sums[kUpdate] = largest = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      double change = static_cast<double>(p[i]) - static_cast<double>(stats.p[i]), size = magnitude(change);
      sums[kUpdate] += change * change;
      largest = largest != largest || size <= largest ? largest : size;
    }
  }
  for (int k = 0; k < (m ? kSums : kSignal); ++k) tally.add(k, sums[k]);
  double& top = tally.sums[kLargest];
  top = top != top || largest <= top ? top : largest;
  // If the root of the least s is not below ε, no root is.
  if (stats.least_s < c.eps_inside || !(root(stats.least_s) >= c.eps_outside)) {
    const T inside = c.eps_inside > 0 ? c.eps_inside : -infinity;  // matches no s if ε is outside
    BitsOf<T> eps = 0;
#pragma omp simd reduction(+ : eps)
    for (std::int64_t i = 0; i < n; ++i) eps += (s[i] < inside) | (root(s[i] + c.eps_inside) < c.eps_outside);
    tally.sums[kEps] += static_cast<double>(eps);
  }
  tally.sums[kFloor] += static_cast<double>(stats.floor);
  // A non-finite gradient or square makes the sum of squares non-finite. The minima may miss a 0 beside a NaN.
  if (!(stats.least_change > 0) || !(stats.least_gradient > 0) || !(stats.sums[kGradient] < infinity)) {
    count_rare(stats, g, c.sign, p, n, tally);
  }
  if (tally.bins) count(stats.d, n, tally.bins);
}

}  // namespace
