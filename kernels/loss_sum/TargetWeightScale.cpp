#include "bitloom/kernels/loss_sum/TargetSum.h"

namespace bitloom::kernels {

struct TargetWeightScale {
  static constexpr auto name = "target_weight_scale";
  static constexpr auto summary =
      "out = 1 / the sum of weight[target] over targets that are not ignore_index; 0 if that is";
  static constexpr auto tests = "rows=1 classes=1; rows=3 classes=5; rows=199 classes=17; rows=4097 classes=199";
  static constexpr auto benchmarks = "rows=8192 classes=128256";
  static constexpr auto inputs = "target=0..classes-1";

  View<const i64, 1> target{"rows"};
  View<const f32, 1> weight{"classes"};
  View<f32, 1> out{"1"};
  Param<i64> ignore_index = -100;
  Meta<int> block = targetBlock;
  BITLOOM_PARAMS(target, weight, out, ignore_index, block)

  Grid grid() const { return {1}; }

  void operator()() const {
    writeTargetScale(target, out, ignore_index, block, [&](auto &classes) { return weight.gather(classes); });
  }
};

BITLOOM_REGISTER(TargetWeightScale)

} // namespace bitloom::kernels
