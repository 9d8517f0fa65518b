// Blocks of a cluster that hold a program's tiles together (the hint tile.cluster): a tile too large for one block's
// registers is read from memory once.
//
// To the layouts they are one block of more warps, whose numbers' upper bits are the block's rank: each holds its part
// of every tile, elementwise operations, loads and stores touch what is the thread's own, and a scalar is one thread's
// of the cluster to write. Reductions alone move anything between blocks (Reduce.cpp): each writes what it has into the
// shared memory of all, asynchronously, and waits at its own mbarrier for as many bytes as come to it. Nothing else is
// waited for: the cluster's barrier would have every load and store of the block done first. What else would need
// another block's elements is refused.
//
//   * A block may write to another once that has started: before the first exchange all meet, at the cluster's barrier,
//     after the mbarriers were made.
//   * No block waits before it ends: it has waited for all that is written to it.
//   * Exchanges have two mbarriers in turn, and in a loop two places. Who writes for the next but one has what its
//     blocks sent for the one between, which each of them did after its threads had read what came for this one.
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
  if (saysClusterStarted)
    return;
  OpBuilder::InsertionGuard guard(builder);
  const bool isOnEveryWay = builder.getInsertionBlock()->getParentOp() == function;
  auto say = [&](const char *text) { ptx(text, "~{memory}", Type(), {}, /*hasSideEffects=*/true); };
  {
    OpBuilder::InsertionGuard here(builder);
    builder.setInsertionPoint(prologueEnd);
    say("fence.mbarrier_init.release.cluster;\n\tbarrier.cluster.arrive.relaxed.aligned;");
    saysClusterStarted = prologueEnd->getPrevNode();
  }
  if (!isOnEveryWay)
    builder.setInsertionPoint(prologueEnd);
  say("barrier.cluster.wait.acquire.aligned;");
}

Value Emitter::turnOf(int64_t bytes) {
  Value turn = localWord(), now = LLVM::LoadOp::create(builder, loc, builder.getI32Type(), turn);
  LLVM::StoreOp::create(builder, loc, arith::XOrIOp::create(builder, loc, now, i32(bytes)), turn);
  return now;
}

Emitter::ClusterExchange Emitter::beginExchange(int32_t ranks, int64_t bytes, int64_t written, bool haveMet) {
  OpBuilder &b = builder;
  awaitClusterStart();
  auto isFirst = [&] {
    return compare(arith::AndIOp::create(b, loc, threadValue, i32(lanes * blockWarps() - 1)), "eq", i32(0));
  };
  auto [found, isNew] = exchangeBarriers.try_emplace(ranks);
  ExchangeBarriers &barriers = found->second;
  if (isNew) {
    barriers = {reserve(16, 8, {}), localWord()};
    OpBuilder::InsertionGuard guard(builder);
    b.setInsertionPoint(saysClusterStarted);
    Value first = isFirst();
    for (int i : {0, 1})
      ptx("@$1 mbarrier.init.shared::cta.b64 [$0], 1;", "r,b,~{memory}", Type(),
          {sharedAt(barriers.offset + 8 * i), first}, /*hasSideEffects=*/true);
  }
  bytes = llvm::alignTo(bytes, 16);
  const bool inTurn = loopDepth > 0;
  const int64_t total = inTurn ? 2 * bytes : bytes;
  Value address = sharedAt(reserve(total, 16, Cost{loc, total, "what the cluster's blocks exchange here"}));
  Value round = LLVM::LoadOp::create(b, loc, b.getI32Type(), barriers.round);
  Value next = arith::AndIOp::create(b, loc, arith::AddIOp::create(b, loc, round, i32(1)), i32(3));
  LLVM::StoreOp::create(b, loc, next, barriers.round);
  Value turn = arith::AndIOp::create(b, loc, round, i32(1));
  if (inTurn)
    address = arith::AddIOp::create(b, loc, address, arith::MulIOp::create(b, loc, turn, i32(bytes)));
  ClusterExchange exchange;
  exchange.base = LLVM::IntToPtrOp::create(b, loc, LLVM::LLVMPointerType::get(b.getContext(), 3), address);
  exchange.barrier =
      arith::AddIOp::create(b, loc, sharedAt(barriers.offset), arith::ShLIOp::create(b, loc, turn, i32(3)));
  exchange.parity = arith::ShRUIOp::create(b, loc, round, i32(1));
  if (!haveMet && (inTurn || !isNew))
    barrier();
  // Bytes may come before it says how many will: the phase is not over before it did.
  ptx("@$1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [$0], " + std::to_string(written) + ";", "r,b,~{memory}",
      Type(), {exchange.barrier, isFirst()}, /*hasSideEffects=*/true);
  return exchange;
}

void Emitter::clusterStore(const ClusterExchange &exchange, Value address, Value rank, Value value, Value condition) {
  auto there = [&](Value own) {
    return ptx("mapa.shared::cluster.u32 $0, $1, $2;", "=r,r,r", builder.getI32Type(), {own, rank},
               /*hasSideEffects=*/false);
  };
  Value bits = toBits(value), own = LLVM::PtrToIntOp::create(builder, loc, builder.getI32Type(), address);
  const unsigned width = bits.getType().getIntOrFloatBitWidth();
  SmallVector<Value> operands{bits, there(own), there(exchange.barrier)};
  if (condition)
    operands.push_back(condition);
  ptx((condition ? "@$3 " : "") + std::string("st.async.shared::cluster.mbarrier::complete_tx::bytes.b") +
          std::to_string(width) + " [$1], $0, [$2];",
      std::string(width == 64 ? "l" : "r") + ",r,r," + (condition ? "b," : "") + "~{memory}", Type(), operands,
      /*hasSideEffects=*/true);
}

void Emitter::meetCluster() {
  ptx("barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;", "~{memory}", Type(), {},
      /*hasSideEffects=*/true);
}
