// Python's arrays as tensors, through DLPack and with no copies.
#pragma once

#include "bitloom/lib/runtime/Tensor.h"
#include "bitloom/python/src/DLPack.h"

#include <pybind11/pybind11.h>

#include <optional>
#include <string>

namespace bitloom::python {

namespace py = pybind11;

// What is known of a type of arrays.
struct ArrayType {
  PyTypeObject *type = nullptr;
  const dlpack::ExchangeApi *exchange = nullptr; // torch from 2.9: arrays are read without a call of Python
  bool isTorch = false, isNumpy = false;
  bool versioned = true; // __dlpack__ takes max_version
};
// Of the object's type; kept for the next time. Null when objects of the type have no __dlpack__.
ArrayType *arrayTypeOf(PyObject *object);

// The stream that work on CUDA tensors of this type is queued on: the library's current one.
void *currentStream(const ArrayType &type, int device);

// An argument borrowed for the time of a call, which holds a reference to the object.
class Borrowed {
public:
  Borrowed() = default;
  // `stream` is that of the launch, null while no tensor has chosen one. Throws UserError that begins with `where`
  // ("rms_norm: argument x") when the object cannot be read, and says what was expected and what came.
  Borrowed(PyObject *object, const std::optional<void *> &stream, const std::string &where);
  Borrowed(Borrowed &&other) noexcept;
  Borrowed &operator=(Borrowed &&other) noexcept;
  ~Borrowed();

  TensorRef tensor;
  ArrayType *type = nullptr;
  bool readOnly = false;
  explicit operator bool() const { return type; }

private:
  void release();

  dlpack::Managed *managed = nullptr;
  dlpack::ManagedVersioned *managedVersioned = nullptr;
};

// An array of these extents on `device`, uninitialised, of the library of `like` (numpy's on the CPU where the library
// is unknown). Throws UserError that begins with `where` when there is no way to make one.
py::object allocate(const ArrayType &like, DType dtype, const Dims &extents, Device device, const std::string &where);

} // namespace bitloom::python
