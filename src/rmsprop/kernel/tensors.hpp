// Reads a torch tensor's memory, type and layout: through DLPack's exchange functions, which torch publishes as C
// pointers, or where torch has none by the tensor's Python methods. The kernel is not linked with torch: one binary
// serves all versions.
#pragma once

#include <Python.h>

#include <cstdint>

#include "sweep.hpp"

namespace rmsprop {

constexpr int kMaxDims = 64, kDtypeCount = 8;

struct View {
  View() = default;
  View(const View&) = delete;  // `shape` may point to its own `extents`

  void* data;
  Type type;
  bool complex;  // each element is two of `type`
  int dims;
  const std::int64_t *shape, *strides;  // valid until the tensor changes
  std::int64_t size;                    // of real numbers: two per complex element
  std::int64_t extents[2][kMaxDims];    // shape and strides read by methods

  std::int64_t bytes() const { return size * bytes_of(type); }
};

// Stores the two classes whose tensors can be read (no subclasses), and the exchange functions of the first class.
// Returns false and sets a Python error if that class has none.
bool register_torch(PyObject* tensor_class, PyObject* parameter_class);

// Reads tensors by their methods from now on. `dtypes` are torch's, a tuple in the order of kDtypes.
void use_methods(PyObject* dtypes);

// Reads tensors through the exchange functions again, if there are some.
void use_exchange();

bool uses_methods();

// Fills `view`. Returns null, or the reason why the kernel cannot use the tensor. Sets no Python error.
const char* read_view(PyObject* tensor, View& view);

// Returns whether the tensor is a conjugated or negated view of its memory. Asking torch is slow, so only complex
// tensors and tensors of one number are asked. Other negated views are imaginary parts: their strides show it.
bool is_conj_or_neg(PyObject* tensor, const View& view);

// Returns whether the elements fill one block of memory without gaps or repeats, in any order.
bool is_dense(const View& view);

// Returns whether the elements are contiguous in row-major order.
bool is_row_major(const View& view);

// Returns whether `tensor`, int64 on the CPU, holds the shape of `view`.
bool holds_shape(PyObject* tensor, const View& view);

// Returns whether both have the same shape and strides.
bool same_layout(const View& a, const View& b);

bool overlap(const View& a, const View& b);

}  // namespace rmsprop
