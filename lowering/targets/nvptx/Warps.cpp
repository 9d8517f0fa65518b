#include "bitloom/lowering/targets/nvptx/Warps.h"

#include "bitloom/lowering/targets/nvptx/Mma.h"

#include "mlir/Dialect/SCF/IR/SCF.h"

using namespace mlir;
using namespace bitloom;
using namespace bitloom::nvptx;

static bool dependsOnProgram(Value value) {
  if (isa<BlockArgument>(value))
    return !isa<func::FuncOp>(cast<BlockArgument>(value).getOwner()->getParentOp());
  Operation *op = value.getDefiningOp();
  return isa<tile::ProgramIdOp>(op) || op->getNumRegions() || llvm::any_of(op->getOperands(), dependsOnProgram);
}

static bool isCopied(Value operand) {
  while (auto transpose = operand.getDefiningOp<tile::TransposeOp>())
    operand = transpose.getSource();
  auto load = operand.getDefiningOp<tile::LoadOp>();
  return load && isCopyable(load.getView(), load.getOffsets());
}

// Of rows of the accumulators, which are each a quad's, once they are complete.
static bool isOfRows(Operation *op) {
  auto reduce = dyn_cast<tile::ReduceOp>(op);
  return reduce && isa<func::FuncOp>(reduce->getParentOp()) && reduce.getAxis() == 1 &&
         llvm::all_of(reduce.getSources(), [](Value source) {
           ArrayRef<int64_t> shape = tile::shapeOf(source.getType());
           return shape.size() == 2 && shape[0] >= wgmmaRows; // those of fewer are the instruction's columns
         });
}

bool nvptx::takesTurns(func::FuncOp func, const Target &target) {
  constexpr int64_t mostElements = 128 * 128;
  SmallVector<tile::DotOp> dots;
  bool isSimple = true;
  func.walk([&](Operation *op) {
    if (auto dot = dyn_cast<tile::DotOp>(op))
      dots.push_back(dot);
    isSimple &= isOfRows(op) || !isa<tile::ReduceOp, tile::ScanOp, tile::GatherOp, tile::ScatterOp, tile::AtomicOp,
                                     tile::LutOp, tile::PrintOp, tile::AssertOp, tile::JoinOp, tile::SplitOp,
                                     tile::SliceOp, tile::UnpackOp, tile::PackOp, scf::IfOp, scf::WhileOp>(op);
  });
  if (!isSimple || dots.size() != 1)
    return false;
  tile::DotOp dot = dots.front();
  auto loop = dyn_cast<scf::ForOp>(dot->getParentOp());
  auto split = func->getAttrOfType<IntegerAttr>(tile::splitAttr);
  auto sum = dyn_cast<BlockArgument>(dot.getAcc());
  if (!loop || !sum || sum.getOwner() != loop.getBody() || loop->getParentOp() != func ||
      (split && split.getInt() > 1) || wgmmaWarps(dot) != 2 * warpsPerGroup ||
      dot.getType().getNumElements() > mostElements || !planWgmma(dot, target, warpsPerGroup) ||
      !isCopied(dot.getA()) || !isCopied(dot.getB()))
    return false;
  return llvm::none_of(ValueRange{loop.getLowerBound(), loop.getUpperBound(), loop.getStep()}, dependsOnProgram);
}

int nvptx::warpsFor(func::FuncOp func, const Target &target, int blocks) {
  int groups = 0;
  func.walk([&](tile::DotOp dot) {
    if (planWgmma(dot, target, wgmmaWarps(dot)))
      groups = std::max(groups, wgmmaWarps(dot));
  });
  if (groups)
    return groups;
  int64_t largest = 1;
  func.walk([&](Operation *op) {
    for (Type type : op->getResultTypes())
      if (isa<RankedTensorType>(type))
        largest = std::max(largest, paddedElements(type));
  });
  int mma = 0;
  func.walk([&](tile::DotOp dot) {
    if (planMma(dot, target, 1))
      mma = std::max(mma, mmaWarps(dot));
  });
  if (mma) { // and at most 64 registers a thread of the largest tile; indices of 64 bits are narrowed later
    int64_t words = 1;
    func.walk([&](Operation *op) {
      for (Type type : op->getResultTypes())
        if (isa<RankedTensorType>(type))
          words = std::max(words, paddedElements(type) * std::min<int64_t>(bytesOf(tile::elementOf(type)), 4) / 4);
    });
    return std::max(mma, int(std::min<int64_t>(words / (lanes * 64), 16)));
  }
  double words = 1; // a thread's registers an element: those, and the value under way
  auto count = [&](ValueRange values) {
    for (Value value : values)
      if (isa<RankedTensorType>(value.getType()) && paddedElements(value.getType()) == largest)
        words += double(bytesOf(tile::elementOf(value.getType()))) / 4;
  };
  func.walk([&](Operation *op) {
    if (isa<tile::LoadOp, scf::ForOp, scf::WhileOp>(op))
      count(op->getResults());
  });
  largest /= blocks;
  // 32 elements a thread where what is loaded and carried of that size leaves registers to spare.
  constexpr double mostRegisters = 100;
  int64_t perThread = words * 32 <= mostRegisters ? 32 : 16;
  int64_t ample = std::min<int64_t>(largest / (lanes * perThread), 16);
  return int(std::clamp<int64_t>(std::max(std::min<int64_t>(largest / 256, 4), ample), 1, 16));
}
