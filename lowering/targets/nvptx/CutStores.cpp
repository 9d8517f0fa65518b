// A store of accumulators, plus a tile that is loaded, would have both in registers at once: for 128 by 128 of f32 all
// that a thread has. So would two stores that are computed from the same accumulators. Here they are cut into as many
// stores as boxes go to the copy engine. A piece's loads come one piece ahead of it; the rest of what it is computed
// from, element by element, right before it.
#include "bitloom/lowering/targets/nvptx/Layouts.h"
#include "bitloom/lowering/targets/nvptx/Mma.h"
#include "bitloom/lowering/targets/nvptx/Rewrites.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/IR/IRMapping.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"
#include "llvm/ADT/SetVector.h"

using namespace mlir;
using namespace bitloom;
using namespace bitloom::nvptx;

namespace {

// The stores of one block, all of tiles of one layout.
class Cut {
public:
  Cut(Block &block, int warps) : block(block), warps(warps) {}
  void run();

private:
  bool collect();
  void visit(Value value);
  bool mayMove();
  RankedTensorType pieceOf(Type type);
  Operation *clone(Operation *op);
  void begin(int64_t row, int64_t column);

  Block &block;
  int warps;
  Layouts layouts;
  SmallVector<tile::StoreOp> stores;
  llvm::SetVector<Operation *> computed; // what they store is, element by element; operands first
  llvm::SetVector<Value> leaves;         // from these tiles
  SmallVector<int64_t, 2> shape, piece;
  LinearLayout layout, pieceLayout;
  OpBuilder builder{block.getParentOp()->getContext()};
  int64_t row = 0, column = 0;
  IRMapping mapping;
};

} // namespace

void Cut::visit(Value value) {
  auto type = dyn_cast<RankedTensorType>(value.getType());
  if (!type)
    return;
  Operation *op = value.getDefiningOp();
  bool isLike = type.getShape() == ArrayRef<int64_t>(shape) && layouts.of(type) == layout;
  if (!op || op->getBlock() != &block || !isLike ||
      !(isa<tile::LoadOp>(op) || (op->hasTrait<OpTrait::Elementwise>() && op->getNumResults() == 1))) {
    leaves.insert(value);
    return;
  }
  for (Value operand : op->getOperands())
    visit(operand);
  computed.insert(op);
}

bool Cut::collect() {
  int64_t columns = 0;
  for (auto store : block.getOps<tile::StoreOp>()) {
    std::optional<StagedStore> staged = stagedStore(store, layouts, warps);
    if (!staged)
      continue;
    Type type = store.getValue().getType();
    if (staged->form != AccumulatorForm{})
      return false;
    if (stores.empty()) {
      shape.assign(tile::shapeOf(type).begin(), tile::shapeOf(type).end());
      layout = layouts.of(type);
    } else if (tile::shapeOf(type) != ArrayRef<int64_t>(shape) || layouts.of(type) != layout) {
      return false;
    }
    columns = std::max(columns, staged->columns);
    stores.push_back(store);
  }
  if (stores.empty())
    return false;
  piece = {std::min(shape[0], wgmmaRows * warps / warpsPerGroup), std::min(shape[1], columns)};
  if (piece == shape)
    return false;
  std::optional<LinearLayout> sliced = slicedLayout(layout, {0, 0}, piece);
  if (!sliced || accumulatorForm(*sliced, piece, warps) != AccumulatorForm{})
    return false;
  pieceLayout = *sliced;
  for (tile::StoreOp store : stores)
    visit(store.getValue());
  return true;
}

