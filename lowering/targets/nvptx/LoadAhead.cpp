// Rows ahead of their steps: where a loop loads large tiles into registers, each thread has asynchronous copies bring
// its own elements of the next steps' to shared memory, so that a multiprocessor always has reads under way:
//
//   for s < stages - 1: fill a slot with step s's tiles
//   for i: wait for the thread's own copies of step i; fill the slot of step i - 1 with step i + stages - 1's; compute
//
// The ring's tiles have the layouts of registers: a thread reads only what it has copied itself, so that no barrier is
// needed, and the tiles of a cluster's blocks stay each block's own. Loops one after the other share a ring, for all
// its slots are free after each. With the large tiles come the few words of others, a row's mean say: as a loop's
// variables, ptxas would put those into uniform registers, and wait for them in the step before. A tile that is the
// same in all steps, a weight, has a slot of its own, filled once.
//
// Where tiles are too many for the registers, what follows a step's last reduction is computed anew from the slot,
// rather than kept while threads wait for each other.
#include "bitloom/lowering/Explain.h"
#include "bitloom/lowering/targets/nvptx/Costs.h"
#include "bitloom/lowering/targets/nvptx/Layouts.h"
#include "bitloom/lowering/targets/nvptx/Mma.h"
#include "bitloom/lowering/targets/nvptx/Rewrites.h"

#include "bitloom/lib/target/Target.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/IR/IRMapping.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"
#include "llvm/ADT/SetVector.h"

using namespace mlir;
using namespace bitloom;
using namespace bitloom::nvptx;

// Words a thread of a tile that is small: a row's mean, say. It comes in short copies, for the sake of large ones.
static constexpr int64_t mostOfSmall = 2;

int64_t nvptx::ownChunk(RankedTensorType type, const LinearLayout &layout) {
  constexpr int64_t most = 16;
  return std::min(most, layout.contiguousRegisters(dimName(int(type.getRank()) - 1)) * bytesOf(type.getElementType()));
}

// The words that a thread holds of the load's result, if it can copy them asynchronously: in chunks that are contiguous
// in a row, from where its elements are multiples of a chunk; else 0.
static int64_t ownWords(tile::LoadOp load) {
  constexpr int64_t fewest = 4, most = 16; // bytes a copy
  auto type = dyn_cast<RankedTensorType>(load.getType());
  auto view = cast<tile::ViewType>(load.getView().getType());
  if (!type || isShared(type) || view.getStrided() || load.getDims().back() != view.getRank() - 1)
    return 0;
  Layouts layouts;
  const LinearLayout &layout = layouts.of(type);
  const int64_t bytes = bytesOf(type.getElementType()), size = ownChunk(type, layout),
                alignment = std::max(bytes, alignmentOf(load.getView())), chunk = size / bytes,
                words = layout.inSize(reg) * bytes / 4;
  const bool isEven = size >= fewest && type.getShape().back() % chunk == 0 && alignment % size == 0 &&
                      (chunk == 1 || isMultiple(load.getOffsets().back(), chunk)) && !layout.freeBits(reg);
  return isEven && (size == most || words <= mostOfSmall) ? words : 0;
}

namespace {

struct Ahead {
  tile::LoadOp load;
  llvm::SetVector<Operation *> scalars; // of the loop's body, that its place is computed by
};

// Whether registers are enough for a kernel's tiles.
enum class Fit {
  Whole,
  Again, // if what follows a step's last reduction is read again
  Hinted // or so the kernel's hint says
};

struct OwnRing {
  tile::RingOp op;
  int64_t bytes;
  SmallVector<scf::ForOp> loops; // that use it
};

} // namespace

static bool isNested(scf::ForOp a, scf::ForOp b) { return a->isAncestor(b) || b->isAncestor(a); }

