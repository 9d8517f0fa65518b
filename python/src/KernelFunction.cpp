#include "bitloom/python/src/KernelFunction.h"

#include "bitloom/dsl/Explain.h"
#include "bitloom/lib/runtime/Cuda.h"
#include "bitloom/lib/support/Error.h"
#include "bitloom/lib/support/Expression.h"
#include "bitloom/lib/support/Suggest.h"
#include "bitloom/python/src/Errors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <map>

namespace bitloom::python {

using Kind = Parameter::Kind;

//===- Where calls run --------------------------------------------------------------------------------------------===//

static thread_local Destination destination;
static thread_local std::string destinationName = "device";

std::string setDestination(const std::string &name) {
  Destination next;
  if (name == "interpreter") {
    next.interpreter = true;
  } else if (name != "device") {
    next.target = parseTarget(name);
    if (isCpu(next.target->family) && !runsOnHost(*next.target))
      throw UserError("target " + name + ": expected one that this processor runs, such as host");
  }
  if (name != "device") {
    static auto &ids = *new std::map<std::string, int64_t>; // guarded by the GIL
    next.id = ids.emplace(name, int64_t(ids.size()) + 1).first->second;
  }
  destination = next;
  return std::exchange(destinationName, name);
}

static const Target &targetFor(Device device, const std::string &kernel) {
  if (destination.target) {
    if (isCpu(destination.target->family) != (device.kind == Device::Kind::Cpu))
      throw UserError(kernel + ": expected tensors that " + destinationName + " can run on, got some on " +
                      nameOf(device));
    return *destination.target;
  }
  if (device.kind == Device::Kind::Cpu)
    return hostTarget();
  static auto &targets = *new std::map<int, Target>; // guarded by the GIL
  auto found = targets.find(device.index);
  return found != targets.end() ? found->second : targets.emplace(device.index, parseTarget("cuda")).first->second;
}

//===- Reading the arguments --------------------------------------------------------------------------------------===//

struct KernelFunction::Arguments {
  struct Number {
    enum { None, Integer, Real } kind = None;
    int64_t bits = 0;
  };
  // Of a parameter: the view's array, borrowed from the caller or from `made`; the scalar's or Meta's value.
  struct Given {
    PyObject *object = nullptr;
    Number number{};
    Borrowed tensor{};
  };
  std::vector<Given> given;
  std::vector<py::object> made;
  using Shape = std::array<int64_t, 2 * maxRank>; // extents and strides
  std::vector<Shape> shapes;                      // of tensors that were given another rank; stays where it is
  uint64_t unwanted = 0;                          // a bit a parameter: outputs that are no results
  const ArrayType *like = nullptr;                // the type of the first view
  Device device;
  CallStream stream; // of a launch on a GPU

