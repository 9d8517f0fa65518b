// What is computed where it is used, and what is computed once and kept: decided before any loop is written.
//
// Most tile operations are pure functions of an index space. They are *inline*: a *sink* (a store, a reduction, a
// product, a loop-carried value, …) evaluates them chunk by chunk inside its own loops. An inline value is kept in
// memory when evaluating it again would cost more, or would read what has been overwritten since. Stores of one shape
// that follow each other are one sink, where none writes what another still reads; and so is, with the last of them in
// a loop, what that loop carries on.
#pragma once

#include "bitloom/lowering/dialect/Tile.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "llvm/ADT/DenseMap.h"
#include "llvm/ADT/SetVector.h"

namespace bitloom::loops {

// Whether `op` yields tiles that are evaluated at their uses.
bool isInline(mlir::Operation *op);
inline bool isTile(mlir::Value value) { return mlir::isa<mlir::RankedTensorType>(value.getType()); }

class Fusion {
public:
  using Sinks = llvm::SmallSetVector<mlir::Operation *, 4>;

  explicit Fusion(mlir::func::FuncOp kernel);

  // Of one vector of it, in simple instructions; what is kept counts as a load.
  int64_t cost(mlir::Value tile);
  // Costly enough that it is not evaluated twice.
  bool isCostly(mlir::Value tile) { return cost(tile) >= 6; }
  // Several sinks use it: the first one that visits it all keeps it for the others.
  bool worthKeeping(mlir::Value tile) const { return kept.contains(tile); }
  // Inline values to be in memory before this operation starts: it may overwrite what they read, or use them many
  // times.
  llvm::ArrayRef<mlir::Value> neededBefore(mlir::Operation *op) const;
  // Every sink that evaluates this value, directly or through other inline values.
  const Sinks &sinks(mlir::Value tile);
  // The stores that are done in one nest of loops in the place of this one, itself first; none for the others of those.
  llvm::SmallVector<tile::StoreOp, 2> storedWith(tile::StoreOp store) const;
  // The end of the loop around it whose tiles are computed in that nest, too; or none.
  mlir::scf::YieldOp carriedWith(tile::StoreOp store) const;

private:
  void groupStores(mlir::Block &block);
  // Whether stores and what a loop carries may be done in one nest. `between`: what the text loads after the first
  // store.
  static bool mayJoin(llvm::ArrayRef<tile::StoreOp> stores, mlir::scf::YieldOp carries,
                      llvm::ArrayRef<mlir::Operation *> between);
  // Where a sink is done: the first store of its group, mostly itself.
  mlir::Operation *placeOf(mlir::Operation *sink) const;
  void keepWhatIsShared(mlir::Value tile);
  void keepWhatIsOverwritten(mlir::Operation *load, llvm::ArrayRef<mlir::Operation *> writes);
  void need(mlir::Value tile, mlir::Operation *before);

  llvm::DenseMap<mlir::Operation *, int> order; // of the program's text
  llvm::DenseMap<mlir::Value, int64_t> costs;
  llvm::DenseMap<mlir::Value, Sinks> sinkSets;
  llvm::DenseMap<mlir::Value, Sinks> places; // as sinks, but what is kept counts as its first sink
  llvm::DenseSet<mlir::Value> kept;
  llvm::DenseMap<mlir::Operation *, llvm::SmallVector<tile::StoreOp, 2>> groups; // by their first stores
  llvm::DenseMap<mlir::Operation *, mlir::Operation *> firstOf;                  // of the other sinks in groups
  llvm::DenseMap<mlir::Operation *, mlir::scf::YieldOp> carried;                 // with groups, by their first stores
  llvm::DenseMap<mlir::Operation *, llvm::SmallVector<mlir::Value, 2>> needs;
};

} // namespace bitloom::loops
