// Keeps the tensor cores at work while the threads compute what lies between the two dots of a loop, as in attention:
//
//   for i: s = a · b[i];  p = f(s);  sum = p · c[i] + g · sum
//
// The second dot of an iteration moves into the next one, behind the first dot there: Shah et al., "FlashAttention-3"
// (2024), algorithm 2. What it takes from the iteration before, p and the sum to add to, the loop carries:
//
//   s = a · b[0];  p = f(s);  sum = g · sum
//   for i ≥ 1: start s = a · b[i], start sum = p · c[i - 1] + sum;  wait for s;  p = f(s);  wait for sum;  sum = g ·
//   sum sum = p · c[last] + sum
//
// Where several warpgroups share the tile, they start their dots one after the other, so that one computes f while the
// others have the tensor cores.
#include "bitloom/lowering/Passes.h"
#include "bitloom/lowering/targets/nvptx/Layouts.h"
#include "bitloom/lowering/targets/nvptx/Mma.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/IR/IRMapping.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"
#include "llvm/ADT/SetVector.h"

namespace bitloom {
#define GEN_PASS_DEF_PIPELINEDOTS
#include "lowering/Passes.h.inc"
} // namespace bitloom

using namespace mlir;
using namespace bitloom;
using namespace bitloom::nvptx;

namespace {

class Pipeline {
public:
  Pipeline(scf::ForOp loop, const Target &target, int warps) : loop(loop), target(target), warps(warps) {}
  bool match();
  void rewrite();

private:
  bool fitsRegisters();
  // The second dot with its tiles from the ring, of the iteration that `mapping` knows the operands of.
  Value finish(OpBuilder &builder, IRMapping &mapping);
  SmallVector<Value> early(const IRMapping &now);
  scf::ForOp createLoop(OpBuilder &builder, ValueRange inits);

  scf::ForOp loop;
  const Target &target;
  int warps;
  tile::DotOp first, second;
  unsigned sumIndex = 0;                // of the loop's arguments: what the second dot adds to
  SmallVector<Operation *> secondTiles; // the front and the transposes that lead to its operand in shared memory
  tile::PopOp secondPop;
  SmallVector<Operation *> rest;    // all others of the body, in order
  llvm::DenseSet<Operation *> late; // of those, what has to wait for the second dot
};

} // namespace

// The operand in registers; null where both are in shared memory.
static Value registerOperand(tile::DotOp dot) {
  return !isShared(dot.getA().getType()) ? dot.getA() : !isShared(dot.getB().getType()) ? dot.getB() : Value();
}

static bool usesAny(Operation *op, const llvm::DenseSet<Value> &values) {
  bool uses = false;
  op->walk([&](Operation *inner) {
    uses |= llvm::any_of(inner->getOperands(), [&](Value operand) { return values.contains(operand); });
  });
  return uses;
}

// The scores, the sum and the operand between them stay in registers together.
bool Pipeline::fitsRegisters() {
  constexpr int64_t others = 64; // addresses, rows' statistics, what is under way
  int64_t threads = warps * lanes, groups = warps / warpsPerGroup;
  int64_t most = groups == 1 ? 255 : groups == 2 ? 232 : 160;
  auto words = [&](Value tile) {
    auto type = cast<RankedTensorType>(tile.getType());
    return type.getNumElements() * bytesOf(type.getElementType()) / 4 / threads;
  };
  return groups <= 3 && words(first) + words(second) + words(registerOperand(second)) + others <= most;
}

