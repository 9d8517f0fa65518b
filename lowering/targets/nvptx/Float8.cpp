// Conversions of 8-bit floats. From sm_89 on by cvt, two elements at a time; before, by integer arithmetic.
#include "bitloom/lowering/targets/nvptx/Emitter.h"

#include "mlir/Dialect/Arith/IR/Arith.h"

using namespace mlir;
using namespace bitloom;
using namespace bitloom::nvptx;

static bool hasConversions(Emitter &e) { return e.target.computeCapability >= 89; }
static std::string pairName(Type format) { return isa<Float8E4M3FNType>(format) ? "e4m3x2" : "e5m2x2"; }

static Value elementAt(Emitter &e, Value vector, int64_t i) {
  return LLVM::ExtractElementOp::create(e.builder, e.loc, vector, e.i32(i));
}

// Of `to` from f16 or f32, exactly.
static Value asFloat(Emitter &e, Value value, Type to) {
  unsigned have = value.getType().getIntOrFloatBitWidth(), want = to.getIntOrFloatBitWidth();
  if (value.getType() == to)
    return value;
  if (have < want)
    return arith::ExtFOp::create(e.builder, e.loc, to, value);
  if (have > want)
    return arith::TruncFOp::create(e.builder, e.loc, to, value);
  return asFloat(e, asFloat(e, value, e.builder.getF32Type()), to); // f16 to bf16
}

Registers nvptx::widenFloat8(Emitter &e, ValueRange codes, Type format, Type to) {
  OpBuilder &b = e.builder;
  Registers numbers;
  if (!hasConversions(e)) {
    for (Value code : codes)
      numbers.push_back(asFloat(e, bitloom::widenFloat8(b, e.loc, code, format), to));
    return numbers;
  }
  for (size_t i = 0; i < codes.size(); i += 2) {
    size_t count = std::min<size_t>(2, codes.size() - i);
    SmallVector<Value> pair(codes.slice(i, count));
    pair.resize(2, pair[0]);
    Value halves = e.ptx("cvt.rn.f16x2." + pairName(format) + " $0, $1;", "=r,h", b.getI32Type(), packWords(e, pair)[0],
                         /*hasSideEffects=*/false);
    halves = LLVM::BitcastOp::create(b, e.loc, VectorType::get({2}, b.getF16Type()), halves);
    for (size_t k = 0; k < count; ++k)
      numbers.push_back(asFloat(e, elementAt(e, halves, int64_t(k)), to));
  }
  return numbers;
}

static Registers narrow(Emitter &e, ValueRange numbers, Type format) {
  OpBuilder &b = e.builder;
  SmallVector<Value> singles;
  for (Value number : numbers)
    singles.push_back(asFloat(e, number, b.getF32Type()));
  Registers codes;
  if (!hasConversions(e)) {
    for (Value single : singles)
      codes.push_back(bitloom::narrowToFloat8(b, e.loc, single, format));
    return codes;
  }
  for (size_t i = 0; i < singles.size(); i += 2) {
    size_t count = std::min<size_t>(2, singles.size() - i);
    // The first operand goes to the upper byte.
    Value pair = e.ptx("cvt.rn.satfinite." + pairName(format) + ".f32 $0, $1, $2;", "=h,f,f", b.getI16Type(),
                       {singles[i + count - 1], singles[i]}, /*hasSideEffects=*/false);
    pair = LLVM::BitcastOp::create(b, e.loc, VectorType::get({2}, b.getI8Type()), pair);
    for (size_t k = 0; k < count; ++k)
      codes.push_back(elementAt(e, pair, int64_t(k)));
  }
  return codes;
}

FailureOr<bool> nvptx::lowerFloat8Cast(Emitter &e, Operation *op) {
  Type type = op->getResult(0).getType(), to = tile::elementOf(type);
  Type from = tile::elementOf(op->getOperand(0).getType());
  if (!isFloat8(from) && !isFloat8(to))
    return false;
  const bool isOfIntegers = isa<arith::SIToFPOp, arith::UIToFPOp>(op);
  if (isFloat8(to) && from.isF64())
    return op->emitOpError() << "expected f32, f16 or bf16 to convert to " << to << ", got f64";
  if (auto truncate = dyn_cast<arith::TruncFOp>(op))
    if (auto mode = truncate.getRoundingmode(); mode && *mode != arith::RoundingMode::to_nearest_even)
      return op->emitOpError() << "expected rounding to the nearest even to 8-bit floats";
  const Registers &source = e.get(op->getOperand(0));
  SmallVector<int> live;
  SmallVector<Value> values;
  for (auto [r, value] : llvm::enumerate(source)) {
    if (auto tensor = dyn_cast<RankedTensorType>(type); tensor && e.isDead(e.layout(tensor), tensor.getShape(), int(r)))
      continue;
    live.push_back(int(r));
    values.push_back(value);
    if (isOfIntegers) // by way of f32: what that rounds is beyond the largest number of 8 bits
      values.back() =
          e.builder.create(e.loc, op->getName().getIdentifier(), value, e.builder.getF32Type())->getResult(0);
  }
  Registers converted = isFloat8(from) ? nvptx::widenFloat8(e, values, from, to) : narrow(e, values, to);
  Registers result(source.size(), e.zero(to));
  for (auto [r, value] : llvm::zip(live, converted))
    result[r] = value;
  e.put(op->getResult(0), result);
  return true;
}
