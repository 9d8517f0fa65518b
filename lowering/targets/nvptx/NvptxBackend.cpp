#include "bitloom/lib/runtime/Cuda.h"
#include "bitloom/lib/runtime/Ptxas.h"
#include "bitloom/lib/runtime/Workspace.h"
#include "bitloom/lib/support/Error.h"
#include "bitloom/lowering/Diagnostics.h"
#include "bitloom/lowering/dialect/Tile.h"
#include "bitloom/lowering/targets/Backends.h"

#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "llvm/Support/TargetSelect.h"

#include <algorithm>

namespace bitloom {

namespace {

class CudaExecutable : public Executable {
public:
  CudaExecutable(const MachineCode &code, const Target &target)
      : module(code.image), function(module.function(code.entry, unsigned(code.sharedBytes))),
        threads(unsigned(code.threadsPerProgram)), cluster(unsigned(code.blocksPerProgram)),
        workspaceBytes(size_t(code.workspaceBytes)), overlapPrevious(target.hasLaunchOverlap()), maps(code.tensorMaps) {
    if (!code.isPersistent)
      return;
    if (cluster > 1) {
      mostPrograms = std::max(1, function.residentClusters(code.threadsPerProgram, int(cluster)));
      return;
    }
    const int multiprocessors = cuda::deviceInfo(cuda::currentDevice()).smCount;
    const int resident = std::max(1, function.residentBlocks(code.threadsPerProgram));
    mostPrograms = multiprocessors * resident;
    if (resident > 2) {
      spreadPrograms = 2 * multiprocessors;
      spread = function.withAtMost(2);
    }
  }

  void launch(std::span<const int64_t> words, std::array<int64_t, 3> grid, void *stream, int64_t) override {
    const std::array<int64_t, 3> largest = {mostPrograms ? (1LL << 31) - 1 : ((1LL << 31) - 1) / cluster, 65535, 65535};
    for (size_t axis = 0; axis < 3; ++axis)
      if (grid[axis] < 0 || grid[axis] > largest[axis])
        throw UserError("grid axis " + std::to_string(axis) + ": expected 0 to " + std::to_string(largest[axis]) +
                        " programs, got " + std::to_string(grid[axis]));
    if (!grid[0] || !grid[1] || !grid[2])
      return;
    if (mostPrograms)
      return launchPersistent(words, grid, stream);
    cuda::launch(function, words,
                 {.grid = {unsigned(grid[0]) * cluster, unsigned(grid[1]), unsigned(grid[2])},
                  .block = {threads, 1, 1},
                  .cluster = {cluster, 1, 1},
                  .overlapPrevious = overlapPrevious,
                  .stream = stream});
  }

private:
  void launchPersistent(std::span<const int64_t> words, std::array<int64_t, 3> grid, void *stream) {
    constexpr int64_t countable = (1LL << 31) - 1;
    if (grid[0] > countable / grid[1] / grid[2])
      throw UserError("expected at most " + std::to_string(countable) + " programs, got a grid of " +
                      std::to_string(grid[0]) + " x " + std::to_string(grid[1]) + " x " + std::to_string(grid[2]));
    std::array<int64_t, cuda::maxLaunchWords> all;
    if (words.size() + grid.size() + 1 > all.size())
      throw InternalError("expected at most " + std::to_string(all.size()) + " words of kernel arguments");
    auto end = std::ranges::copy(grid, std::ranges::copy(words, all.begin()).out).out;
    int64_t blocks = std::min(grid[0] * grid[1] * grid[2], mostPrograms);
    if (workspaceBytes) { // blocks share programs, so there may be more of them
      const int64_t counters = cuda::workspaceCounterBytes / sizeof(int32_t), most = std::min(mostPrograms, counters);
      void *workspace = cuda::workspaceFor(stream, cuda::workspaceCounterBytes + size_t(most) * workspaceBytes);
      *end++ = int64_t(reinterpret_cast<std::intptr_t>(workspace));
      if (workspace)
        blocks = most;
    }
    std::array<TensorMap, cuda::maxLaunchMaps> encoded;
    if (maps.size() > encoded.size())
      throw InternalError("expected at most " + std::to_string(encoded.size()) + " tensor maps");
    for (size_t i = 0; i < maps.size(); ++i)
      encoded[i] = maps[i].of(words);
    cuda::launch(blocks <= spreadPrograms ? spread : function, std::span(all.begin(), end),
                 {.grid = {unsigned(blocks) * cluster, 1, 1},
                  .block = {threads, 1, 1},
                  .cluster = {cluster, 1, 1},
                  .overlapPrevious = overlapPrevious,
                  .stream = stream},
                 std::span(encoded).first(maps.size()));
  }

