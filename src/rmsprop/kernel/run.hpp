// Steps many parameters: picks the instruction set and divides the work among threads.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "sweep.hpp"

namespace rmsprop {

// A rule: the fields of rmsprop.Rule without lr, in double.
struct Rule {
  double decay, eps, momentum, weight_decay;
  bool centered, nesterov, eps_inside_sqrt;
  double initial_square_avg;
  bool lr_in_momentum, bias_correction, decoupled_weight_decay, maximize, first_moment;
  double momentum_decay;
  bool amsgrad;

  Form form() const;
};

// The numbers of E5 and E7 that depend on the step: βᵗ, 0 without bias correction, and the weights a and c.
struct StepNumbers {
  double power, a, c;
};

// Computes the numbers of step t with the operations of rule.py: they have the same bits.
StepNumbers step_numbers(const Rule& rule, double t);

// The rule's scalars for one step, in both compute dtypes.
struct Constants {
  Scalars<float> f32;
  Scalars<double> f64;
};

// Gradients are divided by `grad_scale` first. `state` sets κ of E5, which covers the rounding noise of the averages.
Constants constants(const Rule& rule, Type state, double lr, const StepNumbers& numbers, double grad_scale = 1);

// One parameter's memory and its sweep. With a tally the step is measured.
struct Task {
  Arrays arrays;
  Storage storage;
  Sweep sweep;
  Staged staged;
  Finite finite;
  const void* scalars;
  Tally* tally;

  bool direct() const { return !tally && storage.direct(); }
  std::int64_t block() const { return tally ? kMeasuredChunk : storage.block(); }
};

// Returns the step of `form` in the instruction set in use. `constants` and `tally` must outlive the task.
Task step_task(const Arrays& arrays, const Storage& storage, Form form, const Constants& constants,
               Tally* tally = nullptr);

// Sets the keys of the noise for p, v, m, b and w of parameter `index` in step `step`.
void set_keys(Storage& storage, std::uint32_t seed, std::uint32_t index, std::uint32_t step);

// For benchmarks: moves as many bytes as a plain float32 step, with two additions per element.
Task move_task(const Arrays& arrays);

// Returns the number of elements in all tasks.
std::int64_t elements(const std::vector<Task>& tasks);

// Returns how many threads run() uses: at most `threads`, each with at least `grain` elements. Grain 0 is the default:
// with fewer elements a thread costs more than it saves (measured by benchmarks/threads.py).
std::int64_t parts(const std::vector<Task>& tasks, int threads, std::int64_t grain);

// Steps every task: one thread in order, several threads in parallel. Returns false if it zeroed a non-finite gradient.
bool run(const std::vector<Task>& tasks, int threads, std::int64_t grain);

// Returns whether all gradients and their squares are finite. Steps nothing.
bool finite(const std::vector<Task>& tasks, int threads, std::int64_t grain);

// Calls `work(begin, end)` for ranges that cover `count` items of `each` elements, on threads as run() does.
bool share(std::int64_t count, std::int64_t each, int threads, std::int64_t grain,
           const std::function<bool(std::int64_t begin, std::int64_t end)>& work);

// Signature of OpenMP's GOMP_parallel(function, argument, threads, flags), which runs a function on a team of threads.
using Team = void (*)(void (*)(void*), void*, unsigned, unsigned);

// Makes run() use this team from now on. If `team` is null, run() starts threads of its own.
void use_team(Team team);
bool has_team();

// For tests and benchmarks: true starts threads although there is a team, false uses the team again.
void use_own_threads(bool own);

// The instruction sets of this processor, best first, and the one in use (default: the best).
const std::vector<std::string>& instruction_sets();
std::string instruction_set();
const Sweeps& sweeps_in_use();
bool use_instruction_set(const std::string& name);

}  // namespace rmsprop
