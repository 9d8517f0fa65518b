#include "bitloom/dsl/Kernel.h"

namespace bitloom::kernels {

// What a loss needs of rows of logits that come in parts, of columns `first` and on: where the logits of all classes
// are too many, or are not all on this device. All results are added to, so that parts may follow one another: lse, own
// and spread begin at −infinity, 0 and 0, and others are added as logarithms of sums of exponentials, and as sums; top
// and predicted, the largest logit and the first class that has it, begin at −infinity and 0, and parts come in order.
template <class T> struct CrossEntropyPart {
  static constexpr auto name = "cross_entropy_part";
  static constexpr auto summary =
      "to each row's lse, log sum(exp(x)), own, the target's logit, and spread, sum(weight * x), "
      "adds those of a part of the columns; on request, top and predicted, the largest of them and its class";
  static constexpr auto tests =
      "rows=1 cols=1; rows=3 cols=17 first=5; rows=17 cols=199 smoothed=1; rows=5 cols=4097 "
      "first=3 smoothed=1 weighted=1 softcap=2.5 with_predicted=1; rows=199 cols=33 softcap=1.5; "
      "rows=17 cols=300 block=64 first=7 with_predicted=1; rows=3 cols=1 with_predicted=1";
  static constexpr auto benchmarks = "rows=4096 cols=8192";
  static constexpr auto inputs = "target=0..cols-1";

  View<const T, 2> logits{"rows, cols"};
  View<const i64, 1> target{"rows"};
  View<const f32, 1> weight{"cols * weighted"};
  // Read too.
  View<f32, 1> lse{"rows"}, own{"rows"}, spread{"rows * smoothed"}, top{"rows * with_predicted"};
  View<i64, 1> predicted{"rows * with_predicted"};
  Param<i64> first = 0;
  Param<f32> softcap = 0.0f; // where given: above 0
  Meta<bool> weighted = "weight.given", smoothed = "spread.given", capped = "softcap.given";
  Meta<bool> with_predicted = "predicted.given";
  Meta<int> block = "min(round_up(cols, 128), 4096)";
  BITLOOM_PARAMS(logits, target, weight, lse, own, spread, top, predicted, first, softcap, weighted, smoothed, capped,
                 with_predicted, block)

  Grid grid() const { return {logits.extent(0)}; }

  void operator()() const {
    auto row = program_id(0);
    auto cols = logits.extent(1);
    Scalar<i64> mine = target(row) - first;
    // A running maximum and sum in each lane (Milakov and Gimelshein, "Online normalizer calculation for softmax",
    // 2018).
    constexpr float lowest = std::numeric_limits<float>::lowest(); // finite: no infinities are subtracted
    auto largest = full<f32>({block}, lowest);
    auto total = zeros<f32>({block}), owns = zeros<f32>({block}), spreads = zeros<f32>({block});
    auto places = arange(block); // of each lane's largest, the first
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
      if (with_predicted)
        places = where(x > largest, here.indices(), places);
      largest = next;
    }
    Scalar<f32> most = max(largest, 0);
    Scalar<f32> sumLog = most + log(sum(total * exp(largest - most), 0)), before = lse(row);
    auto upper = maximum(maximum(sumLog, before), lowest);
    lse(row) = upper + log(exp(sumLog - upper) + exp(before - upper));
    own(row) = Scalar<f32>(own(row)) + sum(owns, 0);
    if (smoothed)
      spread(row) = Scalar<f32>(spread(row)) + sum(spreads, 0);
    if (!with_predicted)
      return;
    constexpr int64_t nowhere = std::numeric_limits<int64_t>::max();
    Scalar<i64> place = first + min(where(largest == most, places, nowhere), 0);
    Scalar<f32> earlier = top(row);
    predicted(row) = where(most > earlier, place, Scalar<i64>(predicted(row)));
    top(row) = maximum(most, earlier);
  }
};

BITLOOM_REGISTER(CrossEntropyPart<f32>, CrossEntropyPart<f16>, CrossEntropyPart<bf16>)

} // namespace bitloom::kernels
