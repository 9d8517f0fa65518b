// Gives warps roles: a producer that has the copy engine fill rings of shared memory, and consumers that compute.
//
// The loads that layout assignment placed in shared memory are grouped into rings, one for each dot that reads them.
// The body of the kernel then becomes two: the producer's holds the loads, each ring's inside a tile.fill, and what
// their offsets and loops need, no more; the consumer's has tile.front in their place, and tile.pop after their last
// use.
//
// A dot that only accumulates over a loop waits for nothing but the dot before it: its result is not looked at until
// the loop ends. Its ring's slot is then freed an iteration later. On the hint tile.split such a loop is shared by the
// blocks of a cluster, each taking every n-th iteration; the first block adds up the sums and does the rest. On the
// hint tile.multicast the blocks of a cluster have programs of their own and share loads (Multicast.cpp).
#include "bitloom/lowering/Explain.h"
#include "bitloom/lowering/Passes.h"
#include "bitloom/lowering/targets/nvptx/Costs.h"
#include "bitloom/lowering/targets/nvptx/Layouts.h"
#include "bitloom/lowering/targets/nvptx/Mma.h"
#include "bitloom/lowering/targets/nvptx/Multicast.h"
#include "bitloom/lowering/targets/nvptx/Rewrites.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/IR/IRMapping.h"
#include "mlir/IR/Matchers.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"
#include "llvm/ADT/MapVector.h"
#include "llvm/ADT/SetVector.h"
#include "llvm/Support/MathExtras.h"

namespace bitloom {
#define GEN_PASS_DEF_SPECIALIZEWARPS
#include "lowering/Passes.h.inc"
} // namespace bitloom

using namespace mlir;
using namespace bitloom;
using namespace bitloom::nvptx;

static int64_t tileBytes(Type tile) {
  return ShapedType::getNumElements(tile::shapeOf(tile)) *
         std::max<int64_t>(1, tile::elementOf(tile).getIntOrFloatBitWidth() / 8);
}

namespace {

// Loads of one block that fill a slot together.
struct Group {
  SmallVector<tile::LoadOp> loads;
  tile::DotOp accumulating; // the only reader, where it accumulates over the loop around it
  int ring = 0;

  Block *block() { return loads.front()->getBlock(); }
  SmallVector<Type> types() {
    return llvm::map_to_vector(loads, [](tile::LoadOp load) -> Type { return load.getType(); });
  }
};

struct Ring {
  SmallVector<Type> types;
  SmallVector<Block *> blocks; // of its groups, which run one after the other
  bool inLoop = false;
  int stages = 1;
  Value value{}; // !tile.ring

  int64_t slotBytes() {
    int64_t bytes = 0;
    for (Type type : types)
      bytes += llvm::alignTo(tileBytes(type), sharedAlignment);
    return bytes;
  }
};

class Specialization {
public:
  Specialization(func::FuncOp func, const Target &target) : func(func), target(target) {}
  LogicalResult run();

private:
  void collectRings();
  bool sharesMultiprocessor();
  LogicalResult chooseStages();
  void splitLoop();
  void shareAmongGroups();
  void finishSplit();
  void need(Value value);
  void cloneNeeded(Block &from, OpBuilder &builder, IRMapping &mapping);
  void readEarly(tile::FrontOp front);
  void consume(Group &group);
  void takeTurns(scf::ForOp loop, Value ring);

  func::FuncOp func;
  const Target &target;
  int split = 1, stepGroups = 1; // blocks, and groups of a block's warps, that share the loop's steps
  Value rank, groupRank;         // among them
  scf::ForOp sharedLoop;
  SmallVector<Group> groups;
  SmallVector<Ring> rings;
  llvm::SetVector<Operation *> neededOps; // of the producer, with the operations around them
  DenseSet<Value> neededValues;
};

} // namespace

//===- Rings ------------------------------------------------------------------------------------------------------===//

