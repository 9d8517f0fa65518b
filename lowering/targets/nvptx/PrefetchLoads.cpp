// Loads ahead of their steps: what a loop brings from global to shared memory for mma.sync arrives while the tensor
// cores multiply what came before it.
//
// Where cp.async can copy the tiles (planCopies), they go to the slots of a ring, several steps ahead, without passing
// through registers:
//
//   for s < stages - 1: fill a slot with step s's tiles
//   for i: wait for step i's copies, and for all threads; fill the slot of step i - 1 with step i + stages - 1's;
//   multiply
//
// One barrier a step says both that all have the tiles and that the slot is free. So do products by wgmma whose
// operands the copy engine refuses; these are started before the slot is filled, and waited for after. Elsewhere tiles
// are loaded to registers by the step before, once that has put its own in shared memory; the last step loads a tile
// that nobody reads. So is what comes straight to registers in a loop that unpacks what the copy engine brought: the
// scales, whose latency is more than the rest of a step takes.
#include "bitloom/lowering/targets/nvptx/Rewrites.h"

#include "bitloom/lowering/dialect/Tile.h"
#include "bitloom/lowering/targets/nvptx/Mma.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/IR/IRMapping.h"
#include "mlir/IR/Matchers.h"
#include "mlir/IR/PatternMatch.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"
#include "llvm/ADT/SetVector.h"

using namespace mlir;
using namespace bitloom;
using namespace bitloom::nvptx;

// Registers a thread, of the tiles on their way, the results of the loop's dots and what loops around carry together:
// fragments, addresses and bounds take up to 100 more.
static int64_t mostWords(int threads) {
  constexpr int64_t ofMultiprocessor = 64 << 10, others = 100;
  return std::min<int64_t>(128, ofMultiprocessor / threads - others);
}

static int64_t wordsOf(Type tile, int threads) {
  return ShapedType::getNumElements(tile::shapeOf(tile)) * bytesOf(tile::elementOf(tile)) / (4 * threads);
}

bool nvptx::collectScalars(Value value, scf::ForOp loop, SetVector<Operation *> &slice) {
  if (value == loop.getInductionVar() || loop.isDefinedOutsideOfLoop(value))
    return true;
  Operation *op = value.getDefiningOp();
  // A quotient by what may be 0 is of no harm where nothing is read by it.
  const bool isQuotient = op && isa<arith::DivSIOp, arith::DivUIOp, arith::RemSIOp, arith::RemUIOp>(op);
  if (!op || op->getBlock() != loop.getBody() || op->getNumRegions() || !(isPure(op) || isQuotient) ||
      !llvm::all_of(op->getOperands(), [&](Value operand) { return collectScalars(operand, loop, slice); }))
    return false;
  slice.insert(op);
  return true;
}

// The load, of this loop, that the tile in shared memory comes from and is all the use of; null where there is none.
static tile::LoadOp loadedBy(tile::ConvertLayoutOp convert) {
  Value value = convert.getSource();
  while (auto transpose = value.getDefiningOp<tile::TransposeOp>()) {
    if (!value.hasOneUse())
      return nullptr;
    value = transpose.getSource();
  }
  auto load = value.getDefiningOp<tile::LoadOp>();
  bool isWritten = load && llvm::any_of(load.getView().getUsers(), [](Operation *user) {
                     return isa<tile::StoreOp, tile::ScatterOp, tile::AtomicOp>(user);
                   });
  return load && value.hasOneUse() && load->getBlock() == convert->getBlock() && !isWritten ? load : nullptr;
}

// Whether the value, in the loop's body, is computed from the argument.
static bool isFrom(Value value, BlockArgument argument) {
  if (value == argument)
    return true;
  Operation *op = value.getDefiningOp();
  return op && op->getBlock() == argument.getOwner() &&
         llvm::any_of(op->getOperands(), [&](Value operand) { return isFrom(operand, argument); });
}

//===- By asynchronous copies -------------------------------------------------------------------------------------===//

bool nvptx::isMultiple(Value value, int64_t by) {
  if (APInt constant; matchPattern(value, m_ConstantInt(&constant)))
    return constant.getSExtValue() % by == 0;
  if (auto argument = dyn_cast<BlockArgument>(value)) {
    auto loop = dyn_cast<scf::ForOp>(argument.getOwner()->getParentOp());
    return loop && value == loop.getInductionVar() && isMultiple(loop.getLowerBound(), by) &&
           isMultiple(loop.getStep(), by);
  }
  Operation *op = value.getDefiningOp();
  auto isOne = [&](Value operand) { return isMultiple(operand, by); };
  if (isa<arith::MulIOp>(op))
    return llvm::any_of(op->getOperands(), isOne);
  return isa<arith::AddIOp, arith::SubIOp, arith::MinSIOp, arith::MaxSIOp>(op) &&
         llvm::all_of(op->getOperands(), isOne);
}