// Blocks that a multiprocessor's registers are likely to be enough for.
static int64_t blocksFor(const Target &target, int threads) {
  constexpr int64_t registers = 112; // a thread, as row kernels have
  return std::max<int64_t>(1, target.registersPerSm / (registers * threads));
}

// As many slots as leave room for as many blocks; `others`: bytes of other rings.
static int stagesFor(func::FuncOp kernel, const Target &target, int threads, int64_t slotBytes, int64_t others) {
  constexpr int64_t perBlock = 2048, most = 4; // what else a block takes
  const int64_t blocks = blocksFor(target, threads);
  const int64_t room = std::min<int64_t>(target.sharedPerSm / blocks, target.maxSharedPerBlock) - perBlock - others;
  int64_t stages = std::min(most, room / slotBytes);
  if (auto hint = kernel->getAttrOfType<IntegerAttr>(tile::stagesAttr))
    stages = std::min((target.maxSharedPerBlock - perBlock - others) / slotBytes, hint.getInt());
  return stages < 2 ? 0 : int(stages);
}

static Operation *lastReduction(scf::ForOp loop) {
  Operation *last = nullptr;
  for (auto reduce : loop.getBody()->getOps<tile::ReduceOp>())
    last = reduce;
  return last;
}

// Reads the slot where its tiles are needed, after `filled`, not where it is waited for; and computes what the
// operations after the loop's last reduction take from before it once more.
static void readAgain(scf::ForOp loop, tile::FrontOp front, Operation *filled) {
  Block *body = loop.getBody();
  OpBuilder b(body, std::next(Block::iterator(filled)));
  auto read = cast<tile::FrontOp>(b.clone(*front));
  read->setAttr(againAttr, b.getUnitAttr());
  front->replaceAllUsesWith(read);

  Operation *last = lastReduction(loop);
  SmallVector<Operation *> after;
  for (Operation *op = last->getNextNode(); op; op = op->getNextNode())
    after.push_back(op);
  b.setInsertionPointAfter(last);
  Layouts layouts;
  IRMapping mapping;
  auto renewed = [&](auto &self, Value value) -> Value {
    if (Value known = mapping.lookupOrNull(value))
      return known;
    Operation *op = value.getDefiningOp();
    auto type = dyn_cast<RankedTensorType>(value.getType());
    const bool isLarge = type && layouts.of(type).inSize(reg) > mostOfSmall;
    if (!isLarge || !op || op->getBlock() != body || !op->isBeforeInBlock(last) ||
        !(isa<tile::FrontOp>(op) || (isPure(op) && !op->getNumRegions())))
      return value;
    for (Value operand : op->getOperands())
      mapping.map(operand, self(self, operand));
    b.clone(*op, mapping);
    return mapping.lookup(value);
  };
  for (Operation *op : after)
    for (OpOperand &operand : op->getOpOperands())
      operand.set(renewed(renewed, operand.get()));
  // Stores last: they have branches, over which fewer registers are kept so.
  for (Operation *op : after)
    if (isa<tile::StoreOp>(op))
      op->moveBefore(body->getTerminator());
  for (Operation &op : llvm::make_early_inc_range(llvm::reverse(*body)))
    if (isPure(&op) && op.use_empty() && !op.hasTrait<OpTrait::IsTerminator>())
      op.erase();
}

