#include "bitloom/kernels/loss_sum/TargetSum.h"

namespace bitloom::kernels {

struct TargetScale {
  static constexpr auto name = "target_scale";
  static constexpr auto summary = "out = 1 / the number of targets that are not ignore_index; 0 if there are none";
  static constexpr auto tests = "rows=1; rows=3; rows=17; rows=199; rows=4097; rows=20000";
  static constexpr auto benchmarks = "rows=8192";
  static constexpr auto inputs = "target=0..7";

  View<const i64, 1> target{"rows"};
  View<f32, 1> out{"1"};
  Param<i64> ignore_index = -100;
  Meta<int> block = targetBlock;
  BITLOOM_PARAMS(target, out, ignore_index, block)

  Grid grid() const { return {1}; }

  void operator()() const {
    writeTargetScale(target, out, ignore_index, block, [&](auto &) { return full<f32>({block}, 1.0f); });
  }
};

BITLOOM_REGISTER(TargetScale)

} // namespace bitloom::kernels
