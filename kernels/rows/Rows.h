// How rows of `cols` elements lie on a device, where a kernel would hold each as one tile and read it once.
#pragma once

namespace bitloom::kernels {

// Meta<int> cluster: blocks that hold a row together, 8192 elements each up to 64K, 16384 beyond. A block's share is
// small so that several are on a multiprocessor: one loads while another computes.
inline constexpr auto rowCluster =
    "max(1, (compute_capability >= 90) * (cols <= 131072) * min(8, next_pow2(cols) / 8192))";

// Meta<int> block, of the cluster above: the row, where it fits the registers of a GPU.
inline constexpr auto rowBlock = "min(round_up(cols, 128), 16384 * cluster)";

} // namespace bitloom::kernels
