// What differs between families of targets once the passes have run: LLVM's back end, the way from LLVM's IR to machine
// code, and loading it. One class a family, in its folder of lowering/targets/; lowering/targets/Backends.cpp lists
// them.
#pragma once

#include "bitloom/lowering/Executable.h"
#include "bitloom/lowering/codegen/Codegen.h"

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace llvm {
class Module;
} // namespace llvm

namespace mlir::LLVM {
class LLVMFuncOp;
} // namespace mlir::LLVM

namespace bitloom {

class Backend {
public:
  virtual ~Backend() = default;

  // Registers LLVM's back end; called once.
  virtual void initialiseLlvm() const = 0;
  // Rewrites the optimised module where LLVM's back end would not make the best of it.
  virtual void prepare(llvm::Module &) const {}
  // From the optimised module that holds `kernel`. UserError: the kernel asks for more than the target has.
  virtual MachineCode machineCode(Codegen &codegen, mlir::LLVM::LLVMFuncOp kernel, const Target &target) const = 0;
  // As Executable::load.
  virtual std::shared_ptr<Executable> load(const MachineCode &code, const Target &target) const = 0;

  // The beginnings of the names of the instructions that multiply and add, look up or copy many elements at once.
  virtual std::vector<std::string_view> tellingInstructions() const = 0;

  // Version of a program outside this library that has a part in the machine code.
  virtual std::string assemblerVersion() const { return ""; }
  // What changes where that may, known at once.
  virtual std::string assemblerStamp() const { return ""; }
  // Makes the device that loaded code belongs to current while it is held; null where there is only one, the host.
  virtual std::shared_ptr<void> enterDevice() const { return nullptr; }
};

const Backend &backendOf(Family family);

} // namespace bitloom
