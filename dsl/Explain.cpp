#include "bitloom/dsl/Explain.h"

#include "bitloom/dsl/Example.h"
#include "bitloom/lib/runtime/ThreadPool.h"
#include "bitloom/lib/support/Suggest.h"
#include "bitloom/lowering/Explain.h"
#include "bitloom/lowering/Program.h"

#include <algorithm>

namespace bitloom {

using Kind = Parameter::Kind;

static std::string describe(const Target &target) {
  std::string text = target.name + ": ";
  if (isCpu(target.family))
    text += std::to_string(target.vectorRegisters) + " vector registers of " + std::to_string(target.vectorBits) +
            " bits" + (target.scalableVectors ? " or more, as the processor has them" : "");
  else
    text += "compute capability " + std::to_string(target.computeCapability / 10) + "." +
            std::to_string(target.computeCapability % 10);
  return text + (target == hostTarget() ? "; this processor" : "");
}

static std::string featuresOf(const Target &target) {
  const size_t plus = target.name.find('+');
  if (plus == target.name.npos)
    return "none beyond " + target.name;
  std::string names = target.name.substr(plus + 1);
  std::ranges::replace(names, '+', ' ');
  return names;
}

static std::string describe(const Call &call, const Parameter &meta) {
  const int64_t value = call.names().at(meta.name);
  std::string text = meta.name + " = ";
  text += size_t(value) < meta.choices.size() ? meta.choices[size_t(value)] : std::to_string(value);
  const std::optional<int64_t> usual = call.defaultOf(meta);
  if (call.isTuned(meta))
    return text + ", tuned" + (usual ? "; by default " + std::to_string(*usual) : "");
  if (usual && *usual != value)
    return text + ", given; by default " + std::to_string(*usual);
  return text + ", the default" + (meta.expression.empty() ? "" : ": " + meta.expression);
}

static std::string describe(const Call &call, size_t view) {
  const Parameter &parameter = call.variant().parameters[view];
  const TensorRef &tensor = *call.tensors()[view];
  const Call::Assumed assumed = call.assumed(view);
  std::vector<std::string> extents;
  for (int64_t extent : tensor.extents)
    extents.push_back(std::to_string(extent));
  std::string text = parameter.name + " " + std::string(nameOf(parameter.dtype)) + "[" + joined(extents) + "]: ";
  if (assumed.transposed)
    text += "its last two dimensions swapped in memory, ";
  if (parameter.rank > 0)
    text += assumed.strided ? "any stride, " : "elements of a row side by side, ";
  return text + (assumed.alignment > 1 ? "at multiples of " + std::to_string(assumed.alignment) + " bytes"
                                       : "aligned to its elements only");
}

std::string explain(const Call &call, const Target &target) {
  std::string text;
  auto line = [&](std::string word, const std::string &what) {
    word.resize(11, ' ');
    text += word + what + "\n";
  };
  const KernelRow &kernel = call.kernel();
  const size_t variant = size_t(&call.variant() - kernel.variants.data());
  line("kernel",
       kernel.name + " of " + nameOf(kernel, variant) + ", " + kernel.source.substr(kernel.source.rfind('/') + 1));
  line("target", describe(target));
  line("features", featuresOf(target));
  std::string sizes;
  for (const std::string &name : extentNames(kernel))
    if (auto size = call.names().find(name); size != call.names().end())
      sizes += (sizes.empty() ? "" : ", ") + name + " = " + std::to_string(size->second);
  line("sizes", sizes);
  for (const Parameter &parameter : call.variant().parameters)
    if (parameter.kind == Kind::Meta)
      line("meta", describe(call, parameter));
  for (size_t i = 0; i < call.tensors().size(); ++i)
    if (call.tensors()[i])
      line("view", describe(call, i));
  const std::array<int64_t, 3> grid = call.grid();
  line("grid", std::to_string(grid[0] * grid[1] * grid[2]) + " programs" +
                   (isCpu(target.family) ? ", on up to " + std::to_string(threadCount()) + " threads" : ""));
  const Explanation lowering = explain(call.trace(), target);
  for (const std::string &choice : lowering.choices)
    line("chosen", choice);
  std::string code;
  constexpr size_t most = 8;
  for (size_t i = 0; i < std::min(most, lowering.instructions.size()); ++i)
    code += (i ? ", " : "") + std::to_string(lowering.instructions[i].second) + " " + lowering.instructions[i].first;
  line("code", code.empty() ? "plain arithmetic, loads and stores" : code);
  return text;
}

} // namespace bitloom
