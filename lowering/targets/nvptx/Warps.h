// How many warps compute a program, and whether groups of them take programs in turn.
#pragma once

#include "bitloom/lib/target/Target.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"

namespace bitloom::nvptx {

// Of a kernel without layouts, in each of so many blocks that hold its tiles together. Enough threads for 16 to 32
// elements each of the largest tile, and for coalesced access to a small one; where there are dots, as many as their
// instructions want.
int warpsFor(mlir::func::FuncOp kernel, const Target &target, int blocks = 1);

// How many blocks of a cluster hold the program's tiles together: what the hint tile.cluster asks for. 1, and the hint
// is gone, where the target has no clusters or a dot's operands must lie in one block's shared memory. UserError: a
// hint that is not 1, 2, 4 or 8.
int clusterFor(mlir::func::FuncOp kernel, const Target &target);

// Whether two warpgroups may take programs in turn, so that one stores its tile while the other has the tensor cores:
// the kernel is one loop that accumulates a dot of what the copy engine loads, as long in every program, and what
// follows needs no exchange between warps. The tile must do with one group's registers.
bool takesTurns(mlir::func::FuncOp kernel, const Target &target);

} // namespace bitloom::nvptx
