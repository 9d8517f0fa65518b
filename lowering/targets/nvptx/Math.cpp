// Mathematical functions of scalars. PTX has a few in hardware; exp, sin and cos are built on those or on polynomials
// here; the rest are MLIR's polynomial approximations of f32. f16 and bf16 are computed in f32.
#include "bitloom/lowering/targets/nvptx/Emitter.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Arith/Transforms/Passes.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/Math/Transforms/Passes.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Transforms/GreedyPatternRewriteDriver.h"
#include "llvm/ADT/MapVector.h"
#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;
using namespace bitloom;
using namespace bitloom::nvptx;

namespace {

// Straight-line float arithmetic.
class Arithmetic {
public:
  Arithmetic(OpBuilder &b, Location loc, FloatType type) : b(b), loc(loc), type(type) {}

  Value number(double value) { return arith::ConstantOp::create(b, loc, b.getFloatAttr(type, value)); }
  Value integer(Type of, int64_t value) { return arith::ConstantOp::create(b, loc, b.getIntegerAttr(of, value)); }
  Value mul(Value x, Value y) { return arith::MulFOp::create(b, loc, x, y); }
  Value add(Value x, Value y) { return arith::AddFOp::create(b, loc, x, y); }
  Value sub(Value x, Value y) { return arith::SubFOp::create(b, loc, x, y); }
  Value neg(Value x) { return arith::NegFOp::create(b, loc, x); }
  Value fma(Value x, Value y, Value z) { return LLVM::FMAOp::create(b, loc, x, y, z); }
  Value abs(Value x) { return LLVM::FAbsOp::create(b, loc, x.getType(), x); }
  Value less(Value x, Value y) { return arith::CmpFOp::create(b, loc, arith::CmpFPredicate::OLT, x, y); }
  Value select(Value c, Value x, Value y) { return arith::SelectOp::create(b, loc, c, x, y); }
  Value ptx(StringRef text, Value x) {
    auto dialect = LLVM::AsmDialectAttr::get(b.getContext(), LLVM::AsmDialect::AD_ATT);
    return LLVM::InlineAsmOp::create(b, loc, TypeRange(x.getType()), ValueRange(x), text, "=f,f",
                                     /*has_side_effects=*/false,
                                     /*is_align_stack=*/false, LLVM::TailCallKind::None, dialect, ArrayAttr())
        .getRes();
  }
  // c[0] + x · (c[1] + x · (…))
  Value polynomial(Value x, ArrayRef<double> c) {
    Value sum = number(c.back());
    for (double coefficient : llvm::reverse(c.drop_back()))
      sum = fma(sum, x, number(coefficient));
    return sum;
  }

  OpBuilder &b;
  Location loc;
  FloatType type;
};

} // namespace

// Whether the instruction's own accuracy will do.
static bool isRough(arith::ArithFastMathInterface op) {
  return bitEnumContainsAll(op.getFastMathFlagsAttr().getValue(), arith::FastMathFlags::afn);
}

// 2^x to 2^-22 relative, results below 2^-126 flushed to 0.
static Value exp2(Arithmetic &a, Value x) { return a.ptx("ex2.approx.ftz.f32 $0, $1;", x); }

// e^x = 2^t · 2^e, with t = x·log2(e) rounded to f32 and e what the rounding left, so small that 2^e = 1 + e·ln 2.
// Within 2 ulp of the truth where the result is normal.
static Value exp(Arithmetic &a, Value x) {
  Value high = a.number(0x1.715476p+0), low = a.number(0x1.4ae0cp-26); // log2(e) as a sum of two f32
  Value t = a.mul(x, high);
  Value e = a.fma(x, low, a.fma(x, high, a.neg(t)));
  Value power = exp2(a, t);
  Value exact = a.fma(power, a.mul(e, a.number(0x1.62e43p-1)), power);
  return a.select(a.less(a.abs(t), a.number(128)), exact, power); // else 0, infinity or NaN, which e would spoil
}

