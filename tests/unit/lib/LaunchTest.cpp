#include "bitloom/lib/runtime/Launch.h"

#include "bitloom/lib/support/Error.h"

#include <gtest/gtest.h>

#include <atomic>
#include <limits>
#include <vector>

using namespace bitloom;

TEST(Tensor, KnowsItsShape) {
  float data[4 * 17] = {};
  TensorRef tensor(data, DType::f32, {4, 17});
  EXPECT_EQ(tensor.strides, (Dims{17, 1}));
  EXPECT_EQ(tensor.rank(), 2);
  EXPECT_EQ(tensor.byteSize(), 4 * 17 * 4);
  EXPECT_TRUE(tensor.contiguous());
  EXPECT_EQ(tensor.describe(), "f32[4, 17] on cpu");

  TensorRef transposed(data, DType::f16, {17, 4}, {1, 17}, {Device::Kind::Cuda, 1});
  EXPECT_FALSE(transposed.contiguous());
  EXPECT_EQ(transposed.describe(), "f16[17, 4] with strides [1, 17] on cuda:1");
  EXPECT_FALSE(TensorRef(data, DType::f32, {4, 17}, {0, 1}).contiguous());
  EXPECT_TRUE(TensorRef(data, DType::f32, {4, 1, 17}, {17, 99, 1}).contiguous());
  EXPECT_TRUE(TensorRef(data, DType::f32, {0, 17}, {-5, 3}).contiguous());
  EXPECT_EQ(TensorRef(data, DType::f32, {}).elementCount(), 1);
  EXPECT_EQ(TensorRef(data, DType::i8, {1LL << 20, 1LL << 20}).byteSize(), 1LL << 40);

  EXPECT_THROW(TensorRef(data, DType::f32, {4, -1}), UserError);
  EXPECT_THROW(TensorRef(data, DType::f32, {4, 17}, {1}), UserError);
  EXPECT_THROW(Dims({1, 1, 1, 1, 1, 1, 1, 1, 1}), UserError);
}

TEST(Launch, WordsFollowTheConvention) {
  float data[2] = {};
  LaunchArguments arguments;
  arguments.addView(TensorRef(data, DType::f32, {3, 5}, {-7, 2}));
  arguments.addScalar(1.0f);
  arguments.addScalar<std::int8_t>(-1);
  arguments.addScalar<i64>(-2);
  arguments.addScalar(bf16(1.0f));
  arguments.addScalar(true);
  std::vector<int64_t> words(arguments.words().begin(), arguments.words().end());
  EXPECT_EQ(words, (std::vector<int64_t>{int64_t(data), 3, 5, -7, 2, 0x3f800000, 0xff, -2, 0x3f80, 1}));
  arguments.clear();
  for (size_t i = 0; i < cuda::maxLaunchWords; ++i)
    arguments.addWord(0);
  EXPECT_THROW(arguments.addWord(0), InternalError);
}

static void countPrograms(const int64_t *arguments, const int64_t grid[3], int64_t begin, int64_t end) {
  auto *seen = reinterpret_cast<std::atomic<int> *>(arguments[0]);
  for (int64_t linear = begin; linear < end; ++linear) {
    int64_t x = linear % grid[0], y = linear / grid[0] % grid[1], z = linear / grid[0] / grid[1];
    ++seen[x + grid[0] * (y + grid[1] * z)];
  }
}

TEST(Launch, RunsEveryProgramOfTheGridOnce) {
  for (std::array<int64_t, 3> grid : {std::array<int64_t, 3>{1, 1, 1}, {17, 3, 5}, {4097, 1, 1}, {1, 1, 199}}) {
    std::vector<std::atomic<int>> seen(grid[0] * grid[1] * grid[2]);
    const int64_t words[] = {int64_t(seen.data())};
    launchCpu(countPrograms, words, grid, 3);
    for (auto &count : seen)
      ASSERT_EQ(count, 1);
  }
  auto never = [](const int64_t *, const int64_t *, int64_t, int64_t) { FAIL(); };
  launchCpu(never, {}, {17, 0, 1});
  EXPECT_THROW(launchCpu(never, {}, {1, -1, 0}), UserError);
  EXPECT_THROW(launchCpu(never, {}, {1LL << 32, 1LL << 32, 1}), UserError);
}