// The dot that the tile is for: past the transposes, and what unpacks it. What scales products, and what parts of a
// step read, is for the first one of its block.
static tile::DotOp readerOf(Value tile, ArrayRef<tile::DotOp> parts) {
  if (auto type = cast<RankedTensorType>(tile.getType()); type.getRank() == 1 || !parts.empty())
    return *tile.getParentBlock()->getOps<tile::DotOp>().begin();
  Operation *user = *tile.getUsers().begin();
  while (!isa<tile::DotOp>(user) && user->getNumResults() && !user->use_empty())
    user = *user->getResult(0).getUsers().begin();
  return dyn_cast<tile::DotOp>(user);
}

// Whether the operand lies in a ring: what threads put in shared memory themselves is overwritten by the next
// iteration.
static bool isLoaded(Value operand) {
  while (auto transpose = operand.getDefiningOp<tile::TransposeOp>())
    operand = transpose.getSource();
  return isShared(operand.getType()) && operand.getDefiningOp<tile::LoadOp>();
}

// Whether it is computed, element by element, from fields of bytes: then it goes to the tensor cores from registers.
static bool isUnpacked(Value value) {
  Operation *producer = value.getDefiningOp();
  return producer && (isa<tile::UnpackOp>(producer) || (producer->hasTrait<OpTrait::Elementwise>() &&
                                                        llvm::any_of(producer->getOperands(), isUnpacked)));
}

// acc = dot(…, acc) of the loop directly around, seen by nothing else before the loop ends; operands from rings, or a
// unpacked from what one brought.
static bool accumulates(tile::DotOp dot) {
  auto loop = dyn_cast<scf::ForOp>(dot->getParentOp());
  auto argument = dyn_cast<BlockArgument>(dot.getAcc());
  if (!loop || !argument || argument.getOwner() != loop.getBody() || !argument.hasOneUse() ||
      !dot.getResult().hasOneUse() || (!isLoaded(dot.getA()) && !isUnpacked(dot.getA())) || !isLoaded(dot.getB()))
    return false;
  unsigned index = argument.getArgNumber() - loop.getNumInductionVars();
  return loop.getYieldedValues()[index] == dot.getResult();
}

// Groups of the same tiles in different loops take turns with one ring: both roles come to them in the same order.
void Specialization::collectRings() {
  const SmallVector<tile::DotOp> parts = unpackedDots(func);
  llvm::MapVector<std::pair<Block *, Operation *>, Group> grouped;
  func.walk([&](tile::LoadOp load) {
    if (isShared(load.getType()))
      grouped[{load->getBlock(), readerOf(load.getResult(), parts)}].loads.push_back(load);
  });
  for (auto &[key, group] : grouped) {
    Block *block = key.first;
    bool inLoop = block->getParentOp() != func;
    auto dot = cast<tile::DotOp>(key.second);
    if (dot->getBlock() == block && accumulates(dot))
      group.accumulating = dot;
    auto ring = llvm::find_if(rings, [&](Ring &ring) {
      return inLoop && ring.inLoop && ring.types == group.types() && llvm::none_of(ring.blocks, [&](Block *other) {
               return other->getParentOp()->isAncestor(block->getParentOp()) ||
                      block->getParentOp()->isAncestor(other->getParentOp());
             });
    });
    group.ring = int(ring - rings.begin());
    if (ring == rings.end())
      rings.push_back({group.types(), {}, inLoop});
    rings[group.ring].blocks.push_back(block);
    groups.push_back(group);
  }
}

static bool isAcrossWarps(tile::ReduceOp reduce) {
  Layouts layouts;
  const LinearLayout &source = layouts.of(reduce.getSources()[0].getType());
  return llvm::any_of(source.ins(), [&](const auto &in) {
    return in.name == warp &&
           llvm::any_of(in.bases, [&](const LinearLayout::Vector &basis) { return basis[reduce.getAxis()] != 0; });
  });
}

// Whether the elements stay in the threads that hold them.
static bool movesNothing(Operation *op) {
  Layouts layouts;
  auto isSame = [&](const std::optional<LinearLayout> &layout) {
    return layout && *layout == layouts.of(op->getResult(0).getType());
  };
  if (auto transpose = dyn_cast<tile::TransposeOp>(op))
    return isSame(transposedLayout(layouts.of(transpose.getSource().getType()), transpose.getPermutation()));
  if (auto slice = dyn_cast<tile::SliceOp>(op))
    return isSame(
        slicedLayout(layouts.of(slice.getSource().getType()), slice.getOffsets(), slice.getType().getShape()));
  auto reshape = dyn_cast<tile::ReshapeOp>(op);
  if (!reshape || reshape.getType().getRank() == 0 || reshape.getSource().getType().getRank() == 0)
    return false;
  return isSame(reshapedLayout(layouts.of(reshape.getSource().getType()), tile::shapeOf(reshape.getSource().getType()),
                               tile::shapeOf(reshape.getType())));
}

