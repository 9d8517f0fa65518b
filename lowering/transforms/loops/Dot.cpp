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
  ArrayRef<int64_t> shape = shapeOf(tile.getType());
  if (const Buffer *known = bufferOf(tile); known && known->element == element)
    return *known;
  Buffer buffer = allocate(shape, element);
  if (fillTransposed(buffer, tile, {}, isUnsigned))
    return buffer;
  int dim = vectorDim(shape);
  int64_t width = dim < 0 ? 1 : lanesFor(tile, shape[dim]);
  width = std::max<int64_t>(1, std::min<int64_t>(width, 2 * target.vectorBits / element.getIntOrFloatBitWidth()));
  nest(
      shape, width, 8,
      [&](const Place &place) -> Values { return {convert(evaluate(tile, place), element, isUnsigned)}; },
      [&](const Place &place, ValueRange values) { write(buffer, place, values[0]); });
  return buffer;
}

// The columns of the tile from `column` on, as many vectors as the panel has: the first-level cache holds it while all
// rows of the product want it, and nothing else of the tile is ever copied.
void KernelLowering::fillPanel(const Buffer &panel, Value tile, Coord column, int64_t width, bool isUnsigned) {
  loop(0, panel.shape[0], 1, [&](Coord row) {
    splitUnrolled({}, [&]() -> Values {
      Values values;
      Place there{{row, {}}, width > 1 ? 1 : -1, width};
      for (int64_t at = 0; at < panel.shape[1]; at += width) {
        Place place = there;
        place.at[1] = column + at;
        values.push_back(convert(evaluate(tile, place), panel.element, isUnsigned));
      }
      for (Value value : values) {
        write(panel, there, value);
        there.at[1].cst += width;
      }
      return {};
    });
  });
}

// The same of a transposed tile, whose columns lie along its rows in memory: squares of them change places in
// registers. False for any other tile, and where no squares cover the buffer.
bool KernelLowering::fillTransposed(const Buffer &buffer, Value tile, Coord column, bool isUnsigned) {
  auto transpose = tile.getDefiningOp<TransposeOp>();
  const int64_t side = target.vectorBits / buffer.element.getIntOrFloatBitWidth();
  if (!transpose || bufferOf(tile) || side < 2 || buffer.shape[0] % side || buffer.shape[1] % side)
    return false;
  loop(0, buffer.shape[1], side, [&](Coord across) {
    loop(0, buffer.shape[0], side, [&](Coord down) {
      splitUnrolled({}, [&]() -> Values {
        Values square;
        for (int64_t i = 0; i < side; ++i) {
          Place place{{plus(column, across) + i, down}, 1, side};
          square.push_back(convert(evaluate(transpose.getSource(), place), buffer.element, isUnsigned));
        }
        for (auto [i, value] : llvm::enumerate(perfectShuffles(square)))
          write(buffer, Place{{down + int64_t(i), across}, 1, side}, value);
        return {};
      });
    });
  });
  return true;
}

