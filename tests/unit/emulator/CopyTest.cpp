// The copy engine: boxes of tensor maps with and without swizzles, bulk copies, and cp.async.
#include "bitloom/tests/unit/emulator/Kernel.h"

using namespace bitloom;

namespace {

// Where byte k of row r of a box lies, rows of `inner` bytes, in a block that starts at a multiple of 1024 bytes.
// Written by bits: bit 4 is xored with bit 7, 5 with 8, 6 with 9, as many as the swizzle has.
int placeOf(int row, int k, int inner, int swizzle) {
  int address = row * inner + k;
  for (int bit = 0; 16 << bit < swizzle; ++bit)
    address ^= (address >> (7 + bit) & 1) << (4 + bit);
  return address;
}

// Loads box (C1, C0) and copies all of shared memory out.
const char *loadBox = R"(
  setp.ne.u32 %p1, %thread, 0;
  add.u32 %r1, %mem, BYTES;
  @%p1 bra $wait;
  mbarrier.init.shared::cta.b64 [%r1], 1;
  fence.proxy.async.shared::cta;
  mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r1], BYTES;
  mov.b64 %rd2, k_param_1;
  mov.u32 %r3, C0;
  mov.u32 %r4, C1;
  { prefetch.tensormap [%rd2]; }
  cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%mem], [%rd2, {%r3, %r4}], [%r1];
$wait:
  bar.warp.sync 0xffffffff;
WAIT:
  mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r1], 0;
  @!%p2 bra WAIT;
  shl.b32 %r5, %thread, 2;
$copy:
  add.u32 %r6, %mem, %r5;
  ld.shared.b32 %r7, [%r6];
  cvt.u64.u32 %rd3, %r5;
  add.s64 %rd3, %rd3, %w0;
  st.global.b32 [%rd3], %r7;
  add.u32 %r5, %r5, 128;
  setp.lt.u32 %p3, %r5, BYTES;
  @%p3 bra $copy;)";

std::string at(std::string text, int bytes, int c0, int c1) {
  return replaced(replaced(replaced(text, "BYTES", std::to_string(bytes)), "C0", std::to_string(c0)), "C1",
                  std::to_string(c1));
}

TensorMap mapOf(const std::vector<uint16_t> &data, int64_t columns, int64_t rows, int64_t pitch, int boxColumns,
                int boxRows, int swizzle) {
  TensorMap map;
  map.address = data.data();
  map.dtype = DType::u16;
  map.rank = 2;
  map.extents = {columns, rows};
  map.strides = {2, pitch * 2};
  map.box = {boxColumns, boxRows};
  map.swizzle = swizzle;
  return map;
}

std::vector<uint16_t> counted(size_t count) {
  std::vector<uint16_t> data(count);
  for (size_t k = 0; k < count; ++k)
    data[k] = uint16_t(k * 7 + 3);
  return data;
}

} // namespace

// A tensor of 19 rows and 83 columns, boxes that hang over each of its sides.
TEST(PtxEmulatorCopies, LoadsRaggedBoxesWithEachSwizzle) {
  const int columns = 83, rows = 19, pitch = 88, boxRows = 12;
  std::vector<uint16_t> data = counted(rows * pitch);
  for (int swizzle : {0, 32, 64, 128})
    for (auto [c0, c1] : {std::pair{0, 0}, {-8, 3}, {72, 11}, {8, -4}, {88, 0}, {0, 19}}) {
      const int boxColumns = swizzle ? swizzle / 2 : 24, inner = boxColumns * 2, bytes = inner * boxRows;
      Kernel kernel{at(loadBox, bytes, c0, c1), 32, 1, 1};
      if (!c0 && !c1)
        kernel.assembles();
      std::vector<uint16_t> out(bytes / 2);
      TensorMap map = mapOf(data, columns, rows, pitch, boxColumns, boxRows, swizzle);
      kernel.give(data);
      kernel.run({kernel.give(out)}, bytes + 8, {&map, 1});
      for (int r = 0; r < boxRows; ++r)
        for (int c = 0; c < boxColumns; ++c) {
          bool isInside = r + c1 >= 0 && r + c1 < rows && c + c0 >= 0 && c + c0 < columns;
          ASSERT_EQ(out[placeOf(r, c * 2, inner, swizzle) / 2], isInside ? data[(r + c1) * pitch + c + c0] : 0)
              << "swizzle " << swizzle << ", box at " << c0 << " " << c1 << ", element " << r << " " << c;
        }
    }
}