int64_t nvptx::exchangedBytes(func::FuncOp func) {
  int64_t kept = 0, most = 0;
  int64_t warps = func->getAttrOfType<IntegerAttr>(tile::numWarpsAttr).getInt();
  func.walk([&](Operation *op) {
    if (movesNothing(op))
      return;
    int64_t bytes = 0;
    for (Type type : op->getResultTypes())
      if (isa<RankedTensorType>(type))
        bytes += tileBytes(type);
    if (op->getNumResults() == 1 && isShared(op->getResult(0).getType()))
      kept += isa<tile::ConvertLayoutOp>(op) ? llvm::alignTo(bytes, sharedAlignment) : 0;
    else if (auto reduce = dyn_cast<tile::ReduceOp>(op)) // a part of each warp
      most = isAcrossWarps(reduce) ? std::max({most, bytes * warps, int64_t{4} << 10}) : most;
    else if (auto convert = dyn_cast<tile::ConvertLayoutOp>(op); convert && isShared(convert.getSource().getType()))
      return; // each thread reads what is its own
    else if (isa<tile::ConvertLayoutOp, tile::ReshapeOp, tile::TransposeOp, tile::SliceOp, tile::ScanOp, tile::GatherOp,
                 tile::AtomicOp, tile::LutOp>(op))
      most = std::max(most, bytes);
    else if (auto dot = dyn_cast<tile::DotOp>(op); dot && !isShared(dot.getB().getType()))
      most = std::max(most, tileBytes(dot.getA().getType()) + tileBytes(dot.getB().getType()));
  });
  return kept + most;
}

// Whether two blocks are to share a multiprocessor: of a product with unpacked values whose threads hold little, one
// block's eight warps wait more than they work.
bool Specialization::sharesMultiprocessor() {
  constexpr int64_t mostWords = 48; // a thread's, of the accumulators and what they are added to, and the operand
  int64_t warps = func->getAttrOfType<IntegerAttr>(tile::numWarpsAttr).getInt(), words = 0, dots = 0;
  bool isUnpacked = false;
  func.walk([&](tile::UnpackOp) { isUnpacked = true; });
  func.walk([&](tile::DotOp dot) {
    ++dots;
    words += 2 * dot.getType().getNumElements() / (lanes * warps);
    for (Value operand : {dot.getA(), dot.getB()})
      if (!isShared(operand.getType()))
        words += tileBytes(operand.getType()) / (4 * lanes * warps);
  });
  return isUnpacked && dots == 1 && warps == 2 * warpsPerGroup && words <= mostWords &&
         !func->hasAttr(tile::consumersAttr);
}

