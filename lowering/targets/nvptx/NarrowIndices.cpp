// Masks in 32 bits: `iota + a < b` of i64, the usual test for what a tile's edge cuts off, becomes a comparison of a
// 32-bit iota with the number of elements before the edge, which is a scalar and the same for every thread.
#include "bitloom/lowering/targets/nvptx/Rewrites.h"

#include "bitloom/lowering/dialect/Tile.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"

using namespace mlir;
using namespace bitloom;

// The scalar that every element is; null when there is none.
static Value splatOf(OpBuilder &builder, Value tile) {
  if (auto splat = tile.getDefiningOp<tensor::SplatOp>())
    return splat.getInput();
  DenseElementsAttr values;
  if (auto constant = tile.getDefiningOp<arith::ConstantOp>())
    values = dyn_cast<DenseElementsAttr>(constant.getValue());
  if (!values || !values.isSplat())
    return {};
  return arith::ConstantOp::create(builder, tile.getLoc(), values.getSplatValue<TypedAttr>());
}

// iota, or iota plus a splat (`start`, null for none).
static bool isRange(OpBuilder &builder, Value tile, Value &start) {
  if (tile.getDefiningOp<tile::IotaOp>())
    return true;
  auto sum = tile.getDefiningOp<arith::AddIOp>();
  if (!sum)
    return false;
  for (auto [iota, other] : {std::pair(sum.getLhs(), sum.getRhs()), std::pair(sum.getRhs(), sum.getLhs())})
    if (iota.getDefiningOp<tile::IotaOp>() && (start = splatOf(builder, other)))
      return true;
  return false;
}

static void narrow(arith::CmpIOp compare) {
  auto type = dyn_cast<RankedTensorType>(compare.getLhs().getType());
  if (!type || type.getRank() != 1 || !type.getElementType().isInteger(64))
    return;
  OpBuilder b(compare);
  Location loc = compare.getLoc();
  // range < limit, or its negation.
  using arith::CmpIPredicate;
  bool isLess = compare.getPredicate() == CmpIPredicate::slt;
  if (!isLess && compare.getPredicate() != CmpIPredicate::sge)
    return;
  Value start, limit = splatOf(b, compare.getRhs());
  if (!limit || !isRange(b, compare.getLhs(), start))
    return;
  Value none = arith::ConstantOp::create(b, loc, b.getI64IntegerAttr(0));
  Value all = arith::ConstantOp::create(b, loc, b.getI64IntegerAttr(type.getDimSize(0)));
  Value before = limit;
  if (start) {
    before = arith::SubIOp::create(b, loc, limit, start);
    // Past 2^63 only where start is negative, and then the difference comes out below limit.
    Value negative = arith::CmpIOp::create(b, loc, CmpIPredicate::slt, start, none);
    Value wrapped = arith::CmpIOp::create(b, loc, CmpIPredicate::slt, before, limit);
    before = arith::SelectOp::create(b, loc, arith::AndIOp::create(b, loc, negative, wrapped), all, before);
    // And below -2^63 only where limit is negative and start is not.
    Value below = arith::CmpIOp::create(b, loc, CmpIPredicate::slt, limit, start);
    before = arith::SelectOp::create(b, loc, below, none, before);
  }
  before = arith::MinSIOp::create(b, loc, arith::MaxSIOp::create(b, loc, before, none), all);
  Value count = arith::TruncIOp::create(b, loc, b.getI32Type(), before);
  auto narrowType = RankedTensorType::get(type.getShape(), b.getI32Type());
  Value iota = tile::IotaOp::create(b, loc, narrowType);
  Value counts = tensor::SplatOp::create(b, loc, narrowType, count);
  auto predicate = isLess ? CmpIPredicate::slt : CmpIPredicate::sge;
  compare.replaceAllUsesWith(arith::CmpIOp::create(b, loc, predicate, iota, counts).getResult());
  compare.erase();
}

void nvptx::narrowIndices(Operation *kernel) {
  SmallVector<arith::CmpIOp> comparisons;
  kernel->walk([&](arith::CmpIOp compare) { comparisons.push_back(compare); });
  for (arith::CmpIOp compare : comparisons)
    narrow(compare);
}
