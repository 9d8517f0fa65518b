#include "bitloom/dsl/Kernel.h"
#include "bitloom/kernels/rows/Rows.h"

namespace bitloom::kernels {

// dx = y · (dy − Σ dy · y), for y as softmax gave it.
template <class T> struct SoftmaxBackward {
  static constexpr auto name = "softmax_backward";
  static constexpr auto summary = "the gradient of softmax: dx = y * (dy - sum(dy * y)), row by row";
  static constexpr auto tests = "rows=1 cols=1; rows=3 cols=17; rows=199 cols=33; rows=17 cols=199; rows=3 cols=4097; "
                                "rows=2 cols=20000; rows=7 cols=9000";
  static constexpr auto benchmarks = "rows=16384 cols=8192; rows=4096 cols=65536";

  View<const T, 2> dy{"rows, cols"}, y{"rows, cols"};
  View<T, 2> dx{"rows, cols"};
  Meta<int> cluster = rowCluster, block = rowBlock;
  Meta<int> block_rows = "max(1, 1024 / next_pow2(block))";
  Meta<bool> resident = "cols <= block";
  BITLOOM_PARAMS(dy, y, dx, cluster, block, block_rows, resident)

  Grid grid() const { return {ceil_div(y.extent(0), block_rows)}; }

  void operator()() const {
    hints({.cluster = cluster});
    auto rows = block_at(program_id(0), block_rows);
    auto cols = y.extent(1);
    if (resident) {
      auto here = span(0, block);
      auto p = cast<f32>(y(rows, here)), d = cast<f32>(dy(rows, here));
      dx(rows, here) = cast<T>(p * (d - expand(sum(p * d, 1), 1)));
      return;
    }
    auto products = zeros<f32>({block_rows, block});
    for (auto c : range(0, cols, block)) {
      auto here = span(c, block);
      products = products + cast<f32>(y(rows, here)) * cast<f32>(dy(rows, here));
    }
    auto total = expand(sum(products, 1), 1);
    for (auto c : range(0, cols, block)) {
      auto here = span(c, block);
      dx(rows, here) = cast<T>(cast<f32>(y(rows, here)) * (cast<f32>(dy(rows, here)) - total));
    }
  }
};

BITLOOM_REGISTER(SoftmaxBackward<f32>, SoftmaxBackward<f16>, SoftmaxBackward<bf16>)

} // namespace bitloom::kernels