// As many slots as shared memory leaves room for beside what else is kept there.
LogicalResult Specialization::chooseStages() {
  const auto hint = func->getAttrOfType<IntegerAttr>(tile::stagesAttr);
  const int64_t most = hint ? hint.getInt() : 8 * stepGroups;
  int64_t left = target.maxSharedPerBlock - 1024, slots = 0; // barriers
  if (sharesMultiprocessor()) {
    constexpr int64_t ofTheDriver = 1024; // a block's, beside its own
    func->setAttr(residentAttr, Builder(func).getI32IntegerAttr(2));
    left = (target.maxSharedPerBlock + ofTheDriver) / 2 - ofTheDriver - 1024;
  }
  left -= storeStagingBytes(func);
  left -= exchangedBytes(func);
  if (sharedLoop)
    left -= (split + stepGroups - 2) * tileBytes(sharedLoop.getResult(0).getType());
  for (Ring &ring : rings)
    (ring.inLoop ? slots : left) += ring.inLoop ? ring.slotBytes() : -ring.slotBytes();
  if (!slots)
    return success();
  int64_t stages = std::min<int64_t>(most, left / slots);
  // Each slot is one group's: a wait by parity tells this round of a slot from the one before, which must be over. Of a
  // slot that another group had, its copies may be late, and then the wait ends at once.
  if (stages > stepGroups)
    stages -= stages % stepGroups;
  if (stages < 1) {
    SmallVector<Cost> costs;
    for (Group &group : groups)
      for (tile::LoadOp load : group.loads)
        costs.push_back({load.getLoc(), int64_t(llvm::alignTo(tileBytes(load.getType()), sharedAlignment)),
                         describe(load.getType())});
    sortCosts(costs);
    return emitError(costs.front().where)
           << "shared memory: expected tiles of at most " << std::max<int64_t>(left, 0) << " bytes a step on "
           << target.name << ", got " << slots << " (" << listOf(costs) << "); use smaller blocks";
  }
  left -= stages * slots;
  for (Ring &ring : rings)
    if (ring.inLoop) {
      ring.stages = int(stages);
    } else if (ring.slotBytes() <= left) { // for the program after this one
      left -= ring.slotBytes();
      ring.stages = 2;
    }
  return success();
}

//===- Blocks that share a program --------------------------------------------------------------------------------===//

// Whether the value is `sum` and what is added to it, one after the other, with nothing else looking at the sums.
static bool addsTo(Value sum, Value value) {
  if (!value.hasOneUse())
    return false;
  if (value == sum)
    return true;
  if (auto dot = value.getDefiningOp<tile::DotOp>())
    return addsTo(sum, dot.getAcc());
  auto add = value.getDefiningOp<arith::AddFOp>();
  return add && (addsTo(sum, add.getLhs()) || addsTo(sum, add.getRhs()));
}

// Whether what the loop carries is a sum to which each iteration adds something of its own.
static bool addsUp(scf::ForOp loop) {
  return loop && loop.getNumRegionIterArgs() == 1 && addsTo(loop.getRegionIterArg(0), loop.getYieldedValues()[0]);
}

// The one loop there is, when it starts from zero, and nothing is written until it ends: every block runs what is
// before.
void Specialization::splitLoop() {
  auto hint = func->getAttrOfType<IntegerAttr>(tile::splitAttr);
  const bool isSplit = hint && hint.getInt() > 1, hasGroups = func->hasAttr(stepGroupsAttr) && !exchangedBytes(func);
  if ((!isSplit && !hasGroups) || groups.size() != 1)
    return;
  auto loop = dyn_cast<scf::ForOp>(groups.front().block()->getParentOp());
  if (!groups.front().accumulating && !addsUp(loop))
    return;
  if (loop->getParentOp() != func || loop.getNumRegionIterArgs() != 1 || loop->use_empty() ||
      (!matchPattern(loop.getInitArgs()[0], m_Zero()) && !matchPattern(loop.getInitArgs()[0], m_AnyZeroFloat())))
    return;
  WalkResult found = func.walk([&](Operation *op) {
    bool writes = isa<tile::StoreOp, tile::ScatterOp, tile::AtomicOp, tile::PrintOp>(op);
    return writes && !loop->isBeforeInBlock(func.getBody().front().findAncestorOpInBlock(*op)) ? WalkResult::interrupt()
                                                                                               : WalkResult::advance();
  });
  if (found.wasInterrupted())
    return;
  sharedLoop = loop;
  if (hasGroups)
    stepGroups = int(func->getAttrOfType<IntegerAttr>(tile::consumersAttr).getInt());
  if (!isSplit)
    return;
  split = int(hint.getInt());
  func->setAttr(tile::clusterAttr, hint);
  OpBuilder builder(loop);
  Location loc = loop.getLoc();
  rank = tile::ClusterRankOp::create(builder, loc, builder.getI64Type());
  Value ahead = arith::MulIOp::create(builder, loc, rank, loop.getStep());
  Value count = arith::ConstantOp::create(builder, loc, builder.getI64IntegerAttr(split));
  loop.setLowerBound(arith::AddIOp::create(builder, loc, loop.getLowerBound(), ahead));
  loop.setStep(arith::MulIOp::create(builder, loc, loop.getStep(), count));
}

