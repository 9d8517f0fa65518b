// How groups of `depth` channels of `space` elements lie on a device, where a kernel would hold each as one tile.
#pragma once

#include "bitloom/dsl/Kernel.h"

namespace bitloom::kernels {

// Meta<int> cluster: blocks that hold a group together, 8192 elements each, where it has at most 64K.
inline constexpr auto groupCluster =
    "max(1, (compute_capability >= 90) * (next_pow2(depth) * next_pow2(space) <= 65536) * next_pow2(depth) * "
    "next_pow2(space) / 8192)";

// Meta<int> block and block_depth, of the cluster above: the group if it fits, else 2048 elements of it.
inline constexpr auto groupBlock =
    "min(next_pow2(space), 2048 + 63488 * (next_pow2(depth) * next_pow2(space) <= 8192 * cluster))";
inline constexpr auto groupDepth = "min(next_pow2(depth), max(2048, 8192 * cluster * (next_pow2(depth) * "
                                   "next_pow2(space) <= 8192 * cluster)) / block)";

} // namespace bitloom::kernels
