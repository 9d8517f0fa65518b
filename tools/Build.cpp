#include "bitloom/dsl/Example.h"
#include "bitloom/tools/AheadOfTime.h"
#include "bitloom/tools/Commands.h"

#include <algorithm>
#include <cctype>
#include <cstdio>

namespace bitloom::tools {

static int runBuild(const Arguments &arguments) {
  const KernelRow &kernel = kernelOf(arguments.operands()[0]);
  const std::string folder = arguments.value("-o", ".");
  const std::vector<NamedTarget> targets = targetsOf(arguments);
  std::vector<Target> all;
  for (const NamedTarget &named : targets) {
    all.push_back(named.target);
    if (targets.size() > 1 && !isCpu(named.target.family))
      throw UsageError("expected one target, or several of a CPU, got " + named.name +
                       " among others: give it a folder of its own");
  }
  const std::vector<size_t> variants = variantsOf(kernel, arguments);
  if (arguments.has("--name") && variants.size() > 1)
    throw UsageError("--name: expected --dtype beside it, since " + kernel.name + " has " +
                     std::to_string(variants.size()) + " variants");
  std::vector<std::string> fixed;
  for (auto &[name, value] : arguments.assignments("--set"))
    fixed.push_back(name);
  const std::string sizes = kernel.benchmarks.empty() ? "" : kernel.benchmarks[0];
  std::vector<NamedCall> calls;
  for (size_t variant : variants) {
    std::string name = arguments.value("--name", kernel.name + "_" + nameOf(kernel, variant));
    std::ranges::replace(name, '/', '_');
    if (name.empty() || std::isdigit(static_cast<unsigned char>(name[0])) ||
        !std::ranges::all_of(name, [](unsigned char c) { return std::isalnum(c) || c == '_'; }))
      throw UsageError("--name: expected a name of C, got '" + name + "'");
    calls.push_back({callOf(kernel, variant, sizes, arguments), name});
    if (arguments.has("--verbose")) { // as they are built: rows may begin anywhere
      Call described = calls.back().call;
      bindWithoutMemory(described, /*aligned=*/false);
      for (const Target &target : all)
        explainIfAsked(arguments, described, target);
    }
  }
  for (const std::string &file : buildAheadOfTime(calls, all, folder, fixed))
    std::printf("%s\n", file.c_str());
  return 0;
}

static std::string helpText() {
  return std::string(kernelHelp) +
         "\nFor a CPU, each variant becomes NAME.o and NAME.h, and all share bitloom_rt.c, which your program "
         "compiles. The\n"
         "header has NAME_contiguous, for contiguous tensors and the names of their extents; NAME, for any strides and "
         "a\n"
         "grid that you give; and NAME_programs, part of a grid, for threads of your own. The object needs the C "
         "library\n"
         "and libm. For a GPU each becomes NAME.cubin and a header with what cuLaunchKernel wants to know.\n"
         "\nSeveral targets of one CPU family, weaker first, make an object each and NAME.c, which your program "
         "compiles "
         "too: it\n"
         "runs the code of the last target that the processor has all features of. NAME_target names it. In CMake,\n"
         "find_package(bitloom COMPONENTS aot) has bitloom_build_kernel, which makes a static library of it all.\n"
         "\nExtents may be any at run time, but what the code was specialised for is fixed: "
         "Meta\n"
         "parameters given with --set, and those whose defaults depend on the sizes of the first benchmark, which "
         "--set\n"
         "overrides. The header refuses extents for which a default would have another value.\n"
         "\n  bitloom build rms_norm --dtype f32 --target aarch64+dotprod --set cols=4096 -o out\n"
         "  bitloom build low_bit_gemv --dtype f32 --target aarch64,aarch64+dotprod,aarch64+i8mm,aarch64+sve2 -o out\n";
}

const Command buildCommand = {
    .name = "build",
    .operands = "KERNEL",
    .leastOperands = 1,
    .mostOperands = 1,
    .summary = "compile a kernel ahead of time: an object file and a C header",
    .description = helpText(),
    .options = {targetOption(),
                dtypeOption(),
                setOption(),
                verboseOption(),
                {"-o", "FOLDER", "write there; the current folder without it"},
                {"--name", "NAME", "of the files and the functions; KERNEL_DTYPE without it"}},
    .run = runBuild,
};

} // namespace bitloom::tools
