// Matrix instructions against loops in double.
#include "bitloom/tests/emulator/PtxNumbers.h"
#include "bitloom/tests/unit/emulator/Kernel.h"

#include <cmath>
#include <cstring>
#include <functional>

using namespace bitloom;
using ptx::Type;

namespace {

// Small codes whose products and sums are exact in any of the accumulators.
uint64_t codeOf(Type type, int row, int column) {
  int number = (row * 5 + column * 3 + row * column) % 7 - (type.kind == 'u' ? 0 : 3);
  if (!type.isFloat())
    return uint64_t(number) & ptx::mask(type.bits);
  if (type.kind == 't')
    return ptx::fromDouble(number, {'f', 32});
  return ptx::fromDouble(number, type);
}

void put(std::vector<uint8_t> &bytes, size_t place, uint64_t code, int size) {
  if (bytes.size() < place + size)
    bytes.resize(place + size);
  std::memcpy(bytes.data() + place, &code, size);
}

int swizzled(int address, int swizzle) {
  for (int bit = 0; 16 << bit < swizzle; ++bit)
    address ^= (address >> (7 + bit) & 1) << (4 + bit);
  return address;
}

// An operand in shared memory: where byte b along the contiguous dim and index j along the other lie, and what the
// descriptor says.
struct Arranged {
  std::function<int(int b, int j)> place;
  int leading, stride, swizzle;
};

// rows x K, contiguous along K. With a swizzle, as a box of `swizzle` bytes by rows.
Arranged kMajor(int rows, int swizzle) {
  if (swizzle)
    return {[=](int b, int row) { return swizzled(row * swizzle + b, swizzle); }, 16, 8 * swizzle, swizzle};
  return {[=](int b, int row) { return row / 8 * 128 + b / 16 * (rows * 16) + row % 8 * 16 + b % 16; }, rows * 16, 128,
          0};
}

// The same contiguous along rows: boxes of `swizzle` bytes by 24 of K, one behind the other.
Arranged rowMajor(int rows, int swizzle) {
  const int box = swizzle * 24;
  if (swizzle)
    return {[=](int b, int k) { return b / swizzle * box + swizzled(k * swizzle + b % swizzle, swizzle); }, box,
            8 * swizzle, swizzle};
  return {[=](int b, int k) { return b / 16 * 384 + k / 8 * 128 + k % 8 * 16 + b % 16; }, 128, 384, 0};
}

int64_t descriptorOf(const Arranged &a, int64_t address) {
  int64_t mode = a.swizzle == 128 ? 1 : a.swizzle == 64 ? 2 : a.swizzle == 32 ? 3 : 0;
  return (address >> 4) | int64_t(a.leading >> 4) << 16 | int64_t(a.stride >> 4) << 32 | mode << 62;
}

std::string list(const std::string &prefix, int first, int count) {
  std::string text;
  for (int k = 0; k < count; ++k)
    text += (k ? ", " : "") + prefix + std::to_string(first + k);
  return "{" + text + "}";
}

struct Wgmma {
  std::string types; // "f32.bf16.bf16"
  int n = 8;
  int swizzleA = 128, swizzleB = 128; // -1: A from registers
  bool rowMajorA = false, rowMajorB = false;
  int scaleA = 1, scaleB = 1;
  int accumulates = 0; // how many times more it adds the product up
  int kStart = 0;      // bytes from the start of the swizzled line
};

// D = A B over 32 bytes of K, against loops.
void check(const Wgmma &w) {
  SCOPED_TRACE(w.types + " n" + std::to_string(w.n) + " swizzles " + std::to_string(w.swizzleA) + " " +
               std::to_string(w.swizzleB) + " along rows " + std::to_string(w.rowMajorA) + std::to_string(w.rowMajorB));
  size_t dot = w.types.find('.'), last = w.types.rfind('.');
  const Type d = *ptx::typeNamed(w.types.substr(0, dot)), a = *ptx::typeNamed(w.types.substr(dot + 1, last - dot - 1)),
             b = *ptx::typeNamed(w.types.substr(last + 1));
  const int k = 256 / a.bits, size = a.bits / 8, perRegister = 32 / d.bits, registers = w.n / 2 / perRegister;

  std::vector<uint8_t> imageA, imageB, fragments(128 * 16);
  auto fill = [&](std::vector<uint8_t> &image, const Arranged &arranged, bool isRowMajor, int rows, Type type,
                  int seed) {
    for (int row = 0; row < rows; ++row)
      for (int at = 0; at < k; ++at) {
        int place = isRowMajor ? arranged.place(row * size, at) : arranged.place(at * size + w.kStart, row);
        put(image, size_t(place), codeOf(type, row + seed, at), size);
      }
    image.resize((image.size() + 1023) / 1024 * 1024);
  };
  const bool fromRegisters = w.swizzleA < 0;
  Arranged ofA = w.rowMajorA ? rowMajor(64, w.swizzleA) : kMajor(64, std::max(w.swizzleA, 0)),
           ofB = w.rowMajorB ? rowMajor(w.n, w.swizzleB) : kMajor(w.n, w.swizzleB);
  fill(imageA, ofA, w.rowMajorA, 64, a, 0);
  fill(imageB, ofB, w.rowMajorB, w.n, b, 1);
  for (int t = 0; t < 128; ++t) // of A, as PTX lists a thread's elements
    for (int e = 0; e < 128 / a.bits; ++e) {
      int each = 4 / size, row = t / 32 * 16 + t % 32 / 4 + (e / each % 2 ? 8 : 0),
          column = t % 4 * each + e % each + (e >= 2 * each ? 4 * each : 0);
      put(fragments, size_t(t * 16 + e * size), codeOf(a, row, column), size);
    }

  // Shared memory: a barrier in the first KiB, then A, then B.
  const int64_t placeA = 1024, placeB = placeA + int64_t(imageA.size());
  const std::string bytesA = std::to_string(imageA.size()), bytesB = std::to_string(imageB.size());
  std::string text = R"(
  setp.ne.u32 %p1, %thread, 0;
  @%p1 bra $wait;
  mbarrier.init.shared::cta.b64 [%mem], 1;
  fence.proxy.async;
  mbarrier.arrive.expect_tx.shared::cta.b64 _, [%mem], )" +
                     std::to_string(imageA.size() + imageB.size()) + R"(;
  cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%mem+1024], [%w0], )" +
                     bytesA + R"(, [%mem];
  cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%mem+)" +
                     std::to_string(placeB) + "], [%w1], " + bytesB + R"(, [%mem];
