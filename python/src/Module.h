// The parts of the extension module _bitloom.
#pragma once

#include <pybind11/pybind11.h>

namespace bitloom::python {

namespace py = pybind11;

void bindRegistry(py::module_ &module); // kernels, their functions, inspect
void bindPacking(py::module_ &module);
void bindPackedFiles(py::module_ &module);

} // namespace bitloom::python