// Whether all that is computed may as well be so at the last store.
bool Cut::mayMove() {
  auto isOurs = [&](Operation *op) {
    return computed.contains(op) || llvm::is_contained(stores, dyn_cast<tile::StoreOp>(op));
  };
  for (Operation *op : computed)
    if (!llvm::all_of(op->getUsers(), isOurs))
      return false;
  Operation *first = stores.front();
  for (Operation *op : computed)
    if (op->isBeforeInBlock(first))
      first = op;
  for (Operation *op = first; op != stores.back(); op = op->getNextNode()) {
    if (isOurs(op))
      continue;
    std::optional<SmallVector<MemoryEffects::EffectInstance>> effects = getEffectsRecursively(op);
    if (!effects ||
        llvm::any_of(*effects, [](const auto &effect) { return !isa<MemoryEffects::Read>(effect.getEffect()); }))
      return false;
  }
  return true;
}

RankedTensorType Cut::pieceOf(Type type) {
  return withLayout(RankedTensorType::get(piece, tile::elementOf(type)), pieceLayout);
}

void Cut::begin(int64_t atRow, int64_t atColumn) {
  row = atRow, column = atColumn;
  mapping.clear();
}

// The operation for the piece at hand.
Operation *Cut::clone(Operation *op) {
  Operation *copy = builder.clone(*op, mapping);
  for (Value result : copy->getResults())
    result.setType(pieceOf(result.getType()));
  auto move = [&](MutableOperandRange offsets, ArrayRef<int32_t> dims) {
    for (auto [dim, by] : {std::pair(dims[0], row), std::pair(dims[1], column)})
      if (by) {
        Value constant = arith::ConstantOp::create(builder, op->getLoc(), builder.getI64IntegerAttr(by));
        OpOperand &offset = offsets[dim];
        offset.set(arith::AddIOp::create(builder, op->getLoc(), offset.get(), constant));
        copy->moveAfter(offset.get().getDefiningOp());
        builder.setInsertionPointAfter(copy);
      }
  };
  if (auto load = dyn_cast<tile::LoadOp>(copy))
    move(load.getOffsetsMutable(), load.getDims());
  else if (auto store = dyn_cast<tile::StoreOp>(copy))
    move(store.getOffsetsMutable(), store.getDims());
  return copy;
}

void Cut::run() {
  if (!collect() || (stores.size() < 2 && llvm::none_of(computed, llvm::IsaPred<tile::LoadOp>)) || !mayMove())
    return;
  SmallVector<std::pair<int64_t, int64_t>> places;
  for (int64_t r = 0; r < shape[0]; r += piece[0])
    for (int64_t c = 0; c < shape[1]; c += piece[1])
      places.push_back({r, c});
  builder.setInsertionPoint(stores.back());
  auto load = [&](size_t i) {
    IRMapping loaded;
    if (i == places.size())
      return loaded;
    begin(places[i].first, places[i].second);
    for (Operation *op : computed)
      if (isa<tile::LoadOp>(op))
        loaded.map(op->getResult(0), clone(op)->getResult(0));
    return loaded;
  };
  IRMapping next = load(0);
  for (auto [i, place] : llvm::enumerate(places)) {
    IRMapping loaded = std::exchange(next, load(i + 1));
    begin(place.first, place.second);
    mapping = loaded;
    for (Value leaf : leaves)
      mapping.map(leaf, tile::SliceOp::create(builder, stores.back().getLoc(), pieceOf(leaf.getType()), leaf,
                                              builder.getDenseI64ArrayAttr({row, column})));
    for (Operation *op : computed)
      if (!isa<tile::LoadOp>(op))
        mapping.map(op->getResult(0), clone(op)->getResult(0));
    for (auto [j, store] : llvm::enumerate(stores))
      clone(store)->setAttr(pieceAttr, builder.getI32IntegerAttr(int32_t(i * stores.size() + j)));
  }
  for (tile::StoreOp store : stores)
    store.erase();
  for (Operation *op : llvm::reverse(computed))
    op->erase();
}

void nvptx::cutStores(func::FuncOp kernel, int warps) {
  SmallVector<Block *> blocks;
  kernel.walk([&](tile::StoreOp store) {
    if (!llvm::is_contained(blocks, store->getBlock()))
      blocks.push_back(store->getBlock());
  });
  for (Block *block : blocks)
    Cut(*block, warps).run();
}
