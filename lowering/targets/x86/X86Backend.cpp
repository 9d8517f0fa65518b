#include "bitloom/lowering/codegen/CpuBackend.h"
#include "bitloom/lowering/targets/Backends.h"

#include "llvm/Support/TargetSelect.h"

namespace bitloom {

namespace {
struct X86Backend : CpuBackend {
  std::vector<std::string_view> tellingInstructions() const override {
    return {"vpdp", "vdpbf16", "vfmadd", "vfnmadd", "vpmaddubsw", "vpmaddwd", "vpmulld", "vperm", "vpshufb"};
  }
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
