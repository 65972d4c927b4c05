#include "batch.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <utility>

#include "tensors.hpp"

namespace rmsprop {
namespace {

// Letting other Python threads run costs little, but one that computes may then keep us waiting for milliseconds:
// below this many elements (some 10 µs) the step is over sooner.
constexpr std::int64_t kReleaseFrom = 1 << 15;
constexpr std::int64_t kReleaseSortFrom = 1 << 9;  // entries of a sparse gradient, to be put in order, some 20 ns each

PyObject* bump_version;  // torch's: tells autograd that tensors were changed in place

struct Names {
  PyObject* grad = PyUnicode_InternFromString("grad");
  PyObject* step = PyUnicode_InternFromString("step");
  PyObject* square_avg = PyUnicode_InternFromString("square_avg");
  PyObject* grad_avg = PyUnicode_InternFromString("grad_avg");
  PyObject* momentum_buffer = PyUnicode_InternFromString("momentum_buffer");
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

// Gives every column of `index` the number of its row in a table of this shape; false if there is none.
bool number_rows(const Batch::Index& index, const std::vector<std::int64_t>& shape,
                 std::vector<rmsprop::Entry>& entries) {
  for (std::size_t k = 0; k < entries.size(); ++k) {
    std::int64_t row = 0, column = static_cast<std::int64_t>(k);
    for (std::size_t i = 0; i < shape.size(); ++i) {
      std::int64_t place = index.data()[static_cast<std::int64_t>(i) * index.stride(0) + column * index.stride(1)];
      if (place < 0 || place >= shape[i]) return false;
      row = row * shape[i] + place;
    }
    entries[k] = {row, column};
  }
  return true;
}

}  // namespace

void use_torch(nb::handle tensor_class, nb::handle parameter_class, nb::handle increment_version) {
  if (!learn_torch(tensor_class.ptr(), parameter_class.ptr())) throw nb::python_error();
  bump_version = increment_version.inc_ref().ptr();
  // torch loads its OpenMP library for all to see; GNU's and LLVM's both have this function.
  use_team(reinterpret_cast<Team>(dlsym(RTLD_DEFAULT, "GOMP_parallel")));
}

bool run_released(bool (*what)(const std::vector<Task>&, int, std::int64_t), const std::vector<Task>& tasks, int threads,
                  std::int64_t grain) {
  if (elements(tasks) < kReleaseFrom) return what(tasks, threads, grain);
  nb::gil_scoped_release release;
  return what(tasks, threads, grain);
}

void Batch::clear() {
  entries_.clear();
  tables_.clear();
  groups_.clear();
  held_.clear();
  params_ = nb::list();
  cursor_ = 0;
}

nb::object Batch::add(const Rule& rule, const Precision& precision, double lr, nb::list params, nb::dict state,
                      std::uint32_t first) {
  groups_.push_back({rule, rule.form(), precision, lr});
  nb::list refused;
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(params.ptr()); ++i) {
    nb::object p = nb::borrow(PyList_GET_ITEM(params.ptr(), i));
    nb::object g = nb::steal(PyObject_GetAttr(p.ptr(), names().grad));
    if (!g.is_valid()) throw nb::python_error();
    if (g.is_none()) continue;
    const char* why = "state";
    nb::object own = nb::borrow(find(state.ptr(), p.ptr()));
    if (own.is_valid() && PyDict_Check(own.ptr())) {
      nb::handle m, b, shape, step = item(own, names().step), v = item(own, names().square_avg);
      if (precision.state == 8) shape = item(own, names().shape);
      if (rule.centered) m = item(own, names().grad_avg);
      if (rule.momentum != 0) b = item(own, names().momentum_buffer);
      if (step && v && (m || !rule.centered) && (b || rule.momentum == 0) && (shape || precision.state != 8)) {
        why = add_one(p, g, step, v, m, b, first + static_cast<std::uint32_t>(i), From::parameters, shape);
      }
    }
    if (why) refused.append(nb::make_tuple(i, why));
  }
  return refused.size() ? nb::object(refused) : nb::none();
}

nb::object Batch::add_lists(const Rule& rule, const Precision& precision, double lr, nb::list params, nb::list grads,
                            nb::list steps, nb::list square_avgs, nb::list grad_avgs, nb::list momentum_buffers,
                            nb::list numbers) {
  groups_.push_back({rule, rule.form(), precision, lr});
  nb::list refused;
  for (std::size_t i = 0; i < params.size(); ++i) {
    nb::object m, b;
    if (rule.centered) m = grad_avgs[i];
    if (rule.momentum != 0) b = momentum_buffers[i];
    nb::object p = params[i], g = grads[i], step = steps[i], v = square_avgs[i];
    auto number = nb::cast<std::uint32_t>(numbers[i]);
    if (const char* why = add_one(p, g, step, v, m, b, number, From::lists)) refused.append(nb::make_tuple(i, why));
  }
  return refused.size() ? nb::object(refused) : nb::none();
}

bool Batch::finite(int threads, std::int64_t grain, double grad_scale) {
  std::deque<Constants> constants;  // addresses stay
  std::vector<Task> tasks;
  for (const Entry& e : entries_) {
    const Group& own = groups_[e.group];
    if (own.precision.nonfinite != Nonfinite::skip) continue;
    constants.push_back(rmsprop::constants(own.rule, e.stage.state, own.lr, 0, grad_scale));
    tasks.push_back(step_task(e.arrays, e.stage, own.form, constants.back()));
  }
  bool good = run_released(rmsprop::finite, tasks, threads, grain);
  for (const Table& table : tables_) {
    const Group& own = groups_[table.entry.group];
    if (own.precision.nonfinite != Nonfinite::skip) continue;
    Constants c = rmsprop::constants(own.rule, table.entry.stage.state, own.lr, 0, grad_scale);
    good = good && work_on(table, rmsprop::finite, c, 0, threads, grain);
  }
  return good;
}

// Makes the tallies of the parameters to be measured, those of the last time if these were the same ones.
void Batch::make_room(bool histograms) {
  numbers_.clear();
  for (const Entry& e : entries_) {
    if (e.from == From::parameters) numbers_.push_back(e.number);
  }
  std::size_t size = numbers_.size();
  if (!results_ || results_->numbers != numbers_) {
    auto* r = new Results{numbers_, std::vector<double>(size * kColumns), std::vector<std::int64_t>(size * kBins),
                          std::vector<Tally>(size)};
    nb::capsule owner(r, [](void* p) noexcept { delete static_cast<Results*>(p); });
    nb::ndarray<nb::numpy, double, nb::ndim<2>> sums(r->sums.data(), {size, kColumns}, owner);
    nb::ndarray<nb::numpy, std::int64_t, nb::ndim<2>> bins(r->bins.data(), {size, kBins}, owner);
    measured_ = nb::make_tuple(nb::bytes(numbers_.data(), size * sizeof(std::uint32_t)), sums, bins);
    results_ = r;
  }
  for (std::size_t i = 0; i < size; ++i) {
    results_->tallies[i] = {};
    if (histograms) results_->tallies[i].bins = std::fill_n(&results_->bins[i * kBins], kBins, 0) - kBins;
  }
}

bool Batch::run(int threads, std::int64_t grain, double grad_scale, int level) {
  if (size() == 0 && !level) return clear(), true;
  nb::object none = nb::steal(PyObject_CallOneArg(bump_version, params_.ptr()));
  if (!none.is_valid()) throw nb::python_error();
  std::deque<Constants> constants;  // addresses stay
  std::vector<Task> tasks;
  tasks.reserve(entries_.size());
  if (level) make_room(level > 1);
  std::size_t group = groups_.size(), measured = 0;
  double previous = 0;
  Type state = Type::f32;
  for (Entry& e : entries_) {
    double step = ++*e.step;
    const Group& own = groups_[e.group];
    if (e.group != group || (own.form.corrected && step != previous) || e.stage.state != state) {
      double power = own.form.corrected ? std::pow(own.rule.decay, step) : 0;
      constants.push_back(rmsprop::constants(own.rule, e.stage.state, own.lr, power, grad_scale));
      group = e.group;
      previous = step;
      state = e.stage.state;
    }
    if (e.stage.stochastic || own.precision.state) {
      auto count = static_cast<std::uint32_t>(static_cast<std::int64_t>(step));
      set_keys(e.stage, own.precision.seed, e.number, count);
    }
    Tally* to = level && e.from == From::parameters ? &results_->tallies[measured++] : nullptr;
    tasks.push_back(step_task(e.arrays, e.stage, own.form, constants.back(), to));
  }
  remember();
  if (parts(tasks, threads, grain) > 1 && !disjoint()) threads = 1;  // one parameter after another
  bool good = run_released(rmsprop::run, tasks, threads, grain);
  for (Table& table : tables_) {
    Entry& e = table.entry;
    const Group& own = groups_[e.group];
    double step = ++*e.step;
    double power = own.form.corrected ? std::pow(own.rule.decay, step) : 0;
    set_keys(e.stage, own.precision.seed, e.number, static_cast<std::uint32_t>(static_cast<std::int64_t>(step)));
    Constants c = rmsprop::constants(own.rule, e.stage.state, own.lr, power, grad_scale);
    good &= work_on(table, rmsprop::run, c, step, threads, grain);
  }
  for (std::size_t i = 0; i < measured; ++i) results_->tallies[i].write(&results_->sums[i * kColumns]);
  clear();
  return good;
}

const char* Batch::add_rows(const Rule& rule, const Precision& precision, double lr, nb::handle param, Index index,
                            nb::handle values, nb::handle step, nb::handle square_avg, nb::handle grad_avg,
                            nb::handle momentum_buffer, std::optional<RowStep> row_step, std::uint32_t number) {
  View p, g;
  if (const char* why = see(param.ptr(), p)) return why;
  if (const char* why = see(values.ptr(), g)) return why;
  auto dims = static_cast<int>(index.shape(0));
  auto count = static_cast<std::int64_t>(index.shape(1));
  if (dims < 1 || dims > p.dims || g.dims != p.dims - dims + 1 || g.shape[0] != count) return "gradient strides";
  if (!std::equal(p.shape + dims, p.shape + p.dims, g.shape + 1)) return "gradient strides";
  std::int64_t size = 1, width = p.complex ? 2 : 1;  // of the table in rows, of a row in numbers
  for (int i = 0; i < p.dims; ++i) (i < dims ? size : width) *= p.shape[i];
  if (row_step && static_cast<std::int64_t>(row_step->size()) != size) return "state";
  std::vector<std::int64_t> shape(p.shape, p.shape + dims);
  groups_.push_back({rule, rule.form(), precision, lr});
  nb::handle m = rule.centered ? grad_avg : nb::handle(), b = rule.momentum != 0 ? momentum_buffer : nb::handle();
  if (const char* why = add_one(param, values, step, square_avg, m, b, number, From::rows)) return why;
  Entry entry = entries_.back();
  entries_.pop_back();
  Touched rows;
  {
    std::optional<nb::gil_scoped_release> release;  // nothing here is Python's but the memory of `index`, which owns it
    if (count >= kReleaseSortFrom) release.emplace();
    std::vector<rmsprop::Entry> entries(static_cast<std::size_t>(count));
    if (!number_rows(index, shape, entries)) return "gradient strides";
    rows = touched(std::move(entries), size);
  }
  tables_.push_back({entry, std::move(rows), width, row_step});
  return nullptr;
}

// Does `what` with the touched rows of a table, whose step is now number `step`.
bool Batch::work_on(const Table& table, bool (*what)(const Rows&, int, std::int64_t), const Constants& constants,
                    double step, int threads, std::int64_t grain) {
  const Group& own = groups_[table.entry.group];
  Rows rows;
  rows.task = step_task(table.entry.arrays, table.entry.stage, own.form, constants);
  rows.width = table.width;
  rows.entries = table.touched.entries.data();
  rows.starts = table.touched.starts.data();
  rows.count = static_cast<std::int64_t>(table.touched.starts.size()) - 1;
  rows.row_step = table.row_step ? table.row_step->data() : nullptr;
  rows.step = static_cast<std::int64_t>(step) - 1;
  rows.decay = own.rule.decay;
  if (rows.starts[rows.count] * rows.width < kReleaseFrom) return what(rows, threads, grain);
  nb::gil_scoped_release release;
  return what(rows, threads, grain);
}

// Returns state[param] or null, borrowed. Hashing a tensor runs Python code; but the state is in the order of the
// parameters, so that the entry after the last one found is nearly always the right one.
PyObject* Batch::find(PyObject* state, PyObject* param) {
  PyObject *key, *value;
  Py_ssize_t next = cursor_;
  if (PyDict_Next(state, &next, &key, &value) && key == param) {
    cursor_ = next;
    return value;
  }
  return item(state, param).ptr();
}

const char* Batch::add_one(nb::handle p, nb::handle g, nb::handle step, nb::handle v, nb::handle m, nb::handle b,
                           std::uint32_t number, From from, nb::handle shape) {
  const Precision& precision = groups_.back().precision;
  bool rows = from == From::rows;
  View param, gradient, counter, state[3];
  if (const char* why = see(p.ptr(), param)) return why;
  if (const char* why = see(g.ptr(), gradient)) return (gradient_ = std::string("gradient ") + why).c_str();
  if (param.type == Type::u8) return "dtype";
  if (is_flagged(p.ptr(), param)) return "flag";
  if (is_flagged(g.ptr(), gradient)) return "gradient flag";
  if (gradient.type != param.type || gradient.complex != param.complex) return "gradient dtype";
  if (see(step.ptr(), counter) || counter.size != 1 || counter.type != Type::f64) return "step";
  Stage stage;
  stage.param = param.type;
  stage.state = param.type == Type::f64 ? Type::f64 : Type::f32;
  if (precision.state && (param.complex || param.type == Type::f64)) return "state";
  if (precision.state) stage.state = precision.state == 16 ? Type::bf16 : Type::u8;
  if (shape && !holds_shape(shape.ptr(), param)) return "state";
  stage.stochastic = precision.stochastic && param.type == Type::bf16;
  stage.cleaned = precision.nonfinite == Nonfinite::zero;
  const View* all[5] = {&param, &gradient};
  void* memory[3] = {};
  int n = 2;
  for (int k = 0; k < 3; ++k) {
    nb::handle tensor = k == 0 ? v : k == 1 ? m : b;
    if (!tensor) continue;
    if (see(tensor.ptr(), state[k])) return "state";
    if (state[k].type != stage.state) return "state";
    memory[k] = state[k].data;
    all[n++] = &state[k];
  }
  if (!is_dense(param)) return "strides";
  if ((stage.state == Type::u8 || rows) && !is_row_major(param)) return "row-major";
  if (rows && (precision.state || !is_row_major(gradient))) return "gradient strides";
  for (int i = 1; i < n; ++i) {
    if (i > 1 && stage.state == Type::u8) {
      if (!is_row_major(*all[i]) || all[i]->size != packed_size(param.size)) return "state";
    } else if (!(rows && i == 1) && !same_layout(param, *all[i])) {
      return i == 1 ? "gradient strides" : "state";
    }
    for (int j = 0; j < i; ++j) {
      if (overlap(*all[i], *all[j])) return "overlap";
    }
  }
  entries_.push_back({{param.data, gradient.data, memory[0], memory[1], memory[2], param.size},
                      stage, groups_.size() - 1, static_cast<double*>(counter.data), number, from});
  params_.append(p);
  for (nb::handle x : {g, step, v, m, b}) {
    if (x) held_.push_back(nb::borrow(x));
  }
  return nullptr;
}

// Notes where the parameters are, and whether that has changed.
void Batch::remember() {
  auto same = [](const Entry& x, const Entry& y) {
    const Arrays &a = x.arrays, &b = y.arrays;
    return a.p == b.p && a.g == b.g && a.v == b.v && a.m == b.m && a.b == b.b && a.size == b.size &&
           x.stage.param == y.stage.param && x.stage.state == y.stage.state;
  };
  if (std::equal(previous_.begin(), previous_.end(), entries_.begin(), entries_.end(), same)) return;
  previous_ = entries_;
  disjoint_.reset();
}

// True if nothing that is written overlaps anything else. Sorting takes as long as a step of small parameters, and
// addresses seldom change, so the answer is kept as long as they do not.
bool Batch::disjoint() {
  if (disjoint_) return *disjoint_;
  struct Piece {
    const char *begin, *end;
    bool written;
  };
  std::vector<Piece> pieces;
  for (const Entry& e : entries_) {
    std::int64_t n = e.arrays.size, stored = n * bytes_of(e.stage.param);
    std::int64_t state = e.stage.state == Type::u8 ? packed_size(n) : n * bytes_of(e.stage.state);
    auto add = [&](const void* at, std::int64_t bytes, bool written) {
      auto* begin = static_cast<const char*>(at);
      if (begin && bytes) pieces.push_back({begin, begin + bytes, written});
    };
    add(e.arrays.p, stored, true);
    add(e.arrays.g, stored, false);
    for (const void* at : {e.arrays.v, e.arrays.m, e.arrays.b}) add(at, state, true);
  }
  std::sort(pieces.begin(), pieces.end(), [](const Piece& a, const Piece& b) { return a.begin < b.begin; });
  disjoint_ = true;
  const char *any = nullptr, *written = nullptr;  // how far the pieces so far reach
  for (const Piece& piece : pieces) {
    if (piece.begin < (piece.written ? any : written)) disjoint_ = false;
    any = std::max(any, piece.end);
    if (piece.written) written = std::max(written, piece.end);
  }
  return *disjoint_;
}

}  // namespace rmsprop