static void loadAhead(scf::ForOp loop, func::FuncOp kernel, const Target &target, int threads, Fit fit,
                      SmallVectorImpl<OwnRing> &rings) {
  SmallVector<Ahead> loads;
  SmallVector<tile::LoadOp> constants; // the same in every step
  int64_t slotBytes = 0, largeBytes = 0;
  auto slotBytesOf = [&](int64_t words) { return int64_t(llvm::alignTo(4 * words * threads, sharedAlignment)); };
  for (auto load : loop.getBody()->getOps<tile::LoadOp>()) {
    Ahead ahead{load, {}};
    const int64_t words = ownWords(load);
    const bool isWritten =
        llvm::any_of(load.getView().getUsers(), llvm::IsaPred<tile::StoreOp, tile::ScatterOp, tile::AtomicOp>);
    bool moves = false;
    // Where registers are few, uniform ones are what is left for small tiles.
    const bool isLeft = fit == Fit::Hinted && words <= mostOfSmall;
    if (!words || isLeft || isWritten || !llvm::all_of(load->getOperands(), [&](Value operand) {
          moves |= !loop.isDefinedOutsideOfLoop(operand);
          return collectScalars(operand, loop, ahead.scalars);
        }))
      continue;
    if (!moves) {
      if (words > mostOfSmall)
        constants.push_back(load);
      continue;
    }
    slotBytes += slotBytesOf(words);
    largeBytes += words > mostOfSmall ? slotBytesOf(words) : 0;
    loads.push_back(std::move(ahead));
  }
  // Bytes: with fewer a step is too short for the copies to be worth it; with more, enough is under way without them,
  // and no registers are left, unless the kernel's hint says otherwise.
  constexpr int64_t fewest = 2 << 10, most = 48 << 10;
  const bool isAgain = fit == Fit::Again, isLong = largeBytes > (isAgain ? 2 * most : most);
  if (largeBytes < fewest || (isLong && !kernel->hasAttr(tile::stagesAttr)) || (isAgain && !lastReduction(loop)))
    return;
  MLIRContext *context = kernel.getContext();
  auto types = llvm::map_to_vector(loads, [](Ahead &ahead) -> Type { return ahead.load.getType(); });
  const auto type = tile::RingType::get(context, types);
  auto others = [&] {
    int64_t bytes = isAgain ? exchangedBytes(kernel) : 0;
    for (OwnRing &ring : rings)
      bytes += ring.bytes;
    return bytes;
  };
  auto free = [&](tile::RingType type) {
    OwnRing *own = llvm::find_if(rings, [&](OwnRing &ring) {
      return ring.op.getRing().getType() == type &&
             llvm::none_of(ring.loops, [&](scf::ForOp other) { return loop == other || isNested(loop, other); });
    });
    return own == rings.end() ? nullptr : own;
  };
  auto ringOf = [&](tile::RingType type, int stages, int64_t slotBytes, Location loc) {
    OwnRing *own = free(type);
    if (!own) {
      OpBuilder entry = OpBuilder::atBlockBegin(&kernel.getBody().front());
      own = &rings.emplace_back(
          OwnRing{tile::RingOp::create(entry, loc, type, uint32_t(stages)), stages * slotBytes, {}});
    }
    own->loops.push_back(loop);
    return own->op;
  };
  if (!free(type) && !stagesFor(kernel, target, threads, slotBytes, others()))
    return;

  OpBuilder before(loop);
  for (tile::LoadOp load : constants) {
    const int64_t bytes = slotBytesOf(ownWords(load));
    const auto own = tile::RingType::get(context, {load.getType()});
    if (!free(own) && !free(type) && !stagesFor(kernel, target, threads, slotBytes, others() + bytes))
      continue;
    const Value ring = ringOf(own, 1, bytes, load.getLoc()).getRing();
    auto filled = tile::FillOp::create(before, load.getLoc(), ring);
    OpBuilder inside(context);
    inside.createBlock(&filled.getBody());
    tile::YieldOp::create(inside, load.getLoc(), inside.clone(*load)->getResults());
    OpBuilder there(load);
    auto front = tile::FrontOp::create(there, load.getLoc(), TypeRange{load.getType()}, ring);
    load.getResult().replaceAllUsesWith(front.getTiles()[0]);
    load.erase();
  }

  Location loc = loads.front().load.getLoc();
  const int wanted = stagesFor(kernel, target, threads, slotBytes, others());
  tile::RingOp op = ringOf(type, wanted, slotBytes, loc);
  const Value ring = op.getRing();
  const int stages = int(op.getStages());
  explainChoice(loop, [&] {
    return "loads " + std::to_string(stages - 1) + " steps ahead, " + std::to_string(slotBytes) + " bytes a block each";
  });

  auto fill = [&](OpBuilder &b, Value index) {
    Value runs = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::slt, index, loop.getUpperBound());
    IRMapping mapping;
    mapping.map(loop.getInductionVar(), index);
    for (Ahead &ahead : loads)
      for (Operation *op : ahead.scalars)
        if (!mapping.contains(op->getResult(0)))
          b.clone(*op, mapping);
    auto branch = scf::IfOp::create(b, loc, runs, /*withElseRegion=*/false);
    OpBuilder inside = OpBuilder::atBlockBegin(&branch.getThenRegion().front());
    auto filled = tile::FillOp::create(inside, loc, ring);
    inside.createBlock(&filled.getBody());
    SmallVector<Value> tiles;
    for (Ahead &ahead : loads)
      tiles.push_back(inside.clone(*ahead.load, mapping)->getResult(0));
    tile::YieldOp::create(inside, loc, tiles);
    return branch;
  };
  Value index = loop.getLowerBound();
  for (int stage = 0; stage + 1 < stages; ++stage) {
    fill(before, index);
    index = arith::AddIOp::create(before, loc, index, loop.getStep());
  }
  Value distance = arith::SubIOp::create(before, loc, index, loop.getLowerBound());
  OpBuilder inside = OpBuilder::atBlockBegin(loop.getBody());
  auto front = tile::FrontOp::create(inside, loc, types, ring);
  Operation *filled = fill(inside, arith::AddIOp::create(inside, loc, loop.getInductionVar(), distance));
  for (auto [ahead, tile] : llvm::zip(loads, front.getTiles())) {
    ahead.load.getResult().replaceAllUsesWith(tile);
    ahead.load.erase();
  }
  if (isAgain)
    readAgain(loop, front, filled);
}

