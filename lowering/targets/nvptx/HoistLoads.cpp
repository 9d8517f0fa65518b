// Loads early: a load moves up to the load before it in its block, past whatever only computes (a reduction's barriers
// above all), so that the reads of a program are in flight together. Writes stay in order with loads.
#include "bitloom/lowering/targets/nvptx/Rewrites.h"

#include "bitloom/lowering/dialect/Tile.h"

#include "mlir/Interfaces/SideEffectInterfaces.h"

using namespace mlir;
using namespace bitloom;

// Registers a thread that loads may occupy while they wait: one load, and several together. What they take is not there
// for another block on the same SM, whose loads would hide the latency as well.
static constexpr int64_t mostWordsOfOne = 32, mostWords = 24;

static bool onlyReads(Operation *op) { return isa<tile::LoadOp, tile::GatherOp>(op) || isMemoryEffectFree(op); }

// A computation of scalars that may move.
static bool isScalar(Operation *op) {
  return isPure(op) && !op->getNumRegions() &&
         llvm::none_of(op->getResultTypes(), [](Type type) { return isa<RankedTensorType>(type); });
}

// Moves the scalar computations that `value` needs to before `place`; false where something else is needed.
static bool moveScalars(Value value, Operation *place) {
  Operation *producer = value.getDefiningOp();
  if (!producer || producer->getBlock() != place->getBlock() || producer->isBeforeInBlock(place))
    return true;
  if (!isScalar(producer))
    return false;
  for (Value operand : producer->getOperands())
    if (!moveScalars(operand, place))
      return false;
  producer->moveBefore(place);
  return true;
}

static void hoistLoads(Block &block, int threads) {
  Operation *previous = nullptr; // the last load, nothing since having written
  int64_t waiting = 0;           // words a thread of the loads that were moved
  for (Operation &op : llvm::make_early_inc_range(block)) {
    auto load = dyn_cast<tile::LoadOp>(op);
    if (!load) {
      if (!onlyReads(&op)) {
        previous = nullptr;
        waiting = 0;
      }
      continue;
    }
    int64_t bytes = std::max(1u, tile::elementOf(load.getType()).getIntOrFloatBitWidth() / 8);
    int64_t words = ShapedType::getNumElements(tile::shapeOf(load.getType())) * bytes / (4 * threads);
    Operation *place = previous ? previous->getNextNode() : nullptr;
    while (place && place != &op && isScalar(place))
      place = place->getNextNode(); // it may be an operand's
    bool isAffordable = words <= mostWordsOfOne && (!waiting || waiting + words <= mostWords);
    if (place && place != &op && isAffordable &&
        llvm::all_of(load->getOperands(), [&](Value operand) { return moveScalars(operand, place); })) {
      op.moveBefore(place);
      waiting += words;
    }
    previous = &op;
  }
}

void nvptx::hoistLoads(Operation *kernel, int threads) {
  kernel->walk([&](Block *block) { ::hoistLoads(*block, threads); });
}