bool Pipeline::match() {
  SmallVector<tile::DotOp> dots;
  loop.walk([&](tile::DotOp dot) { dots.push_back(dot); });
  if (dots.size() != 2 || dots[0]->getBlock() != loop.getBody() || dots[1]->getBlock() != loop.getBody())
    return false;
  first = dots[0], second = dots[1];
  Value operand = registerOperand(second);
  if (first.getInFlight() || second.getInFlight() || !operand || !second.getResult().hasOneUse() ||
      !planWgmma(first, target, warps) || !planWgmma(second, target, warps) || !fitsRegisters())
    return false;
  auto yield = cast<scf::YieldOp>(loop.getBody()->getTerminator());
  OpOperand &use = *second.getResult().use_begin();
  if (use.getOwner() != yield)
    return false;
  sumIndex = use.getOperandNumber();

  // What leads to the second dot's other operand, and frees it again.
  Value tile = operand == second.getA() ? second.getB() : second.getA();
  for (; auto transpose = tile.getDefiningOp<tile::TransposeOp>(); tile = transpose.getSource()) {
    if (!tile.hasOneUse())
      return false;
    secondTiles.insert(secondTiles.begin(), transpose);
  }
  auto front = tile.getDefiningOp<tile::FrontOp>();
  if (!front || !tile.hasOneUse() || front.getNumResults() != 1 || front->getBlock() != loop.getBody())
    return false;
  secondTiles.insert(secondTiles.begin(), front);
  for (Operation *user : front.getRing().getUsers())
    if (auto pop = dyn_cast<tile::PopOp>(user); pop && pop->getBlock() == loop.getBody()) {
      if (secondPop || pop.getCondition())
        return false;
      secondPop = pop;
    }
  if (!secondPop)
    return false;

  llvm::DenseSet<Value> fromFirst{first.getResult()}, fromSum{loop.getRegionIterArg(sumIndex)};
  for (Operation &op : loop.getBody()->without_terminator()) {
    if (&op == second || &op == secondPop || llvm::is_contained(secondTiles, &op))
      continue;
    if (!isa<tile::FrontOp, tile::PopOp>(op) && !isMemoryEffectFree(&op))
      return false;
    rest.push_back(&op);
    if (usesAny(&op, fromFirst))
      fromFirst.insert(op.result_begin(), op.result_end());
    if (usesAny(&op, fromSum)) {
      if (&op == first || isa<tile::FrontOp, tile::PopOp>(op))
        return false;
      late.insert(&op);
      fromSum.insert(op.result_begin(), op.result_end());
    }
  }
  // The operand's last step too: so it takes the registers of the one before it.
  if (Operation *producer = operand.getDefiningOp();
      producer && producer->getBlock() == loop.getBody() && operand.hasOneUse() && producer->getNumResults() == 1)
    late.insert(producer);
  return fromFirst.contains(operand);
}

Value Pipeline::finish(OpBuilder &builder, IRMapping &mapping) {
  for (Operation *op : secondTiles)
    builder.clone(*op, mapping);
  return builder.clone(*second, mapping)->getResult(0);
}

// What the loop carries a few registers of, and computes while the second dot is under way. The assembler would rather
// wait first, and compute afterwards.
SmallVector<Value> Pipeline::early(const IRMapping &now) {
  constexpr int64_t most = 4; // elements a thread
  SmallVector<Value> values;
  for (Value value : loop.getYieldedValues()) {
    auto type = dyn_cast<RankedTensorType>(value.getType());
    Operation *producer = value.getDefiningOp();
    if (type && producer && llvm::is_contained(rest, producer) && !late.contains(producer) &&
        type.getNumElements() <= most * warps * mmaRows / 2 && type.getElementType().isF32())
      values.push_back(now.lookup(value));
  }
  return values;
}