void KernelLowering::lowerDot(DotOp op) {
  if (lowerMatrixDot(op))
    return;
  Type element = elementOf(op.getType());
  int64_t rows = shapeOf(op.getType())[0], columns = shapeOf(op.getType())[1];
  int64_t width = std::min<int64_t>(target.vectorBits / std::max(8u, element.getIntOrFloatBitWidth()),
                                    llvm::bit_floor(uint64_t(columns)));
  const Buffer left = operandAs(op.getA(), element, op.getUnsignedA());
  const Buffer *there = bufferOf(op.getB());
  const std::optional<Buffer> right = there && there->element == element ? std::optional(*there) : std::nullopt;
  auto known = inPlace.find(op);
  Buffer result = known == inPlace.end() ? allocate({rows, columns}, element) : known->second;
  // Half of the registers for sums: as many rows as vectors of columns need the fewest operands for them.
  constexpr int64_t tallest = 4;
  const int64_t widest = target.vectorRegisters >= 32 && columns >= 4 * width ? 4 : columns >= 2 * width ? 2 : 1;

  const bool isByLength = multipliesByLength(op);
  explainChoice(op, [&] {
    return "dot of " + std::to_string(rows) + " x " + std::to_string(columns) + ": element by element, " +
           std::to_string(std::min(tallest, rows)) + " rows by " + std::to_string(widest) + " vectors of " +
           std::to_string(width) + " columns at once" +
           (isByLength ? ", 8 rows by two vectors where they are longer" : "") + ", since " + target.name + " has " +
           std::to_string(target.vectorRegisters) + " registers of " + std::to_string(target.vectorBits) + " bits";
  });
  const Ahead leftAhead = aheadOf(op, op.getA()), rightAhead = aheadOf(op, op.getB());
  const std::array<Value, 2> ends = wantedOf(op);
  const auto [rowsEnd, columnsEnd] = ends;
  auto visitColumns = [&, rowsEnd = rowsEnd, columnsEnd = columnsEnd](int64_t lanes, int64_t chunks, int64_t from,
                                                                      int64_t to) {
    Panel panel{right ? *right : allocate({left.shape[1], lanes * chunks}, element), {}, {}};
    auto visitPanel = [&](Coord column) {
      if (!right) {
        panel.column = column;
        panel.ahead = panelAhead(rightAhead, column + lanes * chunks, lanes * chunks);
        fillPanel(panel.buffer, op.getB(), column, lanes, op.getUnsignedB());
      }
      const int outerFloor = std::exchange(memoryFloor, right ? memoryFloor : depth()); // each time another panel
      for (int64_t block = tallest, row = 0; row < rows; block /= 2) {
        int64_t end = row + (rows - row) / block * block;
        auto visitBlock = [&](Coord at) {
          dotBlock(op, left, leftAhead, panel, result, at, block, column, lanes, chunks);
        };
        loop(row, end, block, visitBlock, rowsEnd);
        row = end;
      }
      memoryFloor = outerFloor;
    };
    loop(from, to, lanes * chunks, visitPanel, columnsEnd);
  };
  auto visitAll = [&] {
    int64_t column = 0;
    for (int64_t chunks = widest, lanes = width; column < columns;) {
      int64_t end = column + (columns - column) / (lanes * chunks) * (lanes * chunks);
      if (end > column)
        visitColumns(lanes, chunks, column, end);
      column = end;
      (chunks > 1 ? chunks : lanes) /= 2;
    }
  };
  if (isByLength)
    forEitherLength([&] { multiplyByLength(op, left, right, result, ends); }, visitAll);
  else
    visitAll();
  Operation *adds = adding.lookup(op);
  scopes.back()->buffers[adds ? Value(adds->getResult(0)) : op.getResult()] = result;
}

// The rows and columns that somebody wants: where a loop adds up products and its result is only stored, those of the
// view. Without that a tile at the end of a ragged product were computed whole.
std::array<Value, 2> KernelLowering::wantedOf(DotOp op) {
  auto loop = dyn_cast<scf::ForOp>(op->getParentOp());
  if (!loop || !inPlace.contains(op))
    return {};
  Operation *adds = adding.lookup(op);
  ValueRange yielded = loop.getYieldedValues();
  auto sum = llvm::find(yielded, adds ? Value(adds->getResult(0)) : op.getResult());
  const Fusion::Sinks &sinks = fusion.sinks(loop.getResult(unsigned(sum - yielded.begin())));
  auto store = sinks.size() == 1 ? dyn_cast<StoreOp>(sinks[0]) : StoreOp();
  llvm::SetVector<LoadOp> loads;
  if (!store || store->getBlock() != loop->getBlock() || shapeOf(store.getValue().getType()) != shapeOf(op.getType()) ||
      !readsInOrder(store.getValue(), loop, /*elementwise=*/true, loads))
    return {};
  std::array<Value, 2> ends;
  const View &memory = view(store.getView(), store);
  for (auto [end, dim] : llvm::zip(ends, store.getDims()))
    end = sub(memory.extents[dim], scalar(store.getOffsets()[dim]));
  return ends;
}

constexpr int64_t lineBytes = 64;