// Each group of the consumer's warps has every n-th step of the block's, and the slots that those are in.
void Specialization::shareAmongGroups() {
  OpBuilder builder(sharedLoop);
  Location loc = sharedLoop.getLoc();
  auto own = tile::ClusterRankOp::create(builder, loc, builder.getI64Type());
  own->setAttr(stepGroupsAttr, builder.getUnitAttr());
  groupRank = own;
  Value from = sharedLoop.getLowerBound(), step = sharedLoop.getStep();
  Value none = arith::ConstantOp::create(builder, loc, builder.getI64IntegerAttr(0));
  Value range = arith::SubIOp::create(builder, loc, sharedLoop.getUpperBound(), from);
  range = arith::MaxSIOp::create(builder, loc, range, none);
  tile::TakeTurnOp::create(builder, loc, rings[groups.front().ring].value,
                           arith::CeilDivSIOp::create(builder, loc, range, step));
  Value count = arith::ConstantOp::create(builder, loc, builder.getI64IntegerAttr(stepGroups));
  Value ahead = arith::MulIOp::create(builder, loc, groupRank, step);
  sharedLoop.setLowerBound(arith::AddIOp::create(builder, loc, from, ahead));
  sharedLoop.setStep(arith::MulIOp::create(builder, loc, step, count));
}

// The consumer's work after its loop is that of the first block's first group alone.
void Specialization::finishSplit() {
  Value total = sharedLoop.getResult(0);
  Operation *last = sharedLoop;
  if (auto wait = dyn_cast<tile::DotWaitOp>(*total.getUsers().begin())) {
    total = wait.getResult();
    last = wait->getNextNode()->getNextNode(); // its ring's last pop, and that one's condition
  }
  Block *block = last->getBlock();
  OpBuilder builder(last->getContext());
  builder.setInsertionPointAfter(last);
  Location loc = last->getLoc();
  auto sum = tile::ClusterSumOp::create(builder, loc, total);
  total.replaceAllUsesExcept(sum, sum);
  Value zero = arith::ConstantOp::create(builder, loc, builder.getI64IntegerAttr(0));
  Value place = rank && groupRank ? arith::AddIOp::create(builder, loc, rank, groupRank).getResult()
                : rank            ? rank
                                  : groupRank;
  Value isFirst = arith::CmpIOp::create(builder, loc, arith::CmpIPredicate::eq, place, zero);
  auto branch = scf::IfOp::create(builder, loc, isFirst);
  Block &then = branch.getThenRegion().front();
  then.getOperations().splice(then.begin(), block->getOperations(), std::next(branch->getIterator()),
                              block->getTerminator()->getIterator());
}

//===- The producer -----------------------------------------------------------------------------------------------===//

// Marks what the value, a scalar, is computed from.
void Specialization::need(Value value) {
  if (!neededValues.insert(value).second)
    return;
  auto needOp = [&](Operation *op) {
    for (; op != func && neededOps.insert(op); op = op->getParentOp())
      if (auto loop = dyn_cast<scf::ForOp>(op)) {
        for (Value bound : {loop.getLowerBound(), loop.getUpperBound(), loop.getStep()})
          need(bound);
      } else if (auto branch = dyn_cast<scf::IfOp>(op)) {
        need(branch.getCondition());
      }
  };
  if (auto argument = dyn_cast<BlockArgument>(value)) {
    Operation *parent = argument.getOwner()->getParentOp();
    if (parent == func)
      return;
    needOp(parent);
    if (auto loop = dyn_cast<scf::ForOp>(parent); loop && argument.getArgNumber()) {
      need(loop.getInitArgs()[argument.getArgNumber() - 1]);
      need(loop.getYieldedValues()[argument.getArgNumber() - 1]);
    }
    return;
  }
  Operation *op = value.getDefiningOp();
  unsigned index = cast<OpResult>(value).getResultNumber();
  needOp(op);
  if (auto loop = dyn_cast<scf::ForOp>(op)) {
    need(loop.getRegionIterArg(index));
  } else if (auto branch = dyn_cast<scf::IfOp>(op)) {
    need(branch.thenYield().getOperand(index));
    need(branch.elseYield().getOperand(index));
  } else {
    for (Value operand : op->getOperands())
      need(operand);
    op->walk([&](Operation *inner) { // what the regions of others use from outside
      for (Value operand : inner->getOperands())
        if (!op->isProperAncestor(operand.getParentBlock()->getParentOp()) &&
            operand.getParentBlock()->getParentOp() != op)
          need(operand);
    });
  }
}

