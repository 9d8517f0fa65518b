// Layouts flow from the anchors, then from the largest tiles to the smaller ones.
//
// 0. Anchor (Anchors.cpp): a dot that the tensor cores can compute has its accumulator in their fragments. Its operands
//    lie in shared memory, whither the copy engine loads them for wgmma if it can, but for a computed `a`, which stays
//    in registers: of what that is unpacked from, the bytes lie in shared memory.
// 1. Seed (SpreadLayouts.cpp): the largest tile that has no layout yet takes the coalesced one of its shape
//    (canonicalLayout), and what it implies for the tiles tied to it by an operation (the same for elementwise
//    operations and loop-carried values; a slice of it for what is broadcast to it or reduced from it; the bytes its
//    values are unpacked from, …) spreads until nothing changes. Then the next seed. So a small tile is loaded where
//    its user wants it, and chains of elementwise operations of any types never convert.
// 2. Commit (ConvertLayouts.cpp): every type takes its layout. Where an operand's differs from what its operation
//    needs, the producer is repeated in the needed layout if that is free (constants, splats, iota), else a
//    tile.convert_layout is inserted.
#include "bitloom/lowering/Explain.h"
#include "bitloom/lowering/Passes.h"
#include "bitloom/lowering/targets/nvptx/Assignment.h"
#include "bitloom/lowering/targets/nvptx/Rewrites.h"
#include "bitloom/lowering/targets/nvptx/Warps.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "llvm/Support/MathExtras.h"

namespace bitloom {
#define GEN_PASS_DEF_ASSIGNLAYOUTS
#include "lowering/Passes.h.inc"
} // namespace bitloom

using namespace mlir;
using namespace bitloom;
using namespace bitloom::nvptx;

LogicalResult Assignment::run() {
  collectAccesses();
  SmallVector<Value> values, packed;
  SmallVector<Operation *> ops;
  func.walk<WalkOrder::PreOrder>([&](Operation *op) {
    if (op != func)
      ops.push_back(op);
    for (Value result : op->getResults())
      if (isTensor(result))
        (isa<tile::PackOp>(op) ? packed : values).push_back(result);
    for (Region &region : op->getRegions())
      for (Block &block : region)
        for (Value argument : block.getArguments())
          if (isTensor(argument))
            values.push_back(argument);
  });
  DenseMap<Value, size_t> position;
  for (auto [i, value] : llvm::enumerate(values))
    position[value] = i;
  llvm::sort(values, [&](Value a, Value b) {
    int64_t left = paddedElements(a.getType()), right = paddedElements(b.getType());
    return left != right ? left > right : position.at(a) < position.at(b);
  });
  func.walk([&](tile::LutOp lut) {
    if (isLookupByWords(lut)) // every thread has the whole table
      set(lut.getTable(), canonicalLayout(shapeOf(lut.getTable()), shapeOf(lut.getTable())[0], warps));
  });
  func.walk([&](tile::DotOp) { hasDots = true; });
  func.walk([&](tile::DotOp dot) { stacked |= comesFromDot(dot.getA()) || comesFromDot(dot.getB()); });
  func.walk([&](tile::DotOp dot) { anchor(dot); });
  propagate();
  seedFragments();
  // The bytes first: their values go with them, while the reverse would leave a byte's values in several threads.
  for (ArrayRef<Value> list : {ArrayRef<Value>(packed), ArrayRef<Value>(values)})
    for (Value value : list)
      if (!chosen.contains(value))
        seed(value);

  // What must agree exactly follows its leader, even where different seeds met.
  for (Operation *op : ops) {
    auto follow = [&](Value value, Value leader) {
      if (isTensor(value))
        chosen[value] = LinearLayout(chosen.at(leader));
    };
    if (auto loop = dyn_cast<scf::ForOp>(op)) {
      for (auto [result, arg] : llvm::zip(loop.getResults(), loop.getRegionIterArgs()))
        follow(result, arg);
    } else if (auto loop = dyn_cast<scf::WhileOp>(op)) {
      for (auto [result, arg] : llvm::zip(loop.getResults(), loop.getAfterArguments()))
        follow(result, arg);
    } else if (!tied(op).empty() || isa<tile::SplitOp>(op)) {
      for (Value result : op->getResults())
        follow(result, op->getResult(0));
    }
  }
  for (auto &[value, layout] : chosen) {
    Value typed = value;
    typed.setType(withLayout(cast<RankedTensorType>(typed.getType()), layout));
  }
  for (Operation *op : ops)
    settle(op);
  func.walk([&](tile::DotOp dot) { placeScales(dot); });
  return success();
}

