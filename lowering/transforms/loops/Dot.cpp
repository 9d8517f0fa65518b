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

// The tile in memory, converted once and not once for each row or column of the other operand. With a `panel`, as
// [columns / panel, rows, panel]: what a block of the product reads of it is then one stream.
Buffer KernelLowering::operandAs(Value tile, Type element, bool isUnsigned, int64_t panel) {
  ArrayRef<int64_t> shape = shapeOf(tile.getType());
  if (const Buffer *known = bufferOf(tile); known && known->element == element)
    return *known;
  const bool panels = panel && shape[1] > panel && shape[1] % panel == 0;
  Buffer buffer = allocate(panels ? ArrayRef<int64_t>{shape[1] / panel, shape[0], panel} : shape, element);
  int dim = vectorDim(shape);
  int64_t width = dim < 0 ? 1 : lanesFor(tile, shape[dim]);
  width = std::max<int64_t>(1, std::min<int64_t>(width, 2 * target.vectorBits / element.getIntOrFloatBitWidth()));
  nest(
      shape, width, 8,
      [&](const Place &place) -> Values { return {convert(evaluate(tile, place), element, isUnsigned)}; },
      [&](const Place &place, ValueRange values) {
        if (!panels)
          return write(buffer, place, values[0]);
        Place there{{dividedBy(place.at[1], panel), place.at[0], modulo(place.at[1], panel)}};
        there.vec = place.vec < 0 ? -1 : 2;
        there.width = place.width;
        write(buffer, there, values[0]);
      });
  return buffer;
}