TEST(PtxEmulatorCopies, ABoxMayNotBeReadBeforeItsBarrier) {
  std::vector<uint16_t> data = counted(16 * 64), out(16 * 64);
  TensorMap map = mapOf(data, 64, 16, 64, 64, 16, 128);
  Kernel kernel{replaced(at(loadBox, 2048, 0, 0), "@!%p2 bra WAIT;", ""), 32, 1, 1};
  kernel.give(data);
  // One test of the barrier that is not looked at is luck, so test nothing at all.
  kernel.body = replaced(kernel.body, "mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r1], 0;", "");
  EXPECT_NE(kernel.complaint({kernel.give(out)}, 2056, {&map, 1}).find("race on shared memory: ld"), std::string::npos);
}

TEST(PtxEmulatorCopies, BytesThatNobodySendsAreADeadlock) {
  std::vector<uint16_t> data = counted(16 * 64), out(16 * 64);
  TensorMap map = mapOf(data, 64, 16, 64, 64, 8, 128); // the code expects 16 rows
  Kernel kernel{at(loadBox, 2048, 0, 0), 32, 1, 1};
  kernel.give(data);
  std::string complaint = kernel.complaint({kernel.give(out)}, 2056, {&map, 1});
  EXPECT_NE(complaint.find("lacks 0 arrivals and 1024 bytes"), std::string::npos) << complaint;
}

// Threads write a box, one stores it: rank 3, at the edge. FENCE and WAIT are what must be there.
static const char *storeBox = R"(
  shl.b32 %r5, %thread, 2;
$fill:
  add.u32 %r6, %mem, %r5;
  st.shared.b32 [%r6], %r5;
  add.u32 %r5, %r5, 256;
  setp.lt.u32 %p3, %r5, 3072;
  @%p3 bra $fill;
  FENCE
  bar.sync 0;
  setp.ne.u32 %p1, %thread, 32;
  @%p1 bra $end;
  mov.b64 %rd2, k_param_1;
  mov.u32 %r1, -8;
  mov.u32 %r2, 2;
  mov.u32 %r3, 1;
  cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group [%rd2, {%r1, %r2, %r3}], [%mem];
  WAIT
$end:)";

TEST(PtxEmulatorCopies, StoresBoxesAndNeedsTheirFences) {
  // 5 x 7 x 12 words; the box is of 3 x 8 x 32 words: 3072 bytes.
  std::vector<uint32_t> out(5 * 7 * 12, 99);
  TensorMap map;
  map.address = out.data();
  map.dtype = DType::u32;
  map.rank = 3;
  map.extents = {12, 7, 5};
  map.strides = {4, 48, 48 * 7};
  map.box = {32, 8, 3};
  const std::string fence = "fence.proxy.async.shared::cta;",
                    wait = "cp.async.bulk.commit_group; cp.async.bulk.wait_group.read 0;";
  auto with = [&](const std::string &f, const std::string &w) {
    return replaced(replaced(storeBox, "FENCE", f), "WAIT", w);
  };
  Kernel kernel{with(fence, wait), 64, 1, 1};
  kernel.assembles();
  kernel.give(out);
  kernel.run({0}, 3072, {&map, 1});
  for (int z = 0; z < 5; ++z)
    for (int y = 0; y < 7; ++y)
      for (int x = 0; x < 12; ++x) {
        bool isIn = z >= 1 && z < 4 && y >= 2;
        int place = ((z - 1) * 8 + y - 2) * 32 + x + 8;
        ASSERT_EQ(out[(z * 7 + y) * 12 + x], isIn ? uint32_t(place * 4) : 99) << z << " " << y << " " << x;
      }
  // Of a row that ends within 16 bytes, what lies beyond is lost.
  std::fill(out.begin(), out.end(), 99);
  map.extents[0] = 5;
  kernel.run({0}, 3072, {&map, 1});
  for (int x = 0; x < 12; ++x)
    ASSERT_EQ(out[(7 + 2) * 12 + x], x < 8 ? uint32_t((x + 8) * 4) : 99) << x;
  kernel.body = replaced(with(fence, wait), "mov.u32 %r1, -8;", "mov.u32 %r1, -7;");
  EXPECT_NE(kernel.complaint({0}, 3072, {&map, 1}).find("a multiple of 16 bytes"), std::string::npos);
  kernel.body = with("", wait);
  EXPECT_NE(kernel.complaint({0}, 3072, {&map, 1}).find("no proxy fence"), std::string::npos);
  kernel.body = with(fence, "");
  EXPECT_NE(kernel.complaint({0}, 3072, {&map, 1}).find("before its bulk copies"), std::string::npos);
  // The source is written again before it was read.
  kernel.body = with(fence, "st.shared.b32 [%mem], %r1;" + wait);
  EXPECT_NE(kernel.complaint({0}, 3072, {&map, 1}).find("race on shared memory: st"), std::string::npos);
}

