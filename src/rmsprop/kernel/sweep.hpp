// A sweep steps one parameter: its arrays, the rule's scalars, the form of the rule, and the types in memory.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rmsprop {

// Type in memory. The compute dtype is double for f64 and float for all others. u8 is 8-bit state (low_precision.hpp).
enum class Type : std::uint8_t { f32, f64, bf16, f16, u8 };
constexpr int kComputeTypes = 2;  // f32, f64

constexpr std::int64_t bytes_of(Type type) {
  return type == Type::f64 ? 8 : type == Type::f32 ? 4 : type == Type::u8 ? 1 : 2;
}

// kBlock elements of 8 bits share a power of two. The powers are stored after the last element.
constexpr std::int64_t kBlock = 32;
constexpr std::int64_t packed_size(std::int64_t size) { return size + (size + kBlock - 1) / kBlock; }

enum class Decay : std::uint8_t { none, l2, decoupled };
// The momentum of E8, or that of E7 with first_moment, without or with nesterov.
enum class Momentum : std::uint8_t { none, heavy_ball, nesterov, first_moment, first_nesterov };

// Options of the rule that change which operations a step has.
struct Form {
  Decay decay;
  Momentum momentum;
  bool centered, corrected, amsgrad;

  constexpr int index() const {
    return (((static_cast<int>(decay) * 5 + static_cast<int>(momentum)) * 2 + centered) * 2 + corrected) * 2 + amsgrad;
  }
  constexpr bool has_buffer() const { return momentum != Momentum::none; }
  constexpr bool first_moment() const { return momentum >= Momentum::first_moment; }
};
constexpr int kForms = 3 * 5 * 2 * 2 * 2;

constexpr Form form_of(int index) {
  return {static_cast<Decay>(index / 40), static_cast<Momentum>(index / 8 % 5), index / 4 % 2 == 1, index / 2 % 2 == 1,
          index % 2 == 1};
}

// The rule's numbers in the compute dtype, each rounded once from double.
template <class T>
struct Scalars {
  T sign;                                      // E1: 1, or −1 to maximize; divided by the loss scale
  T lambda;                                    // E2: λ, or η·λ when decoupled
  T beta, one_minus_beta;                      // E3, E4: β and 1−β
  T decayed_v0, one_minus_power, kappa;        // E5: βᵗ·v₀, 1−βᵗ and κ
  T eps_inside, eps_outside;                   // E6: ε and 0, or 0 and ε
  T one_minus_mu, a, c;                        // E7: 1−μ; a and c
  T mu, lr_inside, lr_outside;                 // E8, E9: μ; η and 1 if the buffer sums η·u, else 1 and η
};

// Memory of one parameter. m, b and w are null if the form does not use them.
struct Arrays {
  void* p;
  const void* g;
  void *v, *m, *b, *w;
  std::int64_t size;
  void* stats = nullptr;  // for a measured sweep: a ChunkStats of measure.hpp
};

// Chunk sizes: of staged sweeps with statistics, of staged sweeps without, and of sweeps that are measured in place. The
// second is small: a processor looks a few hundred instructions ahead, and then packs one chunk beside the roots and
// divisions of the next. The others are larger: the dividers idle while a chunk's sums are added to the tally.
constexpr std::int64_t kChunk = 512, kPackedChunk = 256, kMeasuredChunk = 2048;

// The statistics of a step, defined in rmsprop/statistics.py, in the order of its columns.
enum Column { kGradient, kUpdate, kParameter, kHistory, kSignal, kNoise, kLargest, kEps, kFloor, kNonfinite, kZero,
              kUnchanged, kColumns };
constexpr int kSums = kLargest;  // columns before kLargest are sums, columns after it are counts
constexpr int kBins = 128, kFirstBin = -64;

// Statistics of a parameter or of a part of it. Threads add parts in any order. `rounding` collects the rounding errors
// of the sums and so doubles their digits: the order changes no visible digit.
struct Tally {
  double sums[kColumns] = {}, rounding[kSums] = {};
  std::int64_t* bins = nullptr;  // kBins counts; null without a histogram

  // For the first kSums columns. Inlined, or the linker would merge the copies of all instruction sets into one.
  [[gnu::always_inline]] void add(int column, double x) {
    double before = sums[column], sum = before + x, part = sum - before;
    sums[column] = sum;
    rounding[column] += (before - (sum - part)) + (x - part);
  }
  void add(const Tally& part);
  void write(double* to) const;  // kColumns sums, corrected by the rounding errors
};

// How the arrays are stored, and how results are rounded.
struct Storage {
  Type param = Type::f32, state = Type::f32;  // of p and g; of the averages
  bool stochastic = false;                    // round bfloat16 p stochastically; low-precision state always is
  bool zero_nonfinite = false;                // non-finite gradients count as 0
  std::uint32_t keys[5] = {};                 // of the noise for p, v, m, b and w

  constexpr bool direct() const {  // a sweep can step this memory without conversion
    return !zero_nonfinite && param == state && (param == Type::f32 || param == Type::f64);
  }
  constexpr std::int64_t block() const { return state == Type::u8 ? kBlock : 1; }  // threads get whole blocks
};

// Steps the elements from begin to end. `scalars` is a Scalars<float>, for f64 a Scalars<double>.
using Sweep = void (*)(const Arrays&, const void* scalars, std::int64_t begin, std::int64_t end);

// Steps, chunk by chunk, arrays that a sweep cannot step directly. Returns false if it zeroed a non-finite gradient.
// With a tally, `Sweep` is a measured sweep; its statistics are added to the tally.
using Staged = bool (*)(const Arrays&, const Storage&, Sweep, const void* scalars, std::int64_t begin, std::int64_t end,
                        Tally* tally);

// Returns whether all gradients and their squares are finite.
using Finite = bool (*)(const Arrays&, const Storage&, const void* scalars, std::int64_t begin, std::int64_t end);

// A sweep or a finite check of the touched rows of a table from index begin to end; see rows.hpp.
struct Rows;
using RowSweep = bool (*)(const Rows&, std::int64_t begin, std::int64_t end);

struct Sweeps {
  Sweep plain[kComputeTypes][kForms], measured[kComputeTypes][kForms];
  Staged staged[kComputeTypes];
  Finite finite[kComputeTypes];
  RowSweep rows[kComputeTypes], rows_finite[kComputeTypes];
  Sweep move;  // for benchmarks: reads and writes p and v, reads g, all f32
};

// One table per instruction set: sweep.cpp is compiled once for each.
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
