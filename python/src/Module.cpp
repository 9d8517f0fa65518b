#include "bitloom/python/src/Module.h"

#include "bitloom/lib/runtime/Cuda.h"
#include "bitloom/lib/runtime/ThreadPool.h"
#include "bitloom/lib/target/Target.h"
#include "bitloom/python/src/Errors.h"
#include "bitloom/python/src/KernelFunction.h"

#include <pybind11/stl.h>

PYBIND11_MODULE(_bitloom, module) {
  using namespace bitloom;
  using namespace bitloom::python;

  bindErrors(module);
  bindRegistry(module);
  bindPacking(module);
  bindPackedFiles(module);

  module.def("targets", &targetNames, "The base names of targets, host and cuda first.");
  module.def(
      "set_num_threads", [](int threads) { setThreadCount(threads); }, py::arg("threads"),
      py::call_guard<py::gil_scoped_release>(), "Sets how many threads kernels on the CPU use, the caller's included.");
  module.def("num_threads", &threadCount, "How many threads kernels on the CPU use.");
  module.def("cuda_unavailable", &cuda::whyUnavailable, "Why there is no CUDA device here; empty when there is one.");
  module.def("_set_target", &setDestination, py::arg("name"));
}
