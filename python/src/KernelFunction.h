// A kernel as a function of Python.
#pragma once

#include "bitloom/dsl/Call.h"
#include "bitloom/lowering/Executable.h"
#include "bitloom/python/src/Signature.h"
#include "bitloom/python/src/Tensors.h"

#include <optional>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

namespace bitloom::python {

// Where calls of this thread run: on their tensors' own device, in the interpreter, or as code for a CPU target that
// this machine runs.
struct Destination {
  bool interpreter = false;
  std::optional<Target> target;
  int64_t id = 0; // differs between destinations of different names; 0 is the tensors' own device
};
// Sets this thread's: "device", "interpreter" or the name of a target. Gives the name that it replaces. UserError for a
// target that this machine cannot run.
std::string setDestination(const std::string &name);

// How views take torch's tensors. AnyRank: those of the kernel's highest rank take tensors of any, of more dimensions
// with the first ones as one, of fewer with first ones of extent 1; of an output these must lie so in memory, an input
// is copied where they do not. MiddleSwapped: those of rank 4 take tensors with dimensions 1 and 2 in each other's
// place.
enum class Form { AsDeclared, AnyRank, MiddleSwapped };

// One for each row, made once and never destroyed: Python's function object points into it.
class KernelFunction {
public:
  static KernelFunction &of(const KernelRow &row);

  const Signature &signature() const { return shape; }
  const std::string &help() const { return doc; }
  PyMethodDef *method(Form form) { return &definitions[size_t(form)]; }

  // By Python's vectorcall convention. Throws; gives the outputs, as a tuple when there are several.
  py::object call(PyObject *const *arguments, Py_ssize_t byPosition, PyObject *names, Form form = Form::AsDeclared);
  // What such a call would run and why, as bitloom::explain says it; nothing runs.
  std::string explain(PyObject *const *arguments, Py_ssize_t byPosition, PyObject *names);
  // Such a call, resolved, and what it would run on; nothing runs.
  std::pair<Call, Target> described(PyObject *const *arguments, Py_ssize_t byPosition, PyObject *names);
  // Later calls are planned anew: tables of tuned configurations changed. Under the GIL.
  void forgetPlans() { plans.clear(); }

private:
  explicit KernelFunction(const KernelRow &row);

  struct Output {
    size_t parameter;
    DType dtype;
    Dims extents;
    bool wanted;     // or empty by the Meta parameters, and no result
    py::object made; // where not wanted: the one that all calls of a plan share
  };
  // All that a call needs, for arguments like those of an earlier one: only the addresses differ.
  struct Plan {
    PreparedCall call;           // its executable is null when there is nothing to do
    std::vector<Output> missing; // outputs to make
  };
  struct Arguments;
  using Key = std::vector<int64_t>;
  struct KeyHash {
    using is_transparent = void;
    size_t operator()(std::span<const int64_t> key) const;
  };
  struct KeyEqual {
    using is_transparent = void;
    bool operator()(std::span<const int64_t> a, std::span<const int64_t> b) const;
  };
  struct KeyBuffer;

  void bind(Arguments &arguments, PyObject *const *values, Py_ssize_t byPosition, PyObject *keywords,
            Form form = Form::AsDeclared) const;
  void giveRank(Arguments &arguments, size_t parameter) const;
  void swapMiddle(Arguments &arguments, size_t parameter) const;
  void read(Arguments &arguments, size_t parameter, PyObject *value) const;
  void makeOutputs(Arguments &arguments, const std::vector<Output> &missing) const;
  Call resolved(const Arguments &arguments) const;
  std::vector<Output> missingOutputs(const Call &call) const;
  static void makeKey(KeyBuffer &key, const Arguments &arguments);
  bool writes(const Arguments &arguments) const; // whether any output has an element
  // The call with the outputs that were missing, which it makes and lists.
  Call complete(Arguments &arguments, std::vector<Output> &missing) const;
  std::shared_ptr<const Plan> plan(Arguments &arguments) const;
  void run(const Plan &plan, const Arguments &arguments) const;
  py::object results(Arguments &arguments) const;

  const KernelRow &row;
  Signature shape;
  std::vector<PyObject *> names;  // of the signature's entries, interned
  std::vector<std::string> where; // "rms_norm: argument x", by parameter
  int rank = 0;                   // the highest of a view
  std::string doc;
  PyMethodDef definitions[3] = {};                                               // one for each form
  std::unordered_map<Key, std::shared_ptr<const Plan>, KeyHash, KeyEqual> plans; // guarded by the GIL
};

// The function object, whose __module__ is `module`.
py::object functionOf(const KernelRow &row, const std::string &module, Form form);

} // namespace bitloom::python
