// Runs the rule over many parameters: picks the instruction set and shares the work out to threads.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "sweep.hpp"

namespace rmsprop {

// A rule in doubles; the fields are those of rmsprop.Rule.
struct Rule {
  double decay, eps, momentum, weight_decay;
  bool centered, nesterov, eps_inside_sqrt;
  double initial_square_avg;
  bool lr_in_momentum, bias_correction, decoupled_weight_decay, maximize;

  Form form() const;
};

// The rule's scalars for one step, in both types that compute.
struct Constants {
  Scalars<float> f32;
  Scalars<double> f64;
};

// power is βᵗ, used for bias correction only; gradients are divided by grad_scale first. E5's floor lies at the rounding
// noise of the state.
Constants constants(const Rule& rule, Type state, double lr, double power, double grad_scale = 1);

// One parameter's memory and what to do with it; without a tally it is not measured.
struct Task {
  Arrays arrays;
  Stage stage;
  Sweep sweep;
  Staged staged;
  Finite finite;
  const void* scalars;
  Tally* tally;

  bool direct() const { return !tally && stage.direct(); }
  std::int64_t block() const { return tally ? kWide : stage.block(); }
};

// The step of `form`, in the instruction set in use; `constants` and `tally` must outlive the task.
Task step_task(const Arrays& arrays, const Stage& stage, Form form, const Constants& constants,
               Tally* tally = nullptr);

// The noise's keys for p, v, m and b of parameter `number` in step `step`.
void set_keys(Stage& stage, std::uint32_t seed, std::uint32_t number, std::uint32_t step);

// For measurements: moves as many bytes as a plain step of float32 does, with hardly any arithmetic.
Task move_task(const Arrays& arrays);

// The number of elements in all tasks.
std::int64_t elements(const std::vector<Task>& tasks);

// Into how many parts run() divides the work: at most one for each thread, none smaller than `grain` elements. A grain
// of 0 stands for the one below which a thread costs more than it saves, as benchmarks/threads.py has measured it.
std::int64_t parts(const std::vector<Task>& tasks, int threads, std::int64_t grain);

// Steps every task, in order; in parts, if there are several, at once. Returns false if gradients had to be cleaned.
bool run(const std::vector<Task>& tasks, int threads, std::int64_t grain);

// Whether all gradients, and their squares, are finite; steps nothing.
bool finite(const std::vector<Task>& tasks, int threads, std::int64_t grain);

// Does `work` for the numbers from begin to end, in parts as run() does; each number stands for `each` elements.
bool share(std::int64_t count, std::int64_t each, int threads, std::int64_t grain,
           const std::function<bool(std::int64_t begin, std::int64_t end)>& work);

// OpenMP's way to run a function on a team of threads (GOMP_parallel: function, argument, threads, flags).
using Team = void (*)(void (*)(void*), void*, unsigned, unsigned);

// From now on run() works on this team; null for threads of its own.
void use_team(Team team);
bool has_team();

// For tests and measurements: threads of its own although there is a team; false takes the team again.
void use_own_threads(bool own);

// The instruction sets that this processor has, best first, and the one in use (the best unless another is chosen).
const std::vector<std::string>& instruction_sets();
std::string instruction_set();
const Sweeps& sweeps_in_use();
bool use_instruction_set(const std::string& name);

}  // namespace rmsprop
