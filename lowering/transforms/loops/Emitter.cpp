#include "bitloom/lowering/transforms/loops/Emitter.h"

#include "mlir/Dialect/Vector/IR/VectorOps.h"

using namespace mlir;

namespace bitloom::loops {

int Emitter::depthOf(Value value) const {
  Block *block = value.getParentBlock();
  for (int i = depth(); i > 0; --i)
    if (scopes[i]->block == block)
      return i;
  return 0;
}

int Emitter::depthOf(ValueRange values) const {
  int deepest = 0;
  for (Value value : values)
    if (value)
      deepest = std::max(deepest, depthOf(value));
  return deepest;
}

void Emitter::at(int depth) {
  Scope &scope = *scopes[depth];
  if (scope.child)
    builder.setInsertionPoint(scope.child);
  else if (!scope.block->empty() && scope.block->back().hasTrait<OpTrait::IsTerminator>())
    builder.setInsertionPoint(&scope.block->back());
  else
    builder.setInsertionPointToEnd(scope.block);
}

void Emitter::open(Block *block, Operation *parent) {
  auto scope = std::make_unique<Scope>();
  scope->block = block;
  if (!scopes.empty()) {
    scope->outerChild = scopes.back()->child;
    scopes.back()->child = parent;
  }
  scopes.push_back(std::move(scope));
}

void Emitter::close() {
  Operation *child = scopes.back()->outerChild;
  scopes.pop_back();
  if (!scopes.empty())
    scopes.back()->child = child;
}

Value Emitter::find(const Key &key) const {
  for (const auto &scope : llvm::reverse(scopes))
    if (auto it = scope->values.find(key); it != scope->values.end())
      return it->second;
  return {};
}

Value Emitter::remember(const Key &key, Value value) { return scopes[depthOf(value)]->values[key] = value; }

Value Emitter::i64(int64_t value) { return literal(builder.getI64IntegerAttr(value)); }

Value Emitter::i1(bool value) { return literal(builder.getBoolAttr(value)); }

Value Emitter::literal(TypedAttr value) {
  Value &known = literals[value];
  if (!known) {
    at(0);
    known = arith::ConstantOp::create(builder, loc, value);
  }
  return known;
}

Value Emitter::constant(TypedAttr scalar, int64_t lanes) {
  if (lanes > 1)
    scalar = DenseElementsAttr::get(cast<ShapedType>(vectorOf(scalar.getType(), lanes)), Attribute(scalar));
  return literal(scalar);
}

Value Emitter::splatLike(Value vector, TypedAttr scalar) {
  auto type = cast<VectorType>(vector.getType()).cloneWith({}, scalar.getType());
  return literal(DenseElementsAttr::get(cast<ShapedType>(type), Attribute(scalar)));
}

Value Emitter::zero(Type element, int64_t lanes) { return constant(builder.getZeroAttr(element), lanes); }

Value Emitter::valueOf(const Coord &coord) {
  if (!coord.dyn)
    return i64(coord.cst);
  return coord.cst ? add(coord.dyn, i64(coord.cst)) : coord.dyn;
}

// The largest power of two that divides it.
static int64_t powerIn(int64_t value) { return value & -value; }

Coord Emitter::plus(const Coord &a, const Coord &b) {
  if (!a.dyn || !b.dyn)
    return {a.dyn ? a.dyn : b.dyn, a.cst + b.cst, a.dyn ? a.multiple : b.multiple};
  return {sum({a.dyn, b.dyn}), a.cst + b.cst, std::min(a.multiple, b.multiple)};
}

Coord Emitter::times(const Coord &a, int64_t factor) {
  if (!a.dyn || factor == 1)
    return {a.dyn, a.cst * factor, a.multiple};
  return {mul(a.dyn, i64(factor)), a.cst * factor, a.multiple * powerIn(factor)};
}

Coord Emitter::dividedBy(const Coord &a, int64_t divisor) {
  if (divisor == 1)
    return a;
  if (!a.dyn)
    return {{}, a.cst / divisor};
  if (a.multiple % divisor == 0 && a.cst >= 0)
    return {divU(a.dyn, i64(divisor)), a.cst / divisor, a.multiple / divisor};
  int64_t multiple = a.alignedTo(divisor) ? std::min(a.multiple, powerIn(a.cst | a.multiple)) / divisor : 1;
  return {divU(valueOf(a), i64(divisor)), 0, std::max<int64_t>(multiple, 1)};
}

Coord Emitter::modulo(const Coord &a, int64_t divisor) {
  if (divisor == 1)
    return {};
  if (!a.dyn)
    return {{}, a.cst % divisor};
  if (a.multiple % divisor == 0 && a.cst >= 0)
    return {{}, a.cst % divisor};
  return {remU(valueOf(a), i64(divisor)), 0, std::min(powerIn(a.cst | a.multiple), powerIn(divisor))};
}

Value Emitter::sum(SmallVector<Value> terms) {
  Value total;
  for (int level = 0; level <= depth(); ++level)
    for (Value term : terms)
      if (depthOf(term) == level)
        total = total ? add(total, term) : term;
  return total ? total : i64(0);
}

Value Emitter::extend(Value value) {
  Type element = getElementTypeOrSelf(value.getType());
  if (element.isInteger(64))
    return value;
  Type wide = vectorOf(builder.getI64Type(), lanesOf(value));
  return pure<arith::ExtSIOp>(value, wide, value);
}

Type Emitter::vectorOf(Type element, int64_t lanes) {
  return lanes == 1 ? element : Type(VectorType::get({lanes}, element));
}

int64_t Emitter::lanesOf(Value value) {
  auto vector = dyn_cast<VectorType>(value.getType());
  return vector ? vector.getDimSize(0) : 1;
}

Value Emitter::broadcast(Value value, int64_t lanes) {
  if (lanes == 1 || isa<VectorType>(value.getType()))
    return value;
  return pure<vector::BroadcastOp>(value, vectorOf(value.getType(), lanes), value);
}

Value Emitter::shuffle(Value a, Value b, ArrayRef<int64_t> picked) {
  if (picked.size() == 1) {
    int64_t from = lanesOf(a);
    return picked[0] < from ? lane(a, picked[0]) : lane(b, picked[0] - from);
  }
  return pure<vector::ShuffleOp>({a, b}, a, b, picked);
}

Value Emitter::lane(Value vector, int64_t index) {
  if (!isa<VectorType>(vector.getType()))
    return vector;
  return pure<vector::ExtractOp>(vector, vector, index);
}

Value Emitter::lanes(ArrayRef<Value> scalars) {
  if (scalars.size() == 1)
    return scalars[0];
  return pure<vector::FromElementsOp>(scalars, vectorOf(scalars[0].getType(), scalars.size()), scalars);
}

Value Emitter::iota(int64_t lanes, Type element) {
  if (lanes == 1)
    return zero(element);
  SmallVector<Attribute> values;
  for (int64_t i = 0; i < lanes; ++i)
    values.push_back(
        builder.getIntegerAttr(element, APInt(element.getIntOrFloatBitWidth(), i, false, /*implicitTrunc=*/true)));
  return literal(DenseElementsAttr::get(cast<ShapedType>(vectorOf(element, lanes)), values));
}

// x86 traps where an integer quotient does not exist, and a lane out of bounds may well divide by zero.
Value Emitter::safeDivisor(Operation *op, Value dividend, Value divisor) {
  bool isSigned = isa<arith::DivSIOp, arith::RemSIOp, arith::CeilDivSIOp, arith::FloorDivSIOp>(op);
  if (!isSigned && !isa<arith::DivUIOp, arith::RemUIOp, arith::CeilDivUIOp>(op))
    return divisor;
  APInt known;
  if (matchPattern(divisor, m_ConstantInt(&known)) && !known.isZero() && !known.isAllOnes())
    return divisor;
  Type element = getElementTypeOrSelf(divisor.getType());
  int64_t lanes = lanesOf(divisor);
  unsigned bits = isa<IndexType>(element) ? 64 : element.getIntOrFloatBitWidth();
  auto splat = [&](const APInt &value) { return constant(builder.getIntegerAttr(element, value), lanes); };
  Value bad = compare(arith::CmpIPredicate::eq, divisor, splat(APInt::getZero(bits)));
  if (isSigned) {
    Value minusOne = compare(arith::CmpIPredicate::eq, divisor, splat(APInt::getAllOnes(bits)));
    Value lowest = compare(arith::CmpIPredicate::eq, dividend, splat(APInt::getSignedMinValue(bits)));
    Value overflow = andI(minusOne, lowest);
    bad = pure<arith::OrIOp>({bad, overflow}, bad, overflow);
  }
  return select(bad, splat(APInt(bits, 1)), divisor);
}

SmallVector<Value> Emitter::clone(Operation *op, ArrayRef<Value> operands, int64_t lanes) {
  bool vectors = llvm::any_of(operands, [](Value v) { return isa<VectorType>(v.getType()); });
  OperationState state(op->getLoc(), op->getName());
  for (Value operand : operands)
    state.operands.push_back(vectors ? broadcast(operand, lanes) : operand);
  if (state.operands.size() == 2)
    state.operands[1] = safeDivisor(op, state.operands[0], state.operands[1]);
  for (Type type : op->getResultTypes())
    state.types.push_back(vectorOf(getElementTypeOrSelf(type), vectors ? lanes : 1));
  state.attributes = op->getAttrs();
  hoist(state.operands);
  Operation *copy = builder.create(state);
  SmallVector<Value> results(copy->getResults());
  SmallVector<OpFoldResult> folded;
  if (results.size() == 1 && succeeded(copy->fold(folded)) && folded.size() == 1) {
    Value value = dyn_cast<Value>(folded[0]);
    if (auto attr = dyn_cast<Attribute>(folded[0]))
      if (auto typed = dyn_cast<TypedAttr>(attr); typed && typed.getType() == results[0].getType()) {
        value = literal(typed);
      }
    if (value && value != results[0]) {
      copy->erase();
      return {value};
    }
  }
  return results;
}

Type Emitter::stored(Type element) { return element.isInteger(1) || isFloat8(element) ? builder.getI8Type() : element; }

int64_t Emitter::bytesOf(Type element) { return llvm::divideCeil(stored(element).getIntOrFloatBitWidth(), 8); }

Value Emitter::fromStored(Value value, Type element) {
  if (isFloat8(element))
    return pure<arith::BitcastOp>(value, vectorOf(element, lanesOf(value)), value);
  if (!element.isInteger(1))
    return value;
  return compare(arith::CmpIPredicate::ne, value, zero(builder.getI8Type(), lanesOf(value)));
}

Value Emitter::toStored(Value value) {
  if (isFloat8(getElementTypeOrSelf(value.getType())))
    return pure<arith::BitcastOp>(value, vectorOf(builder.getI8Type(), lanesOf(value)), value);
  if (!getElementTypeOrSelf(value.getType()).isInteger(1))
    return value;
  return pure<arith::ExtUIOp>(value, vectorOf(builder.getI8Type(), lanesOf(value)), value);
}

Value Emitter::address(Value pointer, const Coord &index, Type element) {
  Value at = index.dyn ? address(pointer, index.dyn, element) : pointer;
  return address(at, i64(index.cst), element);
}

Value Emitter::address(Value pointer, Value index, Type element) {
  Type single = LLVM::LLVMPointerType::get(builder.getContext());
  hoist({pointer, index});
  APInt constant;
  if (matchPattern(index, m_ConstantInt(&constant)) && !isa<VectorType>(index.getType())) {
    if (constant.isZero())
      return pointer;
    return LLVM::GEPOp::create(builder, loc, single, stored(element), pointer,
                               ArrayRef<LLVM::GEPArg>{int32_t(constant.getSExtValue())});
  }
  return LLVM::GEPOp::create(builder, loc, vectorOf(single, lanesOf(index)), stored(element), pointer,
                             ValueRange{index});
}

} // namespace bitloom::loops
