// Tiles that are in memory: which, how they get there, and how they are read.
#include "bitloom/lowering/transforms/loops/KernelLowering.h"

#include "mlir/Dialect/Vector/IR/VectorOps.h"

using namespace mlir;
using namespace bitloom::tile;

namespace bitloom::loops {

const Buffer *KernelLowering::bufferOf(Value tile) {
  for (const auto &scope : llvm::reverse(scopes))
    if (auto it = scope->buffers.find(tile); it != scope->buffers.end())
      return &it->second;
  return nullptr;
}

bool KernelLowering::isIn(Value tile, const Buffer &buffer) {
  const Buffer *known = bufferOf(tile);
  return known && known->pointer == buffer.pointer;
}

const Buffer &KernelLowering::materialise(Value tile) {
  // Leave the loops of the present statement; what is written goes before them.
  SmallVector<std::unique_ptr<Scope>> inner;
  for (size_t i = statement + 1; i < scopes.size(); ++i)
    inner.push_back(std::move(scopes[i]));
  scopes.resize(statement + 1);
  int floor = std::exchange(memoryFloor, statement);
  Split *split = std::exchange(currentSplit, nullptr);
  SmallVector<int64_t> shape = std::exchange(nestShape, SmallVector<int64_t>());
  auto place = std::exchange(nestPlace, std::nullopt);
  int level = std::exchange(nestLevel, 0);
  auto kept = std::exchange(keeping, llvm::DenseMap<Value, Buffer>());

  auto type = cast<RankedTensorType>(tile.getType());
  Buffer buffer = allocate(type.getShape(), type.getElementType());
  filling.insert(tile);
  fill(buffer, tile);
  filling.erase(tile);
  scopes[statement]->buffers[tile] = buffer;

  keeping = std::move(kept);
  nestLevel = level;
  nestPlace = place;
  nestShape = shape;
  currentSplit = split;
  memoryFloor = floor;
  for (auto &scope : inner)
    scopes.push_back(std::move(scope));
  return *bufferOf(tile);
}

void KernelLowering::fill(const Buffer &buffer, Value tile) {
  int dim = vectorDim(buffer.shape);
  int64_t width = dim < 0 ? 1 : lanesFor(tile, buffer.shape[dim]);
  nest(
      buffer.shape, width, 4, [&](const Place &place) -> Values { return {evaluate(tile, place)}; },
      [&](const Place &place, ValueRange values) { write(buffer, place, values[0]); });
}

bool KernelLowering::mayKeepHere(Value tile, const Place &place) {
  return nestPlace && *nestPlace == place && ArrayRef<int64_t>(nestShape) == shapeOf(tile.getType()) &&
         tile.getParentBlock() == statementBlock;
}

void KernelLowering::keepHere(Value tile, const Place &place, Value value) {
  // Once in each of the nest's innermost blocks: the value itself may have been written outside of them.
  Key key = keyOf(tile, place);
  key[0] = 2;
  if (!scopes.back()->values.emplace(key, value).second)
    return;
  if (!keeping.contains(tile))
    keeping[tile] = allocate(shapeOf(tile.getType()), elementOf(tile.getType()));
  write(keeping[tile], place, value);
}

void KernelLowering::keepOperandsHere(Value tile, const Place &place, Value known) {
  Operation *op = tile.getDefiningOp();
  if (!op || !OpTrait::hasElementwiseMappableTraits(op) || !mayKeepHere(tile, place))
    return;
  Key key = keyOf(tile, place);
  key[0] = 3;
  if (!scopes.back()->values.emplace(key, known).second)
    return;
  for (Value operand : op->getOperands())
    if (keepsSomething(operand))
      evaluate(operand, place);
}

bool KernelLowering::keepsSomething(Value tile) {
  Operation *op = tile.getDefiningOp();
  if (!isTile(tile) || !op || !isInline(op) || bufferOf(tile))
    return false;
  return fusion.worthKeeping(tile) || llvm::any_of(op->getOperands(), [&](Value v) { return keepsSomething(v); });
}

static int64_t strideOf(ArrayRef<int64_t> shape, size_t dim) {
  return ShapedType::getNumElements(shape.drop_front(dim + 1));
}

Coord KernelLowering::linearIndex(ArrayRef<int64_t> shape, const Place &place) {
  Coord index;
  for (size_t dim = 0; dim < shape.size(); ++dim)
    if (shape[dim] > 1)
      index = plus(index, times(place.at[dim], strideOf(shape, dim)));
  return index;
}

Value KernelLowering::read(const Buffer &buffer, const Place &place) {
  Coord index = linearIndex(buffer.shape, place);
  Value pointer = index.dyn ? address(buffer.pointer, index.dyn, buffer.element) : buffer.pointer;
  int64_t stride = place.vec < 0 ? 1 : strideOf(buffer.shape, place.vec);
  auto load = [&](int64_t offset, int64_t lanes) {
    Value at = address(pointer, i64(index.cst + offset), buffer.element);
    hoistRead(at);
    Value value =
        LLVM::LoadOp::create(builder, loc, vectorOf(stored(buffer.element), lanes), at, bytesOf(buffer.element));
    return fromStored(value, buffer.element);
  };
  if (stride == 1)
    return load(0, place.width);
  Values each;
  for (int64_t lane = 0; lane < place.width; ++lane)
    each.push_back(load(lane * stride, 1));
  return lanes(each);
}

void KernelLowering::write(const Buffer &buffer, const Place &place, Value value) {
  Coord index = linearIndex(buffer.shape, place);
  Value pointer = index.dyn ? address(buffer.pointer, index.dyn, buffer.element) : buffer.pointer;
  int64_t stride = place.vec < 0 ? 1 : strideOf(buffer.shape, place.vec);
  auto store = [&](int64_t offset, Value part) {
    Value at = address(pointer, i64(index.cst + offset), buffer.element);
    here();
    LLVM::StoreOp::create(builder, loc, part, at, bytesOf(buffer.element));
  };
  value = toStored(broadcast(value, place.width));
  if (stride == 1)
    return store(0, value);
  for (int64_t i = 0; i < place.width; ++i)
    store(i * stride, lane(value, i));
}

} // namespace bitloom::loops
