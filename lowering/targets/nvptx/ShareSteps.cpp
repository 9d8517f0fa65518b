// Lets the blocks of a grid share the steps of its programs evenly (stream-K: Osama et al., "Stream-K: Work-centric
// Parallel Decomposition for Dense Matrix-Matrix Multiplication on the GPU", 2023), on the hint tile.stream_k.
//
// A kernel is one loop over steps that accumulates a dot, as long in every program, and an epilogue. Both roles' loops
// run from the first to the last step of a block's part of the program (tile.share) instead of over all of them. The
// parts' sums are added up (tile.share_sum) in the block that has the program's first step, which alone does the rest.
#include "bitloom/lowering/Passes.h"
#include "bitloom/lowering/targets/nvptx/Mma.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/IR/IRMapping.h"
#include "mlir/IR/Matchers.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"

namespace bitloom {
#define GEN_PASS_DEF_SHARESTEPS
#include "lowering/Passes.h.inc"
} // namespace bitloom

using namespace mlir;
using namespace bitloom;

// Whether the scalar is the same in every program, and may be computed before all of them.
static bool isOfKernel(Value value) {
  if (auto argument = dyn_cast<BlockArgument>(value))
    return isa<func::FuncOp>(argument.getOwner()->getParentOp());
  Operation *op = value.getDefiningOp();
  return !isa<tile::ProgramIdOp>(op) && !op->getNumRegions() && isMemoryEffectFree(op) &&
         llvm::all_of(op->getOperands(), isOfKernel);
}

static Value copyOf(Value value, OpBuilder &builder, IRMapping &mapping) {
  if (isa<BlockArgument>(value))
    return value;
  if (Value copy = mapping.lookupOrNull(value))
    return copy;
  for (Value operand : value.getDefiningOp()->getOperands())
    mapping.map(operand, copyOf(operand, builder, mapping));
  builder.clone(*value.getDefiningOp(), mapping);
  return mapping.lookup(value);
}

// The loop of the role that holds all operations of the kind; none unless there is one, directly in the role.
template <class Op> static scf::ForOp loopOf(Region &role) {
  scf::ForOp loop;
  bool isAlone = true;
  role.walk([&](Op op) {
    auto around = dyn_cast<scf::ForOp>(op->getParentOp());
    isAlone &= around && around->getParentRegion() == &role && (!loop || loop == around);
    loop = around;
  });
  return isAlone ? loop : nullptr;
}

// Whether the loop's one result starts from zero and is the sum of dots that nothing else looks at.
static bool accumulates(scf::ForOp loop) {
  if (loop.getNumRegionIterArgs() != 1 || loop->use_empty())
    return false;
  Value init = loop.getInitArgs()[0];
  auto dot = loop.getYieldedValues()[0].getDefiningOp<tile::DotOp>();
  return dot && dot.getInFlight() && dot.getAcc() == loop.getRegionIterArg(0) && loop.getRegionIterArg(0).hasOneUse() &&
         (matchPattern(init, m_Zero()) || matchPattern(init, m_AnyZeroFloat()));
}

// Whether every block may run what comes before the loop.
static bool isRepeatable(scf::ForOp loop) {
  return llvm::all_of(llvm::make_range(loop->getBlock()->begin(), loop->getIterator()), [](Operation &op) {
    return isa<tile::LoadOp, tile::TakeTurnOp>(op) || (!op.getNumRegions() && isMemoryEffectFree(&op));
  });
}

// The loop's bounds become those of the block's part of the program.
static tile::ShareOp narrow(scf::ForOp loop) {
  OpBuilder builder(loop);
  Location loc = loop.getLoc();
  auto share = tile::ShareOp::create(builder, loc);
  auto at = [&](Value step) -> Value {
    Value beyond = arith::MulIOp::create(builder, loc, step, loop.getStep());
    return arith::AddIOp::create(builder, loc, loop.getLowerBound(), beyond);
  };
  Value first = at(share.getFirst()), end = at(share.getEnd());
  loop.setUpperBound(arith::MinSIOp::create(builder, loc, end, loop.getUpperBound()));
  loop.setLowerBound(first);
  return share;
}

