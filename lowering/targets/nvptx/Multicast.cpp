// Which loads the blocks of a cluster share, and along which axis of the grid their programs lie.
//
// Each block copies its part of a shared tile to the same place in the shared memory of all, and each one's barrier
// `full` counts the bytes of all parts. So a slot may be filled once the consumers of all blocks have freed it, at the
// `empty` barriers of all (Roles.cpp). This holds only if the blocks take the same number of steps: the loop's bounds
// must not depend on the axis, and where the grid's extent is no multiple of the cluster, a block runs the loop of a
// program that does not exist: it loads for the others, and nothing comes of its sum.
#include "bitloom/lowering/targets/nvptx/Multicast.h"

#include "bitloom/lowering/Explain.h"
#include "bitloom/lowering/dialect/Multicast.h"
#include "bitloom/lowering/targets/nvptx/Layouts.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "llvm/ADT/SetVector.h"

using namespace mlir;
using namespace bitloom;
using namespace bitloom::nvptx;

std::optional<CopyPart> nvptx::partFor(const SharedForm &form, int blocks) {
  constexpr int64_t period = 8; // lines
  if (form.boxes % blocks == 0)
    return CopyPart{form.boxes / blocks, form.lines};
  if (form.lines % (period * blocks) == 0)
    return CopyPart{form.boxes, form.lines / blocks};
  return std::nullopt;
}

static SharedForm formOf(tile::LoadOp load) {
  Type type = load.getType();
  Layouts layouts;
  return *sharedFormOf(layouts.of(type), tile::shapeOf(type), int(bytesOf(tile::elementOf(type))));
}

CopyPart nvptx::partOf(tile::LoadOp load, const SharedForm &form, int blocks) {
  return load->hasAttr(tile::inPartsAttr) ? *partFor(form, blocks) : CopyPart{form.boxes, form.lines};
}

std::optional<int> nvptx::clusterAxis(Operation *inKernel) {
  auto kernel = isa<func::FuncOp>(inKernel) ? cast<func::FuncOp>(inKernel) : inKernel->getParentOfType<func::FuncOp>();
  auto axis = kernel->getAttrOfType<IntegerAttr>(tile::clusterAxisAttr);
  return axis ? std::optional(int(axis.getInt())) : std::nullopt;
}

// The axes of the grid on which the values may depend, a bit each.
static unsigned axesOf(ValueRange values) {
  constexpr unsigned all = 0b111;
  unsigned axes = 0;
  llvm::SetVector<Value> seen(values.begin(), values.end());
  for (size_t i = 0; i < seen.size(); ++i) {
    if (auto argument = dyn_cast<BlockArgument>(seen[i])) {
      Operation *parent = argument.getOwner()->getParentOp();
      auto loop = dyn_cast<scf::ForOp>(parent);
      if (loop && argument == loop.getInductionVar())
        seen.insert_range(ValueRange{loop.getLowerBound(), loop.getStep()});
      else if (!isa<func::FuncOp>(parent))
        return all;
      continue;
    }
    Operation *op = seen[i].getDefiningOp();
    if (auto id = dyn_cast<tile::ProgramIdOp>(op))
      axes |= 1u << id.getAxis();
    else if (op->getNumRegions() || isa<tile::ClusterRankOp>(op))
      return all;
    else
      seen.insert_range(op->getOperands());
  }
  return axes;
}

// The loop that holds the role's one operation of the kind, directly in the role; none otherwise.
template <class Op> static scf::ForOp loopOf(Region &role) {
  SmallVector<Op> found;
  role.walk([&](Op op) { found.push_back(op); });
  auto loop = found.size() == 1 ? dyn_cast<scf::ForOp>(found[0]->getParentOp()) : nullptr;
  return loop && loop->getParentRegion() == &role ? loop : nullptr;
}

// The last operation that belongs to the consumers' loop: those after it free its last slot.
static Operation *endOf(scf::ForOp fronts) {
  Operation *last = fronts;
  for (Operation *op = fronts->getNextNode(); op; op = op->getNextNode())
    if (isa<tile::DotWaitOp, tile::PopOp, tile::PassTurnOp>(op))
      last = op;
  return last;
}

