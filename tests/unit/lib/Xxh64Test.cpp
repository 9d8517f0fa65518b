#include "bitloom/lib/support/Xxh64.h"

#include <gtest/gtest.h>

#include <numeric>
#include <set>
#include <string_view>
#include <vector>

using bitloom::xxh64;

static uint64_t of(std::string_view text) { return xxh64(text.data(), text.size()); }

// Values that the reference implementation gives.
TEST(Xxh64, KnownHashes) {
  EXPECT_EQ(of(""), 0xEF46DB3751D8E999);
  EXPECT_EQ(of("a"), 0xD24EC4F1A98C6E5B);
  EXPECT_EQ(of("abc"), 0x44BC2CF5AD770999);
  EXPECT_EQ(of("Nobody inspects the spammish repetition"), 0xFBCEA83C8A378BF1);
}

TEST(Xxh64, SeesEveryBitOfEveryLength) {
  std::vector<uint8_t> bytes(71);
  std::iota(bytes.begin(), bytes.end(), uint8_t{7});
  std::set<uint64_t> seen;
  size_t count = 0;
  for (size_t length = 0; length <= bytes.size(); ++length, ++count)
    seen.insert(xxh64(bytes.data(), length));
  for (uint8_t &byte : bytes)
    for (int bit = 0; bit < 8; ++bit, ++count) {
      byte ^= uint8_t(1 << bit);
      seen.insert(xxh64(bytes.data(), bytes.size()));
      byte ^= uint8_t(1 << bit);
    }
  EXPECT_EQ(seen.size(), count);
}
