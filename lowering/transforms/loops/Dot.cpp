// Matrix products: a block of rows and vectors of columns stays in registers while the inner dimension is walked.
#include "bitloom/lowering/Explain.h"
#include "bitloom/lowering/transforms/loops/KernelLowering.h"

#include "mlir/Dialect/Math/IR/Math.h"

using namespace mlir;
using namespace bitloom::tile;

namespace bitloom::loops {

Value KernelLowering::convert(Value value, Type element, bool isUnsigned) {
  Type from = getElementTypeOrSelf(value.getType()), to = vectorOf(element, lanesOf(value));
  if (from == element)
    return value;
  unsigned have = from.getIntOrFloatBitWidth(), want = element.getIntOrFloatBitWidth();
  if (isa<FloatType>(from)) {
    if (have == want) { // f16 and bf16
      Type wide = vectorOf(builder.getF32Type(), lanesOf(value));
      value = pure<arith::ExtFOp>(value, wide, value);
      return pure<arith::TruncFOp>(value, to, value);
    }
    return have < want ? pure<arith::ExtFOp>(value, to, value) : pure<arith::TruncFOp>(value, to, value);
  }
  if (have > want)
    return pure<arith::TruncIOp>(value, to, value);
  return isUnsigned ? pure<arith::ExtUIOp>(value, to, value) : pure<arith::ExtSIOp>(value, to, value);
}

// The tile in memory, converted once and not once for each row or column of the other operand.
Buffer KernelLowering::operandAs(Value tile, Type element, bool isUnsigned) {
  if (const Buffer *known = bufferOf(tile); known && known->element == element)
    return *known;
  ArrayRef<int64_t> shape = shapeOf(tile.getType());
  Buffer buffer = allocate(shape, element);
  int dim = vectorDim(shape);
  int64_t width = dim < 0 ? 1 : lanesFor(tile, shape[dim]);
  width = std::max<int64_t>(1, std::min<int64_t>(width, 2 * target.vectorBits / element.getIntOrFloatBitWidth()));
  nest(
      shape, width, 2,
      [&](const Place &place) -> Values { return {convert(evaluate(tile, place), element, isUnsigned)}; },
      [&](const Place &place, ValueRange values) { write(buffer, place, values[0]); });
  return buffer;
}

void KernelLowering::lowerDot(DotOp op) {
  Type element = elementOf(op.getType());
  int64_t rows = shapeOf(op.getType())[0], columns = shapeOf(op.getType())[1];
  Buffer operands[] = {operandAs(op.getA(), element, op.getUnsignedA()),
                       operandAs(op.getB(), element, op.getUnsignedB())};
  auto known = inPlace.find(op);
  Buffer result = known == inPlace.end() ? allocate({rows, columns}, element) : known->second;
  int64_t width = std::min<int64_t>(target.vectorBits / std::max(8u, element.getIntOrFloatBitWidth()),
                                    llvm::bit_floor(uint64_t(columns)));
  // Two vectors of columns by half as many rows as there are registers, less some for the operands.
  int64_t tallest = target.vectorRegisters >= 32 ? 8 : 4;

  explainChoice(op, [&] {
    return "dot of " + std::to_string(rows) + " x " + std::to_string(columns) + ": element by element, " +
           std::to_string(std::min(tallest, rows)) + " rows by " + std::to_string(columns >= 2 * width ? 2 : 1) +
           " vectors of " + std::to_string(width) + " columns at once, since " + target.name + " has " +
           std::to_string(target.vectorRegisters) + " registers of " + std::to_string(target.vectorBits) + " bits";
  });
  auto visitColumns = [&](int64_t lanes, int64_t chunks, int64_t from, int64_t to) {
    loop(from, to, lanes * chunks, [&](Coord column) {
      for (int64_t block = tallest, row = 0; row < rows; block /= 2) {
        int64_t end = row + (rows - row) / block * block;
        loop(row, end, block, [&](Coord at) { dotBlock(op, operands, result, at, block, column, lanes, chunks); });
        row = end;
      }
    });
  };
  int64_t column = columns / (2 * width) * (2 * width);
  visitColumns(width, 2, 0, column);
  for (int64_t lanes = width; column < columns; column += lanes) {
    while (column + lanes > columns)
      lanes /= 2;
    visitColumns(lanes, 1, column, column + lanes);
  }
  scopes.back()->buffers[op] = result;
}

void KernelLowering::dotBlock(DotOp op, ArrayRef<Buffer> operands, const Buffer &result, Coord row, int64_t rows,
                              Coord column, int64_t width, int64_t chunks) {
  bool isFloat = isa<FloatType>(result.element);
  auto at = [&](Coord a, Coord b, bool vector) {
    Place place{{a, b}};
    if (vector && width > 1) {
      place.vec = 1;
      place.width = width;
    }
    return place;
  };
  Values sums;
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < chunks; ++j)
      sums.push_back(evaluate(op.getAcc(), at(row + i, column + j * width, true)));
  Value from = i64(0), to = i64(operands[0].shape[1]), one = i64(1);
  here();
  auto loop = scf::ForOp::create(builder, loc, from, to, one, sums);
  open(loop.getBody(), loop);
  Coord inner{loop.getInductionVar()};
  Values right;
  for (int64_t j = 0; j < chunks; ++j)
    right.push_back(read(operands[1], at(inner, column + j * width, true)));
  Values next;
  for (int64_t i = 0; i < rows; ++i) {
    Value left = broadcast(read(operands[0], at(row + i, inner, false)), width);
    for (int64_t j = 0; j < chunks; ++j) {
      Value sum = loop.getRegionIterArg(i * chunks + j), b = right[j];
      if (isFloat) {
        next.push_back(pure<math::FmaOp>({left, b, sum}, left, b, sum));
        continue;
      }
      Value product = pure<arith::MulIOp>({left, b}, left, b);
      next.push_back(pure<arith::AddIOp>({product, sum}, product, sum));
    }
  }
  here();
  scf::YieldOp::create(builder, loc, next);
  close();
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < chunks; ++j)
      write(result, at(row + i, column + j * width, true), loop.getResult(i * chunks + j));
}

} // namespace bitloom::loops
