#include "bitloom/lib/support/Expression.h"

#include "bitloom/lib/support/Error.h"

#include <gtest/gtest.h>

using namespace bitloom;

static std::optional<int64_t> value(std::string_view text) {
  return evaluate(text, [](std::string_view name) -> std::optional<int64_t> {
    if (name == "k")
      return 4097;
    if (name == "bits")
      return 4;
    return std::nullopt;
  });
}

TEST(Expression, FollowsPrecedence) {
  EXPECT_EQ(value("2 + 3 * 4"), 14);
  EXPECT_EQ(value("(2 + 3) * 4 - -1"), 21);
  EXPECT_EQ(value("k * bits / 8"), 2048);
  EXPECT_EQ(value("k % bits <= 1"), 1);
}

TEST(Expression, HasFunctions) {
  EXPECT_EQ(value("next_pow2(k)"), 8192);
  EXPECT_EQ(value("min(round_up(k, 128), 16384)"), 4224);
  EXPECT_EQ(value("ceil_div(k, 4096)"), 2);
}

TEST(Expression, AnUnknownNameGivesNone) { EXPECT_EQ(value("k + rows"), std::nullopt); }

static std::string complaint(std::string_view text) {
  try {
    value(text);
  } catch (const UserError &error) {
    return error.what();
  }
  return "";
}

TEST(Expression, NamesWhatIsWrong) {
  EXPECT_EQ(complaint("k *"), "expression 'k *': expected a number, a name or '(', got its end");
  EXPECT_EQ(complaint("k 4"), "expression 'k 4': expected an operator, got '4'");
  EXPECT_EQ(complaint("log(k)"),
            "expression 'log(k)': expected one of min, max, ceil_div, round_up, next_pow2, got 'log'");
  EXPECT_EQ(complaint("k / 0"), "expression 'k / 0': expected a divisor other than 0");
}

TEST(Expression, SplitsAtTopLevelCommas) {
  EXPECT_EQ(splitList("n, min(k, 4) , m"), (std::vector<std::string>{"n", "min(k, 4)", "m"}));
  EXPECT_TRUE(splitList("  ").empty());
}
