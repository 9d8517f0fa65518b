#include "bitloom/dsl/Example.h"
#include "bitloom/lib/runtime/Cuda.h"
#include "bitloom/lowering/Pipeline.h"
#include "bitloom/tools/AheadOfTime.h"
#include "bitloom/tools/Commands.h"
#include "bitloom/tools/Table.h"

#include <algorithm>
#include <cstdio>

namespace bitloom::tools {

namespace {

// Where a target's code runs on this machine.
enum class Place { Here, Device, Emulator, Nowhere };

Place placeOf(const Target &target, int &device) {
  if (isCpu(target.family))
    return runsOnHost(target) ? Place::Here : whyNotEmulated(target).empty() ? Place::Emulator : Place::Nowhere;
  for (device = 0; device < cuda::deviceCount(); ++device)
    if (cubinRunsOn(target, cuda::deviceInfo(device).computeCapability))
      return Place::Device;
  return Place::Nowhere;
}

// A call and its own tensors.
struct Run {
  Call call;
  Example example;
  Run(const Call &resolved, uint64_t seed, Device device) : call(resolved), example(call, seed, device) {}
};

// One case on one target, as rows of the table.
class Checker {
public:
  Checker(const Arguments &arguments) : seed(uint64_t(arguments.number("--seed", 0, 0, INT64_MAX))) {}

  void check(const Call &resolved, const Run &reference, const NamedTarget &named, const std::string &sizes) {
    const Target &target = named.target;
    const std::string dtype = nameOf(resolved.kernel(), variantIndex(resolved));
    std::vector<std::string> row = {resolved.kernel().name, dtype, sizes, named.name};
    if (resolved.kernel().onlyCpus && !isCpu(target.family)) {
      rows.push_back(withResult(row, "", "", "", "refused: for CPUs"));
      return;
    }
    try {
      int device = 0;
      const Place place = placeOf(target, device);
      if (place == Place::Nowhere) {
        rows.push_back(withResult(row, "", "", "", assembled(resolved, target)));
        return;
      }
      Run actual(resolved, seed, place == Place::Device ? Device{Device::Kind::Cuda, device} : Device{});
      if (place == Place::Emulator) {
        const EmulatedProgram program(actual.call, target);
        for (int vectorBytes : EmulatedProgram::vectorLengths(target)) {
          row.back() = named.name + (vectorBytes ? ", " + std::to_string(vectorBytes) + " bytes" : "");
          program.run(vectorBytes);
          compareOutputs(row, reference, actual, target);
        }
        return;
      }
      DeviceScope scope(actual.call.device());
      actual.call.launch(target, nullptr);
      if (place == Place::Device)
        cuda::synchronize();
      compareOutputs(row, reference, actual, target);
    } catch (const std::exception &error) {
      fail(withResult(row, "", "", "", "failed"), error.what());
    }
  }

  void fail(const std::vector<std::string> &row, const std::string &message) {
    rows.push_back(row);
    ++failures;
    if (std::ranges::find(messages, message) == messages.end())
      messages.push_back(message); // the same for each size, often
  }

  int finish() const {
    std::fputs(tableOf(rows).c_str(), stdout);
    for (const std::string &message : messages)
      std::printf("\n%s\n", message.c_str());
    std::printf("\n%zu checked, %d wrong\n", rows.size() - 1, failures);
    return failures ? 1 : 0;
  }

  static std::vector<std::string> withResult(std::vector<std::string> row, const std::string &worst,
                                             const std::string &at, const std::string &tolerance,
                                             const std::string &verdict) {
    row.insert(row.end(), {worst, at, tolerance, verdict});
    return row;
  }

  const uint64_t seed;

private:
  static size_t variantIndex(const Call &call) { return size_t(&call.variant() - call.kernel().variants.data()); }

  // For a GPU that is not here. UserError: not even that is possible.
  static std::string assembled(Call call, const Target &target) {
    if (isCpu(target.family))
      throw UserError("could not run " + target.name + ": " + whyNotEmulated(target));
    bindWithoutMemory(call);
    MachineCode code = compile(call.trace(), target);
    if (!code.resources)
      throw UserError("could not run " + target.name + ": no device for it, nor ptxas to assemble it");
    if (std::optional<UserError> spill = spillError(code, target))
      throw *spill;
    return "assembled by ptxas, not run: no device for it; " + std::to_string(code.resources->registers) +
           " registers, none spilled";
  }

