#include "bitloom/lowering/codegen/Codegen.h"

#include "bitloom/lib/support/Error.h"
#include "bitloom/lowering/Backend.h"
#include "bitloom/lowering/Diagnostics.h"

#include "mlir/IR/BuiltinOps.h"
#include "mlir/Target/LLVMIR/Dialect/ArmNeon/ArmNeonToLLVMIRTranslation.h"
#include "mlir/Target/LLVMIR/Dialect/ArmSVE/ArmSVEToLLVMIRTranslation.h"
#include "mlir/Target/LLVMIR/Dialect/Builtin/BuiltinToLLVMIRTranslation.h"
#include "mlir/Target/LLVMIR/Dialect/LLVMIR/LLVMToLLVMIRTranslation.h"
#include "mlir/Target/LLVMIR/Dialect/NVVM/NVVMToLLVMIRTranslation.h"
#include "mlir/Target/LLVMIR/Export.h"
#include "llvm/Analysis/RuntimeLibcallInfo.h"
#include "llvm/CodeGen/CodeGenTargetMachineImpl.h"
#include "llvm/CodeGen/LibcallLoweringInfo.h"
#include "llvm/CodeGen/MachineModuleInfo.h"
#include "llvm/CodeGen/Passes.h"
#include "llvm/CodeGen/TargetPassConfig.h"
#include "llvm/IR/DiagnosticInfo.h"
#include "llvm/IR/DiagnosticPrinter.h"
#include "llvm/IR/InlineAsm.h"
#include "llvm/IR/InstIterator.h"
#include "llvm/IR/LLVMContext.h"
#include "llvm/IR/LegacyPassManager.h"
#include "llvm/IR/Module.h"
#include "llvm/MC/TargetRegistry.h"
#include "llvm/Passes/PassBuilder.h"
#include "llvm/Target/TargetMachine.h"

#include <limits>
#include <mutex>

namespace bitloom {

// LLVM's back end of one family, and no other.
static void initialise(Family family) {
  static std::once_flag done[std::numeric_limits<std::underlying_type_t<Family>>::max()];
  std::call_once(done[size_t(family)], [&] { backendOf(family).initialiseLlvm(); });
}

static std::unique_ptr<llvm::TargetMachine> machineFor(const Target &target) {
  initialise(target.family);
  llvm::Triple triple(target.triple);
  std::string error;
  const llvm::Target *backend = llvm::TargetRegistry::lookupTarget(triple, error);
  if (!backend)
    throw CodegenError(error);
  llvm::TargetOptions options;
  // A product may be fused with the sum it feeds; nothing else is reassociated.
  options.AllowFPOpFusion = llvm::FPOpFusion::Fast;
  options.MCOptions.AsmVerbose = isCpu(target.family);
  // Position-independent, so that one object serves the JIT, executables and shared libraries.
  return std::unique_ptr<llvm::TargetMachine>(backend->createTargetMachine(triple, target.cpu, target.features, options,
                                                                           llvm::Reloc::PIC_, std::nullopt,
                                                                           llvm::CodeGenOptLevel::Aggressive));
}

// Gathers errors instead of printing them and ending the process, as LLVM would by itself.
struct ErrorCollector : llvm::DiagnosticHandler {
  std::string errors;
  bool inlineAssembly = false;

  bool handleDiagnostics(const llvm::DiagnosticInfo &info) override {
    if (info.getSeverity() != llvm::DS_Error)
      return true;
    inlineAssembly |= info.getKind() == llvm::DK_InlineAsm || info.getKind() == llvm::DK_SrcMgr;
    llvm::raw_string_ostream out(errors);
    if (!errors.empty())
      out << "\n";
    llvm::DiagnosticPrinterRawOStream printer(out);
    info.print(printer);
    return true;
  }
};

struct Codegen::Impl {
  Target target;
  std::unique_ptr<llvm::TargetMachine> machine;
  llvm::LLVMContext context;
  std::unique_ptr<llvm::Module> module;
  ErrorCollector *collector = nullptr; // the context owns it

