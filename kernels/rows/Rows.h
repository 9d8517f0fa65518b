// How rows of `cols` elements lie on a device, where a kernel would hold each as one tile and read it once.
#pragma once

namespace bitloom::kernels {

// Meta<int> cluster: blocks that hold a row together, 8192 elements each up to 64K, 16384 beyond. A block's share is
// small so that several are on a multiprocessor: one loads while another computes.
inline constexpr auto rowCluster =
    "max(1, (compute_capability >= 90) * (cols <= 131072) * min(8, next_pow2(cols) / 8192))";

// Meta<int> block, of the cluster above: the row, where it fits the registers of a GPU.
inline constexpr auto rowBlock = "min(round_up(cols, 128), 16384 * cluster)";

// The same of gradients that are summed over rows, each program taking many one after the other and keeping its own
// sums: in a GPU's registers these take as much as a row's values, 8192 elements a block; two blocks up to 16384. As
// many programs as there are multiprocessors for, after `block_rows`.
inline constexpr auto gradientCluster = "1 + (compute_capability >= 90) * (cols > 8192) * (cols <= 16384)";
inline constexpr auto gradientBlock =
    "min(round_up(cols, 128), 16384 - 8192 * (compute_capability > 0) * (cluster == 1))";
inline constexpr auto gradientPrograms = "max(1, min(ceil_div(rows, block_rows), max(multiprocessors, 64) * "
                                         "max(1, 8192 * cluster / next_pow2(block * block_rows)) / cluster))";

} // namespace bitloom::kernels
