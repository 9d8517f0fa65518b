#include "bitloom/dsl/Kernel.h"

namespace bitloom::kernels {

// What is left to do in the backward of a loss whose gradient the forward wrote: to multiply it by what comes from
// further on. Mostly that is 1, which only the device knows; such rows are neither read nor written.
template <class T> struct ScaleRows {
  static constexpr auto name = "scale_rows";
  static constexpr auto summary = "x = x * scale, row by row, in place; rows whose scale is 1 are not touched";
  static constexpr auto tests = "rows=1 cols=1; rows=3 cols=17; rows=17 cols=199; rows=3 cols=4097";
  static constexpr auto benchmarks = "rows=8192 cols=32000; rows=8192 cols=128256";

  View<T, 2> x{"rows, cols"};
  View<const f32, 1> scale{"rows"};
  Meta<int> block = "min(round_up(cols, 128), 4096)";
  BITLOOM_PARAMS(x, scale, block)

  Grid grid() const { return {x.extent(0)}; }

  void operator()() const {
    auto row = program_id(0);
    Scalar<f32> factor = scale(row);
    when(factor != 1.0f, [&] {
      for (auto c : range(0, x.extent(1), block)) {
        auto here = span(c, block);
        x(row, here) = cast<T>(cast<f32>(x(row, here)) * factor);
      }
    });
  }
};

BITLOOM_REGISTER(ScaleRows<f32>, ScaleRows<f16>, ScaleRows<bf16>)

} // namespace bitloom::kernels
