// Traced arithmetic becomes operations of the arith and math dialects or, between numbers of the host, numbers.
#include "bitloom/dsl/internal/Scopes.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"

#include <algorithm>

using namespace mlir;

namespace bitloom::trace {

template <class Op> static Node make(Location at, Value a) { return nodeOf(Op::create(session().builder, at, a)); }
template <class Op> static Node make(Location at, Value a, Value b) {
  return nodeOf(Op::create(session().builder, at, a, b).getResult());
}

static Value constantLike(Value like, int64_t number, Location at) {
  Type element = tile::elementOf(like.getType());
  return splatTo(constantOf(element, isa<FloatType>(element) ? Node::host(double(number)) : Node::host(number), at),
                 tile::shapeOf(like.getType()), at);
}

Node unary(Unary op, DType dtype, Node node, SourceLocation where) {
  checkComputes(dtype, where);
  if (node.onHost() && !tracing()) {
    if (op == Unary::Negate)
      return Node::host(-node.hostInt);
    session(where);
  }
  Value a = valueOf(node, dtype, where);
  Location at = locationOf(where, a);
  OpBuilder &builder = session().builder;
  switch (op) {
  case Unary::Negate:
    if (isFloat(dtype))
      return make<arith::NegFOp>(at, a);
    return make<arith::SubIOp>(at, constantLike(a, 0, at), a);
  case Unary::Not:
    return make<arith::XOrIOp>(at, a, constantLike(a, -1, at));
  case Unary::Abs:
    if (isFloat(dtype))
      return make<math::AbsFOp>(at, a);
    return isSigned(dtype) ? make<math::AbsIOp>(at, a) : nodeOf(a);
  case Unary::Exp:
    return make<math::ExpOp>(at, a);
  case Unary::Exp2:
    return make<math::Exp2Op>(at, a);
  case Unary::Expm1:
    return make<math::ExpM1Op>(at, a);
  case Unary::Log:
    return make<math::LogOp>(at, a);
  case Unary::Log2:
    return make<math::Log2Op>(at, a);
  case Unary::ApproxLog2:
    return nodeOf(math::Log2Op::create(builder, at, a, arith::FastMathFlags::afn));
  case Unary::Log1p:
    return make<math::Log1pOp>(at, a);
  case Unary::ApproxReciprocal:
    return nodeOf(arith::DivFOp::create(builder, at, constantLike(a, 1, at), a, arith::FastMathFlags::afn));
  case Unary::Sqrt:
    return make<math::SqrtOp>(at, a);
  case Unary::Rsqrt:
    return make<math::RsqrtOp>(at, a);
  case Unary::Sin:
    return make<math::SinOp>(at, a);
  case Unary::Cos:
    return make<math::CosOp>(at, a);
  case Unary::Tanh:
    return make<math::TanhOp>(at, a);
  case Unary::Erf:
    return make<math::ErfOp>(at, a);
  case Unary::Floor:
    return make<math::FloorOp>(at, a);
  case Unary::Ceil:
    return make<math::CeilOp>(at, a);
  case Unary::Round:
    return nodeOf(math::RoundEvenOp::create(builder, at, a));
  }
  throw InternalError("an elementwise operation with no lowering");
}

// Integer arithmetic on numbers known on the host: what grid() needs.
static Node onHost(Binary op, int64_t a, int64_t b, SourceLocation at) {
  if ((op == Binary::Div || op == Binary::Rem || op == Binary::CeilDiv) && b == 0)
    throw UserError(at, "expected a divisor other than 0");
  switch (op) {
  case Binary::Add:
    return Node::host(a + b);
  case Binary::Sub:
    return Node::host(a - b);
  case Binary::Mul:
    return Node::host(a * b);
  case Binary::Div:
    return Node::host(a / b);
  case Binary::Rem:
    return Node::host(a % b);
  case Binary::CeilDiv:
    return Node::host((a + b - 1) / b);
  case Binary::Min:
    return Node::host(std::min(a, b));
  case Binary::Max:
    return Node::host(std::max(a, b));
  default:
    throw UserError(at, "expected this operation inside a kernel, got one where no kernel is traced");
  }
}

static Node compare(Location at, DType dtype, arith::CmpFPredicate f, arith::CmpIPredicate s, arith::CmpIPredicate u,
                    Value a, Value b) {
  OpBuilder &builder = session().builder;
  if (isFloat(dtype))
    return nodeOf(arith::CmpFOp::create(builder, at, f, a, b));
  return nodeOf(arith::CmpIOp::create(builder, at, isSigned(dtype) ? s : u, a, b));
}

Node binary(Binary op, DType dtype, Node left, Node right, SourceLocation where) {
  checkComputes(dtype, where);
  if (!tracing() && left.onHost() && right.onHost())
    return onHost(op, left.hostInt, right.hostInt, where);
  session(where);
  Value operands[] = {valueOf(left, dtype, where), valueOf(right, dtype, where)};
  unify(operands, where);
  auto [a, b] = operands;
  Location at = locationOf(where, a);
  bool real = isFloat(dtype), sign = isSigned(dtype);
  if (real && (op == Binary::And || op == Binary::Or || op == Binary::Xor || op == Binary::ShiftLeft ||
               op == Binary::ShiftRight))
    throw UserError(where,
                    "expected integers for a bitwise operation, got " + std::string(nameOf(dtype)) + ": use bitcast");
  switch (op) {
  case Binary::Add:
    return real ? make<arith::AddFOp>(at, a, b) : make<arith::AddIOp>(at, a, b);
  case Binary::Sub:
    return real ? make<arith::SubFOp>(at, a, b) : make<arith::SubIOp>(at, a, b);
  case Binary::Mul:
    return real ? make<arith::MulFOp>(at, a, b) : make<arith::MulIOp>(at, a, b);
  case Binary::Div:
    return real   ? make<arith::DivFOp>(at, a, b)
           : sign ? make<arith::DivSIOp>(at, a, b)
                  : make<arith::DivUIOp>(at, a, b);
  case Binary::Rem:
    return real   ? make<arith::RemFOp>(at, a, b)
           : sign ? make<arith::RemSIOp>(at, a, b)
                  : make<arith::RemUIOp>(at, a, b);
  case Binary::Min:
    return real   ? make<arith::MinimumFOp>(at, a, b)
           : sign ? make<arith::MinSIOp>(at, a, b)
                  : make<arith::MinUIOp>(at, a, b);
  case Binary::Max:
    return real   ? make<arith::MaximumFOp>(at, a, b)
           : sign ? make<arith::MaxSIOp>(at, a, b)
                  : make<arith::MaxUIOp>(at, a, b);
  case Binary::And:
    return make<arith::AndIOp>(at, a, b);
  case Binary::Or:
    return make<arith::OrIOp>(at, a, b);
  case Binary::Xor:
    return make<arith::XOrIOp>(at, a, b);
  case Binary::ShiftLeft:
    return make<arith::ShLIOp>(at, a, b);
  case Binary::ShiftRight:
    return sign ? make<arith::ShRSIOp>(at, a, b) : make<arith::ShRUIOp>(at, a, b);
  case Binary::Pow:
    if (!real)
      throw UserError(where, "expected floats for pow, got " + std::string(nameOf(dtype)));
    return make<math::PowFOp>(at, a, b);
  case Binary::MulHigh:
    return nodeOf(arith::MulUIExtendedOp::create(session().builder, at, a, b).getHigh());
  case Binary::CeilDiv: {
    Value up = valueOf(make<arith::AddIOp>(at, a, valueOf(make<arith::SubIOp>(at, b, constantLike(b, 1, at)))));
    return sign ? make<arith::DivSIOp>(at, up, b) : make<arith::DivUIOp>(at, up, b);
  }
    using F = arith::CmpFPredicate;
    using I = arith::CmpIPredicate;
  case Binary::Equal:
    return compare(at, dtype, F::OEQ, I::eq, I::eq, a, b);
  case Binary::NotEqual:
    return compare(at, dtype, F::UNE, I::ne, I::ne, a, b);
  case Binary::Less:
    return compare(at, dtype, F::OLT, I::slt, I::ult, a, b);
  case Binary::LessEqual:
    return compare(at, dtype, F::OLE, I::sle, I::ule, a, b);
  case Binary::Greater:
    return compare(at, dtype, F::OGT, I::sgt, I::ugt, a, b);
  case Binary::GreaterEqual:
    return compare(at, dtype, F::OGE, I::sge, I::uge, a, b);
  }
  throw InternalError("an elementwise operation with no lowering");
}

Node fma(DType dtype, Node a, Node b, Node c, SourceLocation where) {
  checkComputes(dtype, where);
  session(where);
  Value v[] = {valueOf(a, dtype, where), valueOf(b, dtype, where), valueOf(c, dtype, where)};
  unify(v, where);
  if (isFloat(dtype))
    return nodeOf(math::FmaOp::create(session().builder, locationOf(where, v[0]), v[0], v[1], v[2]));
  return binary(Binary::Add, dtype, binary(Binary::Mul, dtype, a, b, where), c, where);
}

Node select(DType dtype, Node condition, Node yes, Node no, SourceLocation where) {
  session(where);
  Value v[] = {valueOf(condition, DType::b1, where), valueOf(yes, dtype, where), valueOf(no, dtype, where)};
  unify(v, where);
  return nodeOf(arith::SelectOp::create(session().builder, locationOf(where, v[0]), v[0], v[1], v[2]));
}

template <class Op> static Node convert(Location at, Value a, Type element) {
  return nodeOf(Op::create(session().builder, at, tile::tileOf(tile::shapeOf(a.getType()), element), a));
}

Node cast(DType from, DType to, Node node, SourceLocation where) {
  if (from == to)
    return node;
  if (node.onHost() && !tracing())
    return node;
  // 8-bit floats are converted to and from f32, f16 and bf16 alone; what else there is goes through f32, exactly but
  // for f64. Integers too large for f32 saturate anyhow.
  auto isDirect = [](DType other) { return isFloat(other) && factsOf(other).bits <= 32 && !isStorageFloat(other); };
  if ((isStorageFloat(from) && !isDirect(to)) || (isStorageFloat(to) && !isDirect(from)))
    return cast(DType::f32, to, cast(from, DType::f32, node, where), where);
  Value a = valueOf(node, from, where);
  Location at = locationOf(where, a);
  Type target = typeOf(to);
  if (to == DType::b1)
    return binary(Binary::NotEqual, from, node, Node::host(int64_t{0}), where);
  if (isFloat(from) && isFloat(to)) {
    if (factsOf(from).bits == factsOf(to).bits) // f16 and bf16 go through f32
      return cast(DType::f32, to, cast(from, DType::f32, node, where), where);
    if (factsOf(from).bits < factsOf(to).bits)
      return convert<arith::ExtFOp>(at, a, target);
    return convert<arith::TruncFOp>(at, a, target);
  }
  if (isFloat(to))
    return isSigned(from) ? convert<arith::SIToFPOp>(at, a, target) : convert<arith::UIToFPOp>(at, a, target);
  if (isFloat(from))
    return isSigned(to) ? convert<arith::FPToSIOp>(at, a, target) : convert<arith::FPToUIOp>(at, a, target);
  unsigned width = tile::elementOf(a.getType()).getIntOrFloatBitWidth(), wanted = target.getIntOrFloatBitWidth();
  if (width == wanted)
    return nodeOf(a);
  if (width > wanted)
    return convert<arith::TruncIOp>(at, a, target);
  return isSigned(from) ? convert<arith::ExtSIOp>(at, a, target) : convert<arith::ExtUIOp>(at, a, target);
}

Node bitcast(DType from, DType to, Node node, SourceLocation where) {
  Value a = valueOf(node, from, where);
  Type target = typeOf(to);
  if (tile::elementOf(a.getType()) == target)
    return nodeOf(a);
  return convert<arith::BitcastOp>(locationOf(where, a), a, target);
}

} // namespace bitloom::trace
