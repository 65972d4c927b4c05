// What a sweep over one parameter's memory needs: its arrays, the rule's scalars, and which form of the rule it is.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rmsprop {

// What is stored: half types are computed in float, with float state.
enum class Type : std::uint8_t { f32, f64, bf16, f16 };
constexpr int kTypes = 4;

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
};

// Steps the elements from begin to end; scalars is a Scalars<float>, for f64 a Scalars<double>.
using Sweep = void (*)(const Arrays&, const void* scalars, std::int64_t begin, std::int64_t end);

struct Sweeps {
  Sweep of[kTypes][kForms];
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
