#include "bitloom/lib/support/Error.h"
#include "bitloom/tests/unit/lowering/Kernels.h"
#include "bitloom/tests/unit/lowering/ScopedDirectory.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

using namespace bitloom;

namespace {

const std::string twice = "%y = arith.addf %x, %x : vector<16xf32>";

} // namespace

TEST(Pipeline, NamesItsStages) {
  EXPECT_EQ(stageNamed("tile"), Stage::Tile);
  EXPECT_EQ(stageNamed("machine"), Stage::Machine);
  EXPECT_EQ(stageNamed("ptx"), std::nullopt);
}

TEST(Pipeline, CompilesAndRunsOnTheHost) {
  auto kernel = compiled(elementwise(twice));
  for (int64_t n : raggedSizes) {
    std::vector<float> x(n), expected(n);
    for (int64_t i = 0; i < n; ++i)
      expected[i] = 2 * (x[i] = float(i) - 7.25f);
    EXPECT_EQ(run(*kernel, x), expected) << n;
  }
}

TEST(Pipeline, PrintsLaterStages) {
  Program program = Program::parse(elementwise(twice));
  EXPECT_TRUE(contains(emit(program, hostTarget(), Stage::Llvm), "define void @map(ptr"));
  EXPECT_TRUE(contains(emit(program, parseTarget("x86-64-v4"), Stage::Assembly), "zmm"));
  EXPECT_TRUE(contains(emit(program, parseTarget("aarch64"), Stage::Assembly), "fadd\tv"));
  EXPECT_THROW(emit(program, hostTarget(), Stage::Machine), UserError);
}

TEST(Pipeline, ProductsAreFusedAndSumsKeepTheirOrder) {
  std::string body = R"(
    %m = arith.mulf %x, %x : vector<16xf32>
    %a = arith.addf %m, %x : vector<16xf32>
    %b = arith.addf %a, %x : vector<16xf32>
    %y = arith.subf %b, %x : vector<16xf32>)";
  std::string text = emit(Program::parse(elementwise(body)), parseTarget("x86-64-v4"), Stage::Assembly);
  EXPECT_TRUE(contains(text, "vfmadd"));
  EXPECT_TRUE(contains(text, "vaddps"));
  EXPECT_TRUE(contains(text, "vsubps")); // + x - x is not zero
}

TEST(Pipeline, Bf16IsRoundedToNearestEven) {
  std::string body = R"(
    %c = arith.constant dense<1.015625> : vector<16xbf16>
    %y = arith.mulf %x, %c : vector<16xbf16>)";
  for (const char *target : {"host", "x86-64"}) {
    Target on = parseTarget(target);
    auto kernel = Executable::load(compile(Program::parse(elementwise(body, "bf16")), on), on);
    std::vector<bf16> x(199);
    for (int i = 0; i < 199; ++i)
      x[i] = bf16(0.01f * float(i * i) - 3.0f);
    x[5] = bf16(__builtin_nanf(""));
    x[6] = bf16(3.3e38f); // overflows to infinity
    std::vector<bf16> y = run(*kernel, x);
    for (int i = 0; i < 199; ++i)
      if (i == 5)
        EXPECT_TRUE(float(y[i]) != float(y[i]));
      else
        EXPECT_EQ(y[i].bits, bf16(float(x[i]) * 1.015625f).bits) << float(x[i]);
  }
}

TEST(Pipeline, AFailedAssertionIsTheUsersError) {
  std::string body = R"(
    %negative = arith.cmpf olt, %x, %zero : vector<16xf32>
    %any = vector.reduction <or>, %negative : vector<16xi1> into i1
    scf.if %any {
      %message = llvm.mlir.addressof @message : !llvm.ptr
      llvm.call @bitloom_rt_assert(%message) : (!llvm.ptr) -> ()
    }
    %y = math.sqrt %x : vector<16xf32>)";
  auto kernel = compiled(elementwise(body));
  std::vector<float> x(4097, 4.0f);
  EXPECT_EQ(run(*kernel, x), std::vector<float>(4097, 2.0f));
  x[2048] = -1;
  try {
    run(*kernel, x);
    FAIL() << "expected a UserError";
  } catch (const UserError &error) {
    EXPECT_STREQ(error.what(), "map.cpp:7: error: negative");
  }
  x[2048] = 1;
  EXPECT_EQ(run(*kernel, x)[2048], 1.0f); // a failure does not outlive its launch
}