// Where the loop around the product finds what it multiplies next. Copying a tile waits for memory, and the product
// leaves it idle: large tiles are asked for meanwhile.
KernelLowering::Ahead KernelLowering::aheadOf(DotOp op, Value tile) {
  auto transpose = bufferOf(tile) ? TransposeOp() : tile.getDefiningOp<TransposeOp>();
  if (transpose)
    tile = transpose.getSource();
  auto load = tile.getDefiningOp<LoadOp>();
  auto loop = op->getParentOfType<scf::ForOp>();
  if (!load || !loop || load->getBlock() != loop.getBody() || load.getDims().size() != 2 || bufferOf(tile))
    return {};
  auto type = cast<ViewType>(load.getView().getType());
  const int last = int(type.getRank()) - 1, along = load.getDims()[0] == last ? 0 : 1, across = 1 - along;
  ArrayRef<int64_t> shape = shapeOf(tile.getType());
  const int64_t bytes = bytesOf(elementOf(tile.getType()));
  Ahead result{.element = type.getElementType(),
               .across = shape[across],
               .lines = shape[along] * bytes / lineBytes,
               .columnsAlong = (along == 1) != bool(transpose)};
  if (load.getDims()[along] != last || type.getStrided() || shape[along] * bytes % lineBytes ||
      result.lines * result.across < 512)
    return {};
  const View &memory = view(load.getView(), load);
  SmallVector<Value> here, next;
  bool moves = false;
  for (auto [dim, offset] : llvm::enumerate(load.getOffsets())) {
    std::optional<Value> later = inNextRound(offset, loop);
    moves |= later.has_value();
    Value start = scalar(offset);
    here.push_back(int(dim) == last ? start : mul(start, memory.strides[dim]));
    next.push_back(!later ? here.back() : int(dim) == last ? *later : mul(*later, memory.strides[dim]));
  }
  if (!moves)
    return {};
  result.now = address(memory.pointer, sum(here), result.element);
  result.pointer = address(memory.pointer, sum(next), result.element);
  result.stride = memory.strides[load.getDims()[across]];
  return result;
}

// Of that, the columns from `column` on, `width` of them: of the present tile, or the next one's first where it ends.
KernelLowering::Ahead KernelLowering::panelAhead(const Ahead &tile, Coord column, int64_t width) {
  const int64_t perLine = tile.pointer ? lineBytes / bytesOf(tile.element) : 1;
  const int64_t columns = tile.columnsAlong ? tile.lines * perLine : tile.across;
  Ahead result = tile;
  if (!tile.pointer || width >= columns)
    return result;
  if (tile.columnsAlong && width % perLine)
    return {};
  Value at = tile.columnsAlong ? valueOf(column) : mul(valueOf(column), tile.stride);
  Value present = address(tile.now, at, tile.element);
  Value isInside = compare(arith::CmpIPredicate::slt, valueOf(column), i64(columns));
  result.pointer = select(isInside, present, tile.pointer);
  (tile.columnsAlong ? result.lines : result.across) = tile.columnsAlong ? width / perLine : width;
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

void KernelLowering::dotBlock(DotOp op, const Buffer &left, const Ahead &ahead, const Panel &right,
                              const Buffer &result, Coord row, int64_t rows, Coord column, int64_t width,
                              int64_t chunks) {
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
  const int64_t depth = left.shape[1], steps = depth % 8 ? 1 : 8;
  const Coord first = right.column == column ? Coord() : column; // in what there is of the right operand
  Value from = i64(0), to = i64(depth), by = i64(steps);
  here();
  auto loop = scf::ForOp::create(builder, loc, from, to, by, sums);
  open(loop.getBody(), loop);
  Values next(loop.getRegionIterArgs());
  if (result.shape[0] % rows == 0 && result.shape[1] % (width * chunks) == 0) {
    const int64_t blocksDown = result.shape[0] / rows, panels = result.shape[1] / (width * chunks);
    Value step = divU(loop.getInductionVar(), i64(steps)), block = valueOf(dividedBy(row, rows));
    Value ofAll = add(mul(valueOf(dividedBy(column, width * chunks)), i64(blocksDown)), block);
    prefetch(ahead, add(mul(ofAll, i64(depth / steps)), step), panels * blocksDown * (depth / steps));
    prefetch(right.ahead, add(mul(block, i64(depth / steps)), step), blocksDown * (depth / steps));
  }
  for (int64_t step = 0; step < steps; ++step) {
    Coord inner{loop.getInductionVar(), step, steps};
    Values vectors;
    for (int64_t j = 0; j < chunks; ++j)
      vectors.push_back(read(right.buffer, at(inner, first + j * width, true)));
    for (int64_t i = 0; i < rows; ++i) {
      Value a = broadcast(read(left, at(row + i, inner, false)), width);
      for (int64_t j = 0; j < chunks; ++j) {
        Value &sum = next[i * chunks + j], b = vectors[j];
        if (isFloat) {
          sum = pure<math::FmaOp>({a, b, sum}, a, b, sum);
          continue;
        }
        Value product = pure<arith::MulIOp>({a, b}, a, b);
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
