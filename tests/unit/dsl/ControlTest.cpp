// Staged control flow: what a body assigns is carried, and only that.
#include "Body.h"

#include <gtest/gtest.h>

#include <optional>

namespace bitloom::test {

using Values = std::vector<float>;

static int countOf(std::string_view text, std::string_view part) {
  int count = 0;
  for (size_t at = text.find(part); at != text.npos; at = text.find(part, at + 1))
    ++count;
  return count;
}

TEST(Control, RangeCarriesWhatItAssigns) {
  auto body = [](const Body &k) {
    auto here = span(0, 8);
    auto sum = zeros<f32>({8});
    auto read = k.x(here);
    for (auto i : range(0, 3))
      sum = sum + read * cast<f32>(i);
    k.out(here) = sum;
  };
  std::string text = traced(body).print();
  EXPECT_EQ(countOf(text, "iter_args"), 1) << text;
  EXPECT_EQ(countOf(text, "scf.yield"), 1) << text;
  EXPECT_NE(text.find("-> (tensor<8xf32>)"), text.npos) << text; // one value: `read` is not carried
  EXPECT_EQ(text.find("unrealized_conversion_cast"), text.npos) << text;
  EXPECT_EQ(interpreted(body, {1, 2, 3, 4, 5, 6, 7, 8}), (Values{3, 6, 9, 12, 15, 18, 21, 24}));
}

TEST(Control, RangeThatAssignsNothingCarriesNothing) {
  std::string text = traced([](const Body &k) {
                       for (auto i : range(0, k.x.extent(0), 4))
                         k.out(span(i, 4)) = k.x(span(i, 4));
                     }).print();
  EXPECT_EQ(countOf(text, "scf.for"), 1) << text;
  EXPECT_EQ(text.find("iter_args"), text.npos) << text;
}

TEST(Control, NestedRangesCarryThroughBoth) {
  auto body = [](const Body &k) {
    auto here = span(0, 8);
    auto sum = zeros<f32>({8});
    Scalar<i64> count = 0;
    for (auto i : range(0, 3)) {
      auto row = zeros<f32>({8});
      for (auto j : range(0, i + 1)) {
        row = row + k.x(here);
        count = count + 1;
      }
      sum = sum + row * cast<f32>(i);
    }
    k.out(here) = sum + cast<f32>(count);
  };
  std::string text = traced(body).print();
  EXPECT_EQ(countOf(text, "scf.for"), 2) << text;
  EXPECT_EQ(countOf(text, "iter_args"), 2) << text;
  // sum = x * (1*0 + 2*1 + 3*2) and count = 1 + 2 + 3
  EXPECT_EQ(interpreted(body, {1, 2, 3, 4, 5, 6, 7, 8}), (Values{14, 22, 30, 38, 46, 54, 62, 70}));
}

TEST(Control, WhenMergesWhatEitherBranchAssigns) {
  auto body = [](const Body &k) {
    for (auto i : range(0, 8, 1)) {
      auto here = span(i, 1);
      auto v = k.x(here) + 0.0f;
      auto kept = v;
      when(
          i % 2 == 0, [&] { v = v * 10.0f; },
          [&] {
            v = v + 1.0f;
            when(i > 4, [&] { v = -v; });
          });
      k.out(here) = v + kept;
    }
  };
  EXPECT_EQ(countOf(traced(body).print(), "scf.if"), 2);
  EXPECT_EQ(interpreted(body, {1, 2, 3, 4, 5, 6, 7, 8}), (Values{11, 5, 33, 9, 55, -1, 77, -1}));
}

TEST(Control, WhenInsideRangeCarriesAcrossIterations) {
  auto body = [](const Body &k) {
    auto best = k.x(span(0, 1)) + 0.0f;
    Scalar<i64> where = 0;
    for (auto i : range(1, 8)) {
      auto v = k.x(span(i, 1));
      when(max(v, 0) > max(best, 0), [&] {
        best = v;
        where = i;
      });
    }
    k.out(span(0, 1)) = best;
    k.out(span(1, 1)) = best * 0.0f + cast<f32>(where);
  };
  Values out = interpreted(body, {3, 1, 4, 1, 5, 9, 2, 6});
  EXPECT_EQ(out[0], 9);
  EXPECT_EQ(out[1], 5);
}

TEST(Control, WhileRepeatsUntilItsConditionFails) {
  auto body = [](const Body &k) {
    auto here = span(0, 8);
    auto v = k.x(here) + 0.0f;
    Scalar<i64> steps = 0;
    while_([&] { return sum(v, 0) < 100.0f; },
           [&] {
             v = v * 2.0f;
             for (auto i : range(0, 2))
               steps = steps + i;
           });
    k.out(here) = v + cast<f32>(steps);
  };
  EXPECT_EQ(countOf(traced(body).print(), "scf.while"), 1);
  EXPECT_EQ(interpreted(body, Values(8, 1.0f)), Values(8, 20.0f));  // 8, 16, …, 128 in 4 steps
  EXPECT_EQ(interpreted(body, Values(8, 50.0f)), Values(8, 50.0f)); // never
}

TEST(Control, AVariableIsACopyAndNotAPlaceInMemory) {
  auto body = [](const Body &k) {
    auto here = span(0, 8);
    k.out(here) = k.x(here);
    auto v = k.out(here);
    v = v + 1.0f; // changes v alone
    auto w = v;
    w += 1.0f;
    k.out(span(0, 1)) = slice(v, {0}, {1}) + slice(w, {0}, {1}) * 10.0f;
  };
  EXPECT_EQ(countOf(traced(body).print(), "tile.store"), 2);
  EXPECT_EQ(interpreted(body, {1, 2, 3, 4, 5, 6, 7, 8}), (Values{32, 2, 3, 4, 5, 6, 7, 8}));
}

TEST(Control, PlainLoopsAndBranchesRunWhileTracing) {
  std::string text = traced([](const Body &k) {
                       for (int i = 0; i < 3; ++i)
                         if (k.block == 4)
                           k.out(span(i, 1)) = k.x(span(i, 1));
                     }).print();
  EXPECT_EQ(countOf(text, "tile.store"), 3);
  EXPECT_EQ(text.find("scf."), text.npos) << text;
}

//===- What the user did wrong ------------------------------------------------------------------------------------===//

TEST(ControlErrors, LeavingARange) {
  uint32_t line = __LINE__ + 2;
  std::string error = errorOf([](const Body &k) {
    for (auto i : range(0, 8)) {
      k.out(span(i, 1)) = k.x(span(i, 1));
      break;
    }
  });
  EXPECT_EQ(error, errorAt(line, "expected the body of range to run to its end, got break or return: use when"));
}

TEST(ControlErrors, AVariableThatChangesItsShapeInALoop) {
  uint32_t line = __LINE__ + 4;
  std::string error = errorOf([](const Body &k) {
    auto v = zeros<f32>({8});
    for (auto i : range(0, 2))
      v = k.x(span(i, 4));
  });
  EXPECT_EQ(error,
            errorAt(line, "expected a variable assigned inside a loop or branch to keep the shape [8], got [4]"));
}

TEST(ControlErrors, AValueOfAnInnerBlockUsedOutside) {
  uint32_t line = __LINE__ + 4;
  std::string error = errorOf([](const Body &k) {
    std::optional<Tile<f32, 1>> last; // takes a value out of the scope that C++ gives it
    for (auto i : range(0, 8, 4))
      last.emplace(k.x(span(i, 4)));
    k.out(span(0, 4)) = *last + 1.0f;
  });
  EXPECT_EQ(
      error,
      errorAt(line,
              "expected this value to be used in its own block alone, got a use after the range, when or while_ has "
              "ended: declare its variable before that"));
}

TEST(ControlErrors, AnErrorInsideALoopLeavesNothingBehind) {
  EXPECT_NE(errorOf([](const Body &k) {
              for (auto i : range(0, 8))
                k.out(span(i, 1)) = k.x(span(i, 1)) + k.x(span(i, 2)) * zeros<f32>({3});
            }),
            "");
  EXPECT_EQ(errorOf([](const Body &k) { k.out(span(0, 4)) = k.x(span(0, 4)); }), "");
}

TEST(ControlErrors, AnExceptionOfTheUserPassesThrough) {
  struct Mine {};
  EXPECT_THROW(traced([](const Body &k) {
                 for (auto i : range(0, 8))
                   throw Mine();
               }),
               Mine);
}

TEST(ControlErrors, ACombinerThatUsesAValueOfTheKernel) {
  uint32_t line = __LINE__ + 3;
  std::string error = errorOf([](const Body &k) {
    auto bias = k.x(0);
    auto total = reduce(k.x(span(0, 8)), 0, [&](Scalar<f32> a, Scalar<f32> b) { return a + b + bias; });
    k.out(span(0, 1)) = reshape<1>(total, {1});
  });
  EXPECT_EQ(error,
            errorAt(line,
                    "expected a combiner of its arguments and constants alone, got one that uses a value of the kernel "
                    "around it"));
}

TEST(ControlErrors, AValueOfAnEarlierTrace) {
  std::optional<Tile<f32, 1>> kept;
  traced([&](const Body &k) { kept.emplace(k.x(span(0, 4))); });
  EXPECT_EQ(errorOf([&](const Body &k) { k.out(span(0, 4)) = *kept; }),
            "expected a value of the kernel being traced, got one of an earlier trace");
}

TEST(Float8, IsConvertedAsItIsStored) {
  auto body = [](const Body &k) {
    auto stored = cast<f8e4m3>(k.x(span(0, 4)));
    auto other = cast<f8e5m2>(stored);
    auto whole = cast<i32>(cast<f8e4m3>(cast<i64>(k.x(span(4, 4))))); // through f32, both ways
    k.out(span(0, 4)) = where(k.x(span(0, 4)) > 0.0f, cast<f32>(stored), cast<f32>(other));
    k.out(span(4, 4)) = cast<f32>(whole) + cast<f32>(full<f8e4m3>({4}, 1e6f)); // 448
  };
  EXPECT_EQ(interpreted(body, {1.06f, 0.3f, -1.06f, 1e9f, 17, -100, 1e6f, 0.5f}),
            (std::vector<float>{1, 0.3125f, -1, 448, 448 + 16, 448 - 96, 448 + 448, 448}));
}

TEST(Float8, IsNotComputedWith) {
  const std::string message = "expected elements to compute with, got f8e4m3; cast them first";
  uint32_t line = __LINE__ + 3;
  std::string error = errorOf([](const Body &k) {
    auto small = cast<f8e4m3>(k.x(span(0, 8)));
    auto largest = max(small, 0);
    k.out(span(0, 1)) = reshape<1>(cast<f32>(largest), {1});
  });
  EXPECT_EQ(error, errorAt(line, message));
  line = __LINE__ + 3;
  error = errorOf([](const Body &k) {
    auto small = cast<f8e4m3>(k.x(span(0, 8)));
    auto positive = maximum(small, 0.0f);
    k.out(span(0, 8)) = cast<f32>(positive);
  });
  EXPECT_EQ(error, errorAt(line, message));
}

TEST(ControlErrors, AnOperationOutsideAnyKernel) {
  uint32_t line = __LINE__ + 2;
  try {
    zeros<f32>({4});
    FAIL() << "expected a UserError";
  } catch (const UserError &error) {
    EXPECT_EQ(error.what(),
              errorAt(line, "expected this operation inside a kernel, got one where no kernel is traced"));
  }
}

} // namespace bitloom::test