  cuda::Module module;
  cuda::Function function;
  unsigned threads, cluster;
  size_t workspaceBytes;    // a block's part
  bool overlapPrevious;     // the code waits for it
  int64_t mostPrograms = 0; // of a persistent kernel, that run at once
  // Up to so many are launched as blocks of which two fit on a multiprocessor. Where three do, those of launches that
  // overlap crowd onto some, and the others wait for these: 43 us for 33 (docs/benchmarks/notes.md).
  int64_t spreadPrograms = 0;
  cuda::Function spread;
  std::vector<TensorMapRequest> maps;
};

int64_t intAttr(mlir::Operation *op, llvm::StringRef name, int64_t otherwise) {
  auto attribute = op->getAttrOfType<mlir::IntegerAttr>(name);
  return attribute ? attribute.getInt() : otherwise;
}

TensorMapRequest requestOf(mlir::DictionaryAttr described) {
  auto number = [&](const char *name) { return int(described.getAs<mlir::IntegerAttr>(name).getInt()); };
  auto box = described.getAs<mlir::DenseI32ArrayAttr>("box").asArrayRef();
  return {number("word"), number("rank"), DType(number("dtype")), {box.begin(), box.end()}, number("swizzle")};
}

std::vector<ResourceCost> costsOf(mlir::LLVM::LLVMFuncOp kernel, llvm::StringRef name) {
  std::vector<ResourceCost> costs;
  if (auto described = kernel->getAttrOfType<mlir::ArrayAttr>(name))
    for (auto cost : described.getAsRange<mlir::DictionaryAttr>())
      costs.push_back({sourceOf(mlir::Location(cost.getAs<mlir::LocationAttr>("where"))),
                       cost.getAs<mlir::StringAttr>("what").str(), cost.getAs<mlir::IntegerAttr>("amount").getInt()});
  return costs;
}

// PTX in `code` becomes a cubin where there is ptxas. What it schedules first sometimes leaves a few registers too
// little: what spills is assembled again in other ways, and the best of all is kept.
void assemble(MachineCode &code, const Target &target) {
  const PtxasOptions usual = {.cpu = target.cpu};
  PtxasOptions few = usual, many = usual, fewerPasses = usual;
  few.registerUsage = 0;
  many.registerUsage = 10;
  fewerPasses.fewerPasses = true;
  const std::string ptx = code.image;
  for (const PtxasOptions &options : {usual, few, many, fewerPasses}) {
    std::optional<Cubin> cubin;
    try {
      cubin = assemblePtx(ptx, options);
    } catch (const PtxasError &) {
      if (!code.resources)
        throw;
      continue; // an older ptxas, which has no such option
    }
    const KernelResources *resources = cubin ? cubin->find(code.entry) : nullptr;
    if (cubin && (!code.resources || (resources && resources->spillBytes() < code.resources->spillBytes()))) {
      code.image = std::move(cubin->bytes);
      if (resources)
        code.resources = *resources;
    }
    if (!code.resources || !code.resources->spillBytes())
      return;
  }
}

// Kernels that wait for memory hide that by other blocks on the multiprocessor: where registers leave room for few,
// they are made do with less, as long as nothing spills. Not those whose blocks are as many as multiprocessors, or that
// are the tensor cores'. Their PTX then says how many blocks there are to be.
void makeRoom(MachineCode &code, const std::string &ptx, const Target &target) {
  constexpr int enough = 1024; // threads
  const std::string threads = ".reqntid " + std::to_string(code.threadsPerProgram);
  const size_t at = ptx.find(threads);
  if (!code.resources || code.resources->spillBytes() || code.stages || code.isPersistent || at == ptx.npos ||
      ptx.find("mma.") != ptx.npos || ptx.find(".minnctapersm") != ptx.npos)
    return;
  const int registers = (code.resources->registers + 7) / 8 * 8;
  const int present = target.registersPerSm / (code.threadsPerProgram * registers);
  const int wanted = enough / code.threadsPerProgram;
  for (int blocks = wanted; blocks > present; blocks = blocks == present + 1 ? present : present + 1) {
    const std::string directive = "\n.minnctapersm " + std::to_string(blocks);
    std::optional<Cubin> cubin =
        assemblePtx(std::string(ptx).insert(at + threads.size(), directive), {.cpu = target.cpu});
    const KernelResources *resources = cubin ? cubin->find(code.entry) : nullptr;
    if (!resources || resources->spillBytes())
      continue;
    code.resources = *resources;
    code.image = std::move(cubin->bytes);
    return;
  }
}

struct NvptxBackend : Backend {
  std::vector<std::string_view> tellingInstructions() const override {
    return {"wgmma.mma_async", "mma.sync", "fma.", "dp4a", "cp.async", "ldmatrix"};
  }
  void initialiseLlvm() const override {
    LLVMInitializeNVPTXTargetInfo();
    LLVMInitializeNVPTXTarget();
    LLVMInitializeNVPTXTargetMC();
    LLVMInitializeNVPTXAsmPrinter();
  }