  // Of all outputs, the row shows the one that is furthest from its tolerance.
  void compareOutputs(const std::vector<std::string> &row, const Run &reference, const Run &actual,
                      const Target &target) {
    const std::vector<Parameter> &parameters = actual.call.variant().parameters;
    double furthest = -1;
    std::vector<std::string> shown;
    std::string message;
    for (size_t i = 0; i < parameters.size(); ++i) {
      if (parameters[i].kind != Parameter::Kind::View || !parameters[i].output)
        continue;
      const DType dtype = parameters[i].dtype;
      const double tolerance = toleranceOf(actual.call.variant(), i, target);
      const std::vector<std::byte> got = actual.example.contents(i), wanted = reference.example.contents(i);
      Comparison result = compare(dtype, got.data(), wanted.data(), int64_t(wanted.size()) / bytesOf(dtype), tolerance);
      const double share = tolerance > 0 ? result.worst / tolerance : double(result.wrong);
      if (share > furthest) {
        furthest = share;
        char worst[32];
        std::snprintf(worst, sizeof worst, "%.1e", result.worst);
        char allowed[32];
        std::snprintf(allowed, sizeof allowed, "%.1e", tolerance);
        shown = withResult(row, isFloat(dtype) ? worst : std::to_string(result.wrong) + " differ", parameters[i].name,
                           isFloat(dtype) ? allowed : "exact", result.wrong ? "WRONG" : "ok");
      }
      if (result.wrong) {
        char text[400];
        std::snprintf(
            text, sizeof text, "%s %s on %s: %s: %lld of %lld elements differ; element %lld: expected %.9g, got %.9g",
            row[0].c_str(), row[2].c_str(), row[3].c_str(), parameters[i].name.c_str(), (long long)result.wrong,
            (long long)result.elements, (long long)result.at, result.expected, result.got);
        message += (message.empty() ? "" : "\n") + std::string(text);
      }
    }
    for (const std::string &name : actual.example.overrun()) {
      message += (message.empty() ? "" : "\n") + row[0] + " " + row[2] + " on " + row[3] + ": wrote outside of " + name;
      shown.back() = "WRONG";
    }
    if (message.empty())
      rows.push_back(shown);
    else
      fail(shown, message);
  }

  std::vector<std::vector<std::string>> rows = {
      {"kernel", "dtype", "sizes", "target", "error", "of", "tolerance", "result"}};
  std::vector<std::string> messages;
  int failures = 0;
};

} // namespace

static int runCheck(const Arguments &arguments) {
  const std::vector<NamedTarget> targets = targetsOf(arguments);
  std::vector<const KernelRow *> kernels;
  if (arguments.has("--all"))
    kernels = allKernels();
  for (const std::string &operand : arguments.operands())
    for (const KernelRow *kernel : kernelsOf(operand))
      kernels.push_back(kernel);
  if (kernels.empty())
    throw UsageError("expected KERNEL or --all, got neither");
  Checker checker(arguments);
  for (const KernelRow *kernel : kernels) {
    std::vector<std::string> cases = kernel->tests.empty() ? std::vector<std::string>{""} : kernel->tests;
    if (arguments.has("--set") && !arguments.has("--all")) {
      // Sizes that are all given make one case.
      auto given = arguments.assignments("--set");
      if (std::ranges::all_of(extentNames(*kernel), [&](const std::string &name) { return given.contains(name); }))
        cases = {""};
    }
    for (size_t variant : variantsOf(*kernel, arguments))
      for (const std::string &sizes : cases) {
        Call call = callOf(*kernel, variant, sizes, arguments);
        const std::string text = sizesText(call, sizes, arguments);
        try {
          Run reference(call, checker.seed, {});
          reference.call.interpret();
          for (const NamedTarget &target : targets) {
            explainIfAsked(arguments, call, target.target);
            checker.check(call, reference, target, text);
          }
        } catch (const std::exception &error) {
          checker.fail(
              Checker::withResult({kernel->name, nameOf(*kernel, variant), text, "interpreter"}, "", "", "", "failed"),
              error.what());
        }
      }
  }
  return checker.finish();
}

static std::string helpText() {
  std::string text =
      std::string(kernelHelp) +
      "LIBRARY.so alone stands for all of its kernels.\n"
      "\nRuns the kernel on random tensors, in the interpreter and on each target, and compares every output. "
      "Without\n--set, the sizes are those that the kernel is tested with, and all its variants are "
      "checked. Outputs hold a\npattern first, so that an element never written is found, and guards "
      "around them find writes outside.\n"
      "\nThe host and a GPU of this machine run the code as it is. AArch64 code is built ahead of time, linked "
      "by\naarch64-linux-gnu-gcc and run by qemu-aarch64, with SVE2 once each for vectors of 16, 32, 64 and 256 "
      "bytes.\nFor a GPU that is not here it is assembled by ptxas and not run.\n"
      "\nIntegers are equal, bit for bit. Floats differ by at most the tolerance times the sum of the element's "
      "magnitude\nand the mean magnitude of its tensor:";
  for (DType dtype : {DType::f64, DType::f32, DType::f16, DType::bf16, DType::f8e4m3, DType::f8e5m2}) {
    char number[64];
    std::snprintf(number, sizeof number, " %s %.1e", std::string(nameOf(dtype)).c_str(), toleranceOf(dtype));
    text += number;
  }
  return text +
         ".\nOf products of 8-bit floats, of whose sums a GPU's tensor cores keep some 14 bits, at least 3.9e-03.\n"
         "The exit code is 1 when anything differs or fails.\n";
}

const Command checkCommand = {
    .name = "check",
    .operands = "KERNEL...",
    .mostOperands = 64,
    .summary = "compare a kernel with the interpreter, on any target",
    .description = helpText(),
    .options = {targetOption(),
                dtypeOption(),
                setOption(),
                verboseOption(),
                {"--all", "", "every kernel that ships"},
                {"--seed", "NUMBER", "of the random tensors; 0 without it"}},
    .run = runCheck,
};

} // namespace bitloom::tools
