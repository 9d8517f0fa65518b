// Which of a kernel's lines take the most of a multiprocessor: what to change where a configuration does not fit.
#pragma once

#include "bitloom/lowering/targets/nvptx/Layouts.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"

#include <string>

namespace bitloom::nvptx {

struct Cost {
  mlir::Location where;
  int64_t amount;   // bytes of shared memory a block, or registers of 32 bits a thread
  std::string what; // "the tile [128, 64] of f32"
};

// "the tile [128, 64] of f32"
std::string describe(mlir::Type tile);

// The largest first, those of one line and one description as one.
void sortCosts(llvm::SmallVectorImpl<Cost> &costs);

// The tiles that are live together where these take the most registers, largest first. An estimate: the assembler may
// order operations otherwise and compute some of the tiles again.
llvm::SmallVector<Cost> liveTiles(mlir::func::FuncOp kernel, Layouts &layouts);

// The tiles that the costliest of the kernel's loops carries, largest first: no order of operations can do with fewer
// registers than their sum.
llvm::SmallVector<Cost> carriedTiles(mlir::func::FuncOp kernel, Layouts &layouts);

int64_t sumOf(llvm::ArrayRef<Cost> costs);

// "a.cpp:5: 64 for the tile [128, 64] of f32, a.cpp:7: …": the largest three.
std::string listOf(llvm::ArrayRef<Cost> costs);

} // namespace bitloom::nvptx