void nvptx::loadAhead(func::FuncOp kernel, const Target &target, int threads) {
  SmallVector<scf::ForOp> loops;
  bool isOther = false; // has other means
  kernel->walk([&](Operation *op) {
    isOther |= isa<tile::SpecializeOp, tile::DotOp, tile::UnpackOp>(op);
    if (auto loop = dyn_cast<scf::ForOp>(op))
      loops.push_back(loop);
  });
  if (isOther)
    return;
  // Addresses and slots take some registers, too, beside what tiles take where that is most; or beside what loops carry
  // and a few chunks, where the rest is read again.
  constexpr int64_t others = 24, chunks = 24, mostRegisters = 255;
  const int64_t room = std::min(mostRegisters, int64_t(target.registersPerSm / threads)) - others;
  Layouts layouts;
  const int64_t live = sumOf(liveTiles(kernel, layouts)), blocks = blocksFor(target, threads);
  const Fit fit = live <= room ? Fit::Whole : kernel->hasAttr(tile::stagesAttr) ? Fit::Hinted : Fit::Again;
  if (fit == Fit::Again && sumOf(carriedTiles(kernel, layouts)) + chunks > room)
    return;
  SmallVector<OwnRing> rings;
  for (scf::ForOp loop : loops)
    ::loadAhead(loop, kernel, target, threads, fit, rings);
  // What is carried from row to row is there for so many blocks: ptxas is not to make less of it for fewer.
  const bool carriesRows = llvm::any_of(rings, [](const OwnRing &ring) {
    return llvm::any_of(ring.loops, [](scf::ForOp loop) {
      return lastReduction(loop) && llvm::any_of(loop.getResultTypes(), llvm::IsaPred<RankedTensorType>);
    });
  });
  if (carriesRows && live + others <= target.registersPerSm / (threads * blocks))
    kernel->setAttr(residentAttr, Builder(kernel).getI32IntegerAttr(int32_t(blocks)));
}