std::optional<CopyPlan> nvptx::planCopies(tile::LoadOp load, RankedTensorType shared, int warps) {
  constexpr int64_t fewest = 4, most = 16; // bytes
  auto view = cast<tile::ViewType>(load.getView().getType());
  int64_t bytes = bytesOf(view.getElementType()), alignment = std::max(bytes, alignmentOf(load.getView()));
  ArrayRef<int64_t> shape = shared.getShape();
  if (load.getOther() || view.getStrided() || load.getDims().back() != view.getRank() - 1 || bytes > most)
    return std::nullopt;
  int64_t chunk = std::min(std::min(most, alignment & -alignment) / bytes, shape.back());
  Layouts layouts;
  LinearLayout places = layouts.of(shared).invert();
  for (; chunk > 0 && chunk * bytes >= fewest; chunk /= 2) {
    LinearLayout layout = canonicalLayout(shape, chunk, warps);
    if (layout.contiguousRegisters(dimName(int(shape.size()) - 1)) >= chunk &&
        layout.compose(places).contiguousRegisters("offset") >= chunk && isMultiple(load.getOffsets().back(), chunk))
      return CopyPlan{layout, chunk};
  }
  return std::nullopt;
}

namespace {

// A load of the loop, on its way to a dot.
struct Copied {
  tile::ConvertLayoutOp convert;
  tile::LoadOp load;
  SetVector<Operation *> scalars; // that its place is computed by
  RankedTensorType type;          // of the load, in shared memory
};

} // namespace

// The tile's type before the transposes, where `shared` is that of their result.
static RankedTensorType typeOfLoad(tile::ConvertLayoutOp convert) {
  Layouts layouts;
  LinearLayout layout = layouts.of(convert.getType());
  Value value = convert.getSource();
  for (; auto transpose = value.getDefiningOp<tile::TransposeOp>(); value = transpose.getSource())
    layout = untransposedLayout(layout, transpose.getPermutation());
  return withLayout(cast<RankedTensorType>(value.getType()), layout);
}

// As many slots as leave room for a second block on the multiprocessor, if those are enough to cover the time that a
// copy takes; else as many as there is room for. 0: too few to be of use.
static int stagesFor(func::FuncOp kernel, const Target &target, int64_t slotBytes, int64_t others) {
  constexpr int64_t enough = 3, most = 4, perBlock = 1024;
  int64_t alone = (target.maxSharedPerBlock - others) / slotBytes;
  int64_t withAnother = (target.sharedPerSm / 2 - perBlock - others) / slotBytes;
  int64_t stages = std::min(most, withAnother >= enough ? withAnother : alone);
  if (auto hint = kernel->getAttrOfType<IntegerAttr>(tile::stagesAttr))
    stages = std::min(std::max(alone, stages), hint.getInt());
  return stages < 2 ? 0 : int(stages);
}

// The loop's one dot, if it is computed by wgmma and nothing but the next iteration needs its result.
static tile::DotOp onlyWgmma(scf::ForOp loop, const Target &target, int warps) {
  SmallVector<tile::DotOp> dots;
  loop.walk([&](tile::DotOp dot) { dots.push_back(dot); });
  if (dots.size() != 1 || dots[0]->getBlock() != loop.getBody() || !planWgmma(dots[0], target, warps) ||
      !dots[0].getResult().hasOneUse() || !isa<scf::YieldOp>(*dots[0].getResult().user_begin()) ||
      !isShared(dots[0].getA().getType()) || !isShared(dots[0].getB().getType()))
    return nullptr;
  return dots[0];
}

