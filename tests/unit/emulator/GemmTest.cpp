// A matrix product as Hopper kernels do it: one warpgroup feeds a ring of slots by the copy engine, two multiply; the
// result leaves through shared memory. Mistakes that such code makes have to be found.
#include "bitloom/tests/unit/emulator/Kernel.h"

using namespace bitloom;

namespace {

constexpr int tileM = 128, tileN = 256, tileK = 64, slots = 4;
constexpr int bytesA = tileM * tileK * 2, bytesB = tileN * tileK * 2, slotBytes = bytesA + bytesB;
constexpr int sharedBytes = slots * slotBytes + 1024; // the barriers come last

// C (f32, M x N) = A (M x K) B^T (N x K) of bf16. %w0: K in tiles.
std::string gemm(int clusterSize = 1) {
  std::string accumulators, stores;
  for (int r = 0; r < tileN / 2; ++r) {
    std::string f = "%f" + std::to_string(r);
    accumulators += (r ? ", " : "") + f;
    if (r % 2 == 0) {
      int column = r / 4 * 8, panel = column / 32, within = column % 32 * 4;
      // Panels of 32 columns and 64 rows, swizzled by 128 bytes: row r's piece p lies at p ^ (r % 8).
      stores += "xor.b32 %r41, %r40, " + std::to_string(within & ~15) + ";\nadd.u32 %r41, %r41, %r39;\n" +
                "st.shared.v2.f32 [%r41+" + std::to_string(panel * 8192 + (r & 2 ? 1024 : 0)) + "], {" + f + ", %f" +
                std::to_string(r + 1) + "};\n";
    }
  }
  std::string products;
  for (int step = 0; step < tileK / 16; ++step)
    products += "add.s64 %rd10, %rd4, " + std::to_string(step * 2) + ";\nadd.s64 %rd11, %rd5, " +
                std::to_string(step * 2) + ";\nwgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {" + accumulators +
                "}, %rd10, %rd11, " + (step ? "%p11" : "%p10") + ", 1, 1, 0, 0;\n";
  std::string storesOfPanels;
  for (int panel = 0; panel < tileN / 32; ++panel)
    storesOfPanels += "add.u32 %r44, %r31, " + std::to_string(panel * 32) + ";\nadd.u32 %r45, %r38, " +
                      std::to_string(panel * 8192) +
                      ";\ncp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%rd8, {%r44, %r46}], [%r45];\n";
  std::string text = R"(
  shr.u32 %r1, %thread, 7;             // warpgroup
  add.u32 %r2, %mem, BARRIERS;
  mov.u32 %r30, %ctaid.x;
  mov.u32 %r31, %ctaid.y;
  shl.b32 %r30, %r30, 7;               // first row of C
  shl.b32 %r31, %r31, 8;               // first column
  cvt.u32.u64 %r3, %w0;
  setp.ne.u32 %p1, %thread, 0;
  @%p1 bra $started;
  INITS
  fence.mbarrier_init.release.cluster;
$started:
  SYNC
  mov.u32 %r4, 0;                      // tile of K
  mov.u32 %r5, 0;                      // slot
  mov.u32 %r6, 0;                      // parity
  setp.ne.u32 %p2, %r1, 0;
  @%p2 bra $multiply;

  setmaxnreg.dec.sync.aligned.u32 40;
  elect.sync %r7|%p3, 0xffffffff;
  setp.ge.u32 %p4, %thread, 32;
  @%p4 bra $end;
  @!%p3 bra $end;
  mov.b64 %rd1, k_param_1;
  mov.b64 %rd2, k_param_2;
$feed:
  shl.b32 %r8, %r5, 3;
  add.u32 %r8, %r8, %r2;
  add.u32 %r9, %r8, 32;
  xor.b32 %r10, %r6, 1;
  { .reg .pred P; W: mbarrier.try_wait.parity.shared::cta.b64 P, [%r9], %r10; @P bra D; bra W; D: }
  mad.lo.u32 %r11, %r5, SLOT, %mem;
  shl.b32 %r12, %r4, 6;
  mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r8], SLOT;
  LOADA
  add.u32 %r13, %r11, BYTESA;
  cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%r13], [%rd2, {%r12, %r31}], [%r8];
  add.u32 %r4, %r4, 1;
  add.u32 %r5, %r5, 1;
  setp.eq.u32 %p5, %r5, SLOTS;
  @!%p5 bra $sameFeed;
  mov.u32 %r5, 0;
  xor.b32 %r6, %r6, 1;
