// Where the elements of a rectangular tile in memory are: each register's address, and whether it is in bounds.
#pragma once

#include "bitloom/lowering/targets/nvptx/Emitter.h"

#include <map>

namespace bitloom::nvptx {

// All is the thread's, and emitted where it is first asked for.
class TileAccess {
public:
  TileAccess(Emitter &e, mlir::Value view, mlir::ValueRange offsets, llvm::ArrayRef<int32_t> dims, mlir::Type tile);

  struct Place {
    mlir::Value address; // i64
    int64_t bytes;       // beyond it
  };
  Place place(int registerIndex);
  mlir::Value inBounds(int registerIndex);
  bool isDead(int registerIndex) { return layout && e.isDead(*layout, shape, registerIndex); }
  bool isReplica(int registerIndex) { return layout && registerIndex & layout->freeBits(reg); } // of a lower register
  int64_t run() const { return runLength; } // registers that one instruction may move
  // Registers of 16 bytes side by side in rows of too little known alignment; 1: none.
  int64_t shiftedRun() const { return shiftedLength; }
  // The aligned pieces of 16 bytes that the run from a register on lies in.
  struct Pieces {
    Place first;
    mlir::Value shift;   // i32: bytes of the first one before the run; if 0, there is no second one
    mlir::Value mayRead; // i1: the whole run is in bounds, and the pieces lie in the view's memory
  };
  Pieces pieces(int registerIndex);
  int64_t alignment() const { return std::max(bytes, view.alignment & -view.alignment); } // known, of rows
  mlir::Value runsAreWhole();                // i1: no run straddles an edge, and all are aligned
  mlir::Value touchesRun(int registerIndex); // i1: an element of the run that starts here may be in bounds
  // i32: how many of the `most` elements from this one on are in bounds, where the first is or none is.
  mlir::Value countInBounds(int registerIndex, int64_t most);
  mlir::Value isWhole();      // i1: all of the tile is in bounds
  mlir::Value rowsAreWhole(); // i1: all of the tile along its last dim is
  // As place(), from the addresses of registers before it by one addition each: fewer instructions in a loop than the
  // induction variables that LLVM would make of them, and fewer registers.
  Place placeBySteps(int registerIndex);

  // What was computed so far, to be reset where control flow ends its scope.
  struct Computed {
    std::map<LinearLayout::Vector, mlir::Value> addresses, steps;
    mlir::Value memory, memoryEnd;                         // i64: where the view's elements lie
    std::map<std::pair<int, int32_t>, mlir::Value> bounds; // by tile dim and the register's coordinate
  };
  Computed &computed() { return cache; }

  int count; // registers

private:
  bool isFlat() const { return shape.empty(); }
  mlir::Value stepTo(LinearLayout::Vector own);
  void findMemory();

  Emitter &e;
  const ViewWords &view;
  llvm::ArrayRef<int32_t> dims;
  llvm::ArrayRef<int64_t> shape;
  const LinearLayout *layout = nullptr;
  int64_t bytes, runLength = 1, shiftedLength = 1;
  bool contiguous;
  mlir::Value origin;                           // i64 address of the thread's element in register 0
  llvm::SmallVector<mlir::Value> stride;        // i64, in bytes, a tile dim
  llvm::SmallVector<mlir::Value> low, span;     // i32, a tile dim: coordinates in [low, low + span) are in bounds
  mlir::Value lastHigh;                         // i32: low + span of the last dim
  llvm::SmallVector<mlir::Value> threadFromLow; // i32, a tile dim
  mlir::Value lowBits;                          // i32: of the last dim's offset and edges
  mlir::Value always;                           // i1, of a scalar: in bounds
  Computed cache;
};

} // namespace bitloom::nvptx
