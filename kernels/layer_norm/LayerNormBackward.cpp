#include "bitloom/dsl/Kernel.h"
#include "bitloom/kernels/rows/Rows.h"

namespace bitloom::kernels {

// With n = (x − mean) · rstd and g = dy · weight, a row of
//   dx      = rstd · (g − mean(g) − n · mean(g · n))
//   dweight = Σ over rows of dy · n
//   dbias   = Σ over rows of dy
// mean and rstd are those that layer_norm gives. Each program takes every num_programs-th block of rows and keeps one
// partial sum of dweight and dbias: their sums over the first dimension (sum_partials) are the gradients.
template <class T> struct LayerNormBackward {
  static constexpr auto name = "layer_norm_backward";
  static constexpr auto summary =
      "the gradients of layer_norm: dx, and dweight and dbias as one partial sum a program, on request";
  static constexpr auto tests =
      "rows=1 cols=3 weighted=1 with_dweight=1 with_dbias=1; rows=3 cols=17 weighted=1 with_dweight=1 with_dbias=1; "
      "rows=17 cols=199 weighted=1 with_dweight=1 with_dbias=1; rows=3 cols=4097 weighted=1 with_dweight=1 "
      "with_dbias=1; rows=199 cols=128 weighted=1 with_dweight=1; rows=3 cols=20000 weighted=1 with_dweight=1 "
      "with_dbias=1; rows=5 cols=192; rows=3 cols=20000; rows=4097 cols=17 weighted=1 with_dweight=1 programs=7";
  static constexpr auto benchmarks =
      "rows=8192 cols=8192 weighted=1 with_dweight=1 with_dbias=1; rows=16384 cols=4096 weighted=1 with_dweight=1 "
      "with_dbias=1; rows=4096 cols=16384 weighted=1 with_dweight=1 with_dbias=1";

  View<const T, 2> dy{"rows, cols"}, x{"rows, cols"};
  View<const f32, 1> mean{"rows"}, rstd{"rows"};
  View<const T, 1> weight{"cols * weighted"};
  View<T, 2> dx{"rows, cols"};
  View<f32, 2> dweight{"programs * with_dweight, cols"}, dbias{"programs * with_dbias, cols"};
  Meta<bool> weighted = "weight.given", with_dweight = "dweight.given", with_dbias = "dbias.given";
  Meta<int> cluster = gradientCluster, block = gradientBlock;
  Meta<int> block_rows = "max(1, 1024 / next_pow2(block))";
  Meta<int> programs = gradientPrograms;
  Meta<bool> resident = "cols <= block";
  Meta<int> stages = 0; // rows' slots, of which one is read and the others are on their way; 0: as many as fit, to 4
  BITLOOM_PARAMS(dy, x, mean, rstd, weight, dx, dweight, dbias, weighted, with_dweight, with_dbias, cluster, block,
                 block_rows, programs, resident, stages)

  Grid grid() const { return {programs}; }

  void operator()() const {
    hints({.stages = stages, .cluster = cluster});
    auto program = program_id(0);
    auto cols = x.extent(1);
    auto share = 1.0f / cast<f32>(cols);
    auto blocks = ceil_div(x.extent(0), block_rows);
    auto gradientOf = [&](const Tile<f32, 2> &d, const Span &here) {
      return weighted ? d * expand(cast<f32>(weight(here)), 0) : d;
    };
    if (resident) {
      auto here = span(0, block);
      auto weightSum = zeros<f32>({block_rows, block}), biasSum = zeros<f32>({block_rows, block});
      for (auto i : range(program, blocks, num_programs(0))) {
        auto rows = block_at(i, block_rows);
        auto v = cast<f32>(x(rows, here)), d = cast<f32>(dy(rows, here));
        auto r = expand(rstd(rows), 1);
        auto n = (v - expand(mean(rows), 1)) * r;
        auto g = gradientOf(d, here); // 0 past the row, where n is not
        auto shift = expand(sum(g, 1) * share, 1) * r, slope = expand(sum(g * n, 1) * share, 1) * r;
        dx(rows, here) = cast<T>(g * r - shift - n * slope);
        if (with_dweight)
          weightSum = weightSum + d * n;
        if (with_dbias)
          biasSum = biasSum + d;
      }
      if (with_dweight)
        dweight(program, here) = sum(weightSum, 0);
      if (with_dbias)
        dbias(program, here) = sum(biasSum, 0);
      return;
    }
    for (auto c : range(0, cols, block)) {
      if (with_dweight)
        dweight(program, span(c, block)) = zeros<f32>({block});
      if (with_dbias)
        dbias(program, span(c, block)) = zeros<f32>({block});
    }
    for (auto i : range(program, blocks, num_programs(0))) {
      auto rows = block_at(i, block_rows);
      auto r = expand(rstd(rows), 1), average = expand(mean(rows), 1);
      auto sums = zeros<f32>({block_rows, block}), products = zeros<f32>({block_rows, block});
      for (auto c : range(0, cols, block)) {
        auto here = span(c, block);
        auto g = gradientOf(cast<f32>(dy(rows, here)), here);
        sums = sums + g;
        products = products + g * ((cast<f32>(x(rows, here)) - average) * r);
      }
      auto shift = expand(sum(sums, 1) * share, 1) * r, slope = expand(sum(products, 1) * share, 1) * r;
      for (auto c : range(0, cols, block)) {
        auto here = span(c, block);
        auto d = cast<f32>(dy(rows, here)), n = (cast<f32>(x(rows, here)) - average) * r;
        dx(rows, here) = cast<T>(gradientOf(d, here) * r - shift - n * slope);
        if (with_dweight)
          dweight(program, here) = dweight(program, here) + sum(d * n, 0);
        if (with_dbias)
          dbias(program, here) = dbias(program, here) + sum(d, 0);
      }
    }
  }
};

BITLOOM_REGISTER(LayerNormBackward<f32>, LayerNormBackward<f16>, LayerNormBackward<bf16>)

} // namespace bitloom::kernels
