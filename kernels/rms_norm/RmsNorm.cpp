#include "bitloom/dsl/Kernel.h"
#include "bitloom/kernels/rms_norm/Scaling.h"
#include "bitloom/kernels/rows/Rows.h"

namespace bitloom::kernels {

// Zhang and Sennrich, "Root Mean Square Layer Normalization" (2019). Gemma adds 1 to its weight: `offset`. Where there
// is no weight, there is no offset. out may be x.
template <class T> struct RmsNorm {
  static constexpr auto name = "rms_norm";
  static constexpr auto summary = "out = x / sqrt(mean(x^2) + eps) * (weight + offset), row by row; rstd on request";
  static constexpr auto tests =
      "rows=1 cols=1 weighted=1; rows=3 cols=17 weighted=1; rows=17 cols=199 weighted=1; rows=3 cols=4097 weighted=1; "
      "rows=2 cols=20000 weighted=1; rows=199 cols=128 weighted=1 with_rstd=1; rows=17 cols=192 weighted=1 offset=1; "
      "rows=3 cols=17 weighted=1 casting=1 offset=1; rows=3 cols=4097 weighted=1 casting=2 with_rstd=1; "
      "rows=2 cols=20000 with_rstd=1; rows=2 cols=20000 weighted=1 casting=1; rows=5 cols=33 casting=2";
  static constexpr auto benchmarks =
      "rows=4096 cols=4096 weighted=1; rows=8192 cols=8192 weighted=1; rows=524288 cols=128 weighted=1; rows=4096 "
      "cols=16384 weighted=1";

  View<const T, 2> x{"rows, cols"};
  View<const T, 1> weight{"cols * weighted"};
  View<T, 2> out{"rows, cols"};
  Param<f32> eps = 1e-6f, offset = 0.0f;
  View<f32, 1> rstd{"rows * with_rstd"}; // 1 / sqrt(mean(x²) + eps)
  Meta<int> casting = Meta<int>::oneOf(castingNames);
  Meta<bool> weighted = "weight.given", with_rstd = "rstd.given";
  Meta<int> cluster = rowCluster, block = rowBlock;
  Meta<int> block_rows = "max(1, 1024 / next_pow2(block))";
  Meta<bool> resident = "cols <= block"; // the row is one tile
  BITLOOM_PARAMS(x, weight, out, eps, offset, rstd, casting, weighted, with_rstd, cluster, block, block_rows, resident)

  Grid grid() const { return {ceil_div(x.extent(0), block_rows)}; }

  void operator()() const {
    hints({.cluster = cluster});
    auto rows = block_at(program_id(0), block_rows);
    auto cols = x.extent(1);
    auto scaleOf = [&](const Tile<f32, 1> &squares) { return rsqrt(squares / cast<f32>(cols) + eps); };
    auto keep = [&](const Tile<f32, 1> &scale) { // at the end: loads do not move past it
      if (with_rstd)
        rstd(rows) = scale;
    };
    auto write = [&](const Span &here, const Tile<f32, 2> &v, const Tile<f32, 2> &scale) {
      if (!weighted) {
        out(rows, here) = scaled<T, 2>(v, scale, nullptr, casting);
        return;
      }
      auto factor = expand(cast<f32>(weight(here)) + offset, 0);
      out(rows, here) = scaled<T>(v, scale, &factor, casting);
    };
    if (resident) {
      auto here = span(0, block);
      auto v = cast<f32>(x(rows, here));
      auto scale = scaleOf(sum(v * v, 1));
      write(here, v, expand(scale, 1));
      keep(scale);
      return;
    }
    auto squares = zeros<f32>({block_rows, block});
    for (auto c : range(0, cols, block)) {
      auto v = cast<f32>(x(rows, span(c, block)));
      squares = squares + v * v;
    }
    auto scale = scaleOf(sum(squares, 1));
    keep(scale);
    for (auto c : range(0, cols, block)) {
      auto here = span(c, block);
      write(here, cast<f32>(x(rows, here)), expand(scale, 1));
    }
  }
};

BITLOOM_REGISTER(RmsNorm<f32>, RmsNorm<f16>, RmsNorm<bf16>)

} // namespace bitloom::kernels
