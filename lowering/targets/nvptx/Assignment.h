// The choice of a layout for each tile of a kernel: its steps are in AssignLayouts.cpp, those of a kind together in
// Anchors.cpp, SpreadLayouts.cpp and ConvertLayouts.cpp.
#pragma once

#include "bitloom/lib/target/Target.h"
#include "bitloom/lowering/targets/nvptx/Layouts.h"
#include "bitloom/lowering/targets/nvptx/Mma.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"

#include <deque>

namespace bitloom::nvptx {

inline bool isTensor(mlir::Value value) { return mlir::isa<mlir::RankedTensorType>(value.getType()); }
inline llvm::ArrayRef<int64_t> shapeOf(mlir::Value value) { return tile::shapeOf(value.getType()); }

// The tiles whose element at each place an operation combines: they share one layout.
llvm::SmallVector<mlir::Value> tied(mlir::Operation *op);
// Whether it is computed from what a dot gave, element by element.
bool comesFromDot(mlir::Value value);

class Assignment {
public:
  Assignment(mlir::func::FuncOp func, const Target &target, int warps) : func(func), target(target), warps(warps) {}
  llvm::LogicalResult run();

private:
  void collectAccesses();
  void anchor(tile::DotOp dot);
  void anchorMma(tile::DotOp dot, const MmaPlan &plan);
  bool onlyWgmmaReads(mlir::Value tile);
  bool isDirect(mlir::OpOperand &operand, int depthDim, const MmaAtom &atom);
  bool canThreadsCopy(mlir::OpOperand &operand, int depthDim, const MmaAtom &atom);
  void anchorOperand(mlir::OpOperand &operand, int depthDim, const MmaAtom &atom, bool direct);
  void anchorBytes(mlir::Value unpacked);
  void placeScales(tile::DotOp dot);
  bool isCopiedAhead(tile::LoadOp load);
  void propagate();
  void seed(mlir::Value value);
  void seedFragments();
  void set(mlir::Value value, const LinearLayout &layout);
  void unify(mlir::ValueRange values);
  void visit(mlir::Operation *op);
  void visitShape(mlir::Operation *op);
  void unifyControlFlow(mlir::Operation *op);
  void settle(mlir::Operation *op);
  std::optional<LinearLayout> coalesced(tile::StoreOp store);
  std::optional<LinearLayout> needed(mlir::Operation *op, mlir::OpOperand &operand);
  mlir::Operation *outermostLoopWithout(tile::DotOp dot, mlir::Value value);
  void require(mlir::OpOperand &operand, const LinearLayout &layout);
  void force(mlir::Value result, const LinearLayout &actual);

  mlir::func::FuncOp func;
  const Target &target;
  int warps;
  bool hasDots = false;
  bool stacked = false;                                     // mma.sync's accumulators, for a row's sake
  llvm::DenseMap<mlir::OpOperand *, LinearLayout> anchored; // operands of dots
  // Of the widest access of a tile with so many elements.
  llvm::DenseMap<int64_t, int64_t> elementsPerThread;
  llvm::DenseMap<mlir::Value, LinearLayout> chosen;
  std::deque<mlir::Value> changed;
};

} // namespace bitloom::nvptx
