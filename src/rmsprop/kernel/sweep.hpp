// What a sweep over one parameter's memory needs: its arrays, the rule's scalars, and which form of the rule it is.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rmsprop {

// What is stored: all but f64 is computed in float. u8 is state of eight bits (low_precision.hpp).
enum class Type : std::uint8_t { f32, f64, bf16, f16, u8 };
constexpr int kTypes = 2;  // those that compute

constexpr std::int64_t bytes_of(Type type) {
  return type == Type::f64 ? 8 : type == Type::f32 ? 4 : type == Type::u8 ? 1 : 2;
}

// Elements of eight bits share a power of two, kBlock at a time; these powers stand behind all elements.
constexpr std::int64_t kBlock = 32;
constexpr std::int64_t packed_size(std::int64_t size) { return size + (size + kBlock - 1) / kBlock; }

enum class Decay : std::uint8_t { none, l2, decoupled };
enum class Momentum : std::uint8_t { none, heavy_ball, nesterov };

// The choices that change which operations there are.
struct Form {
  Decay decay;
  Momentum momentum;
  bool centered, corrected;

  constexpr int index() const {
    return ((static_cast<int>(decay) * 3 + static_cast<int>(momentum)) * 2 + centered) * 2 + corrected;
  }
};
constexpr int kForms = 3 * 3 * 2 * 2;

constexpr Form form_of(int index) {
  return {static_cast<Decay>(index / 12), static_cast<Momentum>(index / 4 % 3), index / 2 % 2 == 1, index % 2 == 1};
}

// The rule's numbers in the type that computes, each rounded once from double.
template <class T>
struct Scalars {
  T sign;                     // E1: 1, or −1 to maximize; divided by the scale of the loss
  T lambda;                   // E2: λ, or η·λ when decoupled
  T beta, fresh;              // E3, E4: β and 1−β
  T start, weight, kappa;     // E5: βᵗ·v₀, 1−βᵗ and κ
  T eps_inside, eps_outside;  // E6: ε and 0, or 0 and ε
  T mu, inner, outer;         // E8, E9: μ; η and 1 if the buffer gathers η·u, else 1 and η
};

// One parameter: m and b are null where the form does not use them.
struct Arrays {
  void* p;
  const void* g;
  void *v, *m, *b;
  std::int64_t size;
  void* seen = nullptr;  // for a sweep that also notes what it sees, a Seen of measure.hpp
};

// What is stepped in stages is so in pieces of this size; ten arrays of float take 20 KiB. What is measured where it lies
// is so in pieces of up to kWide elements: at the end of each, the dividers stand still while its sums are added up.
constexpr std::int64_t kPiece = 512, kWide = 2048;

// What steps did to a parameter: the numbers that rmsprop/statistics.py defines, in its order.
enum Column { kGradient, kUpdate, kParameter, kHistory, kSignal, kNoise, kLargest, kEps, kFloor, kNonfinite, kZero,
              kUnchanged, kColumns };
constexpr int kSums = kLargest;  // the columns before it are sums of numbers, those after it counts
constexpr int kBins = 128, kFirst = -64;

// The sums of a parameter or of a part of it. Parts are added up in any order; with what additions have rounded off kept
// in `rest`, as exactly as if there were twice the digits, the order makes no difference that would be seen.
struct Tally {
  double sums[kColumns] = {}, rest[kSums] = {};
  std::int64_t* bins = nullptr;  // kBins of them, if there is to be a histogram

  // For the first kSums columns; always inlined, as the linker would make one of the copies for all instruction sets.
  [[gnu::always_inline]] void add(int column, double x) {
    double before = sums[column], sum = before + x, part = sum - before;
    sums[column] = sum;
    rest[column] += (before - (sum - part)) + (x - part);
  }
  void add(const Tally& part);
  void write(double* to) const;  // the kColumns sums, with what was rounded off
};

// How the arrays are stored, and how what is computed is stored again.
struct Stage {
  Type param = Type::f32, state = Type::f32;  // of p and g, and of v, m and b
  bool stochastic = false;                    // p is bfloat16 and rounded by noise, as state of fewer bits always is
  bool cleaned = false;                       // gradients that are not finite count as 0
  std::uint32_t keys[4] = {};                 // of the noise for p, v, m and b

  constexpr bool direct() const { return !cleaned && param == state && (param == Type::f32 || param == Type::f64); }
  constexpr std::int64_t block() const { return state == Type::u8 ? kBlock : 1; }  // only whole ones are stepped apart
};

// Steps the elements from begin to end; scalars is a Scalars<float>, for f64 a Scalars<double>.
using Sweep = void (*)(const Arrays&, const void* scalars, std::int64_t begin, std::int64_t end);

// The same in stages, for what a sweep cannot work on directly; false if a gradient had to be cleaned.
// With a tally, the sweep is one that notes what it sees, and what is seen is added to the tally.
using Staged = bool (*)(const Arrays&, const Stage&, Sweep, const void* scalars, std::int64_t begin, std::int64_t end,
                        Tally* tally);

// Whether all gradients, and their squares, are finite.
using Finite = bool (*)(const Arrays&, const Stage&, const void* scalars, std::int64_t begin, std::int64_t end);

// The two for touched rows of a table, by number; see rows.hpp.
struct Rows;
using RowSweep = bool (*)(const Rows&, std::int64_t begin, std::int64_t end);

struct Sweeps {
  Sweep of[kTypes][kForms], measured[kTypes][kForms];
  Staged staged[kTypes];
  Finite finite[kTypes];
  RowSweep rows[kTypes], rows_finite[kTypes];
  Sweep move;  // for measurements: p and v of f32 read and written, g read
};

// One table for each instruction set, from sweep.cpp compiled for it.
namespace baseline {
const Sweeps& sweeps();
}
#ifdef RMSPROP_X86
namespace avx2 {
const Sweeps& sweeps();
}
namespace avx512 {
const Sweeps& sweeps();
}
#endif

}  // namespace rmsprop