// sin or cos: x = q · π/2 + r with |r| ≤ π/4. The reduction is Cody and Waite's, in f32 by three parts of π/2; from 1e5
// on, where k no longer times a part exactly, in f64. Adding 1.5 · 2^(mantissa bits) rounds, and leaves q in the low
// bits.
static Value sinOrCos(Arithmetic &a, Value x, bool isCos) {
  OpBuilder &b = a.b;
  Type word = b.getI32Type();
  auto large = scf::IfOp::create(b, a.loc, TypeRange{a.type, word}, a.less(a.abs(x), a.number(1e5)), true, true);
  {
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(&large.getThenRegion().front());
    Value shifted = a.fma(x, a.number(0x1.45f306p-1), a.number(0x1.8p23));
    Value q = LLVM::BitcastOp::create(b, a.loc, word, shifted), k = a.neg(a.sub(shifted, a.number(0x1.8p23)));
    Value r = a.fma(k, a.number(0x1.921fb4p+0), x);
    r = a.fma(k, a.number(0x1.4442dp-24), r);
    r = a.fma(k, a.number(0x1.84698ap-48), r);
    scf::YieldOp::create(b, a.loc, ValueRange{r, q});
  }
  {
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(&large.getElseRegion().front());
    Arithmetic d(b, a.loc, b.getF64Type());
    Value wide = arith::ExtFOp::create(b, a.loc, d.type, x);
    Value shifted = d.fma(wide, d.number(0x1.45f306dc9c883p-1), d.number(0x1.8p52));
    Value q = arith::TruncIOp::create(b, a.loc, word, LLVM::BitcastOp::create(b, a.loc, b.getI64Type(), shifted));
    Value k = d.neg(d.sub(shifted, d.number(0x1.8p52)));
    Value r = d.fma(k, d.number(0x1.1a62633145c07p-54), d.fma(k, d.number(0x1.921fb54442d18p+0), wide));
    scf::YieldOp::create(b, a.loc, ValueRange{arith::TruncFOp::create(b, a.loc, a.type, r).getResult(), q});
  }
  Value r = large.getResult(0), q = large.getResult(1), square = a.mul(r, r);
  if (isCos)
    q = arith::AddIOp::create(b, a.loc, q, a.integer(word, 1)); // cos x = sin(x + π/2)
  Value sine = a.fma(a.mul(r, square), a.polynomial(square, {-1.6666654611e-1, 8.3321608736e-3, -1.9515295891e-4}), r);
  Value cosine = a.fma(a.mul(square, square),
                       a.polynomial(square, {4.166664568298827e-2, -1.388731625493765e-3, 2.443315711809948e-5}),
                       a.fma(square, a.number(-0.5), a.number(1)));
  auto bit = [&](int64_t mask) {
    Value masked = arith::AndIOp::create(b, a.loc, q, a.integer(word, mask));
    return arith::CmpIOp::create(b, a.loc, arith::CmpIPredicate::ne, masked, a.integer(word, 0)).getResult();
  };
  Value value = a.select(bit(1), cosine, sine);
  return a.select(bit(2), a.neg(value), value);
}

// The method and the coefficients of tile-expand-math, with the hardware's 2^x: the outer polynomial is times -log2(e).
static Value erf(Arithmetic &a, Value x) {
  Value size = arith::MinimumFOp::create(a.b, a.loc, a.abs(x), a.number(4)); // beyond, it rounds to 1
  Value p = a.polynomial(a.mul(x, x), {0.12837910652160645, -0.3761228919029236, 0.11280146986246109,
                                       -0.02671639807522297, 0.004929663613438606, -0.0005704551003873348});
  constexpr double scale = -1.4426950408889634;
  Value q =
      a.polynomial(size, {-0.00016920527559705079 * scale, 1.1294883489608765 * scale, 0.633401095867157 * scale,
                          0.10821996629238129 * scale, -0.025080252438783646 * scale, 0.004156084731221199 * scale,
                          -0.0004313533427193761 * scale, 2.0824892999371514e-05 * scale});
  Value outer = LLVM::CopySignOp::create(a.b, a.loc, x.getType(), a.sub(a.number(1), exp2(a, q)), x);
  return a.select(a.less(size, a.number(0.93)), a.fma(x, p, x), outer);
}

