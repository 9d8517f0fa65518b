#include "bitloom/lib/support/Error.h"
#include "bitloom/lib/target/Target.h"
#include "bitloom/lowering/Passes.h"

#include "mlir/Dialect/Arith/Transforms/Passes.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "mlir/Transforms/DialectConversion.h"
#include "mlir/Transforms/GreedyPatternRewriteDriver.h"

using namespace mlir;

namespace bitloom {

#define GEN_PASS_DEF_EXPANDFLOATS
#include "lowering/Passes.h.inc"

namespace {

Type withElement(Type type, Type element) {
  if (auto vector = dyn_cast<VectorType>(type))
    return vector.clone(element);
  return element;
}

// Any arithmetic of arith, math or vector on bf16: its operands are widened, it runs in f32, its results are rounded.
struct ComputeInF32 : RewritePattern {
  ComputeInF32(MLIRContext *context) : RewritePattern(MatchAnyOpTypeTag(), 1, context) {}

  LogicalResult matchAndRewrite(Operation *op, PatternRewriter &rewriter) const override {
    if (!computes(op))
      return failure();
    auto narrow = [](Type type) { return getElementTypeOrSelf(type).isBF16(); };
    if (!llvm::any_of(op->getOperandTypes(), narrow) && !llvm::any_of(op->getResultTypes(), narrow))
      return failure();

    SmallVector<Value> operands;
    for (Value operand : op->getOperands())
      operands.push_back(narrow(operand.getType())
                             ? arith::ExtFOp::create(rewriter, op->getLoc(),
                                                     withElement(operand.getType(), rewriter.getF32Type()), operand)
                             : operand);
    SmallVector<Type> types;
    for (Type type : op->getResultTypes())
      types.push_back(narrow(type) ? withElement(type, rewriter.getF32Type()) : type);
    OperationState state(op->getLoc(), op->getName().getStringRef(), operands, types, op->getAttrs());
    Operation *wide = rewriter.create(state);
    SmallVector<Value> results;
    for (auto [result, type] : llvm::zip(wide->getResults(), op->getResultTypes()))
      results.push_back(result.getType() == type ? Value(result)
                                                 : arith::TruncFOp::create(rewriter, op->getLoc(), type, result));
    rewriter.replaceOp(op, results);
    return success();
  }

  // Ops that merely move values keep their type.
  static bool computes(Operation *op) {
    if (isa<math::MathDialect>(op->getDialect()))
      return true;
    if (isa<vector::ReductionOp, vector::FMAOp, arith::SIToFPOp, arith::UIToFPOp, arith::FPToSIOp, arith::FPToUIOp>(op))
      return true;
    return isa<arith::AddFOp, arith::SubFOp, arith::MulFOp, arith::DivFOp, arith::RemFOp, arith::NegFOp, arith::CmpFOp,
               arith::MaximumFOp, arith::MinimumFOp, arith::MaxNumFOp, arith::MinNumFOp>(op);
  }
};

// Rounds to nearest even by adding half a unit of the last place that stays, less one where that place is even.
struct RoundInIntegers : OpRewritePattern<arith::TruncFOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(arith::TruncFOp op, PatternRewriter &rewriter) const override {
    if (!getElementTypeOrSelf(op.getType()).isBF16())
      return failure();
    Location loc = op.getLoc();
    Value source = op.getIn();
    if (!getElementTypeOrSelf(source.getType()).isF32())
      return failure();
    Type words = withElement(source.getType(), rewriter.getI32Type());
    Type halves = withElement(source.getType(), rewriter.getI16Type());
    auto constant = [&](Type type, int64_t value) -> Value {
      TypedAttr attribute = rewriter.getIntegerAttr(getElementTypeOrSelf(type), value);
      if (auto vector = dyn_cast<VectorType>(type))
        attribute = DenseElementsAttr::get(vector, cast<Attribute>(attribute));
      return arith::ConstantOp::create(rewriter, loc, attribute);
    };
    Value bits = arith::BitcastOp::create(rewriter, loc, words, source);
    Value upper = arith::ShRUIOp::create(rewriter, loc, bits, constant(words, 16));
    Value odd = arith::AndIOp::create(rewriter, loc, upper, constant(words, 1));
    Value bias = arith::AddIOp::create(rewriter, loc, odd, constant(words, 0x7fff));
    Value rounded = arith::AddIOp::create(rewriter, loc, bits, bias);
    rounded = arith::ShRUIOp::create(rewriter, loc, rounded, constant(words, 16));
    Value isNaN = arith::CmpFOp::create(rewriter, loc, arith::CmpFPredicate::UNO, source, source);
    // Quiet, with its sign and payload: rounding could carry a NaN over into an infinity or a zero.
    Value quiet = arith::OrIOp::create(rewriter, loc, upper, constant(words, 0x40));
    Value result = arith::SelectOp::create(rewriter, loc, isNaN, quiet, rounded);
    result = arith::TruncIOp::create(rewriter, loc, halves, result);
    rewriter.replaceOpWithNewOp<arith::BitcastOp>(op, op.getType(), result);
    return success();
  }
};

struct ExpandFloats : impl::ExpandFloatsBase<ExpandFloats> {
  using ExpandFloatsBase::ExpandFloatsBase;

  void runOnOperation() override {
    Target on;
    try {
      on = parseTarget(target.getValue());
    } catch (const UserError &error) {
      getOperation().emitError() << error.what();
      return signalPassFailure();
    }
    RewritePatternSet patterns(&getContext());
    patterns.add<ComputeInF32>(&getContext());
    if (!on.has("avx512bf16") && !on.has("bf16")) {
      // Ahead of upstream's, which forgets what NaN it was.
      patterns.add<RoundInIntegers>(&getContext(), 2);
      arith::populateExpandBFloat16Patterns(patterns);
    }
    if (failed(applyPatternsGreedily(getOperation(), std::move(patterns))))
      signalPassFailure();
  }
};
} // namespace
} // namespace bitloom