// A slot is freed by what the comparison of the loop's variable, or of its bounds, says: with the new ones.
static void followBounds(scf::ForOp loop, Block &role) {
  role.walk([&](tile::PopOp pop) {
    auto compare = pop.getCondition() ? pop.getCondition().getDefiningOp<arith::CmpIOp>() : nullptr;
    if (!compare)
      return;
    if (compare.getPredicate() == arith::CmpIPredicate::ne)
      compare.getRhsMutable().assign(loop.getLowerBound());
    else
      compare->setOperands({loop.getLowerBound(), loop.getUpperBound()});
  });
}

static void shareSteps(func::FuncOp func, tile::SpecializeOp specialize) {
  scf::ForOp fills = loopOf<tile::FillOp>(specialize.getProducer());
  scf::ForOp fronts = loopOf<tile::FrontOp>(specialize.getConsumer());
  if (!fills || !fronts || !accumulates(fronts) || !isRepeatable(fronts) || func->hasAttr(tile::clusterAttr) ||
      !llvm::all_of(ValueRange{fronts.getLowerBound(), fronts.getUpperBound(), fronts.getStep()}, isOfKernel))
    return;
  auto wait = dyn_cast<tile::DotWaitOp>(*fronts.getResult(0).getUsers().begin());
  if (!wait)
    return;

  OpBuilder before(specialize);
  Location loc = fronts.getLoc();
  IRMapping mapping;
  Value from = copyOf(fronts.getLowerBound(), before, mapping), to = copyOf(fronts.getUpperBound(), before, mapping);
  Value step = copyOf(fronts.getStep(), before, mapping);
  Value none = arith::ConstantOp::create(before, loc, before.getI64IntegerAttr(0));
  Value range = arith::MaxSIOp::create(before, loc, arith::SubIOp::create(before, loc, to, from), none);
  specialize.getStepsMutable().assign(arith::CeilDivSIOp::create(before, loc, range, step));

  narrow(fills);
  tile::ShareOp share = narrow(fronts);
  Block &consumer = specialize.getConsumer().front();
  followBounds(fronts, consumer);
  for (auto turn : consumer.getOps<tile::TakeTurnOp>()) { // which comes before the loop
    turn.getSlotsMutable().assign(share.getBefore());
    turn->moveAfter(share);
  }

  // After the loop's last slot is freed.
  Operation *last = wait;
  for (auto pop : consumer.getOps<tile::PopOp>())
    last = pop;
  OpBuilder after(last->getContext());
  after.setInsertionPointAfter(last);
  auto sum = tile::ShareSumOp::create(after, loc, wait.getResult());
  wait.getResult().replaceAllUsesExcept(sum.getResult(), sum);
  Value zero = arith::ConstantOp::create(after, loc, after.getI64IntegerAttr(0));
  Value isFirst = arith::CmpIOp::create(after, loc, arith::CmpIPredicate::eq, share.getFirst(), zero);
  auto branch = scf::IfOp::create(after, loc, isFirst);
  Block &then = branch.getThenRegion().front();
  then.getOperations().splice(then.begin(), consumer.getOperations(), std::next(branch->getIterator()),
                              consumer.getTerminator()->getIterator());
}

namespace {

struct ShareSteps : bitloom::impl::ShareStepsBase<ShareSteps> {
  void runOnOperation() override {
    func::FuncOp func = getOperation();
    if (!func->hasAttr(tile::kernelAttr) || !func->hasAttr(tile::streamKAttr))
      return;
    auto specialize = func.getOps<tile::SpecializeOp>();
    if (!specialize.empty())
      shareSteps(func, *specialize.begin());
  }
};

} // namespace
