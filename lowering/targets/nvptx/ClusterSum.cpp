// Blocks of a cluster, and groups of a block's warps, that run a program together: each adds up a part of the sum, and
// the first adds up the parts.
#include "bitloom/lowering/targets/nvptx/Emitter.h"
#include "bitloom/lowering/targets/nvptx/Mma.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace bitloom;
using namespace bitloom::nvptx;

Value Emitter::clusterRank() {
  return ptx("mov.u32 $0, %cluster_ctarank;", "=r", builder.getI32Type(), {}, /*hasSideEffects=*/false);
}

LogicalResult nvptx::lower(Emitter &e, tile::ClusterRankOp rank) {
  Value own = rank->hasAttr(stepGroupsAttr) ? e.stepGroup() : e.clusterRank();
  return e.put(rank, {arith::ExtUIOp::create(e.builder, e.loc, e.builder.getI64Type(), own)}), success();
}

// Room for what every thread of the other blocks holds, and two barriers: `full`, which counts the bytes that come, and
// `free`, at which the first block's threads arrive when they have read them. What is written asynchronously needs no
// fence, which would wait for all that the block has on its way.
void Emitter::prepareClusterSum(tile::ClusterSumOp sum) {
  int others = clusterSize - 1, threads = lanes * warpCount;
  int64_t bytes = int64_t(registersOf(sum.getType())) * 4 * threads;
  if (stepGroupCount > 1) {
    int64_t ofGroups = bytes * (stepGroupCount - 1);
    clusterSum.ofGroups = reserve(ofGroups, 16, Cost{sum.getLoc(), ofGroups, "the sums of the block's other groups"});
  }
  if (clusterSize == 1)
    return;
  const Cost cost = {sum.getLoc(), bytes * others, "the sums of the cluster's other blocks"};
  const int64_t ofGroups = clusterSum.ofGroups;
  clusterSum = {reserve(bytes * others, 16, cost), bytes, reserve(8, 8, {}), reserve(8, 8, {}), localWord(), ofGroups};
  when(compare(threadValue, "eq", i32(0)), [&] {
    initialiseBarrier(sharedAt(clusterSum.full), 1);
    initialiseBarrier(sharedAt(clusterSum.free), threads);
  });
}

static Value inBlock(Emitter &e, Value address, Value rank) {
  return e.ptx("mapa.shared::cluster.u32 $0, $1, $2;", "=r,r,r", e.builder.getI32Type(), {address, rank},
               /*hasSideEffects=*/false);
}

// Of what it has read: it has written nothing that others read.
static void arriveThere(Emitter &e, Value barrier) {
  e.ptx("mbarrier.arrive.shared::cluster.b64 _, [$0];", "r,~{memory}", Type(), {barrier}, /*hasSideEffects=*/true);
}

// Whether the block goes on to another program: by the outermost loop around.
static Value hasNextProgram(Emitter &e) {
  OpBuilder &b = e.builder;
  scf::ForOp programs;
  for (Operation *op = b.getBlock()->getParentOp(); op; op = op->getParentOp())
    if (auto loop = dyn_cast<scf::ForOp>(op))
      programs = loop;
  Value next = arith::AddIOp::create(b, e.loc, programs.getInductionVar(), programs.getStep());
  return e.compare(next, "slt", programs.getUpperBound());
}

// Four registers of the thread to its place in shared memory, or from it, added to the total.
static void storeForOthers(Emitter &e, Value own, ArrayRef<Value> values, int threads) {
  std::string letter = isa<FloatType>(values[0].getType()) ? "f" : "r";
  for (size_t r = 0; r < values.size(); r += 4)
    e.ptx("st.shared.v4.b32 [$4 + " + std::to_string(int64_t(r / 4) * threads * 16) + "], {$0, $1, $2, $3};",
          letter + "," + letter + "," + letter + "," + letter + ",r,~{memory}", Type(),
          {values[r], values[r + 1], values[r + 2], values[r + 3], own}, /*hasSideEffects=*/true);
}

static void addFromShared(Emitter &e, Value own, int64_t first, MutableArrayRef<Value> total, int threads) {
  OpBuilder &b = e.builder;
  Type type = total[0].getType();
  std::string letter = isa<FloatType>(type) ? "f" : "r";
  for (size_t r = 0; r < total.size(); r += 4) {
    int64_t offset = first + int64_t(r / 4) * threads * 16;
    Value loaded = e.ptx("ld.shared.v4.b32 {$0, $1, $2, $3}, [$4 + " + std::to_string(offset) + "];",
                         "=" + letter + ",=" + letter + ",=" + letter + ",=" + letter + ",r,~{memory}",
                         LLVM::LLVMStructType::getLiteral(b.getContext(), SmallVector<Type>(4, type)), {own},
                         /*hasSideEffects=*/true);
    for (size_t i = 0; i < 4; ++i) {
      Value term = LLVM::ExtractValueOp::create(b, e.loc, loaded, int64_t(i));
      Value &to = total[r + i];
      to = isa<FloatType>(type) ? arith::AddFOp::create(b, e.loc, to, term).getResult()
                                : arith::AddIOp::create(b, e.loc, to, term).getResult();
    }
  }
}

Value Emitter::stepGroup() {
  Value group = blockGroup();
  return arith::ShRUIOp::create(builder, loc, group, i32(llvm::Log2_32(warpCount / warpsPerGroup)));
}

