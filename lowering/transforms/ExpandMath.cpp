// Functions of f32, vectors of it included, as arithmetic; f16 and bf16 by way of f32. f64, and f32 functions that have
// no method here, become a call of libm for each element. What the processor has instructions for stays.
//
// Polynomials are minimax fits (Lawson's iteration), their coefficients rounded to f32 one after the other, each fit
// anew after the rounding of those before it. Errors below are the largest over all of the range that
// tests/unit/lowering/ExpandMathTest.cpp samples, in units of the last place (ulp).
//
//   exp, exp2  x = n ln2 + r, |r| <= ln2/2: 2^n * polynomial(r)                                           1.1 ulp
//   expm1      the same, with 2^n - 1 added apart                                                         2
//   log, …     x = 2^n (1 + f), 1/sqrt2 <= 1 + f < sqrt2: polynomial(f) + n ln2             1; of log2 and log10, 2
//   log1p      log(1 + x), and what rounding 1 + x lost, over 1 + x                                       2
//   tanh       expm1(2|x|) / (expm1(2|x|) + 2)                                                            3
//   erf        |x| < 0.93: x polynomial(x^2), else 1 - exp(-polynomial(|x|))                              2
//   sin, cos   x = n pi/2 + r, pi/2 in three parts (Cody and Waite); libm's when any |x| is large         1.6; tan 3.5
//   rsqrt      1 / sqrt(x)                                                                                1.5
#include "bitloom/lowering/Passes.h"

#include "bitloom/lib/target/Target.h"

#include "mlir/Conversion/MathToLibm/MathToLibm.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "mlir/Transforms/GreedyPatternRewriteDriver.h"
#include "llvm/ADT/TypeSwitch.h"

#include <bit>
#include <cmath>
#include <limits>

using namespace mlir;

namespace bitloom {

#define GEN_PASS_DEF_EXPANDMATH
#include "lowering/Passes.h.inc"

namespace {

// Writes expressions on f32 and i32 values of one shape.
struct Arithmetic {
  OpBuilder &builder;
  Location loc;
  Type floats;   // f32, or a vector of it
  bool hasFma;   // of the processor: without it a fused one would be a call
  bool hasScale; // vscalefps of AVX-512

  Type withElement(Type element) const {
    auto vector = dyn_cast<VectorType>(floats);
    return vector ? Type(vector.clone(element)) : element;
  }
  Type integers() const { return withElement(builder.getI32Type()); }

  Value constant(TypedAttr scalar) const {
    if (auto vector = dyn_cast<VectorType>(withElement(scalar.getType())))
      return arith::ConstantOp::create(builder, loc, DenseElementsAttr::get(vector, cast<Attribute>(scalar)));
    return arith::ConstantOp::create(builder, loc, scalar);
  }
  Value number(float value) const { return constant(builder.getF32FloatAttr(value)); }
  Value integer(int32_t value) const { return constant(builder.getI32IntegerAttr(value)); }

  template <class Op> Value make(Value a, Value b) const { return Op::create(builder, loc, a, b); }
  Value add(Value a, Value b) const { return make<arith::AddFOp>(a, b); }
  Value sub(Value a, Value b) const { return make<arith::SubFOp>(a, b); }
  Value mul(Value a, Value b) const { return make<arith::MulFOp>(a, b); }
  Value div(Value a, Value b) const { return make<arith::DivFOp>(a, b); }
  Value fma(Value a, Value b, Value c) const {
    return hasFma ? Value(math::FmaOp::create(builder, loc, a, b, c)) : add(mul(a, b), c);
  }
  Value abs(Value a) const { return math::AbsFOp::create(builder, loc, a); }
  Value withSignOf(Value a, Value sign) const { return math::CopySignOp::create(builder, loc, a, sign); }