TEST(Pipeline, AProgramWithoutAKernelIsTheUsersError) {
  EXPECT_THROW(compile(Program::parse("llvm.func @f()"), hostTarget()), UserError);
}

TEST(Pipeline, WhatAPassRefusesNamesTheUsersLine) {
  // libm has no functions of vectors whose length is the processor's.
  const char *text = R"(
llvm.func @f(%p: !llvm.ptr) attributes {tile.kernel} {
  %x = llvm.load %p : !llvm.ptr -> vector<[4]xf32>
  %y = math.atan %x : vector<[4]xf32>
  llvm.store %y, %p : vector<[4]xf32>, !llvm.ptr
  llvm.return
})";
  try {
    compile(Program::parse(text, "atan.cpp"), parseTarget("aarch64+sve2"));
    FAIL() << "expected a UserError";
  } catch (const UserError &error) {
    EXPECT_STREQ(error.what(), "atan.cpp:4: error: math.atan: expected a function that vectors of any length have, got "
                               "one of libm");
  }
}

TEST(Pipeline, InlineAssemblyThatDoesNotAssembleIsTheUsersError) {
  std::string body = R"(
    %y = llvm.inline_asm "no_such_instruction $0, $1", "=x,x" %x : (vector<16xf32>) -> vector<16xf32>)";
  try {
    compile(Program::parse(elementwise(body)), hostTarget());
    FAIL() << "expected a UserError";
  } catch (const UserError &error) {
    EXPECT_TRUE(contains(error.what(), "inline assembly"));
  }
}

TEST(Pipeline, SavesAReproducerThatReplays) {
  ScopedDirectory directory("BITLOOM_REPRODUCER_DIR");
  // Kernels address memory by pointers: no pass converts a memref.
  std::string text = elementwise(R"(
    %m = memref.alloca() : memref<i64>
    memref.store %n, %m[] : memref<i64>
    %y = arith.addf %x, %x : vector<16xf32>)");
  std::string file;
  try {
    compile(Program::parse(text), hostTarget());
    FAIL() << "expected an InternalError";
  } catch (const InternalError &error) {
    file = error.reproducer();
    EXPECT_TRUE(contains(error.what(), "memref.alloca"));
    EXPECT_TRUE(contains(error.what(), "bitloom replay " + file));
  }
  EXPECT_EQ(std::filesystem::path(file).parent_path(), directory.path);
  std::ifstream stream(file);
  std::string saved{std::istreambuf_iterator<char>(stream), {}};
  EXPECT_TRUE(contains(saved, "// target: " + hostTarget().name + "\n"));
  EXPECT_TRUE(contains(saved, "// replay: bitloom replay " + file));
  EXPECT_TRUE(contains(replay(file).report, "memref.alloca"));
  EXPECT_FALSE(replay(file).passes);

  std::ofstream(directory.path / "other.mlir") << "module {}";
  EXPECT_THROW(replay(directory.path / "other.mlir"), UserError);
  EXPECT_THROW(replay(directory.path / "absent.mlir"), UserError);
}

TEST(Pipeline, ACrashOfLlvmIsAnInternalError) {
  ScopedDirectory directory("BITLOOM_REPRODUCER_DIR");
  // An Arm instruction on x86: instruction selection gives up with a fatal error.
  std::string body = R"(
    %r = llvm.call_intrinsic "llvm.aarch64.crc32b"(%i, %i) : (i32, i32) -> i32
    %rs = vector.broadcast %r : i32 to vector<16xi32>
    %y = arith.bitcast %rs : vector<16xi32> to vector<16xf32>)";
  std::string text = elementwise("%i = arith.trunci %start : i64 to i32" + body);
  for (int round = 0; round < 2; ++round)
    try {
      compile(Program::parse(text), hostTarget());
      FAIL() << "expected an InternalError";
    } catch (const InternalError &error) {
      EXPECT_TRUE(contains(error.what(), "Cannot select"));
      EXPECT_TRUE(contains(replay(error.reproducer()).report, "Cannot select"));
    }
  EXPECT_EQ(run(*compiled(elementwise(twice)), std::vector<float>{1})[0], 2.0f); // and the process goes on
}