// tanh |x| = 1 - 2 / (e^2|x| + 1), and near 0, where that cancels, the odd polynomial of Moshier's Cephes library.
static Value tanh(Arithmetic &a, Value x) {
  Value size = a.abs(x), square = a.mul(x, x);
  Value power = exp2(a, a.mul(size, a.number(2 * 1.4426950408889634)));
  Value inverse = a.ptx("rcp.approx.ftz.f32 $0, $1;", a.add(power, a.number(1)));
  Value outer = LLVM::CopySignOp::create(a.b, a.loc, x.getType(), a.fma(inverse, a.number(-2), a.number(1)), x);
  Value p = a.polynomial(square,
                         {-3.33332819422e-1, 1.33314422036e-1, -5.37397155531e-2, 2.06390887954e-2, -5.70498872745e-3});
  return a.select(a.less(size, a.number(0.625)), a.fma(a.mul(x, square), p, x), outer);
}

// What PTX computes directly, or by the formulas above; null for the rest.
static Value direct(OpBuilder &b, Operation *op, ValueRange x) {
  Location loc = op->getLoc();
  Type type = x[0].getType();
  auto floating = dyn_cast<FloatType>(type);
  bool isF32 = type.isF32();
  Arithmetic a(b, loc, floating);
  return llvm::TypeSwitch<Operation *, Value>(op)
      .Case([&](math::AbsFOp) { return LLVM::FAbsOp::create(b, loc, type, x[0]).getResult(); })
      .Case([&](math::AbsIOp) { return LLVM::AbsOp::create(b, loc, type, x[0], false).getResult(); })
      .Case([&](math::CeilOp) { return LLVM::FCeilOp::create(b, loc, type, x[0]).getResult(); })
      .Case([&](math::FloorOp) { return LLVM::FFloorOp::create(b, loc, type, x[0]).getResult(); })
      .Case([&](math::TruncOp) { return LLVM::FTruncOp::create(b, loc, type, x[0]).getResult(); })
      .Case([&](math::RoundOp) { return LLVM::RoundOp::create(b, loc, type, x[0]).getResult(); })
      .Case([&](math::RoundEvenOp) { return LLVM::RoundEvenOp::create(b, loc, type, x[0]).getResult(); })
      .Case([&](math::CopySignOp) { return LLVM::CopySignOp::create(b, loc, type, x[0], x[1]).getResult(); })
      .Case([&](math::FmaOp) { return LLVM::FMAOp::create(b, loc, type, x[0], x[1], x[2]).getResult(); })
      .Case([&](math::SqrtOp) { return LLVM::SqrtOp::create(b, loc, type, x[0]).getResult(); })
      .Case([&](math::RsqrtOp) -> Value {
        if (isF32)
          return a.ptx("rsqrt.approx.f32 $0, $1;", x[0]);
        return arith::DivFOp::create(b, loc, a.number(1), LLVM::SqrtOp::create(b, loc, type, x[0]));
      })
      .Case([&](math::CtPopOp) { return LLVM::CtPopOp::create(b, loc, type, x[0]).getResult(); })
      .Case([&](math::CountLeadingZerosOp) {
        return LLVM::CountLeadingZerosOp::create(b, loc, type, x[0], false).getResult();
      })
      .Case([&](math::CountTrailingZerosOp) {
        return LLVM::CountTrailingZerosOp::create(b, loc, type, x[0], false).getResult();
      })
      .Case([&](math::IsNaNOp) {
        return arith::CmpFOp::create(b, loc, arith::CmpFPredicate::UNO, x[0], x[0]).getResult();
      })
      .Case([&](math::IsInfOp) {
        Value infinity = a.number(std::numeric_limits<double>::infinity());
        return arith::CmpFOp::create(b, loc, arith::CmpFPredicate::OEQ, a.abs(x[0]), infinity).getResult();
      })
      .Case([&](math::IsFiniteOp) { return a.less(a.abs(x[0]), a.number(std::numeric_limits<double>::infinity())); })
      .Case([&](math::ExpOp) { return isF32 ? exp(a, x[0]) : Value(); })
      .Case([&](math::Exp2Op) { return isF32 ? exp2(a, x[0]) : Value(); })
      .Case(
          [&](math::Log2Op log) { return isF32 && isRough(log) ? a.ptx("lg2.approx.ftz.f32 $0, $1;", x[0]) : Value(); })
      .Case([&](arith::DivFOp division) {
        return isF32 && isRough(division) ? a.mul(x[0], a.ptx("rcp.approx.ftz.f32 $0, $1;", x[1])) : Value();
      })
      .Case([&](math::ErfOp) { return isF32 ? erf(a, x[0]) : Value(); })
      .Case([&](math::TanhOp) { return isF32 ? tanh(a, x[0]) : Value(); })
      .Case([&](math::SinOp) { return isF32 ? sinOrCos(a, x[0], false) : Value(); })
      .Case([&](math::CosOp) { return isF32 ? sinOrCos(a, x[0], true) : Value(); })
      .Case([&](math::TanOp) {
        if (!isF32)
          return Value();
        return arith::DivFOp::create(b, loc, sinOrCos(a, x[0], false), sinOrCos(a, x[0], true)).getResult();
      })
      .Case([&](math::Log10Op) {
        return isF32 ? a.mul(math::LogOp::create(b, loc, x[0]), a.number(0x1.bcb7b2p-2)) : Value(); // log10(e)
      })
      .Default([](Operation *) { return Value(); });
}

