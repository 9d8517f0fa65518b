#include "bitloom/dsl/Registry.h"
#include "bitloom/lib/dtype/DType.h"
#include "bitloom/tools/Commands.h"
#include "bitloom/tools/Table.h"

#include <bit>
#include <cstdio>

namespace bitloom::tools {

static std::string jsonStrings(const std::vector<std::string> &texts) {
  std::string list;
  for (const std::string &text : texts)
    list += (list.empty() ? "" : ", ") + jsonString(text);
  return "[" + list + "]";
}

static std::string jsonOf(const Parameter &parameter) {
  std::string text = "{\"name\": " + jsonString(parameter.name);
  switch (parameter.kind) {
  case Parameter::Kind::View:
    text += ", \"kind\": \"view\", \"dtype\": " + jsonString(nameOf(parameter.dtype)) +
            ", \"output\": " + (parameter.output ? "true" : "false") + ", \"shape\": " + jsonStrings(parameter.shape);
    break;
  case Parameter::Kind::Scalar: {
    char number[40];
    std::snprintf(number, sizeof number, "%.17g", readAsDouble(parameter.dtype, &parameter.bits));
    text += ", \"kind\": \"scalar\", \"dtype\": " + jsonString(nameOf(parameter.dtype)) + ", \"default\": " + number;
    break;
  }
  case Parameter::Kind::Meta:
    text += ", \"kind\": \"meta\", \"default\": " + (!parameter.expression.empty() ? jsonString(parameter.expression)
                                                     : !parameter.choices.empty()
                                                         ? jsonString(parameter.choices[size_t(parameter.bits)])
                                                         : std::to_string(parameter.bits));
    if (!parameter.choices.empty())
      text += ", \"choices\": " + jsonStrings(parameter.choices);
    break;
  }
  return text + "}";
}

static std::string jsonOf(const KernelRow &kernel) {
  std::string variants;
  for (size_t v = 0; v < kernel.variants.size(); ++v) {
    std::string parameters;
    for (const Parameter &parameter : kernel.variants[v].parameters)
      parameters += (parameters.empty() ? "" : ",\n        ") + jsonOf(parameter);
    variants += (v ? ",\n      " : "") + ("{\"dtype\": " + jsonString(nameOf(kernel, v))) +
                ", \"parameters\": [\n        " + parameters + "]}";
  }
  return "{\"name\": " + jsonString(kernel.name) + ", \"summary\": " + jsonString(kernel.summary) +
         ",\n    \"source\": " + jsonString(kernel.source) + ",\n    \"tests\": " + jsonStrings(kernel.tests) +
         ",\n    \"benchmarks\": " + jsonStrings(kernel.benchmarks) + ",\n    \"variants\": [\n      " + variants +
         "]}";
}

static int runList(const Arguments &arguments) {
  std::vector<const KernelRow *> kernels;
  if (arguments.operands().empty())
    kernels = allKernels();
  for (const std::string &library : arguments.operands())
    for (const KernelRow *kernel : asUsage([&] { return loadKernels(library); }))
      kernels.push_back(kernel);
  if (arguments.has("--json")) {
    std::string text;
    for (const KernelRow *kernel : kernels)
      text += (text.empty() ? "" : ",\n  ") + jsonOf(*kernel);
    std::printf("[%s]\n", text.c_str());
    return 0;
  }
  std::vector<std::vector<std::string>> rows = {{"kernel", "dtypes", "what it computes"}};
  for (const KernelRow *kernel : kernels) {
    std::string dtypes;
    for (size_t v = 0; v < kernel->variants.size(); ++v)
      dtypes += (v ? " " : "") + nameOf(*kernel, v);
    rows.push_back({kernel->name, dtypes, kernel->summary});
  }
  std::fputs(tableOf(rows).c_str(), stdout);
  return 0;
}

const Command listCommand = {
    .name = "list",
    .operands = "[LIBRARY.so...]",
    .mostOperands = 64,
    .summary = "the kernels that ship, or those of libraries of yours",
    .description = "With --json, all that a kernel's source declares of it: its variants, their parameters in call "
                   "order with shapes\nand defaults, and the sizes that it is tested and measured with.\n",
    .options = {{"--json", "", "the same as JSON, with every parameter"}},
    .run = runList,
};

} // namespace bitloom::tools