  Value addi(Value a, Value b) const { return make<arith::AddIOp>(a, b); }
  Value subi(Value a, Value b) const { return make<arith::SubIOp>(a, b); }
  Value andi(Value a, int32_t b) const { return make<arith::AndIOp>(a, integer(b)); }
  Value shl(Value a, int bits) const { return make<arith::ShLIOp>(a, integer(bits)); }
  Value shr(Value a, int bits) const { return make<arith::ShRSIOp>(a, integer(bits)); }
  Value bits(Value a) const { return arith::BitcastOp::create(builder, loc, integers(), a); }
  Value ofBits(Value a) const { return arith::BitcastOp::create(builder, loc, floats, a); }
  Value toFloat(Value a) const { return arith::SIToFPOp::create(builder, loc, floats, a); }

  // False where an operand is NaN.
  Value less(Value a, Value b) const { return arith::CmpFOp::create(builder, loc, arith::CmpFPredicate::OLT, a, b); }
  Value equal(Value a, Value b) const { return arith::CmpFOp::create(builder, loc, arith::CmpFPredicate::OEQ, a, b); }
  Value isZero(Value integer32) const {
    return arith::CmpIOp::create(builder, loc, arith::CmpIPredicate::eq, integer32, integer(0));
  }
  Value select(Value condition, Value a, Value b) const {
    return arith::SelectOp::create(builder, loc, condition, a, b);
  }
  // NaN where x is.
  Value atMost(Value x, float high) const { return select(less(number(high), x), number(high), x); }
  Value clamp(Value x, float low, float high) const {
    return atMost(select(less(x, number(low)), number(low), x), high);
  }

  // Horner's scheme, the constant term first in the list.
  Value polynomial(Value x, std::initializer_list<float> coefficients) const {
    auto next = std::rbegin(coefficients);
    Value sum = number(*next++);
    for (; next != std::rend(coefficients); ++next)
      sum = fma(sum, x, number(*next));
    return sum;
  }

