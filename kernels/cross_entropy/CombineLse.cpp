#include "bitloom/dsl/Kernel.h"

namespace bitloom::kernels {

// Rows' normalisers and targets' logits from those of their parts, as linear_lse gives them: a running maximum and sum
// in each lane (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018).
struct CombineLse {
  static constexpr auto name = "combine_lse";
  static constexpr auto summary =
      "lse = log sum(exp(lses)), and own = sum(owns) where these are given, over the first dimension";
  static constexpr auto tests =
      "parts=1 rows=1; parts=3 rows=17 with_own=1; parts=199 rows=33 with_own=1; parts=40 rows=4097";
  static constexpr auto benchmarks = "parts=1002 rows=4096";

  View<const f32, 2> lses{"parts, rows"}, owns{"parts * with_own, rows"};
  View<f32, 1> lse{"rows"}, own{"rows * with_own"};
  Meta<bool> with_own = "owns.given";
  Meta<int> block = 32; // one line of memory
  Meta<int> depth = "max(1, min(next_pow2(parts), 32))";
  BITLOOM_PARAMS(lses, owns, lse, own, with_own, block, depth)

  Grid grid() const { return {ceil_div(lse.extent(0), block)}; }

  void operator()() const {
    auto here = block_at(program_id(0), block);
    auto largest = full<f32>({depth, block}, std::numeric_limits<float>::lowest());
    auto total = zeros<f32>({depth, block}), sums = total;
    for (auto first : range(0, lses.extent(0), depth)) {
      auto some = span(first, depth);
      auto x = lses(some, here).or_else(-infinity);
      auto next = maximum(largest, x);
      total = total * exp(largest - next) + exp(x - next);
      largest = next;
      if (with_own)
        sums = sums + owns(some, here);
    }
    auto top = max(largest, 0);
    lse(here) = top + log(sum(total * exp(largest - expand(top, 0)), 0));
    if (with_own)
      own(here) = sum(sums, 0);
  }
};

BITLOOM_REGISTER(CombineLse)

} // namespace bitloom::kernels