// Whether a program that does not exist may run to the end of the loop unnoticed.
static bool isHarmless(Block &consumer, Operation *last) {
  WalkResult found = consumer.walk([&](Operation *op) {
    bool isNoticed =
        isa<tile::StoreOp, tile::ScatterOp, tile::AtomicOp, tile::PrintOp, tile::AssertOp, scf::WhileOp>(op);
    return isNoticed && !last->isBeforeInBlock(consumer.findAncestorOpInBlock(*op)) ? WalkResult::interrupt()
                                                                                    : WalkResult::advance();
  });
  return !found.wasInterrupted();
}

// What follows the operation, for programs within the grid.
static void guardRest(Operation *last, int axis) {
  Block *block = last->getBlock();
  OpBuilder builder(last->getContext());
  builder.setInsertionPointAfter(last);
  Location loc = last->getLoc();
  Value id = tile::ProgramIdOp::create(builder, loc, axis), count = tile::NumProgramsOp::create(builder, loc, axis);
  Value exists = arith::CmpIOp::create(builder, loc, arith::CmpIPredicate::slt, id, count);
  auto branch = scf::IfOp::create(builder, loc, exists);
  Block &then = branch.getThenRegion().front();
  then.getOperations().splice(then.begin(), block->getOperations(), std::next(branch->getIterator()),
                              block->getTerminator()->getIterator());
}

void nvptx::multicastLoads(func::FuncOp kernel) {
  auto hint = kernel->getAttrOfType<IntegerAttr>(tile::multicastAttr);
  auto specialized = kernel.getOps<tile::SpecializeOp>();
  if (!hint || hint.getInt() < 2 || specialized.empty())
    return;
  tile::SpecializeOp specialize = *specialized.begin();
  const int blocks = int(hint.getInt());
  auto decline = [&](const char *why) {
    explainChoice(kernel, [&] { return "each block loads for itself: " + std::string(why); });
  };
  if (kernel->hasAttr(tile::clusterAttr) || kernel->hasAttr(tile::streamKAttr))
    return decline("blocks share the steps of programs");
  scf::ForOp fills = loopOf<tile::FillOp>(specialize.getProducer());
  scf::ForOp fronts = loopOf<tile::FrontOp>(specialize.getConsumer());
  if (!fills || !fronts)
    return decline("expected one loop that loads");
  Block &consumer = specialize.getConsumer().front();
  Operation *last = endOf(fronts);
  if (!isHarmless(consumer, last))
    return decline("expected nothing to be written before the loop ends");

  // The axis along which programs have most in common.
  const unsigned ofBounds = axesOf({fills.getLowerBound(), fills.getUpperBound(), fills.getStep()});
  SmallVector<tile::LoadOp> loads, best;
  fills.walk([&](tile::LoadOp load) { loads.push_back(load); });
  int64_t mostBytes = 0;
  int bestAxis = 0;
  for (int axis = 0; axis < 3; ++axis) {
    SmallVector<tile::LoadOp> shared;
    int64_t bytes = 0;
    bool isUsed = false; // or else there may be one program along it
    for (tile::LoadOp load : loads) {
      bool depends = axesOf(load.getOffsets()) >> axis & 1;
      isUsed |= depends;
      if (depends || !isShared(load.getType()) || !partFor(formOf(load), blocks))
        continue;
      shared.push_back(load);
      bytes += ShapedType::getNumElements(tile::shapeOf(load.getType())) * bytesOf(tile::elementOf(load.getType()));
    }
    if (isUsed && bytes > mostBytes && !(ofBounds >> axis & 1))
      best = shared, mostBytes = bytes, bestAxis = axis;
  }
  if (best.empty())
    return decline("expected a tile that programs along an axis have in common");

  OpBuilder builder(kernel);
  kernel->setAttr(tile::clusterAttr, builder.getI32IntegerAttr(blocks));
  kernel->setAttr(tile::clusterAxisAttr, builder.getI32IntegerAttr(bestAxis));
  for (tile::LoadOp load : best)
    load->setAttr(tile::inPartsAttr, builder.getUnitAttr());
  guardRest(last, bestAxis);
  explainChoice(best.front(), [&] {
    return std::to_string(blocks) + " blocks, whose programs are neighbours along axis " + std::to_string(bestAxis) +
           ", load this together: each copies a part into the shared memory of all";
  });
}