  // The nearest integer for |x| < 2^22, as a float and as an integer: adding 1.5 * 2^23 leaves no bits for a fraction,
  // and the low bits of the sum are the integer. Of NaN, NaN and any integer.
  struct Rounded {
    Value number, integer;
  };
  Rounded round(Value x) const {
    Value magic = number(12582912.0f);
    Value sum = add(x, magic);
    return {sub(sum, magic), subi(bits(sum), integer(std::bit_cast<int32_t>(12582912.0f)))};
  }
  // 2^n for -126 <= n <= 127.
  Value powerOfTwo(Value n) const { return ofBits(shl(addi(n, integer(127)), 23)); }
  // Whether `scale` is one instruction.
  bool scalesAtOnce() const {
    auto vector = dyn_cast<VectorType>(floats);
    return hasScale && vector && !vector.isScalable() && vector.getRank() == 1 && vector.getNumElements() == 16;
  }
  // x * 2^n, rounded once, for -252 <= n <= 254; 0 where `isZero`, whatever x and n are there.
  Value scale(Value x, const Rounded &n, Value isZero) const {
    if (scalesAtOnce()) {
      Value others = make<arith::XOrIOp>(isZero, constant(builder.getBoolAttr(true)));
      Value mask = LLVM::BitcastOp::create(builder, loc, builder.getI16Type(), others);
      Value rounding = arith::ConstantOp::create(builder, loc, builder.getI32IntegerAttr(4)); // the mode that is set
      // Not by x86vector's op, which hands its operands to the intrinsic in another order than it names them.
      return LLVM::CallIntrinsicOp::create(builder, loc, floats,
                                           builder.getStringAttr("llvm.x86.avx512.mask.scalef.ps.512"),
                                           ValueRange{x, n.number, number(0.0f), mask, rounding})
          .getResult(0);
    }
    Value half = shr(n.integer, 1); // two factors, since one could be out of range
    Value scaled = mul(mul(x, powerOfTwo(half)), powerOfTwo(subi(n.integer, half)));
    return select(isZero, number(0.0f), scaled);
  }
};

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float quietNaN = std::numeric_limits<float>::quiet_NaN();
// ln 2 in two parts, the first of 10 bits: its product with an exponent is exact.
constexpr float ln2High = 0.693359375f, ln2Low = -2.12194440e-4f;

// p(r) with e^r = 1 + r + r^2 p(r), off by 4e-9, for |r| <= 0.35.
Value expPolynomial(const Arithmetic &a, Value r) {
  return a.polynomial(
      r, {0.5f, 0.16666515171527863f, 0.04166637733578682f, 0.008369393646717072f, 0.0013942922232672572f});
}

struct ExpArgument {
  Arithmetic::Rounded n;
  Value r; // x = n ln2 + r
};
ExpArgument reduceExp(const Arithmetic &a, Value x) {
  Arithmetic::Rounded n = a.round(a.mul(x, a.number(1.44269504f)));
  Value r = a.fma(n.number, a.number(-ln2High), x);
  return {n, a.fma(n.number, a.number(-ln2Low), r)};
}

// Results that round to 0 are not computed: x86 takes a hundred times as long for a product that underflows, and e^-inf
// is what padding and masks are made of.
Value exp(const Arithmetic &a, Value x) {
  Value zero = a.less(x, a.number(-104.0f)), one = a.number(1.0f);
  if (!a.scalesAtOnce())
    x = a.select(zero, a.number(0.0f), x);
  auto [n, r] = reduceExp(a, a.atMost(x, 89.0f)); // beyond, e^x is infinite
  return a.scale(a.fma(a.fma(expPolynomial(a, r), r, one), r, one), n, zero);
}

Value exp2(const Arithmetic &a, Value x) {
  Value zero = a.less(x, a.number(-151.0f));
  if (!a.scalesAtOnce())
    x = a.select(zero, a.number(0.0f), x);
  x = a.atMost(x, 129.0f);
  Arithmetic::Rounded n = a.round(x);
  Value r = a.sub(x, n.number); // exact
  Value p = a.polynomial(r, {0.6931471824645996f, 0.24022650718688965f, 0.05550357699394226f, 0.009618059732019901f,
                             0.0013392065884545445f, 0.0001546413404867053f});
  return a.scale(a.fma(r, p, a.number(1.0f)), n, zero);
}

Value expm1(const Arithmetic &a, Value x) {
  auto [n, r] = reduceExp(a, a.clamp(x, -18.0f, 89.0f)); // below, it rounds to -1
  // Halved throughout, for 2^128 is out of range: 2 * (2^(n-1) * (e^r - 1) + (2^(n-1) - 1/2)).
  Value half = a.powerOfTwo(a.subi(n.integer, a.integer(1)));
  Value tail = a.fma(a.mul(r, r), expPolynomial(a, r), r);
  Value sum = a.fma(half, tail, a.sub(half, a.number(0.5f)));
  Value tiny = a.less(a.abs(x), a.number(1e-10f)); // keeps the sign of zero, and denormals
  return a.select(tiny, x, a.add(sum, sum));
}

struct LogParts {
  Value n, log; // log x = n ln2 + log, for finite x > 0
};
LogParts splitLog(const Arithmetic &a, Value x) {
  constexpr float smallestNormal = 1.17549435e-38f, lift = 8388608.0f; // 2^23
  Value denormal = a.less(x, a.number(smallestNormal));
  x = a.select(denormal, a.mul(x, a.number(lift)), x);
  // The exponent, counted from 1/sqrt2 rather than from 1.
  Value offset = a.subi(a.bits(x), a.integer(std::bit_cast<int32_t>(0.70710677f)));
  Value n = a.shr(offset, 23);
  Value f = a.sub(a.ofBits(a.subi(a.bits(x), a.shl(n, 23))), a.number(1.0f)); // exact
  n = a.addi(n, a.select(denormal, a.integer(-23), a.integer(0)));
  Value p = a.polynomial(f, {0.3333333134651184f, -0.2500081956386566f, 0.20001240074634552f, -0.1662340760231018f,
                             0.14201627671718597f, -0.13159683346748352f, 0.12761861085891724f, -0.07635750621557236f});
  Value square = a.mul(f, f);
  Value tail = a.fma(a.mul(square, f), p, a.mul(square, a.number(-0.5f)));
  return {a.toFloat(n), a.add(f, tail)};
}

// What logarithms share where x is not a positive finite number.
Value logLimits(const Arithmetic &a, Value x, Value log) {
  log = a.select(a.equal(x, a.number(infinity)), x, log);
  log = a.select(a.equal(x, a.number(0.0f)), a.number(-infinity), log);
  Value positive = a.less(x, a.number(0.0f));
  log = a.select(positive, a.number(quietNaN), log);
  return a.select(a.equal(x, x), log, x);
}

Value log(const Arithmetic &a, Value x) {
  auto [n, tail] = splitLog(a, x);
  Value low = a.fma(n, a.number(ln2Low), tail);
  return logLimits(a, x, a.fma(n, a.number(ln2High), low));
}

Value log2(const Arithmetic &a, Value x) {
  auto [n, tail] = splitLog(a, x);
  return logLimits(a, x, a.fma(tail, a.number(1.44269504f), n));
}

Value log10(const Arithmetic &a, Value x) {
  constexpr float high = 0.30102921f, low = 7.9034151e-7f; // log10(2), the first part of 16 bits
  auto [n, tail] = splitLog(a, x);
  Value sum = a.fma(n, a.number(low), a.mul(tail, a.number(0.434294492f)));
  return logLimits(a, x, a.fma(n, a.number(high), sum));
}

Value log1p(const Arithmetic &a, Value x) {
  Value one = a.number(1.0f);
  Value sum = a.add(one, x);
  // What the sum lost is exact, whichever operand is the larger.
  Value larger = a.less(one, x);
  Value lost = a.select(larger, a.sub(one, a.sub(sum, x)), a.sub(x, a.sub(sum, one)));
  Value result = log(a, sum);
  Value corrected = a.add(result, a.div(lost, sum));
  Value regular = a.less(a.abs(result), a.number(infinity));
  result = a.select(regular, corrected, result);
  return a.select(a.equal(sum, one), x, result); // the sign of zero, and denormals
}

Value tanh(const Arithmetic &a, Value x) {
  Value t = expm1(a, a.clamp(a.abs(a.add(x, x)), 0.0f, 20.0f)); // beyond, it rounds to 1
  return a.withSignOf(a.div(t, a.add(t, a.number(2.0f))), x);
}

Value erf(const Arithmetic &a, Value x) {
  Value size = a.abs(x), square = a.mul(x, x);
  Value p = a.polynomial(square, {0.12837910652160645f, -0.3761228919029236f, 0.11280146986246109f,
                                  -0.02671639807522297f, 0.004929663613438606f, -0.0005704551003873348f});
  Value inner = a.fma(x, p, x);
  size = a.clamp(size, 0.0f, 4.0f); // beyond, it rounds to 1
  Value q = a.polynomial(size, {-0.00016920527559705079f, 1.1294883489608765f, 0.633401095867157f, 0.10821996629238129f,
                                -0.025080252438783646f, 0.004156084731221199f, -0.0004313533427193761f,
                                2.0824892999371514e-05f});
  Value outer = a.sub(a.number(1.0f), exp(a, a.sub(a.number(0.0f), q)));
  return a.select(a.less(size, a.number(0.93f)), inner, a.withSignOf(outer, x));
}

struct Circular {
  Value sin, cos;
};
// Of |x| < the limit below.
Circular circular(const Arithmetic &a, Value x) {
  Arithmetic::Rounded n = a.round(a.mul(x, a.number(0.636619747f)));
  // Products with n are exact: by the fused operation, or since the parts are short.
  const std::initializer_list<float> parts =
      a.hasFma ? std::initializer_list<float>{1.57079637f, -4.37113883e-8f, -1.71512489e-15f}
               : std::initializer_list<float>{1.5703125f, 4.837512969970703e-4f, 7.54978995489188216e-8f};
  Value r = x;
  for (float part : parts)
    r = a.fma(n.number, a.number(-part), r);
  Value square = a.mul(r, r);
  Value s = a.polynomial(
      square, {-0.1666666716337204f, 0.008333377540111542f, -0.0001985206181416288f, 2.820239615175524e-06f});
  s = a.fma(a.mul(square, r), s, r);
  Value c = a.polynomial(
      square, {0.0416666679084301f, -0.001388897537253797f, 2.4819939426379278e-05f, -2.865814394681365e-07f});
  c = a.fma(a.mul(square, square), c, a.fma(square, a.number(-0.5f), a.number(1.0f)));
  // Quarter turns: swap for odd n; negate the sine where bit 1 of n is set, the cosine where that of n + 1 is.
  Value even = a.isZero(a.andi(n.integer, 1));
  auto negated = [&](Value value, Value turns) {
    Value sign = a.shl(a.andi(turns, 2), 30);
    return a.ofBits(arith::XOrIOp::create(a.builder, a.loc, a.bits(value), sign));
  };
  Value sine = negated(a.select(even, s, c), n.integer);
  Value cosine = negated(a.select(even, c, s), a.addi(n.integer, a.integer(1)));
  return {a.select(a.equal(x, a.number(0.0f)), x, sine), cosine}; // sin(-0) is -0
}

// Of the functions of an angle, `regular` where all |x| are below the limit, and libm's by the op itself elsewhere.
Value withLargeAngles(const Arithmetic &a, Operation *op, function_ref<Value()> regular,
                      SmallVectorImpl<Operation *> &calls) {
  Value x = op->getOperand(0);
  const float limit = a.hasFma ? 1e5f : 8192.0f;
  // Not less, so that NaN and infinity are large.
  Value large = arith::CmpFOp::create(a.builder, a.loc, arith::CmpFPredicate::UGE, a.abs(x), a.number(limit));
  if (auto vector = dyn_cast<VectorType>(a.floats)) {
    if (vector.getRank() != 1)
      large = vector::ShapeCastOp::create(a.builder, a.loc,
                                          VectorType::get({vector.getNumElements()}, a.builder.getI1Type()), large);
    large = vector::ReductionOp::create(a.builder, a.loc, vector::CombiningKind::OR, large);
  }
  auto choice = scf::IfOp::create(a.builder, a.loc, TypeRange(a.floats), large, /*withElseRegion=*/true);
  OpBuilder::InsertionGuard guard(a.builder);
  a.builder.setInsertionPointToStart(choice.thenBlock());
  calls.push_back(a.builder.clone(*op));
  scf::YieldOp::create(a.builder, a.loc, calls.back()->getResults());
  a.builder.setInsertionPointToStart(choice.elseBlock());
  scf::YieldOp::create(a.builder, a.loc, regular());
  return choice.getResult(0);
}

// Null where the function has no method here. `calls` are ops of the same function that remain.
Value expanded(const Arithmetic &a, Operation *op, SmallVectorImpl<Operation *> &calls) {
  Value x = op->getOperand(0);
  return TypeSwitch<Operation *, Value>(op)
      .Case([&](math::ExpOp) { return exp(a, x); })
      .Case([&](math::Exp2Op) { return exp2(a, x); })
      .Case([&](math::ExpM1Op) { return expm1(a, x); })
      .Case([&](math::LogOp) { return log(a, x); })
      .Case([&](math::Log2Op) { return log2(a, x); })
      .Case([&](math::Log10Op) { return log10(a, x); })
      .Case([&](math::Log1pOp) { return log1p(a, x); })
      .Case([&](math::TanhOp) { return tanh(a, x); })
      .Case([&](math::ErfOp) { return erf(a, x); })
      .Case([&](math::SinOp) { return withLargeAngles(a, op, [&] { return circular(a, x).sin; }, calls); })
      .Case([&](math::CosOp) { return withLargeAngles(a, op, [&] { return circular(a, x).cos; }, calls); })
      .Case([&](math::TanOp) {
        return withLargeAngles(
            a, op,
            [&] {
              auto [sine, cosine] = circular(a, x);
              return a.div(sine, cosine);
            },
            calls);
      })
      .Default(Value());
}

// Whether processors compute it in a few instructions.
bool isNative(Operation *op) {
  return isa<math::AbsFOp, math::AbsIOp, math::CeilOp, math::CopySignOp, math::CountLeadingZerosOp,
             math::CountTrailingZerosOp, math::CtPopOp, math::FloorOp, math::FmaOp, math::IsFiniteOp, math::IsInfOp,
             math::IsNaNOp, math::IsNormalOp, math::RoundOp, math::RoundEvenOp, math::SqrtOp, math::TruncOp>(op);
}

struct ExpandMath : impl::ExpandMathBase<ExpandMath> {
  using ExpandMathBase::ExpandMathBase;

