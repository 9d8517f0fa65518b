#include "bitloom/dsl/Kernel.h"

namespace bitloom::kernels {

// The end of a loss: the sum over rows, in one order whatever the device, times what a mean multiplies by.
template <class T> struct SumScaled {
  static constexpr auto name = "sum_scaled";
  static constexpr auto summary = "out = scale * the sum of x";
  static constexpr auto tests = "n=1; n=3 scaled=1; n=17; n=199 scaled=1; n=4097 scaled=1; n=20000";
  static constexpr auto benchmarks = "n=8192 scaled=1";

  View<const T, 1> x{"n"};
  View<const f32, 1> scale{"1 * scaled"};
  View<f32, 1> out{"1"};
  Meta<bool> scaled = "scale.given";
  Meta<int> block = "min(next_pow2(max(n, 1)), 4096)";
  BITLOOM_PARAMS(x, scale, out, scaled, block)

  Grid grid() const { return {1}; }

  void operator()() const {
    auto total = zeros<f32>({block});
    for (auto first : range(0, x.extent(0), block))
      total = total + cast<f32>(x(span(first, block)));
    auto all = sum(total, 0);
    out(0) = scaled ? all * Scalar<f32>(scale(0)) : all;
  }
};

BITLOOM_REGISTER(SumScaled<f32>, SumScaled<bool>)

} // namespace bitloom::kernels