$wait:
  bar.sync 0;
WAIT:
  mbarrier.try_wait.parity.shared::cta.b64 %p2, [%mem], 0;
  @!%p2 bra WAIT;
  shr.u32 %r1, %mem, 4;
  cvt.u64.u32 %rd1, %r1;
  add.s64 %rd2, %rd1, %w2;   // descriptors
  add.s64 %rd3, %rd1, %w3;
  shl.b32 %r2, %thread, 4;
  cvt.u64.u32 %rd4, %r2;
  add.s64 %rd4, %rd4, %w5;
  ld.global.v4.b32 {%r4, %r5, %r6, %r7}, [%rd4];
)";
  const bool isF32 = d.bits == 32 && d.isFloat();
  const std::string prefix = isF32 ? "%f" : "%r";
  for (int r = 0; r < registers; ++r)
    text += "mov.b32 " + prefix + std::to_string(100 + r) + ", 0;\n";
  text += "wgmma.fence.sync.aligned;\n";
  for (int step = 0; step <= w.accumulates; ++step) {
    text += "{ .reg .pred p; setp.ne.b32 p, " + std::to_string(step) + ", 0;\nwgmma.mma_async.sync.aligned.m64n" +
            std::to_string(w.n) + "k" + std::to_string(k) + "." + w.types + " " + list(prefix, 100, registers) + ", " +
            (fromRegisters ? "{%r4, %r5, %r6, %r7}" : "%rd2") + ", %rd3, p";
    if (d.isFloat())
      text += ", " + std::to_string(w.scaleA) + ", " + std::to_string(w.scaleB);
    if (d.isFloat() && a.bits == 16)
      text += (fromRegisters ? "" : w.rowMajorA ? ", 1" : ", 0") + std::string(w.rowMajorB ? ", 1" : ", 0");
    text += "; }\n";
  }
  text += "wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n";
  text += "mul.wide.u32 %rd5, %thread, " + std::to_string(registers * 4) + ";\nadd.s64 %rd5, %rd5, %w4;\n";
  for (int r = 0; r < registers; ++r)
    text += "st.global.b32 [%rd5+" + std::to_string(4 * r) + "], " + prefix + std::to_string(100 + r) + ";\n";

  Kernel kernel{text, 128, 6};
  kernel.assembles();
  std::vector<uint32_t> out(size_t(128 * registers));
  kernel.run({kernel.give(imageA), kernel.give(imageB), descriptorOf(ofA, placeA + w.kStart),
              descriptorOf(ofB, placeB + w.kStart), kernel.give(out), kernel.give(fragments)},
             int(placeB + int64_t(imageB.size())));
  for (int t = 0; t < 128; ++t)
    for (int e = 0; e < w.n / 2; ++e) {
      int row = t / 32 * 16 + t % 32 / 4 + (e & 2 ? 8 : 0), column = e / 4 * 8 + t % 4 * 2 + (e & 1);
      double expected = 0;
      for (int at = 0; at < k; ++at)
        expected += ptx::numberOf(codeOf(a, row, at), a) * ptx::numberOf(codeOf(b, column + 1, at), b);
      expected *= w.scaleA * w.scaleB * (1 + w.accumulates);
      uint64_t bits = out[size_t(t * registers + e / perRegister)] >> (d.bits * (e % perRegister)) & ptx::mask(d.bits);
      ASSERT_EQ(ptx::numberOf(bits, d), expected) << "row " << row << ", column " << column;
    }
}

} // namespace

