// Barriers of part of a block, mbarriers, and what the race check makes of them.
#include "bitloom/tests/unit/emulator/Kernel.h"

using namespace bitloom;

// Warps 0 and 1 pass a word each to the other over barrier 1, warps 2 and 3 over barrier 2; warp 3 alone is left to the
// end. ID is the barrier of the second half.
static const char *neighbours = R"(
  shl.b32 %r1, %thread, 2;
  add.u32 %r2, %mem, %r1;
  setp.ge.u32 %p1, %thread, 64;
  st.shared.b32 [%r2], %thread;
  @%p1 bra $second;
  barrier.sync.aligned 1, 64;
  bra.uni $read;
$second:
  bar.sync ID, 64;
$read:
  xor.b32 %r3, %thread, PARTNER;
  shl.b32 %r3, %r3, 2;
  add.u32 %r3, %mem, %r3;
  ld.shared.b32 %r4, [%r3];
  mul.wide.u32 %rd1, %thread, 4;
  add.s64 %rd1, %w0, %rd1;
  st.global.b32 [%rd1], %r4;)";

TEST(PtxEmulatorBarriers, NamedBarriersOrderTheWarpsThatMeet) {
  Kernel kernel{replaced(replaced(neighbours, "ID", "2"), "PARTNER", "32"), 128};
  kernel.assembles();
  std::vector<int32_t> out(128);
  kernel.run({kernel.give(out)}, 512);
  for (int t = 0; t < 128; ++t)
    EXPECT_EQ(out[t], t ^ 32);
}

TEST(PtxEmulatorBarriers, NamedBarriersOrderNobodyElse) {
  Kernel kernel{replaced(replaced(neighbours, "ID", "2"), "PARTNER", "64"), 128};
  std::vector<int32_t> out(128);
  EXPECT_NE(kernel.complaint({kernel.give(out)}, 512).find("race on shared memory"), std::string::npos);
}

TEST(PtxEmulatorBarriers, ABarrierThatNotEnoughReachIsADeadlock) {
  Kernel kernel{"setp.ge.u32 %p1, %thread, 64;\n@%p1 bra $end;\nbar.sync 3, 96;\n$end:", 128};
  kernel.assembles();
  std::vector<int32_t> out(1);
  std::string complaint = kernel.complaint({kernel.give(out)}, 0);
  EXPECT_NE(complaint.find("64 of 96 have arrived: bar.sync 3, 96"), std::string::npos) << complaint;
}

TEST(PtxEmulatorBarriers, AlignedBarriersNeedWholeWarps) {
  Kernel kernel{"setp.ge.u32 %p1, %thread, 16;\n@%p1 bra $end;\nbar.sync 0;\n$end:", 32};
  std::vector<int32_t> out(1);
  EXPECT_NE(kernel.complaint({kernel.give(out)}, 0).find("do not meet"), std::string::npos);
}

// What inline assembly looks like: scopes with registers and labels of their own, twice the same.
TEST(PtxEmulatorBarriers, ElectsOneThreadAndKeepsScopesApart) {
  std::string block = R"(
  mov.u32 %r1, 0;
  {
    .reg .pred P, done; .reg .b32 leader;
    setmaxnreg.dec.sync.aligned.u32 40;
    elect.sync leader|P, 0xffffffff; @!P bra SKIP;
    mov.u32 %r1, 1; SKIP:
  }
  mul.wide.u32 %rd1, %thread, 4;
  add.s64 %rd1, %w0, %rd1;
  st.global.b32 [%rd1 + OFFSET], %r1;)";
  Kernel kernel{replaced(block, "OFFSET", "0") + replaced(block, "OFFSET", "256"), 64};
  kernel.assembles();
  std::vector<int32_t> out(128);
  kernel.run({kernel.give(out)}, 0);
  for (int t = 0; t < 128; ++t)
    EXPECT_EQ(out[t], t % 32 == 0) << t;
}

