// Fuses tiles into loops over native vectors.
//
// A kernel in tile IR is a list of operations on whole tiles. Most of them are pure functions of an index space, and
// get no loop of their own: the operations that need a tile in full (stores, reductions, products, loop-carried values)
// walk an index space in chunks of a native vector and evaluate their operands chunk by chunk, down to the loads. So
// `out = x * rsqrt(mean(x^2)) * w` is two loops over a row, which stays in the first cache between them.
//
//   loops/Fusion      what is evaluated at its uses, and what is computed once and kept in memory
//   loops/Emitter     where an operation is written: in the outermost loop that knows its operands
//   loops/KernelLowering   the kernel's function and loop over programs; then a file for each kind of operation:
//     Evaluate          a chunk of a tile                      Kept     tiles in memory
//     Nest              loops, with masks only at the edges    Access   views
//     Reduce, Scan, Dot, Packed, Control
//
// Chunks are in bounds nearly always. The innermost loop is therefore written twice, for the part of its range in which
// every access is in bounds and for the rest, with masks.
#include "bitloom/lib/support/Error.h"
#include "bitloom/lowering/Passes.h"
#include "bitloom/lowering/transforms/loops/KernelLowering.h"

namespace bitloom {
#define GEN_PASS_DEF_TILETOLOOPS
#include "lowering/Passes.h.inc"

using namespace mlir;

namespace {

struct TileToLoops : impl::TileToLoopsBase<TileToLoops> {
  using TileToLoopsBase::TileToLoopsBase;

  void runOnOperation() override {
    Target parsed;
    try {
      parsed = parseTarget(target.getValue());
    } catch (const UserError &error) {
      getOperation().emitError() << error.what();
      return signalPassFailure();
    }
    if (!isCpu(parsed.family)) {
      getOperation().emitError() << "expected a CPU target, got " << parsed.name;
      return signalPassFailure();
    }
    for (auto kernel : llvm::make_early_inc_range(getOperation().getOps<func::FuncOp>())) {
      if (!kernel->hasAttr(tile::kernelAttr))
        continue;
      try {
        loops::KernelLowering(kernel, parsed).run();
      } catch (const loops::Unsupported &failure) {
        failure.op->emitError() << "tile-to-loops cannot lower " << failure.what;
        return signalPassFailure();
      }
      kernel.erase();
    }
  }
};

} // namespace
} // namespace bitloom
