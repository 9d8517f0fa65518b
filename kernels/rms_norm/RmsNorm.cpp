#include "bitloom/dsl/Kernel.h"

namespace bitloom::kernels {

// Zhang and Sennrich, "Root Mean Square Layer Normalization" (2019).
template <class T> struct RmsNorm {
  static constexpr auto name = "rms_norm";
  static constexpr auto summary = "out = x / sqrt(mean(x^2) + eps) * weight, row by row";
  static constexpr auto tests = "rows=1 cols=1; rows=3 cols=17; rows=17 cols=199; rows=3 cols=4097; rows=2 cols=20000";
  static constexpr auto benchmarks = "rows=4096 cols=4096; rows=8192 cols=8192";

  View<const T, 2> x{"rows, cols"};
  View<const T, 1> weight{"cols"};
  View<T, 2> out{"rows, cols"};
  Param<f32> eps = 1e-6f;
  Meta<int> block = "min(round_up(cols, 128), 16384)";
  Meta<bool> resident = "cols <= block"; // the row is one tile
  BITLOOM_PARAMS(x, weight, out, eps, block, resident)

  Grid grid() const { return {x.extent(0)}; }

  void operator()() const {
    auto row = program_id(0);
    auto cols = x.extent(1);
    auto count = cast<f32>(cols);
    if (resident) {
      auto here = span(0, block);
      auto v = cast<f32>(x(row, here));
      auto scale = rsqrt(sum(v * v, 0) / count + eps);
      out(row, here) = cast<T>(v * scale * cast<f32>(weight(here)));
      return;
    }
    auto squares = zeros<f32>({block});
    for (auto c : range(0, cols, block)) {
      auto v = cast<f32>(x(row, span(c, block)));
      squares = squares + v * v;
    }
    auto scale = rsqrt(sum(squares, 0) / count + eps);
    for (auto c : range(0, cols, block)) {
      auto here = span(c, block);
      out(row, here) = cast<T>(cast<f32>(x(row, here)) * scale * cast<f32>(weight(here)));
    }
  }
};

BITLOOM_REGISTER(RmsNorm<f32>, RmsNorm<f16>, RmsNorm<bf16>)

} // namespace bitloom::kernels
