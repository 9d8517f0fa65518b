// Blocks of a cluster that load together what their programs have in common.
#pragma once

#include "bitloom/lowering/targets/nvptx/Mma.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"

#include <optional>

namespace bitloom::nvptx {

// On the hint tile.multicast, of a kernel whose warps have roles and one loop that loads, with a fill a step: chooses
// the axis along which a cluster's programs lie and marks the loads that they share (lowering/dialect/Multicast.h).
// What follows the loop is for programs that exist. Nothing changes where it does not apply.
void multicastLoads(mlir::func::FuncOp kernel);

// What one of the cluster's blocks copies of a tile: some of its boxes, or in each of them some of the lines.
struct CopyPart {
  int64_t boxes, lines;
  bool operator==(const CopyPart &) const = default;
};
// Parts begin where the swizzle's period of eight lines does. None where the tile cannot be cut so.
std::optional<CopyPart> partFor(const SharedForm &form, int blocks);
// Of a load in a tile.fill: all of the tile unless blocks share it.
CopyPart partOf(tile::LoadOp load, const SharedForm &form, int blocks);

// The axis along which the blocks of a cluster run neighbouring programs; none where they share no loads.
std::optional<int> clusterAxis(mlir::Operation *inKernel);

} // namespace bitloom::nvptx
