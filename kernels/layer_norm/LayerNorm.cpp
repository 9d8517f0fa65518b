#include "bitloom/dsl/Kernel.h"

namespace bitloom::kernels {

// Ba, Kiros and Hinton, "Layer Normalization" (2016). The variance is that of the differences from the mean, not
// E[x²] − E[x]², which cancels when the mean is large.
template <class T> struct LayerNorm {
  static constexpr auto name = "layer_norm";
  static constexpr auto summary = "out = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias, row by row";
  static constexpr auto tests = "rows=1 cols=1; rows=3 cols=17; rows=17 cols=199; rows=3 cols=4097; rows=2 cols=20000";
  static constexpr auto benchmarks = "rows=4096 cols=4096; rows=8192 cols=8192";

  View<const T, 2> x{"rows, cols"};
  View<const T, 1> weight{"cols"}, bias{"cols"};
  View<T, 2> out{"rows, cols"};
  Param<f32> eps = 1e-5f;
  Meta<int> block = "min(round_up(cols, 128), 16384)";
  Meta<bool> resident = "cols <= block";
  BITLOOM_PARAMS(x, weight, bias, out, eps, block, resident)

  Grid grid() const { return {x.extent(0)}; }

  void operator()() const {
    auto row = program_id(0);
    auto cols = x.extent(1);
    auto count = cast<f32>(cols);
    if (resident) {
      auto here = span(0, block);
      auto v = cast<f32>(x(row, here));
      auto mean = sum(v, 0) / count;
      auto difference = where(here.indices() < cols, v - mean, 0.0f);
      auto scale = rsqrt(sum(difference * difference, 0) / count + eps);
      out(row, here) = cast<T>((v - mean) * scale * cast<f32>(weight(here)) + cast<f32>(bias(here)));
      return;
    }
    auto sums = zeros<f32>({block});
    for (auto c : range(0, cols, block))
      sums = sums + cast<f32>(x(row, span(c, block)));
    auto mean = sum(sums, 0) / count;
    auto squares = zeros<f32>({block});
    for (auto c : range(0, cols, block)) {
      auto here = span(c, block);
      auto difference = where(here.indices() < cols, cast<f32>(x(row, here)) - mean, 0.0f);
      squares = squares + difference * difference;
    }
    auto scale = rsqrt(sum(squares, 0) / count + eps);
    for (auto c : range(0, cols, block)) {
      auto here = span(c, block);
      out(row, here) =
          cast<T>((cast<f32>(x(row, here)) - mean) * scale * cast<f32>(weight(here)) + cast<f32>(bias(here)));
    }
  }
};

BITLOOM_REGISTER(LayerNorm<f32>, LayerNorm<f16>, LayerNorm<bf16>)

} // namespace bitloom::kernels
