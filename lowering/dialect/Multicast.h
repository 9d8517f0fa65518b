// The attributes by which blocks of a cluster share what they load.
//
// The blocks of a cluster then run neighbouring programs, each its own, side by side along one axis of the grid. A tile
// that all of them need, since where it lies does not depend on that axis, is loaded once: each block copies a part of
// it into the shared memory of all.
#pragma once

#include "llvm/ADT/StringRef.h"

namespace bitloom::tile {

inline constexpr llvm::StringLiteral multicastAttr =
    "tile.multicast"; // i32, on the function: blocks that may load together what they have in common; a hint
inline constexpr llvm::StringLiteral clusterAxisAttr =
    "tile.cluster_axis"; // i32, on the function: the axis along which the tile.cluster blocks of a cluster run
                         // neighbouring programs, of which the last may not exist; absent: they run a program together
inline constexpr llvm::StringLiteral inPartsAttr =
    "tile.in_parts"; // unit, on a tile.load of a tile.fill: each block of the cluster copies a part of it for all

} // namespace bitloom::tile
