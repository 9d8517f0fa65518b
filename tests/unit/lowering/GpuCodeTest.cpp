// From LLVM's dialect to GPU code: what the pipeline does after tile-to-nvvm. Needs no GPU; a cubin needs ptxas.
#include "bitloom/lib/runtime/Ptxas.h"
#include "bitloom/lib/support/Error.h"
#include "bitloom/tests/unit/lowering/Kernels.h"
#include "bitloom/tests/unit/lowering/ScopedDirectory.h"

#include <gtest/gtest.h>

using namespace bitloom;

namespace {

// out[thread] = x[thread] * x[thread] + x[thread]
Program kernel(const std::string &attributes, const std::string &body = "") {
  return Program::parse(R"(
llvm.func @square(%x: i64, %out: i64) attributes {nvvm.kernel, tile.kernel, )" +
                            attributes + R"(} {
  %tid = nvvm.read.ptx.sreg.tid.x : i32
  %xs = llvm.inttoptr %x : i64 to !llvm.ptr<1>
  %outs = llvm.inttoptr %out : i64 to !llvm.ptr<1>
  %from = llvm.getelementptr %xs[%tid] : (!llvm.ptr<1>, i32) -> !llvm.ptr<1>, f32
  %to = llvm.getelementptr %outs[%tid] : (!llvm.ptr<1>, i32) -> !llvm.ptr<1>, f32
  %a = llvm.load %from : !llvm.ptr<1> -> f32
  %m = llvm.fmul %a, %a : f32
  %s = llvm.fadd %m, %a : f32
  )" + body + R"(
  llvm.store %s, %to : f32, !llvm.ptr<1>
  llvm.return
}
)",
                        "square.mlir");
}

} // namespace

TEST(GpuCode, IsPtxThatFusesProducts) {
  for (const char *target : {"sm_80", "sm_89", "sm_90a", "sm_100a", "sm_120"}) {
    std::string ptx = emit(kernel("tile.num_warps = 2 : i32"), parseTarget(target), Stage::Assembly);
    EXPECT_TRUE(contains(ptx, std::string(".target ") + target));
    EXPECT_TRUE(contains(ptx, ".entry square"));
    EXPECT_TRUE(contains(ptx, "fma.rn.f32"));
  }
}

TEST(GpuCode, CarriesItsLaunchAndItsResources) {
  MachineCode code = compile(kernel("tile.num_warps = 2 : i32, tile.shared_bytes = 4096 : i32"), parseTarget("sm_90a"));
  EXPECT_EQ(code.entry, "square");
  EXPECT_EQ(code.threadsPerProgram, 64);
  EXPECT_EQ(code.sharedBytes, 4096);
  if (findPtxas().empty()) {
    EXPECT_TRUE(contains(code.image, ".entry square"));
    EXPECT_FALSE(code.resources);
    GTEST_SKIP() << "no ptxas: PTX";
  }
  EXPECT_TRUE(std::string_view(code.image).substr(1).starts_with("ELF"));
  ASSERT_TRUE(code.resources);
  EXPECT_EQ(code.resources->name, "square");
  EXPECT_GT(code.resources->registers, 0);
  EXPECT_EQ(code.resources->spillStoreBytes, 0);
}

TEST(GpuCode, BeyondTheTargetIsTheUsersError) {
  struct {
    const char *attributes, *message;
  } cases[] = {
      {"tile.num_warps = 64 : i32", "num_warps: expected 1 to 32 on sm_86, got 64"},
      {"tile.num_warps = 0 : i32", "num_warps: expected 1 to 32 on sm_86, got 0"},
      {"tile.shared_bytes = 200000 : i32", "shared memory: expected at most 101376 bytes a block on sm_86, got 200000"},
  };
  for (auto [attributes, message] : cases)
    try {
      compile(kernel(attributes), parseTarget("sm_86"));
      ADD_FAILURE() << "expected a UserError for " << attributes;
    } catch (const UserError &error) {
      EXPECT_EQ(error.message(), message);
      EXPECT_STREQ(error.location().file, "square.mlir");
      EXPECT_EQ(error.location().line, 2u);
    }
}

TEST(GpuCode, WhatPtxasRefusesIsSaved) {
  if (findPtxas().empty())
    GTEST_SKIP() << "no ptxas";
  ScopedDirectory directory("BITLOOM_REPRODUCER_DIR");
  std::string body = R"(llvm.inline_asm has_side_effects "no.such.instruction;", "" : () -> ())";
  try {
    compile(kernel("tile.num_warps = 2 : i32", body), parseTarget("sm_90a"));
    FAIL() << "expected an InternalError";
  } catch (const InternalError &error) {
    EXPECT_TRUE(contains(error.what(), "ptxas refused the code"));
    EXPECT_TRUE(contains(replay(error.reproducer()).report, "Not a name of any known instruction"));
  }
}

TEST(GpuCode, RunsOnlyOnADevice) {
  MachineCode code = compile(kernel("tile.num_warps = 2 : i32"), parseTarget("sm_90a"));
  if (!cuda::available())
    EXPECT_THROW(Executable::load(code, parseTarget("sm_90a")), UserError);
  Target device = cuda::available() ? parseTarget("cuda") : parseTarget("sm_90a");
  if (!cuda::available())
    GTEST_SKIP() << cuda::whyUnavailable();
  auto executable = build(kernel("tile.num_warps = 2 : i32"), device);
  std::vector<float> x(64), y(64), expected(64);
  for (int i = 0; i < 64; ++i)
    expected[i] = float(i * i + (x[i] = float(i)));
  cuda::ContextScope scope;
  cuda::Buffer in(256), out(256);
  cuda::copy(in.data(), x.data(), 256);
  const int64_t words[] = {int64_t(in.data()), int64_t(out.data())};
  executable->launch(words, {1, 1, 1});
  cuda::copy(y.data(), out.data(), 256);
  EXPECT_EQ(y, expected);
  EXPECT_THROW(executable->launch(words, {1, 65536, 1}), UserError);
}
