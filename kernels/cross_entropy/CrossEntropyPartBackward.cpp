#include "bitloom/dsl/Kernel.h"

namespace bitloom::kernels {

// The gradient of cross_entropy_part's columns, once lse is that of the whole row. What is the same for all columns of
// a row comes from the caller: slope is what multiplies the softmax, least what the target's column is less by, even
// what every column is, by its weight.
template <class T> struct CrossEntropyPartBackward {
  static constexpr auto name = "cross_entropy_part_backward";
  static constexpr auto summary = "dlogits = slope * exp(x - lse) - least * [column + first == target] - even * weight";
  static constexpr auto tests = "rows=1 cols=1; rows=3 cols=17 first=5; rows=17 cols=199 smoothed=1; rows=5 cols=4097 "
                                "first=3 smoothed=1 weighted=1 softcap=2.5; rows=199 cols=33 softcap=1.5";
  static constexpr auto benchmarks = "rows=4096 cols=8192";
  static constexpr auto inputs = "target=0..cols-1";

  View<const T, 2> logits{"rows, cols"};
  View<const i64, 1> target{"rows"};
  View<const f32, 1> lse{"rows"}, slope{"rows"}, least{"rows"}, even{"rows * smoothed"}, weight{"cols * weighted"};
  View<T, 2> dlogits{"rows, cols"}; // may be logits
  Param<i64> first = 0;
  Param<f32> softcap = 0.0f; // where given: above 0
  Meta<bool> weighted = "weight.given", smoothed = "even.given", capped = "softcap.given";
  Meta<int> block = "min(round_up(cols, 128), 4096)";
  BITLOOM_PARAMS(logits, target, lse, slope, least, even, weight, dlogits, first, softcap, weighted, smoothed, capped,
                 block)

  Grid grid() const { return {logits.extent(0)}; }

  void operator()() const {
    auto row = program_id(0);
    Scalar<i64> mine = target(row) - first;
    Scalar<f32> sumLog = lse(row), factor = slope(row), less = least(row);
    for (auto c : range(0, logits.extent(1), block)) {
      auto here = span(c, block);
      auto x = cast<f32>(logits(row, here));
      if (capped)
        x = softcap * tanh(x / softcap);
      auto gradient = exp(x - sumLog) * factor - where(here.indices() == mine, full<f32>({block}, 1.0f) * less, 0.0f);
      if (smoothed) {
        Scalar<f32> each = even(row);
        gradient = weighted ? gradient - weight(here) * each : gradient - each;
      }
      if (capped) {
        auto ratio = x * (1.0f / softcap);
        gradient = gradient * (1.0f - ratio * ratio);
      }
      dlogits(row, here) = cast<T>(gradient);
    }
  }
};

BITLOOM_REGISTER(CrossEntropyPartBackward<f32>, CrossEntropyPartBackward<f16>, CrossEntropyPartBackward<bf16>)

} // namespace bitloom::kernels
