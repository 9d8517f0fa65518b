// What all CPUs have in common: machine code is an object file, linked into this process.
#pragma once

#include "bitloom/lowering/Backend.h"

namespace bitloom {

class CpuBackend : public Backend {
public:
  MachineCode machineCode(Codegen &codegen, mlir::LLVM::LLVMFuncOp kernel, const Target &target) const override;
  std::shared_ptr<Executable> load(const MachineCode &code, const Target &target) const override;
};

} // namespace bitloom
