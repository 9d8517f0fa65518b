// What was chosen on the way to machine code, and why: for people who ask which kernel runs.
#pragma once

#include "bitloom/lowering/Pipeline.h"

#include "llvm/ADT/STLFunctionalExtras.h"
#include "llvm/ADT/StringRef.h"

#include <string>
#include <utility>
#include <vector>

namespace mlir {
class Location;
class Operation;
} // namespace mlir

namespace bitloom {

struct Explanation {
  std::vector<std::string> choices; // "MatMul.cpp:31: …", in the order in which they were made
  // Those that multiply and add, look up or copy many elements at once, by how often the code has them (not how often
  // they run): "vfmadd231ps zmm", "sdot", "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16".
  std::vector<std::pair<std::string, int>> instructions;
  std::string assembly;
};
// Lowers the program anew. Throws as emit does.
Explanation explain(const Program &program, const Target &target);

// Of a text of assembly, as above.
std::vector<std::pair<std::string, int>> tellingInstructions(llvm::StringRef assembly, Family family);

// For lowerings: says what was chosen for `op`, when someone asks; otherwise `choice` is not called. Or for something
// within it, at a location of its own.
void explainChoice(mlir::Operation *op, llvm::function_ref<std::string()> choice);
void explainChoice(mlir::Operation *op, mlir::Location where, llvm::function_ref<std::string()> choice);

} // namespace bitloom
