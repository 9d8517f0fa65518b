// The operations of arith: on integers, floats, and between them.
#include "bitloom/lowering/Diagnostics.h"
#include "bitloom/lowering/interpreter/Elementwise.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/UB/IR/UBOps.h"

#include <cmath>

using namespace mlir;

namespace bitloom::interpreter {

//===- Constants --------------------------------------------------------------------------------------------------===//

static Cell cellOf(Attribute value) {
  Cell cell{};
  if (auto number = dyn_cast<FloatAttr>(value))
    cell.number = number.getValueAsDouble();
  else
    cell.bits = cast<IntegerAttr>(value).getValue().getZExtValue();
  return cell;
}

static void compileConstant(Compiler &compiler, Operation &op) {
  compiler.numberOf(op.getResult(0).getType());
  Attribute value = cast<arith::ConstantOp>(op).getValue();
  auto elements = dyn_cast<DenseElementsAttr>(value);
  if (!elements)
    return compiler.setConstant(op.getResult(0), {cellOf(value)});
  std::vector<Cell> cells;
  if (elements.isSplat())
    cells.assign(elements.getNumElements(), cellOf(elements.getSplatValue<Attribute>()));
  else
    for (Attribute element : elements.getValues<Attribute>())
      cells.push_back(cellOf(element));
  compiler.setConstant(op.getResult(0), std::move(cells));
}

static void compilePoison(Compiler &compiler, Operation &op) {
  Value result = op.getResult(0);
  compiler.setConstant(result, std::vector<Cell>(compiler.countOf(result).elements));
}

//===- Integers ---------------------------------------------------------------------------------------------------===//

// Division by zero is undefined in arith; here it stops the launch, at its line. The least number by -1 wraps.
template <class Op, class Fn> static void addDivision(Handlers &handlers, bool isSigned, Fn fn) {
  handlers[Op::getOperationName()] = [=](Compiler &compiler, Operation &op) {
    Number type = compiler.numberOf(op.getResult(0).getType());
    addLoop<2>(compiler, op, [=, where = sourceOf(op.getLoc())](const Cell *x, const Cell *y, Cell *to, int64_t n) {
      for (int64_t i = 0; i < n; ++i) {
        if (y[i].bits == 0)
          throw UserError(where, "expected a divisor other than zero, got zero");
        auto extend = [&](std::uint64_t bits) {
          return isSigned ? __int128(signExtend(bits, type.width)) : __int128(bits);
        };
        to[i].bits = std::uint64_t(fn(extend(x[i].bits), extend(y[i].bits))) & type.mask();
      }
    });
  };
}

static void addIntegers(Handlers &handlers) {
  using U = std::uint64_t;
  addUnsigned2<arith::AddIOp>(handlers, [](U x, U y, int) { return x + y; });
  addUnsigned2<arith::SubIOp>(handlers, [](U x, U y, int) { return x - y; });
  addUnsigned2<arith::MulIOp>(handlers, [](U x, U y, int) { return x * y; });
  addUnsigned2<arith::AndIOp>(handlers, [](U x, U y, int) { return x & y; });
  addUnsigned2<arith::OrIOp>(handlers, [](U x, U y, int) { return x | y; });
  addUnsigned2<arith::XOrIOp>(handlers, [](U x, U y, int) { return x ^ y; });
  addUnsigned2<arith::MaxUIOp>(handlers, [](U x, U y, int) { return std::max(x, y); });
  addUnsigned2<arith::MinUIOp>(handlers, [](U x, U y, int) { return std::min(x, y); });
  addSigned2<arith::MaxSIOp>(handlers, [](int64_t x, int64_t y) { return std::max(x, y); });
  addSigned2<arith::MinSIOp>(handlers, [](int64_t x, int64_t y) { return std::min(x, y); });
  // Shifts by the width or more are undefined in arith; here no bit is left but the sign's.
  addUnsigned2<arith::ShLIOp>(handlers, [](U x, U y, int width) { return y < U(width) ? x << y : 0; });
  addUnsigned2<arith::ShRUIOp>(handlers, [](U x, U y, int width) { return y < U(width) ? x >> y : 0; });
  addUnsigned2<arith::ShRSIOp>(
      handlers, [](U x, U y, int width) { return signExtend(x, width) >> std::min<U>(y, U(width) - 1); });

  using I = __int128;
  auto floorOf = [](I x, I y) { return x / y - (x % y != 0 && (x < 0) != (y < 0)); };
  auto ceilOf = [](I x, I y) { return x / y + (x % y != 0 && (x < 0) == (y < 0)); };
  addDivision<arith::DivSIOp>(handlers, true, [](I x, I y) { return x / y; });
  addDivision<arith::DivUIOp>(handlers, false, [](I x, I y) { return x / y; });
  addDivision<arith::RemSIOp>(handlers, true, [](I x, I y) { return x % y; });
  addDivision<arith::RemUIOp>(handlers, false, [](I x, I y) { return x % y; });
  addDivision<arith::FloorDivSIOp>(handlers, true, floorOf);
  addDivision<arith::CeilDivSIOp>(handlers, true, ceilOf);
  addDivision<arith::CeilDivUIOp>(handlers, false, ceilOf);
}

// Two results: the low half and the high half of the exact one.
template <class Op, class Fn> static void addExtended(Handlers &handlers, bool isSigned, Fn fn) {
  handlers[Op::getOperationName()] = [=](Compiler &compiler, Operation &op) {
    Slot x = compiler.slotOf(op.getOperand(0)), y = compiler.slotOf(op.getOperand(1));
    Slot low = compiler.define(op.getResult(0)), high = compiler.define(op.getResult(1));
    Number type = compiler.numberOf(op.getResult(0).getType()), highType = compiler.numberOf(op.getResult(1).getType());
    compiler.add([=, count = compiler.countOf(op.getResult(0))](Frame &frame) {
      auto extend = [&](Cell cell) {
        return isSigned ? __int128(signExtend(cell.bits, type.width)) : __int128(cell.bits);
      };
      for (int64_t i = 0, n = count.in(frame); i < n; ++i) {
        auto exact = static_cast<unsigned __int128>(fn(extend(frame.at(x)[i]), extend(frame.at(y)[i])));
        frame.at(low)[i].bits = std::uint64_t(exact) & type.mask();
        frame.at(high)[i].bits = std::uint64_t(exact >> type.width) & highType.mask();
      }
    });
  };
}

//===- Floats -----------------------------------------------------------------------------------------------------===//

static double maximum(double x, double y) { // NaNs propagate, and 0 is more than -0
  if (std::isnan(x) || std::isnan(y))
    return x + y;
  if (x == y)
    return std::signbit(x) ? y : x;
  return x > y ? x : y;
}
static double maximumNumber(double x, double y) { return std::isnan(x) ? y : std::isnan(y) ? x : maximum(x, y); }

static void addFloats(Handlers &handlers) {
  addFloat2<arith::AddFOp>(handlers, [](double x, double y) { return x + y; });
  addFloat2<arith::SubFOp>(handlers, [](double x, double y) { return x - y; });
  addFloat2<arith::MulFOp>(handlers, [](double x, double y) { return x * y; });
  addFloat2<arith::DivFOp>(handlers, [](double x, double y) { return x / y; });
  addFloat2<arith::RemFOp>(handlers, [](double x, double y) { return std::fmod(x, y); });
  addFloat2<arith::MaximumFOp>(handlers, maximum);
  addFloat2<arith::MinimumFOp>(handlers, [](double x, double y) { return -maximum(-x, -y); });
  addFloat2<arith::MaxNumFOp>(handlers, maximumNumber);
  addFloat2<arith::MinNumFOp>(handlers, [](double x, double y) { return -maximumNumber(-x, -y); });
  addFloat1<arith::NegFOp>(handlers, [](double x) { return -x; });
}

//===- Comparison and selection -----------------------------------------------------------------------------------===//

template <class Fn> static void addComparison(Compiler &compiler, Operation &op, Fn fn) {
  addLoop<2>(compiler, op, [fn](const Cell *x, const Cell *y, Cell *to, int64_t n) {
    for (int64_t i = 0; i < n; ++i)
      to[i].bits = fn(x[i], y[i]);
  });
}

static void compileCmpI(Compiler &compiler, Operation &op) {
  int width = compiler.numberOf(op.getOperand(0).getType()).width;
  auto compare = [&](auto fn) { addComparison(compiler, op, [fn](Cell x, Cell y) { return fn(x.bits, y.bits); }); };
  auto compareSigned = [&](auto fn) {
    addComparison(compiler, op,
                  [fn, width](Cell x, Cell y) { return fn(signExtend(x.bits, width), signExtend(y.bits, width)); });
  };
  switch (cast<arith::CmpIOp>(op).getPredicate()) {
  case arith::CmpIPredicate::eq:
    return compare(std::equal_to());
  case arith::CmpIPredicate::ne:
    return compare(std::not_equal_to());
  case arith::CmpIPredicate::slt:
    return compareSigned(std::less());
  case arith::CmpIPredicate::sle:
    return compareSigned(std::less_equal());
  case arith::CmpIPredicate::sgt:
    return compareSigned(std::greater());
  case arith::CmpIPredicate::sge:
    return compareSigned(std::greater_equal());
  case arith::CmpIPredicate::ult:
    return compare(std::less());
  case arith::CmpIPredicate::ule:
    return compare(std::less_equal());
  case arith::CmpIPredicate::ugt:
    return compare(std::greater());
  case arith::CmpIPredicate::uge:
    return compare(std::greater_equal());
  }
}

// An ordered predicate is false of a NaN, an unordered one true.
static void compileCmpF(Compiler &compiler, Operation &op) {
  auto compare = [&](bool ofNaN, auto fn) {
    addComparison(compiler, op, [fn, ofNaN](Cell x, Cell y) {
      return std::isunordered(x.number, y.number) ? ofNaN : fn(x.number, y.number);
    });
  };
  auto always = [](bool value) { return [value](double, double) { return value; }; };
  switch (cast<arith::CmpFOp>(op).getPredicate()) {
  case arith::CmpFPredicate::AlwaysFalse:
    return compare(false, always(false));
  case arith::CmpFPredicate::AlwaysTrue:
    return compare(true, always(true));
  case arith::CmpFPredicate::ORD:
    return compare(false, always(true));
  case arith::CmpFPredicate::UNO:
    return compare(true, always(false));
  case arith::CmpFPredicate::OEQ:
    return compare(false, std::equal_to());
  case arith::CmpFPredicate::UEQ:
    return compare(true, std::equal_to());
  case arith::CmpFPredicate::ONE:
    return compare(false, std::not_equal_to());
  case arith::CmpFPredicate::UNE:
    return compare(true, std::not_equal_to());
  case arith::CmpFPredicate::OLT:
    return compare(false, std::less());
  case arith::CmpFPredicate::ULT:
    return compare(true, std::less());
  case arith::CmpFPredicate::OLE:
    return compare(false, std::less_equal());
  case arith::CmpFPredicate::ULE:
    return compare(true, std::less_equal());
  case arith::CmpFPredicate::OGT:
    return compare(false, std::greater());
  case arith::CmpFPredicate::UGT:
    return compare(true, std::greater());
  case arith::CmpFPredicate::OGE:
    return compare(false, std::greater_equal());
  case arith::CmpFPredicate::UGE:
    return compare(true, std::greater_equal());
  }
}

static void compileSelect(Compiler &compiler, Operation &op) {
  bool perElement =
      isa<RankedTensorType>(op.getOperand(0).getType()) || !isa<RankedTensorType>(op.getOperand(1).getType());
  addLoop<3>(compiler, op, [perElement](const Cell *condition, const Cell *x, const Cell *y, Cell *to, int64_t n) {
    for (int64_t i = 0; i < n; ++i)
      to[i] = condition[perElement ? i : 0].bits ? x[i] : y[i];
  });
}

//===- Casts ------------------------------------------------------------------------------------------------------===//

// fn(Cell, Number from, Number to) → Cell
template <class Op, class Fn> static void addCast(Handlers &handlers, Fn fn) {
  handlers[Op::getOperationName()] = [fn](Compiler &compiler, Operation &op) {
    Number from = compiler.numberOf(op.getOperand(0).getType()), to = compiler.numberOf(op.getResult(0).getType());
    addLoop<1>(compiler, op, [=](const Cell *x, Cell *result, int64_t n) {
      for (int64_t i = 0; i < n; ++i)
        result[i] = fn(x[i], from, to);
    });
  };
}

static Cell ofBits(std::uint64_t bits) { return Cell{.bits = bits}; }
static Cell ofNumber(double number) { return Cell{.number = number}; }

static void compileTruncF(Compiler &compiler, Operation &op) {
  auto mode = Rounding(cast<arith::TruncFOp>(op).getRoundingmode().value_or(arith::RoundingMode::to_nearest_even));
  Number::Kind kind = compiler.roundingOf(op.getResult(0));
  addLoop<1>(compiler, op, [=](const Cell *x, Cell *to, int64_t n) {
    for (int64_t i = 0; i < n; ++i)
      to[i].number = rounded(x[i].number, kind, mode);
  });
}

static void addCasts(Handlers &handlers) {
  addCast<arith::ExtUIOp>(handlers, [](Cell x, Number, Number) { return x; });
  addCast<arith::ExtSIOp>(handlers, [](Cell x, Number from, Number to) {
    return ofBits(std::uint64_t(signExtend(x.bits, from.width)) & to.mask());
  });
  addCast<arith::TruncIOp>(handlers, [](Cell x, Number, Number to) { return ofBits(x.bits & to.mask()); });
  addCast<arith::IndexCastOp>(handlers, [](Cell x, Number from, Number to) {
    return ofBits(std::uint64_t(signExtend(x.bits, from.width)) & to.mask());
  });
  addCast<arith::IndexCastUIOp>(handlers, [](Cell x, Number, Number to) { return ofBits(x.bits & to.mask()); });
  addCast<arith::ExtFOp>(handlers, [](Cell x, Number, Number) { return x; });
  addCast<arith::SIToFPOp>(handlers, [](Cell x, Number from, Number to) {
    return ofNumber(fromSigned(signExtend(x.bits, from.width), to.kind));
  });
  addCast<arith::UIToFPOp>(handlers, [](Cell x, Number, Number to) { return ofNumber(fromUnsigned(x.bits, to.kind)); });
  addCast<arith::FPToSIOp>(handlers, [](Cell x, Number, Number to) { return ofBits(toSigned(x.number, to.width)); });
  addCast<arith::FPToUIOp>(handlers, [](Cell x, Number, Number to) { return ofBits(toUnsigned(x.number, to.width)); });
  addCast<arith::BitcastOp>(handlers, [](Cell x, Number from, Number to) {
    double number = std::isinf(x.number) ? x.number : rounded(x.number, from.kind); // of 8 bits, it would saturate
    std::uint64_t bits = from.isFloat() ? encode(number, from.kind) : x.bits;
    return to.isFloat() ? ofNumber(decode(bits, to.kind)) : ofBits(bits);
  });
  handlers[arith::TruncFOp::getOperationName()] = compileTruncF;
}

void addArithmetic(Handlers &handlers) {
  handlers[arith::ConstantOp::getOperationName()] = compileConstant;
  handlers[ub::PoisonOp::getOperationName()] = compilePoison;
  addIntegers(handlers);
  addExtended<arith::AddUIExtendedOp>(handlers, false, [](__int128 x, __int128 y) { return x + y; });
  addExtended<arith::MulUIExtendedOp>(handlers, false, [](unsigned __int128 x, unsigned __int128 y) { return x * y; });
  addExtended<arith::MulSIExtendedOp>(handlers, true, [](__int128 x, __int128 y) { return x * y; });
  addFloats(handlers);
  handlers[arith::CmpIOp::getOperationName()] = compileCmpI;
  handlers[arith::CmpFOp::getOperationName()] = compileCmpF;
  handlers[arith::SelectOp::getOperationName()] = compileSelect;
  addCasts(handlers);
}

} // namespace bitloom::interpreter
