#include "bitloom/python/src/Errors.h"

#include "bitloom/lib/runtime/Cuda.h"
#include "bitloom/lib/support/Error.h"

namespace bitloom::python {

namespace py = pybind11;

static PyObject *userError, *internalError, *cudaError; // alive as long as the process

static PyObject *newException(py::module_ &module, const char *name, const char *doc, PyObject *base) {
  std::string full = std::string("bitloom.") + name;
  PyObject *type = PyErr_NewExceptionWithDoc(full.c_str(), doc, base, nullptr);
  if (!type)
    throw py::error_already_set();
  module.attr(name) = py::handle(type);
  return type;
}

void raise(std::exception_ptr error) {
  try {
    std::rethrow_exception(error);
  } catch (py::error_already_set &python) {
    python.restore();
  } catch (const py::builtin_exception &builtin) {
    builtin.set_error();
  } catch (const UserError &user) {
    PyErr_SetString(userError, user.what());
  } catch (const InternalError &internal) {
    PyErr_SetString(internalError, internal.what());
  } catch (const cuda::CudaError &cuda) {
    PyErr_SetString(cudaError, cuda.what());
  } catch (const std::bad_alloc &) {
    PyErr_NoMemory();
  } catch (const std::exception &other) {
    PyErr_SetString(PyExc_RuntimeError, other.what());
  }
}

void bindErrors(py::module_ &module) {
  userError = newException(module, "UserError",
                           "A mistake in what was passed or written: the message says what was expected and what came.",
                           PyExc_ValueError);
  internalError =
      newException(module, "InternalError", "A bug in bitloom: the message says how to report it.", PyExc_RuntimeError);
  cudaError = newException(module, "CudaError", "A call of the CUDA driver that failed.", PyExc_RuntimeError);
  py::register_exception_translator([](std::exception_ptr error) {
    try {
      if (error)
        std::rethrow_exception(error);
    } catch (const UserError &) {
      raise(error);
    } catch (const InternalError &) {
      raise(error);
    } catch (const cuda::CudaError &) {
      raise(error);
    }
  });
}

} // namespace bitloom::python
