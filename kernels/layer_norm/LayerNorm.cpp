#include "bitloom/dsl/Kernel.h"
#include "bitloom/kernels/rows/Rows.h"

namespace bitloom::kernels {

// Ba, Kiros and Hinton, "Layer Normalization" (2016). The variance is that of the differences from the mean, not
// E[x²] − E[x]², which cancels when the mean is large.
template <class T> struct LayerNorm {
  static constexpr auto name = "layer_norm";
  static constexpr auto summary =
      "out = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias, row by row; mean and rstd on request";
  static constexpr auto tests =
      "rows=1 cols=1 weighted=1 biased=1; rows=3 cols=17 weighted=1 biased=1; rows=17 cols=199 weighted=1 biased=1; "
      "rows=3 cols=4097 weighted=1 biased=1 with_mean=1 with_rstd=1; rows=2 cols=20000 weighted=1 biased=1 "
      "with_mean=1 with_rstd=1; rows=199 cols=128 weighted=1; rows=5 cols=192 with_rstd=1; rows=2 cols=20000";
  static constexpr auto benchmarks = "rows=4096 cols=4096 weighted=1 biased=1; rows=8192 cols=8192 weighted=1 "
                                     "biased=1; rows=4096 cols=16384 weighted=1 biased=1";

  View<const T, 2> x{"rows, cols"};
  View<const T, 1> weight{"cols * weighted"}, bias{"cols * biased"};
  View<T, 2> out{"rows, cols"};
  Param<f32> eps = 1e-5f;
  View<f32, 1> mean{"rows * with_mean"}, rstd{"rows * with_rstd"}; // rstd: 1 / sqrt(var(x) + eps)
  Meta<bool> weighted = "weight.given", biased = "bias.given";
  Meta<bool> with_mean = "mean.given", with_rstd = "rstd.given";
  Meta<int> cluster = rowCluster, block = rowBlock;
  Meta<int> block_rows = "max(1, 1024 / next_pow2(block))";
  Meta<bool> resident = "cols <= block";
  Meta<bool> whole = "cols % block == 0"; // no tile reaches past the row
  BITLOOM_PARAMS(x, weight, bias, out, eps, mean, rstd, weighted, biased, with_mean, with_rstd, cluster, block,
                 block_rows, resident, whole)

  Grid grid() const { return {ceil_div(x.extent(0), block_rows)}; }

  void operator()() const {
    hints({.cluster = cluster});
    auto rows = block_at(program_id(0), block_rows);
    auto cols = x.extent(1);
    auto count = cast<f32>(cols), rough = approx_reciprocal(count);
    auto inverse = fma(fma(-rough, count, 1.0f), rough, rough); // a division is a call, for which registers are kept
    auto meanOf = [&](const Tile<f32, 1> &sums) {               // to half an ulp, which is much where the mean is large
      auto near = sums * inverse;
      return fma(fma(-near, count, sums), inverse, near);
    };
    auto keep = [&](const Tile<f32, 1> &average, const Tile<f32, 1> &scale) { // at the end: loads do not move past it
      if (with_mean)
        mean(rows) = average;
      if (with_rstd)
        rstd(rows) = scale;
    };
    auto squaresOf = [&](const Span &here, const Tile<f32, 2> &v, const Tile<f32, 2> &average) {
      auto difference = v - average;
      if (!whole)
        difference = where(broadcast(expand(here.indices() < cols, 0), {block_rows, block}), difference, 0.0f);
      return difference * difference;
    };
    auto write = [&](const Span &here, const Tile<f32, 2> &v, const Tile<f32, 2> &average, const Tile<f32, 2> &scale) {
      auto result = (v - average) * scale;
      if (weighted)
        result = result * expand(cast<f32>(weight(here)), 0);
      if (biased)
        result = result + expand(cast<f32>(bias(here)), 0);
      out(rows, here) = cast<T>(result);
    };
    if (resident) {
      auto here = span(0, block);
      auto v = cast<f32>(x(rows, here));
      auto average = meanOf(sum(v, 1));
      auto scale = rsqrt(sum(squaresOf(here, v, expand(average, 1)), 1) * inverse + eps);
      write(here, v, expand(average, 1), expand(scale, 1));
      keep(average, scale);
      return;
    }
    auto sums = zeros<f32>({block_rows, block});
    for (auto c : range(0, cols, block))
      sums = sums + cast<f32>(x(rows, span(c, block)));
    auto average = meanOf(sum(sums, 1));
    auto squares = zeros<f32>({block_rows, block});
    for (auto c : range(0, cols, block)) {
      auto here = span(c, block);
      squares = squares + squaresOf(here, cast<f32>(x(rows, here)), expand(average, 1));
    }
    auto scale = rsqrt(sum(squares, 1) * inverse + eps);
    keep(average, scale);
    for (auto c : range(0, cols, block)) {
      auto here = span(c, block);
      write(here, cast<f32>(x(rows, here)), expand(average, 1), expand(scale, 1));
    }
  }
};

BITLOOM_REGISTER(LayerNorm<f32>, LayerNorm<f16>, LayerNorm<bf16>)

} // namespace bitloom::kernels
