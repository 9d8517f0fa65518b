#include "bitloom/lowering/targets/nvptx/Costs.h"

#include "bitloom/lowering/Diagnostics.h"
#include "bitloom/lowering/dialect/Tile.h"
#include "bitloom/lowering/targets/nvptx/Mma.h"

#include "mlir/Analysis/Liveness.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "llvm/ADT/SetVector.h"
#include "llvm/Support/MathExtras.h"
#include "llvm/Support/raw_ostream.h"

#include <tuple>

using namespace mlir;
using namespace bitloom;
using namespace bitloom::nvptx;

std::string nvptx::describe(Type tile) {
  std::string text = "the tile [";
  llvm::raw_string_ostream out(text);
  llvm::interleaveComma(tile::shapeOf(tile), out);
  out << "] of " << tile::elementOf(tile);
  return text;
}

void nvptx::sortCosts(SmallVectorImpl<Cost> &costs) {
  SmallVector<Cost> merged;
  for (Cost &cost : costs) {
    SourceLocation where = sourceOf(cost.where);
    auto same = llvm::find_if(merged, [&](Cost &other) {
      SourceLocation its = sourceOf(other.where);
      return its.file == where.file && its.line == where.line && other.what == cost.what; // names are interned
    });
    if (same == merged.end())
      merged.push_back(cost);
    else
      same->amount += cost.amount;
  }
  llvm::sort(merged, [](const Cost &a, const Cost &b) {
    SourceLocation here = sourceOf(a.where), there = sourceOf(b.where);
    return std::tuple(b.amount, here.line, a.what) < std::tuple(a.amount, there.line, b.what);
  });
  costs = std::move(merged);
}

int64_t nvptx::sumOf(ArrayRef<Cost> costs) {
  int64_t sum = 0;
  for (const Cost &cost : costs)
    sum += cost.amount;
  return sum;
}

std::string nvptx::listOf(ArrayRef<Cost> costs) {
  constexpr size_t most = 3;
  std::string text;
  for (const Cost &cost : costs.take_front(most)) {
    SourceLocation where = sourceOf(cost.where);
    text += text.empty() ? "" : ", ";
    if (where.known())
      text += std::string(where.file) + ":" + std::to_string(where.line) + ": ";
    text += std::to_string(cost.amount) + " for " + cost.what;
  }
  return text;
}

// What holds the same registers under another name is the value that it names.
static Value rootOf(Value tile) {
  while (Operation *op = tile.getDefiningOp()) {
    if (!isa<tile::TransposeOp, tile::BroadcastOp, tile::ReshapeOp>(op))
      break;
    tile = op->getOperand(0);
  }
  return tile;
}

static int64_t registersOf(Value tile, Layouts &layouts) {
  auto type = dyn_cast<RankedTensorType>(tile.getType());
  if (!type || isShared(type))
    return 0;
  if (isa_and_present<tensor::SplatOp, tile::IotaOp, arith::ConstantOp>(tile.getDefiningOp())) // one register, or none
    return 0;
  int64_t bits = std::max(1u, tile::elementOf(type).getIntOrFloatBitWidth());
  return llvm::divideCeil(layouts.of(type).inSize(reg) * bits, 32);
}

static SmallVector<Cost> costsOf(ArrayRef<Value> tiles, Layouts &layouts) {
  SmallVector<Cost> costs;
  for (Value tile : tiles)
    if (int64_t registers = registersOf(tile, layouts))
      costs.push_back({tile.getLoc(), registers, describe(tile.getType())});
  sortCosts(costs);
  return costs;
}

SmallVector<Cost> nvptx::liveTiles(func::FuncOp kernel, Layouts &layouts) {
  Liveness liveness(kernel);
  SmallVector<Value> peak;
  int64_t most = 0;
  kernel.walk([&](Operation *op) {
    if (op == kernel || op->getNumRegions() || !op->getBlock())
      return;
    llvm::SetVector<Value> live;
    auto add = [&](Value value) {
      if (isa<RankedTensorType>(value.getType()))
        live.insert(rootOf(value));
    };
    for (Value result : op->getResults())
      add(result);
    for (Value value : liveness.getLiveness(op->getBlock())->currentlyLiveValues(op))
      if (!liveness.isDeadAfter(value, op))
        add(value);
    // Around it: what a loop uses is live in all of it, but for what it starts from.
    for (Operation *around = op->getParentOp(); around && around != kernel; around = around->getParentOp())
      for (Value value : liveness.getLiveness(around->getBlock())->currentlyLiveValues(around)) {
        bool isInside = llvm::any_of(value.getUsers(), [&](Operation *user) { return around->isProperAncestor(user); });
        if (value.getDefiningOp() != around && (isInside || !liveness.isDeadAfter(value, around)))
          add(value);
      }
    int64_t registers = 0;
    for (Value value : live)
      registers += registersOf(value, layouts);
    if (registers > most) {
      most = registers;
      peak = live.takeVector();
    }
  });
  return costsOf(peak, layouts);
}

SmallVector<Cost> nvptx::carriedTiles(func::FuncOp kernel, Layouts &layouts) {
  SmallVector<Cost> most;
  kernel.walk([&](scf::ForOp loop) {
    // A sum starts where nothing is to be seen: the line is that of what the loop makes.
    SmallVector<Cost> costs = costsOf(SmallVector<Value>(loop.getYieldedValues()), layouts);
    if (sumOf(costs) > sumOf(most))
      most = costs;
  });
  return most;
}
