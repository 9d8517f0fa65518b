// The whole pipeline on one page: the five lists of passes below are all there are, in this order.
//
//   tile IR -tilePasses-> canonical -+-cpuLayoutPasses-> loops over vectors ---------------------+-llvmPasses-> LLVM
//                                    +-gpuLayoutPasses-> with layouts -gpuThreadPasses-> a thread+
#include "bitloom/lowering/Pipeline.h"

#include "bitloom/lib/packing/Packing.h"
#include "bitloom/lib/support/Error.h"
#include "bitloom/lowering/Backend.h"
#include "bitloom/lowering/Diagnostics.h"
#include "bitloom/lowering/Explain.h"
#include "bitloom/lowering/Passes.h"
#include "bitloom/lowering/Recovery.h"
#include "bitloom/lowering/Reproducer.h"
#include "bitloom/lowering/codegen/Codegen.h"

#include "mlir/Conversion/Passes.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/LLVMIR/NVVMDialect.h"
#include "mlir/IR/Verifier.h"
#include "mlir/Pass/PassInstrumentation.h"
#include "mlir/Pass/PassManager.h"
#include "mlir/Transforms/Passes.h"

#include <array>
#include <exception>

using namespace mlir;

namespace bitloom {

//===- Which passes, in which order, and why ----------------------------------------------------------------------===//

static void tilePasses(OpPassManager &passes, const Target &) {
  // Tracing leaves constants unfolded and every use of an expression spelt out again; patterns match what is left.
  passes.addPass(createCanonicalizerPass());
  passes.addPass(createCSEPass());
  // Once for all targets: they unpack planes of 1, 2, 4 or 8 bits only. After CSE, so that no plane is unpacked twice.
  passes.addPass(createDecomposePacking());
  // The shifts and masks of neighbouring planes fold.
  passes.addPass(createCanonicalizerPass());
  passes.addPass(createCSEPass());
}

static void cpuLayoutPasses(OpPassManager &passes, const Target &target) {
  passes.addPass(createTileToLoops({target.name}));
  // Fusing copies index arithmetic into every loop; what is the same there is one value again.
  passes.addPass(createCanonicalizerPass());
  passes.addPass(createCSEPass());
}

static void gpuLayoutPasses(OpPassManager &passes, const Target &target) {
  passes.addPass(createAssignLayouts({target.name}));
  // Anchors of the same layout ask for the same conversion twice.
  passes.addPass(createCanonicalizerPass());
  passes.addPass(createCSEPass());
  // Of what layouts placed in shared memory, once nothing is left to merge.
  passes.addPass(createSpecializeWarps({target.name}));
  // Of loops in which waiting for the copy engine is explicit.
  passes.addPass(createPipelineDots({target.name}));
  // Of the two loops that there are now, one a role.
  passes.addPass(createShareSteps());
}

static void gpuThreadPasses(OpPassManager &passes, const Target &target) {
  passes.addPass(createTileToNVVM({target.name}));
  // One thread's share of a tile is many scalars, and many are the same in all of them.
  passes.addPass(createCanonicalizerPass());
  passes.addPass(createCSEPass());
}

static void llvmPasses(OpPassManager &passes, const Target &target) {
  if (isCpu(target.family)) {
    // While functions are still ops on whole vectors, before anything is split into scalars.
    passes.addPass(createExpandMath({target.name}));
    // After the maths, which computes bf16 in f32 and so adds conversions.
    passes.addPass(createExpandFloats({target.name}));
  }
  // The expansions share subexpressions between neighbouring calls: sin and cos of one angle, say.
  passes.addPass(createCSEPass());
  // Structure goes last but one: the passes above match within a block.
  passes.addPass(createSCFToControlFlowPass());
  // Before scalars are converted: it unrolls vectors of rank 2 and up with vector and arith ops.
  ConvertVectorToLLVMPassOptions vectors;
  vectors.reassociateFPReductions = true; // the order of a reduction is ours to choose, see tile.reduce
  vectors.armNeon = vectors.armSVE = target.family == Family::Cpu_aarch64;
  vectors.x86Vector = target.family == Family::Cpu_x86;
  passes.addPass(createConvertVectorToLLVMPass(vectors));
  passes.addPass(createConvertToLLVM());
  // wgmma, mbarrier and their like become inline PTX.
  if (!isCpu(target.family))
    passes.addPass(createConvertNVVMToLLVMPass());
  // Once all is LLVM's, for conversions look at types to choose.
  if (target.family == Family::Cpu_x86 && !target.has("avx512bf16"))
    passes.addPass(createEraseBFloat());
  // Casts between a type and its LLVM form have met their inverses by now.
  passes.addPass(createReconcileUnrealizedCastsPass());
}

//===- What is legal after each stage -----------------------------------------------------------------------------===//

static bool fromDialect(Operation *op, std::initializer_list<StringRef> dialects) {
  return llvm::is_contained(dialects, op->getName().getDialectNamespace());
}

static bool allTypes(Operation *op, llvm::function_ref<bool(Type)> holds) {
  return llvm::all_of(op->getOperandTypes(), holds) && llvm::all_of(op->getResultTypes(), holds);
}

// Packed in columns, values are left to the products that they feed.
static bool inColumns(tile::PackingAttr packing) {
  return Packing::parse(packing.getSpelling()).order == Packing::Order::Columns;
}

static bool legalTile(Operation *op) {
  if (auto unpack = dyn_cast<tile::UnpackOp>(op))
    return (llvm::isPowerOf2_64(unpack.getPacking().bits()) && !unpack.getIsSigned()) || inColumns(unpack.getPacking());
  if (auto pack = dyn_cast<tile::PackOp>(op))
    return llvm::isPowerOf2_64(pack.getPacking().bits()) || inColumns(pack.getPacking());
  return fromDialect(op, {"builtin", "func", "arith", "math", "scf", "tensor", "tile", "ub"}) &&
         !isa<tile::ConvertLayoutOp>(op);
}

static bool legalLoops(Operation *op) {
  return fromDialect(op,
                     {"builtin", "llvm", "arith", "math", "scf", "vector", "ub", "arm_neon", "arm_sve", "x86vector"}) &&
         allTypes(op, [](Type type) { return !isa<TensorType, tile::ViewType>(type); });
}

static bool hasLayout(Type type) {
  auto tensor = dyn_cast<RankedTensorType>(type);
  return tensor && isa_and_present<tile::LayoutAttr>(tensor.getEncoding());
}

static bool legalLayouts(Operation *op) {
  return fromDialect(op, {"builtin", "func", "arith", "math", "scf", "tensor", "tile", "ub"}) &&
         allTypes(op, [](Type type) { return !isa<TensorType>(type) || hasLayout(type); });
}

static bool legalThreads(Operation *op) {
  return fromDialect(op, {"builtin", "llvm", "nvvm", "arith", "math", "scf", "cf", "vector", "ub"}) &&
         allTypes(op, [](Type type) { return !isa<TensorType, tile::ViewType>(type); });
}

static bool legalLlvm(Operation *op) {
  return isa<ModuleOp>(op) || fromDialect(op, {"llvm", "nvvm", "arm_neon", "arm_sve"});
}

//===- Running them -----------------------------------------------------------------------------------------------===//

namespace {
struct Step {
  Stage stage; // that is reached
  const char *name;
  void (*passes)(OpPassManager &, const Target &);
  bool (*legal)(Operation *);
};
} // namespace

static SmallVector<Step, 4> stepsFor(const Target &target) {
  const Step tile = {Stage::Tile, "tile", tilePasses, legalTile}, llvm = {Stage::Llvm, "llvm", llvmPasses, legalLlvm};
  if (isCpu(target.family))
    return {tile, {Stage::Layout, "layout", cpuLayoutPasses, legalLoops}, llvm};
  return {tile,
          {Stage::Layout, "layout", gpuLayoutPasses, legalLayouts},
          {Stage::Llvm, "threads", gpuThreadPasses, legalThreads},
          llvm};
}

// How far a program has come already, when it was parsed from the text of a later stage: the first step still to do.
static size_t firstStep(const Program &program, ArrayRef<Step> steps) {
  ModuleOp module = program.module();
  if (module.getOps<func::FuncOp>().empty())
    return steps.size() - 1; // llvm.func, perhaps LLVM's dialect already, to which llvmPasses do nothing
  WalkResult found = module.walk([](Operation *op) {
    return llvm::any_of(op->getResultTypes(), hasLayout) ? WalkResult::interrupt() : WalkResult::advance();
  });
  return found.wasInterrupted() ? 2 : 0;
}

// Remembers which pass failed.
struct FailureRecorder : PassInstrumentation {
  explicit FailureRecorder(std::string &name) : name(name) {}
  void runAfterPassFailed(Pass *pass, Operation *) override {
    if (name.empty())
      name = pass->getArgument().str();
  }
  std::string &name;
};

// What went wrong in a step, before it is known where the reproducer lies.
struct StepFailure {
  std::string message;
};

// `diagnostics` are the caller's, so that they are unhooked from the context even after a crash in here.
static void runStep(const Step &step, Program &program, const Target &target, bool verifyEach,
                    Diagnostics &diagnostics) {
  PassManager passes(program.context(), ModuleOp::getOperationName(), OpPassManager::Nesting::Implicit);
  std::string failedPass;
  passes.addInstrumentation(std::make_unique<FailureRecorder>(failedPass));
  passes.enableVerifier(verifyEach);
  program.context()->printOpOnDiagnostic(verifyEach); // a user knows the line, not the IR
  step.passes(passes, target);
  if (failed(passes.run(program.module()))) {
    // A pass of ours that rejects a program says why, at the op; upstream's conversions only say that they are stuck.
    bool explained = StringRef(failedPass).starts_with("tile-") && !diagnostics.text().empty() &&
                     !StringRef(diagnostics.text()).contains("failed to legalize");
    if (explained)
      throw diagnostics.userError("");
    throw StepFailure{"pass '" + failedPass + "' failed in stage '" + step.name + "'\n" + diagnostics.text()};
  }
  if (failed(mlir::verify(program.module())))
    throw StepFailure{std::string("the IR after stage '") + step.name + "' does not verify\n" + diagnostics.text()};
  Operation *outOfPlace = nullptr;
  program.module().walk<WalkOrder::PreOrder>([&](Operation *op) {
    if (step.legal(op))
      return WalkResult::advance();
    outOfPlace = op;
    return WalkResult::interrupt();
  });
  if (outOfPlace) {
    std::string text;
    llvm::raw_string_ostream out(text);
    outOfPlace->print(out, OpPrintingFlags().skipRegions().useLocalScope());
    outOfPlace->emitWarning("here");
    throw StepFailure{std::string("after stage '") + step.name + "' an operation is out of place: " + text + "\n" +
                      diagnostics.text()};
  }
}

// Runs `work`; what fails in it, or crashes, becomes an InternalError with `before` saved.
template <class Work, class Before>
static void guarded(const char *stage, const Target &target, Before before, Work work) {
  std::string message;
  try {
    std::optional<std::string> crash = recoverCrash(work);
    if (!crash)
      return;
    message = std::string("a crash in stage '") + stage + "'" + (crash->empty() ? "" : ": " + *crash);
  } catch (const StepFailure &failure) {
    message = failure.message;
  } catch (const CodegenError &error) {
    message = std::string("stage '") + stage + "' failed: " + error.what();
  }
  while (!message.empty() && message.back() == '\n')
    message.pop_back();
  throw InternalError(message, saveReproducer(before(), target, stage, message));
}

// `choices`, when given, takes what the lowerings say of source's module with explainAttr.
static Program lowered(const Program &source, const Target &target, Stage last, bool verifyEach = false,
                       std::vector<std::string> *choices = nullptr) {
  Program program = source.clone();
  const SmallVector<Step, 4> steps = stepsFor(target);
  const size_t first = firstStep(program, steps);
  for (size_t i = first; i < steps.size() && steps[i].stage <= last; ++i) {
    // Passes rewrite in place. What was before the step is made once more, and only when it is needed.
    auto before = [&] {
      Program again = source.clone();
      Diagnostics unread(again.context());
      for (size_t j = first; j < i; ++j)
        runStep(steps[j], again, target, false, unread);
      return again;
    };
    Diagnostics diagnostics(program.context());
    guarded(steps[i].name, target, before, [&] { runStep(steps[i], program, target, verifyEach, diagnostics); });
    for (const std::string &choice : diagnostics.choices())
      if (choices && !llvm::is_contained(*choices, choice)) // the same for each part of a loop
        choices->push_back(choice);
  }
  return program;
}

std::optional<Stage> stageNamed(std::string_view name) {
  constexpr std::array<std::string_view, 5> names = {"tile", "layout", "llvm", "asm", "machine"};
  for (size_t i = 0; i < names.size(); ++i)
    if (names[i] == name)
      return Stage(i);
  return std::nullopt;
}

std::string emit(const Program &program, const Target &target, Stage stage) {
  if (stage == Stage::Machine)
    throw UserError("expected a stage that has a text, got machine");
  Program end = lowered(program, target, stage == Stage::Assembly ? Stage::Llvm : stage);
  if (stage < Stage::Llvm)
    return end.print();
  std::string text;
  guarded(
      "machine", target, [&] { return end.clone(); },
      [&] {
        Codegen codegen(end.module(), target);
        codegen.optimise();
        text = stage == Stage::Llvm ? codegen.text() : codegen.assembly();
      });
  return text;
}

Explanation explain(const Program &program, const Target &target) {
  Program asked = program.clone();
  asked.module()->setAttr(explainAttr, UnitAttr::get(asked.context()));
  Explanation found;
  Program end = lowered(asked, target, Stage::Llvm, /*verifyEach=*/false, &found.choices);
  end.module()->removeAttr(explainAttr);
  found.assembly = emit(end, target, Stage::Assembly);
  found.instructions = tellingInstructions(found.assembly, target.family);
  return found;
}

// The one function with a body that the host calls.
static LLVM::LLVMFuncOp kernelOf(const Program &program) {
  LLVM::LLVMFuncOp found;
  for (auto function : program.module().getOps<LLVM::LLVMFuncOp>()) {
    if (function.isExternal())
      continue;
    if (function->hasAttr(tile::kernelAttr))
      return function;
    if (!found && function.getLinkage() == LLVM::Linkage::External)
      found = function;
  }
  if (!found)
    throw UserError("expected a function with the attribute tile.kernel, got none");
  return found;
}

static MachineCode compileFrom(const Program &program, const Target &target, bool verifyEach) {
  Program end = lowered(program, target, Stage::Llvm, verifyEach);
  MachineCode code;
  guarded(
      "machine", target, [&] { return end.clone(); },
      [&] {
        Codegen codegen(end.module(), target);
        codegen.optimise();
        code = backendOf(target.family).machineCode(codegen, kernelOf(end), target);
      });
  return code;
}

MachineCode compile(const Program &program, const Target &target) { return compileFrom(program, target, false); }

std::optional<UserError> spillError(const MachineCode &code, const Target &target) {
  if (!code.resources || !code.resources->spillBytes())
    return std::nullopt;
  std::string tiles;
  for (const ResourceCost &cost : ArrayRef(code.registerCosts).take_front(3)) {
    tiles += tiles.empty() ? ": " : ", ";
    if (cost.where.known())
      tiles += std::string(cost.where.file) + ":" + std::to_string(cost.where.line) + ": ";
    tiles += std::to_string(cost.amount) + " for " + cost.what;
  }
  int64_t live = 0;
  for (const ResourceCost &cost : code.registerCosts)
    live += cost.amount;
  return UserError(code.registerCosts.empty() ? SourceLocation() : code.registerCosts.front().where,
                   "registers: " + code.entry + " has " + std::to_string(code.resources->registers) + " a thread of " +
                       std::to_string(code.threadsPerProgram) + " on " + target.name +
                       " and keeps the rest in memory (" + std::to_string(code.resources->spillStoreBytes) +
                       " bytes stored, " + std::to_string(code.resources->spillLoadBytes) +
                       " loaded): its tiles take some " + std::to_string(live) + " at once" + tiles +
                       "; use smaller blocks, or more warps of fewer elements");
}

Replay replay(const std::string &file) {
  Reproducer reproducer = readReproducer(file);
  Program program = Program::parse(reproducer.text, file);
  std::string header = file + ": stage '" + reproducer.stage + "' for " + reproducer.target.name + ": ";
  try {
    MachineCode code = compileFrom(program, reproducer.target, /*verifyEach=*/true);
    return {true, header + "passes now (" + std::to_string(code.image.size()) + " bytes of machine code)"};
  } catch (const std::exception &error) {
    return {false, header + "fails\n" + error.what()};
  }
}

} // namespace bitloom
