// Loads a step ahead: what a loop brings from global to shared memory for mma.sync is loaded by the step before, once
// that has put its own tiles in shared memory, and so arrives while the tensor cores multiply. The last step loads a
// tile that nobody reads.
#include "bitloom/lowering/targets/nvptx/Rewrites.h"

#include "bitloom/lowering/dialect/Tile.h"
#include "bitloom/lowering/targets/nvptx/Mma.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/IR/IRMapping.h"
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

// What `value` needs of the loop's body, in order, into `slice`; false where that is more than the induction variable
// and scalars computed from it.
static bool collectScalars(Value value, scf::ForOp loop, SetVector<Operation *> &slice) {
  if (value == loop.getInductionVar() || loop.isDefinedOutsideOfLoop(value))
    return true;
  Operation *op = value.getDefiningOp();
  if (!op || op->getBlock() != loop.getBody() || op->getNumRegions() || !isPure(op) ||
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

static void prefetch(scf::ForOp loop, int threads) {
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
    tile::LoadOp load = convert && isShared(convert.getType()) ? loadedBy(convert) : nullptr;
    SetVector<Operation *> slice;
    if (!load ||
        !llvm::all_of(load->getOperands(), [&](Value operand) { return collectScalars(operand, loop, slice); }))
      continue;
    words += wordsOf(load.getType(), threads);
    loads.push_back(load);
    slices.push_back(std::move(slice));
    last = &op;
  }
  if (loads.empty() || words > mostWords(threads))
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
  if (!usesWgmma)
    for (scf::ForOp loop : loops)
      prefetch(loop, lanes * warps);
}
