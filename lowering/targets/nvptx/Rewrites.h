// What is rewritten in a kernel's IR for the sake of GPUs, besides the lowering itself.
#pragma once

#include "bitloom/lib/layout/LinearLayout.h"
#include "bitloom/lowering/dialect/Tile.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "llvm/ADT/SetVector.h"

#include <optional>

namespace bitloom {
struct Target;
}

namespace bitloom::nvptx {

// Before layouts: comparisons of i64 ranges with a scalar, the masks of edges, in 32 bits.
void narrowIndices(mlir::Operation *kernel);
// With layouts: moves loads to where they can wait together. threads: of the block.
void hoistLoads(mlir::Operation *kernel, int threads);
// With layouts: loads for products ahead of the steps of their loop. Several, by asynchronous copies to a ring in
// shared memory that all threads fill, where that may be; else, for mma.sync, one step, by way of registers.
void pipelineLoads(mlir::func::FuncOp kernel, const Target &target, int warps);
void prefetchLoads(mlir::Operation *kernel, const Target &target, int warps);
// With layouts, in kernels without dots: what loops load into registers, several steps ahead, each thread its own words
// by way of shared memory. threads: of the block.
void loadAhead(mlir::func::FuncOp kernel, const Target &target, int threads);
// The bytes of the thread's own elements of such a tile that one copy brings: 16, or less of small tiles.
int64_t ownChunk(mlir::RankedTensorType type, const LinearLayout &layout);
// Of a tile.front: gives the tiles of the last one of its ring once more.
inline constexpr llvm::StringLiteral againAttr = "tile.again";
// With layouts: reductions along the same axis of tiles of one layout, neither of which needs the other, become one, so
// that threads meet once for all.
void mergeReductions(mlir::func::FuncOp kernel);
// What `value` needs of the loop's body, in order, into `slice`; false where that is more than the induction variable
// and scalars computed from it.
bool collectScalars(mlir::Value value, mlir::scf::ForOp loop, llvm::SetVector<mlir::Operation *> &slice);
// Whether the scalar is known to be a multiple of `by`, a power of two.
bool isMultiple(mlir::Value value, int64_t by);
// With layouts, in kernels with roles: stores of accumulators to which loaded tiles are added, and the like, in pieces
// that the copy engine writes one by one. What is loaded for one is there beside the accumulators, not all of it.
void cutStores(mlir::func::FuncOp kernel, int warps);
// An upper bound of what the threads exchange through shared memory: the operands that they put there for dots, each in
// its place, and the largest of the rest, which take turns.
int64_t exchangedBytes(mlir::func::FuncOp kernel);

// How the threads share the asynchronous copies of a load whose result is to lie in shared memory: which of its
// elements a thread copies, `chunk` contiguous ones (4, 8 or 16 bytes) an instruction.
struct CopyPlan {
  LinearLayout layout; // (register, lane, warp) → elements
  int64_t chunk;
};
// None where the elements' places or the alignment of the view's rows do not allow it.
std::optional<CopyPlan> planCopies(tile::LoadOp load, mlir::RankedTensorType shared, int warps);

} // namespace bitloom::nvptx
