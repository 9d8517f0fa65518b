// Tile IR through the whole pipeline against the interpreter, for each target that this machine runs.
#include "bitloom/lowering/Interpreter.h"

#include "bitloom/lib/runtime/Cuda.h"
#include "bitloom/lib/support/Error.h"
#include "bitloom/tests/unit/lowering/Kernels.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

using namespace bitloom;

namespace {

// Of each row of x: its softmax.
const char *const softmax = R"(
func.func @softmax(%x: !tile.view<?x?xf32>, %out: !tile.view<?x?xf32>) attributes {tile.kernel} {
  %row = tile.program_id 0
  %zero = arith.constant 0 : i64
  %low = arith.constant 0xFF800000 : f32
  %a = tile.load %x[%row, %zero] dims [1] else %low : !tile.view<?x?xf32> -> tensor<200xf32>
  %max = tile.reduce %a axis 0 : tensor<200xf32> -> f32 {
  ^bb0(%l: f32, %r: f32):
    %m = arith.maximumf %l, %r : f32
    tile.yield %m : f32
  }
  %maxes = tensor.splat %max : tensor<200xf32>
  %d = arith.subf %a, %maxes : tensor<200xf32>
  %e = math.exp %d : tensor<200xf32>
  %sum = tile.reduce %e axis 0 : tensor<200xf32> -> f32 {
  ^bb0(%l: f32, %r: f32):
    %s = arith.addf %l, %r : f32
    tile.yield %s : f32
  }
  %sums = tensor.splat %sum : tensor<200xf32>
  %y = arith.divf %e, %sums : tensor<200xf32>
  tile.store %y, %out[%row, %zero] dims [1] : tensor<200xf32>, !tile.view<?x?xf32>
  return
})";

// out = x · xᵀ over blocks of 16 x 16, k in steps of 32.
const char *const gram = R"(
func.func @gram(%x: !tile.view<?x?xf32>, %out: !tile.view<?x?xf32>) attributes {tile.kernel} {
  %i = tile.program_id 0
  %j = tile.program_id 1
  %size = arith.constant 16 : i64
  %rows = arith.muli %i, %size : i64
  %cols = arith.muli %j, %size : i64
  %zero = arith.constant 0 : i64
  %step = arith.constant 32 : i64
  %k = tile.extent %x, 1 : !tile.view<?x?xf32>
  %none = arith.constant dense<0.0> : tensor<16x16xf32>
  %sum = scf.for %at = %zero to %k step %step iter_args(%acc = %none) -> tensor<16x16xf32> : i64 {
    %a = tile.load %x[%rows, %at] dims [0, 1] : !tile.view<?x?xf32> -> tensor<16x32xf32>
    %b = tile.load %x[%cols, %at] dims [0, 1] : !tile.view<?x?xf32> -> tensor<16x32xf32>
    %t = tile.transpose %b [1, 0] : tensor<16x32xf32> -> tensor<32x16xf32>
    %d = tile.dot %a, %t, %acc : tensor<16x32xf32>, tensor<32x16xf32>, tensor<16x16xf32>
    scf.yield %d : tensor<16x16xf32>
  }
  tile.store %sum, %out[%rows, %cols] dims [0, 1] : tensor<16x16xf32>, !tile.view<?x?xf32>
  return
})";

// Running sums of gelu along each row, in bf16.
const char *const running = R"(
func.func @running(%x: !tile.view<?x?xf32>, %out: !tile.view<?x?xf32>) attributes {tile.kernel} {
  %row = tile.program_id 0
  %zero = arith.constant 0 : i64
  %a = tile.load %x[%row, %zero] dims [1] : !tile.view<?x?xf32> -> tensor<200xf32>
  %half = arith.constant dense<0.5> : tensor<200xf32>
  %scale = arith.constant dense<0.70710678> : tensor<200xf32>
  %s = arith.mulf %a, %scale : tensor<200xf32>
  %e = math.erf %s : tensor<200xf32>
  %f = math.fma %e, %half, %half : tensor<200xf32>
  %g = arith.mulf %a, %f : tensor<200xf32>
  %n = arith.truncf %g : tensor<200xf32> to tensor<200xbf16>
  %w = arith.extf %n : tensor<200xbf16> to tensor<200xf32>
  %r = tile.scan %w axis 0 : tensor<200xf32> {
  ^bb0(%l: f32, %v: f32):
    %t = arith.addf %l, %v : f32
    tile.yield %t : f32
  }
  tile.store %r, %out[%row, %zero] dims [1] : tensor<200xf32>, !tile.view<?x?xf32>
  return
})";

struct Case {
  const char *name, *text;
  bool square;      // the result is rows x rows
  int64_t block;    // rows, and columns of a square result, of one program
  double tolerance; // of the largest magnitude in the result
};

