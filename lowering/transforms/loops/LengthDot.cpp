// Matrix products in vectors of any length (SVE), where they are longer than NEON's: a block of rows by two vectors of
// columns stays in registers while the inner dimension is walked. In each segment of 16 bytes of a vector the same
// numbers of the left operand are repeated: of f32 four of a row, of which the instruction picks one; where it
// multiplies matrices, two rows.
#include "bitloom/lowering/transforms/loops/KernelLowering.h"

using namespace mlir;
using namespace bitloom::tile;

namespace bitloom::loops {

// A panel of the right operand is two vectors of 64 bytes wide; shorter ones take several rounds. Its sums are half of
// the registers.
constexpr int64_t tall = 8, vectors = 2, wide = vectors * 64 / 4;
constexpr int64_t inSegment = 4; // numbers

bool KernelLowering::multipliesByLength(DotOp op) {
  ArrayRef<int64_t> shape = shapeOf(op.getType());
  const bool isNew = matchPattern(op.getAcc(), m_AnyZeroFloat());
  Operation *adds = adding.lookup(op);
  return target.scalableVectors && elementOf(op.getType()).isF32() && shape[0] % tall == 0 && shape[1] % wide == 0 &&
         shapeOf(op.getA().getType())[1] % inSegment == 0 &&
         (adds ? isNew && isa<arith::AddFOp>(adds) : isNew || bufferOf(op.getAcc()));
}

void KernelLowering::multiplyByLength(DotOp op, const Buffer &left, const std::optional<Buffer> &right,
                                      const Buffer &result, std::array<Value, 2> ends) {
  Panel panel{right ? *right : allocate({left.shape[1], wide}, left.element), {}, {}};
  loop(
      0, result.shape[1], wide,
      [&](Coord column) {
        if (!right) {
          panel.column = column;
          fillPanel(panel.buffer, op.getB(), column, inSegment, op.getUnsignedB());
        }
        const int outerFloor = std::exchange(memoryFloor, depth());
        loop(
            0, result.shape[0], tall, [&](Coord row) { dotBlockByLength(op, left, panel, result, row, column); },
            ends[0]);
        memoryFloor = outerFloor;
      },
      ends[1]);
}

void KernelLowering::dotBlockByLength(DotOp op, const Buffer &left, const Panel &right, const Buffer &result, Coord row,
                                      Coord column) {
  Type floats = scalableOf(result.element, inSegment), bits = scalableOf(builder.getI1Type(), inSegment);
  Value none = literal(cast<TypedAttr>(builder.getZeroAttr(floats)));
  Value all = literal(DenseElementsAttr::get(cast<ShapedType>(bits), true));
  Value length = mul(pure<LLVM::vscale>({}, builder.getI64Type()), i64(inSegment));
  auto startOf = [&](const Buffer &buffer, Coord first, Coord second) {
    return address(buffer.pointer, linearIndex(buffer.shape, Place{{first, second}}), buffer.element);
  };
  Value from = i64(0), end = i64(wide), stride = mul(length, i64(vectors));
  here();
  auto rounds = scf::ForOp::create(builder, loc, from, end, stride);
  open(rounds.getBody(), rounds);
  Value at[vectors], masks[vectors];
  for (int64_t v = 0; v < vectors; ++v) {
    at[v] = add(rounds.getInductionVar(), mul(length, i64(v)));
    masks[v] = pure<LLVM::GetActiveLaneMaskOp>({at[v], end}, bits, at[v], end);
  }
  auto readPart = [&](Value start, int64_t v) -> Value {
    Value own = address(start, at[v], result.element);
    here();
    return LLVM::MaskedLoadOp::create(builder, loc, floats, own, masks[v], none, /*alignment=*/4);
  };

  Value depthEnd = i64(left.shape[1]), by = i64(inSegment);
  here();
  auto steps = scf::ForOp::create(builder, loc, from, depthEnd, by, Values(size_t(tall * vectors), none));
  open(steps.getBody(), steps);
  Values sums(steps.getRegionIterArgs()), columns; // by [step][vector]
  const Coord inner{steps.getInductionVar(), 0, inSegment};
  for (int64_t k = 0; k < inSegment; ++k)
    for (int64_t v = 0; v < vectors; ++v)
      columns.push_back(readPart(startOf(right.buffer, inner + k, right.column == column ? Coord() : column), v));
  // Two rows at a time: the instruction picks from eight registers only, and four sums need not wait for each other.
  constexpr int64_t together = 2;
  for (int64_t first = 0; first < tall; first += together) {
    Value rows[together];
    for (int64_t i = 0; i < together; ++i) {
      Value start = startOf(left, row + first + i, inner);
      here();
      rows[i] =
          LLVM::CallIntrinsicOp::create(builder, loc, floats, builder.getStringAttr("llvm.aarch64.sve.ld1rq.nxv4f32"),
                                        ValueRange{all, start})
              .getResult(0);
    }
    for (int64_t k = 0; k < inSegment; ++k)
      for (int64_t i = 0; i < together; ++i)
        for (int64_t v = 0; v < vectors; ++v) {
          Value &sum = sums[size_t((first + i) * vectors + v)];
          sum = callIntrinsic(
              "llvm.aarch64.sve.fmla.lane.nxv4f32", floats,
              {sum, columns[size_t(k * vectors + v)], rows[i], constant(builder.getI32IntegerAttr(int32_t(k)))});
        }
  }
  here();
  scf::YieldOp::create(builder, loc, sums);
  close();

  const Buffer *before = adding.contains(op) ? &result : bufferOf(op.getAcc()); // what the sums are added to
  for (int64_t i = 0; i < tall; ++i)
    for (int64_t v = 0; v < vectors; ++v) {
      Value sum = steps.getResult(unsigned(i * vectors + v));
      if (before)
        sum = added(readPart(startOf(*before, row + i, column), v), sum);
      Value to = address(startOf(result, row + i, column), at[v], result.element);
      here();
      LLVM::MaskedStoreOp::create(builder, loc, sum, to, masks[v], /*alignment=*/4);
    }
  close();
}

// The sums go by way of memory, where two columns after two columns lie in one order whatever the length.
Buffer KernelLowering::matrixSumsByLength(const Atom &atom, const Buffer &left, Coord leftTile, const Buffer &right,
                                          Coord rightTile, Type element) {
  constexpr int64_t segment = 16;
  const int64_t width = atom.rows * atom.block, elementBytes = segment / width;
  const int64_t down = left.shape[2] / width, bytes = right.shape[2] * elementBytes, steps = left.shape[1];
  const int64_t vectors = std::max<int64_t>(bytes / 64, 1), unroll = steps % 4 ? 1 : 4;
  Type byte = builder.getI8Type(), operandType = scalableOf(left.element, width);
  Type sumType = scalableOf(element, inSegment);
  auto masksOf = [&](int64_t number) { return scalableOf(builder.getI1Type(), number); };
  Value all = literal(DenseElementsAttr::get(cast<ShapedType>(masksOf(width)), true));
  Value none = literal(cast<TypedAttr>(builder.getZeroAttr(operandType)));
  Value zero = literal(cast<TypedAttr>(builder.getZeroAttr(sumType)));
  Value length = mul(pure<LLVM::vscale>({}, builder.getI64Type()), i64(segment));
  const Buffer sumsInMemory = allocate({down * bytes / segment * inSegment}, element);
  auto startOf = [&](const Buffer &buffer, Coord tile, Coord step) {
    return address(buffer.pointer, linearIndex(buffer.shape, Place{{tile, step, {}}}), buffer.element);
  };
  Value from = i64(0), end = i64(bytes), stride = mul(length, i64(vectors));
  here();
  auto rounds = scf::ForOp::create(builder, loc, from, end, stride);
  open(rounds.getBody(), rounds);
  Values at, readMasks, sumMasks;
  auto before = [&](Value own, int64_t size, int64_t number) {
    Value first = divU(own, i64(size)), last = i64(bytes / size);
    return pure<LLVM::GetActiveLaneMaskOp>({first, last}, masksOf(number), first, last);
  };
  for (int64_t v = 0; v < vectors; ++v) {
    at.push_back(add(rounds.getInductionVar(), mul(length, i64(v))));
    readMasks.push_back(before(at.back(), elementBytes, width));
    sumMasks.push_back(before(at.back(), segment / inSegment, inSegment));
  }
  Value stepsEnd = i64(steps), by = i64(unroll);
  here();
  auto loop = scf::ForOp::create(builder, loc, from, stepsEnd, by, Values(size_t(down * vectors), zero));
  open(loop.getBody(), loop);
  Values sums(loop.getRegionIterArgs());
  for (int64_t i = 0; i < unroll; ++i) {
    const Coord step{loop.getInductionVar(), i, unroll};
    Values rights;
    // Each step's addresses from one that LLVM knows nothing of: what is left are distances that the instructions add.
    Value leftStart = opaque(startOf(left, leftTile, step))[0], rightStart = opaque(startOf(right, rightTile, step))[0];
    for (int64_t v = 0; v < vectors; ++v) {
      Value own = address(rightStart, divU(at[size_t(v)], i64(elementBytes)), right.element);
      here();
      rights.push_back(
          LLVM::MaskedLoadOp::create(builder, loc, operandType, own, readMasks[size_t(v)], none, /*alignment=*/1));
    }
    for (int64_t j = 0; j < down; ++j) {
      Value start = address(leftStart, i64(j * width), left.element);
      here();
      StringRef name = left.element.isBF16() ? "llvm.aarch64.sve.ld1rq.nxv8bf16" : "llvm.aarch64.sve.ld1rq.nxv16i8";
      Value rows =
          LLVM::CallIntrinsicOp::create(builder, loc, operandType, builder.getStringAttr(name), ValueRange{all, start})
              .getResult(0);
      for (int64_t v = 0; v < vectors; ++v) {
        Value &sum = sums[size_t(j * vectors + v)];
        sum = callIntrinsic(atom.scalable, sumType, {sum, rows, rights[size_t(v)]});
      }
    }
  }
  here();
  scf::YieldOp::create(builder, loc, sums);
  close();
  for (int64_t j = 0; j < down; ++j)
    for (int64_t v = 0; v < vectors; ++v) {
      Value to = address(address(sumsInMemory.pointer, i64(j * bytes), byte), at[size_t(v)], byte);
      here();
      LLVM::MaskedStoreOp::create(builder, loc, loop.getResult(unsigned(j * vectors + v)), to, sumMasks[size_t(v)],
                                  /*alignment=*/4);
    }
  close();
  return sumsInMemory;
}

} // namespace bitloom::loops
