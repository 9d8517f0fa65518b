#include "bitloom/dsl/Kernel.h"

namespace bitloom::kernels {

// What a loss needs of rows of logits that come in parts, of columns `first` and on: where the logits of all classes
// are too many, or are not all on this device. lse, own and spread are added to, so that parts may follow one another;
// they begin at −infinity, 0 and 0. Others are added as logarithms of sums of exponentials, and as sums.
template <class T> struct CrossEntropyPart {
  static constexpr auto name = "cross_entropy_part";
  static constexpr auto summary =
      "to each row's lse, log sum(exp(x)), own, the target's logit, and spread, sum(weight * x), "
      "adds those of a part of the columns";
  static constexpr auto tests = "rows=1 cols=1; rows=3 cols=17 first=5; rows=17 cols=199 smoothed=1; rows=5 cols=4097 "
                                "first=3 smoothed=1 weighted=1 softcap=2.5; rows=199 cols=33 softcap=1.5";
  static constexpr auto benchmarks = "rows=4096 cols=8192";
  static constexpr auto inputs = "target=0..cols-1";

  View<const T, 2> logits{"rows, cols"};
  View<const i64, 1> target{"rows"};
  View<const f32, 1> weight{"cols * weighted"};
  View<f32, 1> lse{"rows"}, own{"rows"}, spread{"rows * smoothed"}; // read too
  Param<i64> first = 0;
  Param<f32> softcap = 0.0f; // where given: above 0
  Meta<bool> weighted = "weight.given", smoothed = "spread.given", capped = "softcap.given";
  Meta<int> block = "min(round_up(cols, 128), 4096)";
  BITLOOM_PARAMS(logits, target, weight, lse, own, spread, first, softcap, weighted, smoothed, capped, block)

  Grid grid() const { return {logits.extent(0)}; }

  void operator()() const {
    auto row = program_id(0);
    auto cols = logits.extent(1);
    Scalar<i64> mine = target(row) - first;
    // A running maximum and sum in each lane (Milakov and Gimelshein, "Online normalizer calculation for softmax",
    // 2018).
    auto largest = full<f32>({block}, std::numeric_limits<float>::lowest());
    auto total = zeros<f32>({block}), owns = zeros<f32>({block}), spreads = zeros<f32>({block});
    for (auto c : range(0, cols, block)) {
      auto here = span(c, block);
      auto inRow = here.indices() < cols;
      auto x = cast<f32>(logits(row, here));
      if (capped)
        x = softcap * tanh(x / softcap);
      owns = owns + where(inRow & (here.indices() == mine), x, 0.0f);
      if (smoothed)
        spreads = spreads + where(inRow, weighted ? x * weight(here) : x, 0.0f);
      x = where(inRow, x, -infinity);
      auto next = maximum(largest, x);
      total = total * exp(largest - next) + exp(x - next);
      largest = next;
    }
    auto top = max(largest, 0);
    Scalar<f32> sumLog = top + log(sum(total * exp(largest - top), 0)), before = lse(row);
    auto upper = maximum(sumLog, before);
    lse(row) = upper + log(exp(sumLog - upper) + exp(before - upper));
    own(row) = Scalar<f32>(own(row)) + sum(owns, 0);
    if (smoothed)
      spread(row) = Scalar<f32>(spread(row)) + sum(spreads, 0);
  }
};

BITLOOM_REGISTER(CrossEntropyPart<f32>, CrossEntropyPart<f16>, CrossEntropyPart<bf16>)

} // namespace bitloom::kernels