TEST(PtxEmulatorTensorCores, WgmmaReadsOperandsAlongK) {
  for (int swizzle : {0, 32, 64, 128})
    check({"f32.bf16.bf16", 64, swizzle, swizzle});
  check({"f32.bf16.bf16", 8, 128, 32});
  check({"f32.f16.f16", 256, 64, 128});
}

TEST(PtxEmulatorTensorCores, WgmmaStepsThroughASwizzledLine) {
  for (int kStart : {32, 64, 96})
    check({.types = "f32.bf16.bf16", .n = 24, .kStart = kStart});
  check({.types = "f32.bf16.bf16", .n = 24, .swizzleA = 64, .swizzleB = 64, .kStart = 32});
}

TEST(PtxEmulatorTensorCores, WgmmaReadsOperandsAlongRows) {
  for (int swizzle : {0, 32, 64, 128}) {
    check({"f32.bf16.bf16", 64, swizzle, swizzle, true, true});
    check({"f32.bf16.bf16", 128, 128, swizzle, false, true});
    check({"f32.f16.f16", 192, swizzle, 64, true, false});
  }
}

TEST(PtxEmulatorTensorCores, WgmmaTakesEachType) {
  check({"f16.f16.f16", 16});
  check({"f32.tf32.tf32", 40});
  check({"f32.e4m3.e5m2", 32});
  check({"f16.e5m2.e4m3", 32});
  check({"s32.s8.s8", 24});
  check({"s32.u8.s8", 16});
}

TEST(PtxEmulatorTensorCores, WgmmaTakesAFromRegisters) {
  check({"f32.bf16.bf16", 32, -1});
  check({"f32.bf16.bf16", 64, -1, 128, false, true});
  check({"f32.tf32.tf32", 16, -1});
  check({"f32.e4m3.e4m3", 16, -1});
  check({"s32.s8.s8", 16, -1});
}