// A ring of 3 slots: warp 0 writes 17 rounds of 32 words, warps 1 and 2 each add them up. FULL and EMPTY are the
// instructions of arrival.
static std::string ring(const std::string &fullArrival, const std::string &emptyArrival) {
  return replaced(replaced(R"(
  setp.ne.u32 %p1, %thread, 0;
  @%p1 bra $started;
  mov.u32 %r1, 0;
$init:
  shl.b32 %r2, %r1, 4;
  add.u32 %r2, %r2, %mem;
  mbarrier.init.shared::cta.b64 [%r2], 32;
  mbarrier.init.shared::cta.b64 [%r2+8], 64;
  add.u32 %r1, %r1, 1;
  setp.lt.u32 %p2, %r1, 3;
  @%p2 bra $init;
  fence.mbarrier_init.release.cluster;
$started:
  bar.sync 0;
  mov.u32 %r1, 0;           // round
  mov.u32 %r3, 0;           // slot
  mov.u32 %r4, 0;           // parity
  mov.u32 %r5, 0;           // sum
  and.b32 %r6, %thread, 31;
  shl.b32 %r7, %r6, 2;
  setp.ge.u32 %p3, %thread, 32;
$round:
  shl.b32 %r2, %r3, 4;
  add.u32 %r2, %r2, %mem;   // the slot's barriers
  shl.b32 %r8, %r3, 7;
  add.u32 %r8, %r8, %mem;
  add.u32 %r8, %r8, %r7;    // the thread's word of the slot, less 64
  @%p3 bra $consumer;
  xor.b32 %r9, %r4, 1;
  add.u32 %r10, %r2, 8;
  {
    .reg .pred complete;
  WAIT:
    mbarrier.try_wait.parity.shared::cta.b64 complete, [%r10], %r9;
    @complete bra DONE; bra WAIT;
  DONE:
  }
  mad.lo.s32 %r11, %r1, 32, %r6;
  st.shared.b32 [%r8+64], %r11;
  FULL
  bra $next;
$consumer:
  { .reg .pred complete; WAIT: mbarrier.test_wait.parity.shared::cta.b64 complete, [%r2], %r4; @!complete bra WAIT; }
  ld.shared.b32 %r11, [%r8+64];
  add.s32 %r5, %r5, %r11;
  EMPTY
$next:
  add.u32 %r1, %r1, 1;
  add.u32 %r3, %r3, 1;
  setp.eq.u32 %p4, %r3, 3;
  @!%p4 bra $same;
  mov.u32 %r3, 0;
  xor.b32 %r4, %r4, 1;
$same:
  setp.lt.u32 %p5, %r1, 17;
  @%p5 bra $round;
  mul.wide.u32 %rd1, %thread, 4;
  add.s64 %rd1, %w0, %rd1;
  st.global.b32 [%rd1], %r5;)",
                           "FULL", fullArrival),
                  "EMPTY", emptyArrival);
}

TEST(PtxEmulatorBarriers, MbarriersPassARingOfSlots) {
  Kernel kernel{ring("mbarrier.arrive.shared::cta.b64 %rd2, [%r2];",
                     "{ .reg .b64 t; mbarrier.arrive.release.cta.shared::cta.b64 t, [%r10], 1; }"),
                96};
  kernel.body = replaced(kernel.body, "$consumer:", "$consumer: add.u32 %r10, %r2, 8;");
  kernel.assembles();
  std::vector<int32_t> out(96);
  kernel.run({kernel.give(out)}, 64 + 3 * 128);
  for (int t = 32; t < 96; ++t)
    EXPECT_EQ(out[t], 32 * 136 + 17 * (t % 32)) << t;
}

TEST(PtxEmulatorBarriers, AMissingArrivalIsADeadlockThatNamesTheBarrier) {
  Kernel kernel{ring("mbarrier.arrive.shared::cta.b64 _, [%r2];", ""), 96};
  std::vector<int32_t> out(96);
  std::string complaint = kernel.complaint({kernel.give(out)}, 64 + 3 * 128);
  EXPECT_NE(complaint.find("waits for the mbarrier at byte 8 of shared memory, whose phase 0 lacks 64 arrivals"),
            std::string::npos)
      << complaint;
}

TEST(PtxEmulatorBarriers, ASlotThatIsGivenBackBeforeItIsReadIsARace) {
  std::string text = ring("mbarrier.arrive.shared::cta.b64 _, [%r2];", "");
  text = replaced(text, "  ld.shared.b32 %r11, [%r8+64];",
                  "add.u32 %r10, %r2, 8;\nmbarrier.arrive.shared::cta.b64 _, [%r10];\nld.shared.b32 %r11, [%r8+64];");
  Kernel kernel{text, 96};
  kernel.assembles();
  std::vector<int32_t> out(96);
  EXPECT_NE(kernel.complaint({kernel.give(out)}, 64 + 3 * 128).find("race on shared memory"), std::string::npos);
}

// Warps 1 and 2 take the rounds in turn. With 3 slots one uses a slot after the other did: were its copy late, the wait
// for round 3 would end with what is before round 0.
TEST(PtxEmulatorBarriers, AWaitThatAnEarlierPhaseCouldHaveEndedIsAnError) {
  for (int slots : {3, 4}) {
    std::string text = ring("mbarrier.arrive.shared::cta.b64 _, [%r2];", "mbarrier.arrive.shared::cta.b64 _, [%r10];");
    for (std::string bound : {"setp.lt.u32 %p2, %r1, ", "setp.eq.u32 %p4, %r3, "})
      text = replaced(text, bound + "3;", bound + std::to_string(slots) + ";");
    text = replaced(text, "[%r2+8], 64;", "[%r2+8], 32;");
    text = replaced(text, "$consumer:", R"($consumer:
  shr.u32 %r10, %thread, 5;
  add.u32 %r10, %r10, 1;
  xor.b32 %r10, %r10, %r1;
  and.b32 %r10, %r10, 1;
  setp.ne.u32 %p6, %r10, 0;
  @%p6 bra $next;
  add.u32 %r10, %r2, 8;)");
    Kernel kernel{text, 96};
    kernel.assembles();
    std::vector<int32_t> out(96);
    if (slots == 3) {
      std::string complaint = kernel.complaint({kernel.give(out)}, 64 + 3 * 128);
      EXPECT_NE(complaint.find("an earlier phase of the same parity"), std::string::npos) << complaint;
      continue;
    }
    kernel.run({kernel.give(out)}, 64 + 4 * 128);
    for (int t = 32; t < 96; ++t)
      EXPECT_EQ(out[t], t < 64 ? 32 * 72 + 9 * (t % 32) : 32 * 64 + 8 * (t % 32)) << t;
  }
}

