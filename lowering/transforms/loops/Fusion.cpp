#include "bitloom/lowering/transforms/loops/Fusion.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"
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
  constexpr int64_t keeping = 8; // of a store, a load and room in the cache, which rows want
  if (found.size() > 1 && cost(tile) >= keeping)
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

// Whether `tile` reads `source`, which something else may write, only at the element that it computes.
static bool readsInPlace(Value tile, Value source) {
  Operation *op = tile.getDefiningOp();
  if (!op || tile == source || !isInline(op))
    return true;
  if (OpTrait::hasElementwiseMappableTraits(op))
    return llvm::all_of(op->getOperands(),
                        [&](Value operand) { return !isTile(operand) || readsInPlace(operand, source); });
  SetVector<Value> seen;
  seen.insert(tile);
  for (size_t i = 0; i < seen.size(); ++i) // any path to the source goes through an operation that moves elements
    if (Operation *next = seen[i].getDefiningOp(); next && isInline(next))
      for (Value operand : next->getOperands())
        if (isTile(operand))
          seen.insert(operand);
  return !seen.contains(source);
}

// The tiles that a store or the end of a loop computes; none of other sinks.
static SmallVector<Value> tilesOf(Operation *sink) {
  SmallVector<Value> tiles;
  if (auto store = dyn_cast<StoreOp>(sink))
    tiles.push_back(store.getValue());
  else if (isa<scf::YieldOp>(sink))
    llvm::copy_if(sink->getOperands(), std::back_inserter(tiles), isTile);
  return tiles;
}

// Whether each element of the load that a sink, done together with the write, reads is read before it is written, if it
// is at all.
static bool isInPlace(Operation *load, Operation *write, Operation *sink) {
  auto rectangle = rectangleOf(load), other = rectangleOf(write);
  SmallVector<Value> tiles = tilesOf(sink);
  return rectangle && other && !tiles.empty() && sameOrApart(*rectangle, *other) &&
         llvm::all_of(tiles, [&](Value tile) { return readsInPlace(tile, load->getResult(0)); });
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

scf::YieldOp Fusion::carriedWith(StoreOp store) const { return carried.lookup(store); }

bool Fusion::mayJoin(ArrayRef<StoreOp> stores, scf::YieldOp carries, ArrayRef<Operation *> between) {
  SmallVector<Operation *> all(stores.begin(), stores.end());
  SmallVector<Value> written; // besides views: what is carried is written in its place
  if (carries) {
    all.push_back(carries);
    llvm::copy_if(cast<scf::ForOp>(carries->getParentOp()).getRegionIterArgs(), std::back_inserter(written), isTile);
  }
  Type first = StoreOp(stores[0]).getValue().getType();
  for (Operation *reader : all)
    for (Value tile : tilesOf(reader)) {
      if (isa<StoreOp>(reader) ? tile.getType() != first : shapeOf(tile.getType()) != shapeOf(first))
        return false;
      if (!llvm::all_of(written, [&](Value carried) { return readsInPlace(tile, carried); }))
        return false;
    }
  for (StoreOp write : stores) {
    for (StoreOp other : stores)
      if (other->isBeforeInBlock(write) && mayOverwrite(other, write) &&
          !sameOrApart(*rectangleOf(other), *rectangleOf(write)))
        return false;
    if (llvm::any_of(between, [&](Operation *load) { return mayOverwrite(load, write); }))
      return false;
    for (Operation *reader : all) {
      SetVector<Operation *> seen;
      for (Value tile : tilesOf(reader))
        if (Operation *op = tile.getDefiningOp())
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
      group.push_back(store);
      if (!mayJoin(group, {}, between)) {
        group.pop_back();
        end();
        group.push_back(store);
      }
    } else if (isInline(&op)) {
      if (!group.empty() && isa<LoadOp, GatherOp>(op))
        between.push_back(&op);
    } else if (auto yield = dyn_cast<scf::YieldOp>(op); yield && isa<scf::ForOp>(block.getParentOp())) {
      if (!group.empty() && !tilesOf(yield).empty() && mayJoin(group, yield, between)) {
        firstOf[yield] = group[0];
        carried[group[0]] = yield;
      }
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
