#include "bitloom/python/src/Tensors.h"

#include "bitloom/lib/support/Error.h"
#include "bitloom/lib/support/Suggest.h"

#include <array>
#include <unordered_map>
#include <vector>

namespace bitloom::python {

//===- Types of arrays --------------------------------------------------------------------------------------------===//

static std::string moduleOf(PyTypeObject *type) {
  return py::str(py::handle(reinterpret_cast<PyObject *>(type)).attr("__module__"));
}

// Whether a class of that name in that package is among the type's bases: subclasses count, the package is not
// imported.
static bool derives(PyTypeObject *type, std::string_view package, std::string_view name) {
  for (py::handle base : py::reinterpret_borrow<py::tuple>(type->tp_mro)) {
    auto *candidate = reinterpret_cast<PyTypeObject *>(base.ptr());
    std::string_view full(candidate->tp_name);
    if (full.substr(full.rfind('.') + 1) == name && moduleOf(candidate).starts_with(package))
      return true;
  }
  return false;
}

ArrayType *arrayTypeOf(PyObject *object) {
  // Types stay referenced, so an address is never another type's later. Guarded by the GIL.
  static auto &known = *new std::unordered_map<PyTypeObject *, ArrayType>;
  static ArrayType *latest = nullptr; // mostly all arguments of all calls are of one type
  PyTypeObject *type = Py_TYPE(object);
  if (latest && latest->type == type)
    return latest;
  if (auto found = known.find(type); found != known.end())
    return latest = &found->second;
  py::handle handle(reinterpret_cast<PyObject *>(type));
  if (!py::hasattr(handle, "__dlpack__"))
    return nullptr;
  ArrayType facts{type};
  facts.isTorch = derives(type, "torch", "Tensor");
  facts.isNumpy = derives(type, "numpy", "ndarray");
  if (py::hasattr(handle, "__dlpack_c_exchange_api__")) {
    py::object capsule = handle.attr("__dlpack_c_exchange_api__");
    auto *api = static_cast<const dlpack::ExchangeApi *>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
    if (!api)
      throw py::error_already_set();
    if (api->version.major == 1 && api->borrow)
      facts.exchange = api;
  }
  if (facts.isTorch) {
    py::object property = handle.attr("requires_grad");
    if (Py_TYPE(property.ptr()) == &PyGetSetDescr_Type) { // and not one of a subclass in Python
      const PyGetSetDef *definition = reinterpret_cast<PyGetSetDescrObject *>(property.ptr())->d_getset;
      facts.requiresGrad = definition->get;
      facts.requiresGradClosure = definition->closure;
    }
  }
  Py_INCREF(type);
  return &known.emplace(type, facts).first->second;
}

void *currentStream(const ArrayType &type, int device) {
  void *stream = nullptr;
  if (type.exchange) {
    if (type.exchange->currentStream(dlpack::Cuda, device, &stream))
      throw py::error_already_set();
    return stream;
  }
  if (type.isTorch) {
    py::object current = py::module_::import("torch.cuda").attr("current_stream")(device);
    return reinterpret_cast<void *>(current.attr("cuda_stream").cast<uintptr_t>());
  }
  if (moduleOf(type.type).starts_with("cupy")) {
    py::object current = py::module_::import("cupy.cuda").attr("get_current_stream")();
    return reinterpret_cast<void *>(current.attr("ptr").cast<uintptr_t>());
  }
  return stream;
}

//===- Reading an array -------------------------------------------------------------------------------------------===//

static std::string textOf(dlpack::DataType dtype) {
  const char *kind = "opaque";
  switch (dtype.code) {
  case dlpack::Int:
    kind = "int";
    break;
  case dlpack::UInt:
    kind = "uint";
    break;
  case dlpack::Float:
    kind = "float";
    break;
  case dlpack::BFloat:
    kind = "bfloat";
    break;
  case dlpack::Complex:
    kind = "complex";
    break;
  case dlpack::Bool:
    kind = "bool";
    break;
  default:
    kind = "float8-or-narrower ";
    break;
  }
  return kind + std::to_string(dtype.bits);
}

static std::optional<DType> dtypeOf(dlpack::DataType dtype) {
  if (dtype.lanes != 1)
    return std::nullopt;
  DTypeKind kind;
  switch (dtype.code) {
  case dlpack::Int:
    kind = DTypeKind::Signed;
    break;
  case dlpack::UInt:
    kind = DTypeKind::Unsigned;
    break;
  case dlpack::Bool:
    kind = DTypeKind::Bool;
    break;
  case dlpack::BFloat:
    return dtype.bits == 16 ? std::optional(DType::bf16) : std::nullopt;
  case dlpack::Float8E4M3FN:
    return DType::f8e4m3;
  case dlpack::Float8E5M2:
    return DType::f8e5m2;
  case dlpack::Float:
    if (dtype.bits < 16)
      return std::nullopt;
    kind = DTypeKind::Float;
    break;
  default:
    return std::nullopt;
  }
#define BITLOOM_DTYPE(name, type, width, itsKind)                                                                      \
  if (DTypeKind::itsKind == kind && width == dtype.bits && DType::name != DType::bf16)                                 \
    return DType::name;
#include "bitloom/lib/dtype/DType.def"
#undef BITLOOM_DTYPE
  return std::nullopt;
}

static dlpack::DataType dlpackOf(DType dtype) {
  const DTypeFacts &facts = factsOf(dtype);
  uint8_t code = dlpack::Float;
  switch (facts.kind) {
  case DTypeKind::Bool:
    code = dlpack::Bool;
    break;
  case DTypeKind::Signed:
    code = dlpack::Int;
    break;
  case DTypeKind::Unsigned:
    code = dlpack::UInt;
    break;
  case DTypeKind::Float:
    code = dtype == DType::bf16     ? dlpack::BFloat
           : dtype == DType::f8e4m3 ? dlpack::Float8E4M3FN
           : dtype == DType::f8e5m2 ? dlpack::Float8E5M2
                                    : dlpack::Float;
    break;
  }
  return {code, uint8_t(facts.bits), 1};
}

static TensorRef tensorOf(const dlpack::Tensor &given, const std::string &where) {
  TensorRef tensor;
  switch (given.device.type) {
  case dlpack::Cpu:
  case dlpack::CudaHost:
    break;
  case dlpack::Cuda:
  case dlpack::CudaManaged:
    tensor.device = {Device::Kind::Cuda, given.device.index};
    break;
  default:
    throw UserError(where + ": expected a tensor on the CPU or a CUDA device, got one on DLPack's device type " +
                    std::to_string(given.device.type));
  }
  auto dtype = dtypeOf(given.dtype);
  if (!dtype) {
    std::vector<std::string> names;
#define BITLOOM_DTYPE(name, type, bits, kind) names.emplace_back(#name);
#include "bitloom/lib/dtype/DType.def"
#undef BITLOOM_DTYPE
    throw UserError(where + ": expected a dtype of " + joined(names) + ", got " + textOf(given.dtype));
  }
  tensor.dtype = *dtype;
  if (given.rank > maxRank)
    throw UserError(where + ": expected at most " + std::to_string(maxRank) + " dimensions, got " +
                    std::to_string(given.rank));
  tensor.extents = Dims(std::span<const int64_t>(given.extents, size_t(given.rank)));
  tensor.strides = given.strides ? Dims(std::span<const int64_t>(given.strides, size_t(given.rank)))
                                 : contiguousStrides(tensor.extents);
  tensor.data = static_cast<char *>(given.data) + given.byteOffset;
  if (reinterpret_cast<uintptr_t>(tensor.data) % uintptr_t(bytesOf(*dtype)) && tensor.elementCount())
    throw UserError(
        where + ": expected elements aligned to " + std::to_string(bytesOf(*dtype)) + " bytes, got an address " +
        std::to_string(reinterpret_cast<uintptr_t>(tensor.data) % uintptr_t(bytesOf(*dtype))) + " past such a one");
  return tensor;
}

// The first line of a Python exception's message: libraries append where in their sources it was thrown.
static std::string textOf(const py::error_already_set &error) {
  std::string text = py::str(error.value());
  return text.substr(0, text.find('\n'));
}

// torch lets data of a tensor that autograd follows out through detach() alone, so that no gradient is lost unseen.
static void checkGradient(PyObject *object, const ArrayType &type, const std::string &where) {
  static PyObject *name = PyUnicode_InternFromString("requires_grad");
  auto wanted = py::reinterpret_steal<py::object>(
      type.requiresGrad ? type.requiresGrad(object, type.requiresGradClosure) : PyObject_GetAttr(object, name));
  if (!wanted)
    throw py::error_already_set();
  if (wanted.ptr() != Py_True)
    return;
  static PyObject *enabled = py::object(py::module_::import("torch").attr("is_grad_enabled")).release().ptr();
  if (py::handle(enabled)().ptr() == Py_True)
    throw UserError(where +
                    ": expected a tensor that needs no gradient, got one with requires_grad: pass x.detach(), or call "
                    "under torch.no_grad()");
}

// object.__dlpack__(...) with the arguments that the type understands.
static py::object capsuleOf(PyObject *object, ArrayType &type, const std::optional<void *> &stream) {
  static PyObject *method = PyUnicode_InternFromString("__dlpack__");
  static PyObject *versionName = py::make_tuple("max_version").release().ptr();
  static PyObject *bothNames = py::make_tuple("max_version", "stream").release().ptr();
  static PyObject *streamName = py::make_tuple("stream").release().ptr();
  static PyObject *version = py::make_tuple(1, 1).release().ptr();
  py::object number;
  if (stream)
    number = py::int_(*stream ? reinterpret_cast<intptr_t>(*stream) : 1); // 1: CUDA's legacy default stream
  for (;;) {
    PyObject *arguments[3] = {object};
    size_t count = 1;
    if (type.versioned)
      arguments[count++] = version;
    if (stream)
      arguments[count++] = number.ptr();
    PyObject *names = type.versioned ? (stream ? bothNames : versionName) : (stream ? streamName : nullptr);
    PyObject *capsule = PyObject_VectorcallMethod(method, arguments, 1 | PY_VECTORCALL_ARGUMENTS_OFFSET, names);
    if (capsule)
      return py::reinterpret_steal<py::object>(capsule);
    if (!type.versioned || !PyErr_ExceptionMatches(PyExc_TypeError))
      throw py::error_already_set();
    PyErr_Clear();
    type.versioned = false; // from before DLPack 1.0
  }
}

static bool isOnCuda(PyObject *object, const ArrayType &type, int &index) {
  if (type.isNumpy)
    return false;
  py::tuple device = py::handle(object).attr("__dlpack_device__")();
  int kind = py::int_(device[0]);
  index = py::int_(device[1]);
  return kind == dlpack::Cuda || kind == dlpack::CudaManaged;
}

TensorRef Borrowed::tensor(const std::string &where) const { return tensorOf(given, where); }

void Borrowed::borrow(PyObject *object, CallStream &stream, const std::string &where) {
  release();
  type = arrayTypeOf(object);
  if (!type)
    throw UserError(where + ": expected a tensor (torch, numpy, or any with __dlpack__), got " +
                    Py_TYPE(object)->tp_name);
  if (type->isTorch)
    checkGradient(object, *type, where);
  if (type->exchange) {
    if (type->exchange->borrow(object, &given))
      throw UserError(where + ": expected a dense tensor, got one refused: " + textOf(py::error_already_set()));
    if (given.device.type != dlpack::Cuda)
      return;
    if (!stream.launch) {
      stream = {currentStream(*type, given.device.index), type->exchange, given.device.index};
      return;
    }
    // A tensor of a library whose current stream is not the launch's must wait for it, which __dlpack__ sees to.
    if ((stream.library == type->exchange && stream.device == given.device.index) ||
        currentStream(*type, given.device.index) == *stream.launch)
      return;
  }
  try {
    std::optional<void *> consumer;
    if (int index = 0; isOnCuda(object, *type, index))
      consumer = stream.launch ? *stream.launch : currentStream(*type, index);
    py::object capsule = capsuleOf(object, *type, consumer);
    if (PyCapsule_IsValid(capsule.ptr(), "dltensor_versioned")) {
      managedVersioned =
          static_cast<dlpack::ManagedVersioned *>(PyCapsule_GetPointer(capsule.ptr(), "dltensor_versioned"));
      PyCapsule_SetName(capsule.ptr(), "used_dltensor_versioned");
      readOnly = managedVersioned->flags & dlpack::readOnlyFlag;
    } else {
      managed = static_cast<dlpack::Managed *>(PyCapsule_GetPointer(capsule.ptr(), "dltensor"));
      if (!managed)
        throw py::error_already_set();
      PyCapsule_SetName(capsule.ptr(), "used_dltensor");
    }
  } catch (py::error_already_set &error) {
    throw UserError(where + ": expected a tensor that can be shared, got one refused: " + textOf(error));
  }
  given = managed ? managed->tensor : managedVersioned->tensor;
  if (!stream.launch && device().kind == Device::Kind::Cuda)
    stream.launch = currentStream(*type, given.device.index);
}

void Borrowed::release() {
  if (managed && managed->release)
    managed->release(managed);
  if (managedVersioned && managedVersioned->release)
    managedVersioned->release(managedVersioned);
  managed = nullptr;
  managedVersioned = nullptr;
}

Borrowed::Borrowed(Borrowed &&other) noexcept
    : given(other.given), type(other.type), readOnly(other.readOnly), managed(std::exchange(other.managed, nullptr)),
      managedVersioned(std::exchange(other.managedVersioned, nullptr)) {}

Borrowed &Borrowed::operator=(Borrowed &&other) noexcept {
  std::swap(given, other.given);
  std::swap(type, other.type);
  std::swap(readOnly, other.readOnly);
  std::swap(managed, other.managed);
  std::swap(managedVersioned, other.managedVersioned);
  return *this;
}

Borrowed::~Borrowed() { release(); }

//===- Making an array --------------------------------------------------------------------------------------------===//

static py::object allocateByExchange(const dlpack::ExchangeApi &api, DType dtype, const Dims &extents, Device device) {
  Dims shape = extents, strides = contiguousStrides(extents);
  dlpack::Tensor like{nullptr,
                      {device.kind == Device::Kind::Cuda ? dlpack::Cuda : dlpack::Cpu, device.index},
                      shape.size(),
                      dlpackOf(dtype),
                      &shape[0],
                      &strides[0],
                      0};
  std::string problem;
  auto fail = [](void *context, const char *kind, const char *message) {
    *static_cast<std::string *>(context) = std::string(kind) + ": " + message;
  };
  dlpack::ManagedVersioned *made = nullptr;
  if (api.allocate(&like, &made, &problem, fail)) {
    if (PyErr_Occurred())
      throw py::error_already_set();
    throw std::runtime_error(problem);
  }
  void *object = nullptr;
  if (api.objectOf(made, &object))
    throw py::error_already_set();
  return py::reinterpret_steal<py::object>(static_cast<PyObject *>(object));
}

// numpy's and torch's names of element types, by DType.
static const char *arrayNameOf(DType dtype) {
  static constexpr std::array names = {"bool",     "int8",    "uint8",   "int16",         "uint16",
                                       "int32",    "uint32",  "int64",   "uint64",        "float16",
                                       "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2"};
  static_assert(names.size() == size_t(DType::f8e5m2) + 1, "expected a name for each row of DType.def");
  return names[size_t(dtype)];
}

// The rest are torch's alone.
static bool inNumpy(DType dtype) { return dtype != DType::bf16 && !isStorageFloat(dtype); }

static py::tuple shapeOf(const Dims &extents) {
  py::tuple shape(size_t(extents.size()));
  for (int d = 0; d < extents.size(); ++d)
    shape[size_t(d)] = py::int_(extents[d]);
  return shape;
}

py::object allocate(const ArrayType &like, DType dtype, const Dims &extents, Device device, const std::string &where) {
  if (like.exchange)
    return allocateByExchange(*like.exchange, dtype, extents, device);
  if (like.isTorch) {
    py::module_ torch = py::module_::import("torch");
    return torch.attr("empty")(shapeOf(extents), py::arg("dtype") = torch.attr(arrayNameOf(dtype)),
                               py::arg("device") = nameOf(device));
  }
  if (device.kind == Device::Kind::Cuda && inNumpy(dtype) && moduleOf(like.type).starts_with("cupy")) {
    py::module_ cupy = py::module_::import("cupy");
    py::object previous = cupy.attr("cuda").attr("Device")(); // the current one
    cupy.attr("cuda").attr("Device")(device.index).attr("use")();
    py::object made = cupy.attr("empty")(shapeOf(extents), arrayNameOf(dtype));
    previous.attr("use")();
    return made;
  }
  if (device.kind != Device::Kind::Cpu || !inNumpy(dtype))
    throw UserError(where + ": expected a tensor to write to, since " + std::string(like.type->tp_name) +
                    " gives no way to make one of " + std::string(nameOf(dtype)) + " on " + nameOf(device));
  // Kept by dtype: looking names up takes longer than making the array.
  static PyObject *empty = py::object(py::module_::import("numpy").attr("empty")).release().ptr();
  static std::array<PyObject *, size_t(DType::f8e5m2) + 1> dtypes{};
  PyObject *&numpyType = dtypes[size_t(dtype)];
  if (!numpyType)
    numpyType = py::module_::import("numpy").attr("dtype")(arrayNameOf(dtype)).release().ptr();
  return py::handle(empty)(shapeOf(extents), py::handle(numpyType));
}

} // namespace bitloom::python
