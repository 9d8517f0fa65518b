#include "bitloom/kernels/group_norm/Groups.h"

namespace bitloom::kernels {

// With n = (x − mean) · rstd and g = dy · weight, a group of
//   dx      = rstd · (g − mean(g) − n · mean(g · n))
//   dweight = Σ over batch and space of dy · n
//   dbias   = Σ over batch and space of dy
// A program has one group of one sample, and the sums over space of its channels, which the means are made of, are also
// its part of dweight and dbias: the sums over batch (sum_partials) are the gradients. A group that the registers of a
// block, or of a cluster of them, can hold is one tile, read once.
template <class T> struct GroupNormBackward {
  static constexpr auto name = "group_norm_backward";
  static constexpr auto summary =
      "the gradients of group_norm: dx, and dweight and dbias for each sample, whose sums over them are the gradients";
  static constexpr auto tests =
      "batch=1 groups=1 depth=2 space=3 weighted=1; batch=2 groups=3 depth=2 space=17 weighted=1; batch=3 groups=4 "
      "depth=16 space=1 weighted=1; batch=1 groups=2 depth=3 space=4097 weighted=1; batch=2 groups=1 depth=5 "
      "space=192; "
      "batch=1 groups=17 depth=1 space=199 weighted=1; batch=1 groups=2 depth=33 space=49 weighted=1";
  static constexpr auto benchmarks = "batch=32 groups=32 depth=16 space=4096 weighted=1";

  View<const T, 4> dy{"batch, groups, depth, space"}, x{"batch, groups, depth, space"};
  View<const f32, 2> mean{"batch, groups"}, rstd{"batch, groups"};
  View<const T, 2> weight{"groups * weighted, depth"};
  View<T, 4> dx{"batch, groups, depth, space"};
  View<f32, 3> dweight{"batch, groups, depth"}, dbias{"batch, groups, depth"};
  Meta<bool> weighted = "weight.given";
  Meta<int> cluster = groupCluster, block = groupBlock, block_depth = groupDepth;
  Meta<bool> resident = "(space <= block) * (depth <= block_depth)";
  // A channel's row within one block where its space is 4096: its sums are the block's own.
  Meta<int> warps = "16 * (cluster > 1)";
  BITLOOM_PARAMS(dy, x, mean, rstd, weight, dx, dweight, dbias, weighted, cluster, block, block_depth, resident, warps)

  Grid grid() const { return {x.extent(1), x.extent(0)}; }

  void operator()() const {
    hints({.warps = warps, .cluster = cluster});
    auto group = program_id(0), batch = program_id(1);
    auto depth = x.extent(2), space = x.extent(3);
    Scalar<f32> average = mean(batch, group), scale = rstd(batch, group);
    auto weightOf = [&](const Span &channels) {
      return weighted ? cast<f32>(weight(group, channels)) : full<f32>({block_depth}, 1.0f);
    };
    auto normalised = [&](const Span &channels, const Span &here) {
      return (cast<f32>(x(batch, group, channels, here)) - average) * scale;
    };
    Scalar<f32> inverse = 1.0f / cast<f32>(depth * space);
    auto write = [&](const Span &channels, const Span &here, const Tile<f32, 2> &d, const Tile<f32, 2> &n,
                     const Tile<f32, 1> &factor, const Scalar<f32> &shift, const Scalar<f32> &slope) {
      dx(batch, group, channels, here) = cast<T>((d * expand(factor, 1) - shift - n * slope) * scale);
    };
    // The channels' sums of gradients, and of these times the normalised values.
    auto keep = [&](const Span &channels, const Tile<f32, 1> &ownSums, const Tile<f32, 1> &ownProducts) {
      dbias(batch, group, channels) = ownSums;
      dweight(batch, group, channels) = ownProducts;
    };
    if (resident) {
      auto channels = span(0, block_depth), here = span(0, block);
      auto d = cast<f32>(dy(batch, group, channels, here)), n = normalised(channels, here);
      auto factor = weightOf(channels);
      Tile<f32, 1> ownSums = sum(d, 1), ownProducts = sum(d * n, 1);
      Scalar<f32> sums = sum(ownSums * factor, 0), products = sum(ownProducts * factor, 0);
      write(channels, here, d, n, factor, sums * inverse, products * inverse);
      keep(channels, ownSums, ownProducts); // at the end: loads do not move past it
      return;
    }
    Scalar<f32> sums = 0.0f, products = 0.0f;
    for (auto c : range(0, depth, block_depth)) {
      auto channels = span(c, block_depth);
      auto ofDy = zeros<f32>({block_depth, block}), ofProducts = ofDy;
      for (auto s : range(0, space, block)) {
        auto here = span(s, block);
        auto d = cast<f32>(dy(batch, group, channels, here)); // 0 past the channels and past their space
        ofDy = ofDy + d;
        ofProducts = ofProducts + d * normalised(channels, here);
      }
      auto factor = weightOf(channels);
      Tile<f32, 1> ownSums = sum(ofDy, 1), ownProducts = sum(ofProducts, 1);
      keep(channels, ownSums, ownProducts);
      sums = sums + sum(ownSums * factor, 0);
      products = products + sum(ownProducts * factor, 0);
    }
    auto shift = sums * inverse, slope = products * inverse;
    for (auto c : range(0, depth, block_depth)) {
      auto channels = span(c, block_depth);
      auto factor = weightOf(channels);
      for (auto s : range(0, space, block)) {
        auto here = span(s, block);
        write(channels, here, cast<f32>(dy(batch, group, channels, here)), normalised(channels, here), factor, shift,
              slope);
      }
    }
  }
};

BITLOOM_REGISTER(GroupNormBackward<f32>, GroupNormBackward<f16>, GroupNormBackward<bf16>)

} // namespace bitloom::kernels
