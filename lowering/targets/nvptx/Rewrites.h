// What is rewritten in a kernel's IR for the sake of GPUs, besides the lowering itself.
#pragma once

namespace mlir {
class Operation;
}

namespace bitloom {
struct Target;
}

namespace bitloom::nvptx {

// Before layouts: comparisons of i64 ranges with a scalar, the masks of edges, in 32 bits.
void narrowIndices(mlir::Operation *kernel);
// With layouts: moves loads to where they can wait together. threads: of the block.
void hoistLoads(mlir::Operation *kernel, int threads);
// With layouts: loads for products by mma.sync a step of their loop ahead.
void prefetchLoads(mlir::Operation *kernel, const Target &target, int warps);

} // namespace bitloom::nvptx