// The loop from the second iteration on. It carries what the old one did, the sum as the second dot is to add to it,
// and that dot's operand.
scf::ForOp Pipeline::createLoop(OpBuilder &builder, ValueRange inits) {
  Location loc = loop.getLoc();
  Value from = arith::AddIOp::create(builder, loc, loop.getLowerBound(), loop.getStep());
  auto piped = scf::ForOp::create(builder, loc, from, loop.getUpperBound(), loop.getStep(), inits);
  OpBuilder inside = OpBuilder::atBlockBegin(piped.getBody());
  bool inTurn = warps > warpsPerGroup;
  auto carried = piped.getRegionIterArgs();

  IRMapping before; // of the iteration that ends here
  before.map(second.getAcc(), carried[sumIndex]);
  before.map(registerOperand(second), carried.back());
  IRMapping now;
  now.map(loop.getInductionVar(), piped.getInductionVar());
  for (auto [i, argument] : llvm::enumerate(loop.getRegionIterArgs()))
    if (i != sumIndex)
      now.map(argument, carried[i]);

  auto start = llvm::find(rest, first.getOperation());
  for (Operation *op : ArrayRef<Operation *>(rest.begin(), start))
    inside.clone(*op, now);
  for (Operation *op : secondTiles)
    inside.clone(*op, before);
  if (inTurn)
    tile::AwaitGroupOp::create(inside, loc);
  auto scores = cast<tile::DotOp>(inside.clone(*first, now));
  scores.setInFlight(1);
  auto sum = cast<tile::DotOp>(inside.clone(*second, before));
  sum.setInFlight(2);
  if (inTurn)
    tile::AdmitGroupOp::create(inside, loc);
  auto known = tile::DotWaitOp::create(inside, first.getLoc(), scores.getType(), scores, registerOperand(scores),
                                       ValueRange(), 1);
  now.map(first.getResult(), known.getResult());
  ArrayRef<Operation *> others(start + 1, rest.end());
  for (Operation *op : others)
    if (!late.contains(op))
      inside.clone(*op, now);
  auto added =
      tile::DotWaitOp::create(inside, second.getLoc(), sum.getType(), sum, registerOperand(sum), early(now), 0);
  inside.clone(*secondPop, before);
  now.map(loop.getRegionIterArg(sumIndex), added.getResult());
  for (Operation *op : others)
    if (late.contains(op))
      inside.clone(*op, now);

  SmallVector<Value> yielded;
  for (auto [i, value] : llvm::enumerate(loop.getYieldedValues()))
    yielded.push_back(now.lookupOrDefault(i == sumIndex ? second.getAcc() : value));
  yielded.push_back(now.lookupOrDefault(registerOperand(second)));
  scf::YieldOp::create(inside, loc, yielded);
  return piped;
}

void Pipeline::rewrite() {
  Location loc = loop.getLoc();
  OpBuilder builder(loop);
  Value runs =
      arith::CmpIOp::create(builder, loc, arith::CmpIPredicate::slt, loop.getLowerBound(), loop.getUpperBound());
  auto branch = scf::IfOp::create(builder, loc, loop.getResultTypes(), runs, /*addThenBlock=*/true,
                                  /*addElseBlock=*/true);
  OpBuilder otherwise = OpBuilder::atBlockBegin(&branch.getElseRegion().front());
  scf::YieldOp::create(otherwise, loc, loop.getInitArgs());

  OpBuilder inside = OpBuilder::atBlockBegin(&branch.getThenRegion().front());
  IRMapping start;
  start.map(loop.getInductionVar(), loop.getLowerBound());
  for (auto [argument, init] : llvm::zip(loop.getRegionIterArgs(), loop.getInitArgs()))
    start.map(argument, init);
  for (Operation *op : rest)
    inside.clone(*op, start);
  SmallVector<Value> inits;
  for (auto [i, value] : llvm::enumerate(loop.getYieldedValues()))
    inits.push_back(start.lookupOrDefault(i == sumIndex ? second.getAcc() : value));
  inits.push_back(start.lookupOrDefault(registerOperand(second)));
  scf::ForOp piped = createLoop(inside, inits);

  IRMapping end;
  end.map(second.getAcc(), piped.getResult(sumIndex));
  end.map(registerOperand(second), piped.getResults().back());
  Value sum = finish(inside, end);
  inside.clone(*secondPop, end);
  SmallVector<Value> results(piped.getResults().drop_back());
  results[sumIndex] = sum;
  scf::YieldOp::create(inside, loc, results);
  loop->replaceAllUsesWith(branch);
  loop->erase();
}

namespace {

struct PipelineDots : bitloom::impl::PipelineDotsBase<PipelineDots> {
  using PipelineDotsBase::PipelineDotsBase;

  void runOnOperation() override {
    func::FuncOp func = getOperation();
    auto warps = func->getAttrOfType<IntegerAttr>(tile::numWarpsAttr);
    if (!func->hasAttr(tile::kernelAttr) || !warps)
      return;
    const Target facts = parseTarget(target);
    SmallVector<scf::ForOp> loops;
    func.walk(
        [&](tile::SpecializeOp roles) { roles.getConsumer().walk([&](scf::ForOp loop) { loops.push_back(loop); }); });
    for (scf::ForOp loop : loops)
      if (Pipeline pipeline(loop, facts, int(warps.getInt())); pipeline.match())
        pipeline.rewrite();
  }
};

} // namespace
