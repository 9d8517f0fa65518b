#include "bitloom/lowering/transforms/Float8.h"

#include "mlir/Dialect/Arith/IR/Arith.h"

#include <cmath>

using namespace mlir;

namespace bitloom {

namespace {

// Operations on scalars or vectors of one length.
class Lanes {
public:
  Lanes(OpBuilder &b, Location loc, Value like) : b(b), loc(loc), shape(dyn_cast<VectorType>(like.getType())) {}

  Type of(Type element) { return shape ? Type(shape.clone(element)) : element; }
  Type integer(unsigned bits) { return of(b.getIntegerType(bits)); }
  Value number(Type type, int64_t value) { return constant(type, b.getIntegerAttr(getElementTypeOrSelf(type), value)); }
  Value real(double value) { return constant(of(b.getF32Type()), b.getF32FloatAttr(float(value))); }
  template <class Op> Value by(Value x, int64_t y) { return Op::create(b, loc, x, number(x.getType(), y)); }
  Value cast(Value x, Type to) { return arith::BitcastOp::create(b, loc, to, x); }

  OpBuilder &b;
  Location loc;

private:
  Value constant(Type type, TypedAttr value) {
    if (auto vector = dyn_cast<VectorType>(type))
      value = DenseElementsAttr::get(vector, cast<Attribute>(value));
    return arith::ConstantOp::create(b, loc, value);
  }

  VectorType shape;
};

struct Format {
  int mantissa, bias;
  float largest;
};
Format formatOf(Type type) { return isa<Float8E4M3FNType>(type) ? Format{3, 7, 448} : Format{2, 15, 57344}; }

} // namespace

// By way of f16, whose upper half e5m2 is. e4m3's fields moved into those of an f16 are the number over 256, whose
// conversion to f32 is exact and normal.
Value widenFloat8(OpBuilder &b, Location loc, Value code, Type format) {
  Lanes lanes(b, loc, code);
  Type half = lanes.of(b.getF16Type()), single = lanes.of(b.getF32Type());
  Value wide = arith::ExtUIOp::create(b, loc, lanes.integer(16), code);
  if (isa<Float8E5M2Type>(format)) {
    Value bits = lanes.by<arith::ShLIOp>(wide, 8);
    return arith::ExtFOp::create(b, loc, single, lanes.cast(bits, half));
  }
  Value magnitude = lanes.by<arith::AndIOp>(wide, 0x7f);
  Value sign = lanes.by<arith::ShLIOp>(lanes.by<arith::AndIOp>(wide, 0x80), 8);
  Value bits = arith::OrIOp::create(b, loc, sign, lanes.by<arith::ShLIOp>(magnitude, 7));
  Value value = arith::ExtFOp::create(b, loc, single, lanes.cast(bits, half));
  value = arith::MulFOp::create(b, loc, value, lanes.real(256));
  Value isNaN =
      arith::CmpIOp::create(b, loc, arith::CmpIPredicate::eq, magnitude, lanes.number(magnitude.getType(), 0x7f));
  Value nan = lanes.cast(lanes.number(lanes.integer(32), 0x7fc00000), single);
  return arith::SelectOp::create(b, loc, isNaN, nan, value);
}

Value narrowToFloat8(OpBuilder &b, Location loc, Value value, Type type) {
  Lanes lanes(b, loc, value);
  Format format = formatOf(type);
  Type words = lanes.integer(32), single = lanes.of(b.getF32Type());
  const int dropped = 23 - format.mantissa;
  auto bitsOf = [](float number) { return int64_t(llvm::bit_cast<uint32_t>(number)); };

  Value bits = lanes.cast(value, words);
  Value magnitude = lanes.by<arith::AndIOp>(bits, 0x7fffffff);
  Value sign = lanes.by<arith::AndIOp>(lanes.by<arith::ShRUIOp>(bits, 24), 0x80);
  Value isNaN = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::ugt, magnitude, lanes.number(words, 0x7f800000));
  magnitude = lanes.by<arith::MinUIOp>(magnitude, bitsOf(format.largest)); // f32s are ordered as their bits

  // A normal number: half a unit of the last place that stays is added, less one where that place is even.
  Value odd = lanes.by<arith::AndIOp>(lanes.by<arith::ShRUIOp>(magnitude, dropped), 1);
  Value normal = arith::AddIOp::create(b, loc, magnitude, lanes.by<arith::AddIOp>(odd, (1 << (dropped - 1)) - 1));
  normal = lanes.by<arith::ShRUIOp>(normal, dropped);
  normal = lanes.by<arith::SubIOp>(normal, (127 - format.bias) << format.mantissa);
  // A subnormal one: the sum with a number whose last place is the format's least number has the code in its low bits.
  float magic = std::ldexp(1.0f, 1 - format.bias - format.mantissa + 23);
  Value sum = arith::AddFOp::create(b, loc, lanes.cast(magnitude, single), lanes.real(magic));
  Value subnormal = lanes.by<arith::SubIOp>(lanes.cast(sum, words), bitsOf(magic));

  float least = std::ldexp(1.0f, 1 - format.bias);
  Value isNormal =
      arith::CmpIOp::create(b, loc, arith::CmpIPredicate::uge, magnitude, lanes.number(words, bitsOf(least)));
  Value code = arith::SelectOp::create(b, loc, isNormal, normal, subnormal);
  code = arith::OrIOp::create(b, loc, code, sign);
  code = arith::SelectOp::create(b, loc, isNaN, lanes.number(words, 0x7f), code);
  return arith::TruncIOp::create(b, loc, lanes.integer(8), code);
}

} // namespace bitloom
