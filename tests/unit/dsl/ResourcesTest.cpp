// What shipped kernels take of a GPU, as they choose it themselves: nothing spills, everything fits. And what a kernel
// that does not fit is told.
#include "bitloom/dsl/CompileAll.h"
#include "bitloom/dsl/Example.h"
#include "bitloom/dsl/Kernel.h"
#include "bitloom/lib/runtime/Ptxas.h"
#include "bitloom/lowering/Pipeline.h"
#include "bitloom/lowering/Program.h"

#include <gtest/gtest.h>

#include <charconv>

using namespace bitloom;

namespace {

// "rows=3 cols=17 eps=0.5"
void set(Call &call, std::string_view sizes) {
  std::map<std::string, int64_t> numbers;
  while (!sizes.empty()) {
    const size_t end = std::min(sizes.find(' '), sizes.size()), equals = sizes.find('=');
    std::from_chars(sizes.data() + equals + 1, sizes.data() + end, numbers[std::string(sizes.substr(0, equals))]);
    sizes.remove_prefix(std::min(end + 1, sizes.size()));
  }
  call.setSizes(numbers);
}

struct Configurations {
  std::vector<Call> calls;
  std::vector<std::string> names;
};

// Of every kernel: the sizes that it is measured with, and with `ragged` those that it is tested with.
Configurations shipped(const Target &target, bool ragged) {
  Configurations all;
  for (const KernelRow *kernel : allKernels()) {
    if (!kernel->source.starts_with("kernels/") || kernel->onlyCpus)
      continue; // of a test, or not for GPUs
    for (size_t variant = 0; variant < kernel->variants.size(); ++variant) {
      std::vector<std::string> cases = kernel->benchmarks;
      if (ragged)
        cases.insert(cases.end(), kernel->tests.begin(), kernel->tests.end());
      const std::string dtype = nameOf(*kernel, variant);
      if (dtype.starts_with("f16") || dtype.starts_with("f8e5m2"))
        continue; // as bf16 and f8e4m3, but for the instructions' names
      for (const std::string &sizes : cases) {
        Call call(*kernel);
        call.tuneFor(target);
        call.chooseVariant(variant);
        set(call, sizes);
        call.resolve();
        bindWithoutMemory(call);
        all.calls.push_back(call);
        all.names.push_back(kernel->name + " " + dtype + " " + sizes);
      }
    }
  }
  return all;
}

class Shipped : public testing::TestWithParam<std::pair<const char *, bool>> {};

TEST_P(Shipped, ConfigurationsFitAndDoNotSpill) {
  if (findPtxas().empty())
    GTEST_SKIP() << "no ptxas on this machine";
  const auto [name, ragged] = GetParam();
  const Target target = parseTarget(name);
  const Configurations all = shipped(target, ragged);
  const std::vector<CompiledCall> compiled = compileAll(all.calls, target);
  for (size_t i = 0; i < compiled.size(); ++i) {
    if (compiled[i].error)
      try {
        std::rethrow_exception(compiled[i].error);
      } catch (const std::exception &error) {
        ADD_FAILURE() << all.names[i] << ": " << error.what();
        continue;
      }
    ASSERT_TRUE(compiled[i].code->resources) << all.names[i];
    if (std::optional<UserError> spill = spillError(*compiled[i].code, target))
      ADD_FAILURE() << all.names[i] << ": " << spill->what();
  }
}
INSTANTIATE_TEST_SUITE_P(Gpus, Shipped,
                         testing::Values(std::pair("sm_80", true), std::pair("sm_89", false), std::pair("sm_90a", true),
                                         std::pair("sm_100a", false)),
                         [](const auto &info) { return std::string(info.param.first); });

// Tiles of 256x256 that a loop carries.
struct Carries {
  static constexpr auto name = "carries_much";
  static constexpr auto summary = "of a test";
  static constexpr auto tests = "n=1", benchmarks = "n=1";
  View<const f32, 2> x{"n, n"};
  View<f32, 2> out{"n, n"};
  Meta<int> warps = 4, block = 256;
  BITLOOM_PARAMS(x, out, warps, block)
  Grid grid() const { return {1}; }
  void operator()() const {
    hints({.warps = warps});
    auto rows = span(0, block), columns = span(0, block);
    auto sum = zeros<f32>({block, block});
    for (auto i : range(0, x.extent(0))) {
      auto here = span(i, block);
      sum = sum * 0.5f + x(here, columns); // this line
    }
    out(rows, columns) = sum;
  }
};
BITLOOM_REGISTER(Carries)
constexpr int carryingLine = __LINE__ - 6;

Call carrying(int warps, int block) {
  Call call(kernelNamed("carries_much"));
  call.setSizes({{"n", 512}, {"warps", warps}, {"block", block}});
  call.resolve();
  bindWithoutMemory(call);
  return call;
}

std::string place(int line) { return "ResourcesTest.cpp:" + std::to_string(line) + ": "; }

TEST(Resources, WhatNoThreadCanCarryIsRefusedAtItsLine) {
  try {
    compile(carrying(4, 256).trace(), parseTarget("sm_90a"));
    FAIL() << "expected a UserError";
  } catch (const UserError &error) {
    const std::string text = error.what();
    EXPECT_NE(text.find(place(carryingLine) + "error: registers: expected at most 255 a thread of 128 on sm_90a, got " +
                        "512 or more for what a loop carries"),
              text.npos)
        << text;
    EXPECT_NE(text.find("512 for the tile [256, 256] of f32"), text.npos) << text;
  }
}

TEST(Resources, WhatSpillsSaysWhichTilesTakeTheRegisters) {
  if (findPtxas().empty())
    GTEST_SKIP() << "no ptxas on this machine";
  const Target target = parseTarget("sm_90a");
  const MachineCode fits = compile(carrying(8, 128).trace(), target);
  EXPECT_FALSE(spillError(fits, target));
  const std::optional<UserError> spill = spillError(compile(carrying(16, 256).trace(), target), target);
  ASSERT_TRUE(spill) << "expected 512 threads not to hold a tile of 65536 elements and load another";
  const std::string text = spill->what();
  EXPECT_NE(text.find(place(carryingLine) + "error: registers: carries_much has 128 a thread of 512 on sm_90a and "
                                            "keeps the rest in memory ("),
            text.npos)
      << text;
  EXPECT_NE(text.find(place(carryingLine) + "256 for the tile [256, 256] of f32"), text.npos) << text;
}

TEST(Resources, SharedMemoryThatDoesNotFitNamesTheLinesThatTakeIt) {
  Call call(kernelNamed("attention"));
  call.chooseVariant(DType::f32);
  set(call, "batch=1 heads=1 kv_heads=1 t=512 t_kv=512 d=128 block_m=128 block_n=128");
  call.resolve();
  bindWithoutMemory(call);
  try {
    compile(call.trace(), parseTarget("sm_89"));
    FAIL() << "expected a UserError";
  } catch (const UserError &error) {
    const std::string text = error.what();
    EXPECT_NE(error.location().line, 0u);
    EXPECT_NE(text.find("Attention.cpp:" + std::to_string(error.location().line) +
                        ": error: shared memory: expected at most 101376 bytes a block on sm_89, got 131072 or more ("),
              text.npos)
        << text;
    EXPECT_NE(text.find("131072 for what threads exchange here"), text.npos) << text;
  }
}

TEST(CompileAll, GivesEachCallItsOwnCodeOrError) {
  std::vector<Call> calls;
  for (int warps : {1, 2, 4, 8})
    calls.push_back(carrying(warps, 64));
  calls.insert(calls.begin() + 2, carrying(4, 256)); // refused
  const std::vector<CompiledCall> compiled = compileAll(calls, parseTarget("sm_80"), 3);
  ASSERT_EQ(compiled.size(), calls.size());
  for (size_t i = 0; i < compiled.size(); ++i) {
    EXPECT_EQ(compiled[i].code == nullptr, i == 2) << i;
    EXPECT_EQ(compiled[i].error != nullptr, i == 2) << i;
  }
  EXPECT_THROW(std::rethrow_exception(compiled[2].error), UserError);
  EXPECT_EQ(compiled[0].code->threadsPerProgram, 32);
  EXPECT_EQ(compiled[1].code->threadsPerProgram, 64);
  EXPECT_EQ(compiled[4].code->threadsPerProgram, 256);
}

} // namespace
