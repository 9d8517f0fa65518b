// Bank conflicts, as the emulator counts them.
#include "bitloom/tests/unit/emulator/Kernel.h"

using namespace bitloom;

namespace {

// The wavefronts of one access of a warp, and what they would be without conflicts.
std::pair<int64_t, int64_t> wavefronts(const std::string &body, int threads = 32) {
  Kernel kernel{.body = body, .threads = threads};
  kernel.assembles();
  PtxEmulator emulator(kernel.text());
  emulator.countBanks();
  emulator.launch(std::vector<int64_t>{0}, {1, 1, 1}, 32 << 10);
  return {emulator.wavefronts(), emulator.leastWavefronts()};
}

std::string store(int stride, const std::string &what) {
  return "mad.lo.u32 %r1, %thread, " + std::to_string(stride) + ", %mem;\n" + what;
}

} // namespace

TEST(PtxEmulatorBanks, CountsConflicts) {
  for (auto [stride, expected] :
       {std::pair(4, 1), std::pair(8, 2), std::pair(12, 1), std::pair(16, 4), std::pair(128, 32), std::pair(132, 1)})
    EXPECT_EQ(wavefronts(store(stride, "st.shared.b32 [%r1], %r2;")), (std::pair<int64_t, int64_t>(expected, 1)))
        << "every " << stride << " bytes";
  EXPECT_EQ(wavefronts(store(2, "st.shared.b16 [%r1], %h1;")).first, 1) << "two threads in a word";
  EXPECT_EQ(wavefronts(store(64, "st.shared.b16 [%r1], %h1;")).first, 16);
}

// Of 8 and 16 bytes a thread, a half and a quarter of a warp at a time.
TEST(PtxEmulatorBanks, CountsVectors) {
  EXPECT_EQ(wavefronts(store(16, "st.shared.v4.b32 [%r1], {%r2, %r3, %r4, %r5};")), std::pair(int64_t(4), int64_t(4)));
  EXPECT_EQ(wavefronts(store(32, "st.shared.v4.b32 [%r1], {%r2, %r3, %r4, %r5};")), std::pair(int64_t(8), int64_t(4)));
  EXPECT_EQ(wavefronts(store(8, "st.shared.v2.b32 [%r1], {%r2, %r3};")), std::pair(int64_t(2), int64_t(2)));
  EXPECT_EQ(wavefronts(store(128, "st.shared.v2.b32 [%r1], {%r2, %r3};")), std::pair(int64_t(32), int64_t(2)));
}

// One word read by all threads is one wavefront; warps, and the turns of a loop, count each for itself.
TEST(PtxEmulatorBanks, CountsEveryAccess) {
  const std::string body = "setp.eq.u32 %p1, %thread, 0;\n@%p1 st.shared.b32 [%mem], %r2;\nbar.sync 0;\n"
                           "mov.u32 %r3, 0;\nLOOP:\nld.shared.b32 %r4, [%mem];\nadd.u32 %r3, %r3, 1;\n"
                           "setp.lt.u32 %p2, %r3, 3;\n@%p2 bra LOOP;";
  EXPECT_EQ(wavefronts(body, 64), std::pair(int64_t(1 + 2 * 3), int64_t(1 + 2 * 3)));
}