$sameFeed:
  setp.lt.u32 %p6, %r4, %r3;
  @%p6 bra $feed;
  bra $end;

$multiply:
  setmaxnreg.inc.sync.aligned.u32 232;
  setp.ne.u32 %p10, %r4, 0;            // the first product starts from zero
  setp.eq.u32 %p11, %r4, %r4;
  sub.u32 %r20, %r1, 1;                // consumer
  and.b32 %r21, %thread, 127;
$tile:
  shl.b32 %r8, %r5, 3;
  add.u32 %r8, %r8, %r2;
  { .reg .pred P; W: mbarrier.try_wait.parity.shared::cta.b64 P, [%r8], %r6; @P bra D; bra W; D: }
  mad.lo.u32 %r11, %r5, SLOT, %mem;
  mad.lo.u32 %r12, %r20, HALFA, %r11;
  add.u32 %r13, %r11, BYTESA;
  shr.u32 %r12, %r12, 4;
  shr.u32 %r13, %r13, 4;
  cvt.u64.u32 %rd4, %r12;
  cvt.u64.u32 %rd5, %r13;
  or.b64 %rd4, %rd4, 0x4000004000010000;
  or.b64 %rd5, %rd5, 0x4000004000010000;
  wgmma.fence.sync.aligned;
  PRODUCTS
  wgmma.commit_group.sync.aligned;
  setp.eq.u32 %p10, %r4, %r4;
  WAITGROUP
  setp.ne.u32 %p7, %r21, 0;
  add.u32 %r9, %r8, 32;
  GIVEBACK
  add.u32 %r4, %r4, 1;
  add.u32 %r5, %r5, 1;
  setp.eq.u32 %p5, %r5, SLOTS;
  @!%p5 bra $sameMultiply;
  mov.u32 %r5, 0;
  xor.b32 %r6, %r6, 1;
$sameMultiply:
  setp.lt.u32 %p6, %r4, %r3;
  @%p6 bra $tile;
  wgmma.wait_group.sync.aligned 0;

  bar.sync 1, 256;                     // nobody reads the ring any more
  mad.lo.u32 %r38, %r20, 65536, %mem;  // the consumer's panels
  shr.u32 %r32, %r21, 5;
  and.b32 %r33, %r21, 31;
  shr.u32 %r34, %r33, 2;               // row % 8
  and.b32 %r35, %r33, 3;
  shl.b32 %r36, %r32, 4;
  add.u32 %r36, %r36, %r34;
  shl.b32 %r37, %r36, 7;               // 128 bytes a row
  and.b32 %r42, %r35, 1;
  shl.b32 %r42, %r42, 3;
  add.u32 %r39, %r38, %r37;
  add.u32 %r39, %r39, %r42;
  shl.b32 %r43, %r34, 4;
  shr.u32 %r42, %r35, 1;
  shl.b32 %r42, %r42, 4;
  xor.b32 %r40, %r43, %r42;            // which piece
  STORES
  FENCE
  add.u32 %r47, %r20, 2;
  barrier.sync.aligned %r47, 128;
  @%p7 bra $end;
  shl.b32 %r46, %r20, 6;
  add.u32 %r46, %r46, %r30;
  mov.b64 %rd8, k_param_3;
  PANELS
  cp.async.bulk.commit_group;
  cp.async.bulk.wait_group.read 0;