// x / s for several x: with r = 1/s rounded, q = x·r and what q leaves, x - q·s, which fma gives exactly, q + (x -
// q·s)·r is the rounded quotient (Markstein, "Computation of elementary functions on the IBM RISC System/6000
// processor", 1990), but where r is out of range or subnormal, or q infinite.
static Registers divideBy(Emitter &e, Value s, ValueRange numerators) {
  OpBuilder &b = e.builder;
  Arithmetic a(b, e.loc, b.getF32Type());
  Value size = a.abs(s);
  Value isSafe = e.both(a.less(a.number(0x1p-120), size), a.less(size, a.number(0x1p120)));
  auto branch = scf::IfOp::create(b, e.loc, SmallVector<Type>(numerators.size(), a.type), isSafe, true, true);
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPointToStart(&branch.getThenRegion().front());
  Value r = arith::DivFOp::create(b, e.loc, a.number(1), s), negative = a.neg(s);
  SmallVector<Value> quotients;
  for (Value x : numerators) {
    Value q = a.mul(x, r), corrected = a.fma(a.fma(q, negative, x), r, q);
    quotients.push_back(a.select(a.less(a.abs(q), a.number(std::numeric_limits<double>::infinity())), corrected, q));
  }
  scf::YieldOp::create(b, e.loc, quotients);
  b.setInsertionPointToStart(&branch.getElseRegion().front());
  quotients.clear();
  for (Value x : numerators)
    quotients.push_back(arith::DivFOp::create(b, e.loc, x, s));
  scf::YieldOp::create(b, e.loc, quotients);
  return Registers(branch.getResults());
}

bool nvptx::lowerDivision(Emitter &e, arith::DivFOp division) {
  constexpr size_t fewest = 4; // numerators for which it pays
  auto type = dyn_cast<RankedTensorType>(division.getType());
  if (!type || !type.getElementType().isF32() || isRough(division))
    return false;
  Registers numerators = e.get(division.getLhs()), divisors = e.get(division.getRhs());
  llvm::MapVector<Value, SmallVector<int>> users;
  for (auto [r, divisor] : llvm::enumerate(divisors))
    if (!e.isDead(e.layout(type), type.getShape(), int(r)))
      users[divisor].push_back(int(r));
  if (llvm::all_of(users, [](auto &entry) { return entry.second.size() < fewest; }))
    return false;
  Registers quotients(numerators.size(), e.zero(type.getElementType()));
  for (auto &[divisor, registers] : users) {
    Registers group;
    for (int r : registers)
      group.push_back(numerators[r]);
    for (auto [r, quotient] : llvm::zip(registers, divideBy(e, divisor, group)))
      quotients[r] = quotient;
  }
  e.put(division, quotients);
  return true;
}

