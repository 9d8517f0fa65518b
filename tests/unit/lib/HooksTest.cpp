#include "bitloom/lib/runtime/Hooks.h"

#include "bitloom/lib/runtime/ThreadPool.h"
#include "bitloom/lib/support/Error.h"

#include <gtest/gtest.h>

using namespace bitloom;

static std::string raised(const char *message) {
  LaunchFailure failure;
  {
    AssertScope scope(failure);
    bitloom_rt_assert(message);
  }
  EXPECT_TRUE(failure.any());
  try {
    failure.raise();
  } catch (const UserError &error) {
    return error.what();
  }
  return "";
}

TEST(Hooks, AnAssertionNamesItsLine) {
  EXPECT_EQ(raised("a/kernel.cpp:12: index out of range"), "a/kernel.cpp:12: error: index out of range");
  EXPECT_EQ(raised("C:/kernel.cpp:12: a:b: c"), "C:/kernel.cpp:12: error: a:b: c");
  EXPECT_EQ(raised("out of memory: 3 tiles"), "out of memory: 3 tiles");
  LaunchFailure none;
  EXPECT_FALSE(none.any());
  none.raise();
}

TEST(Hooks, FailuresBelongToTheInnermostLaunch) {
  LaunchFailure outer, inner;
  AssertScope outerScope(outer);
  {
    AssertScope innerScope(inner);
    bitloom_rt_assert("first");
    bitloom_rt_assert("second");
  }
  EXPECT_FALSE(outer.any());
  EXPECT_THROW(
      try { inner.raise(); } catch (const UserError &error) {
        EXPECT_STREQ(error.what(), "first");
        throw;
      },
      UserError);
  bitloom_rt_assert("third");
  EXPECT_TRUE(outer.any());
}

TEST(Hooks, FailuresOfManyThreadsAreOne) {
  LaunchFailure failure;
  parallelFor(1000, 1, [&](int64_t, int64_t) {
    AssertScope scope(failure);
    bitloom_rt_assert("k.cpp:1: no");
  });
  EXPECT_THROW(failure.raise(), UserError);
}

TEST(HooksDeathTest, OutsideOfALaunchAnAssertionEndsTheProcess) {
  EXPECT_DEATH(bitloom_rt_assert("k.cpp:1: no"), "k.cpp:1: no");
}

TEST(Hooks, TilesPrintInRows) {
  const float numbers[] = {1, 0.1f, -3.5f, 1e30f, 5, 6};
  const int64_t shape[] = {2, 3};
  EXPECT_EQ(printedTile("acc", DType::f32, numbers, shape), "acc = [[1, 0.1, -3.5], [1e+30, 5, 6]]\n");
  EXPECT_EQ(printedTile("x", DType::f32, numbers, {}), "x = 1\n");
  const std::uint8_t bytes[] = {255, 1};
  EXPECT_EQ(printedTile("s", DType::i8, bytes, std::span(shape, 1)), "s = [-1, 1]\n");
  EXPECT_EQ(printedTile("u", DType::u8, bytes, std::span(shape, 1)), "u = [255, 1]\n");
  const bf16 halves[] = {bf16(0.1f)};
  EXPECT_EQ(printedTile("h", DType::bf16, halves, {}), "h = 0.100097656\n");
}
