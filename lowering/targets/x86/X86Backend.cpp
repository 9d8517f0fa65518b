#include "bitloom/lowering/codegen/CpuBackend.h"
#include "bitloom/lowering/targets/Backends.h"

#include "llvm/Support/TargetSelect.h"

namespace bitloom {

namespace {
struct X86Backend : CpuBackend {
  void initialiseLlvm() const override {
    LLVMInitializeX86TargetInfo();
    LLVMInitializeX86Target();
    LLVMInitializeX86TargetMC();
    LLVMInitializeX86AsmPrinter();
    LLVMInitializeX86AsmParser(); // for inline assembly
  }
};
} // namespace

const Backend &x86Backend() {
  static const X86Backend backend;
  return backend;
}

} // namespace bitloom