void Specialization::cloneNeeded(Block &from, OpBuilder &builder, IRMapping &mapping) {
  for (Operation &op : from.without_terminator()) {
    auto group = llvm::find_if(groups, [&](Group &group) { return group.loads.back() == &op; });
    if (group != groups.end()) {
      auto fill = tile::FillOp::create(builder, op.getLoc(), rings[group->ring].value);
      OpBuilder inside = OpBuilder::atBlockBegin(&fill.getBody().emplaceBlock());
      SmallVector<Value> tiles;
      for (tile::LoadOp load : group->loads)
        tiles.push_back(inside.clone(*load, mapping)->getResult(0));
      tile::YieldOp::create(inside, op.getLoc(), tiles);
      continue;
    }
    if (!neededOps.contains(&op))
      continue;
    if (auto loop = dyn_cast<scf::ForOp>(op)) {
      SmallVector<Value> inits;
      SmallVector<unsigned> kept;
      for (unsigned i = 0; i < loop.getNumRegionIterArgs(); ++i)
        if (neededValues.contains(loop.getRegionIterArg(i))) {
          kept.push_back(i);
          inits.push_back(mapping.lookup(loop.getInitArgs()[i]));
        }
      auto copy = scf::ForOp::create(builder, op.getLoc(), mapping.lookup(loop.getLowerBound()),
                                     mapping.lookup(loop.getUpperBound()), mapping.lookup(loop.getStep()), inits);
      if (!copy.getBody()->empty())
        copy.getBody()->back().erase();
      mapping.map(loop.getInductionVar(), copy.getInductionVar());
      for (auto [position, i] : llvm::enumerate(kept)) {
        mapping.map(loop.getRegionIterArg(i), copy.getRegionIterArg(position));
        mapping.map(loop.getResult(i), copy.getResult(position));
      }
      OpBuilder inside = OpBuilder::atBlockEnd(copy.getBody());
      cloneNeeded(*loop.getBody(), inside, mapping);
      SmallVector<Value> yielded;
      for (unsigned i : kept)
        yielded.push_back(mapping.lookup(loop.getYieldedValues()[i]));
      scf::YieldOp::create(inside, op.getLoc(), yielded);
    } else if (auto branch = dyn_cast<scf::IfOp>(op)) {
      SmallVector<unsigned> kept;
      SmallVector<Type> types;
      for (unsigned i = 0; i < branch.getNumResults(); ++i)
        if (neededValues.contains(branch.getResult(i))) {
          kept.push_back(i);
          types.push_back(branch.getResult(i).getType());
        }
      auto copy = scf::IfOp::create(builder, op.getLoc(), types, mapping.lookup(branch.getCondition()), true,
                                    !branch.getElseRegion().empty());
      for (auto [region, target] : {std::pair(&branch.getThenRegion(), &copy.getThenRegion()),
                                    std::pair(&branch.getElseRegion(), &copy.getElseRegion())}) {
        if (region->empty())
          continue;
        if (!target->front().empty())
          target->front().back().erase();
        OpBuilder inside = OpBuilder::atBlockEnd(&target->front());
        cloneNeeded(region->front(), inside, mapping);
        SmallVector<Value> yielded;
        for (unsigned i : kept)
          yielded.push_back(mapping.lookup(region->front().getTerminator()->getOperand(i)));
        scf::YieldOp::create(inside, op.getLoc(), yielded);
      }
      for (auto [position, i] : llvm::enumerate(kept))
        mapping.map(branch.getResult(i), copy.getResult(position));
    } else {
      builder.clone(op, mapping);
    }
  }
}

//===- The consumers ----------------------------------------------------------------------------------------------===//

