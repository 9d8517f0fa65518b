// Conversions of layout and the operations on shapes: each is an exchange (Exchange.cpp) between the layout of its
// source, under the result's dims, and the result's.
#include "bitloom/lowering/targets/nvptx/Emitter.h"

#include "mlir/Dialect/Arith/IR/Arith.h"

using namespace mlir;
using namespace bitloom;
using namespace bitloom::nvptx;

LogicalResult nvptx::lower(Emitter &e, tile::ConvertLayoutOp convert) {
  if (isShared(convert.getType()))
    return putInShared(e, convert), success();
  if (isShared(convert.getSource().getType()))
    return e.put(convert, loadConverted(e, convert)), success();
  RankedTensorType from = convert.getSource().getType();
  e.put(convert, exchange(e, e.get(convert.getSource()), from.getElementType(), e.layout(from), from.getShape(),
                          e.layout(convert.getType())));
  return success();
}

LogicalResult nvptx::lower(Emitter &e, tile::ReshapeOp reshape) {
  RankedTensorType from = reshape.getSource().getType(), to = reshape.getType();
  Type element = from.getElementType();
  if (std::optional<LinearLayout> moved = reshapedLayout(e.layout(from), from.getShape(), to.getShape())) {
    e.put(reshape, exchange(e, e.get(reshape.getSource()), element, *moved, to.getShape(), e.layout(to)));
    return success();
  }
  Value base = e.scratch(from.getNumElements() * bytesOf(element));
  storeShared(e, e.get(reshape.getSource()), e.layout(from), from.getShape(), base);
  e.barrier();
  const LinearLayout::Vector start(size_t(to.getRank()), 0);
  e.put(reshape, loadShared(e, element, e.layout(to), to.getShape(), start, base));
  return success();
}

LogicalResult nvptx::lower(Emitter &e, tile::TransposeOp transpose) {
  if (isShared(transpose.getType())) // the same bytes under the other name
    return e.putShared(transpose, e.sharedTile(transpose.getSource())), success();
  RankedTensorType from = transpose.getSource().getType(), to = transpose.getType();
  LinearLayout moved = transposedLayout(e.layout(from), transpose.getPermutation());
  e.put(transpose,
        exchange(e, e.get(transpose.getSource()), from.getElementType(), moved, to.getShape(), e.layout(to)));
  return success();
}

LogicalResult nvptx::lower(Emitter &e, tile::BroadcastOp broadcast) {
  RankedTensorType from = broadcast.getSource().getType(), to = broadcast.getType();
  // The result's layout with the repeated coordinates held at 0, every register kept.
  LinearLayout read = e.layout(to);
  for (auto [d, extent] : llvm::enumerate(from.getShape()))
    if (extent == 1)
      read = read.dropOutDim(dimName(d)).addOutDim(dimName(d), d, 1);
  e.put(broadcast,
        exchange(e, e.get(broadcast.getSource()), from.getElementType(), e.layout(from), from.getShape(), read));
  return success();
}

// The thread's and the register's bit of the last coordinate, of extent 2; null when it is 0.
static Value lastBit(Emitter &e, const LinearLayout &layout, int r) {
  int last = int(layout.outs().size()) - 1;
  if (!e.threadBits(layout, last))
    return e.registerCoordinates(layout)[r][last] ? e.truth(true) : Value();
  return e.compare(e.coordinate(layout, last, r), "ne", e.i32(0));
}

LogicalResult nvptx::lower(Emitter &e, tile::JoinOp join) {
  RankedTensorType half = join.getLhs().getType(), pair = join.getType();
  const LinearLayout &layout = e.layout(pair);
  LinearLayout read = layout.dropOutDim(dimName(half.getRank())); // every register kept
  Registers left = exchange(e, e.get(join.getLhs()), half.getElementType(), e.layout(half), half.getShape(), read);
  Registers right = exchange(e, e.get(join.getRhs()), half.getElementType(), e.layout(half), half.getShape(), read);
  bool inRegisters = !e.threadBits(layout, int(half.getRank()));
  Registers result;
  for (size_t r = 0; r < left.size(); ++r) {
    Value isRight = lastBit(e, layout, r);
    if (inRegisters)
      result.push_back(isRight ? right[r] : left[r]);
    else
      result.push_back(e.select(isRight, right[r], left[r]));
  }
  e.put(join, result);
  return success();
}

LogicalResult nvptx::lower(Emitter &e, tile::SplitOp split) {
  RankedTensorType pair = split.getSource().getType(), half = split.getLhs().getType();
  LinearLayout layout = e.layout(half);
  LinearLayout read = layout.addOutDim(dimName(half.getRank()), int(half.getRank()), 1);
  SmallVector<int64_t> offsets(pair.getRank(), 0);
  for (int64_t side = 0; side < 2; ++side) {
    offsets.back() = side;
    e.put(split.getResult(side),
          exchange(e, e.get(split.getSource()), half.getElementType(), e.layout(pair), pair.getShape(), read, offsets));
  }
  return success();
}

LogicalResult nvptx::lower(Emitter &e, tile::SliceOp slice) {
  RankedTensorType from = slice.getSource().getType(), to = slice.getType();
  e.put(slice, exchange(e, e.get(slice.getSource()), from.getElementType(), e.layout(from), from.getShape(),
                        e.layout(to), slice.getOffsets()));
  return success();
}