// Runs on host memory, by way of the device's for a GPU.
void launch(const Program &program, const Target &target, const std::vector<float> &x, const Dims &xExtents,
            std::vector<float> &out, const Dims &outExtents, std::array<int64_t, 3> grid) {
  LaunchArguments arguments;
  auto executable = build(program, target);
  if (isCpu(target.family)) {
    arguments.addView(TensorRef(const_cast<float *>(x.data()), DType::f32, xExtents));
    arguments.addView(TensorRef(out.data(), DType::f32, outExtents));
    return executable->launch(arguments.words(), grid);
  }
  cuda::ContextScope scope;
  cuda::Buffer in(x.size() * sizeof(float)), result(out.size() * sizeof(float));
  cuda::copy(in.data(), x.data(), in.bytes());
  cuda::copy(result.data(), out.data(), result.bytes());
  arguments.addView(TensorRef(in.data(), DType::f32, xExtents));
  arguments.addView(TensorRef(result.data(), DType::f32, outExtents));
  executable->launch(arguments.words(), grid);
  cuda::copy(out.data(), result.data(), result.bytes());
}

std::vector<Target> runnableTargets() {
  std::vector<Target> targets = {hostTarget()};
  for (const char *name : {"x86-64", "x86-64-v3", "aarch64"})
    if (Target target = parseTarget(name); runsOnHost(target))
      targets.push_back(target);
  if (cuda::available())
    targets.push_back(parseTarget("cuda"));
  return targets;
}

class Agreement : public testing::TestWithParam<Case> {};

} // namespace

TEST_P(Agreement, WithTheInterpreter) {
  const Case &kernel = GetParam();
  Program program = Program::parse(kernel.text);
  for (int64_t rows : {1, 3, 17})
    for (int64_t columns : {1, 3, 17, 199}) {
      const int64_t outColumns = kernel.square ? rows : columns;
      std::mt19937 random(unsigned(rows * 1000 + columns));
      std::normal_distribution<float> normal;
      std::vector<float> x(rows * columns), expected(rows * outColumns, -99), got(rows * outColumns, -99);
      for (float &value : x)
        value = normal(random);
      const int64_t blocks = (rows + kernel.block - 1) / kernel.block;
      const std::array<int64_t, 3> grid = {blocks, kernel.square ? blocks : 1, 1};
      LaunchArguments arguments;
      arguments.addView(TensorRef(x.data(), DType::f32, {rows, columns}));
      arguments.addView(TensorRef(expected.data(), DType::f32, {rows, outColumns}));
      interpret(program, arguments.words(), grid);
      double largest = 0;
      for (float value : expected)
        largest = std::max(largest, double(std::fabs(value)));
      for (const Target &target : runnableTargets()) {
        std::fill(got.begin(), got.end(), -99.0f);
        launch(program, target, x, {rows, columns}, got, {rows, outColumns}, grid);
        for (size_t i = 0; i < got.size(); ++i)
          ASSERT_NEAR(got[i], expected[i], kernel.tolerance * largest)
              << target.name << ", " << rows << " x " << columns << ", element " << i;
      }
    }
}

INSTANTIATE_TEST_SUITE_P(Kernels, Agreement,
                         testing::Values(Case{"softmax", softmax, false, 1, 1e-6}, Case{"gram", gram, true, 16, 1e-6},
                                         Case{"running", running, false, 1, 1e-2}),
                         [](const auto &info) { return std::string(info.param.name); });

TEST(Agreement, AssertionsNameTheirOwnLine) {
  const char *text = R"(
func.func @check(%x: !tile.view<?xf32>) attributes {tile.kernel} {
  %id = tile.program_id 0
  %a = tile.load %x[%id] dims [0] : !tile.view<?xf32> -> tensor<16xf32>
  %ok = arith.cmpf oge, %a, %a : tensor<16xf32>
  tile.assert %ok, "not a number" : tensor<16xi1>
  return
})";
  std::vector<float> x(16, 1.0f);
  LaunchArguments arguments;
  arguments.addView(TensorRef(x.data(), DType::f32, {16}));
  for (const char *file : {"one.mlir", "two.mlir"}) {
    Program program = Program::parse(text, file);
    x[3] = 1.0f;
    build(program, hostTarget())->launch(arguments.words(), {1, 1, 1});
    x[3] = std::nanf("");
    for (bool compiledCode : {false, true})
      try {
        if (compiledCode)
          build(program, hostTarget())->launch(arguments.words(), {1, 1, 1});
        else
          interpret(program, arguments.words(), {1, 1, 1});
        ADD_FAILURE() << "expected a UserError";
      } catch (const UserError &error) {
        EXPECT_EQ(error.what(), std::string(file) + ":6: error: not a number") << compiledCode;
      }
  }
}
