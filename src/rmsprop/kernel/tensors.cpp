#include "tensors.hpp"

#include <nanobind/nanobind.h>

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
constexpr int kOther = 0, kCpu = 1;  // devices
constexpr int kSigned = 0, kUnsigned = 1, kFloat = 2, kBfloat = 4, kComplex = 5, kUnknown = 255;
}  // namespace dlpack

namespace nb = nanobind;

PyTypeObject *tensor_type, *parameter_type;
int (*exchange_view)(void*, dlpack::Tensor*);  // null where torch has none
bool by_methods;
PyObject* dtype_objects;  // a tuple

constexpr std::uint8_t kDtypes[kDtypeCount][2] = {  // code and bits of dtype_objects
    {dlpack::kFloat, 32}, {dlpack::kFloat, 64},    {dlpack::kBfloat, 16},   {dlpack::kFloat, 16},
    {dlpack::kComplex, 64}, {dlpack::kComplex, 128}, {dlpack::kUnsigned, 8}, {dlpack::kSigned, 64},
};

struct Names {
  PyObject* is_cpu = PyUnicode_InternFromString("is_cpu");
  PyObject* dtype = PyUnicode_InternFromString("dtype");
  PyObject* data_ptr = PyUnicode_InternFromString("data_ptr");
  PyObject* size = PyUnicode_InternFromString("size");
  PyObject* stride = PyUnicode_InternFromString("stride");
  PyObject* is_neg = PyUnicode_InternFromString("is_neg");
  PyObject* is_conj = PyUnicode_InternFromString("is_conj");
};

const Names& names() {
  static const Names n;
  return n;
}

// PyObject_CallMethodNoArgs, which the stable ABI lacks.
PyObject* call_method(PyObject* object, PyObject* name) {
  return PyObject_VectorcallMethod(name, &object, 1 | PY_VECTORCALL_ARGUMENTS_OFFSET, nullptr);
}

// Copies a tuple of numbers. Returns false if it has another length or other elements.
bool copy_numbers(nb::handle tuple, Py_ssize_t length, std::int64_t* numbers) {
  if (!PyTuple_Check(tuple.ptr()) || NB_TUPLE_GET_SIZE(tuple.ptr()) != length) return false;
  for (Py_ssize_t i = 0; i < length; ++i) numbers[i] = PyLong_AsLongLong(NB_TUPLE_GET_ITEM(tuple.ptr(), i));
  return !PyErr_Occurred();
}

// Fills `t` by one call of an exchange function. Sparse tensors and tensors without memory give false.
bool read_by_exchange(PyObject* tensor, dlpack::Tensor& t) { return exchange_view(tensor, &t) == 0; }

// Fills `t` in the same way by five methods of Tensor. `extents` keeps shape and strides.
bool read_by_methods(PyObject* tensor, dlpack::Tensor& t, std::int64_t (&extents)[2][kMaxDims]) {
  auto get = [&](PyObject* name) { return nb::steal(PyObject_GetAttr(tensor, name)); };
  auto call = [&](PyObject* name) { return nb::steal(call_method(tensor, name)); };
  nb::object address = call(names().data_ptr);
  if (!address.is_valid()) return false;
  nb::object size = call(names().size);
  if (!size.is_valid() || !PyTuple_Check(size.ptr())) return false;
  nb::object stride = call(names().stride);
  if (!stride.is_valid()) return false;
  nb::object is_cpu = get(names().is_cpu);
  if (!is_cpu.is_valid()) return false;
  nb::object dtype = get(names().dtype);
  if (!dtype.is_valid()) return false;
  t.data = PyLong_AsVoidPtr(address.ptr());
  t.byte_offset = 0;
  t.device_type = is_cpu.ptr() == Py_True ? dlpack::kCpu : dlpack::kOther;
  t.ndim = static_cast<std::int32_t>(NB_TUPLE_GET_SIZE(size.ptr()));
  t.shape = extents[0];
  t.strides = extents[1];
  t.code = dlpack::kUnknown;
  for (int i = 0; i < kDtypeCount; ++i) {
    if (NB_TUPLE_GET_ITEM(dtype_objects, i) == dtype.ptr()) t.code = kDtypes[i][0], t.bits = kDtypes[i][1];
  }
  if (t.ndim > kMaxDims) return true;  // refused before its shape is read
  return copy_numbers(size, t.ndim, t.shape) && copy_numbers(stride, t.ndim, t.strides);
}

bool read(PyObject* tensor, dlpack::Tensor& t, std::int64_t (&extents)[2][kMaxDims]) {
  if (by_methods ? read_by_methods(tensor, t, extents) : read_by_exchange(tensor, t)) return true;
  PyErr_Clear();
  return false;
}

bool ask(PyObject* tensor, PyObject* method) {  // an exception counts as true
  PyObject* answer = call_method(tensor, method);
  if (!answer) PyErr_Clear();
  Py_XDECREF(answer);
  return answer != Py_False;
}

std::int64_t count(const dlpack::Tensor& t) {
  return std::accumulate(t.shape, t.shape + t.ndim, std::int64_t{1}, std::multiplies<>());
}

}  // namespace

bool register_torch(PyObject* tensor_class, PyObject* parameter_class) {
  tensor_type = reinterpret_cast<PyTypeObject*>(Py_NewRef(tensor_class));
  parameter_type = reinterpret_cast<PyTypeObject*>(Py_NewRef(parameter_class));
  PyObject* capsule = PyObject_GetAttrString(tensor_class, "__dlpack_c_exchange_api__");
  if (!capsule) return false;
  auto* api = static_cast<dlpack::ExchangeApi*>(PyCapsule_GetPointer(capsule, "dlpack_exchange_api"));
  Py_DECREF(capsule);  // the table itself lives as long as the process
  while (api && api->major > 1) api = api->older;
  if (!api || !api->view) {
    if (!PyErr_Occurred()) PyErr_SetString(PyExc_AttributeError, "no exchange functions of DLPack 1");
    return false;
  }
  exchange_view = api->view;
  return true;
}

void use_methods(PyObject* dtypes) {
  Py_XDECREF(dtype_objects);
  dtype_objects = Py_NewRef(dtypes);
  by_methods = true;
}

void use_exchange() { by_methods = !exchange_view; }

bool uses_methods() { return by_methods; }

const char* read_view(PyObject* tensor, View& view) {
  if (Py_TYPE(tensor) != tensor_type && Py_TYPE(tensor) != parameter_type) return "class";
  dlpack::Tensor t;
  if (!read(tensor, t, view.extents)) return "layout";
  if (t.ndim > kMaxDims) return "strides";
  std::int64_t size = count(t);
  if (!t.data && size) return "layout";  // a tensor of zeros without memory, or whose memory was freed
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
  view.size = view.complex ? 2 * size : size;
  return nullptr;
}

bool is_conj_or_neg(PyObject* tensor, const View& view) {
  if (!view.complex && view.size != 1) return false;
  return ask(tensor, names().is_neg) || (view.complex && ask(tensor, names().is_conj));
}

bool is_dense(const View& view) {
  int order[kMaxDims], n = 0;
  if (view.size == 0) return true;
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
  std::int64_t extents[2][kMaxDims];
  if (Py_TYPE(tensor) != tensor_type || !read(tensor, t, extents)) return false;
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