  void runOnOperation() override {
    SmallVector<Operation *> functions;
    getOperation().walk([&](Operation *op) {
      if (isa<math::MathDialect>(op->getDialect()) && !isNative(op))
        functions.push_back(op);
    });
    const Target on = parseTarget(target);
    const bool hasFma = on.family == Family::Cpu_aarch64 || on.vectorBits > 128; // x86-64-v3 brought both
    const bool hasScale = on.family == Family::Cpu_x86 && on.vectorBits == 512;
    SmallVector<Operation *> calls;
    for (Operation *op : functions)
      expand(op, hasFma, hasScale, calls);
    if (calls.empty())
      return;
    for (Operation *op : calls)
      for (Type type : op->getResultTypes())
        if (auto vector = dyn_cast<VectorType>(type); vector && vector.isScalable()) {
          op->emitError() << op->getName() << ": expected a function that vectors of any length have, got one of libm";
          return signalPassFailure();
        }
    RewritePatternSet patterns(&getContext());
    populateMathToLibmConversionPatterns(patterns);
    GreedyRewriteConfig config;
    config.setStrictness(GreedyRewriteStrictness::ExistingAndNewOps); // native ones stay
    if (failed(applyOpPatternsGreedily(calls, std::move(patterns), config)))
      signalPassFailure();
  }

