#include "batch.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <deque>
#include <utility>

#include "tensors.hpp"

namespace rmsprop {
namespace {

// Another thread that gets the GIL may keep it for milliseconds. Steps of fewer elements take at most about 10 µs
// and keep the GIL.
constexpr std::int64_t kReleaseFrom = 1 << 15;
constexpr std::int64_t kReleaseSortFrom = 1 << 9;  // entries of a sparse gradient; sorting takes about 20 ns each

PyObject* bump_version;  // torch's function that tells autograd of in-place changes

struct Names {
  PyObject* grad = PyUnicode_InternFromString("grad");
  PyObject* step = PyUnicode_InternFromString("step");
  PyObject* square_avg = PyUnicode_InternFromString("square_avg");
  PyObject* grad_avg = PyUnicode_InternFromString("grad_avg");
  PyObject* momentum_buffer = PyUnicode_InternFromString("momentum_buffer");
  PyObject* max_square_avg = PyUnicode_InternFromString("max_square_avg");
  PyObject* shape = PyUnicode_InternFromString("shape");
};

const Names& names() {
  static const Names n;
  return n;
}

nb::handle item(nb::handle dict, PyObject* key) {
  PyObject* value = PyDict_GetItemWithError(dict.ptr(), key);
  if (!value && PyErr_Occurred()) throw nb::python_error();
  return value;
}

// Computes the row of every entry from its `positions` in a table of this shape. Returns false if one is out of range.
bool flatten_rows(const Batch::Positions& positions, const std::vector<std::int64_t>& shape,
                  std::vector<RowEntry>& entries) {
  for (std::size_t k = 0; k < entries.size(); ++k) {
    std::int64_t row = 0, column = static_cast<std::int64_t>(k);
    for (std::size_t i = 0; i < shape.size(); ++i) {
      std::int64_t line = static_cast<std::int64_t>(i) * positions.stride(0);
      std::int64_t at = positions.data()[line + column * positions.stride(1)];
      if (at < 0 || at >= shape[i]) return false;
      row = row * shape[i] + at;
    }
    entries[k] = {row, column};
  }
  return true;
}

}  // namespace

void use_torch(nb::handle tensor_class, nb::handle parameter_class, nb::handle increment_version) {
  bump_version = increment_version.inc_ref().ptr();
  // torch loads its OpenMP library with global symbols. The libraries of GNU and LLVM both have this function.
  use_team(reinterpret_cast<Team>(dlsym(RTLD_DEFAULT, "GOMP_parallel")));
  if (!register_torch(tensor_class.ptr(), parameter_class.ptr())) throw nb::python_error();
}

bool run_released(bool (*sweep)(const std::vector<Task>&, int, std::int64_t), const std::vector<Task>& tasks,
                  int threads, std::int64_t grain) {
  if (elements(tasks) < kReleaseFrom) return sweep(tasks, threads, grain);
  nb::gil_scoped_release release;
  return sweep(tasks, threads, grain);
}

void Batch::clear() {
  dense_.clear();
  sparse_.clear();
  groups_.clear();
  held_.clear();
  params_ = nb::list();
  cursor_ = 0;
}

nb::object Batch::add(const Rule& rule, const Precision& precision, double lr, nb::list params, nb::dict state,
                      std::uint32_t offset) {
  groups_.push_back({rule, rule.form(), precision, lr});
  nb::list refused;
  for (Py_ssize_t i = 0; i < NB_LIST_GET_SIZE(params.ptr()); ++i) {
    nb::object p = nb::borrow(NB_LIST_GET_ITEM(params.ptr(), i));
    nb::object g = nb::steal(PyObject_GetAttr(p.ptr(), names().grad));
    if (!g.is_valid()) throw nb::python_error();
    if (g.is_none()) continue;
    const char* reason = "state";
    nb::object averages = nb::borrow(find_state(state.ptr(), p.ptr()));
    if (averages.is_valid() && PyDict_Check(averages.ptr())) {
      nb::handle m, b, w, shape, step = item(averages, names().step), v = item(averages, names().square_avg);
      if (precision.state == 8) shape = item(averages, names().shape);
      if (rule.centered) m = item(averages, names().grad_avg);
      if (rule.momentum != 0) b = item(averages, names().momentum_buffer);
      if (rule.amsgrad) w = item(averages, names().max_square_avg);
      bool complete = (m || !rule.centered) && (b || rule.momentum == 0) && (w || !rule.amsgrad);
      if (step && v && complete && (shape || precision.state != 8)) {
        reason = add_param(p, g, step, v, m, b, w, offset + static_cast<std::uint32_t>(i), AddedBy::add, shape);
      }
    }
    if (reason) refused.append(nb::make_tuple(i, reason));
  }
  return refused.size() ? nb::object(refused) : nb::none();
}

nb::object Batch::add_lists(const Rule& rule, const Precision& precision, double lr, nb::list params, nb::list grads,
                            nb::list steps, nb::list square_avgs, nb::list grad_avgs, nb::list momentum_buffers,
                            nb::list max_square_avgs, nb::list indices) {
  groups_.push_back({rule, rule.form(), precision, lr});
  nb::list refused;
  for (std::size_t i = 0; i < params.size(); ++i) {
    nb::object m, b, w;
    if (rule.centered) m = grad_avgs[i];
    if (rule.momentum != 0) b = momentum_buffers[i];
    if (rule.amsgrad) w = max_square_avgs[i];
    nb::object p = params[i], g = grads[i], step = steps[i], v = square_avgs[i];
    auto index = nb::cast<std::uint32_t>(indices[i]);
    const char* reason = add_param(p, g, step, v, m, b, w, index, AddedBy::add_lists);
    if (reason) refused.append(nb::make_tuple(i, reason));
  }
  return refused.size() ? nb::object(refused) : nb::none();
}

bool Batch::finite(int threads, std::int64_t grain, double grad_scale) {
  std::deque<Constants> constants;  // tasks point to its elements, which never move
  std::vector<Task> tasks;
  for (const ParamStep& e : dense_) {
    const Group& group = groups_[e.group];
    if (group.precision.nonfinite != Nonfinite::skip) continue;
    constants.push_back(rmsprop::constants(group.rule, e.storage.state, group.lr, {}, grad_scale));
    tasks.push_back(step_task(e.arrays, e.storage, group.form, constants.back()));
  }
  bool good = run_released(rmsprop::finite, tasks, threads, grain);
  for (const SparseStep& table : sparse_) {
    const Group& group = groups_[table.param_step.group];
    if (group.precision.nonfinite != Nonfinite::skip) continue;
    Constants c = rmsprop::constants(group.rule, table.param_step.storage.state, group.lr, {}, grad_scale);
    good = good && sweep_rows(table, rmsprop::finite, c, 0, threads, grain);
  }
  return good;
}

// Allocates results for the parameters to measure. Reuses the last results if the parameters are the same.
void Batch::allocate_results(bool histograms) {
  indices_.clear();
  for (const ParamStep& e : dense_) {
    if (e.added_by == AddedBy::add) indices_.push_back(e.index);
  }
  std::size_t size = indices_.size();
  if (!results_ || results_->indices != indices_) {
    auto* r = new Results{indices_, std::vector<double>(size * kColumns), std::vector<std::int64_t>(size * kBins),
                          std::vector<Tally>(size)};
    nb::capsule owner(r, [](void* p) noexcept { delete static_cast<Results*>(p); });
    nb::ndarray<nb::numpy, double, nb::ndim<2>> sums(r->sums.data(), {size, kColumns}, owner);
    nb::ndarray<nb::numpy, std::int64_t, nb::ndim<2>> bins(r->bins.data(), {size, kBins}, owner);
    measured_ = nb::make_tuple(nb::bytes(indices_.data(), size * sizeof(std::uint32_t)), sums, bins);
    results_ = r;
  }
  for (std::size_t i = 0; i < size; ++i) {
    results_->tallies[i] = {};
    if (histograms) results_->tallies[i].bins = std::fill_n(&results_->bins[i * kBins], kBins, 0) - kBins;
  }
}

bool Batch::run(int threads, std::int64_t grain, double grad_scale, int level) {
  if (size() == 0 && !level) return clear(), true;
  nb::object none = nb::steal(PyObject_CallFunctionObjArgs(bump_version, params_.ptr(), nullptr));
  if (!none.is_valid()) throw nb::python_error();
  std::deque<Constants> constants;  // tasks point to its elements, which never move
  std::vector<Task> tasks;
  tasks.reserve(dense_.size());
  if (level) allocate_results(level > 1);
  std::size_t previous_group = groups_.size(), measured = 0;
  double previous = 0;
  StepNumbers numbers{};
  Type state = Type::f32;
  for (ParamStep& e : dense_) {
    double step = ++*e.step;
    const Group& group = groups_[e.group];
    bool renumbered = e.group != previous_group || (group.form.corrected && step != previous);
    if (renumbered) numbers = step_numbers(group.rule, step);
    if (renumbered || e.storage.state != state) {
      constants.push_back(rmsprop::constants(group.rule, e.storage.state, group.lr, numbers, grad_scale));
      previous_group = e.group;
      previous = step;
      state = e.storage.state;
    }
    if (e.storage.stochastic || group.precision.state) {
      auto count = static_cast<std::uint32_t>(static_cast<std::int64_t>(step));
      set_keys(e.storage, group.precision.seed, e.index, count);
    }
    Tally* to = level && e.added_by == AddedBy::add ? &results_->tallies[measured++] : nullptr;
    tasks.push_back(step_task(e.arrays, e.storage, group.form, constants.back(), to));
  }
  remember_addresses();
  if (parts(tasks, threads, grain) > 1 && !disjoint()) threads = 1;  // overlapping parameters are stepped in order
  bool good = run_released(rmsprop::run, tasks, threads, grain);
  for (SparseStep& table : sparse_) {
    ParamStep& e = table.param_step;
    const Group& group = groups_[e.group];
    double step = ++*e.step;
    set_keys(e.storage, group.precision.seed, e.index, static_cast<std::uint32_t>(static_cast<std::int64_t>(step)));
    StepNumbers numbers = step_numbers(group.rule, step);
    Constants c = rmsprop::constants(group.rule, e.storage.state, group.lr, numbers, grad_scale);
    good &= sweep_rows(table, rmsprop::run, c, step, threads, grain);
  }
  for (std::size_t i = 0; i < measured; ++i) results_->tallies[i].write(&results_->sums[i * kColumns]);
  clear();
  return good;
}

const char* Batch::add_rows(const Rule& rule, const Precision& precision, double lr, nb::handle param,
                            Positions positions, nb::handle values, nb::handle step, nb::handle square_avg,
                            nb::handle grad_avg, nb::handle momentum_buffer, nb::handle max_square_avg,
                            std::optional<RowStep> row_step, std::uint32_t index) {
  View p, g;
  if (const char* reason = read_view(param.ptr(), p)) return reason;
  if (const char* reason = read_view(values.ptr(), g)) return reason;
  auto dims = static_cast<int>(positions.shape(0));
  auto count = static_cast<std::int64_t>(positions.shape(1));
  if (dims < 1 || dims > p.dims || g.dims != p.dims - dims + 1 || g.shape[0] != count) return "gradient strides";
  if (!std::equal(p.shape + dims, p.shape + p.dims, g.shape + 1)) return "gradient strides";
  std::int64_t size = 1, width = p.complex ? 2 : 1;  // rows of the table, numbers of a row
  for (int i = 0; i < p.dims; ++i) (i < dims ? size : width) *= p.shape[i];
  if (row_step && static_cast<std::int64_t>(row_step->size()) != size) return "state";
  std::vector<std::int64_t> shape(p.shape, p.shape + dims);
  groups_.push_back({rule, rule.form(), precision, lr});
  nb::handle m = rule.centered ? grad_avg : nb::handle(), b = rule.momentum != 0 ? momentum_buffer : nb::handle();
  nb::handle w = rule.amsgrad ? max_square_avg : nb::handle();
  if (const char* reason = add_param(param, values, step, square_avg, m, b, w, index, AddedBy::add_rows)) return reason;
  ParamStep param_step = dense_.back();
  dense_.pop_back();
  TouchedRows rows;
  {
    std::optional<nb::gil_scoped_release> release;  // `positions` keeps its memory alive
    if (count >= kReleaseSortFrom) release.emplace();
    std::vector<RowEntry> entries(static_cast<std::size_t>(count));
    if (!flatten_rows(positions, shape, entries)) return "gradient strides";
    rows = sort_entries(std::move(entries), size);
  }
  sparse_.push_back({param_step, std::move(rows), width, row_step});
  return nullptr;
}

// Calls `sweep` for the touched rows of a table. `step` is the table's step count, including this step.
bool Batch::sweep_rows(const SparseStep& table, bool (*sweep)(const Rows&, int, std::int64_t),
                       const Constants& constants, double step, int threads, std::int64_t grain) {
  const Group& group = groups_[table.param_step.group];
  Rows rows;
  rows.task = step_task(table.param_step.arrays, table.param_step.storage, group.form, constants);
  rows.width = table.width;
  rows.entries = table.touched.entries.data();
  rows.starts = table.touched.starts.data();
  rows.count = static_cast<std::int64_t>(table.touched.starts.size()) - 1;
  rows.row_step = table.row_step ? table.row_step->data() : nullptr;
  rows.step = static_cast<std::int64_t>(step) - 1;
  rows.decay = group.rule.decay;
  if (rows.starts[rows.count] * rows.width < kReleaseFrom) return sweep(rows, threads, grain);
  nb::gil_scoped_release release;
  return sweep(rows, threads, grain);
}

// Returns state[param] or null, borrowed. Tries the entry after the last one found first: the state usually has the
// parameters' order, and hashing a tensor runs slow Python code.
PyObject* Batch::find_state(PyObject* state, PyObject* param) {
  PyObject *key, *value;
  Py_ssize_t next = cursor_;
  if (PyDict_Next(state, &next, &key, &value) && key == param) {
    cursor_ = next;
    return value;
  }
  return item(state, param).ptr();
}

const char* Batch::add_param(nb::handle p, nb::handle g, nb::handle step, nb::handle v, nb::handle m, nb::handle b,
                             nb::handle w, std::uint32_t index, AddedBy added_by, nb::handle shape) {
  const Precision& precision = groups_.back().precision;
  bool rows = added_by == AddedBy::add_rows;
  View param, gradient, counter, state[4];
  if (const char* reason = read_view(p.ptr(), param)) return reason;
  if (const char* reason = read_view(g.ptr(), gradient)) {
    gradient_reason_ = std::string("gradient ") + reason;
    return gradient_reason_.c_str();
  }
  if (param.type == Type::u8) return "dtype";
  if (is_conj_or_neg(p.ptr(), param)) return "flag";
  if (is_conj_or_neg(g.ptr(), gradient)) return "gradient flag";
  if (gradient.type != param.type || gradient.complex != param.complex) return "gradient dtype";
  if (read_view(step.ptr(), counter) || counter.size != 1 || counter.type != Type::f64) return "step";
  Storage storage;
  storage.param = param.type;
  storage.state = param.type == Type::f64 ? Type::f64 : Type::f32;
  if (precision.state && (param.complex || param.type == Type::f64)) return "state";
  if (precision.state) storage.state = precision.state == 16 ? Type::bf16 : Type::u8;
  if (shape && !holds_shape(shape.ptr(), param)) return "state";
  storage.stochastic = precision.stochastic && param.type == Type::bf16;
  storage.zero_nonfinite = precision.nonfinite == Nonfinite::zero;
  const View* all[6] = {&param, &gradient};
  void* memory[4] = {};
  int n = 2;
  for (int k = 0; k < 4; ++k) {
    nb::handle tensor = k == 0 ? v : k == 1 ? m : k == 2 ? b : w;
    if (!tensor) continue;
    if (read_view(tensor.ptr(), state[k])) return "state";
    if (state[k].type != storage.state) return "state";
    memory[k] = state[k].data;
    all[n++] = &state[k];
  }
  if (!is_dense(param)) return "strides";
  if ((storage.state == Type::u8 || rows) && !is_row_major(param)) return "row-major";
  if (rows && (precision.state || !is_row_major(gradient))) return "gradient strides";
  for (int i = 1; i < n; ++i) {
    if (i > 1 && storage.state == Type::u8) {
      if (!is_row_major(*all[i]) || all[i]->size != packed_size(param.size)) return "state";
    } else if (!(rows && i == 1) && !same_layout(param, *all[i])) {
      return i == 1 ? "gradient strides" : "state";
    }
    for (int j = 0; j < i; ++j) {
      if (overlap(*all[i], *all[j])) return "overlap";
    }
  }
  dense_.push_back({{param.data, gradient.data, memory[0], memory[1], memory[2], memory[3], param.size},
                      storage, groups_.size() - 1, static_cast<double*>(counter.data), index, added_by});
  params_.append(p);
  for (nb::handle x : {g, step, v, m, b, w}) {
    if (x) held_.push_back(nb::borrow(x));
  }
  return nullptr;
}

// Stores the parameters' addresses. Resets `disjoint_` if they have changed.
void Batch::remember_addresses() {
  auto same = [](const ParamStep& x, const ParamStep& y) {
    const Arrays &a = x.arrays, &b = y.arrays;
    return a.p == b.p && a.g == b.g && a.v == b.v && a.m == b.m && a.b == b.b && a.w == b.w &&
           a.size == b.size && x.storage.param == y.storage.param && x.storage.state == y.storage.state;
  };
  if (std::equal(previous_.begin(), previous_.end(), dense_.begin(), dense_.end(), same)) return;
  previous_ = dense_;
  disjoint_.reset();
}

// Returns whether no written memory overlaps other memory. The answer is cached until addresses change: sorting takes
// as long as a step of small parameters.
bool Batch::disjoint() {
  if (disjoint_) return *disjoint_;
  struct Piece {
    const char *begin, *end;
    bool written;
  };
  std::vector<Piece> pieces;
  for (const ParamStep& e : dense_) {
    std::int64_t n = e.arrays.size, stored = n * bytes_of(e.storage.param);
    std::int64_t state = e.storage.state == Type::u8 ? packed_size(n) : n * bytes_of(e.storage.state);
    auto add = [&](const void* at, std::int64_t bytes, bool written) {
      auto* begin = static_cast<const char*>(at);
      if (begin && bytes) pieces.push_back({begin, begin + bytes, written});
    };
    add(e.arrays.p, stored, true);
    add(e.arrays.g, stored, false);
    for (const void* at : {e.arrays.v, e.arrays.m, e.arrays.b, e.arrays.w}) add(at, state, true);
  }
  std::sort(pieces.begin(), pieces.end(), [](const Piece& a, const Piece& b) { return a.begin < b.begin; });
  disjoint_ = true;
  const char *any = nullptr, *written = nullptr;  // end of all pieces so far; end of the written ones
  for (const Piece& piece : pieces) {
    if (piece.begin < (piece.written ? any : written)) disjoint_ = false;
    any = std::max(any, piece.end);
    if (piece.written) written = std::max(written, piece.end);
  }
  return *disjoint_;
}

}  // namespace rmsprop
