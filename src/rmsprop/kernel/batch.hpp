// The parameters of one optimizer step: gathered from torch's objects, then stepped.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <optional>
#include <string>
#include <vector>

#include "rows.hpp"

namespace rmsprop {

namespace nb = nanobind;

// Registers torch's classes, once. Raises a Python error if torch has no exchange functions: use_methods() is needed.
void use_torch(nb::handle tensor_class, nb::handle parameter_class, nb::handle increment_version);

// What non-finite gradients do: enter the averages, skip the step, or count as 0.
enum class Nonfinite : std::uint8_t { propagate, skip, zero };

// How a group's parameters are stored and rounded.
struct Precision {
  int state;           // bits of the averages: 16 for bfloat16, 8 for packed, 0 for the compute dtype
  bool stochastic;     // round bfloat16 parameters stochastically
  std::uint32_t seed;  // of the noise
  Nonfinite nonfinite;
};

// Calls run() or finite() of run.hpp. Releases Python's GIL if the tasks are large enough.
bool run_released(bool (*sweep)(const std::vector<Task>&, int, std::int64_t), const std::vector<Task>& tasks,
                  int threads, std::int64_t grain);

// Not thread-safe, and calls into torch may switch threads: each concurrent step needs its own batch.
class Batch {
 public:
  void clear();

  // Adds the parameters that have a gradient. Returns None, or [(position in params, reason)] of those refused.
  // `offset` is the index of params[0] among all parameters of the optimizer.
  nb::object add(const Rule& rule, const Precision& precision, double lr, nb::list params, nb::dict state,
                 std::uint32_t offset);

  // Adds parameters from parallel lists. Lists that the rule does not use may be empty.
  nb::object add_lists(const Rule& rule, const Precision& precision, double lr, nb::list params, nb::list grads,
                       nb::list steps, nb::list square_avgs, nb::list grad_avgs, nb::list momentum_buffers,
                       nb::list max_square_avgs, nb::list indices);

  // Adds a parameter with a sparse gradient. `positions` has the shape (sparse dimensions, entries), `values` a row for
  // each entry; row_step is described in Rows. Returns null, or why the kernel cannot step the rows in place.
  using Positions = nb::ndarray<nb::numpy, nb::ro, const std::int64_t, nb::ndim<2>, nb::device::cpu>;
  using RowStep = nb::ndarray<nb::numpy, std::int64_t, nb::c_contig, nb::device::cpu>;
  const char* add_rows(const Rule& rule, const Precision& precision, double lr, nb::handle param, Positions positions,
                       nb::handle values, nb::handle step, nb::handle square_avg, nb::handle grad_avg,
                       nb::handle momentum_buffer, nb::handle max_square_avg, std::optional<RowStep> row_step,
                       std::uint32_t index);

  std::size_t size() const { return dense_.size() + sparse_.size(); }

  // Returns whether gradients and their squares are finite in all groups with Nonfinite::skip.
  bool finite(int threads, std::int64_t grain, double grad_scale);

  // Increments the step counters, steps, and clears the batch. Returns false if it zeroed a non-finite gradient.
  // Level 1 measures the parameters that `add` added; level 2 also computes their histograms.
  bool run(int threads, std::int64_t grain, double grad_scale, int level);

  // Statistics of the last measured step: parameter indices (uint32 as bytes), sums, histograms. The next measured step
  // overwrites the arrays. The object stays the same while the indices stay the same.
  nb::object measured() const { return measured_; }

 private:
  struct Group {
    Rule rule;
    Form form;
    Precision precision;
    double lr;
  };

  enum class AddedBy { add, add_lists, add_rows };

  struct ParamStep {
    Arrays arrays;
    Storage storage;
    std::size_t group;
    double* step;
    std::uint32_t index;  // among all parameters of the optimizer
    AddedBy added_by;
  };

  struct Results {  // statistics; kept alive by the arrays that Python sees
    std::vector<std::uint32_t> indices;
    std::vector<double> sums;
    std::vector<std::int64_t> bins;
    std::vector<Tally> tallies;
  };

  struct SparseStep {
    ParamStep param_step;  // of the whole table; its gradient holds the rows of the entries
    TouchedRows touched;
    std::int64_t width;
    std::optional<RowStep> row_step;
  };

  bool sweep_rows(const SparseStep& table, bool (*sweep)(const Rows&, int, std::int64_t), const Constants& constants,
                  double step, int threads, std::int64_t grain);
  PyObject* find_state(PyObject* state, PyObject* param);
  const char* add_param(nb::handle p, nb::handle g, nb::handle step, nb::handle v, nb::handle m, nb::handle b,
                        nb::handle w, std::uint32_t index, AddedBy added_by, nb::handle shape = {});
  void allocate_results(bool histograms);
  void remember_addresses();
  bool disjoint();

  std::vector<ParamStep> dense_;
  std::vector<SparseStep> sparse_;
  std::vector<Group> groups_;
  std::vector<nb::object> held_;      // keeps memory alive while other threads run
  nb::list params_;                   // changed in place by this step
  Py_ssize_t cursor_ = 0;             // expected position of the next parameter in the state dict
  std::vector<ParamStep> previous_;   // of the last step
  std::optional<bool> disjoint_;      // of previous_; computed on demand
  std::string gradient_reason_;
  std::vector<std::uint32_t> indices_;  // of the parameters to measure
  Results* results_ = nullptr;        // owned by measured_
  nb::object measured_ = nb::none();
};

}  // namespace rmsprop