// Around the loop in which a consumer has the ring; how often it runs is the same in every program.
void Specialization::takeTurns(scf::ForOp loop, Value ring) {
  OpBuilder builder(loop);
  Location loc = loop.getLoc();
  Value none = arith::ConstantOp::create(builder, loc, builder.getI64IntegerAttr(0));
  Value range = arith::SubIOp::create(builder, loc, loop.getUpperBound(), loop.getLowerBound());
  range = arith::MaxSIOp::create(builder, loc, range, none);
  tile::TakeTurnOp::create(builder, loc, ring, arith::CeilDivSIOp::create(builder, loc, range, loop.getStep()));
  builder.setInsertionPointAfter(loop);
  tile::PassTurnOp::create(builder, loc);
}

// Of several dots in a step, the tiles that threads read for later ones are read before the first: their loads take as
// long as a dot's beginning does.
void Specialization::readEarly(tile::FrontOp front) {
  constexpr int64_t mostWords = 32; // a thread's
  const int64_t threads = lanes * func->getAttrOfType<IntegerAttr>(tile::numWarpsAttr).getInt();
  SmallVector<Operation *> reads;
  int64_t words = 0;
  bool isAfterDot = false;
  for (Operation &op : llvm::make_range(front->getIterator(), front->getBlock()->end())) {
    isAfterDot |= isa<tile::DotOp>(op);
    auto read = dyn_cast<tile::ConvertLayoutOp>(op);
    if (!isAfterDot || !read || read.getSource().getDefiningOp() != front)
      continue;
    reads.push_back(read);
    words += llvm::divideCeil(tileBytes(read.getType()), 4 * threads);
  }
  if (words > mostWords)
    return;
  Operation *last = front;
  for (Operation *read : reads) {
    read->moveAfter(last);
    last = read;
  }
}

void Specialization::consume(Group &group) {
  Value ring = rings[group.ring].value;
  // The reads: all loads of the group from one slot.
  OpBuilder builder(group.loads.front());
  Location loc = group.loads.front().getLoc();
  auto front = tile::FrontOp::create(builder, loc, group.types(), ring);
  Operation *last = front;
  std::function<void(Value)> findLast = [&](Value tile) {
    for (Operation *user : tile.getUsers()) {
      if (isa<tile::TransposeOp>(user))
        findLast(user->getResult(0));
      Operation *here = group.block()->findAncestorOpInBlock(*user);
      if (last->isBeforeInBlock(here))
        last = here;
    }
  };
  for (tile::LoadOp load : group.loads)
    findLast(load.getResult());
  builder.setInsertionPointAfter(last);
  if (group.accumulating) {
    tile::DotOp dot = group.accumulating;
    auto loop = cast<scf::ForOp>(dot->getParentOp());
    dot.setInFlight(1);
    Value isLater =
        arith::CmpIOp::create(builder, loc, arith::CmpIPredicate::ne, loop.getInductionVar(), loop.getLowerBound());
    tile::PopOp::create(builder, loc, ring, isLater);
    builder.setInsertionPointAfter(loop);
    Value sum = loop.getResult(cast<BlockArgument>(dot.getAcc()).getArgNumber() - loop.getNumInductionVars());
    auto wait = tile::DotWaitOp::create(builder, loc, sum);
    sum.replaceAllUsesExcept(wait, wait);
    Value ran =
        arith::CmpIOp::create(builder, loc, arith::CmpIPredicate::slt, loop.getLowerBound(), loop.getUpperBound());
    tile::PopOp::create(builder, loc, ring, ran);
    if (func->hasAttr(tile::consumersAttr) && stepGroups == 1)
      takeTurns(loop, ring);
  } else {
    tile::PopOp::create(builder, loc, ring, Value());
  }
  for (auto [load, tile] : llvm::zip(group.loads, front.getTiles())) {
    load.getResult().replaceAllUsesWith(tile);
    load.erase();
  }
  if (!group.accumulating)
    readEarly(front);
}

