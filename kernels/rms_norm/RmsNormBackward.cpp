#include "bitloom/dsl/Kernel.h"

namespace bitloom::kernels {

// With r = rsqrt(mean(x²) + eps) and g = dy · weight, a row of
//   dx      = r · (g − x · r² · mean(g · x))
//   dweight = Σ over rows of dy · x · r
// Each program takes every num_programs-th row and keeps one partial sum of dweight: their sum over the first dimension
// is the gradient, in an order that does not vary from run to run. r is computed anew: x is read here in any case.
template <class T> struct RmsNormBackward {
  static constexpr auto name = "rms_norm_backward";
  static constexpr auto summary = "the gradients of rms_norm: dx, and dweight as one partial sum a program";
  static constexpr auto tests =
      "rows=1 cols=3; rows=3 cols=17; rows=17 cols=199; rows=3 cols=4097; rows=199 cols=128; rows=2 cols=20000";
  static constexpr auto benchmarks = "rows=4096 cols=4096; rows=8192 cols=8192";

  View<const T, 2> dy{"rows, cols"}, x{"rows, cols"};
  View<const T, 1> weight{"cols"};
  View<T, 2> dx{"rows, cols"};
  View<f32, 2> dweight{"programs, cols"};
  Param<f32> eps = 1e-6f;
  Meta<int> programs = "min(rows, 132)";
  Meta<int> block = "min(round_up(cols, 128), 8192)";
  Meta<bool> resident = "cols <= block";
  BITLOOM_PARAMS(dy, x, weight, dx, dweight, eps, programs, block, resident)

  Grid grid() const { return {programs}; }

  void operator()() const {
    auto program = program_id(0);
    auto rows = x.extent(0), cols = x.extent(1);
    auto count = cast<f32>(cols);
    if (resident) {
      auto here = span(0, block);
      auto w = cast<f32>(weight(here));
      auto partial = zeros<f32>({block});
      for (auto row : range(program, rows, num_programs(0))) {
        auto v = cast<f32>(x(row, here)), d = cast<f32>(dy(row, here));
        auto g = d * w;
        auto r = rsqrt(sum(v * v, 0) / count + eps);
        auto slope = sum(g * v, 0) / count * r * r;
        dx(row, here) = cast<T>((g - v * slope) * r);
        partial = partial + d * v * r;
      }
      dweight(program, here) = partial;
      return;
    }
    for (auto c : range(0, cols, block))
      dweight(program, span(c, block)) = zeros<f32>({block});
    for (auto row : range(program, rows, num_programs(0))) {
      auto squares = zeros<f32>({block}), products = zeros<f32>({block});
      for (auto c : range(0, cols, block)) {
        auto here = span(c, block);
        auto v = cast<f32>(x(row, here));
        squares = squares + v * v;
        products = products + cast<f32>(dy(row, here)) * cast<f32>(weight(here)) * v;
      }
      auto r = rsqrt(sum(squares, 0) / count + eps);
      auto slope = sum(products, 0) / count * r * r;
      for (auto c : range(0, cols, block)) {
        auto here = span(c, block);
        auto v = cast<f32>(x(row, here)), d = cast<f32>(dy(row, here));
        dx(row, here) = cast<T>((d * cast<f32>(weight(here)) - v * slope) * r);
        dweight(program, here) = dweight(program, here) + d * v * r;
      }
    }
  }
};

BITLOOM_REGISTER(RmsNormBackward<f32>, RmsNormBackward<f16>, RmsNormBackward<bf16>)

} // namespace bitloom::kernels