TEST(PtxEmulatorTensorCores, WgmmaAccumulatesAndScales) {
  check({.types = "f32.bf16.bf16", .n = 16, .scaleA = -1, .accumulates = 2});
  check({.types = "f32.f16.f16", .n = 16, .scaleA = -1, .scaleB = -1, .accumulates = 1});
  check({.types = "s32.s8.u8", .n = 16, .accumulates = 3});
}

// A warp's A (16 x K) and B (K x 8) through ldmatrix, or by hand where its elements are not of 16 bits, to D = A B + C.
static void checkMma(const std::string &types, int k, bool loadsMatrices) {
  SCOPED_TRACE(types + " k" + std::to_string(k));
  size_t dots[3], at = 0;
  for (size_t &dot : dots)
    at = (dot = types.find('.', at)) + 1;
  const Type d = *ptx::typeNamed(types.substr(0, dots[0])),
             a = *ptx::typeNamed(types.substr(dots[0] + 1, dots[1] - dots[0] - 1)),
             b = *ptx::typeNamed(types.substr(dots[1] + 1, dots[2] - dots[1] - 1));
  const int size = a.bits / 8, rowBytes = k * size, registersOfB = rowBytes / 16, perRegister = 32 / d.bits;
  // A's rows, then B's columns, or for ldmatrix.trans its rows.
  std::vector<uint8_t> in;
  for (int row = 0; row < 16; ++row)
    for (int c = 0; c < k; ++c)
      put(in, size_t(row * rowBytes + c * size), codeOf(a, row, c), size);
  for (int column = 0; column < 8; ++column)
    for (int c = 0; c < k; ++c)
      put(in, size_t(16 * rowBytes + (loadsMatrices ? c * 16 + column * 2 : column * rowBytes + c * size)),
          codeOf(b, column + 1, c), size);
  std::string text = "shl.b32 %r1, %thread, 2;\n"; // to shared memory, a word a thread
  for (int word = 0; word < 24 * rowBytes / 128; ++word)
    text += "cvt.u64.u32 %rd1, %r1;\nadd.s64 %rd1, %rd1, %w0;\nld.global.b32 %r2, [%rd1];\n"
            "add.u32 %r3, %r1, %mem;\nst.shared.b32 [%r3], %r2;\nadd.u32 %r1, %r1, 128;\n";
  text += "bar.warp.sync 0xffffffff;\n";
  const std::string pitch = std::to_string(rowBytes);
  if (loadsMatrices) {
    // Lanes 0 to 15 give the rows' first 16 bytes, 16 to 31 the next.
    text += "and.b32 %r4, %thread, 15;\nshr.u32 %r5, %thread, 4;\nshl.b32 %r5, %r5, 4;\nmad.lo.u32 %r6, %r4, " + pitch +
            ", %r5;\nadd.u32 %r6, %r6, %mem;\n"
            "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r10, %r11, %r12, %r13}, [%r6];\n"
            "shl.b32 %r7, %r4, 4;\nadd.u32 %r7, %r7, %mem;\n"
            "ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%r14, %r15}, [%r7+" +
            std::to_string(16 * rowBytes) + "];\n";
  } else {
    text += "shr.u32 %r4, %thread, 2;\nand.b32 %r5, %thread, 3;\nshl.b32 %r5, %r5, 2;\nmad.lo.u32 %r6, %r4, " + pitch +
            ", %r5;\nadd.u32 %r6, %r6, %mem;\n";
    for (int r = 0; r < 2 * registersOfB; ++r)
      text += "ld.shared.b32 %r" + std::to_string(10 + r) + ", [%r6+" +
              std::to_string(r % 2 * 8 * rowBytes + r / 2 * 16) + "];\n";
    for (int r = 0; r < registersOfB; ++r)
      text += "ld.shared.b32 %r" + std::to_string(14 + r) + ", [%r6+" + std::to_string(16 * rowBytes + r * 16) + "];\n";
  }
  const std::string prefix = d.isFloat() && d.bits == 32 ? "%f" : "%r";
  for (int r = 0; r < 4 / perRegister; ++r)
    text += "mov.b32 " + prefix + std::to_string(20 + r) + ", 0;\n";
  const std::string sum = list(prefix, 20, 4 / perRegister);
  for (int step = 0; step < 2; ++step)
    text += "mma.sync.aligned.m16n8k" + std::to_string(k) + ".row.col." + types + " " + sum + ", " +
            list("%r", 10, 2 * registersOfB) + ", " + list("%r", 14, registersOfB) + ", " + sum + ";\n";
  text += "shl.b32 %r8, %thread, 4;\ncvt.u64.u32 %rd2, %r8;\nadd.s64 %rd2, %rd2, %w1;\n";
  for (int r = 0; r < 4 / perRegister; ++r)
    text += "st.global.b32 [%rd2+" + std::to_string(4 * r) + "], " + prefix + std::to_string(20 + r) + ";\n";
  Kernel kernel{text, 32, 2};
  kernel.assembles();
  std::vector<uint32_t> out(128);
  kernel.run({kernel.give(in), kernel.give(out)}, 24 * rowBytes);
  for (int t = 0; t < 32; ++t)
    for (int e = 0; e < 4; ++e) {
      int row = t / 4 + (e & 2 ? 8 : 0), column = t % 4 * 2 + (e & 1);
      double expected = 0;
      for (int c = 0; c < k; ++c)
        expected += 2 * ptx::numberOf(codeOf(a, row, c), a) * ptx::numberOf(codeOf(b, column + 1, c), b);
      uint64_t bits = out[size_t(t * 4 + e / perRegister)] >> (d.bits * (e % perRegister)) & ptx::mask(d.bits);
      ASSERT_EQ(ptx::numberOf(bits, d), expected) << row << " " << column;
    }
}