  // As addPassesToEmitFile, but without the scheduler that runs before registers are allocated; true: cannot be done.
  bool addPassesInOrder(llvm::legacy::PassManager &passes, llvm::raw_pwrite_stream &stream,
                        llvm::CodeGenFileType type) {
    auto &generator = static_cast<llvm::CodeGenTargetMachineImpl &>(*machine);
    llvm::TargetPassConfig *config = machine->createPassConfig(passes);
    config->setDisableVerify(true);
    config->disablePass(&llvm::MachineSchedulerID);
    auto *information = new llvm::MachineModuleInfoWrapperPass(machine.get()); // both are the pass manager's
    passes.add(config);
    passes.add(information);
    passes.add(new llvm::RuntimeLibraryInfoWrapper(machine->getTargetTriple()));
    passes.add(new llvm::LibcallLoweringInfoWrapper());
    if (config->addISelPasses())
      return true;
    config->addMachinePasses();
    config->setInitialized();
    if (generator.addAsmPrinter(passes, stream, nullptr, type, information->getMMI().getContext()))
      return true;
    passes.add(llvm::createFreeMachineFunctionPass());
    return false;
  }

  std::string emit(llvm::CodeGenFileType type) {
    llvm::SmallString<0> bytes;
    llvm::raw_svector_ostream stream(bytes);
    llvm::legacy::PassManager passes;
    const bool scheduled =
        llvm::any_of(*module, [](llvm::Function &function) { return function.hasFnAttribute(scheduledAttribute); });
    if (scheduled ? addPassesInOrder(passes, stream, type)
                  // What the module says of itself has been verified after translation.
                  : machine->addPassesToEmitFile(passes, stream, nullptr, type, /*DisableVerify=*/true))
      throw CodegenError("no such output for " + target.name);
    passes.run(*module);
    if (!collector->errors.empty()) {
      if (collector->inlineAssembly)
        throw UserError("inline assembly: " + collector->errors);
      throw CodegenError(collector->errors);
    }
    return std::string(bytes);
  }
};

Codegen::Codegen(mlir::ModuleOp source, const Target &target) : impl(new Impl) {
  impl->target = target;
  mlir::MLIRContext &context = *source.getContext();
  mlir::registerBuiltinDialectTranslation(context);
  mlir::registerLLVMDialectTranslation(context);
  mlir::registerNVVMDialectTranslation(context);
  mlir::registerArmNeonDialectTranslation(context);
  mlir::registerArmSVEDialectTranslation(context);

  auto handler = std::make_unique<ErrorCollector>();
  impl->collector = handler.get();
  impl->context.setDiagnosticHandler(std::move(handler));
  impl->machine = machineFor(target);
  Diagnostics diagnostics(&context);
  impl->module = mlir::translateModuleToLLVMIR(source, impl->context, source.getName().value_or("kernel"));
  if (!impl->module)
    throw CodegenError("no LLVM IR for this module\n" + diagnostics.text());
  impl->module->setTargetTriple(impl->machine->getTargetTriple());
  impl->module->setDataLayout(impl->machine->createDataLayout());
  for (llvm::Function &function : *impl->module) {
    function.setDoesNotThrow(); // no unwind tables, no landing pads
    // Assembly may be a barrier: it is not to be repeated in the arms of a branch that threads take differently.
    for (llvm::Instruction &instruction : llvm::instructions(function))
      if (auto *call = llvm::dyn_cast<llvm::CallInst>(&instruction);
          call && call->isInlineAsm() && llvm::cast<llvm::InlineAsm>(call->getCalledOperand())->hasSideEffects())
        call->setConvergent();
  }
}

Codegen::~Codegen() = default;

void Codegen::optimise() {
  llvm::PipelineTuningOptions tuning;
  // Kernels come vectorised and tiled: the vectorisers would only find the scalar remainders of loops.
  tuning.LoopVectorization = false;
  tuning.SLPVectorization = false;
  tuning.LoopInterleaving = false;
  llvm::PassBuilder builder(impl->machine.get(), tuning);
  llvm::LoopAnalysisManager loops;
  llvm::FunctionAnalysisManager functions;
  llvm::CGSCCAnalysisManager components;
  llvm::ModuleAnalysisManager modules;
  builder.registerModuleAnalyses(modules);
  builder.registerCGSCCAnalyses(components);
  builder.registerFunctionAnalyses(functions);
  builder.registerLoopAnalyses(loops);
  builder.crossRegisterProxies(loops, functions, components, modules);
  builder.buildPerModuleDefaultPipeline(llvm::OptimizationLevel::O3).run(*impl->module, modules);
  backendOf(impl->target.family).prepare(*impl->module);
}

std::string Codegen::text() const {
  std::string text;
  llvm::raw_string_ostream out(text);
  impl->module->print(out, nullptr);
  return text;
}

std::string Codegen::assembly() { return impl->emit(llvm::CodeGenFileType::AssemblyFile); }
std::string Codegen::object() { return impl->emit(llvm::CodeGenFileType::ObjectFile); }

} // namespace bitloom
