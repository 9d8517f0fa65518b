// Philox against known answers, and against an implementation written from the paper.
#include "bitloom/dsl/Call.h"
#include "bitloom/dsl/Kernel.h"

#include <gtest/gtest.h>

namespace bitloom::test {

using Words = std::array<uint32_t, 4>;

static Words philoxByHand(Words counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    uint64_t a = uint64_t{0xD2511F53} * counter[0], b = uint64_t{0xCD9E8D57} * counter[2];
    counter = {uint32_t(b >> 32) ^ counter[1] ^ key[0], uint32_t(b), uint32_t(a >> 32) ^ counter[3] ^ key[1],
               uint32_t(a)};
    key = {key[0] + 0x9E3779B9, key[1] + 0xBB67AE85};
  }
  return counter;
}

// The known answers of Random123, the authors' library (kat_vectors).
TEST(Philox, TheReferenceGivesTheKnownAnswers) {
  EXPECT_EQ(philoxByHand({0, 0, 0, 0}, {0, 0}), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  constexpr uint32_t ones = 0xffffffff;
  EXPECT_EQ(philoxByHand({ones, ones, ones, ones}, {ones, ones}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philoxByHand({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

struct RandomWords {
  static constexpr auto name = "test_random_words";
  static constexpr auto summary = "four words and a uniform number for each counter";
  static constexpr auto tests = "n=1", benchmarks = "n=1";

  View<const u32, 1> counter{"n"};
  View<u32, 2> words{"4, n"};
  View<f32, 1> uniform{"n"};
  Param<u64> seed = 0;
  BITLOOM_PARAMS(counter, words, uniform, seed)

  Grid grid() const { return {ceil_div(counter.extent(0), 4)}; }
  void operator()() const {
    auto here = block_at(program_id(0), 4);
    auto all = philox(seed, counter(here));
    for (int i = 0; i < 4; ++i)
      words(i, here) = all[i];
    uniform(here) = rand(seed, counter(here));
  }
};

TEST(Philox, TheKernelAgreesWithTheReference) {
  static const KernelRow row = detail::rowOf<RandomWords>(__FILE__);
  std::vector<uint32_t> counter = {0, 1, 17, 0x243f6a88, 0xffffffff};
  const auto n = int64_t(counter.size());
  for (uint64_t seed : {uint64_t{0}, uint64_t{42}, uint64_t{0x299f31d0a4093822}}) {
    std::vector<uint32_t> words(4 * n);
    std::vector<float> uniform(n);
    Call call(row);
    call.set("counter", TensorRef(counter.data(), DType::u32, {n}));
    call.set("words", TensorRef(words.data(), DType::u32, {4, n}));
    call.set("uniform", TensorRef(uniform.data(), DType::f32, {n}));
    call.set("seed", int64_t(seed));
    call.resolve();
    call.interpret();
    for (int64_t i = 0; i < n; ++i) {
      Words wanted = philoxByHand({counter[i], 0, 0, 0}, {uint32_t(seed), uint32_t(seed >> 32)});
      EXPECT_EQ((Words{words[i], words[n + i], words[2 * n + i], words[3 * n + i]}), wanted)
          << "seed " << seed << ", counter " << counter[i];
      EXPECT_EQ(uniform[i], float(wanted[0] >> 8) * 0x1p-24f);
    }
  }
}

} // namespace bitloom::test
