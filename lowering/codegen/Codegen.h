// From MLIR's LLVM dialects to machine code, by LLVM. Passes over MLIR are in Pipeline.cpp.
#pragma once

#include "bitloom/lib/target/Target.h"

#include <memory>
#include <stdexcept>
#include <string>

namespace mlir {
class ModuleOp;
} // namespace mlir

namespace bitloom {

// Of a function whose instructions a back end has put into order (Backend::prepare): LLVM's scheduler is left out of
// registers' allocation for its module.
constexpr const char *scheduledAttribute = "bitloom-scheduled";

// LLVM refused the module; what() holds all it said.
class CodegenError : public std::runtime_error {
public:
  using std::runtime_error::runtime_error;
};

// One module on its way through LLVM. Every method throws CodegenError for what LLVM cannot translate or select, and
// UserError for inline assembly that the assembler refuses.
class Codegen {
public:
  // Translates the llvm, nvvm, arm_neon and arm_sve dialects.
  Codegen(mlir::ModuleOp module, const Target &target);
  ~Codegen();
  Codegen(const Codegen &) = delete;
  Codegen &operator=(const Codegen &) = delete;

  void optimise();
  std::string text() const; // LLVM IR
  // Each rewrites the module on the way: call one of them, once, last.
  std::string assembly(); // PTX on Nvptx
  std::string object();   // of a CPU target: a relocatable ELF file

private:
  struct Impl;
  std::unique_ptr<Impl> impl;
};

} // namespace bitloom