TEST(PtxEmulatorTensorCores, MmaMultipliesTheFragmentsOfAWarp) {
  checkMma("f32.bf16.bf16.f32", 16, true);
  checkMma("f32.f16.f16.f32", 16, true);
  checkMma("f16.f16.f16.f16", 16, true);
  checkMma("f32.bf16.bf16.f32", 8, false);
  checkMma("f32.tf32.tf32.f32", 8, false);
  checkMma("s32.s8.s8.s32", 32, false);
  checkMma("s32.u8.s8.s32", 16, false);
  checkMma("f32.e4m3.e5m2.f32", 32, false);
}

// Each thread's fragment of four 8 x 8 matrices goes out by rows, or by columns, and in again.
TEST(PtxEmulatorTensorCores, StmatrixStoresWhatLdmatrixLoads) {
  for (bool isTransposed : {false, true}) {
    Kernel kernel{replaced(R"(
  mov.u32 %r1, %thread;
  or.b32 %r2, %thread, 0x100;
  or.b32 %r3, %thread, 0x200;
  or.b32 %r4, %thread, 0x300;
  shl.b32 %r5, %r1, 16;
  or.b32 %r1, %r1, %r5;
  shl.b32 %r5, %thread, 4;
  add.u32 %r6, %mem, %r5;
  stmatrix.sync.aligned.m8n8.x4.TRANSshared.b16 [%r6], {%r1, %r2, %r3, %r4};
  bar.warp.sync 0xffffffff;
  ld.shared.v4.b32 {%r7, %r8, %r9, %r10}, [%r6];
  cvt.u64.u32 %rd1, %r5;
  add.s64 %rd1, %rd1, %w0;
  st.global.v4.b32 [%rd1], {%r7, %r8, %r9, %r10};)",
                           "TRANS", isTransposed ? "trans." : "")};
    kernel.assembles();
    std::vector<uint16_t> out(256);
    kernel.run({kernel.give(out)}, 512);
    for (int m = 0; m < 4; ++m)
      for (int r = 0; r < 8; ++r)
        for (int c = 0; c < 8; ++c) {
          int row = isTransposed ? c : r, column = isTransposed ? r : c, lane = row * 4 + column / 2;
          bool isUpper = column % 2 && m; // matrix 0 alone has upper halves
          ASSERT_EQ(out[size_t(m * 64 + r * 8 + c)], isUpper ? 0 : lane | m << 8) << m << " " << r << " " << c;
        }
  }
}