void KernelLowering::lowerDot(DotOp op) {
  if (lowerMatrixDot(op))
    return;
  Type element = elementOf(op.getType());
  int64_t rows = shapeOf(op.getType())[0], columns = shapeOf(op.getType())[1];
  int64_t width = std::min<int64_t>(target.vectorBits / std::max(8u, element.getIntOrFloatBitWidth()),
                                    llvm::bit_floor(uint64_t(columns)));
  Buffer operands[] = {operandAs(op.getA(), element, op.getUnsignedA()),
                       operandAs(op.getB(), element, op.getUnsignedB(), 2 * width)};
  auto known = inPlace.find(op);
  Buffer result = known == inPlace.end() ? allocate({rows, columns}, element) : known->second;
  // Two vectors of columns by half as many rows as there are registers, less some for the operands.
  int64_t tallest = target.vectorRegisters >= 32 ? 8 : 4;

  explainChoice(op, [&] {
    return "dot of " + std::to_string(rows) + " x " + std::to_string(columns) + ": element by element, " +
           std::to_string(std::min(tallest, rows)) + " rows by " + std::to_string(columns >= 2 * width ? 2 : 1) +
           " vectors of " + std::to_string(width) + " columns at once, since " + target.name + " has " +
           std::to_string(target.vectorRegisters) + " registers of " + std::to_string(target.vectorBits) + " bits";
  });
  const Ahead ahead[] = {aheadOf(op, op.getA()), aheadOf(op, op.getB())};
  auto visitColumns = [&](int64_t lanes, int64_t chunks, int64_t from, int64_t to) {
    loop(from, to, lanes * chunks, [&](Coord column) {
      for (int64_t block = tallest, row = 0; row < rows; block /= 2) {
        int64_t end = row + (rows - row) / block * block;
        loop(row, end, block,
             [&](Coord at) { dotBlock(op, operands, ahead, result, at, block, column, lanes, chunks); });
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
  Operation *adds = adding.lookup(op);
  scopes.back()->buffers[adds ? Value(adds->getResult(0)) : op.getResult()] = result;
}

constexpr int64_t lineBytes = 64;

// Where the loop around the product finds what it multiplies next. Copying a tile waits for memory, and the product
// leaves it idle: large tiles are asked for meanwhile.
KernelLowering::Ahead KernelLowering::aheadOf(DotOp op, Value tile) {
  auto load = tile.getDefiningOp<LoadOp>();
  auto loop = op->getParentOfType<scf::ForOp>();
  if (!load || !loop || load->getBlock() != loop.getBody() || load.getDims().size() != 2 || bufferOf(tile))
    return {};
  auto type = cast<ViewType>(load.getView().getType());
  const int last = int(type.getRank()) - 1, along = load.getDims()[0] == last ? 0 : 1, across = 1 - along;
  ArrayRef<int64_t> shape = shapeOf(tile.getType());
  const int64_t bytes = bytesOf(elementOf(tile.getType()));
  Ahead result{.pointer = {},
               .element = type.getElementType(),
               .across = shape[across],
               .lines = shape[along] * bytes / lineBytes,
               .stride = {}};
  if (load.getDims()[along] != last || type.getStrided() || shape[along] * bytes % lineBytes ||
      result.lines * result.across < 512)
    return {};
  const View &memory = view(load.getView(), load);
  SmallVector<Value> terms;
  bool moves = false;
  for (auto [dim, offset] : llvm::enumerate(load.getOffsets())) {
    std::optional<Value> next = inNextRound(offset, loop);
    moves |= next.has_value();
    Value start = next ? *next : scalar(offset);
    terms.push_back(int(dim) == last ? start : mul(start, memory.strides[dim]));
  }
  if (!moves)
    return {};
  result.pointer = address(memory.pointer, sum(terms), result.element);
  result.stride = memory.strides[load.getDims()[across]];
  return result;
}

// The share of it of the number-th of `count` steps.
void KernelLowering::prefetch(const Ahead &ahead, Value number, int64_t count) {
  const int64_t total = ahead.across * ahead.lines, each = std::max<int64_t>(1, total / count);
  if (!ahead.pointer || total % each || (total > count ? total % count : count % total) || each > 4)
    return;
  Value first = total < count ? divU(number, i64(count / total)) : mul(number, i64(each));
  for (int64_t i = 0; i < each; ++i) {
    Value line = add(first, i64(i));
    Value at = address(ahead.pointer, mul(divU(line, i64(ahead.lines)), ahead.stride), ahead.element);
    at = address(at, mul(remU(line, i64(ahead.lines)), i64(lineBytes / bytesOf(ahead.element))), ahead.element);
    here();
    LLVM::Prefetch::create(builder, loc, at, /*rw=*/0, /*hint=*/2, /*cache=*/1);
  }
}

void KernelLowering::dotBlock(DotOp op, ArrayRef<Buffer> operands, ArrayRef<Ahead> ahead, const Buffer &result,
                              Coord row, int64_t rows, Coord column, int64_t width, int64_t chunks) {
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
  Operation *adds = adding.lookup(op);
  if (adds) // between two visits of a block there are all others, and stores wait for their lines
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < chunks * width; j += lineBytes / bytesOf(result.element)) {
        Coord index = linearIndex(result.shape, at(row + i, column + j, false));
        Value line = address(result.pointer, index, result.element);
        here();
        LLVM::Prefetch::create(builder, loc, line, /*rw=*/1, /*hint=*/3, /*cache=*/1);
      }
  const int64_t depth = operands[0].shape[1], steps = depth % 8 ? 1 : 8;
  const bool panels = operands[1].shape.size() == 3;
  auto rightAt = [&](Coord k, Coord column) {
    Place place = at(k, column, true);
    if (panels) {
      const int64_t panel = operands[1].shape[2];
      place.at = {dividedBy(column, panel), k, modulo(column, panel)};
      place.vec += place.vec >= 0;
    }
    return read(operands[1], place);
  };
  Value from = i64(0), to = i64(depth), by = i64(steps);
  here();
  auto loop = scf::ForOp::create(builder, loc, from, to, by, sums);
  open(loop.getBody(), loop);
  Values next(loop.getRegionIterArgs());
  const int64_t blocksDown = result.shape[0] / rows, blocksAcross = result.shape[1] / (width * chunks);
  if (result.shape[0] % rows == 0 && result.shape[1] % (width * chunks) == 0) {
    Value block = add(mul(valueOf(dividedBy(column, width * chunks)), i64(blocksDown)), valueOf(dividedBy(row, rows)));
    Value number = add(mul(block, i64(depth / steps)), divU(loop.getInductionVar(), i64(steps)));
    for (const Ahead &operand : ahead)
      prefetch(operand, number, blocksDown * blocksAcross * (depth / steps));
  }
  for (int64_t step = 0; step < steps; ++step) {
    Coord inner{loop.getInductionVar(), step, steps};
    Values right;
    for (int64_t j = 0; j < chunks; ++j)
      right.push_back(rightAt(inner, column + j * width));
    for (int64_t i = 0; i < rows; ++i) {
      Value left = broadcast(read(operands[0], at(row + i, inner, false)), width);
      for (int64_t j = 0; j < chunks; ++j) {
        Value &sum = next[i * chunks + j], b = right[j];
        if (isFloat) {
          sum = pure<math::FmaOp>({left, b, sum}, left, b, sum);
          continue;
        }
        Value product = pure<arith::MulIOp>({left, b}, left, b);
        sum = pure<arith::AddIOp>({product, sum}, product, sum);
      }
    }
  }
  here();
  scf::YieldOp::create(builder, loc, next);
  close();
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < chunks; ++j) {
      Place place = at(row + i, column + j * width, true);
      Value sum = loop.getResult(i * chunks + j);
      if (adds)
        sum = clone(adds, {readNow(result, place), sum}, width)[0];
      write(result, place, sum);
    }
}

} // namespace bitloom::loops
