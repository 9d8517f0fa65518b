#include "bitloom/tools/KernelChoice.h"

#include "bitloom/dsl/Example.h"
#include "bitloom/dsl/Explain.h"
#include "bitloom/lib/runtime/Cuda.h"
#include "bitloom/lib/support/Suggest.h"

#include <algorithm>
#include <charconv>
#include <cstdio>

namespace bitloom::tools {

Option dtypeOption() { return {"--dtype", "NAME", "the variant of these element types, as `bitloom list` names it"}; }
Option setOption() {
  return {"--set", "NAME=NUMBER...", "sizes of extents, Meta parameters and scalars; the others have their defaults",
          /*assignments=*/true};
}
Option targetOption() {
  return {"--target", "NAME,...",
          "host (the default), cuda, sm_90a, x86-64-v3, aarch64+dotprod, …: a wrong name lists them"};
}
Option verboseOption() {
  return {"--verbose", "", "say on stderr which code runs and why: target features, configuration, what was chosen"};
}
const char *const kernelHelp = "KERNEL is the name of a kernel that ships (`bitloom list`), or LIBRARY.so:NAME for one "
                               "of your own, in a\nshared library that bitloom_add_kernels built. A library's path has "
                               "a slash in it: ./libmine.so:scale.\n";

const KernelRow &kernelOf(const std::string &operand) {
  size_t colon = operand.rfind(':');
  if (colon == operand.npos && operand.ends_with(".so"))
    throw UsageError("expected LIBRARY.so:KERNEL, got '" + operand + "': `bitloom list " + operand +
                     "` names its kernels");
  if (colon == operand.npos)
    return asUsage([&]() -> const KernelRow & { return kernelNamed(operand); });
  const std::string library = operand.substr(0, colon), name = operand.substr(colon + 1);
  std::vector<std::string> names;
  for (const KernelRow *row : asUsage([&] { return loadKernels(library); })) {
    if (row->name == name)
      return *row;
    names.push_back(row->name);
  }
  throw UsageError("unknown kernel '" + name + "' of " + library +
                   (names.empty() ? ": it registers none" : expectedOneOf(name, names)));
}

std::vector<const KernelRow *> kernelsOf(const std::string &operand) {
  if (!operand.ends_with(".so"))
    return {&kernelOf(operand)};
  return asUsage([&] { return loadKernels(operand); });
}

std::vector<size_t> variantsOf(const KernelRow &kernel, const Arguments &arguments) {
  std::vector<size_t> all;
  std::vector<std::string> names;
  const std::string wanted = arguments.value("--dtype");
  for (size_t v = 0; v < kernel.variants.size(); ++v) {
    names.push_back(nameOf(kernel, v));
    if (!arguments.has("--dtype") || names.back() == wanted)
      all.push_back(v);
  }
  if (all.empty())
    throw UsageError("unknown dtype '" + wanted + "' of " + kernel.name + expectedOneOf(wanted, names));
  return all;
}

std::vector<NamedTarget> targetsOf(const Arguments &arguments) {
  std::vector<NamedTarget> targets;
  std::string text = arguments.value("--target", "host");
  for (size_t at = 0; at <= text.size();) {
    size_t end = std::min(text.find(',', at), text.size());
    std::string name = text.substr(at, end - at);
    targets.push_back({name, asUsage([&] { return parseTarget(name); })});
    at = end + 1;
  }
  return targets;
}

Device deviceOf(const Target &target) {
  Device device;
  if (isCpu(target.family)) {
    if (!runsOnHost(target))
      throw UserError("expected a target that this machine runs, got " + target.name + ": it runs " +
                      hostTarget().name);
    return device;
  }
  device.kind = Device::Kind::Cuda;
  while (device.index < cuda::deviceCount() && !cubinRunsOn(target, cuda::deviceInfo(device.index).computeCapability))
    ++device.index;
  if (device.index >= cuda::deviceCount())
    throw UserError("expected a device that runs " + target.name + ", found none");
  return device;
}

// A number of --set: whole for extents and Meta parameters, any for scalars.
template <class T> static T numberOf(const KernelRow &kernel, const std::string &name, const std::string &text) {
  T number{};
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size())
    throw UsageError(kernel.name + ": " + name + ": expected " + (std::is_integral_v<T> ? "an integer" : "a number") +
                     ", got '" + text + "'");
  return number;
}

Call callOf(const KernelRow &kernel, size_t variant, const std::string &sizes, const Arguments &arguments) {
  std::map<std::string, std::string> given = parseAssignments(sizes);
  for (auto &[name, value] : arguments.assignments("--set"))
    given[name] = value;
  std::vector<std::string> extents = extentNames(kernel), known = extents;
  std::map<std::string, const Parameter *> parameters;
  for (const Parameter &parameter : kernel.variants[variant].parameters)
    if (parameter.kind != Parameter::Kind::View) {
      parameters[parameter.name] = &parameter;
      known.push_back(parameter.name);
    }
  Call call(kernel);
  call.chooseVariant(variant);
  call.tuneFor(targetsOf(arguments).front().target);
  std::map<std::string, int64_t> numbers;
  for (auto &[name, text] : given) {
    auto parameter = parameters.find(name);
    if (std::ranges::find(known, name) == known.end())
      throw UsageError(kernel.name + ": unknown name '" + name + "'" + expectedOneOf(name, known));
    if (parameter != parameters.end() && isFloat(parameter->second->dtype)) {
      call.set(name, numberOf<double>(kernel, name, text));
      continue;
    }
    if (parameter != parameters.end()) // a choice's name stands for its number
      if (auto choice = std::ranges::find(parameter->second->choices, text); choice != parameter->second->choices.end())
        text = std::to_string(choice - parameter->second->choices.begin());
    int64_t number = numberOf<int64_t>(kernel, name, text);
    if (parameter != parameters.end() && parameter->second->kind == Parameter::Kind::Scalar)
      call.set(name, number);
    else if (parameter == parameters.end() && number < 0)
      throw UsageError(kernel.name + ": " + name + ": expected an extent of 0 or more, got " + text);
    else
      numbers[name] = number;
  }
  for (const std::string &name : extents)
    if (!numbers.contains(name))
      throw UsageError(kernel.name + ": expected a size for " + name + ": --set " + name + "=NUMBER");
  asUsage([&] {
    call.setSizes(numbers);
    call.resolve();
  });
  return call;
}

void explainIfAsked(const Arguments &arguments, const Call &call, const Target &target) {
  if (!arguments.has("--verbose"))
    return;
  Call bound = call;
  bindWithoutMemory(bound);
  std::fprintf(stderr, "%s\n", explain(bound, target).c_str());
}

std::string sizesText(const Call &call, const std::string &sizes, const Arguments &arguments) {
  std::map<std::string, std::string> given = parseAssignments(sizes);
  for (auto &[name, value] : arguments.assignments("--set"))
    given[name] = value;
  std::string text;
  for (const std::string &name : extentNames(call.kernel())) {
    text += (text.empty() ? "" : " ") + name + "=" + given[name];
    given.erase(name);
  }
  for (auto &[name, value] : given)
    text += " " + name + "=" + value;
  return text;
}

} // namespace bitloom::tools
