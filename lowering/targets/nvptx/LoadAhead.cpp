// Rows ahead of their steps: where a loop loads large tiles into registers, each thread has asynchronous copies bring
// its own elements of the next steps' to shared memory, so that a multiprocessor always has reads under way:
//
//   for s < stages - 1: fill a slot with step s's tiles
//   for i: wait for the thread's own copies of step i; fill the slot of step i - 1 with step i + stages - 1's; compute
//
// The ring's tiles have the layouts of registers: a thread reads only what it has copied itself, so that no barrier is
// needed, and the tiles of a cluster's blocks stay each block's own. Loops one after the other share a ring, for all
// its slots are free after each. What comes to registers in a few words, a row's mean say, is loaded a step ahead
// (PrefetchLoads.cpp).
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

int64_t nvptx::ownWords(tile::LoadOp load) {
  auto type = dyn_cast<RankedTensorType>(load.getType());
  auto view = cast<tile::ViewType>(load.getView().getType());
  if (!type || isShared(type) || view.getStrided() || load.getDims().back() != view.getRank() - 1)
    return 0;
  const int64_t bytes = bytesOf(type.getElementType()), chunk = ownChunk / bytes,
                alignment = alignmentOf(load.getView());
  Layouts layouts;
  const LinearLayout &layout = layouts.of(type);
  const bool isEven = type.getShape().back() % chunk == 0 && alignment % ownChunk == 0 &&
                      layout.contiguousRegisters(dimName(int(type.getRank()) - 1)) >= chunk &&
                      isMultiple(load.getOffsets().back(), chunk) && !layout.freeBits(reg);
  return isEven ? layout.inSize(reg) * bytes / 4 : 0;
}

namespace {

struct Ahead {
  tile::LoadOp load;
  llvm::SetVector<Operation *> scalars; // of the loop's body, that its place is computed by
};

struct OwnRing {
  tile::RingOp op;
  int64_t bytes;
  SmallVector<scf::ForOp> loops; // that use it
};

} // namespace

static bool isNested(scf::ForOp a, scf::ForOp b) { return a->isAncestor(b) || b->isAncestor(a); }

// As many slots as leave room for as many blocks as a multiprocessor's registers are likely to; `others`: bytes of
// other rings.
static int stagesFor(func::FuncOp kernel, const Target &target, int threads, int64_t slotBytes, int64_t others) {
  constexpr int64_t registers = 112, perBlock = 2048,
                    most = 4; // a thread, as row kernels have; what else a block takes
  const int64_t blocks = std::max<int64_t>(1, target.registersPerSm / (registers * threads));
  const int64_t room = std::min<int64_t>(target.sharedPerSm / blocks, target.maxSharedPerBlock) - perBlock - others;
  int64_t stages = std::min(most, room / slotBytes);
  if (auto hint = kernel->getAttrOfType<IntegerAttr>(tile::stagesAttr))
    stages = std::min((target.maxSharedPerBlock - perBlock - others) / slotBytes, hint.getInt());
  return stages < 2 ? 0 : int(stages);
}

static void loadAhead(scf::ForOp loop, func::FuncOp kernel, const Target &target, int threads,
                      SmallVectorImpl<OwnRing> &rings) {
  SmallVector<Ahead> loads;
  int64_t slotBytes = 0;
  for (auto load : loop.getBody()->getOps<tile::LoadOp>()) {
    Ahead ahead{load, {}};
    const int64_t words = ownWords(load);
    const bool isWritten =
        llvm::any_of(load.getView().getUsers(), llvm::IsaPred<tile::StoreOp, tile::ScatterOp, tile::AtomicOp>);
    bool moves = false; // else it is the same in every step
    if (!words || isWritten ||
        !llvm::all_of(load->getOperands(),
                      [&](Value operand) {
                        moves |= !loop.isDefinedOutsideOfLoop(operand);
                        return collectScalars(operand, loop, ahead.scalars);
                      }) ||
        !moves)
      continue;
    slotBytes += llvm::alignTo(4 * words * threads, sharedAlignment);
    loads.push_back(std::move(ahead));
  }
  // Bytes: with fewer a step is too short for the copies to be worth it; with more, enough is under way without them,
  // and no registers are left.
  constexpr int64_t fewest = 2 << 10, most = 48 << 10;
  if (slotBytes < fewest || slotBytes > most)
    return;
  MLIRContext *context = kernel.getContext();
  auto types = llvm::map_to_vector(loads, [](Ahead &ahead) -> Type { return ahead.load.getType(); });
  const auto type = tile::RingType::get(context, types);
  int64_t others = 0;
  for (OwnRing &ring : rings)
    others += ring.bytes;
  OwnRing *own = llvm::find_if(rings, [&](OwnRing &ring) {
    return ring.op.getRing().getType() == type &&
           llvm::none_of(ring.loops, [&](scf::ForOp other) { return isNested(loop, other); });
  });
  if (own == rings.end()) {
    const int stages = stagesFor(kernel, target, threads, slotBytes, others);
    if (!stages)
      return;
    OpBuilder entry = OpBuilder::atBlockBegin(&kernel.getBody().front());
    auto op = tile::RingOp::create(entry, loads.front().load.getLoc(), type, uint32_t(stages));
    own = &rings.emplace_back(OwnRing{op, stages * slotBytes, {}});
  }
  own->loops.push_back(loop);
  const Value ring = own->op.getRing();
  const int stages = int(own->op.getStages());
  explainChoice(loop, [&] {
    return "loads " + std::to_string(stages - 1) + " steps ahead, " + std::to_string(slotBytes) + " bytes a block each";
  });

  Location loc = loads.front().load.getLoc();
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
  };
  OpBuilder before(loop);
  Value index = loop.getLowerBound();
  for (int stage = 0; stage + 1 < stages; ++stage) {
    fill(before, index);
    index = arith::AddIOp::create(before, loc, index, loop.getStep());
  }
  Value distance = arith::SubIOp::create(before, loc, index, loop.getLowerBound());
  OpBuilder inside = OpBuilder::atBlockBegin(loop.getBody());
  auto front = tile::FrontOp::create(inside, loc, types, ring);
  fill(inside, arith::AddIOp::create(inside, loc, loop.getInductionVar(), distance));
  for (auto [ahead, tile] : llvm::zip(loads, front.getTiles())) {
    ahead.load.getResult().replaceAllUsesWith(tile);
    ahead.load.erase();
  }
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
  // Addresses and slots take some registers, too, beside what tiles take where that is most.
  constexpr int64_t others = 24, most = 255;
  Layouts layouts;
  if (sumOf(liveTiles(kernel, layouts)) + others > std::min(most, int64_t(target.registersPerSm / threads)))
    return;
  SmallVector<OwnRing> rings;
  for (scf::ForOp loop : loops)
    ::loadAhead(loop, kernel, target, threads, rings);
}