  explicit Arguments(size_t count) : given(count) {}
};

constexpr size_t mostParameters = 64; // a bit each in a word

KernelFunction::KernelFunction(const KernelRow &row) : row(row), shape(row) {
  if (row.variants.front().parameters.size() > mostParameters)
    throw UserError(row.name + ": expected at most " + std::to_string(mostParameters) + " parameters, got " +
                    std::to_string(row.variants.front().parameters.size()));
  for (const Signature::Entry &entry : shape.entries)
    names.push_back(PyUnicode_InternFromString(row.variants.front().parameters[entry.parameter].name.c_str()));
  for (const Parameter &parameter : row.variants.front().parameters) {
    where.push_back(row.name + ": argument " + parameter.name);
    rank = std::max(rank, parameter.rank);
  }
  doc = row.name + shape.text + "\n--\n\n" + shape.documentation; // the form that inspect.signature reads
}

KernelFunction &KernelFunction::of(const KernelRow &row) {
  static auto &functions = *new std::unordered_map<const KernelRow *, KernelFunction *>; // guarded by the GIL
  auto [entry, fresh] = functions.try_emplace(&row);
  if (fresh)
    entry->second = new KernelFunction(row);
  return *entry->second;
}

void KernelFunction::read(Arguments &arguments, size_t parameter, PyObject *value) const {
  const Parameter &declared = row.variants.front().parameters[parameter];
  if (declared.kind == Kind::View) {
    arguments.given[parameter].object = value;
    return;
  }
  Arguments::Number &number = arguments.given[parameter].number;
  if (!declared.choices.empty() && PyUnicode_Check(value)) {
    std::string name = py::str(value);
    auto choice = std::ranges::find(declared.choices, name);
    if (choice == declared.choices.end())
      throw UserError(where[parameter] + ": expected " + joined(declared.choices) + ", got '" + name + "'");
    number = {Arguments::Number::Integer, choice - declared.choices.begin()};
    return;
  }
  py::object index;
  if (PyFloat_Check(value)) {
    number = {Arguments::Number::Real, std::bit_cast<int64_t>(PyFloat_AS_DOUBLE(value))};
  } else if (PyIndex_Check(value) && (index = py::reinterpret_steal<py::object>(PyNumber_Index(value)))) {
    number = {Arguments::Number::Integer, PyLong_AsLongLong(index.ptr())};
  } else {
    PyErr_Clear(); // numpy and torch scalars of floats have an __index__ that refuses
    number = {Arguments::Number::Real, std::bit_cast<int64_t>(PyFloat_AsDouble(value))};
  }
  if (PyErr_Occurred()) {
    PyErr_Clear();
    throw UserError(where[parameter] + ": expected a number that fits 64 bits, got " + std::string(py::repr(value)));
  }
}

// The tensor with `rank` dimensions, whose extents and strides go to `shape`: its first ones as one, or after ones
// of 1. False where the first ones do not lie one after the other.
static bool reshape(dlpack::Tensor &tensor, int rank, std::array<int64_t, 2 * maxRank> &shape) {
  const int merged = std::max(tensor.rank - rank, 0), added = std::max(rank - tensor.rank, 0);
  int64_t *extents = shape.data(), *strides = shape.data() + rank;
  for (int i = added; i < rank; ++i) {
    extents[i] = tensor.extents[i - added + merged];
    strides[i] = tensor.strides[i - added + merged];
  }
  for (int i = added - 1; i >= 0; --i) {
    extents[i] = 1;
    strides[i] = i + 1 < rank ? extents[i + 1] * strides[i + 1] : 1;
  }
  const bool empty = std::find(tensor.extents, tensor.extents + tensor.rank, 0) != tensor.extents + tensor.rank;
  for (int i = merged - 1; i >= 0; --i) {
    const int64_t extent = tensor.extents[i], stride = tensor.strides[i];
    if (extents[0] == 1)
      strides[0] = stride;
    else if (extent != 1 && stride != extents[0] * strides[0] && !empty)
      return false;
    extents[0] *= extent;
  }
  tensor.rank = rank;
  tensor.extents = extents;
  tensor.strides = strides;
  return true;
}

void KernelFunction::giveRank(Arguments &arguments, size_t parameter) const {
  const Parameter &declared = row.variants.front().parameters[parameter];
  Arguments::Given &one = arguments.given[parameter];
  const int more = one.tensor.given.rank - rank;
  if (!more || !rank || declared.rank != rank || !one.tensor.given.strides)
    return;
  arguments.shapes.reserve(arguments.given.size());
  if (reshape(one.tensor.given, rank, arguments.shapes.emplace_back()))
    return;
  if (declared.output)
    throw UserError(where[parameter] + ": expected first dimensions that lie one after the other, got others");
  arguments.made.push_back(py::handle(one.object).attr("flatten")(0, more));
  one.object = arguments.made.back().ptr();
  one.tensor.borrow(one.object, arguments.stream, where[parameter]);
}

void KernelFunction::swapMiddle(Arguments &arguments, size_t parameter) const {
  dlpack::Tensor &tensor = arguments.given[parameter].tensor.given;
  if (tensor.rank != 4 || !tensor.strides || row.variants.front().parameters[parameter].rank != 4)
    return;
  arguments.shapes.reserve(arguments.given.size());
  std::array<int64_t, 2 * maxRank> &shape = arguments.shapes.emplace_back();
  std::copy_n(tensor.extents, 4, shape.data());
  std::copy_n(tensor.strides, 4, shape.data() + 4);
  std::swap(shape[1], shape[2]);
  std::swap(shape[5], shape[6]);
  tensor.extents = shape.data();
  tensor.strides = shape.data() + 4;
}

void KernelFunction::bind(Arguments &arguments, PyObject *const *values, Py_ssize_t byPosition, PyObject *keywords,
                          Form form) const {
  const std::vector<Signature::Entry> &entries = shape.entries;
  uint64_t given = 0; // a bit an entry
  auto take = [&](size_t e, PyObject *value) {
    given |= uint64_t{1} << e;
    if (value != Py_None)
      read(arguments, entries[e].parameter, value);
  };
  for (Py_ssize_t i = 0; i < byPosition; ++i) {
    if (size_t(i) == entries.size() || !entries[size_t(i)].byPosition)
      throw py::type_error(row.name + "() takes " + std::to_string(i) + " positional arguments but " +
                           std::to_string(byPosition) + " were given: " + row.name + shape.text);
    take(size_t(i), values[i]);
  }
  Py_ssize_t count = keywords ? PyTuple_GET_SIZE(keywords) : 0;
  for (Py_ssize_t k = 0; k < count; ++k) {
    PyObject *name = PyTuple_GET_ITEM(keywords, k);
    size_t e = 0; // names in source code are interned, so the address mostly decides
    while (e < names.size() && names[e] != name)
      ++e;
    for (size_t other = 0; e == names.size() && other < names.size(); ++other)
      if (PyUnicode_Compare(names[other], name) == 0)
        e = other;
    if (e == names.size()) {
      std::vector<std::string> known;
      for (PyObject *one : names)
        known.push_back(py::str(one));
      std::string text = py::str(name);
      throw py::type_error(row.name + "() got an unexpected keyword argument '" + text + "'" +
                           expectedOneOf(text, known));
    }
    if (given >> e & 1)
      throw py::type_error(row.name + "() got multiple values for argument '" + std::string(py::str(name)) + "'");
    take(e, values[byPosition + k]);
  }
  for (size_t e = 0; e < entries.size() && entries[e].required; ++e)
    if (!(given >> e & 1))
      throw py::type_error(row.name + "() missing required argument '" + std::string(py::str(names[e])) +
                           "': " + row.name + shape.text);

  for (size_t i = 0; i < arguments.given.size(); ++i) {
    Arguments::Given &one = arguments.given[i];
    if (!one.object)
      continue;
    one.tensor.borrow(one.object, arguments.stream, where[i]);
    if (one.tensor.readOnly && row.variants.front().parameters[i].output)
      throw UserError(where[i] + ": expected a tensor that can be written, got a read-only one");
    if (!arguments.like) {
      arguments.like = one.tensor.type;
      arguments.device = one.tensor.device();
    }
    if (form != Form::AsDeclared && one.tensor.type->isTorch)
      form == Form::AnyRank ? giveRank(arguments, i) : swapMiddle(arguments, i);
  }
}

void KernelFunction::makeOutputs(Arguments &arguments, const std::vector<Output> &missing) const {
  for (const Output &output : missing) {
    size_t i = output.parameter;
    if (!arguments.like)
      throw UserError(where[i] + ": expected a tensor, got none");
    arguments.made.push_back(output.made
                                 ? output.made
                                 : allocate(*arguments.like, output.dtype, output.extents, arguments.device, where[i]));
    arguments.given[i].object = arguments.made.back().ptr();
    arguments.given[i].tensor.borrow(arguments.given[i].object, arguments.stream, where[i]);
    if (!output.wanted)
      arguments.unwanted |= uint64_t{1} << i;
  }
}

//===- Planning ---------------------------------------------------------------------------------------------------===//

// The strictest alignment that code is specialised for.
static bool isAligned(const void *data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; }

// Four products under way at a time; each word of a quarter meets a power of the multiplier of its own.
size_t KernelFunction::KeyHash::operator()(std::span<const int64_t> key) const {
  constexpr uint64_t multiplier = 0xff51afd7ed558ccd; // of MurmurHash3's finaliser
  uint64_t hash[4] = {0x9e3779b97f4a7c15, key.size(), 1, 2};
  size_t i = 0;
  for (; i + 4 <= key.size(); i += 4)
    for (size_t lane = 0; lane < 4; ++lane)
      hash[lane] = std::rotl((hash[lane] ^ uint64_t(key[i + lane])) * multiplier, 31);
  for (; i < key.size(); ++i)
    hash[i % 4] = std::rotl((hash[i % 4] ^ uint64_t(key[i])) * multiplier, 31);
  uint64_t all = 0;
  for (uint64_t lane : hash)
    all = (all ^ lane ^ lane >> 32) * multiplier;
  return all ^ all >> 32;
}

bool KernelFunction::KeyEqual::operator()(std::span<const int64_t> a, std::span<const int64_t> b) const {
  return a.size() == b.size() && !std::memcmp(a.data(), b.data(), a.size_bytes());
}

// Everything of the arguments that a plan depends on: built on the stack, copied only into a new plan's entry.
struct KernelFunction::KeyBuffer {
  std::array<int64_t, mostParameters * (2 + 2 * maxRank) + 1> words;
  size_t count = 0;

