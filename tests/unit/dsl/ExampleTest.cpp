// Made-up tensors, and what comparing them finds.
#include "bitloom/dsl/Example.h"

#include "bitloom/dsl/Kernel.h"
#include "bitloom/lowering/Program.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <set>

namespace bitloom::test {

// Reads bytes, an index and its own accumulator, which it adds to; writes out.
struct Mixed {
  static constexpr auto name = "test_mixed";
  static constexpr auto summary = "inputs of several kinds";
  static constexpr auto tests = "n=1", benchmarks = "n=1";
  static constexpr auto inputs = "target=0..n-1; scale=0.5..2";

  View<const u8, 1> bytes{"n"};
  View<const i64, 1> target{"n"};
  View<const f32, 1> scale{"n"}, plain{"n"};
  View<f32, 1> accumulator{"n"}, out{"n"};
  View<i32, 1> counts{"n"};
  Meta<int> block = 8;
  BITLOOM_PARAMS(bytes, target, scale, plain, accumulator, out, counts, block)

  Grid grid() const { return {ceil_div(out.extent(0), block)}; }
  void operator()() const {
    auto here = block_at(program_id(0), block);
    accumulator(here) = accumulator(here) + plain(here) * scale(here);
    out(here) = cast<f32>(bytes(here)) + cast<f32>(target(here));
    counts(here) = cast<i32>(target(here));
  }
};
static const KernelRow &row() {
  static const KernelRow made = detail::rowOf<Mixed>(__FILE__);
  return made;
}

static Call callOf(int64_t n) {
  Call call(row());
  call.setSizes({{"n", n}});
  call.resolve();
  return call;
}

template <class T> static std::vector<T> elements(const Example &example, size_t parameter) {
  std::vector<std::byte> bytes = example.contents(parameter);
  std::vector<T> values(bytes.size() / sizeof(T));
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

TEST(Example, NamesOfExtentsLeaveOutMetaParameters) { EXPECT_EQ(extentNames(row()), (std::vector<std::string>{"n"})); }

TEST(Example, InputsLieInTheirRanges) {
  Call call = callOf(4097);
  Example example(call, 1);
  std::vector<u8> bytes = elements<u8>(example, 0);
  EXPECT_EQ(std::set<u8>(bytes.begin(), bytes.end()).size(), 256u);
  for (i64 target : elements<i64>(example, 1)) {
    ASSERT_GE(target, 0);
    ASSERT_LT(target, 4097);
  }
  for (f32 scale : elements<f32>(example, 2)) {
    ASSERT_GE(scale, 0.5f);
    ASSERT_LE(scale, 2.0f);
  }
  double sum = 0, squares = 0;
  for (f32 plain : elements<f32>(example, 3)) {
    ASSERT_LE(std::abs(plain), 1.0f);
    sum += plain;
    squares += double(plain) * plain;
  }
  EXPECT_LT(std::abs(sum / 4097), 0.05);
  EXPECT_NEAR(squares / 4097, 1.0 / 9, 0.02); // the variance of the mean of three uniform numbers
}

TEST(Example, TheSeedDecidesTheNumbers) {
  Call a = callOf(199), b = callOf(199), c = callOf(199);
  Example first(a, 1), second(b, 1), third(c, 2);
  EXPECT_EQ(first.contents(3), second.contents(3));
  EXPECT_NE(first.contents(3), third.contents(3));
  EXPECT_NE(first.contents(3), first.contents(2)) << "two parameters hold the same numbers";
}

TEST(Example, OutputsHoldAPatternUnlessTheKernelReadsThem) {
  Call call = callOf(17);
  Example example(call);
  for (f32 value : elements<f32>(example, 4))
    EXPECT_LE(std::abs(value), 1.0f); // accumulator
  for (f32 value : elements<f32>(example, 5))
    EXPECT_TRUE(std::isnan(value)); // out
  for (i32 value : elements<i32>(example, 6))
    EXPECT_EQ(value, i32(0xA5A5A5A5)); // counts
}

TEST(Example, OverrunsAreFound) {
  for (int64_t element : {-1, 17}) {
    Call call = callOf(17);
    Example example(call);
    call.launch();
    EXPECT_TRUE(example.overrun().empty());
    static_cast<f32 *>(call.tensors()[5]->data)[element] = 0;
    EXPECT_EQ(example.overrun(), (std::vector<std::string>{"out"}));
  }
}

TEST(Example, UnalignedCallsAssumeNothing) {
  Call aligned = callOf(16), unaligned = callOf(16);
  bindWithoutMemory(aligned);
  bindWithoutMemory(unaligned, false);
  EXPECT_NE(aligned.trace().print().find("tile.align"), std::string::npos);
  EXPECT_EQ(unaligned.trace().print().find("tile.align"), std::string::npos);
}

template <class T>
static Comparison compared(std::vector<T> got, std::vector<T> expected, double tolerance = toleranceOf(dtypeOf<T>)) {
  return compare(dtypeOf<T>, got.data(), expected.data(), int64_t(got.size()), tolerance);
}

TEST(Compare, IntegersAreExact) {
  EXPECT_EQ(compared<i32>({1, 2, 3}, {1, 2, 3}).wrong, 0);
  Comparison result = compared<i32>({1, 2, 4}, {1, 2, 3});
  EXPECT_EQ(result.wrong, 1);
  EXPECT_EQ(result.at, 2);
  EXPECT_EQ(result.got, 4);
  EXPECT_EQ(result.expected, 3);
  constexpr i64 large = i64{1} << 62; // no double tells it from its successor
  EXPECT_EQ(compared<i64>({large + 1}, {large}).wrong, 1);
}

TEST(Compare, FloatsAreMeasuredByTheirTensor) {
  EXPECT_EQ(compared<f32>({1, 1e-7f}, {1, 0}).wrong, 0) << "a sum that cancels";
  EXPECT_EQ(compared<f32>({1, 1e-3f}, {1, 0}).wrong, 1);
  EXPECT_EQ(compared<f32>({1.00001f, 1}, {1, 1}).wrong, 0);
  EXPECT_EQ(compared<f32>({1.001f, 1}, {1, 1}).wrong, 1);
  EXPECT_DOUBLE_EQ(compared<f64>({3, 1}, {2, 1}).worst, 1 / 3.5);
}

TEST(Compare, ProductsOfBytesOnTensorCoresKeepFewBits) {
  auto toleranceOn = [](const char *target, std::string_view variant) {
    const KernelRow &matmul = kernelNamed("matmul");
    size_t v = 0;
    while (nameOf(matmul, v) != variant)
      ++v;
    const std::vector<Parameter> &parameters = matmul.variants[v].parameters;
    const auto out = std::ranges::find(parameters, "out", &Parameter::name);
    return toleranceOf(matmul.variants[v], size_t(out - parameters.begin()), parseTarget(target));
  };
  EXPECT_EQ(toleranceOn("sm_90a", "f8e4m3/f32"), 0x1p-8);
  EXPECT_EQ(toleranceOn("sm_90a", "f8e4m3/f16"), 0x1p-8);
  EXPECT_EQ(toleranceOn("sm_90a", "f8e4m3/bf16"), toleranceOf(DType::bf16)) << "which is more";
  EXPECT_EQ(toleranceOn("x86-64-v3", "f8e4m3/f32"), toleranceOf(DType::f32));
  EXPECT_EQ(toleranceOn("sm_90a", "f16/f32"), toleranceOf(DType::f32));
  EXPECT_EQ(toleranceOn("sm_90a", "i8/f32"), toleranceOf(DType::f32));
  EXPECT_EQ(toleranceOn("sm_90a", "i8/i32"), 0);
}

TEST(Compare, WhatIsNotFinite) {
  const f32 nan = std::numeric_limits<f32>::quiet_NaN(), inf = std::numeric_limits<f32>::infinity();
  EXPECT_EQ(compared<f32>({nan, inf, -0.0f}, {-nan, inf, 0.0f}).wrong, 0);
  EXPECT_EQ(compared<f32>({nan}, {1}).wrong, 1);
  EXPECT_EQ(compared<f32>({1}, {nan}).wrong, 1);
  EXPECT_EQ(compared<f32>({inf}, {-inf}).wrong, 1);
  EXPECT_EQ(compared<f32>({1, 3e38f}, {1, inf}).wrong, 1);
  EXPECT_EQ(compared<f16>({f16(inf)}, {f16(65504.0f)}).wrong, 1);
}

} // namespace bitloom::test