// What the groups of the block have, added up in their order by the first one; the others keep their own. Barriers 14
// and 15: the others' sums are there, and have been read.
static Registers sumOfGroups(Emitter &e, const Registers &values) {
  OpBuilder &b = e.builder;
  const int groups = e.stepGroups(), threads = lanes * e.warps();
  const int64_t bytes = int64_t(values.size()) * 4 * threads;
  Value group = e.stepGroup();
  Value thread = arith::AndIOp::create(b, e.loc, e.linearThreadId(), e.i32(threads - 1));
  Value own = arith::AddIOp::create(b, e.loc, e.sharedAt(e.sumRoom().ofGroups),
                                    arith::MulIOp::create(b, e.loc, thread, e.i32(16)));
  auto meet = [&](const char *how, int barrier) {
    e.ptx("bar." + std::string(how) + " " + std::to_string(barrier) + ", " + std::to_string(groups * threads) + ";",
          "~{memory}", Type(), {}, /*hasSideEffects=*/true);
  };
  SmallVector<Type> types(values.size(), values[0].getType());
  auto branch = scf::IfOp::create(b, e.loc, types, e.compare(group, "eq", e.i32(0)), /*addThenBlock=*/true,
                                  /*addElseBlock=*/true);
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPointToStart(&branch.getThenRegion().front());
  meet("sync", 14);
  Registers total = values;
  for (int other = 0; other + 1 < groups; ++other)
    addFromShared(e, own, other * bytes, total, threads);
  meet("arrive", 15);
  scf::YieldOp::create(b, e.loc, total);
  b.setInsertionPointToStart(&branch.getElseRegion().front());
  Value before = arith::MulIOp::create(b, e.loc, arith::SubIOp::create(b, e.loc, group, e.i32(1)), e.i32(bytes));
  storeForOthers(e, arith::AddIOp::create(b, e.loc, own, before), values, threads);
  meet("arrive", 14);
  meet("sync", 15);
  scf::YieldOp::create(b, e.loc, values);
  return Registers(branch.getResults());
}

static Registers sumOfCluster(Emitter &e, const Registers &values);

LogicalResult nvptx::lower(Emitter &e, tile::ClusterSumOp sum) {
  OpBuilder &b = e.builder;
  Registers values = e.get(sum.getSource());
  if (e.stepGroups() == 1)
    return e.put(sum, sumOfCluster(e, values)), success();
  values = sumOfGroups(e, values);
  if (e.clusterBlocks() > 1) {
    SmallVector<Type> types(values.size(), values[0].getType());
    auto branch = scf::IfOp::create(b, e.loc, types, e.compare(e.stepGroup(), "eq", e.i32(0)), /*addThenBlock=*/true,
                                    /*addElseBlock=*/true);
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(&branch.getThenRegion().front());
    Registers total = sumOfCluster(e, values);
    scf::YieldOp::create(b, e.loc, total);
    b.setInsertionPointToStart(&branch.getElseRegion().front());
    scf::YieldOp::create(b, e.loc, values);
    values = Registers(branch.getResults());
  }
  return e.put(sum, values), success();
}

static Registers sumOfCluster(Emitter &e, const Registers &values) {
  OpBuilder &b = e.builder;
  const Emitter::ClusterSum &room = e.sumRoom();
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
    e.ptx("@$1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [$0], " + std::to_string(others * room.bytes) + ";",
          "r,b,~{memory}", Type(), {e.sharedAt(room.full), e.compare(e.linearThreadId(), "eq", e.i32(0))},
          /*hasSideEffects=*/true);
    e.waitFor(e.sharedAt(room.full), phase);
    Registers total = values;
    for (int other = 0; other < others; ++other)
      addFromShared(e, own, other * room.bytes, total, threads);
    e.when(hasNextProgram(e), [&] { // else nobody waits for it
      for (int other = 1; other <= others; ++other)
        arriveThere(e, inBlock(e, e.sharedAt(room.free), e.i32(other)));
    });
    scf::YieldOp::create(b, e.loc, total);

    b.setInsertionPointToStart(&branch.getElseRegion().front());
    e.waitFor(e.sharedAt(room.free), arith::XOrIOp::create(b, e.loc, phase, e.i32(1)));
    Value before = arith::SubIOp::create(b, e.loc, rank, e.i32(1));
    Value there = inBlock(
        e, arith::AddIOp::create(b, e.loc, own, arith::MulIOp::create(b, e.loc, before, e.i32(room.bytes))), e.i32(0));
    Value full = inBlock(e, e.sharedAt(room.full), e.i32(0));
    for (size_t r = 0; r < values.size(); r += perAccess)
      e.ptx("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [$4 + " +
                std::to_string(int64_t(r / perAccess) * threads * 16) + "], {$0, $1, $2, $3}, [$5];",
            letter + "," + letter + "," + letter + "," + letter + ",r,r,~{memory}", Type(),
            {values[r], values[r + 1], values[r + 2], values[r + 3], there, full}, /*hasSideEffects=*/true);
    scf::YieldOp::create(b, e.loc, values);
  }
  LLVM::StoreOp::create(b, e.loc, arith::XOrIOp::create(b, e.loc, phase, e.i32(1)), room.phase);
  return Registers(branch.getResults());
}
