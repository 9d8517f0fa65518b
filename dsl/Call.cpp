#include "bitloom/dsl/Call.h"

#include "bitloom/dsl/Realigned.h"
#include "bitloom/dsl/internal/Session.h"
#include "bitloom/lib/runtime/DeviceMemory.h"
#include "bitloom/lib/runtime/Launch.h"
#include "bitloom/lib/support/Expression.h"
#include "bitloom/lib/support/Suggest.h"
#include "bitloom/lowering/BuildId.h"
#include "bitloom/lowering/Executable.h"
#include "bitloom/lowering/Interpreter.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <mutex>
#include <unordered_map>

namespace bitloom {

using Kind = Parameter::Kind;

// A kernel's variants differ in element types alone, so names and kinds are those of the first.
static const std::vector<Parameter> &declared(const KernelRow &row) { return row.variants.front().parameters; }

Call::Call(const KernelRow &kernel)
    : row(&kernel), views(declared(kernel).size()), numbers(declared(kernel).size()), scalars(declared(kernel).size()) {
}

size_t Call::indexOf(std::string_view name, std::initializer_list<Kind> kinds) const {
  std::vector<std::string> names;
  for (size_t i = 0; i < declared(*row).size(); ++i) {
    const Parameter &parameter = declared(*row)[i];
    names.push_back(parameter.name);
    if (parameter.name != name)
      continue;
    for (Kind kind : kinds)
      if (parameter.kind == kind)
        return i;
    throw UserError(row->name + ": argument " + parameter.name + ": expected " +
                    (parameter.kind == Kind::View ? "a tensor, got a number" : "a number, got a tensor"));
  }
  throw UserError(row->name + ": expected an argument named " + joined(names) + ", got '" + std::string(name) + "'");
}

void Call::set(std::string_view name, const TensorRef &tensor) { views[indexOf(name, {Kind::View})] = tensor; }

void Call::setPadded(std::string_view name, const TensorRef &tensor) {
  set(name, tensor);
  padded.insert(indexOf(name, {Kind::View}));
}

void Call::set(std::string_view name, double number) {
  size_t i = indexOf(name, {Kind::Scalar, Kind::Meta});
  if (declared(*row)[i].kind == Kind::Meta) {
    if (number != std::floor(number))
      throw UserError(row->name + ": argument " + std::string(name) + ": expected an integer, got " +
                      std::to_string(number));
    numbers[i] = int64_t(number);
  } else
    scalars[i] = number;
}

void Call::set(std::string_view name, int64_t number) {
  size_t i = indexOf(name, {Kind::Scalar, Kind::Meta});
  if (declared(*row)[i].kind == Kind::Meta)
    numbers[i] = number;
  else
    scalars[i] = number;
}

void Call::chooseVariant(DType dtype) {
  std::vector<std::string> offered;
  for (size_t v = 0; v < row->variants.size(); ++v)
    for (const Parameter &parameter : row->variants[v].parameters)
      if (parameter.kind == Kind::View) {
        if (parameter.dtype == dtype) {
          chosen = v;
          return;
        }
        offered.emplace_back(nameOf(parameter.dtype));
        break; // the first view tells the variants apart
      }
  throw UserError(row->name + ": expected element type " + joined(offered) + ", got " + std::string(nameOf(dtype)));
}

//===- Resolving --------------------------------------------------------------------------------------------------===//

static std::string argument(const KernelRow &row, const Parameter &parameter) {
  return row.name + ": argument " + parameter.name;
}

void Call::pickVariant() {
  if (chosen)
    return;
  size_t best = 0, bestFit = 0;
  for (size_t v = 0; v < row->variants.size(); ++v) {
    size_t fit = 0;
    for (size_t i = 0; i < views.size(); ++i)
      if (views[i] && views[i]->dtype == row->variants[v].parameters[i].dtype)
        ++fit;
      else if (views[i])
        break; // earlier arguments decide
    if (fit > bestFit)
      best = v, bestFit = fit;
  }
  chosen = best;
}

void Call::checkViews() {
  std::optional<Device> where;
  for (size_t i = 0; i < views.size(); ++i) {
    const Parameter &parameter = variant().parameters[i];
    if (!views[i])
      continue;
    const TensorRef &tensor = *views[i];
    if (tensor.dtype != parameter.dtype) {
      std::vector<std::string> offered;
      for (const Variant &other : row->variants) {
        std::string name(nameOf(other.parameters[i].dtype));
        if (std::find(offered.begin(), offered.end(), name) == offered.end())
          offered.push_back(name);
      }
      bool free = std::find(offered.begin(), offered.end(), nameOf(tensor.dtype)) == offered.end();
      throw UserError(argument(*row, parameter) + ": expected dtype " +
                      (free ? joined(offered) : std::string(nameOf(parameter.dtype))) + ", got " +
                      std::string(nameOf(tensor.dtype)));
    }
    if (tensor.rank() != parameter.rank)
      throw UserError(argument(*row, parameter) + ": expected " + std::to_string(parameter.rank) + " dimensions, got " +
                      std::to_string(tensor.rank()));
    if (where && !(*where == tensor.device))
      throw UserError(argument(*row, parameter) + ": expected a tensor on " + nameOf(*where) +
                      " as the others, got one on " + nameOf(tensor.device));
    where = tensor.device;
    for (int d = 0; d < tensor.rank(); ++d)
      if (tensor.extents[d] > 1 && tensor.strides[d] == 0 && parameter.output && tensor.elementCount())
        throw UserError(argument(*row, parameter) +
                        ": expected distinct elements to write, got stride 0 in dimension " + std::to_string(d));
  }
}

// Whether the last dimension but one is that of stride 1.
static bool liesTransposed(const TensorRef &tensor) {
  int last = tensor.rank() - 1;
  return last > 0 && tensor.extents[last] > 1 && tensor.strides[last] != 1 && tensor.extents[last - 1] > 1 &&
         tensor.strides[last - 1] == 1;
}

std::optional<int64_t> Call::named(std::string_view name) const {
  size_t dot = name.find('.');
  if (dot == name.npos) {
    if (name == "multiprocessors")
      return target->multiprocessors;
    if (name == "compute_capability")
      return target->computeCapability;
    auto found = sizes.find(std::string(name));
    return found == sizes.end() ? std::nullopt : std::optional(found->second);
  }
  std::string_view fact = name.substr(dot + 1);
  size_t i = indexOf(name.substr(0, dot), {Kind::View, Kind::Scalar});
  const std::optional<TensorRef> &view = views[i];
  if (fact == "given")
    return declared(*row)[i].kind == Kind::Scalar ? scalars[i].has_value() : view && view->elementCount();
  if (fact == "transposed")
    return view && liesTransposed(*view);
  throw UserError(row->name + ": expected 'given' or 'transposed' of a parameter, got '" + std::string(name) + "'");
}

std::optional<int64_t> Call::defaultOf(const Parameter &meta) const {
  if (meta.expression.empty())
    return meta.bits;
  return evaluate(meta.expression, [&](std::string_view name) { return named(name); });
}

bool Call::isTunable(const Parameter &meta) const {
  return std::ranges::find(row->tunables, meta.name, &Tunable::meta) != row->tunables.end();
}

TunedKey Call::tunedKey() const {
  TunedKey key{row->name, bitloom::nameOf(*row, chosen.value_or(0)), target->name, target->multiprocessors, sizes};
  for (const Parameter &parameter : variant().parameters)
    if (parameter.kind == Kind::Scalar || isTunable(parameter))
      key.sizes.erase(parameter.name);
  return key;
}

// All that were tuned, or none: they were measured together.
void Call::takeTuned() {
  if (!takesTuned || row->tunables.empty() || !anythingTuned())
    return;
  const std::vector<Parameter> &parameters = variant().parameters;
  for (size_t i = 0; i < views.size(); ++i)
    if (parameters[i].kind == Kind::Meta && numbers[i] && isTunable(parameters[i]))
      return;
  fillMetas(/*tunables=*/false);
  const std::optional<TunedConfiguration> found = tunedFor(tunedKey());
  if (!found)
    return;
  for (size_t i = 0; i < views.size(); ++i)
    if (auto meta = found->metas.find(parameters[i].name); meta != found->metas.end() && isTunable(parameters[i])) {
      numbers[i] = meta->second;
      tuned.insert(meta->first);
    }
}

void Call::fillMetas(bool tunables) {
  for (size_t i = 0; i < views.size(); ++i) {
    const Parameter &parameter = variant().parameters[i];
    if (parameter.kind != Kind::Meta || (!tunables && isTunable(parameter)))
      continue;
    if (!numbers[i]) {
      auto value = defaultOf(parameter);
      if (!value)
        continue; // a later pass knows the names in it
      numbers[i] = value;
    }
    if (!parameter.choices.empty() && (*numbers[i] < 0 || *numbers[i] >= int64_t(parameter.choices.size())))
      throw UserError(argument(*row, parameter) + ": expected " + joined(parameter.choices) + " or a number below " +
                      std::to_string(parameter.choices.size()) + ", got " + std::to_string(*numbers[i]));
    sizes[parameter.name] = *numbers[i];
  }
}

// A scalar's bits, with zeros above. Every 64-bit integer is kept exactly.
static int64_t bitsOf(DType dtype, const std::variant<int64_t, double> &number) {
  int64_t bits = 0;
  auto whole = std::get_if<int64_t>(&number);
  if (whole && !isFloat(dtype) && dtype != DType::b1)
    std::memcpy(&bits, whole, size_t(bytesOf(dtype))); // every target is little-endian
  else
    writeFromDouble(dtype, &bits, whole ? double(*whole) : std::get<double>(number));
  return bits;
}

void Call::checkConditions() const {
  for (const std::string &condition : row->conditions) {
    std::string values;
    auto holds = evaluate(condition, [&](std::string_view name) {
      auto value = named(name);
      values += (values.empty() ? "" : ", ") + std::string(name) + " = " + (value ? std::to_string(*value) : "?");
      return value;
    });
    if (holds && !*holds)
      throw UserError(row->name + ": expected " + condition + ", got " + values);
  }
}

// "n * max(128 / group, 1)" as a name and what it is multiplied by, a name, a number or one call; none elsewhere.
static std::optional<std::pair<std::string, std::string>> factorsOf(const std::string &extent) {
  const size_t times = extent.find(" * ");
  if (times == extent.npos || !isName(extent.substr(0, times)))
    return std::nullopt;
  std::string factor = extent.substr(times + 3);
  const std::string head = factor.substr(0, factor.find('('));
  const bool isCall = head.size() < factor.size() && isName(head) && factor.find(')') == factor.size() - 1;
  if (!isCall && factor.find_first_of(" +-*/()<>=") != factor.npos)
    return std::nullopt;
  return std::pair(extent.substr(0, times), factor);
}

void Call::tuneFor(const Target &known) { target = {known.multiprocessors, known.computeCapability, known.name}; }

void Call::resolve() {
  pickVariant();
  checkViews();
  if (!target)
    tuneFor(targetOf(device()));
  const std::vector<Parameter> &parameters = variant().parameters;
  // Names stand for the extents where they come alone; then Meta parameters may depend on them, and expressions on
  // both.
  std::map<std::string, std::string> origin;
  for (size_t i = 0; i < views.size(); ++i)
    for (int d = 0; views[i] && d < parameters[i].rank; ++d) {
      const std::string &name = parameters[i].shape.size() > size_t(d) ? parameters[i].shape[d] : std::string();
      if (!isName(name))
        continue;
      auto [entry, fresh] = sizes.emplace(name, views[i]->extents[d]);
      if (fresh)
        origin[name] = parameters[i].name + " in dimension " + std::to_string(d);
      else if (entry->second != views[i]->extents[d])
        throw UserError(argument(*row, parameters[i]) + ": expected extent " + std::to_string(entry->second) +
                        " in dimension " + std::to_string(d) +
                        (origin.count(name) ? " (" + name + ", as " + origin[name] + ")" : " (" + name + ")") +
                        ", got " + std::to_string(views[i]->extents[d]));
    }
  // A name that no given view has alone is what such a product leaves for it.
  for (size_t i = 0; i < views.size(); ++i)
    for (int d = 0; views[i] && d < parameters[i].rank && size_t(d) < parameters[i].shape.size(); ++d) {
      const auto factors = factorsOf(parameters[i].shape[d]);
      if (!factors || sizes.count(factors->first))
        continue;
      fillMetas(/*tunables=*/false);
      const auto by = evaluate(factors->second, [&](std::string_view name) { return named(name); });
      if (by && *by > 0 && views[i]->extents[d] % *by == 0)
        sizes.emplace(factors->first, views[i]->extents[d] / *by);
    }
  takeTuned();
  fillMetas();
  for (size_t i = 0; i < views.size(); ++i)
    for (int d = 0; views[i] && d < parameters[i].rank && size_t(d) < parameters[i].shape.size(); ++d) {
      auto wanted = evaluate(parameters[i].shape[d], [&](std::string_view name) { return named(name); });
      if (wanted && *wanted != views[i]->extents[d])
        throw UserError(argument(*row, parameters[i]) + ": expected extent " + std::to_string(*wanted) +
                        " in dimension " + std::to_string(d) + " (" + parameters[i].shape[d] + "), got " +
                        std::to_string(views[i]->extents[d]));
    }
  checkConditions();
  for (const Missing &missing : missingViews()) {
    TensorRef empty(nullptr, missing.dtype, missing.extents, device());
    size_t i = indexOf(missing.name, {Kind::View});
    if (!parameters[i].output && empty.elementCount() == 0)
      views[i] = empty; // an input that this call does without
  }
  for (size_t i = 0; i < views.size(); ++i) {
    const Parameter &parameter = parameters[i];
    if (parameter.kind == Kind::Meta && !numbers[i])
      throw UserError(argument(*row, parameter) + ": expected a value, since its default " + parameter.expression +
                      " has none here");
    if (parameter.kind != Kind::Scalar)
      continue;
    numbers[i] = scalars[i] ? bitsOf(parameter.dtype, *scalars[i]) : parameter.bits;
  }
}

static Dims withLastTwoSwapped(Dims dims) {
  std::swap(dims[dims.size() - 2], dims[dims.size() - 1]);
  return dims;
}

bool Call::isTransposed(size_t parameter) const {
  const std::vector<Parameter> &parameters = variant().parameters;
  if (parameters[parameter].kind != Kind::View || parameters[parameter].rank < 2)
    return false;
  for (size_t i = 0; i < parameters.size(); ++i)
    if (parameters[i].kind == Kind::Meta && parameters[i].expression == parameters[parameter].name + ".transposed")
      return numbers[i].value_or(0);
  return false;
}

TensorRef Call::inMemory(size_t parameter) const {
  TensorRef tensor = *views[parameter];
  if (isTransposed(parameter)) {
    tensor.extents = withLastTwoSwapped(tensor.extents);
    tensor.strides = withLastTwoSwapped(tensor.strides);
  }
  return tensor;
}

std::vector<Call::Missing> Call::missingViews() const {
  std::vector<Missing> missing;
  for (size_t i = 0; i < views.size(); ++i) {
    const Parameter &parameter = variant().parameters[i];
    if (parameter.kind != Kind::View || views[i])
      continue;
    std::vector<int64_t> extents;
    for (const std::string &text : parameter.shape) {
      auto extent = evaluate(text, [&](std::string_view name) { return named(name); });
      if (!extent)
        throw UserError(argument(*row, parameter) + ": expected a tensor, got none");
      extents.push_back(*extent);
    }
    if (int(extents.size()) != parameter.rank)
      throw UserError(argument(*row, parameter) + ": expected a tensor, got none");
    Dims memory(extents), strides;
    if (isTransposed(i)) {
      strides = contiguousStrides(withLastTwoSwapped(memory));
      strides = withLastTwoSwapped(strides);
    } else {
      strides = contiguousStrides(memory);
    }
    missing.push_back({parameter.name, parameter.dtype, memory, strides});
  }
  return missing;
}

void Call::setSizes(const std::map<std::string, int64_t> &given) {
  for (auto [name, value] : given) {
    sizes[name] = value;
    for (size_t i = 0; i < views.size(); ++i)
      if (declared(*row)[i].name == name && declared(*row)[i].kind != Kind::View)
        set(name, value);
  }
}

//===- Running ----------------------------------------------------------------------------------------------------===//

Device Call::device() const {
  for (const auto &view : views)
    if (view)
      return view->device;
  return {};
}

int64_t Call::minimalBytes() const {
  int64_t bytes = 0;
  for (const auto &view : views)
    bytes += view ? view->byteSize() : 0;
  return bytes;
}

std::vector<Slot> Call::slots() const {
  std::vector<Slot> all(views.size());
  for (size_t i = 0; i < views.size(); ++i) {
    all[i].tensor = views[i] ? &*views[i] : nullptr;
    all[i].number = numbers[i].value_or(0);
  }
  return all;
}

// Whether the kernel may assume stride 1 in the last dimension, and the bytes that divide every row's address.
static bool isStrided(const TensorRef &tensor) {
  int last = tensor.rank() - 1;
  return tensor.extents[last] > 1 && tensor.strides[last] != 1;
}
// Of an output the bytes of a row count too: Hopper's copy engine writes 16 at a time, also where the last of them lie
// beyond the extent (seen on an H200; loads stop at the element).
static int alignmentOf(const TensorRef &tensor, bool endsMatter) {
  auto bits = reinterpret_cast<uintptr_t>(tensor.data);
  if (endsMatter && tensor.rank() > 1)
    bits |= uintptr_t(tensor.extents[tensor.rank() - 1]) * bytesOf(tensor.dtype);
  for (int d = 0; d + 1 < tensor.rank(); ++d)
    if (tensor.extents[d] > 1)
      bits |= uintptr_t(tensor.strides[d]) * bytesOf(tensor.dtype);
  for (int wanted : {16, 8, 4}) // what one instruction of a GPU moves
    if (bits % unsigned(wanted) == 0 && wanted > bytesOf(tensor.dtype))
      return wanted;
  return 0;
}

Call::Assumed Call::assumed(size_t parameter) const {
  const TensorRef tensor = inMemory(parameter);
  const bool endsMatter = variant().parameters[parameter].output && !padded.contains(parameter);
  return {isStrided(tensor), isTransposed(parameter), alignmentOf(tensor, endsMatter)};
}

Program Call::trace() const {
  std::vector<trace::Argument> arguments;
  std::vector<Slot> slots(views.size());
  for (size_t i = 0; i < views.size(); ++i) {
    const Parameter &parameter = variant().parameters[i];
    if (parameter.kind == Kind::Meta)
      continue;
    trace::Argument argument{parameter.name, parameter.dtype, parameter.kind == Kind::View ? parameter.rank : 0};
    if (views[i]) {
      const Assumed facts = assumed(i);
      argument.strided = facts.strided;
      argument.align = facts.alignment;
      argument.transposed = facts.transposed;
    }
    arguments.push_back(argument);
  }
  trace::Session session(row->name, arguments);
  size_t next = 0;
  for (size_t i = 0; i < views.size(); ++i) {
    slots[i].number = numbers[i].value_or(0);
    if (variant().parameters[i].kind != Kind::Meta)
      slots[i].node = session.argument(next++);
  }
  variant().body(slots);
  return session.finish();
}

std::array<int64_t, 3> Call::grid() const {
  std::array<int64_t, 3> grid;
  std::ranges::transform(variant().grid(slots()), grid.begin(), &trace::Node::hostInt);
  for (int64_t extent : grid)
    if (extent < 0)
      throw UserError(row->name + ": expected a grid of extents 0 or more, got " + std::to_string(extent));
  return grid;
}

std::vector<int64_t> Call::words() const {
  LaunchArguments arguments;
  for (size_t i = 0; i < views.size(); ++i)
    switch (variant().parameters[i].kind) {
    case Kind::View:
      arguments.addView(inMemory(i));
      break;
    case Kind::Scalar:
      arguments.addWord(*numbers[i]);
      break;
    case Kind::Meta:
      break;
    }
  return {arguments.words().begin(), arguments.words().end()};
}

// What the machine code depends on, besides the kernel and the target.
std::string Call::specialisation() const {
  std::string key = std::to_string(chosen.value_or(0));
  for (size_t i = 0; i < views.size(); ++i) {
    if (views[i]) {
      const Assumed facts = assumed(i);
      key += facts.strided ? ",s" : facts.alignment ? ",a" + std::to_string(facts.alignment) : ",u";
    } else if (variant().parameters[i].kind == Kind::Meta)
      key += "," + std::to_string(numbers[i].value_or(0));
  }
  return key;
}

std::shared_ptr<Executable> Call::executable(const Target &target) const {
  if (row->onlyCpus && !isCpu(target.family))
    throw UserError(row->name + ": expected tensors on a CPU, which it is for, got " + target.name);
  static std::mutex mutex;
  static std::unordered_map<std::string, std::shared_ptr<Executable>> ready;
  std::string key = row->name + "|" + target.name + "|" + std::to_string(device().index) + "|" + specialisation();
  {
    std::lock_guard lock(mutex);
    if (auto found = ready.find(key); found != ready.end())
      return found->second;
  }
  // A kernel of a file whose build is known need not be traced to find its code on disk.
  const std::string file = row->code ? buildIdOf(row->code) : "";
  auto built =
      file.empty()
          ? build(trace(), target)
          : build(file + "|" + row->source + "|" + row->name + "|" + specialisation(), [&] { return trace(); }, target);
  std::lock_guard lock(mutex);
  return ready.emplace(std::move(key), std::move(built)).first->second;
}

PreparedCall Call::prepare(const Target &target) const {
  PreparedCall prepared;
  prepared.grid = grid();
  prepared.device = device();
  prepared.words = words();
  size_t word = 0;
  for (size_t i = 0; i < views.size(); ++i) {
    const Parameter &parameter = variant().parameters[i];
    if (parameter.kind == Kind::View)
      prepared.addresses.push_back({i, word});
    if (parameter.kind != Kind::Meta)
      word += parameter.kind == Kind::View ? 1 + 2 * size_t(parameter.rank) : 1;
  }
  constexpr int64_t worthAThread = 1 << 15; // bytes: to wake one takes as long as to work through these
  const double programs = double(prepared.grid[0]) * double(prepared.grid[1]) * double(prepared.grid[2]);
  prepared.grain =
      std::max<int64_t>(1, int64_t(std::ceil(programs * worthAThread / double(std::max<int64_t>(1, minimalBytes())))));
  if (std::ranges::count(prepared.grid, 0) == 0)
    prepared.executable = executable(target);
  if (prepared.executable && prepared.device.kind == Device::Kind::Cuda)
    prepared.realigned = realigned(*this, target);
  return prepared;
}

void PreparedCall::launch(void *stream) const {
  if (!executable)
    return;
  if (realigned) {
    std::vector<void *> data(addresses.back().parameter + 1);
    for (auto [parameter, word] : addresses)
      data[parameter] = reinterpret_cast<void *>(intptr_t(words[word]));
    return launchOn(data, stream);
  }
  executable->launch(words, grid, stream, grain);
}

void PreparedCall::launchOn(std::span<void *const> data, void *stream) const {
  if (!executable || (realigned && realigned->launchOn(data, stream)))
    return;
  std::array<int64_t, cuda::maxLaunchWords> all;
  std::ranges::copy(words, all.begin());
  for (auto [parameter, word] : addresses)
    all[word] = int64_t(reinterpret_cast<intptr_t>(data[parameter]));
  executable->launch(std::span(all).first(words.size()), grid, stream, grain);
}

void Call::launch(const Target &target, void *stream) const { prepare(target).launch(stream); }

void Call::launch(void *stream) const {
  DeviceScope scope(device());
  launch(targetOf(device()), stream);
}

void Call::interpret() const { bitloom::interpret(trace(), words(), grid()); }

} // namespace bitloom
