// A torch tensor as the kernel sees it: memory, type, layout. Read through DLPack's exchange functions, which torch
// publishes as C pointers, so that nothing is linked with torch and one binary serves all its versions.
#pragma once

#include <Python.h>

#include <cstdint>

#include "sweep.hpp"

namespace rmsprop {

struct View {
  void* data;
  Type type;
  bool complex;  // each element is two of `type`
  int dims;
  const std::int64_t *shape, *strides;  // live as long as the tensor is not changed
  std::int64_t size;                    // numbers: two for each complex element

  std::int64_t bytes() const { return size * bytes_of(type); }
};

// Tells which classes can be read (exactly these, no subclasses) and reads the exchange functions from the first one.
// Returns false with a Python error if it has none.
bool learn_torch(PyObject* tensor_class, PyObject* parameter_class);

// Fills `view`; returns null, or the word that says why the kernel cannot use the tensor (no Python error is set).
const char* see(PyObject* tensor, View& view);

// True if the numbers are not what the memory says, but conjugated or negated ones. Only complex tensors are asked, and
// those of one number, since asking takes longer than all the rest: what is negated is the imaginary part of something
// conjugated, whose numbers are not neighbours, so that the strides tell.
bool is_flagged(PyObject* tensor, const View& view);

// True if the elements fill one piece of memory without gaps or repetition, in any order.
bool is_dense(const View& view);

// True if the elements lie one after the other in the order of their numbers.
bool is_row_major(const View& view);

// True if `tensor` holds the sizes of `view`, as int64 on the CPU.
bool holds_shape(PyObject* tensor, const View& view);

// True if element for element the two lie in the same order.
bool same_layout(const View& a, const View& b);

bool overlap(const View& a, const View& b);

}  // namespace rmsprop