  static void expand(Operation *op, bool hasFma, bool hasScale, SmallVectorImpl<Operation *> &calls) {
    OpBuilder builder(op);
    Location loc = op->getLoc();
    if (auto rsqrt = dyn_cast<math::RsqrtOp>(op)) { // of any type
      Arithmetic a{builder, loc, op->getResult(0).getType(), hasFma, hasScale};
      Value one = a.constant(builder.getFloatAttr(getElementTypeOrSelf(a.floats), 1.0));
      op->replaceAllUsesWith(ValueRange{a.div(one, math::SqrtOp::create(builder, loc, rsqrt.getOperand()))});
      return op->erase();
    }
    Type type = op->getResult(0).getType();
    Type element = getElementTypeOrSelf(type);
    Arithmetic a{builder, loc, type, hasFma, hasScale};
    if (auto narrow = dyn_cast<FloatType>(element); narrow && narrow.getWidth() < 32) {
      a.floats = a.withElement(builder.getF32Type());
      IRMapping widened;
      for (Value operand : op->getOperands())
        if (getElementTypeOrSelf(operand.getType()) == element)
          widened.map(operand, arith::ExtFOp::create(builder, loc, a.floats, operand).getResult());
      Operation *wide = builder.clone(*op, widened);
      wide->getResult(0).setType(a.floats);
      op->replaceAllUsesWith(ValueRange{arith::TruncFOp::create(builder, loc, type, wide->getResult(0)).getResult()});
      op->erase();
      op = wide;
      builder.setInsertionPoint(op);
      element = builder.getF32Type();
    }
    Value result = element.isF32() ? expanded(a, op, calls) : Value();
    if (!result) {
      calls.push_back(op);
      return;
    }
    op->replaceAllUsesWith(ValueRange{result});
    op->erase();
  }
};
} // namespace
} // namespace bitloom
