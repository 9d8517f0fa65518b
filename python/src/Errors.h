// C++ exceptions as Python's: UserError is a ValueError, InternalError and CudaError are RuntimeErrors.
#pragma once

#include <pybind11/pybind11.h>

#include <exception>

namespace bitloom::python {

void bindErrors(pybind11::module_ &module);

// Sets the Python exception for the C++ one, outside pybind11's own calls.
void raise(std::exception_ptr error);

// What `body` gives; null, with the Python exception set, when it throws.
template <class F> PyObject *orRaise(F &&body) {
  try {
    return body();
  } catch (...) {
    raise(std::current_exception());
    return nullptr;
  }
}

} // namespace bitloom::python