// Rounding modes other than to the nearest even: by cvt, to 16 bits.
static FailureOr<Value> lowerTruncF(Emitter &e, arith::TruncFOp op, Value x) {
  std::optional<arith::RoundingMode> mode = op.getRoundingmode();
  if (!mode)
    return Value();
  Type to = tile::elementOf(op.getType());
  if (*mode == arith::RoundingMode::to_nearest_even)
    return arith::TruncFOp::create(e.builder, e.loc, to, x).getResult();
  if (*mode == arith::RoundingMode::toward_zero && x.getType().isF32() && (to.isF16() || to.isBF16())) {
    Value bits = e.ptx(to.isF16() ? "cvt.rz.f16.f32 $0, $1;" : "cvt.rz.bf16.f32 $0, $1;", "=h,f",
                       e.builder.getI16Type(), x, false);
    return e.fromBits(bits, to);
  }
  op.emitOpError() << "expected rounding to the nearest even, or of f32 to 16 bits toward zero, on NVIDIA targets, got "
                   << arith::stringifyRoundingMode(*mode);
  return failure();
}

// bf16 is the upper half of an f32: of a word's halves each is one instruction, where the conversion would be told
// only after the half was moved to a register of its own.
static Value widenBfloat(Emitter &e, Value x) {
  OpBuilder &b = e.builder;
  Value bits = arith::ExtUIOp::create(b, e.loc, b.getI32Type(), e.toBits(x));
  return e.fromBits(arith::ShLIOp::create(b, e.loc, bits, e.i32(16)), b.getF32Type());
}

FailureOr<Value> nvptx::lowerMath(Emitter &e, Operation *op, ValueRange operands) {
  OpBuilder &b = e.builder;
  if (isa<arith::ExtFOp>(op) && operands[0].getType().isBF16() && tile::elementOf(op->getResult(0).getType()).isF32())
    return widenBfloat(e, operands[0]);
  if (auto truncate = dyn_cast<arith::TruncFOp>(op))
    return lowerTruncF(e, truncate, operands[0]);
  auto division = dyn_cast<arith::DivFOp>(op);
  if (!isa<math::MathDialect>(op->getDialect()) && !(division && isRough(division) && operands[0].getType().isF32()))
    return Value();
  Type type = operands[0].getType(), result = tile::elementOf(op->getResult(0).getType());
  SmallVector<Value> wide(operands);
  bool isNarrow = (type.isF16() || type.isBF16()) && !isa<math::FmaOp, math::AbsFOp, math::CopySignOp>(op);
  if (isNarrow)
    for (Value &x : wide)
      if (isa<FloatType>(x.getType()))
        x = arith::ExtFOp::create(b, e.loc, b.getF32Type(), x);
  Value value = direct(b, op, wide);
  if (!value) { // expandMath rewrites it
    if (type.isF64())
      return op->emitOpError() << "of f64 is not supported on NVIDIA targets";
    IRMapping mapping;
    mapping.map(op->getOperands(), wide);
    Operation *copy = b.clone(*op, mapping);
    copy->getResult(0).setType(isNarrow && isa<FloatType>(result) ? b.getF32Type() : result);
    value = copy->getResult(0);
  }
  if (value.getType() != result)
    value = arith::TruncFOp::create(b, e.loc, result, value);
  return value;
}

LogicalResult nvptx::expandMath(Operation *function) {
  SmallVector<Operation *> ops;
  function->walk([&](Operation *op) {
    if (isa<math::MathDialect>(op->getDialect()) ||
        isa<arith::FloorDivSIOp, arith::CeilDivSIOp, arith::CeilDivUIOp>(op))
      ops.push_back(op);
  });
  if (ops.empty())
    return success();
  RewritePatternSet patterns(function->getContext());
  populateMathPolynomialApproximationPatterns(patterns);
  math::populateExpansionPatterns(patterns);
  arith::populateCeilFloorDivExpandOpsPatterns(patterns);
  if (failed(applyOpPatternsGreedily(ops, std::move(patterns),
                                     GreedyRewriteConfig().setStrictness(GreedyRewriteStrictness::ExistingAndNewOps))))
    return function->emitError() << "the expansion of mathematical functions did not end";
  auto walked = function->walk([&](Operation *op) {
    if (!isa<math::MathDialect>(op->getDialect()))
      return WalkResult::advance();
    OpBuilder b(op);
    Value value = direct(b, op, op->getOperands());
    if (!value) {
      op->emitOpError() << "is not supported on NVIDIA targets";
      return WalkResult::interrupt();
    }
    op->getResult(0).replaceAllUsesWith(value);
    op->erase();
    return WalkResult::advance();
  });
  return failure(walked.wasInterrupted());
}