$end:
  FINISH)";
  const bool isCluster = clusterSize > 1;
  auto set = [&](const char *what, const std::string &by) { text = replaced(text, what, by); };
  std::string inits; // a full and an empty one for each slot
  for (int slot = 0; slot < 2 * slots; ++slot)
    inits += "mbarrier.init.shared::cta.b64 [%r2+" + std::to_string(8 * slot) + "], " + (slot < slots ? "1" : "EMPTY") +
             ";\n";
  set("INITS", inits);
  set("BARRIERS", std::to_string(slots * slotBytes));
  set("PRODUCTS", products);
  set("STORES", stores);
  set("PANELS", storesOfPanels);
  set("HALFA", std::to_string(bytesA / 2));
  set("SLOTS", std::to_string(slots));
  set("SLOT", std::to_string(slotBytes));
  set("WAITGROUP", "wgmma.wait_group.sync.aligned 0;");
  set("FENCE", "fence.proxy.async.shared::cta;");
  set("EMPTY", std::to_string(2 * clusterSize));
  set("SYNC",
      isCluster ? "barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;" : "bar.sync 0;");
  set("FINISH", isCluster ? "barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;" : "");
  // In a cluster, which lies along N here, each of the two blocks loads half of A for both; so both have to give a slot
  // back before either may load.
  set("LOADA", isCluster ? R"(
  mov.u32 %r50, %cluster_ctarank;
  shl.b32 %r51, %r50, 6;
  add.u32 %r51, %r51, %r30;
  mad.lo.u32 %r52, %r50, HALFA, %r11;
  mov.b16 %h1, 3;
  cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster
    [%r52], [%rd1, {%r12, %r51}], [%r8], %h1;)"
                         : R"(
  cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%r11], [%rd1, {%r12, %r30}], [%r8];)");
  set("GIVEBACK", isCluster ? R"(
  mapa.shared::cluster.u32 %r53, %r9, 0;
  mapa.shared::cluster.u32 %r54, %r9, 1;
  @!%p7 mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r53];
  @!%p7 mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r54];)"
                            : "@!%p7 mbarrier.arrive.shared::cta.b64 _, [%r9];");
  set("HALFA", std::to_string(bytesA / 2));
  set("BYTESA", std::to_string(bytesA));
  return text;
}

struct Problem {
  int m, n, k;
  std::vector<bf16> a, b;
  std::vector<float> c;
  std::vector<TensorMap> maps;

  Problem(int m, int n, int k, int clusterSize = 1)
      : m(m), n(n), k(k), a(size_t(m) * k), b(size_t(n) * k), c(size_t(m) * n) {
    for (size_t at = 0; at < a.size(); ++at)
      a[at] = bf16(float(int(at * 7 % 11) - 5));
    for (size_t at = 0; at < b.size(); ++at)
      b[at] = bf16(float(int(at * 5 % 13) - 6));
    maps = {mapOf(a.data(), DType::bf16, k, m, tileK, tileM / clusterSize),
            mapOf(b.data(), DType::bf16, k, n, tileK, tileN), mapOf(c.data(), DType::f32, n, m, 32, 64)};
  }
  static TensorMap mapOf(void *data, DType dtype, int64_t columns, int64_t rows, int boxColumns, int boxRows) {
    TensorMap map;
    map.address = data;
    map.dtype = dtype;
    map.rank = 2;
    map.extents = {columns, rows};
    map.strides = {bytesOf(dtype), columns * bytesOf(dtype)};
    map.box = {boxColumns, boxRows};
    map.swizzle = 128;
    return map;
  }
  Kernel kernelOf(const std::string &text) {
    Kernel kernel{text, 384, 1, 3};
    kernel.give(a);
    kernel.give(b);
    kernel.give(c);
    return kernel;
  }
  std::array<int64_t, 3> grid() const { return {(m + tileM - 1) / tileM, (n + tileN - 1) / tileN, 1}; }
  int64_t tilesOfK() const { return (k + tileK - 1) / tileK; }
  void expectProduct() const {
    for (int row = 0; row < m; ++row)
      for (int column = 0; column < n; ++column) {
        float sum = 0;
        for (int at = 0; at < k; ++at)
          sum += float(a[size_t(row) * k + at]) * float(b[size_t(column) * k + at]);
        ASSERT_EQ(c[size_t(row) * n + column], sum) << row << " " << column;
      }
  }
};