  MachineCode machineCode(Codegen &codegen, mlir::LLVM::LLVMFuncOp kernel, const Target &target) const override {
    constexpr int defaultWarps = 4;
    const int64_t warps = intAttr(kernel, tile::numWarpsAttr, defaultWarps);
    const int64_t shared =
        intAttr(kernel, tile::sharedBytesAttr, intAttr(kernel->getParentOp(), tile::sharedBytesAttr, 0));
    const int64_t mostWarps = target.maxThreadsPerBlock / target.warpSize;
    SourceLocation where = sourceOf(kernel.getLoc());
    if (warps < 1 || warps > mostWarps)
      throw UserError(where, "num_warps: expected 1 to " + std::to_string(mostWarps) + " on " + target.name + ", got " +
                                 std::to_string(warps));
    if (shared > target.maxSharedPerBlock)
      throw UserError(where, "shared memory: expected at most " + std::to_string(target.maxSharedPerBlock) +
                                 " bytes a block on " + target.name + ", got " + std::to_string(shared));
    MachineCode code;
    code.entry = kernel.getName().str();
    code.threadsPerProgram = int(warps) * target.warpSize;
    code.sharedBytes = int(shared);
    code.isPersistent = kernel->hasAttr(tile::persistentAttr);
    code.blocksPerProgram = int(intAttr(kernel, tile::clusterAttr, 1));
    code.workspaceBytes = int(intAttr(kernel, tile::workspaceAttr, 0));
    if (auto maps = kernel->getAttrOfType<mlir::ArrayAttr>(tile::tensorMapsAttr))
      for (auto described : maps.getAsRange<mlir::DictionaryAttr>())
        code.tensorMaps.push_back(requestOf(described));
    code.registerCosts = costsOf(kernel, tile::registerCostsAttr);
    code.sharedCosts = costsOf(kernel, tile::sharedCostsAttr);
    code.stages = int(intAttr(kernel, tile::ringStagesAttr, 0));
    code.stagesWanted = int(intAttr(kernel, tile::stagesAttr, 0));
    code.image = codegen.assembly();
    try {
      const std::string ptx = code.image;
      assemble(code, target);
      makeRoom(code, ptx, target);
    } catch (const PtxasError &error) {
      throw CodegenError(std::string("ptxas refused the code: ") + error.what());
    }
    return code;
  }

  std::shared_ptr<Executable> load(const MachineCode &code, const Target &target) const override {
    cuda::ContextScope scope;
    const int capability = cuda::deviceInfo(cuda::currentDevice()).computeCapability;
    const bool isCubin = std::string_view(code.image)
                             .starts_with("\x7f"
                                          "ELF");
    if (isCubin && !cubinRunsOn(target, capability))
      throw UserError("expected code for a device of compute capability " + std::to_string(capability / 10) + "." +
                      std::to_string(capability % 10) + ", got " + target.name);
    return std::make_shared<CudaExecutable>(code, target);
  }

  std::string assemblerVersion() const override { return ptxasVersion(); }
  std::string assemblerStamp() const override { return ptxasStamp(); }

  // Code belongs to a context: the handle of it is what the pointer points to.
  std::shared_ptr<void> enterDevice() const override {
    auto scope = std::make_shared<cuda::ContextScope>();
    return {scope, scope->context()};
  }
};
} // namespace

const Backend &nvptxBackend() {
  static const NvptxBackend backend;
  return backend;
}

} // namespace bitloom
