#include "bitloom/lowering/codegen/CpuBackend.h"
#include "bitloom/lowering/targets/Backends.h"
#include "bitloom/lowering/targets/aarch64/ScheduleProducts.h"

#include "llvm/IR/IRBuilder.h"
#include "llvm/IR/InstIterator.h"
#include "llvm/IR/Module.h"
#include "llvm/Support/TargetSelect.h"

namespace bitloom {

// Floats of bytes by way of i32, which the optimiser leaves out. LLVM's AArch64 back end takes the direct conversion
// apart in halves of vectors, and then needs twice the instructions.
static void convertBytesInSteps(llvm::Module &module) {
  llvm::SmallVector<llvm::CastInst *> direct;
  for (llvm::Function &function : module)
    for (llvm::Instruction &instruction : llvm::instructions(function))
      if (llvm::isa<llvm::SIToFPInst, llvm::UIToFPInst>(instruction) && instruction.getType()->isVectorTy() &&
          instruction.getOperand(0)->getType()->getScalarType()->isIntegerTy(8))
        direct.push_back(llvm::cast<llvm::CastInst>(&instruction));
  for (llvm::CastInst *cast : direct) {
    llvm::IRBuilder<> builder(cast);
    llvm::Value *bytes = cast->getOperand(0);
    llvm::Type *words = bytes->getType()->getWithNewType(builder.getInt32Ty());
    bool isSigned = llvm::isa<llvm::SIToFPInst>(cast);
    llvm::Value *wide = isSigned ? builder.CreateSExt(bytes, words) : builder.CreateZExt(bytes, words);
    cast->replaceAllUsesWith(builder.CreateSIToFP(wide, cast->getType()));
    cast->eraseFromParent();
  }
}

namespace {
struct AArch64Backend : CpuBackend {
  std::vector<std::string_view> tellingInstructions() const override {
    return {"sdot",  "udot",   "usdot", "sudot", "smmla", "ummla", "usmmla", "bfmmla",
            "bfdot", "bfmlal", "fmla",  "fmadd", "mla",   "smlal", "umlal",  "tbl"};
  }
  void initialiseLlvm() const override {
    LLVMInitializeAArch64TargetInfo();
    LLVMInitializeAArch64Target();
    LLVMInitializeAArch64TargetMC();
    LLVMInitializeAArch64AsmPrinter();
    LLVMInitializeAArch64AsmParser(); // for inline assembly
  }
  void prepare(llvm::Module &module) const override {
    convertBytesInSteps(module);
    scheduleProducts(module);
  }
};
} // namespace

const Backend &aarch64Backend() {
  static const AArch64Backend backend;
  return backend;
}

} // namespace bitloom