std::string complaintOf(const std::string &text) {
  Problem problem(128, 256, 5 * tileK);
  Kernel kernel = problem.kernelOf(text);
  return kernel.complaint({problem.tilesOfK()}, sharedBytes, problem.maps);
}

} // namespace

TEST(PtxEmulatorGemm, MultipliesRaggedMatrices) {
  Problem problem(199, 260, 3 * tileK + 8);
  Kernel kernel = problem.kernelOf(gemm());
  kernel.assembles();
  kernel.run({problem.tilesOfK()}, sharedBytes, problem.maps, problem.grid());
  problem.expectProduct();
}

TEST(PtxEmulatorGemm, FindsASlotGivenBackBeforeItsProductsAreDone) {
  EXPECT_EQ(complaintOf(gemm()), "");
  std::string text = replaced(gemm(), "wgmma.wait_group.sync.aligned 0;\n  setp.ne.u32 %p7", "setp.ne.u32 %p7");
  EXPECT_NE(complaintOf(text).find("race on shared memory: cp.async.bulk.tensor"), std::string::npos);
}

TEST(PtxEmulatorGemm, FindsAMissingWait) {
  std::string text = gemm();
  size_t wait = text.find("{ .reg .pred P; W: mbarrier.try_wait.parity.shared::cta.b64 P, [%r8]");
  text.erase(wait, text.find('}', wait) + 1 - wait);
  EXPECT_NE(complaintOf(text).find("race on shared memory: wgmma"), std::string::npos) << complaintOf(text);
}

TEST(PtxEmulatorGemm, FindsAMissingFenceBeforeTheResultLeaves) {
  EXPECT_NE(complaintOf(replaced(gemm(), "fence.proxy.async.shared::cta;", "")).find("no proxy fence"),
            std::string::npos);
}

TEST(PtxEmulatorGemm, FindsARingThatIsNeverGivenBack) {
  std::string complaint = complaintOf(replaced(gemm(), "@!%p7 mbarrier.arrive.shared::cta.b64 _, [%r9];", ""));
  EXPECT_NE(complaint.find("deadlock: thread 0 waits for the mbarrier at byte 196640"), std::string::npos) << complaint;
}

TEST(PtxEmulatorGemm, ClustersShareTheirLoads) {
  Problem problem(128, 512, 7 * tileK, 2);
  Kernel kernel = problem.kernelOf(gemm(2));
  kernel.directives = ".explicitcluster\n.reqnctapercluster 1, 2, 1\n";
  kernel.assembles();
  kernel.run({problem.tilesOfK()}, sharedBytes, problem.maps, problem.grid());
  problem.expectProduct();
  const std::string right = kernel.body;
  auto finds = [&](const std::string &mistake, const std::string &what, const std::string &by) {
    kernel.body = replaced(right, what, by);
    EXPECT_NE(kernel.body, right);
    std::string complaint = kernel.complaint({problem.tilesOfK()}, sharedBytes, problem.maps, problem.grid());
    EXPECT_NE(complaint.find(mistake), std::string::npos) << complaint;
  };
  // The slot's other reader is forgotten.
  finds("deadlock", "@!%p7 mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r54];", "");
  // A block leaves while the other still arrives at its barriers.
  finds("a block ends while others of its cluster may be at its shared memory",
        "barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;", "");
}