// The warps that have the rows of a product with unpacked values among them, 16 each; 0 where there is none.
static int warpsOfRows(func::FuncOp func) {
  SmallVector<tile::DotOp> dots = unpackedDots(func);
  if (dots.empty())
    return 0;
  const int warps = int(dots.front().getType().getDimSize(0) / mmaRows);
  return warps >= warpsPerGroup && llvm::isPowerOf2_32(uint32_t(warps)) ? warps : 0;
}

namespace {

struct AssignLayouts : bitloom::impl::AssignLayoutsBase<AssignLayouts> {
  using AssignLayoutsBase::AssignLayoutsBase;

  // Fields that cross rows are placed for the instructions of CPUs.
  LogicalResult checkPackings(func::FuncOp func) {
    auto check = [&](Operation *op, tile::PackingAttr packing) -> WalkResult {
      if (Packing::parse(packing.getSpelling()).order != Packing::Order::Columns)
        return WalkResult::advance();
      return op->emitError() << "expected a packing in the order low, high, planar or fragments on " << target
                             << ", got " << packing.getSpelling() << ": the order columns is that of CPUs";
    };
    WalkResult result = func.walk([&](Operation *op) {
      if (auto unpack = dyn_cast<tile::UnpackOp>(op))
        return check(op, unpack.getPacking());
      if (auto pack = dyn_cast<tile::PackOp>(op))
        return check(op, pack.getPacking());
      return WalkResult::advance();
    });
    return failure(result.wasInterrupted());
  }

  void runOnOperation() override {
    func::FuncOp func = getOperation();
    if (!func->hasAttr(tile::kernelAttr))
      return;
    if (failed(checkPackings(func)))
      return signalPassFailure();
    auto warps = func->getAttrOfType<IntegerAttr>(tile::numWarpsAttr);
    if (warps && (warps.getInt() < 1 || warps.getInt() > 32 || !llvm::isPowerOf2_64(warps.getInt()))) {
      func.emitError() << tile::numWarpsAttr << ": expected a power of two from 1 to 32, got " << warps.getInt();
      return signalPassFailure();
    }
    const Target facts = parseTarget(target);
    int blocks = 1;
    try {
      blocks = clusterFor(func, facts);
    } catch (const UserError &error) {
      func.emitError() << error.what();
      return signalPassFailure();
    }
    int count = warps ? int(warps.getInt()) : warpsFor(func, facts, blocks);
    if (int ofRows = warps ? warpsOfRows(func) : 0; ofRows && count > ofRows) {
      if (facts.computeCapability == 90) {
        func->setAttr(tile::consumersAttr, Builder(func).getI32IntegerAttr(count / ofRows));
        func->setAttr(stepGroupsAttr, Builder(func).getUnitAttr());
      }
      func->setAttr(tile::numWarpsAttr, Builder(func).getI32IntegerAttr(ofRows));
      count = ofRows;
    }
    if (!warps && takesTurns(func, facts)) {
      count = warpsPerGroup;
      func->setAttr(tile::consumersAttr, Builder(func).getI32IntegerAttr(2));
    }
    if (!warps)
      func->setAttr(tile::numWarpsAttr, Builder(func).getI32IntegerAttr(count));
    explainChoice(func, [&] {
      return std::to_string(count) + " warps a " +
             (blocks > 1 ? "block of " + std::to_string(blocks) + " that hold the tiles together, " : "program, ") +
             (warps ? "as the kernel asks" : "for the size of its tiles") +
             (func->hasAttr(stepGroupsAttr)        ? "; groups of them take the steps in turn"
              : func->hasAttr(tile::consumersAttr) ? "; two groups take programs in turn, one stores while one computes"
                                                   : "");
    });
    narrowIndices(func);
    try {
      if (failed(Assignment(func, facts, count * blocks).run()))
        signalPassFailure();
    } catch (const std::exception &error) {
      func.emitError() << "layout assignment: " << error.what();
      signalPassFailure();
    }
  }
};

} // namespace