// Two groups in flight; the last bytes of each thread's 16 are not copied but zero.
static const char *copyAsync = R"(
  shl.b32 %r1, %thread, 4;
  add.u32 %r2, %mem, %r1;
  cvt.u64.u32 %rd1, %r1;
  add.s64 %rd2, %rd1, %w0;
  add.s64 %rd3, %rd1, %w1;
  mov.u32 %r7, 12;
  cp.async.cg.shared.global [%r2], [%rd2], 16, %r7;
  cp.async.commit_group;
  cp.async.ca.shared.global [%r2+512], [%rd2+512], 8;
  cp.async.commit_group;
  cp.async.wait_group LEFT;
  ld.shared.v4.b32 {%r3, %r4, %r5, %r6}, [%r2];
  st.global.v4.b32 [%rd3], {%r3, %r4, %r5, %r6};
  cp.async.wait_all;
  ld.shared.v2.b32 {%r3, %r4}, [%r2+512];
  st.global.v2.b32 [%rd3+512], {%r3, %r4};)";

TEST(PtxEmulatorCopies, CopiesOfThreadsAreKnownAfterTheirGroup) {
  std::vector<uint32_t> in(256), out(256);
  for (int k = 0; k < 256; ++k)
    in[k] = uint32_t(k + 1);
  Kernel kernel{replaced(copyAsync, "LEFT", "1"), 32, 2};
  kernel.assembles();
  std::vector<int64_t> words{kernel.give(in), kernel.give(out)};
  kernel.run(words, 1024);
  for (uint32_t k = 0; k < 128; ++k)
    EXPECT_EQ(out[k], k % 4 == 3 ? 0 : k + 1);
  for (uint32_t k = 128; k < 256; ++k)
    EXPECT_EQ(out[k], k % 4 < 2 ? k + 1 : 0);
  kernel.body = replaced(copyAsync, "LEFT", "2");
  EXPECT_NE(kernel.complaint(words, 1024).find("race on shared memory"), std::string::npos);
}

// A bulk copy in and out, with no tensor map.
TEST(PtxEmulatorCopies, BulkCopiesSignalTheirBarrier) {
  Kernel kernel{R"(
  setp.ne.u32 %p1, %thread, 0;
  @%p1 bra $end;
  mbarrier.init.shared::cta.b64 [%mem], 1;
  fence.proxy.async;
  cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%mem+16], [%w0], 1008, [%mem];
  mbarrier.arrive.expect_tx.shared::cta.b64 %rd1, [%mem], 1008;
WAIT:
  mbarrier.try_wait.parity.shared::cta.b64 %p2, [%mem], 0;
  @!%p2 bra WAIT;
  cp.async.bulk.global.shared::cta.bulk_group [%w1], [%mem+16], 1008;
  cp.async.bulk.commit_group;
  cp.async.bulk.wait_group 0;
$end:)",
                32, 2};
  kernel.assembles();
  std::vector<uint16_t> in(512), out(512);
  for (int k = 0; k < 512; ++k)
    in[k] = uint16_t(k);
  kernel.run({kernel.give(in), kernel.give(out)}, 1024);
  for (int k = 0; k < 512; ++k)
    EXPECT_EQ(out[k], k < 504 ? k : 0);
}
