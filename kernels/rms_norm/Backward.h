// The gradients of rms_norm, with and without a sum in front of it.
#pragma once

#include "bitloom/dsl/Kernel.h"

namespace bitloom::kernels {

// With r = rsqrt(mean(x²) + eps), w = weight + offset and g = dy · w, a row of
//   dx      = r · (g − x · r² · mean(g · x)) (+ dsum)
//   dweight = Σ over rows of dy · x · r
// Each program takes every num_programs-th block of rows and keeps one partial sum of dweight: their sum over the first
// dimension (sum_partials) is the gradient, in an order that does not vary from run to run. Without rstd, r is computed
// anew: x is read here in any case.
template <class T> struct RmsNormGradient {
  View<const T, 2> dy, x, dsum;
  View<const T, 1> weight;
  View<const f32, 1> rstd;
  View<T, 2> dx;
  View<f32, 2> dweight;
  Scalar<f32> eps, offset;
  bool added, weighted, has_rstd, resident;
  int block, block_rows;

  void operator()() const {
    auto program = program_id(0);
    auto cols = x.extent(1);
    auto share = 1.0f / cast<f32>(cols);
    auto blocks = ceil_div(x.extent(0), block_rows);
    auto factor = [&](const Span &here) { return expand(cast<f32>(weight(here)) + offset, 0); };
    auto gradientOf = [&](const Tile<f32, 2> &d, const Span &here) { return weighted ? d * factor(here) : d; };
    auto scaleOf = [&](const Span &rows, const Tile<f32, 1> &squares) {
      return has_rstd ? expand(rstd(rows), 1) : expand(rsqrt(squares * share + eps), 1);
    };
    auto write = [&](const Span &rows, const Span &here, const Tile<f32, 2> &gradient) {
      dx(rows, here) = cast<T>(added ? gradient + cast<f32>(dsum(rows, here)) : gradient);
    };
    if (resident) {
      auto here = span(0, block);
      auto partial = zeros<f32>({block_rows, block});
      for (auto i : range(program, blocks, num_programs(0))) {
        auto rows = block_at(i, block_rows);
        auto v = cast<f32>(x(rows, here)), d = cast<f32>(dy(rows, here));
        auto g = gradientOf(d, here);
        auto r = scaleOf(rows, sum(v * v, 1));
        auto slope = expand(sum(g * v, 1) * share, 1) * r * r;
        write(rows, here, (g - v * slope) * r);
        if (weighted)
          partial = partial + d * v * r;
      }
      if (weighted)
        dweight(program, here) = sum(partial, 0);
      return;
    }
    if (weighted)
      for (auto c : range(0, cols, block))
        dweight(program, span(c, block)) = zeros<f32>({block});
    for (auto i : range(program, blocks, num_programs(0))) {
      auto rows = block_at(i, block_rows);
      auto squares = zeros<f32>({block_rows, block}), products = zeros<f32>({block_rows, block});
      for (auto c : range(0, cols, block)) {
        auto here = span(c, block);
        auto v = cast<f32>(x(rows, here));
        if (!has_rstd)
          squares = squares + v * v;
        products = products + gradientOf(cast<f32>(dy(rows, here)), here) * v;
      }
      auto r = scaleOf(rows, sum(squares, 1));
      auto slope = expand(sum(products, 1) * share, 1) * r * r;
      for (auto c : range(0, cols, block)) {
        auto here = span(c, block);
        auto v = cast<f32>(x(rows, here)), d = cast<f32>(dy(rows, here));
        write(rows, here, (gradientOf(d, here) - v * slope) * r);
        if (weighted)
          dweight(program, here) = dweight(program, here) + sum(d * v * r, 0);
      }
    }
  }
};

} // namespace bitloom::kernels
