// Regions of the kernel. Their scalars stay SSA values; their tiles live in memory, from where LLVM promotes the small
// ones to registers.
#include "bitloom/lowering/transforms/loops/KernelLowering.h"

using namespace mlir;
using namespace bitloom::tile;

namespace bitloom::loops {

SmallVector<Buffer> KernelLowering::buffersFor(TypeRange types) {
  SmallVector<Buffer> buffers;
  for (Type type : types)
    buffers.push_back(isa<RankedTensorType>(type) ? allocate(shapeOf(type), elementOf(type)) : Buffer());
  return buffers;
}

KernelLowering::Values KernelLowering::lowerRegion(Block &block, ValueRange values, ArrayRef<Buffer> into,
                                                   ValueRange arguments) {
  lowerBlock(block);
  int outerStatement = std::exchange(statement, depth()), outerFloor = std::exchange(memoryFloor, depth());
  Block *outerBlock = std::exchange(statementBlock, &block);
  if (!done.contains(block.getTerminator()))
    carry(values, into, arguments);
  Values scalars;
  for (Value value : values)
    if (!isTile(value))
      scalars.push_back(scalar(value));
  statement = outerStatement;
  memoryFloor = outerFloor;
  statementBlock = outerBlock;
  here();
  return scalars;
}

// All values are computed from the old contents. One that is read elsewhere than at the element that it overwrites, or
// after it was overwritten, goes through memory of its own.
void KernelLowering::carry(ValueRange values, ArrayRef<Buffer> into, ValueRange arguments) {
  auto changes = [&](size_t i) { return isTile(values[i]) && !isIn(values[i], into[i]); };
  SmallVector<ArrayRef<int64_t>> shapes; // in the order in which they are written: accumulators before their statistics
  for (size_t i = 0; i < values.size(); ++i)
    if (changes(i) && !llvm::is_contained(shapes, ArrayRef<int64_t>(into[i].shape)))
      shapes.push_back(into[i].shape);
  llvm::sort(shapes, [](ArrayRef<int64_t> a, ArrayRef<int64_t> b) {
    return std::pair(a.size(), std::vector(a.begin(), a.end())) > std::pair(b.size(), std::vector(b.begin(), b.end()));
  });
  auto orderOf = [&](size_t i) { return llvm::find(shapes, ArrayRef<int64_t>(into[i].shape)) - shapes.begin(); };

  auto clashes = [&](size_t i) {
    bool found = false;
    llvm::DenseSet<Value> seen[2];
    std::function<void(Value, bool)> visit = [&](Value tile, bool inPlaceHere) {
      if (!isTile(tile) || !seen[inPlaceHere].insert(tile).second)
        return;
      const Buffer *known = bufferOf(tile);
      for (size_t j = 0; known && j < into.size(); ++j)
        if (into[j].pointer && known->pointer == into[j].pointer && changes(j))
          found |= orderOf(j) < orderOf(i) || (orderOf(j) == orderOf(i) && !inPlaceHere);
      Operation *op = tile.getDefiningOp();
      if (known || !op || !isInline(op))
        return;
      bool elementwise = OpTrait::hasElementwiseMappableTraits(op);
      for (Value operand : op->getOperands())
        visit(operand, inPlaceHere && elementwise);
    };
    visit(values[i], true);
    return found;
  };
  SmallVector<std::optional<Buffer>> aside(values.size());
  SmallVector<bool> clashing;
  for (size_t i = 0; i < values.size(); ++i)
    clashing.push_back(!arguments.empty() && changes(i) && clashes(i));
  for (size_t i = 0; i < values.size(); ++i)
    if (clashing[i]) {
      aside[i] = allocate(into[i].shape, into[i].element);
      fill(*aside[i], values[i]);
    }
  for (ArrayRef<int64_t> shape : shapes) {
    SmallVector<size_t> group;
    Values sources;
    for (size_t i = 0; i < values.size(); ++i)
      if (changes(i) && ArrayRef<int64_t>(into[i].shape) == shape) {
        group.push_back(i);
        sources.push_back(values[i]);
      }
    int dim = vectorDim(shape);
    nest(
        shape, dim < 0 ? 1 : lanesFor(sources, shape[dim]), 2,
        [&](const Place &place) {
          Values results;
          for (size_t i : group)
            results.push_back(aside[i] ? readNow(*aside[i], place) : evaluate(values[i], place));
          return results;
        },
        [&](const Place &place, ValueRange results) {
          for (auto [i, value] : llvm::zip(group, results))
            write(into[i], place, value);
        });
  }
}

void KernelLowering::lowerFor(scf::ForOp op) {
  if (lowerContraction(op))
    return;
  SmallVector<Buffer> buffers = buffersFor(op.getInitArgs().getTypes());
  Values inits;
  for (auto [init, buffer] : llvm::zip(op.getInitArgs(), buffers))
    if (isTile(init))
      fill(buffer, init);
    else
      inits.push_back(scalar(init));
  Value lower = scalar(op.getLowerBound()), upper = scalar(op.getUpperBound()), step = scalar(op.getStep());
  here();
  auto loop = scf::ForOp::create(builder, op.getLoc(), lower, upper, step, inits);
  open(loop.getBody(), loop);
  bind(op.getInductionVar(), loop.getInductionVar());
  size_t next = 0;
  ValueRange yielded = op.getYieldedValues();
  for (auto [i, argument] : llvm::enumerate(op.getRegionIterArgs())) {
    if (!isTile(argument)) {
      bind(argument, loop.getRegionIterArg(next++));
      continue;
    }
    scopes.back()->buffers[argument] = buffers[i];
    auto dot = yielded[i].getDefiningOp<DotOp>();
    const Fusion::Sinks &sinks = fusion.sinks(argument);
    if (dot && dot->getBlock() == op.getBody() && dot->hasOneUse() && sinks.size() == 1 && sinks[0] == dot &&
        accumulatesOnly(dot, argument))
      inPlace[dot] = buffers[i];
    if (DotOp added = productAddedTo(argument, yielded[i])) {
      inPlace[added] = buffers[i];
      adding[added] = yielded[i].getDefiningOp();
    }
  }
  carriers.try_emplace(op.getBody()->getTerminator(), buffers);
  Values scalars = lowerRegion(*op.getBody(), yielded, buffers, op.getRegionIterArgs());
  if (!inits.empty())
    scf::YieldOp::create(builder, op.getLoc(), scalars);
  close();
  next = 0;
  for (auto [i, result] : llvm::enumerate(op.getResults()))
    if (isTile(result))
      scopes.back()->buffers[result] = buffers[i];
    else
      bind(result, loop.getResult(next++));
}

// The product whose sum with what is carried is all that becomes of both; none where there is no such.
DotOp KernelLowering::productAddedTo(Value carried, Value next) {
  Operation *add = next.getDefiningOp();
  if (!isa_and_nonnull<arith::AddFOp, arith::AddIOp>(add) || !add->hasOneUse() || !carried.hasOneUse() ||
      add->getBlock() != carried.getParentBlock() || !llvm::is_contained(add->getOperands(), carried))
    return {};
  auto dot = add->getOperand(add->getOperand(0) == carried).getDefiningOp<DotOp>();
  return dot && dot->hasOneUse() && dot->getBlock() == add->getBlock() ? dot : DotOp();
}

// Whether the dot reads the tile as its accumulator only, element by element.
bool KernelLowering::accumulatesOnly(DotOp dot, Value tile) {
  std::function<bool(Value, bool)> reads = [&](Value value, bool moved) -> bool { // where it must not
    if (value == tile)
      return moved;
    Operation *op = value.getDefiningOp();
    if (!isTile(value) || !op || !isInline(op))
      return false;
    bool elementwise = OpTrait::hasElementwiseMappableTraits(op);
    return llvm::any_of(op->getOperands(), [&](Value operand) { return reads(operand, moved || !elementwise); });
  };
  return !reads(dot.getA(), true) && !reads(dot.getB(), true) && !reads(dot.getAcc(), false);
}

void KernelLowering::lowerIf(scf::IfOp op) {
  SmallVector<Buffer> buffers = buffersFor(op.getResultTypes());
  SmallVector<Type> types;
  for (Type type : op.getResultTypes())
    if (!isa<RankedTensorType>(type))
      types.push_back(type);
  Value condition = scalar(op.getCondition());
  here();
  bool hasElse = !op.getElseRegion().empty();
  auto branch = scf::IfOp::create(builder, op.getLoc(), TypeRange(types), condition, /*addThenBlock=*/true, hasElse);
  auto side = [&](Block *from, Block *to) {
    open(to, branch);
    Values scalars = lowerRegion(*from, from->getTerminator()->getOperands(), buffers, {});
    if (to->empty() || !to->back().hasTrait<OpTrait::IsTerminator>())
      scf::YieldOp::create(builder, op.getLoc(), scalars);
    close();
  };
  side(op.thenBlock(), branch.thenBlock());
  if (hasElse)
    side(op.elseBlock(), branch.elseBlock());
  size_t next = 0;
  for (auto [i, result] : llvm::enumerate(op.getResults()))
    if (isTile(result))
      scopes.back()->buffers[result] = buffers[i];
    else
      bind(result, branch.getResult(next++));
}

void KernelLowering::lowerWhile(scf::WhileOp op) {
  SmallVector<Buffer> before = buffersFor(op.getInits().getTypes()), after = buffersFor(op.getResultTypes());
  Values inits;
  for (auto [init, buffer] : llvm::zip(op.getInits(), before))
    if (isTile(init))
      fill(buffer, init);
    else
      inits.push_back(scalar(init));
  SmallVector<Type> types;
  for (Type type : op.getResultTypes())
    if (!isa<RankedTensorType>(type))
      types.push_back(type);
  here();
  auto loop = scf::WhileOp::create(builder, op.getLoc(), TypeRange(types), ValueRange(inits));
  auto region = [&](Region &to, Block *from, ArrayRef<Buffer> buffers) {
    SmallVector<Type> scalars;
    for (Value argument : from->getArguments())
      if (!isTile(argument))
        scalars.push_back(argument.getType());
    Block *block = builder.createBlock(&to, {}, scalars, SmallVector<Location>(scalars.size(), op.getLoc()));
    open(block, loop);
    size_t next = 0;
    for (auto [argument, buffer] : llvm::zip(from->getArguments(), buffers))
      if (isTile(argument))
        scopes.back()->buffers[argument] = buffer;
      else
        bind(argument, block->getArgument(next++));
  };
  // Each region reads one set of buffers and writes the other.
  region(loop.getBefore(), op.getBeforeBody(), before);
  scf::ConditionOp test = op.getConditionOp();
  Values forwarded = lowerRegion(*op.getBeforeBody(), test.getArgs(), after, {});
  Value condition = scalar(test.getCondition());
  here();
  scf::ConditionOp::create(builder, op.getLoc(), condition, forwarded);
  close();
  region(loop.getAfter(), op.getAfterBody(), after);
  Values carried = lowerRegion(*op.getAfterBody(), op.getYieldOp()->getOperands(), before, {});
  scf::YieldOp::create(builder, op.getLoc(), carried);
  close();
  size_t next = 0;
  for (auto [i, result] : llvm::enumerate(op.getResults()))
    if (isTile(result))
      scopes.back()->buffers[result] = after[i];
    else
      bind(result, loop.getResult(next++));
}

} // namespace bitloom::loops
