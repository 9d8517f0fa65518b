// From tile IR to machine code. Pipeline.cpp is the one place that orders passes, on one page.
#pragma once

#include "bitloom/lib/runtime/Ptxas.h"
#include "bitloom/lib/runtime/TensorMap.h"
#include "bitloom/lib/support/Error.h"
#include "bitloom/lib/target/Target.h"
#include "bitloom/lowering/Program.h"

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace bitloom {

// The stages that can be printed, saved and resumed from, in order.
enum class Stage {
  Tile,     // tile IR, canonical
  Layout,   // loops over native vectors (CPU), or tiles with a layout each (GPU)
  Llvm,     // LLVM IR, optimised
  Assembly, // the target's assembly; PTX on a GPU
  Machine,  // an object file, or a cubin
};
std::optional<Stage> stageNamed(std::string_view name); // tile, layout, llvm, asm, machine

// The text of `program` after `stage` (not Machine) for `target`.
// Throws UserError for what the target cannot run, and InternalError, with a reproducer saved, when a pass fails.
std::string emit(const Program &program, const Target &target, Stage stage);

// What a line of the kernel takes of a resource.
struct ResourceCost {
  SourceLocation where; // unknown in a program without locations
  std::string what;     // "the tile [128, 64] of f32"
  int64_t amount = 0;
};

// What runs: an object file with `void entry(const int64_t *args, const int64_t grid[3], int64_t begin, int64_t end)`
// on a CPU; on a GPU a cubin, or PTX when there is no ptxas, with a kernel of one 64-bit parameter a word.
struct MachineCode {
  std::string entry;
  std::string image;         // bytes of the object, cubin or PTX
  int threadsPerProgram = 1; // GPU: the block's extent along x
  int sharedBytes = 0;       // GPU: dynamic shared memory a block
  bool isPersistent = false; // GPU: blocks go through the programs by themselves; the grid's extents follow the words
  int blocksPerProgram = 1;  // GPU: a cluster
  int workspaceBytes = 0;    // GPU: a block's part of a workspace, whose address follows the grid's extents; 0: none
  std::vector<TensorMapRequest> tensorMaps{};              // GPU: of the last parameters
  std::optional<KernelResources> resources = std::nullopt; // GPU: registers and spills, where ptxas made a cubin

  // GPU, and not kept on disk: the tiles that are live together where these take the most registers a thread (an
  // estimate), and what takes the shared memory of a block, both with the largest first; the slots of the rings that
  // loads go through, 0 where there are none, and how many were asked for (0: as many as fit).
  std::vector<ResourceCost> registerCosts{}, sharedCosts{};
  int stages = 0, stagesWanted = 0;

  // For the disk cache.
  std::string serialize() const;
  static std::optional<MachineCode> deserialize(std::string_view bytes);
};
MachineCode compile(const Program &program, const Target &target);

// Of code that keeps values in memory for want of registers: what was needed, the line that costs most, what to change.
// None where nothing spills, or there was no ptxas to say so.
std::optional<UserError> spillError(const MachineCode &code, const Target &target);

// Runs again what an InternalError saved, checking the IR after every pass. UserError: `file` is no reproducer.
struct Replay {
  bool passes;
  std::string report; // what came of it
};
Replay replay(const std::string &file);

} // namespace bitloom
