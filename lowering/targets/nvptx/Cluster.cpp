// Blocks of a cluster that hold a program's tiles together (the hint tile.cluster): a tile too large for one block's
// registers is read from memory once.
//
// To the layouts they are one block of more warps, whose numbers' upper bits are the block's rank: each holds its part
// of every tile, elementwise operations, loads and stores touch what is the thread's own, and a scalar is one thread's
// of the cluster to write. Reductions alone move anything between blocks (Reduce.cpp): each writes what it has into the
// shared memory of all, and reads what has come once all have met. What else would need another block's elements is
// refused.
//
//   * A block may write to another once that has started: before the first such exchange all meet.
//   * No block waits before it ends: whatever is written to it comes before a meeting that it takes part in.
//   * An exchange in a loop has two places, in turn: who is at its next but one has met all after they read this one.
#include "bitloom/lib/support/Error.h"
#include "bitloom/lowering/Explain.h"
#include "bitloom/lowering/targets/nvptx/Emitter.h"
#include "bitloom/lowering/targets/nvptx/Warps.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/LLVMIR/NVVMDialect.h"
#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace bitloom;
using namespace bitloom::nvptx;

int nvptx::clusterFor(func::FuncOp func, const Target &target) {
  constexpr int firstWithClusters = 90, most = 8; // of the sizes that every device takes
  auto hint = func->getAttrOfType<IntegerAttr>(tile::clusterAttr);
  if (!hint || hint.getInt() == 1)
    return 1;
  const int64_t blocks = hint.getInt();
  if (blocks < 1 || blocks > most || !llvm::isPowerOf2_64(uint64_t(blocks)))
    throw UserError("cluster: expected 1, 2, 4 or 8 blocks, got " + std::to_string(blocks));
  bool hasDots = false;
  func.walk([&](tile::DotOp) { hasDots = true; });
  if (target.computeCapability >= firstWithClusters && !hasDots)
    return int(blocks);
  explainChoice(func, [&] {
    return "one block a program, not " + std::to_string(blocks) + ": " +
           (hasDots ? "the operands of a dot lie in one block's shared memory" : target.name + " has no clusters");
  });
  func->removeAttr(tile::clusterAttr);
  return 1;
}

void Emitter::enterCluster() {
  if (!spansCluster())
    return;
  Type word = builder.getI32Type();
  const int threads = lanes * blockWarps();
  threadValue = arith::AddIOp::create(builder, loc, threadValue,
                                      arith::MulIOp::create(builder, loc, clusterRank(), i32(threads)));
  auto special = [&](const char *name) {
    return ptx(std::string("mov.u32 $0, %") + name + ";", "=r", word, {}, /*hasSideEffects=*/false);
  };
  programIds = {special("clusterid.x"), special("ctaid.y"), special("ctaid.z")};
  gridExtents = {special("nclusterid.x"), special("nctaid.y"), special("nctaid.z")};
}

// Where it is called for the first time, if every thread comes by there: what is between then hides the others' start.
void Emitter::awaitClusterStart() {
  if (hasClusterStarted)
    return;
  hasClusterStarted = true;
  OpBuilder::InsertionGuard guard(builder);
  const bool isOnEveryWay = builder.getInsertionBlock()->getParentOp() == function;
  auto say = [&](const char *text) { ptx(text, "~{memory}", Type(), {}, /*hasSideEffects=*/true); };
  {
    OpBuilder::InsertionGuard here(builder);
    builder.setInsertionPoint(prologueEnd);
    say("barrier.cluster.arrive.relaxed.aligned;");
  }
  if (!isOnEveryWay)
    builder.setInsertionPoint(prologueEnd);
  say("barrier.cluster.wait.acquire.aligned;");
}

Value Emitter::clusterScratch(int64_t bytes) {
  OpBuilder &b = builder;
  awaitClusterStart();
  bytes = llvm::alignTo(bytes, 16);
  const bool inTurn = loopDepth > 0;
  const int64_t total = inTurn ? 2 * bytes : bytes;
  Value address = sharedAt(reserve(total, 16, Cost{loc, total, "what the cluster's blocks exchange here"}));
  if (inTurn) {
    Value turn = localWord(), now = LLVM::LoadOp::create(b, loc, b.getI32Type(), turn);
    LLVM::StoreOp::create(b, loc, arith::XOrIOp::create(b, loc, now, i32(bytes)), turn);
    address = arith::AddIOp::create(b, loc, address, now);
  }
  return LLVM::IntToPtrOp::create(b, loc, LLVM::LLVMPointerType::get(b.getContext(), 3), address);
}

void Emitter::clusterStore(Value address, Value rank, Value value) {
  Value own = LLVM::PtrToIntOp::create(builder, loc, builder.getI32Type(), address), bits = toBits(value);
  Value there = ptx("mapa.shared::cluster.u32 $0, $1, $2;", "=r,r,r", builder.getI32Type(), {own, rank},
                    /*hasSideEffects=*/false);
  const unsigned width = bits.getType().getIntOrFloatBitWidth();
  if (width == 8) // moves through a register of 16
    bits = arith::ExtUIOp::create(builder, loc, builder.getI16Type(), bits);
  const char *constraint = width == 64 ? "l" : width == 32 ? "r" : "h";
  ptx("st.shared::cluster." + std::string(width == 8 ? "u8" : "b" + std::to_string(width)) + " [$1], $0;",
      std::string(constraint) + ",r,~{memory}", Type(), {bits, there}, /*hasSideEffects=*/true);
}

void Emitter::meetCluster() {
  ptx("barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;", "~{memory}", Type(), {},
      /*hasSideEffects=*/true);
}