static void pipeline(scf::ForOp loop, func::FuncOp kernel, const Target &target, int warps) {
  SmallVector<Copied> copies;
  int64_t slotBytes = 0;
  for (Operation &op : *loop.getBody()) {
    if (isa<tile::UnpackOp>(op)) // the threads' work on the other operand takes longer than the loads
      return;
    auto convert = dyn_cast<tile::ConvertLayoutOp>(op);
    tile::LoadOp load = convert && isShared(convert.getType()) ? loadedBy(convert) : nullptr;
    if (!load)
      continue;
    Copied copied{convert, load, {}, typeOfLoad(convert)};
    if (!planCopies(load, copied.type, warps) || !llvm::all_of(load->getOperands(), [&](Value operand) {
          return collectScalars(operand, loop, copied.scalars);
        }))
      return;
    slotBytes += llvm::alignTo(copied.type.getNumElements() * bytesOf(copied.type.getElementType()), sharedAlignment);
    copies.push_back(std::move(copied));
  }
  if (copies.empty())
    return;
  int64_t others = 0; // what is in shared memory without them
  kernel.walk([&](tile::RingOp ring) {
    for (Type type : ring.getRing().getType().getTiles())
      others += ring.getStages() *
                llvm::alignTo(ShapedType::getNumElements(tile::shapeOf(type)) * bytesOf(tile::elementOf(type)),
                              sharedAlignment);
  });
  others += exchangedBytes(kernel) - slotBytes + sharedAlignment;
  int stages = stagesFor(kernel, target, slotBytes, others);
  if (!stages)
    return;

  Location loc = copies.front().load.getLoc();
  auto types = llvm::map_to_vector(copies, [](Copied &copied) -> Type { return copied.type; });
  OpBuilder entry = OpBuilder::atBlockBegin(&kernel.getBody().front());
  auto ring =
      tile::RingOp::create(entry, loc, tile::RingType::get(kernel.getContext(), types), uint32_t(stages)).getRing();
  auto fill = [&](OpBuilder &b, Value index) {
    Value runs = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::slt, index, loop.getUpperBound());
    IRMapping mapping;
    mapping.map(loop.getInductionVar(), index);
    for (Copied &copied : copies)
      for (Operation *op : copied.scalars)
        if (!mapping.contains(op->getResult(0)))
          b.clone(*op, mapping);
    auto branch = scf::IfOp::create(b, loc, runs, /*withElseRegion=*/false);
    OpBuilder inside = OpBuilder::atBlockBegin(&branch.getThenRegion().front());
    auto filled = tile::FillOp::create(inside, loc, ring);
    inside.createBlock(&filled.getBody());
    SmallVector<Value> tiles;
    for (Copied &copied : copies) {
      tiles.push_back(inside.clone(*copied.load, mapping)->getResult(0));
      tiles.back().setType(copied.type);
    }
    tile::YieldOp::create(inside, loc, tiles);
  };
  OpBuilder before(loop);
  Value index = loop.getLowerBound();
  for (int stage = 0; stage + 1 < stages; ++stage) {
    fill(before, index);
    index = arith::AddIOp::create(before, loc, index, loop.getStep());
  }
  OpBuilder inside = OpBuilder::atBlockBegin(loop.getBody());
  auto front = tile::FrontOp::create(inside, loc, types, ring);
  Value ahead = arith::SubIOp::create(before, loc, index, loop.getLowerBound());
  if (tile::DotOp dot = onlyWgmma(loop, target, warps)) {
    dot.setInFlight(1);
    inside.setInsertionPointAfter(dot);
    auto wait = tile::DotWaitOp::create(inside, dot.getLoc(), dot.getResult());
    dot.getResult().replaceAllUsesExcept(wait, wait);
    inside.setInsertionPoint(wait);
  }
  fill(inside, arith::AddIOp::create(inside, loc, loop.getInductionVar(), ahead));
  for (auto [copied, tile] : llvm::zip(copies, front.getTiles())) {
    SmallVector<tile::TransposeOp> transposes;
    for (Value value = copied.convert.getSource(); auto transpose = value.getDefiningOp<tile::TransposeOp>();
         value = transpose.getSource())
      transposes.push_back(transpose);
    Layouts layouts;
    Value moved = tile;
    for (tile::TransposeOp transpose : llvm::reverse(transposes)) {
      LinearLayout layout = transposedLayout(layouts.of(moved.getType()), transpose.getPermutation());
      OpBuilder there(copied.convert);
      moved = tile::TransposeOp::create(there, transpose.getLoc(), withLayout(transpose.getType(), layout), moved,
                                        transpose.getPermutation());
    }
    copied.convert.getResult().replaceAllUsesWith(moved);
    copied.convert.erase();
    for (tile::TransposeOp transpose : transposes)
      transpose.erase();
    copied.load.erase();
  }
}

void nvptx::pipelineLoads(func::FuncOp kernel, const Target &target, int warps) {
  SmallVector<scf::ForOp> loops;
  bool hasRoles = false;
  kernel->walk([&](Operation *op) {
    hasRoles |= isa<tile::SpecializeOp>(op);
    if (auto loop = dyn_cast<scf::ForOp>(op))
      loops.push_back(loop);
  });
  if (!hasRoles)
    for (scf::ForOp loop : loops)
      pipeline(loop, kernel, target, warps);
}