LogicalResult Specialization::run() {
  collectRings();
  if (rings.empty()) {
    if (func->hasAttr(stepGroupsAttr))
      func->removeAttr(stepGroupsAttr), func->removeAttr(tile::consumersAttr);
    return success();
  }
  cutStores(func, int(func->getAttrOfType<IntegerAttr>(tile::numWarpsAttr).getInt()));
  if (func->hasAttr(tile::consumersAttr) && !func->hasAttr(stepGroupsAttr) &&
      (groups.size() != 1 || !groups.front().accumulating || exchangedBytes(func)))
    func->removeAttr(tile::consumersAttr);
  splitLoop();
  auto dropGroups = [&] { // the first one's warps do it all
    stepGroups = 1;
    func->removeAttr(stepGroupsAttr);
    func->removeAttr(tile::consumersAttr);
  };
  if (func->hasAttr(stepGroupsAttr) && stepGroups == 1)
    dropGroups();
  if (failed(chooseStages()))
    return failure();
  if (stepGroups > 1 && rings[groups.front().ring].stages < stepGroups)
    dropGroups();
  for (Group &group : groups)
    if (rings[group.ring].stages < 2 * stepGroups) // a dot under way would hold the slot that the next one waits for
      group.accumulating = nullptr;
  for (Group &group : groups) {
    for (tile::LoadOp load : group.loads)
      for (Value offset : load.getOffsets())
        need(offset);
    for (Operation *op = group.block()->getParentOp(); op != func; op = op->getParentOp()) {
      if (!isa<scf::ForOp, scf::IfOp>(op))
        return op->emitError() << "expected a for or an if around loads for the tensor cores, got " << op->getName();
      neededOps.insert(op);
      if (auto loop = dyn_cast<scf::ForOp>(op))
        for (Value bound : {loop.getLowerBound(), loop.getUpperBound(), loop.getStep()})
          need(bound);
      else
        need(cast<scf::IfOp>(op).getCondition());
    }
  }
  for (Operation *op : neededOps)
    if (!isa<scf::ForOp, scf::IfOp>(op) && !isa<tile::LoadOp, tile::GatherOp>(op) && !isMemoryEffectFree(op))
      return op->emitError() << "expected the offsets of loads for the tensor cores to depend on nothing that is "
                                "written, got "
                             << op->getName();

  Block &body = func.getBody().front();
  Location loc = func.getLoc();
  OpBuilder builder = OpBuilder::atBlockBegin(&body);
  for (Ring &ring : rings) {
    explainChoice(func, [&] {
      return "the copy engine loads into a ring of " + std::to_string(ring.stages) +
             " stages, by a warp of its own: what is loaded goes to tensor cores";
    });
    ring.value = tile::RingOp::create(builder, loc, tile::RingType::get(func.getContext(), ring.types), ring.stages);
  }
  auto specialize = tile::SpecializeOp::create(builder, loc, Value());
  Block &producer = specialize.getProducer().emplaceBlock(), &consumer = specialize.getConsumer().emplaceBlock();
  OpBuilder inside = OpBuilder::atBlockBegin(&producer);
  IRMapping mapping;
  for (BlockArgument argument : body.getArguments())
    mapping.map(argument, argument);
  for (Ring &ring : rings)
    mapping.map(ring.value, ring.value);
  // The body follows the new operations: what is cloned is what comes after.
  Block *rest = body.splitBlock(specialize->getNextNode());
  cloneNeeded(*rest, inside, mapping);
  tile::YieldOp::create(inside, loc);
  Operation *end = rest->getTerminator();
  consumer.getOperations().splice(consumer.end(), rest->getOperations(), rest->begin(), end->getIterator());
  end->moveAfter(specialize);
  rest->erase();
  OpBuilder atEnd = OpBuilder::atBlockEnd(&consumer);
  tile::YieldOp::create(atEnd, loc);
  if (stepGroups > 1)
    shareAmongGroups();
  for (Group &group : groups)
    consume(group);
  if (split > 1 || stepGroups > 1)
    finishSplit();
  return success();
}

namespace {

struct SpecializeWarps : bitloom::impl::SpecializeWarpsBase<SpecializeWarps> {
  using SpecializeWarpsBase::SpecializeWarpsBase;

  void runOnOperation() override {
    func::FuncOp func = getOperation();
    if (!func->hasAttr(tile::kernelAttr))
      return;
    if (failed(Specialization(func, parseTarget(target)).run()))
      return signalPassFailure();
    multicastLoads(func);
  }
};

} // namespace
