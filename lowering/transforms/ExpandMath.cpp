#include "bitloom/lowering/Passes.h"

#include "bitloom/lib/target/Target.h"

#include "mlir/Conversion/MathToLibm/MathToLibm.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/Math/Transforms/Passes.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "mlir/Transforms/GreedyPatternRewriteDriver.h"

using namespace mlir;

namespace bitloom {

#define GEN_PASS_DEF_EXPANDMATH
#include "lowering/Passes.h.inc"

namespace {
struct ExpandMath : impl::ExpandMathBase<ExpandMath> {
  using ExpandMathBase::ExpandMathBase;

  void runOnOperation() override {
    RewritePatternSet patterns(&getContext());
    auto always = [](StringRef) { return true; };
    populateMathF32ExpansionPatterns(patterns, always, 2);
    populateMathPolynomialApproximationPatterns(patterns, always, 2);
    if (isCpu(parseTarget(target).family))
      populateMathToLibmConversionPatterns(patterns);
    if (failed(applyPatternsGreedily(getOperation(), std::move(patterns))))
      signalPassFailure();
  }
};
} // namespace
} // namespace bitloom
