#include "bitloom/lowering/transforms/loops/Fusion.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;
using namespace bitloom::tile;

namespace bitloom::loops {

bool isInline(Operation *op) {
  if (!op->getNumResults() || !llvm::all_of(op->getResults(), isTile))
    return false;
  return isa<LoadOp, GatherOp, IotaOp, ReshapeOp, TransposeOp, BroadcastOp, JoinOp, SplitOp, SliceOp, UnpackOp, PackOp,
             LutOp, ConvertLayoutOp, tensor::SplatOp, arith::ConstantOp>(op) ||
         OpTrait::hasElementwiseMappableTraits(op);
}

// Of the operation alone, for one vector. Rough: it decides only what is evaluated twice.
static int64_t ownCost(Operation *op) {
  if (isa<arith::ConstantOp, tensor::SplatOp, IotaOp, ReshapeOp, BroadcastOp, SliceOp, ConvertLayoutOp,
          arith::BitcastOp>(op))
    return 0;
  if (isa<GatherOp, LutOp>(op))
    return 16;
  if (isa<UnpackOp, PackOp>(op))
    return 3;
  if (isa<math::AbsFOp, math::AbsIOp, math::FmaOp, math::FloorOp, math::CeilOp, math::RoundEvenOp, math::CopySignOp>(
          op))
    return 1;
  if (isa<arith::DivFOp, math::SqrtOp>(op))
    return 8;
  if (isa<arith::DivSIOp, arith::DivUIOp, arith::RemSIOp, arith::RemUIOp, arith::RemFOp>(op) ||
      isa<math::MathDialect>(op->getDialect()))
    return 20;
  if (isa<arith::TruncFOp, arith::MulUIExtendedOp, arith::MulSIExtendedOp>(op))
    return 3;
  return 1;
}

int64_t Fusion::cost(Value tile) {
  Operation *op = tile.getDefiningOp();
  if (!op || !isInline(op))
    return 1; // in memory
  if (auto it = costs.find(tile); it != costs.end())
    return it->second;
  int64_t total = ownCost(op);
  if (isa<LoadOp>(op))
    total = 1;
  for (Value operand : op->getOperands())
    if (isTile(operand))
      total += cost(operand);
  total = std::min<int64_t>(total, 1000); // shared operands count at each use, so long chains would overflow
  return costs[tile] = total;
}

const Fusion::Sinks &Fusion::sinks(Value tile) {
  if (auto it = sinkSets.find(tile); it != sinkSets.end())
    return it->second;
  Sinks found;
  for (Operation *user : tile.getUsers()) {
    if (!isInline(user)) {
      found.insert(user);
      continue;
    }
    for (Value result : user->getResults()) {
      Sinks more = sinks(result);
      found.insert(more.begin(), more.end());
    }
  }
  return sinkSets[tile] = found;
}

void Fusion::need(Value tile, Operation *before) {
  auto &list = needs[before];
  if (!llvm::is_contained(list, tile))
    list.push_back(tile);
}

ArrayRef<Value> Fusion::neededBefore(Operation *op) const {
  auto it = needs.find(op);
  return it == needs.end() ? ArrayRef<Value>() : ArrayRef<Value>(it->second);
}

// Its users have been decided before it.
void Fusion::keepWhatIsShared(Value tile) {
  Sinks found;
  for (Operation *user : tile.getUsers()) {
    if (!isInline(user)) {
      found.insert(user);
      continue;
    }
    for (Value result : user->getResults()) {
      const Sinks &theirs = places[result];
      if (theirs.empty())
        continue;
      if (kept.contains(result))
        found.insert(*llvm::min_element(theirs, [&](Operation *a, Operation *b) { return order[a] < order[b]; }));
      else
        found.insert(theirs.begin(), theirs.end());
    }
  }
  places[tile] = found;
  if (!isCostly(tile) || isa<arith::ConstantOp, tensor::SplatOp>(tile.getDefiningOp()))
    return;
  if (found.size() > 1)
    kept.insert(tile);
  Block *home = tile.getParentBlock();
  for (Operation *sink : found) {
    Operation *region = home->findAncestorOpInBlock(*sink);
    if (region && region != sink && isa<LoopLikeOpInterface>(region)) {
      kept.insert(tile);
      need(tile, region); // once, not in each iteration
    }
  }
}

//===- Reads and writes of one place ------------------------------------------------------------------------------===//

static ViewType viewOf(Operation *op) {
  return TypeSwitch<Operation *, ViewType>(op)
      .Case<LoadOp, StoreOp, GatherOp, ScatterOp, AtomicOp>([](auto access) { return access.getView().getType(); })
      .Default(ViewType());
}

// value = base + constant
static std::pair<Value, int64_t> splitConstant(Value value) {
  int64_t sum = 0;
  for (;;) {
    APInt by;
    if (auto add = value.getDefiningOp<arith::AddIOp>(); add && matchPattern(add.getRhs(), m_ConstantInt(&by))) {
      sum += by.getSExtValue();
      value = add.getLhs();
    } else if (matchPattern(value, m_ConstantInt(&by))) {
      return {Value(), sum + by.getSExtValue()};
    } else {
      return {value, sum};
    }
  }
}

static int64_t extentAlong(ArrayRef<int32_t> dims, Type tile, int64_t dim) {
  auto it = llvm::find(dims, dim);
  return it == dims.end() ? 1 : shapeOf(tile)[it - dims.begin()];
}

// Views overlap only when they are one view, so equal offsets mean equal places and disjoint rectangles none in common.
static bool disjoint(LoadOp load, StoreOp store) {
  for (auto [dim, offsets] : llvm::enumerate(llvm::zip(load.getOffsets(), store.getOffsets()))) {
    auto [a, b] = offsets;
    auto [aBase, aConstant] = splitConstant(a);
    auto [bBase, bConstant] = splitConstant(b);
    if (aBase != bBase)
      continue;
    int64_t loadExtent = extentAlong(load.getDims(), load.getType(), dim);
    int64_t storeExtent = extentAlong(store.getDims(), store.getValue().getType(), dim);
    if (bConstant >= aConstant + loadExtent || aConstant >= bConstant + storeExtent)
      return true;
  }
  return false;
}

static bool mayOverwrite(Operation *load, Operation *write) {
  ViewType read = viewOf(load), written = viewOf(write);
  if (read.getElementType() != written.getElementType() || read.getRank() != written.getRank())
    return false;
  auto rectangle = dyn_cast<LoadOp>(load);
  auto store = dyn_cast<StoreOp>(write);
  return !(rectangle && store && disjoint(rectangle, store));
}

// Whether `tile` reads `load` only at the element that it computes.
static bool readsInPlace(Value tile, Operation *load) {
  Operation *op = tile.getDefiningOp();
  if (!op || op == load || !isInline(op))
    return true;
  if (OpTrait::hasElementwiseMappableTraits(op))
    return llvm::all_of(op->getOperands(),
                        [&](Value operand) { return !isTile(operand) || readsInPlace(operand, load); });
  SetVector<Operation *> seen;
  seen.insert(op);
  for (size_t i = 0; i < seen.size(); ++i) // any path to the load goes through an operation that moves elements
    for (Value operand : seen[i]->getOperands())
      if (Operation *next = operand.getDefiningOp(); next && isTile(operand) && isInline(next))
        seen.insert(next);
  return !seen.contains(load);
}

// Whether each element of the load is read before, if at all, the store writes its place: along every dimension of the
// view the two start at one offset, or are one element wide, so that they are one rectangle or have none in common.
static bool isInPlace(Operation *load, Operation *write) {
  auto rectangle = dyn_cast<LoadOp>(load);
  auto store = dyn_cast<StoreOp>(write);
  if (!rectangle || !store || rectangle.getDims() != store.getDims() ||
      shapeOf(rectangle.getType()) != shapeOf(store.getValue().getType()))
    return false;
  for (auto [dim, offsets] : llvm::enumerate(llvm::zip(rectangle.getOffsets(), store.getOffsets())))
    if (std::get<0>(offsets) != std::get<1>(offsets) && extentAlong(rectangle.getDims(), rectangle.getType(), dim) != 1)
      return false;
  return readsInPlace(store.getValue(), load);
}

void Fusion::keepWhatIsOverwritten(Operation *load, ArrayRef<Operation *> writes) {
  Value tile = load->getResult(0);
  Block *home = load->getBlock();
  for (Operation *write : writes) {
    Operation *writer = home->findAncestorOpInBlock(*write);
    if (!writer || order[writer] < order[load] || !mayOverwrite(load, write))
      continue;
    for (Operation *sink : sinks(tile)) {
      Operation *reader = home->findAncestorOpInBlock(*sink);
      bool later = order[writer] < order[reader] || (writer == reader && !(write == sink && isInPlace(load, write)));
      if (later) {
        kept.insert(tile);
        need(tile, writer);
      }
    }
  }
}

Fusion::Fusion(func::FuncOp kernel) {
  SmallVector<Operation *> all, writes, loads;
  kernel.walk<WalkOrder::PreOrder>([&](Operation *op) {
    order[op] = all.size();
    all.push_back(op);
    if (isa<StoreOp, ScatterOp, AtomicOp>(op))
      writes.push_back(op);
    if (isa<LoadOp, GatherOp>(op) && isTile(op->getResult(0)))
      loads.push_back(op);
  });
  for (Operation *op : llvm::reverse(all))
    if (isInline(op))
      for (Value result : op->getResults())
        keepWhatIsShared(result);
  for (Operation *load : loads)
    keepWhatIsOverwritten(load, writes);
}

} // namespace bitloom::loops
