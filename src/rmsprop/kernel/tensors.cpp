#include "tensors.hpp"

#include <algorithm>
#include <functional>
#include <numeric>

namespace rmsprop {
namespace {

// The parts of DLPack 1's binary interface used here: https://dmlc.github.io/dlpack/latest/c_api.html
namespace dlpack {
struct Tensor {
  void* data;
  std::int32_t device_type, device_id;
  std::int32_t ndim;
  std::uint8_t code, bits;
  std::uint16_t lanes;
  std::int64_t *shape, *strides;
  std::uint64_t byte_offset;
};
struct ExchangeApi {
  std::uint32_t major, minor;
  ExchangeApi* older;
  void *allocate, *export_managed, *import_managed;
  int (*view)(void* py_object, Tensor* out);
  void* current_stream;
};
constexpr int kCpu = 1, kSigned = 0, kUnsigned = 1, kFloat = 2, kBfloat = 4, kComplex = 5;
}  // namespace dlpack

PyTypeObject *tensor_type, *parameter_type;
int (*view_tensor)(void*, dlpack::Tensor*);
PyObject *is_neg, *is_conj;

bool ask(PyObject* tensor, PyObject* method) {  // an exception counts as true
  PyObject* answer = PyObject_CallMethodNoArgs(tensor, method);
  if (!answer) PyErr_Clear();
  Py_XDECREF(answer);
  return answer != Py_False;
}

}  // namespace

bool register_torch(PyObject* tensor_class, PyObject* parameter_class) {
  PyObject* capsule = PyObject_GetAttrString(tensor_class, "__dlpack_c_exchange_api__");
  if (!capsule) return false;
  auto* api = static_cast<dlpack::ExchangeApi*>(PyCapsule_GetPointer(capsule, "dlpack_exchange_api"));
  Py_DECREF(capsule);  // the table itself lives as long as the process
  while (api && api->major > 1) api = api->older;
  if (!api || !api->view) {
    if (!PyErr_Occurred()) PyErr_SetString(PyExc_AttributeError, "no exchange functions of DLPack 1");
    return false;
  }
  is_neg = PyUnicode_InternFromString("is_neg");
  is_conj = PyUnicode_InternFromString("is_conj");
  tensor_type = reinterpret_cast<PyTypeObject*>(Py_NewRef(tensor_class));
  parameter_type = reinterpret_cast<PyTypeObject*>(Py_NewRef(parameter_class));
  view_tensor = api->view;
  return true;
}

const char* read_view(PyObject* tensor, View& view) {
  if (Py_TYPE(tensor) != tensor_type && Py_TYPE(tensor) != parameter_type) return "class";
  dlpack::Tensor t;
  if (view_tensor(tensor, &t) != 0) {  // sparse, or without its own memory
    PyErr_Clear();
    return "layout";
  }
  if (t.device_type != dlpack::kCpu) return "device";
  view.complex = t.code == dlpack::kComplex;
  int code = view.complex ? dlpack::kFloat : t.code, bits = view.complex ? t.bits / 2 : t.bits;
  if (code == dlpack::kFloat && bits == 32) {
    view.type = Type::f32;
  } else if (code == dlpack::kFloat && bits == 64) {
    view.type = Type::f64;
  } else if (code == dlpack::kFloat && bits == 16 && !view.complex) {
    view.type = Type::f16;
  } else if (code == dlpack::kBfloat && bits == 16) {
    view.type = Type::bf16;
  } else if (code == dlpack::kUnsigned && bits == 8) {
    view.type = Type::u8;
  } else {
    return "dtype";
  }
  view.data = static_cast<char*>(t.data) + t.byte_offset;
  view.dims = t.ndim;
  view.shape = t.shape;
  view.strides = t.strides;
  view.size = std::accumulate(t.shape, t.shape + t.ndim, std::int64_t{view.complex ? 2 : 1}, std::multiplies<>());
  return nullptr;
}

bool is_conj_or_neg(PyObject* tensor, const View& view) {
  if (!view.complex && view.size != 1) return false;
  return ask(tensor, is_neg) || (view.complex && ask(tensor, is_conj));
}

bool is_dense(const View& view) {
  constexpr int kMaxDims = 64;
  int order[kMaxDims], n = 0;
  if (view.size == 0) return true;
  if (view.dims > kMaxDims) return false;
  for (int i = view.dims - 1; i >= 0; --i) {
    if (view.shape[i] != 1) order[n++] = i;
  }
  auto by_stride = [&](int a, int b) { return view.strides[a] < view.strides[b]; };
  if (!std::is_sorted(order, order + n, by_stride)) std::sort(order, order + n, by_stride);
  std::int64_t expected = 1;
  for (int k = 0; k < n; ++k) {
    if (view.strides[order[k]] != expected) return false;
    expected *= view.shape[order[k]];
  }
  return true;
}

bool is_row_major(const View& view) {
  std::int64_t expected = 1;
  for (int i = view.dims - 1; i >= 0; --i) {
    if (view.shape[i] != 1 && view.strides[i] != expected && view.size != 0) return false;
    expected *= view.shape[i];
  }
  return true;
}

bool holds_shape(PyObject* tensor, const View& view) {
  dlpack::Tensor t;
  if (Py_TYPE(tensor) != tensor_type) return false;
  if (view_tensor(tensor, &t) != 0) return PyErr_Clear(), false;
  if (t.device_type != dlpack::kCpu || t.code != dlpack::kSigned || t.bits != 64 || t.ndim != 1) return false;
  const auto* sizes = reinterpret_cast<const std::int64_t*>(static_cast<char*>(t.data) + t.byte_offset);
  return t.shape[0] == view.dims && std::equal(view.shape, view.shape + view.dims, sizes);
}

bool same_layout(const View& a, const View& b) {
  if (a.dims != b.dims || a.complex != b.complex) return false;
  for (int i = 0; i < a.dims; ++i) {
    if (a.shape[i] != b.shape[i]) return false;
    if (a.size != 0 && a.shape[i] != 1 && a.strides[i] != b.strides[i]) return false;
  }
  return true;
}

bool overlap(const View& a, const View& b) {
  auto *x = static_cast<const char*>(a.data), *y = static_cast<const char*>(b.data);
  return x < y + b.bytes() && y < x + a.bytes();
}

}  // namespace rmsprop
