// The operations of math: each computed in f64 and rounded once.
#include "bitloom/lowering/interpreter/Elementwise.h"

#include "mlir/Dialect/Math/IR/Math.h"

#include <bit>
#include <cmath>

using namespace mlir;

namespace bitloom::interpreter {

static void compileFma(Compiler &compiler, Operation &op) {
  Number::Kind kind = compiler.roundingOf(op.getResult(0));
  addLoop<3>(compiler, op, [kind](const Cell *a, const Cell *b, const Cell *c, Cell *to, int64_t n) {
    for (int64_t i = 0; i < n; ++i)
      to[i].number = fusedMultiplyAdd(a[i].number, b[i].number, c[i].number, kind);
  });
}

static void compileClampF(Compiler &compiler, Operation &op) {
  addLoop<3>(compiler, op, [](const Cell *x, const Cell *least, const Cell *most, Cell *to, int64_t n) {
    for (int64_t i = 0; i < n; ++i) // a NaN stays
      to[i].number = x[i].number < least[i].number  ? least[i].number
                     : x[i].number > most[i].number ? most[i].number
                                                    : x[i].number;
  });
}

static void compileFPowI(Compiler &compiler, Operation &op) {
  int width = compiler.numberOf(op.getOperand(1).getType()).width;
  addLoop<2>(compiler, op, [width](const Cell *x, const Cell *exponent, Cell *to, int64_t n) {
    for (int64_t i = 0; i < n; ++i)
      to[i].number = std::pow(x[i].number, double(signExtend(exponent[i].bits, width)));
  });
}

template <class Op, class Fn> static void addClass(Handlers &handlers, Fn fn) {
  handlers[Op::getOperationName()] = [fn](Compiler &compiler, Operation &op) {
    Number::Kind kind = compiler.numberOf(op.getOperand(0).getType()).kind;
    addLoop<1>(compiler, op, [=](const Cell *x, Cell *to, int64_t n) {
      for (int64_t i = 0; i < n; ++i)
        to[i].bits = fn(x[i].number, kind);
    });
  };
}

static bool isNormal(double x, Number::Kind kind) {
  double least = kind == Number::Kind::F16 ? 0x1p-14 : kind == Number::Kind::F64 ? 0x1p-1022 : 0x1p-126;
  return std::isfinite(x) && std::abs(x) >= least;
}

static std::uint64_t power(std::uint64_t base, int64_t exponent, int width) {
  if (exponent < 0) { // 1 / base^-exponent, toward zero
    int64_t value = signExtend(base, width);
    return value == 1 ? 1 : value == -1 ? (exponent % 2 ? base : 1) : 0;
  }
  std::uint64_t result = 1;
  for (; exponent; exponent >>= 1, base *= base)
    if (exponent & 1)
      result *= base;
  return result;
}

void addMath(Handlers &handlers) {
  using D = double;
  addFloat1<math::AbsFOp>(handlers, [](D x) { return std::abs(x); });
  addFloat1<math::CeilOp>(handlers, [](D x) { return std::ceil(x); });
  addFloat1<math::FloorOp>(handlers, [](D x) { return std::floor(x); });
  addFloat1<math::TruncOp>(handlers, [](D x) { return std::trunc(x); });
  addFloat1<math::RoundOp>(handlers, [](D x) { return std::round(x); });
  addFloat1<math::RoundEvenOp>(handlers, [](D x) { return std::nearbyint(x); });
  addFloat1<math::SqrtOp>(handlers, [](D x) { return std::sqrt(x); });
  addFloat1<math::RsqrtOp>(handlers, [](D x) { return 1 / std::sqrt(x); });
  addFloat1<math::CbrtOp>(handlers, [](D x) { return std::cbrt(x); });
  addFloat1<math::ExpOp>(handlers, [](D x) { return std::exp(x); });
  addFloat1<math::Exp2Op>(handlers, [](D x) { return std::exp2(x); });
  addFloat1<math::ExpM1Op>(handlers, [](D x) { return std::expm1(x); });
  addFloat1<math::LogOp>(handlers, [](D x) { return std::log(x); });
  addFloat1<math::Log2Op>(handlers, [](D x) { return std::log2(x); });
  addFloat1<math::Log10Op>(handlers, [](D x) { return std::log10(x); });
  addFloat1<math::Log1pOp>(handlers, [](D x) { return std::log1p(x); });
  addFloat1<math::SinOp>(handlers, [](D x) { return std::sin(x); });
  addFloat1<math::CosOp>(handlers, [](D x) { return std::cos(x); });
  addFloat1<math::TanOp>(handlers, [](D x) { return std::tan(x); });
  addFloat1<math::AsinOp>(handlers, [](D x) { return std::asin(x); });
  addFloat1<math::AcosOp>(handlers, [](D x) { return std::acos(x); });
  addFloat1<math::AtanOp>(handlers, [](D x) { return std::atan(x); });
  addFloat1<math::SinhOp>(handlers, [](D x) { return std::sinh(x); });
  addFloat1<math::CoshOp>(handlers, [](D x) { return std::cosh(x); });
  addFloat1<math::TanhOp>(handlers, [](D x) { return std::tanh(x); });
  addFloat1<math::AsinhOp>(handlers, [](D x) { return std::asinh(x); });
  addFloat1<math::AcoshOp>(handlers, [](D x) { return std::acosh(x); });
  addFloat1<math::AtanhOp>(handlers, [](D x) { return std::atanh(x); });
  addFloat1<math::ErfOp>(handlers, [](D x) { return std::erf(x); });
  addFloat1<math::ErfcOp>(handlers, [](D x) { return std::erfc(x); });
  addFloat2<math::PowFOp>(handlers, [](D x, D y) { return std::pow(x, y); });
  addFloat2<math::Atan2Op>(handlers, [](D x, D y) { return std::atan2(x, y); });
  addFloat2<math::CopySignOp>(handlers, [](D x, D y) { return std::copysign(x, y); });
  handlers[math::FmaOp::getOperationName()] = compileFma;
  handlers[math::ClampFOp::getOperationName()] = compileClampF;
  handlers[math::FPowIOp::getOperationName()] = compileFPowI;

  addClass<math::IsNaNOp>(handlers, [](D x, Number::Kind) { return std::isnan(x); });
  addClass<math::IsInfOp>(handlers, [](D x, Number::Kind) { return std::isinf(x); });
  addClass<math::IsFiniteOp>(handlers, [](D x, Number::Kind) { return std::isfinite(x); });
  addClass<math::IsNormalOp>(handlers, isNormal);

  using U = std::uint64_t;
  addUnsigned1<math::AbsIOp>(handlers, [](U x, int width) { return signExtend(x, width) < 0 ? -x : x; });
  addUnsigned1<math::CtPopOp>(handlers, [](U x, int) { return std::popcount(x); });
  addUnsigned1<math::CountLeadingZerosOp>(handlers, [](U x, int width) { return width - std::bit_width(x); });
  addUnsigned1<math::CountTrailingZerosOp>(handlers, [](U x, int width) { return x ? std::countr_zero(x) : width; });
  addUnsigned2<math::IPowIOp>(handlers, [](U x, U y, int width) { return power(x, signExtend(y, width), width); });
}

} // namespace bitloom::interpreter
