// One reduction for several: where a row's sums of squares and of products, say, need nothing of each other, their
// partial results go through the same shuffles' places and the same two barriers.
#include "bitloom/lowering/targets/nvptx/Rewrites.h"

#include "mlir/IR/IRMapping.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"
#include "llvm/ADT/SetVector.h"

using namespace mlir;
using namespace bitloom;

// The operations between the two, of one block, that need the first; none where one of these cannot wait until after
// the second, or where the second needs it.
static std::optional<llvm::SetVector<Operation *>> between(tile::ReduceOp first, tile::ReduceOp second) {
  llvm::SetVector<Operation *> needing;
  needing.insert(first);
  for (Operation *op = first->getNextNode();; op = op->getNextNode()) {
    bool needs = false;
    op->walk([&](Operation *inner) {
      for (Value operand : inner->getOperands())
        needs |= operand.getDefiningOp() && needing.contains(operand.getDefiningOp());
    });
    if (op == second)
      return needs ? std::nullopt : std::optional(needing);
    if (!needs)
      continue;
    if (!isPure(op) || op->getNumRegions())
      return std::nullopt;
    needing.insert(op);
  }
}

// Of both, in the second's place.
static tile::ReduceOp merged(tile::ReduceOp first, tile::ReduceOp second) {
  OpBuilder b(second);
  SmallVector<Value> sources(first.getSources());
  llvm::append_range(sources, second.getSources());
  SmallVector<Type> results(first->getResultTypes());
  llvm::append_range(results, second->getResultTypes());
  auto both = tile::ReduceOp::create(b, second.getLoc(), results, sources, first.getAxis());
  Block *body = b.createBlock(&both.getCombiner());
  SmallVector<Value> yielded;
  IRMapping mapping;
  for (bool isRight : {false, true})
    for (tile::ReduceOp reduce : {first, second}) {
      Block &from = reduce.getCombiner().front();
      const size_t count = reduce.getSources().size();
      for (BlockArgument argument : from.getArguments().slice(isRight * count, count))
        mapping.map(argument, body->addArgument(argument.getType(), argument.getLoc()));
    }
  for (tile::ReduceOp reduce : {first, second}) {
    Block &from = reduce.getCombiner().front();
    for (Operation &op : from.without_terminator())
      b.clone(op, mapping);
    for (Value value : from.getTerminator()->getOperands())
      yielded.push_back(mapping.lookup(value));
  }
  tile::YieldOp::create(b, second.getLoc(), yielded);
  for (auto [old, now] : llvm::zip(first->getResults(), both->getResults()))
    old.replaceAllUsesWith(now);
  for (auto [old, now] : llvm::zip(second->getResults(), both->getResults().drop_front(first->getNumResults())))
    old.replaceAllUsesWith(now);
  return both;
}

void nvptx::mergeReductions(func::FuncOp kernel) {
  kernel.walk([&](Block *block) {
    tile::ReduceOp previous;
    for (Operation &op : llvm::make_early_inc_range(*block)) {
      auto reduce = dyn_cast<tile::ReduceOp>(op);
      if (!reduce)
        continue;
      auto typeOf = [](tile::ReduceOp reduce) { return cast<RankedTensorType>(reduce.getSources()[0].getType()); };
      // Of many results the exchange itself costs more than the barriers; one after the other they share the room for
      // it.
      constexpr int64_t mostResults = 64;
      const bool isSmall = typeOf(reduce).getNumElements() <= mostResults * typeOf(reduce).getDimSize(reduce.getAxis());
      const bool isAlike = isSmall && previous && previous.getAxis() == reduce.getAxis() &&
                           typeOf(previous).getShape() == typeOf(reduce).getShape() &&
                           typeOf(previous).getEncoding() == typeOf(reduce).getEncoding();
      auto needing = isAlike ? between(previous, reduce) : std::nullopt;
      if (!needing) {
        previous = reduce;
        continue;
      }
      Operation *place = reduce;
      for (Operation *waiting : needing->getArrayRef().drop_front()) {
        waiting->moveAfter(place);
        place = waiting;
      }
      tile::ReduceOp both = merged(previous, reduce);
      previous->erase();
      reduce->erase();
      previous = both;
    }
  });
}
