#include "bitloom/lib/support/Error.h"
#include "bitloom/lib/target/Target.h"
#include "bitloom/lowering/Passes.h"
#include "bitloom/lowering/transforms/Float8.h"

#include "mlir/Dialect/Arith/Transforms/Passes.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "mlir/IR/AttrTypeSubElements.h"
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

bool isFloat8In(Type type) { return isFloat8(getElementTypeOrSelf(type)); }

// Any arithmetic of arith, math or vector on bf16 or 8-bit floats: its operands are widened, it runs in f32, its
// results are rounded.
struct ComputeInF32 : RewritePattern {
  ComputeInF32(MLIRContext *context) : RewritePattern(MatchAnyOpTypeTag(), 1, context) {}

  LogicalResult matchAndRewrite(Operation *op, PatternRewriter &rewriter) const override {
    if (!computes(op))
      return failure();
    auto narrow = [](Type type) { return getElementTypeOrSelf(type).isBF16() || isFloat8In(type); };
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

// To and from 8-bit floats, by way of f32; from f64, which that would round twice, there is no conversion.
struct WidenFloat8 : OpRewritePattern<arith::ExtFOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(arith::ExtFOp op, PatternRewriter &rewriter) const override {
    Type format = getElementTypeOrSelf(op.getIn().getType()), to = getElementTypeOrSelf(op.getType());
    if (!isFloat8(format))
      return failure();
    Location loc = op.getLoc();
    Value code = arith::BitcastOp::create(rewriter, loc, withElement(op.getType(), rewriter.getI8Type()), op.getIn());
    Value wide = widenFloat8(rewriter, loc, code, format);
    if (to.getIntOrFloatBitWidth() < 32)
      wide = arith::TruncFOp::create(rewriter, loc, op.getType(), wide); // exact
    if (to.getIntOrFloatBitWidth() > 32)
      wide = arith::ExtFOp::create(rewriter, loc, op.getType(), wide);
    rewriter.replaceOp(op, wide);
    return success();
  }
};

struct NarrowToFloat8 : OpRewritePattern<arith::TruncFOp> {
  using OpRewritePattern::OpRewritePattern;

  LogicalResult matchAndRewrite(arith::TruncFOp op, PatternRewriter &rewriter) const override {
    Type format = getElementTypeOrSelf(op.getType()), from = getElementTypeOrSelf(op.getIn().getType());
    if (!isFloat8(format) || from.getIntOrFloatBitWidth() > 32)
      return failure();
    Location loc = op.getLoc();
    Value source = op.getIn();
    if (!from.isF32())
      source = arith::ExtFOp::create(rewriter, loc, withElement(op.getType(), rewriter.getF32Type()), source);
    Value code = narrowToFloat8(rewriter, loc, source, format);
    rewriter.replaceOpWithNewOp<arith::BitcastOp>(op, op.getType(), code);
    return success();
  }
};

// Once nothing computes on 8-bit floats any more: LLVM has none, their bits are moved as i8.
void eraseFloat8(ModuleOp module) {
  Type byte = IntegerType::get(module.getContext(), 8);
  AttrTypeReplacer replacer;
  replacer.addReplacement([&](FloatType type) { return isFloat8(type) ? std::optional(byte) : std::nullopt; });
  replacer.addReplacement([&](FloatAttr value) -> std::optional<Attribute> {
    if (!isFloat8(value.getType()))
      return std::nullopt;
    return IntegerAttr::get(byte, value.getValue().bitcastToAPInt());
  });
  replacer.addReplacement([&](DenseElementsAttr values) -> std::optional<Attribute> {
    if (!isFloat8(values.getElementType()))
      return std::nullopt;
    return values.bitcast(byte);
  });
  replacer.recursivelyReplaceElementsIn(module, /*replaceAttrs=*/true, /*replaceLocs=*/false, /*replaceTypes=*/true);
  module.walk([](arith::BitcastOp op) {
    if (op.getIn().getType() != op.getType())
      return;
    op.replaceAllUsesWith(op.getIn());
    op.erase();
  });
}

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
    bool hasFloat8 = false;
    auto walked = getOperation().walk([&](Operation *op) {
      hasFloat8 |= llvm::any_of(op->getResultTypes(), isFloat8In);
      if (!isa<arith::TruncFOp>(op) || !isFloat8In(op->getResult(0).getType()) ||
          !getElementTypeOrSelf(op->getOperand(0).getType()).isF64())
        return WalkResult::advance();
      op->emitOpError() << "expected f32, f16 or bf16 to convert to " << op->getResult(0).getType() << ", got f64";
      return WalkResult::interrupt();
    });
    if (walked.wasInterrupted())
      return signalPassFailure();
    if (hasFloat8)
      patterns.add<WidenFloat8, NarrowToFloat8>(&getContext(), 3); // they use the conversions of bf16 below
    if (!on.has("avx512bf16") && !on.has("bf16")) {
      // Ahead of upstream's, which forgets what NaN it was.
      patterns.add<RoundInIntegers>(&getContext(), 2);
      arith::populateExpandBFloat16Patterns(patterns);
    }
    if (failed(applyPatternsGreedily(getOperation(), std::move(patterns))))
      return signalPassFailure();
    if (hasFloat8)
      eraseFloat8(getOperation());
  }
};
} // namespace
} // namespace bitloom
