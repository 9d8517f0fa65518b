// One chunk of a tile: what an operation yields at a place, from what its operands yield at the places it reads.
#include "bitloom/lowering/transforms/loops/KernelLowering.h"

#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;
using namespace bitloom::tile;

namespace bitloom::loops {

// One form for each place: extents of 1 have coordinate 0, and a chunk of one element no direction.
Place KernelLowering::normal(ArrayRef<int64_t> shape, Place place) {
  for (size_t dim = 0; dim < shape.size(); ++dim)
    if (shape[dim] == 1)
      place.at[dim] = Coord();
  if (place.width == 1)
    place.vec = -1;
  return place;
}

Key KernelLowering::keyOf(Value tile, const Place &place) {
  Key key = {0, int64_t(tile.getAsOpaquePointer()), place.vec, place.width};
  for (const Coord &coord : place.at) {
    key.push_back(int64_t(coord.dyn.getAsOpaquePointer()));
    key.push_back(coord.cst);
  }
  return key;
}

Value KernelLowering::evaluate(Value tile, Place place) {
  if (!isTile(tile))
    return broadcast(scalar(tile), place.width);
  place = normal(shapeOf(tile.getType()), place);
  Key key = keyOf(tile, place);
  bool keep = fusion.worthKeeping(tile) && !bufferOf(tile) && !filling.contains(tile);
  if (Value known = find(key)) {
    if (keep && mayKeepHere(tile, place))
      keepHere(tile, place, known);
    keepOperandsHere(tile, place, known);
    return known;
  }
  if (const Buffer *buffer = bufferOf(tile)) {
    if (auto load = tile.getDefiningOp<LoadOp>())
      prefetchNext(load, place);
    return remember(key, read(*buffer, place));
  }
  Operation *op = tile.getDefiningOp();
  if (!op || !isInline(op))
    throw Unsupported{op ? op : kernel, "a tile from this operation"};
  if (keep && !mayKeepHere(tile, place))
    return remember(key, read(materialise(tile), place));
  for (auto [result, value] : llvm::zip(op->getResults(), compute(op, place)))
    remember(keyOf(result, place), broadcast(value, place.width));
  Value value = find(key);
  if (keep && !bufferOf(tile)) // computing it may have put it there
    keepHere(tile, place, value);
  return value;
}

KernelLowering::Values KernelLowering::compute(Operation *op, const Place &place) {
  Location outer = std::exchange(loc, op->getLoc());
  auto moved = [&](Value source, llvm::function_ref<void(Place &)> move) {
    Place there = place;
    move(there);
    return evaluate(source, there);
  };
  Values results =
      llvm::TypeSwitch<Operation *, Values>(op)
          .Case([&](LoadOp op) -> Values { return {evaluateLoad(op, place)}; })
          .Case([&](GatherOp op) -> Values { return {evaluateGather(op, place)}; })
          .Case([&](BroadcastOp op) -> Values { return {evaluateBroadcast(op, place)}; })
          .Case([&](ReshapeOp op) -> Values { return {evaluateReshape(op, place)}; })
          .Case([&](JoinOp op) -> Values { return {evaluateJoin(op, place)}; })
          .Case([&](UnpackOp op) -> Values { return {evaluateUnpack(op, place, builder.getI8Type())}; })
          .Case([&](PackOp op) -> Values { return {evaluatePack(op, place)}; })
          .Case([&](LutOp op) -> Values { return {evaluateLut(op, place)}; })
          .Case([&](arith::ConstantOp op) -> Values { return {evaluateConstant(op, place)}; })
          .Case([&](tensor::SplatOp op) -> Values { return {broadcast(scalar(op.getInput()), place.width)}; })
          .Case([&](ConvertLayoutOp op) -> Values { return {evaluate(op.getSource(), place)}; })
          .Case([&](SplitOp op) -> Values { return {evaluateSplit(op, place, 0), evaluateSplit(op, place, 1)}; })
          .Case([&](IotaOp op) -> Values {
            Type element = elementOf(op.getType());
            Value start = valueOf(place.at[0]);
            if (element.getIntOrFloatBitWidth() < 64)
              start = pure<arith::TruncIOp>(start, element, start);
            if (element.getIntOrFloatBitWidth() > 64)
              throw Unsupported{op, "integers of this width"};
            Value first = broadcast(start, place.width), lanes = iota(place.width, element);
            return {pure<arith::AddIOp>({first, lanes}, first, lanes)};
          })
          .Case([&](TransposeOp op) -> Values {
            return {moved(op.getSource(), [&](Place &there) {
              for (auto [k, dim] : llvm::enumerate(op.getPermutation())) {
                there.at[dim] = place.at[k];
                if (place.vec == int(k))
                  there.vec = dim;
              }
            })};
          })
          .Case([&](SliceOp op) -> Values {
            return {moved(op.getSource(), [&](Place &there) {
              for (auto [coord, offset] : llvm::zip(there.at, op.getOffsets()))
                coord = coord + offset;
            })};
          })
          .Default([&](Operation *op) -> Values {
            if (Value wide = evaluateWidened(op, place))
              return {wide};
            Values operands;
            for (Value operand : op->getOperands())
              operands.push_back(isTile(operand) ? evaluate(operand, place) : scalar(operand));
            return clone(op, operands, place.width);
          });
  loc = outer;
  return results;
}

Value KernelLowering::evaluateConstant(arith::ConstantOp op, const Place &place) {
  auto data = dyn_cast<DenseElementsAttr>(op.getValue());
  if (!data)
    throw Unsupported{op, "a constant of this kind"};
  if (data.isSplat())
    return constant(cast<TypedAttr>(data.getSplatValue<Attribute>()), place.width);
  Type element = elementOf(op.getType());
  ArrayRef<int64_t> shape = shapeOf(op.getType());
  Buffer buffer{globalOf(data, element), SmallVector<int64_t, 4>(shape), element};
  scopes[0]->buffers[op] = buffer;
  return read(buffer, place);
}

Value KernelLowering::evaluateBroadcast(BroadcastOp op, Place place) {
  ArrayRef<int64_t> from = shapeOf(op.getSource().getType()), to = shapeOf(op.getType());
  int64_t width = place.width;
  bool repeats = false; // an inner dimension is computed again for each step of an outer one
  for (size_t dim = 0; dim < to.size(); ++dim)
    if (from[dim] == 1 && to[dim] > 1)
      repeats |= llvm::any_of(from.drop_front(dim + 1), [](int64_t extent) { return extent > 1; });
  if (repeats && fusion.isCostly(op.getSource()) && !bufferOf(op.getSource()))
    materialise(op.getSource());
  for (size_t dim = 0; dim < to.size(); ++dim)
    if (from[dim] == 1)
      place.at[dim] = Coord();
  if (place.vec >= 0 && from[place.vec] == 1) {
    place.vec = -1;
    place.width = 1;
  }
  return broadcast(evaluate(op.getSource(), place), width);
}

Value KernelLowering::evaluateJoin(JoinOp op, const Place &place) {
  Place inner = place;
  Coord side = inner.at.pop_back_val();
  if (place.vec == int(inner.at.size())) { // both sides: two lanes
    inner.vec = -1;
    inner.width = 1;
    return lanes({evaluate(op.getLhs(), inner), evaluate(op.getRhs(), inner)});
  }
  if (side.isConstant())
    return evaluate(side.cst ? op.getRhs() : op.getLhs(), inner);
  Value left = evaluate(op.getLhs(), inner), right = evaluate(op.getRhs(), inner);
  return select(compare(arith::CmpIPredicate::eq, valueOf(side), i64(0)), left, right);
}

Value KernelLowering::evaluateSplit(SplitOp op, Place place, int64_t half) {
  ArrayRef<int64_t> shape = shapeOf(op.getLhs().getType());
  bool innermost = place.vec >= 0 && ShapedType::getNumElements(shape.drop_front(place.vec + 1)) == 1;
  if (!innermost) {
    place.at.push_back({{}, half});
    return evaluate(op.getSource(), place);
  }
  Value pairs = evaluateLinear(op.getSource(), times(linearIndex(shape, place), 2), 2 * place.width);
  SmallVector<int64_t> picked;
  for (int64_t i = 0; i < place.width; ++i)
    picked.push_back(2 * i + half);
  return shuffle(pairs, pairs, picked);
}

//===- Reshapes ---------------------------------------------------------------------------------------------------===//

// Dimensions of source and result whose products are equal, so that one part maps to the other by itself.
struct Group {
  SmallVector<int> from, to;
};
static SmallVector<Group> groupsOf(ArrayRef<int64_t> from, ArrayRef<int64_t> to) {
  SmallVector<Group> groups;
  size_t i = 0, j = 0;
  for (;;) {
    while (i < from.size() && from[i] == 1)
      ++i;
    while (j < to.size() && to[j] == 1)
      ++j;
    if (i == from.size() || j == to.size())
      return groups;
    Group group;
    int64_t a = from[i], b = to[j];
    group.from.push_back(i++);
    group.to.push_back(j++);
    while (a != b) {
      if (a < b) {
        a *= from[i];
        group.from.push_back(i++);
      } else {
        b *= to[j];
        group.to.push_back(j++);
      }
    }
    groups.push_back(group);
  }
}

Value KernelLowering::evaluateReshape(ReshapeOp op, const Place &place) {
  Value source = op.getSource();
  ArrayRef<int64_t> from = shapeOf(source.getType()), to = shapeOf(op.getType());
  if (const Buffer *buffer = bufferOf(source)) // row-major memory has any shape
    return read(Buffer{buffer->pointer, SmallVector<int64_t, 4>(to), buffer->element}, place);
  Place there;
  there.at.resize(from.size());
  there.width = place.width;
  for (const Group &group : groupsOf(from, to)) {
    bool hasVec = llvm::is_contained(group.to, place.vec);
    Coord index;
    int64_t stride = 1;
    for (int dim : llvm::reverse(group.to)) {
      if (dim == place.vec && stride > 1)
        return read(Buffer{materialise(source).pointer, SmallVector<int64_t, 4>(to), elementOf(op.getType())}, place);
      index = plus(index, times(place.at[dim], stride));
      stride *= to[dim];
    }
    int innermost = group.from.back();
    if (hasVec && group.from.size() > 1 && (from[innermost] % place.width || !index.alignedTo(place.width)))
      return evaluateLinear(source, linearIndex(to, place), place.width);
    if (hasVec)
      there.vec = innermost;
    for (int dim : llvm::reverse(group.from)) {
      bool outermost = dim == group.from.front();
      there.at[dim] = outermost ? index : modulo(index, from[dim]);
      if (!outermost)
        index = dividedBy(index, from[dim]);
    }
  }
  return evaluate(source, there);
}

Value KernelLowering::evaluateLinear(Value tile, Coord start, int64_t width) {
  ArrayRef<int64_t> shape = shapeOf(tile.getType());
  Place flat{{start}, 0, width};
  if (width == 1)
    flat.vec = -1;
  int64_t count = ShapedType::getNumElements(shape);
  Key key = keyOf(tile, flat);
  key[0] = 1; // a place in the row-major order, not in the tile's shape
  if (Value known = find(key))
    return known;
  if (const Buffer *buffer = bufferOf(tile))
    return read(Buffer{buffer->pointer, {count}, buffer->element}, flat);
  Operation *op = tile.getDefiningOp();
  if (op && isInline(op) && !fusion.worthKeeping(tile)) {
    if (auto join = dyn_cast<JoinOp>(op); join && width > 1 && start.alignedTo(2)) {
      Coord half = dividedBy(start, 2);
      Value left = evaluateLinear(join.getLhs(), half, width / 2),
            right = evaluateLinear(join.getRhs(), half, width / 2);
      if (width == 2)
        return remember(key, lanes({left, right}));
      SmallVector<int64_t> order;
      for (int64_t i = 0; i < width; ++i)
        order.push_back(i / 2 + i % 2 * (width / 2));
      return remember(key, shuffle(left, right, order));
    }
    if (auto reshape = dyn_cast<ReshapeOp>(op))
      return evaluateLinear(reshape.getSource(), start, width);
    if (OpTrait::hasElementwiseMappableTraits(op) && op->getNumResults() == 1) {
      Values operands;
      for (Value operand : op->getOperands())
        operands.push_back(isTile(operand) ? evaluateLinear(operand, start, width) : scalar(operand));
      return remember(key, broadcast(clone(op, operands, width)[0], width));
    }
  }
  int last = int(shape.size()) - 1;
  while (last > 0 && shape[last] == 1)
    --last;
  if (shape[last] % width || !start.alignedTo(width))
    return read(Buffer{materialise(tile).pointer, {count}, elementOf(tile.getType())}, flat);
  Place place;
  place.at.resize(shape.size());
  place.vec = width == 1 ? -1 : last;
  place.width = width;
  for (int dim = last; dim >= 0; --dim) {
    place.at[dim] = dim ? modulo(start, shape[dim]) : start;
    start = dividedBy(start, shape[dim]);
  }
  return evaluate(tile, place);
}

} // namespace bitloom::loops
