#include "bitloom/lowering/codegen/CpuBackend.h"
#include "bitloom/lowering/targets/Backends.h"

#include "llvm/Support/TargetSelect.h"

namespace bitloom {

namespace {
struct AArch64Backend : CpuBackend {
  void initialiseLlvm() const override {
    LLVMInitializeAArch64TargetInfo();
    LLVMInitializeAArch64Target();
    LLVMInitializeAArch64TargetMC();
    LLVMInitializeAArch64AsmPrinter();
    LLVMInitializeAArch64AsmParser(); // for inline assembly
  }
};
} // namespace

const Backend &aarch64Backend() {
  static const AArch64Backend backend;
  return backend;
}

} // namespace bitloom
