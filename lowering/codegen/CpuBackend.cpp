#include "bitloom/lowering/codegen/CpuBackend.h"

#include "bitloom/lib/runtime/Launch.h"
#include "bitloom/lib/support/Error.h"
#include "bitloom/lowering/codegen/Jit.h"

#include "mlir/Dialect/LLVMIR/LLVMDialect.h"

namespace bitloom {

namespace {
class CpuExecutable : public Executable {
public:
  explicit CpuExecutable(const MachineCode &code) : object(code.image, code.entry) {}
  void launch(std::span<const int64_t> words, std::array<int64_t, 3> grid, void *, int64_t grain) override {
    launchCpu(object.kernel(), words, grid, grain);
  }

private:
  LoadedObject object;
};
} // namespace

MachineCode CpuBackend::machineCode(Codegen &codegen, mlir::LLVM::LLVMFuncOp kernel, const Target &) const {
  MachineCode code;
  code.entry = kernel.getName().str();
  code.image = codegen.object();
  return code;
}

std::shared_ptr<Executable> CpuBackend::load(const MachineCode &code, const Target &target) const {
  if (!runsOnHost(target))
    throw UserError("expected code that this processor runs, " + hostTarget().name + " or weaker, got " + target.name);
  return std::make_shared<CpuExecutable>(code);
}

} // namespace bitloom