//===- By way of registers ----------------------------------------------------------------------------------------===//

// Whether threads read what the copy engine, or they themselves, have brought for the loop.
static bool readsRing(scf::ForOp loop) {
  return llvm::any_of(loop.getOps<tile::FrontOp>(), [](tile::FrontOp front) {
    return !isShared(front.getTiles()[0].getType()) ||
           llvm::any_of(front->getUsers(), llvm::IsaPred<tile::ConvertLayoutOp>);
  });
}

// The load, if it is of a small tile that nothing writes.
static tile::LoadOp smallLoad(Operation &op, int threads) {
  auto load = dyn_cast<tile::LoadOp>(op);
  bool isSmall = load && isa<RankedTensorType>(load.getType()) && !isShared(load.getType()) &&
                 wordsOf(load.getType(), threads) <= 2;
  return isSmall &&
                 llvm::none_of(load.getView().getUsers(), llvm::IsaPred<tile::StoreOp, tile::ScatterOp, tile::AtomicOp>)
             ? load
             : nullptr;
}

static void prefetch(scf::ForOp loop, int threads) {
  const bool isOfRing = readsRing(loop);
  SmallVector<tile::LoadOp> loads;
  SmallVector<SetVector<Operation *>> slices;
  Operation *last = nullptr;
  int64_t words = 0;
  for (auto around = loop->getParentOfType<scf::ForOp>(); around; around = around->getParentOfType<scf::ForOp>())
    for (Type type : around.getResultTypes())
      if (isa<RankedTensorType>(type))
        words += wordsOf(type, threads);
  for (BlockArgument carried : loop.getRegionIterArgs()) // beside the dots' results, unless it becomes one
    if (isa<RankedTensorType>(carried.getType()) &&
        llvm::none_of(loop.getOps<tile::DotOp>(), [&](tile::DotOp dot) { return isFrom(dot.getAcc(), carried); }))
      words += wordsOf(carried.getType(), threads);
  for (Operation &op : *loop.getBody()) {
    if (auto dot = dyn_cast<tile::DotOp>(op))
      words += wordsOf(dot.getType(), threads);
    auto convert = dyn_cast<tile::ConvertLayoutOp>(op);
    tile::LoadOp load = isOfRing                                 ? smallLoad(op, threads)
                        : convert && isShared(convert.getType()) ? loadedBy(convert)
                                                                 : nullptr;
    SetVector<Operation *> slice;
    if (!load ||
        !llvm::all_of(load->getOperands(), [&](Value operand) { return collectScalars(operand, loop, slice); }))
      continue;
    words += wordsOf(load.getType(), threads);
    loads.push_back(load);
    slices.push_back(std::move(slice));
    last = &op;
  }
  if (loads.empty() || (!isOfRing && words > mostWords(threads)))
    return;
  auto at = [&](OpBuilder &b, Value index) {
    SmallVector<Value> tiles;
    for (auto [load, slice] : llvm::zip(loads, slices)) {
      IRMapping mapping;
      mapping.map(loop.getInductionVar(), index);
      for (Operation *op : slice)
        b.clone(*op, mapping);
      tiles.push_back(b.clone(*load, mapping)->getResult(0));
    }
    return tiles;
  };
  IRRewriter rewriter(loop);
  SmallVector<Value> first = at(rewriter, loop.getLowerBound());
  auto next = [&](OpBuilder &b, Location loc, ArrayRef<BlockArgument> present) {
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointAfter(last);
    Value following = arith::AddIOp::create(b, loc, loop.getInductionVar(), loop.getStep());
    SmallVector<Value> tiles = at(b, following);
    for (auto [load, tile] : llvm::zip(loads, present)) {
      load.getResult().replaceAllUsesWith(tile);
      load->erase();
    }
    return tiles;
  };
  (void)loop.replaceWithAdditionalYields(rewriter, first, /*replaceInitOperandUsesInLoop=*/false, next);
}

void nvptx::prefetchLoads(Operation *kernel, const Target &target, int warps) {
  SmallVector<scf::ForOp> loops;
  bool usesWgmma = false;
  kernel->walk([&](Operation *op) {
    if (auto dot = dyn_cast<tile::DotOp>(op))
      usesWgmma |= planWgmma(dot, target, warps).has_value();
    if (auto loop = dyn_cast<scf::ForOp>(op))
      loops.push_back(loop);
  });
  for (scf::ForOp loop : loops)
    if (!usesWgmma || readsRing(loop))
      prefetch(loop, lanes * warps);
}
