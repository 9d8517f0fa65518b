// Blocks of a cluster that run a program together: each adds up a part of the sum, and the first adds up the parts.
#include "bitloom/lowering/targets/nvptx/Emitter.h"

#include "mlir/Dialect/SCF/IR/SCF.h"

using namespace mlir;
using namespace bitloom;
using namespace bitloom::nvptx;

Value Emitter::clusterRank() {
  return ptx("mov.u32 $0, %cluster_ctarank;", "=r", builder.getI32Type(), {}, /*hasSideEffects=*/false);
}

LogicalResult nvptx::lower(Emitter &e, tile::ClusterRankOp rank) {
  return e.put(rank, {arith::ExtUIOp::create(e.builder, e.loc, e.builder.getI64Type(), e.clusterRank())}), success();
}

// Room for what every thread of the other blocks holds, and two barriers: `full`, at which those arrive when it is
// there, and `free`, at which the first block's threads do when they have read it.
void Emitter::prepareClusterSum(tile::ClusterSumOp sum) {
  int others = clusterSize - 1, threads = lanes * warpCount;
  int64_t bytes = int64_t(registersOf(sum.getType())) * 4 * threads;
  const Cost cost = {sum.getLoc(), bytes * others, "the sums of the cluster's other blocks"};
  clusterSum = {reserve(bytes * others, 16, cost), bytes, reserve(8, 8, {}), reserve(8, 8, {}), localWord()};
  when(compare(threadValue, "eq", i32(0)), [&] {
    initialiseBarrier(clusterSum.full, others * threads);
    initialiseBarrier(clusterSum.free, threads);
  });
}

static Value inBlock(Emitter &e, Value address, Value rank) {
  return e.ptx("mapa.shared::cluster.u32 $0, $1, $2;", "=r,r,r", e.builder.getI32Type(), {address, rank},
               /*hasSideEffects=*/false);
}

static void arriveThere(Emitter &e, Value barrier) {
  e.ptx("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [$0];", "r,~{memory}", Type(), {barrier},
        /*hasSideEffects=*/true);
}

LogicalResult nvptx::lower(Emitter &e, tile::ClusterSumOp sum) {
  OpBuilder &b = e.builder;
  const Emitter::ClusterSum &room = e.sumRoom();
  Registers values = e.get(sum.getSource());
  Type type = values[0].getType();
  int others = e.clusterBlocks() - 1, threads = lanes * e.warps();
  std::string letter = isa<FloatType>(type) ? "f" : "r";
  constexpr size_t perAccess = 4;
  Value rank = e.clusterRank(), phase = LLVM::LoadOp::create(b, e.loc, b.getI32Type(), room.phase);
  Value own = arith::AddIOp::create(b, e.loc, e.sharedAt(room.slots),
                                    arith::MulIOp::create(b, e.loc, e.linearThreadId(), e.i32(16)));
  auto branch = scf::IfOp::create(b, e.loc, SmallVector<Type>(values.size(), type), e.compare(rank, "eq", e.i32(0)),
                                  /*addThenBlock=*/true, /*addElseBlock=*/true);
  {
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(&branch.getThenRegion().front());
    e.waitFor(e.sharedAt(room.full), phase);
    Registers total = values;
    for (int other = 0; other < others; ++other)
      for (size_t r = 0; r < values.size(); r += perAccess) {
        int64_t offset = other * room.bytes + int64_t(r / perAccess) * threads * 16;
        Value loaded =
            e.ptx("ld.shared.v4.b32 {$0, $1, $2, $3}, [$4 + " + std::to_string(offset) + "];",
                  "=" + letter + ",=" + letter + ",=" + letter + ",=" + letter + ",r,~{memory}",
                  LLVM::LLVMStructType::getLiteral(b.getContext(), SmallVector<Type>(perAccess, type)), {own},
                  /*hasSideEffects=*/true);
        for (size_t i = 0; i < perAccess; ++i) {
          Value term = LLVM::ExtractValueOp::create(b, e.loc, loaded, int64_t(i));
          Value &to = total[r + i];
          to = isa<FloatType>(type) ? arith::AddFOp::create(b, e.loc, to, term).getResult()
                                    : arith::AddIOp::create(b, e.loc, to, term).getResult();
        }
      }
    for (int other = 1; other <= others; ++other)
      arriveThere(e, inBlock(e, e.sharedAt(room.free), e.i32(other)));
    scf::YieldOp::create(b, e.loc, total);

    b.setInsertionPointToStart(&branch.getElseRegion().front());
    e.waitFor(e.sharedAt(room.free), arith::XOrIOp::create(b, e.loc, phase, e.i32(1)));
    Value before = arith::SubIOp::create(b, e.loc, rank, e.i32(1));
    Value there = inBlock(
        e, arith::AddIOp::create(b, e.loc, own, arith::MulIOp::create(b, e.loc, before, e.i32(room.bytes))), e.i32(0));
    for (size_t r = 0; r < values.size(); r += perAccess)
      e.ptx("st.shared::cluster.v4.b32 [$4 + " + std::to_string(int64_t(r / perAccess) * threads * 16) +
                "], {$0, $1, $2, $3};",
            letter + "," + letter + "," + letter + "," + letter + ",r,~{memory}", Type(),
            {values[r], values[r + 1], values[r + 2], values[r + 3], there}, /*hasSideEffects=*/true);
    arriveThere(e, inBlock(e, e.sharedAt(room.full), e.i32(0)));
    scf::YieldOp::create(b, e.loc, values);
  }
  LLVM::StoreOp::create(b, e.loc, arith::XOrIOp::create(b, e.loc, phase, e.i32(1)), room.phase);
  e.put(sum, Registers(branch.getResults()));
  return success();
}