TEST(PtxEmulatorBarriers, ExpectsNoMoreBytesThanAPhaseCounts) {
  Kernel kernel{R"(
  setp.ne.u32 %p1, %thread, 0;
  @!%p1 mbarrier.init.shared.b64 [%mem], 2;
  @!%p1 mbarrier.arrive.expect_tx.shared.b64 %rd2, [%mem], 1048575;
  @!%p1 mbarrier.expect_tx.relaxed.cta.shared.b64 [%mem], 1;)"};
  kernel.assembles();
  std::string complaint = kernel.complaint({0}, 8);
  EXPECT_NE(complaint.find("expected at most 2^20 - 1 bytes"), std::string::npos) << complaint;
}

TEST(PtxEmulatorBarriers, TokensTellPhases) {
  Kernel kernel{R"(
  setp.ne.u32 %p1, %thread, 0;
  @!%p1 mbarrier.init.shared.b64 [%mem], 32;
  bar.warp.sync 0xffffffff;
  mbarrier.arrive.shared.b64 %rd2, [%mem];
WAIT:
  mbarrier.test_wait.shared.b64 %p2, [%mem], %rd2;
  @!%p2 bra WAIT;
  mbarrier.test_wait.parity.shared.b64 %p3, [%mem], 1;
  selp.b32 %r1, 1, 0, %p3;
  mul.wide.u32 %rd1, %thread, 4;
  add.s64 %rd1, %w0, %rd1;
  st.global.b32 [%rd1], %r1;)"};
  kernel.assembles();
  std::vector<int32_t> out(32, 7);
  kernel.run({kernel.give(out)}, 8);
  EXPECT_EQ(out, std::vector<int32_t>(32, 0)); // phase 0 is over, so the barrier waits in one of parity 1
}

TEST(PtxEmulatorBarriers, MoreRegistersThanABlockHasIsADeadlock) {
  for (bool fits : {true, false}) {
    Kernel kernel{"setp.lt.u32 %p1, %thread, 256;\n@%p1 bra $more;\nsetmaxnreg.dec.sync.aligned.u32 24;\nbra $end;\n"
                  "$more:\nsetmaxnreg.inc.sync.aligned.u32 " +
                      std::string(fits ? "240" : "248") + ";\n$end:",
                  384};
    kernel.assembles();
    std::vector<int32_t> out(1);
    EXPECT_EQ(kernel.complaint({kernel.give(out)}, 0).find("66560 registers") == std::string::npos, fits);
  }
}

// Block 0 waits for what block 1 left: each in its turn, though block 0 comes first.
static const char *passes = R"(
  mov.u32 %r1, %ctaid.x;
  setp.ne.u32 %p1, %thread, 0;
  @%p1 bra $end;
  setp.eq.u32 %p2, %r1, 0;
  @%p2 bra $wait;
  st.global.b32 [%w0+16], 42;
  LEAVE.global.b32 [%w0], 1;
  bra $end;
$wait:
  LOOK.global.b32 %r2, [%w0];
  setp.eq.u32 %p3, %r2, 0;
  @%p3 bra $wait;
  ld.global.b32 %r3, [%w0+16];
  st.global.b32 [%w1], %r3;
$end:)";

TEST(PtxEmulatorBarriers, BlocksPassValuesByReleaseAndAcquire) {
  for (bool isOrdered : {true, false}) {
    Kernel kernel{
        replaced(replaced(passes, "LEAVE", isOrdered ? "st.release.gpu" : "st.relaxed.gpu"), "LOOK", "ld.acquire.gpu"),
        32, 2};
    kernel.assembles();
    std::vector<int32_t> passed(8), out(1);
    kernel.watched = {passed.data(), passed.size() * 4};
    const std::vector<int64_t> values = {int64_t(passed.data()), kernel.give(out)};
    std::string complaint = kernel.complaint(values, 0, {}, {2, 1, 1});
    EXPECT_EQ(complaint.find("race on global memory: ld.global.b32") != std::string::npos, !isOrdered) << complaint;
    if (isOrdered)
      EXPECT_EQ(out[0], 42);
  }
}
