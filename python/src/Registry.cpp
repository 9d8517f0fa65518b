#include "bitloom/python/src/Module.h"

#include "bitloom/dsl/Call.h"
#include "bitloom/dsl/Example.h"
#include "bitloom/dsl/Explain.h"
#include "bitloom/dsl/Tune.h"
#include "bitloom/lib/support/Error.h"
#include "bitloom/lib/support/Suggest.h"
#include "bitloom/lowering/Pipeline.h"
#include "bitloom/lowering/Program.h"
#include "bitloom/python/src/KernelFunction.h"

#include <pybind11/stl.h>

#include <array>

namespace bitloom::python {

static std::string_view nameOf(Parameter::Kind kind) {
  static constexpr std::array names = {"view", "scalar", "meta"};
  return names[size_t(kind)];
}

static Stage stageOf(const std::string &name) {
  if (auto stage = stageNamed(name); stage && *stage != Stage::Machine)
    return *stage;
  static const std::vector<std::string> names = {"tile", "layout", "llvm", "asm"};
  throw UserError("unknown stage '" + name + "'" + expectedOneOf(name, names));
}

// A call of tensors without memory. `sizes` gives the extents' names and the Meta parameters their values.
static Call describedCall(const KernelRow &row, const Target &target, const std::optional<std::string> &dtype,
                          const std::map<std::string, int64_t> &sizes) {
  Call call(row);
  call.tuneFor(target);
  size_t variant = 0;
  while (dtype && variant < row.variants.size() && nameOf(row, variant) != *dtype)
    ++variant;
  if (dtype && variant < row.variants.size()) {
    call.chooseVariant(variant);
  } else if (dtype) {
    auto chosen = dtypeNamed(*dtype);
    if (!chosen)
      throw UserError(row.name + ": expected an element type such as f32, got '" + *dtype + "'");
    call.chooseVariant(*chosen);
  }
  call.setSizes(sizes);
  call.resolve();
  return call;
}

// The view parameters of such a call: name to (element type, shape). Inputs that it does without are left out.
static py::dict shapesOf(const KernelRow &row, const std::optional<std::string> &dtype,
                         const std::map<std::string, int64_t> &sizes) {
  py::dict shapes;
  for (const Call::Missing &view : describedCall(row, hostTarget(), dtype, sizes).missingViews()) {
    py::tuple shape(size_t(view.extents.size()));
    for (int d = 0; d < view.extents.size(); ++d)
      shape[size_t(d)] = py::int_(view.extents[d]);
    shapes[py::str(view.name)] = py::make_tuple(bitloom::nameOf(view.dtype), shape);
  }
  return shapes;
}

static std::string inspect(const std::string &kernel, const std::string &target, const std::string &stage,
                           const std::optional<std::string> &dtype, const std::map<std::string, int64_t> &sizes) {
  const Target chosen = parseTarget(target);
  return emit(describedCall(kernelNamed(kernel), chosen, dtype, sizes).trace(), chosen, stageOf(stage));
}

static std::string explainSizes(const std::string &kernel, const std::string &target,
                                const std::optional<std::string> &dtype, const std::map<std::string, int64_t> &sizes) {
  const Target chosen = parseTarget(target);
  Call call = describedCall(kernelNamed(kernel), chosen, dtype, sizes);
  bindWithoutMemory(call);
  return explain(call, chosen);
}

// Positional and named arguments in one row, as Python's vectorcall convention has them.
struct Passed {
  std::vector<PyObject *> values;
  Py_ssize_t byPosition;
  py::tuple names;

