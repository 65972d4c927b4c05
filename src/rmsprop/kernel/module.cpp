// The Python module rmsprop._kernel. Its docstrings are in _kernel.pyi.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "batch.hpp"
#include "tensors.hpp"

using namespace rmsprop;
using namespace nb::literals;

namespace {

using Array = nb::ndarray<nb::numpy, nb::c_contig, nb::device::cpu>;
using Gradient = nb::ndarray<nb::numpy, nb::ro, nb::c_contig, nb::device::cpu>;

void update(const Rule& rule, double lr, double power, double a, double c, Array param, Gradient grad,
            Array square_avg, std::optional<Array> grad_avg, std::optional<Array> momentum_buffer,
            std::optional<Array> max_square_avg, int threads, std::int64_t grain) {
  auto memory = [](std::optional<Array>& x) { return x ? x->data() : nullptr; };
  Storage storage;
  storage.param = storage.state = param.itemsize() == 8 ? Type::f64 : Type::f32;
  Constants constants = rmsprop::constants(rule, storage.state, lr, {power, a, c});
  Arrays arrays{param.data(), grad.data(), square_avg.data(), memory(grad_avg), memory(momentum_buffer),
                memory(max_square_avg), static_cast<std::int64_t>(param.size())};
  run_released(run, {step_task(arrays, storage, rule.form(), constants)}, threads, grain);
}

void move(Array param, Gradient grad, Array square_avg, int threads, std::int64_t grain) {
  auto size = static_cast<std::int64_t>(param.size());
  Arrays arrays{param.data(), grad.data(), square_avg.data(), nullptr, nullptr, nullptr, size};
  run_released(run, {move_task(arrays)}, threads, grain);
}

}  // namespace

NB_MODULE(_kernel, module) {
  nb::set_leak_warnings(false);  // Python's caches keep rules until the interpreter exits
  nb::class_<Rule>(module, "Rule")
      .def(nb::init<double, double, double, double, bool, bool, bool, double, bool, bool, bool, bool, bool, double,
                    bool>(), nb::kw_only(),
           "decay"_a, "eps"_a, "momentum"_a, "weight_decay"_a, "centered"_a, "nesterov"_a, "eps_inside_sqrt"_a,
           "initial_square_avg"_a, "lr_in_momentum"_a, "bias_correction"_a, "decoupled_weight_decay"_a, "maximize"_a,
           "first_moment"_a, "momentum_decay"_a, "amsgrad"_a);
  nb::enum_<Nonfinite>(module, "Nonfinite")
      .value("propagate", Nonfinite::propagate)
      .value("skip", Nonfinite::skip)
      .value("zero", Nonfinite::zero);
  nb::class_<Precision>(module, "Precision")
      .def(nb::init<int, bool, std::uint32_t, Nonfinite>(), "state"_a, "stochastic"_a, "seed"_a, "nonfinite"_a);
  nb::class_<Batch>(module, "Batch")
      .def(nb::init<>())
      .def("clear", &Batch::clear)
      .def("add", &Batch::add)
      .def("add_lists", &Batch::add_lists)
      .def("add_rows", &Batch::add_rows, nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(),
           nb::arg(), nb::arg().none(), nb::arg().none(), nb::arg().none(), nb::arg().none(), nb::arg())
      .def("finite", &Batch::finite, "threads"_a, "grain"_a, "grad_scale"_a)
      .def("run", &Batch::run)
      .def("measured", &Batch::measured)
      .def("__len__", &Batch::size);
  module.def("update", &update, "rule"_a, "lr"_a, "power"_a, "a"_a, "c"_a, "param"_a, "grad"_a, "square_avg"_a,
             "grad_avg"_a.none(), "momentum_buffer"_a.none(), "max_square_avg"_a.none(), "threads"_a, "grain"_a);
  module.def("move", &move, "param"_a, "grad"_a, "square_avg"_a, "threads"_a, "grain"_a);
  module.def("use_torch", &use_torch);
  module.def("use_methods", [](nb::tuple dtypes) {
    if (dtypes.size() != kDtypeCount) throw nb::value_error("not as many dtypes as the kernel knows");
    use_methods(dtypes.ptr());
  });
  module.def("use_exchange", &use_exchange);
  module.def("uses_methods", &uses_methods);
  module.def("has_team", &has_team);
  module.def("use_own_threads", &use_own_threads);
  module.def("instruction_sets", &instruction_sets);
  module.def("instruction_set", &instruction_set);
  module.def("use_instruction_set", [](const std::string& name) {
    if (!use_instruction_set(name)) throw nb::value_error("not an instruction set of this processor");
  });
}
