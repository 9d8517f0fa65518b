#include "bitloom/dsl/Example.h"
#include "bitloom/lib/support/Suggest.h"
#include "bitloom/lowering/Pipeline.h"
#include "bitloom/tools/Commands.h"
#include "bitloom/tools/KernelChoice.h"
#include "bitloom/tools/Process.h"
#include "bitloom/tools/Table.h"

#include <cstdio>
#include <filesystem>

namespace bitloom::tools {

// A cubin's instructions, through NVIDIA's disassembler.
static std::string sassOf(const MachineCode &code) {
  if (!code.image.starts_with("\x7f"
                              "ELF"))
    throw UserError("expected ptxas, which makes the cubin, for --emit sass; found none: --emit asm prints the PTX");
  const std::string beside = std::filesystem::path(findPtxas()).parent_path().string();
  const std::string program = findProgram({"nvdisasm", "cuobjdump"}, {beside, "/usr/local/cuda/bin"});
  if (program.empty())
    throw UserError("expected nvdisasm or cuobjdump on $PATH or beside ptxas for --emit sass, found neither: --emit "
                    "asm prints the PTX");
  TemporaryFolder folder;
  const std::string file = folder.path() + "/kernel.cubin";
  writeFile(file, code.image);
  Finished finished =
      program.ends_with("nvdisasm") ? runProgram({program, "-c", file}) : runProgram({program, "-sass", file});
  if (finished.status != 0)
    throw UserError(program + " failed: " + finished.output);
  return finished.output;
}

// What the code takes of a multiprocessor.
static std::string resourcesOf(const MachineCode &code, const Target &target) {
  if (!code.resources)
    throw UserError("expected ptxas, which says what the code takes, for --emit resources; found none");
  auto row = [](const char *what, int number) { return std::vector<std::string>{what, std::to_string(number)}; };
  const KernelResources &own = *code.resources;
  std::string text = tableOf({{"resource", target.name},
                              row("threads a program", code.threadsPerProgram),
                              row("registers a thread", own.registers),
                              row("stack bytes a thread", own.stackBytes),
                              row("spill store bytes", own.spillStoreBytes),
                              row("spill load bytes", own.spillLoadBytes),
                              row("shared bytes, static", own.sharedBytes),
                              row("shared bytes, dynamic", code.sharedBytes),
                              row("barriers", own.barriers)});
  auto byLine = [&](const char *what, const std::vector<ResourceCost> &costs) {
    std::vector<std::vector<std::string>> rows = {{"line", what, "for"}};
    for (const ResourceCost &cost : costs)
      rows.push_back({cost.where.known() ? cost.where.file + (":" + std::to_string(cost.where.line)) : "?",
                      std::to_string(cost.amount), cost.what});
    if (rows.size() > 1)
      text += "\n" + tableOf(rows);
  };
  byLine("registers at the peak, about", code.registerCosts);
  byLine("shared bytes", code.sharedCosts);
  if (code.stages)
    text += "\nstages: " + std::to_string(code.stages) +
            (code.stagesWanted > code.stages
                 ? ", of " + std::to_string(code.stagesWanted) + " asked for: more do not fit in shared memory\n"
             : code.stagesWanted ? ", as asked for\n"
                                 : ", as many as fit in shared memory\n");
  if (std::optional<UserError> spill = spillError(code, target))
    text += "\n" + std::string(spill->what()) + "\n";
  return text;
}

static int runInspect(const Arguments &arguments) {
  const std::string what = arguments.value("--emit", "tile");
  const std::vector<std::string> all = {"tile", "layout", "llvm", "asm", "sass", "resources"};
  if (std::find(all.begin(), all.end(), what) == all.end())
    throw UsageError("unknown stage '" + what + "'" + expectedOneOf(what, all));
  if (arguments.has("--from") != arguments.operands().empty())
    throw UsageError(arguments.has("--from") ? "expected no KERNEL beside --from, got '" + arguments.operands()[0] + "'"
                                             : "expected KERNEL or --from FILE, got neither");
  const std::vector<NamedTarget> targets = targetsOf(arguments);
  if (targets.size() > 1)
    throw UsageError("expected one target, got " + std::to_string(targets.size()));
  const Target &target = targets[0].target;
  if (isCpu(target.family) && (what == "sass" || what == "resources"))
    throw UsageError("--emit " + what + ": expected a GPU as target, got " + target.name);

  Program program;
  if (arguments.has("--from")) {
    const std::string file = arguments.value("--from");
    program = Program::parse(asUsage([&] { return readFile(file); }), file);
  } else {
    const KernelRow &kernel = kernelOf(arguments.operands()[0]);
    std::string sizes = !kernel.benchmarks.empty() ? kernel.benchmarks[0]
                        : !kernel.tests.empty()    ? kernel.tests[0]
                                                   : "";
    Call call = callOf(kernel, variantsOf(kernel, arguments)[0], sizes, arguments);
    bindWithoutMemory(call);
    explainIfAsked(arguments, call, target);
    program = call.trace();
  }
  std::string text = what == "sass"        ? sassOf(compile(program, target))
                     : what == "resources" ? resourcesOf(compile(program, target), target)
                                           : emit(program, target, *stageNamed(what));
  if (!text.ends_with('\n'))
    text += '\n';
  if (arguments.has("-o"))
    writeFile(arguments.value("-o"), text);
  else
    std::fwrite(text.data(), 1, text.size(), stdout);
  return 0;
}

static std::string helpText() {
  return std::string(kernelHelp) +
         "\nThe sizes are those of the kernel's first benchmark unless --set says others. Stages, in order:\n"
         "  tile       tile IR: what the C++ said, canonical, the same for every target\n"
         "  layout     loops over native vectors (CPU), or tiles with a layout each (GPU)\n"
         "  llvm       LLVM IR, optimised\n"
         "  asm        the target's assembly; PTX for a GPU\n"
         "  sass       a GPU's machine code, through nvdisasm or cuobjdump\n"
         "  resources  registers, spills and shared memory, as ptxas reports them, and the lines that take them\n"
         "\nThe text of tile and layout can be edited and lowered further with --from.\n";
}

const Command inspectCommand = {
    .name = "inspect",
    .operands = "KERNEL",
    .leastOperands = 0,
    .mostOperands = 1,
    .summary = "what a kernel becomes, stage by stage",
    .description = helpText(),
    .options = {targetOption(),
                {"--emit", "STAGE", "tile (the default), layout, llvm, asm, sass or resources"},
                setOption(),
                dtypeOption(),
                verboseOption(),
                {"--from", "FILE", "instead of a kernel, the text that an earlier --emit gave"},
                {"-o", "FILE", "write there instead of to stdout"}},
    .run = runInspect,
};

} // namespace bitloom::tools