  Passed(const py::tuple &arguments, const py::dict &named)
      : byPosition(Py_ssize_t(arguments.size())), names(named.size()) {
    for (py::handle value : arguments)
      values.push_back(value.ptr());
    size_t next = 0;
    for (auto [name, value] : named) {
      names[next++] = py::reinterpret_borrow<py::object>(name);
      values.push_back(value.ptr());
    }
  }
};

// What the kernel's function would run if it were called so.
static std::string explainCall(const std::string &kernel, const py::tuple &arguments, const py::dict &named) {
  const Passed passed(arguments, named);
  return KernelFunction::of(kernelNamed(kernel)).explain(passed.values.data(), passed.byPosition, passed.names.ptr());
}

// Searches the configuration of a call, keeps it in `file`, or the user's table, and says what was found.
static py::dict tuneCall(const Call &call, const Target &target, int rounds, std::optional<std::string> file) {
  const KernelRow &row = call.kernel();
  Device device = call.device();
  if (!isCpu(target.family))
    device.kind = Device::Kind::Cuda;
  if (!file)
    file = usersTunedTable();
  if (file->empty())
    throw UserError("tune: argument file: expected one where nothing is cached");
  Tuned tuned;
  {
    py::gil_scoped_release release;
    tuned = tune(row, size_t(&call.variant() - row.variants.data()), target, device, call.tunedKey().sizes,
                 {.rounds = rounds});
    TunedTable found;
    found.put(tuned.key, tuned.configuration);
    keepTuned(found, *file);
  }
  KernelFunction::of(row).forgetPlans();
  using namespace py::literals;
  const TunedConfiguration &best = tuned.configuration;
  return py::dict("kernel"_a = row.name, "dtype"_a = tuned.key.variant, "target"_a = target.name,
                  "sizes"_a = tuned.key.sizes, "metas"_a = best.metas, "ms"_a = best.milliseconds,
                  "usual_ms"_a = best.usualMilliseconds, "timed"_a = tuned.timed, "refused"_a = tuned.refused,
                  "file"_a = *file);
}

// By Python's fast convention of calls: all that stands between a call of an operator and its kernel asks this.
static PyObject *allOf(PyObject *types, PyObject *const *arguments, Py_ssize_t count) {
  const Py_ssize_t known = PyTuple_GET_SIZE(types);
  for (Py_ssize_t i = 0; i < count; ++i) {
    auto *type = reinterpret_cast<PyObject *>(Py_TYPE(arguments[i]));
    Py_ssize_t k = 0;
    while (k < known && PyTuple_GET_ITEM(types, k) != type)
      ++k;
    if (k == known)
      Py_RETURN_FALSE;
  }
  Py_RETURN_TRUE;
}

void bindRegistry(py::module_ &module) {
  py::class_<Parameter>(module, "Parameter", "A parameter of a kernel, as declared.")
      .def_property_readonly(
          "kind", [](const Parameter &p) { return nameOf(p.kind); }, "view, scalar or meta")
      .def_readonly("name", &Parameter::name)
      .def_property_readonly("dtype", [](const Parameter &p) { return bitloom::nameOf(p.dtype); })
      .def_readonly("rank", &Parameter::rank, "of a view")
      .def_readonly("output", &Parameter::output, "whether the kernel writes the view")
      .def_readonly("shape", &Parameter::shape, "a view's extents: names, or expressions of names")
      .def_property_readonly(
          "default",
          [](const Parameter &p) -> py::object {
            if (p.kind == Parameter::Kind::View)
              return py::none();
            if (!p.expression.empty())
              return py::str(p.expression);
            if (p.dtype == DType::b1)
              return py::bool_(p.bits & 1);
            double value = readAsDouble(p.dtype, &p.bits);
            return isFloat(p.dtype) ? py::object(py::float_(value)) : py::object(py::int_(int64_t(value)));
          },
          "of a scalar or a Meta parameter; text where it is an expression of the extents")
      .def_readonly("choices", &Parameter::choices, "names for a Meta parameter's values 0, 1, ...; mostly none")
      .def("__repr__", [](const Parameter &p) {
        return std::string(bitloom::nameOf(p.dtype)) + " " + p.name + (p.rank ? "[" + joined(p.shape) + "]" : "");
      });

  py::class_<KernelRow>(module, "Kernel", "A registered kernel.")
      .def_readonly("name", &KernelRow::name)
      .def_readonly("summary", &KernelRow::summary)
      .def_readonly("source", &KernelRow::source, "the file that registers it")
      .def_property_readonly(
          "variants",
          [](const KernelRow &row) {
            std::vector<std::vector<Parameter>> all;
            for (const Variant &variant : row.variants)
              all.push_back(variant.parameters);
            return all;
          },
          "the parameters in call order, for each choice of element types")
      .def_property_readonly(
          "variant_names",
          [](const KernelRow &row) {
            std::vector<std::string> names;
            for (size_t v = 0; v < row.variants.size(); ++v)
              names.push_back(bitloom::nameOf(row, v));
            return names;
          },
          "the dtypes in which each variant differs from the others: f32, or bf16/f32")
      .def_readonly("tests", &KernelRow::tests, "sizes to test with")
      .def_readonly("benchmarks", &KernelRow::benchmarks, "sizes to measure with")
      .def_readonly("only_cpus", &KernelRow::onlyCpus, "whether calls on a GPU are refused")
      .def_property_readonly(
          "tunables",
          [](const KernelRow &row) {
            std::map<std::string, std::vector<int64_t>> all;
            for (const auto &[meta, values] : row.tunables)
              all[meta] = values;
            return all;
          },
          "the Meta parameters that tune chooses, and the values that it tries")
      .def_property_readonly(
          "signature", [](const KernelRow &row) { return KernelFunction::of(row).signature().text; },
          "of the Python function")
      .def(
          "shapes",
          [](const KernelRow &row, const std::optional<std::string> &dtype, const py::kwargs &sizes) {
            return shapesOf(row, dtype, sizes.cast<std::map<std::string, int64_t>>());
          },
          py::arg("dtype") = py::none(),
          "The element type and shape of each view, for values of the extents' names and of Meta parameters:\n"
          "kernels()[\"rms_norm\"].shapes(\"f16\", rows=3, cols=17). Inputs that such a call does without are left "
          "out.")
      .def("__repr__", [](const KernelRow &row) { return "<bitloom kernel " + row.name + ": " + row.summary + ">"; });

  module.def(
      "kernels",
      [] {
        py::dict all;
        for (const KernelRow *row : allKernels())
          all[py::str(row->name)] = py::cast(row, py::return_value_policy::reference);
        return all;
      },
      "The registered kernels, by name.");
  module.def(
      "_function",
      [](const KernelRow &row, bool anyRank, bool middleSwapped) {
        return functionOf(row, "bitloom",
                          anyRank         ? Form::AnyRank
                          : middleSwapped ? Form::MiddleSwapped
                                          : Form::AsDeclared);
      },
      py::arg("kernel"), py::arg("any_rank") = false, py::arg("middle_swapped") = false);
  module.def("_all_of", [](const py::tuple &types) {
    static PyMethodDef definition{"all_of", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(allOf)),
                                  METH_FASTCALL, "Whether the type of every argument is one of some."};
    return py::reinterpret_steal<py::object>(PyCFunction_New(&definition, types.ptr()));
  });
  module.def("_load_kernels", [](const std::string &path) {
    std::vector<std::string> names;
    for (const KernelRow *row : loadKernels(path))
      names.push_back(row->name);
    return names;
  });

