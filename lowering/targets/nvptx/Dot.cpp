// Matrix products on the general-purpose cores: both operands lie in shared memory, and every thread computes the
// elements of the result that it holds, a row of a and a column of b at a time, in the order of k.
#include "bitloom/lowering/targets/nvptx/Emitter.h"
#include "bitloom/lowering/targets/nvptx/Mma.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "llvm/Support/MathExtras.h"

#include <map>

using namespace mlir;
using namespace bitloom;
using namespace bitloom::nvptx;

static FailureOr<Value> asAccumulator(Emitter &e, tile::DotOp dot, Value value, Type type, Type accumulator,
                                      bool isUnsigned) {
  OpBuilder &b = e.builder;
  if (isFloat8(type)) {
    value = widenFloat8(e, {value}, type, b.getF32Type())[0];
    type = b.getF32Type();
    if (accumulator.getIntOrFloatBitWidth() < 32) // exact
      return arith::TruncFOp::create(b, e.loc, accumulator, value).getResult();
  }
  unsigned from = type.getIntOrFloatBitWidth(), to = accumulator.getIntOrFloatBitWidth();
  if (type == accumulator)
    return value;
  if (from < to) {
    if (isa<FloatType>(type))
      return arith::ExtFOp::create(b, e.loc, accumulator, value).getResult();
    if (isUnsigned || type.isInteger(1))
      return arith::ExtUIOp::create(b, e.loc, accumulator, value).getResult();
    return arith::ExtSIOp::create(b, e.loc, accumulator, value).getResult();
  }
  if (from > to && isa<IntegerType>(type))
    return arith::TruncIOp::create(b, e.loc, accumulator, value).getResult();
  return dot.emitOpError() << "expected an accumulator at least as wide as the operands, got " << type << " and "
                           << accumulator;
}

LogicalResult nvptx::lower(Emitter &e, tile::DotOp dot) {
  if (isShared(dot.getA().getType()) || isShared(dot.getB().getType()))
    return planWgmma(dot, e.target, e.warps()) ? lowerWgmma(e, dot) : lowerMma(e, dot);
  OpBuilder &b = e.builder;
  RankedTensorType a = dot.getA().getType(), rhs = dot.getB().getType(), acc = dot.getAcc().getType();
  Type accumulator = acc.getElementType();
  const LinearLayout &layout = e.layout(acc);
  int64_t depth = a.getDimSize(1), columns = rhs.getDimSize(1);

  int64_t aBytes = llvm::alignTo(a.getNumElements() * bytesOf(a.getElementType()), 16);
  Value base = e.scratch(aBytes + rhs.getNumElements() * bytesOf(rhs.getElementType()));
  Value bBase = e.sharedAddress(base, e.i32(aBytes), b.getI8Type());
  storeShared(e, e.get(dot.getA()), e.layout(a), a.getShape(), base);
  storeShared(e, e.get(dot.getB()), e.layout(rhs), rhs.getShape(), bBase);
  e.barrier();

  // The distinct rows and columns among the thread's registers; padding computes some element in reach.
  const std::vector<LinearLayout::Vector> &own = e.registerCoordinates(layout);
  std::map<int32_t, Value> rows, cols; // by the register's coordinate: index of the row's or column's first element
  SmallVector<int> live;
  for (int r = 0; r < layout.inSize(reg); ++r) {
    if (e.isDead(layout, acc.getShape(), r))
      continue;
    live.push_back(r);
    for (int d : {0, 1}) {
      Value &index = (d ? cols : rows)[own[r][d]];
      if (index)
        continue;
      index = e.coordinate(layout, d, r);
      if (!e.isInside(own[r][d], e.threadBits(layout, d), acc.getDimSize(d)))
        index = arith::MinUIOp::create(b, e.loc, index, e.i32(acc.getDimSize(d) - 1));
      if (d == 0)
        index = arith::MulIOp::create(b, e.loc, index, e.i32(depth));
    }
  }
  const Registers &initial = e.get(dot.getAcc());
  SmallVector<Value> sums;
  for (int r : live)
    sums.push_back(initial[r]);
  auto loop = scf::ForOp::create(b, e.loc, e.i32(0), e.i32(depth), e.i32(1), sums);
  {
    OpBuilder::InsertionGuard guard(b);
    Block &body = *loop.getBody();
    if (!body.empty())
      body.back().erase();
    b.setInsertionPointToEnd(&body);
    Value k = loop.getInductionVar(), rowOfB = arith::MulIOp::create(b, e.loc, k, e.i32(columns));
    std::map<int32_t, Value> left, right;
    auto load = [&](std::map<int32_t, Value> &values, const std::map<int32_t, Value> &places, Value offset, Value from,
                    Type element, bool isUnsigned) -> LogicalResult {
      for (auto &[coordinate, place] : places) {
        Value at = arith::AddIOp::create(b, e.loc, place, offset);
        FailureOr<Value> value = asAccumulator(e, dot, e.sharedLoad(e.sharedAddress(from, at, element), element),
                                               element, accumulator, isUnsigned);
        if (failed(value))
          return failure();
        values[coordinate] = *value;
      }
      return success();
    };
    if (failed(load(left, rows, k, base, a.getElementType(), dot.getUnsignedA())) ||
        failed(load(right, cols, rowOfB, bBase, rhs.getElementType(), dot.getUnsignedB())))
      return failure();
    SmallVector<Value> next;
    for (auto [i, r] : llvm::enumerate(live)) {
      Value x = left.at(own[r][0]), y = right.at(own[r][1]), sum = loop.getRegionIterArg(i);
      if (isa<FloatType>(accumulator))
        next.push_back(LLVM::FMAOp::create(b, e.loc, accumulator, x, y, sum));
      else
        next.push_back(arith::AddIOp::create(b, e.loc, sum, arith::MulIOp::create(b, e.loc, x, y)));
    }
    scf::YieldOp::create(b, e.loc, next);
  }
  Registers result(layout.inSize(reg), Value());
  for (auto [i, r] : llvm::enumerate(live))
    result[r] = loop.getResult(i);
  for (Value &value : result)
    if (!value)
      value = e.zero(accumulator);
  e.put(dot, result);
  return success();
}
