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
  // torch's requires_grad, where the type has it as a property of C, to be asked without looking its name up.
  getter requiresGrad = nullptr;
  void *requiresGradClosure = nullptr;
};
// Of the object's type; kept for the next time. Null when objects of the type have no __dlpack__.
ArrayType *arrayTypeOf(PyObject *object);

// The stream that work on CUDA tensors of this type is queued on: the library's current one.
void *currentStream(const ArrayType &type, int device);

// The streams that a call's tensors are ready on. Of tensors of one library and device that is one, asked for once.
struct CallStream {
  std::optional<void *> launch; // of the first tensor on a GPU: where the launch goes
  const dlpack::ExchangeApi *library = nullptr;
  int device = 0;
};

// An argument borrowed for the time of a call, which holds a reference to the object.
class Borrowed {
public:
  Borrowed() = default;
  // In place of what it held. The first tensor on a GPU chooses the stream. Throws UserError that begins with `where`
  // ("rms_norm: argument x") when the object cannot be read, and says what was expected and what came.
  void borrow(PyObject *object, CallStream &stream, const std::string &where);
  Borrowed(Borrowed &&other) noexcept;
  Borrowed &operator=(Borrowed &&other) noexcept;
  ~Borrowed();

  // UserError that begins with `where`: elements, a device or a rank that no kernel takes.
  TensorRef tensor(const std::string &where) const;
  Device device() const {
    return given.device.type == dlpack::Cuda || given.device.type == dlpack::CudaManaged
               ? Device{Device::Kind::Cuda, given.device.index}
               : Device{};
  }
  void *data() const { return static_cast<char *>(given.data) + given.byteOffset; }

  dlpack::Tensor given{}; // as the library describes it
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
