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
      found.insert(placeOf(user));
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

// What a load reads or a store writes.
struct Rectangle {
  ValueRange offsets;
  ArrayRef<int32_t> dims;
  Type tile;
};
static std::optional<Rectangle> rectangleOf(Operation *op) {
  if (auto load = dyn_cast<LoadOp>(op))
    return Rectangle{load.getOffsets(), load.getDims(), load.getType()};
  if (auto store = dyn_cast<StoreOp>(op))
    return Rectangle{store.getOffsets(), store.getDims(), store.getValue().getType()};
  return std::nullopt;
}

// Views overlap only when they are one view, so equal offsets mean equal places and disjoint rectangles none in common.
static bool disjoint(const Rectangle &one, const Rectangle &other) {
  for (auto [dim, offsets] : llvm::enumerate(llvm::zip(one.offsets, other.offsets))) {
    auto [a, b] = offsets;
    auto [aBase, aConstant] = splitConstant(a);
    auto [bBase, bConstant] = splitConstant(b);
    if (aBase == bBase && (bConstant >= aConstant + extentAlong(one.dims, one.tile, dim) ||
                           aConstant >= bConstant + extentAlong(other.dims, other.tile, dim)))
      return true;
  }
  return false;
}

// Along every dimension of the view the two start at one offset, or are one element wide, so that they are one
// rectangle or have none in common.
static bool sameOrApart(const Rectangle &one, const Rectangle &other) {
  if (one.dims != other.dims || shapeOf(one.tile) != shapeOf(other.tile))
    return false;
  for (auto [dim, offsets] : llvm::enumerate(llvm::zip(one.offsets, other.offsets)))
    if (std::get<0>(offsets) != std::get<1>(offsets) && extentAlong(one.dims, one.tile, dim) != 1)
      return false;
  return true;
}

static bool mayOverwrite(Operation *access, Operation *write) {
  ViewType one = viewOf(access), written = viewOf(write);
  if (one.getElementType() != written.getElementType() || one.getRank() != written.getRank())
    return false;
  auto rectangle = rectangleOf(access), other = rectangleOf(write);
  return !(rectangle && other && disjoint(*rectangle, *other));
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

// Whether each element of the load that a sink, done together with the write, reads is read before it is written, if it
// is at all.
static bool isInPlace(Operation *load, Operation *write, Operation *sink) {
  auto rectangle = rectangleOf(load), other = rectangleOf(write);
  auto store = dyn_cast<StoreOp>(sink);
  return rectangle && other && store && sameOrApart(*rectangle, *other) && readsInPlace(store.getValue(), load);
}

void Fusion::keepWhatIsOverwritten(Operation *load, ArrayRef<Operation *> writes) {
  Value tile = load->getResult(0);
  Block *home = load->getBlock();
  for (Operation *write : writes) {
    Operation *writer = home->findAncestorOpInBlock(*write);
    if (!writer || order[writer] < order[load] || !mayOverwrite(load, write))
      continue;
    writer = placeOf(writer);
    for (Operation *sink : sinks(tile)) {
      Operation *reader = placeOf(home->findAncestorOpInBlock(*sink));
      bool together = placeOf(write) == placeOf(sink);
      bool later = order[writer] < order[reader] || (writer == reader && !(together && isInPlace(load, write, sink)));
      if (later) {
        kept.insert(tile);
        need(tile, writer);
      }
    }
  }
}

//===- Stores done together ---------------------------------------------------------------------------------------===//

Operation *Fusion::placeOf(Operation *sink) const {
  auto it = firstOf.find(sink);
  return it == firstOf.end() ? sink : it->second;
}

SmallVector<StoreOp, 2> Fusion::storedWith(StoreOp store) const {
  if (firstOf.contains(store))
    return {};
  auto it = groups.find(store);
  return it == groups.end() ? SmallVector<StoreOp, 2>{store} : it->second;
}

static bool isPureScalar(Operation *op) {
  return !op->getNumRegions() && isMemoryEffectFree(op) && llvm::none_of(op->getOperands(), isTile) &&
         llvm::none_of(op->getResults(), isTile);
}

// `between`: what the text loads between the group's first store and the next.
bool Fusion::mayJoin(ArrayRef<StoreOp> group, StoreOp next, ArrayRef<Operation *> between) {
  Type tile = next.getValue().getType();
  SmallVector<StoreOp> all(group);
  if (tile != all[0].getValue().getType())
    return false;
  all.push_back(next);
  for (StoreOp earlier : group)
    if (mayOverwrite(earlier, next) && !sameOrApart(*rectangleOf(earlier), *rectangleOf(next)))
      return false;
  for (StoreOp write : all) {
    if (llvm::any_of(between, [&](Operation *load) { return mayOverwrite(load, write); }))
      return false;
    for (StoreOp reader : all) {
      SetVector<Operation *> seen;
      if (Operation *op = reader.getValue().getDefiningOp())
        seen.insert(op);
      for (size_t i = 0; i < seen.size(); ++i) {
        if (!isInline(seen[i]))
          continue;
        if (isa<LoadOp, GatherOp>(seen[i]) && mayOverwrite(seen[i], write) && !isInPlace(seen[i], write, reader))
          return false;
        for (Value operand : seen[i]->getOperands())
          if (Operation *op = operand.getDefiningOp(); op && isTile(operand))
            seen.insert(op);
      }
    }
  }
  return true;
}

void Fusion::groupStores(Block &block) {
  SmallVector<StoreOp, 2> group;
  SmallVector<Operation *> between;
  auto end = [&] {
    if (group.size() > 1) {
      for (StoreOp other : ArrayRef(group).drop_front())
        firstOf[other] = group[0];
      groups[group[0]] = group;
    }
    group.clear();
    between.clear();
  };
  for (Operation &op : block) {
    if (auto store = dyn_cast<StoreOp>(op); store && isTile(store.getValue())) {
      if (!group.empty() && !mayJoin(group, store, between))
        end();
      group.push_back(store);
    } else if (isInline(&op)) {
      if (!group.empty() && isa<LoadOp, GatherOp>(op))
        between.push_back(&op);
    } else if (!isPureScalar(&op)) {
      end();
    }
  }
  end();
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
  kernel.walk([&](Block *block) { groupStores(*block); });
  for (Operation *op : llvm::reverse(all))
    if (isInline(op))
      for (Value result : op->getResults())
        keepWhatIsShared(result);
  for (Operation *load : loads)
    keepWhatIsOverwritten(load, writes);
}

} // namespace bitloom::loops
