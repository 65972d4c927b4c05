// The parameters of one optimizer step, gathered from torch's objects and then run.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <optional>
#include <string>
#include <vector>

#include "rows.hpp"

namespace rmsprop {

namespace nb = nanobind;

// Tells once what torch is; raises a Python error if its tensors cannot be read.
void use_torch(nb::handle tensor_class, nb::handle parameter_class, nb::handle increment_version);

// What a gradient does that is not finite: goes into the averages, leaves out the step, or counts as 0.
enum class Nonfinite : std::uint8_t { propagate, skip, zero };

// How a group's parameters are stored and rounded.
struct Precision {
  int state;           // the averages' bits: 16 for bfloat16, 8 for packed ones, 0 for the type that computes
  bool stochastic;     // bfloat16 parameters are rounded by noise
  std::uint32_t seed;  // of all noise
  Nonfinite nonfinite;
};

// run() or finite() of run.hpp; other Python threads go on meanwhile if it is long enough to be worth it.
bool run_released(bool (*what)(const std::vector<Task>&, int, std::int64_t), const std::vector<Task>& tasks, int threads,
                  std::int64_t grain);

// One thread at a time may use a batch, and calls into torch may let another one run: each step needs its own.
class Batch {
 public:
  void clear();

  // Adds the parameters of a group that have a gradient; returns None, or [(number, word)] of those that cannot be
  // added. `first` is the number of the first one in its group.
  nb::object add(const Rule& rule, const Precision& precision, double lr, nb::list params, nb::dict state,
                 std::uint32_t first);

  // The same from parallel lists; those that the rule does not use may be empty.
  nb::object add_lists(const Rule& rule, const Precision& precision, double lr, nb::list params, nb::list grads,
                       nb::list steps, nb::list square_avgs, nb::list grad_avgs, nb::list momentum_buffers,
                       nb::list numbers);

  // Adds a parameter with a sparse gradient, of which `index` has a line for each sparse dimension and a column for each
  // row of `values`; row_step is that of Rows. Returns null, or the word for what the kernel cannot step where it lies.
  using Index = nb::ndarray<nb::numpy, nb::ro, const std::int64_t, nb::ndim<2>, nb::device::cpu>;
  using RowStep = nb::ndarray<nb::numpy, std::int64_t, nb::c_contig, nb::device::cpu>;
  const char* add_rows(const Rule& rule, const Precision& precision, double lr, nb::handle param, Index index,
                       nb::handle values, nb::handle step, nb::handle square_avg, nb::handle grad_avg,
                       nb::handle momentum_buffer, std::optional<RowStep> row_step, std::uint32_t number);

  std::size_t size() const { return entries_.size() + tables_.size(); }

  // Whether the gradients are finite of the groups that leave out the step otherwise.
  bool finite(int threads, std::int64_t grain, double grad_scale);

  // Makes the step, counters first, and forgets the parameters; false if gradients that are not finite counted as 0.
  // At level 1 and 2, parameters that `add` has added are measured, at level 2 with histograms.
  bool run(int threads, std::int64_t grain, double grad_scale, int level);

  // What the last step has measured: the parameters' numbers as bytes of uint32, sums and histograms. The next step that
  // measures writes over the arrays; it is the same object as long as the numbers are the same.
  nb::object measured() const { return measured_; }

 private:
  struct Group {
    Rule rule;
    Form form;
    Precision precision;
    double lr;
  };

  enum class From { parameters, lists, rows };  // the function that has added it: add, add_lists, add_rows

  struct Entry {  // of a parameter
    Arrays arrays;
    Stage stage;
    std::size_t group;
    double* step;  // the counter
    std::uint32_t number;  // in its group
    From from;
  };

  struct Results {  // of what is measured; the arrays that Python sees keep them alive
    std::vector<std::uint32_t> numbers;
    std::vector<double> sums;
    std::vector<std::int64_t> bins;
    std::vector<Tally> tallies;
  };

  struct Table {
    Entry entry;  // as if all of it were stepped, but for its gradient
    Touched touched;
    std::int64_t width;
    std::optional<RowStep> row_step;
  };

  bool work_on(const Table& table, bool (*what)(const Rows&, int, std::int64_t), const Constants& constants, double step,
               int threads, std::int64_t grain);
  PyObject* find(PyObject* state, PyObject* param);
  const char* add_one(nb::handle p, nb::handle g, nb::handle step, nb::handle v, nb::handle m, nb::handle b,
                      std::uint32_t number, From from, nb::handle shape = {});
  void make_room(bool histograms);
  void remember();
  bool disjoint();

  std::vector<Entry> entries_;
  std::vector<Table> tables_;
  std::vector<Group> groups_;
  std::vector<nb::object> held_;  // keep the memory alive while other threads run
  nb::list params_;
  Py_ssize_t cursor_ = 0;          // where in the state the next parameter's entry is expected
  std::vector<Entry> previous_;    // of the last step
  std::optional<bool> disjoint_;   // of previous_, when asked for
  std::string gradient_;
  std::vector<std::uint32_t> numbers_;  // of the parameters to be measured
  Results* results_ = nullptr;     // measured_ owns them
  nb::object measured_ = nb::none();
};

}  // namespace rmsprop