  module.def("_explain_sizes", &explainSizes, py::arg("kernel"), py::arg("target"), py::arg("dtype"), py::arg("sizes"),
             py::call_guard<py::gil_scoped_release>());
  module.def("_explain_call", &explainCall, py::arg("kernel"), py::arg("arguments"), py::arg("named"));
  module.def(
      "_tune_sizes",
      [](const std::string &kernel, const std::string &target, const std::optional<std::string> &dtype,
         const std::map<std::string, int64_t> &sizes, int rounds, const std::optional<std::string> &file) {
        const Target chosen = parseTarget(target);
        return tuneCall(describedCall(kernelNamed(kernel), chosen, dtype, sizes), chosen, rounds, file);
      },
      py::arg("kernel"), py::arg("target"), py::arg("dtype"), py::arg("sizes"), py::arg("rounds"), py::arg("file"));
  module.def(
      "_tune_call",
      [](const std::string &kernel, const py::tuple &arguments, const py::dict &named, int rounds,
         const std::optional<std::string> &file) {
        const Passed passed(arguments, named);
        const auto [call, target] = KernelFunction::of(kernelNamed(kernel))
                                        .described(passed.values.data(), passed.byPosition, passed.names.ptr());
        return tuneCall(call, target, rounds, file);
      },
      py::arg("kernel"), py::arg("arguments"), py::arg("named"), py::arg("rounds"), py::arg("file"));
  module.def("_inspect", &inspect, py::arg("kernel"), py::arg("target"), py::arg("emit"), py::arg("dtype"),
             py::arg("sizes"), py::call_guard<py::gil_scoped_release>());
}

} // namespace bitloom::python