  void add(int64_t word) { words[count++] = word; }
  void add(const int64_t *from, size_t size) {
    std::copy_n(from, size, &words[count]);
    count += size;
  }
  std::span<const int64_t> span() const { return {words.data(), count}; }
};

void KernelFunction::makeKey(KeyBuffer &key, const Arguments &arguments) {
  key.add(destination.id);
  for (const Arguments::Given &one : arguments.given) {
    if (!one.object) {
      key.add(int64_t(one.number.kind) << 1);
      key.add(one.number.bits);
      continue;
    }
    // As the library describes it: what no kernel takes gets no plan.
    const dlpack::Tensor &tensor = one.tensor.given;
    const int rank = std::min(tensor.rank, maxRank + 1);
    const auto address = reinterpret_cast<uintptr_t>(one.tensor.data());
    const auto offset = int64_t(address % 16); // what elements are aligned to, and code may be
    key.add(1 | offset << 1 | int64_t(tensor.dtype.code) << 5 | int64_t(tensor.dtype.bits) << 13 |
            int64_t(tensor.dtype.lanes) << 21 | int64_t(rank) << 37 | int64_t(tensor.strides != nullptr) << 41);
    key.add(int64_t(tensor.device.type) << 32 | tensor.device.index);
    if (rank <= maxRank) {
      key.add(tensor.extents, size_t(rank));
      if (tensor.strides)
        key.add(tensor.strides, size_t(rank));
    }
  }
}

Call KernelFunction::resolved(const Arguments &arguments) const {
  Call call(row);
  for (size_t i = 0; i < arguments.given.size(); ++i) {
    const std::string &name = row.variants.front().parameters[i].name;
    const auto &[object, number, tensor] = arguments.given[i];
    if (object)
      call.set(name, tensor.tensor(where[i]));
    else if (number.kind == Arguments::Number::Integer)
      call.set(name, number.bits);
    else if (number.kind == Arguments::Number::Real)
      call.set(name, std::bit_cast<double>(number.bits));
  }
  call.resolve();
  return call;
}

std::vector<KernelFunction::Output> KernelFunction::missingOutputs(const Call &call) const {
  std::vector<Output> outputs;
  const std::vector<Parameter> &parameters = call.variant().parameters;
  for (const Call::Missing &missing : call.missingViews()) {
    size_t i = 0;
    while (parameters[i].name != missing.name)
      ++i;
    if (!parameters[i].output)
      throw UserError(where[i] + ": expected a tensor of shape (" + joined(parameters[i].shape) + "), got none");
    bool wanted = std::ranges::none_of(parameters[i].shape, [&](const std::string &extent) {
      return evaluate(extent, [&](std::string_view name) -> std::optional<int64_t> {
               for (const Parameter &other : parameters)
                 if (other.kind == Kind::Meta && other.name == name)
                   return call.names().at(std::string(name));
               return 64; // any extent
             }) == 0;
    });
    outputs.push_back({i, missing.dtype, missing.extents, wanted, {}});
  }
  return outputs;
}

bool KernelFunction::writes(const Arguments &arguments) const {
  return std::ranges::any_of(shape.outputs, [&](size_t i) {
    const dlpack::Tensor &tensor = arguments.given[i].tensor.given;
    return std::find(tensor.extents, tensor.extents + tensor.rank, 0) == tensor.extents + tensor.rank;
  });
}

Call KernelFunction::complete(Arguments &arguments, std::vector<Output> &missing) const {
  Call call = resolved(arguments);
  missing = missingOutputs(call);
  makeOutputs(arguments, missing);
  for (Output &output : missing) {
    const Arguments::Given &given = arguments.given[output.parameter];
    call.set(call.variant().parameters[output.parameter].name, given.tensor.tensor(where[output.parameter]));
    if (!output.wanted)
      output.made = py::reinterpret_borrow<py::object>(given.object);
  }
  return call;
}

std::shared_ptr<const KernelFunction::Plan> KernelFunction::plan(Arguments &arguments) const {
  auto plan = std::make_shared<Plan>();
  Call call = complete(arguments, plan->missing);
  if (!writes(arguments))
    return plan;
  std::optional<cuda::ContextScope> scope;
  if (arguments.device.kind == Device::Kind::Cuda)
    scope.emplace(arguments.device.index);
  const Target &target = targetFor(arguments.device, row.name);
  py::gil_scoped_release release; // compiling takes a while
  plan->call = call.prepare(target);
  return plan;
}

//===- Running ----------------------------------------------------------------------------------------------------===//

namespace {
// Other threads of Python may run while the scope lives; pybind11's own scope does more than a launch can afford.
struct WithoutGil {
  PyThreadState *state = PyEval_SaveThread();
  ~WithoutGil() { PyEval_RestoreThread(state); }
};
} // namespace

void KernelFunction::run(const Plan &plan, const Arguments &arguments) const {
  if (!plan.call.executable)
    return;
  std::array<void *, mostParameters> data;
  for (auto [parameter, word] : plan.call.addresses)
    data[parameter] = arguments.given[parameter].object ? arguments.given[parameter].tensor.data() : nullptr;
  WithoutGil others;
  if (arguments.device.kind == Device::Kind::Cpu) {
    plan.call.launchOn(data);
  } else {
    cuda::ContextScope scope(arguments.device.index);
    plan.call.launchOn(data, *arguments.stream.launch);
  }
}

py::object KernelFunction::results(Arguments &arguments) const {
  std::array<PyObject *, mostParameters> wanted;
  size_t count = 0;
  for (size_t i : shape.outputs)
    if (!(arguments.unwanted >> i & 1))
      wanted[count++] = arguments.given[i].object;
  if (count == 1)
    return py::reinterpret_borrow<py::object>(wanted[0]);
  py::tuple all(count);
  for (size_t r = 0; r < count; ++r)
    all[r] = py::reinterpret_borrow<py::object>(wanted[r]);
  return all;
}

py::object KernelFunction::call(PyObject *const *values, Py_ssize_t byPosition, PyObject *keywords, Form form) {
  Arguments arguments(where.size());
  bind(arguments, values, byPosition, keywords, form);
  if (destination.interpreter) {
    Call call = resolved(arguments);
    makeOutputs(arguments, missingOutputs(call));
    if (arguments.device.kind != Device::Kind::Cpu)
      throw UserError(row.name + ": expected tensors on the CPU for the interpreter, got some on " +
                      nameOf(arguments.device));
    if (writes(arguments)) {
      call = resolved(arguments);
      py::gil_scoped_release release;
      call.interpret();
    }
  } else {
    KeyBuffer key;
    makeKey(key, arguments);
    auto found = plans.find(key.span());
    const bool known = found != plans.end();
    std::shared_ptr<const Plan> chosen;
    if (known) {
      chosen = found->second;
      makeOutputs(arguments, chosen->missing);
    } else {
      chosen = plan(arguments);
    }
    // A plan is for outputs made as aligned as code can ask for, which allocators see to but do not promise.
    bool aligned = true;
    for (const Output &output : chosen->missing)
      aligned &= isAligned(arguments.given[output.parameter].tensor.data());
    constexpr size_t mostPlans = 4096;
    if (!known && aligned) {
      if (plans.size() >= mostPlans)
        plans.clear();
      plans.emplace(Key(key.span().begin(), key.span().end()), chosen);
    } else if (known && !aligned) {
      chosen = plan(arguments);
    }
    run(*chosen, arguments);
  }
  return results(arguments);
}

std::string KernelFunction::explain(PyObject *const *values, Py_ssize_t byPosition, PyObject *keywords) {
  Arguments arguments(where.size());
  bind(arguments, values, byPosition, keywords);
  if (destination.interpreter)
    return "kernel     " + row.name + "\ntarget     the interpreter, as use_target says\n";
  std::vector<Output> missing;
  Call call = complete(arguments, missing);
  const Target &target = targetFor(arguments.device, row.name);
  py::gil_scoped_release release; // compiling takes a while
  return bitloom::explain(call, target);
}

std::pair<Call, Target> KernelFunction::described(PyObject *const *values, Py_ssize_t byPosition, PyObject *keywords) {
  Arguments arguments(where.size());
  bind(arguments, values, byPosition, keywords);
  std::vector<Output> missing;
  Call call = complete(arguments, missing);
  return {call, targetFor(arguments.device, row.name)};
}

template <Form form>
static PyObject *callKernel(PyObject *self, PyObject *const *arguments, Py_ssize_t count, PyObject *keywords) {
  return orRaise([&] {
    auto *function = static_cast<KernelFunction *>(PyCapsule_GetPointer(self, nullptr));
    return function->call(arguments, PyVectorcall_NARGS(size_t(count)), keywords, form).release().ptr();
  });
}

py::object functionOf(const KernelRow &row, const std::string &module, Form form) {
  KernelFunction &function = KernelFunction::of(row);
  PyMethodDef *method = function.method(form);
  method->ml_name = row.name.c_str();
  auto *entry = form == Form::AnyRank         ? callKernel<Form::AnyRank>
                : form == Form::MiddleSwapped ? callKernel<Form::MiddleSwapped>
                                              : callKernel<Form::AsDeclared>;
  method->ml_meth = reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(entry));
  method->ml_flags = METH_FASTCALL | METH_KEYWORDS;
  method->ml_doc = function.help().c_str();
  py::capsule self(&function, [](void *) {});
  py::str home(module);
  return py::reinterpret_steal<py::object>(PyCFunction_NewEx(method, self.ptr(), home.ptr()));
}

} // namespace bitloom::python
