#include "bitloom/kernels/group_norm/Groups.h"

namespace bitloom::kernels {

// Wu and He, "Group Normalization" (2018). A tensor of channels is one of groups of `depth` channels, and whatever
// follows them is `space`: its strides say how they lie. A group that the registers of a block, or of a cluster of
// them, can hold is one tile, read once. A larger one is read twice: each lane finds the mean and the squared
// differences of its own elements as they come (Welford, "Note on a Method for Calculating Corrected Sums of Squares
// and Products", 1962), and the lanes' are put together as Chan, Golub and LeVeque do ("Updating Formulae and a
// Pairwise Algorithm for Computing Sample Variances", 1979), so that a large mean cancels nothing.
template <class T> struct GroupNorm {
  static constexpr auto name = "group_norm";
  static constexpr auto summary = "out = (x - mean) / sqrt(var + eps) * weight + bias, mean and var of each group of "
                                  "channels; mean and rstd on request";
  static constexpr auto tests =
      "batch=1 groups=1 depth=1 space=1 weighted=1 biased=1; batch=2 groups=3 depth=2 space=17 weighted=1 biased=1 "
      "with_mean=1 with_rstd=1; batch=3 groups=4 depth=16 space=1 weighted=1 biased=1; batch=1 groups=2 depth=3 "
      "space=4097 weighted=1 biased=1 with_rstd=1; batch=2 groups=1 depth=5 space=192; batch=1 groups=17 depth=1 "
      "space=199 weighted=1; batch=1 groups=2 depth=33 space=49 biased=1";
  static constexpr auto benchmarks = "batch=32 groups=32 depth=16 space=4096 weighted=1 biased=1";

  View<const T, 4> x{"batch, groups, depth, space"};
  View<const T, 2> weight{"groups * weighted, depth"}, bias{"groups * biased, depth"};
  View<T, 4> out{"batch, groups, depth, space"};
  Param<f32> eps = 1e-5f;
  View<f32, 2> mean{"batch * with_mean, groups"}, rstd{"batch * with_rstd, groups"}; // rstd: 1 / sqrt(var + eps)
  Meta<bool> weighted = "weight.given", biased = "bias.given";
  Meta<bool> with_mean = "mean.given", with_rstd = "rstd.given";
  Meta<int> cluster = groupCluster, block = groupBlock, block_depth = groupDepth;
  Meta<bool> resident = "(space <= block) * (depth <= block_depth)";
  Meta<bool> whole = "space % block + depth % block_depth == 0"; // no tile reaches past the group
  BITLOOM_PARAMS(x, weight, bias, out, eps, mean, rstd, weighted, biased, with_mean, with_rstd, cluster, block,
                 block_depth, resident, whole)

  Grid grid() const { return {x.extent(1), x.extent(0)}; }

  void operator()() const {
    hints({.cluster = cluster});
    auto group = program_id(0), batch = program_id(1);
    auto depth = x.extent(2), space = x.extent(3);
    auto write = [&](const Span &channels, const Span &here, const Tile<f32, 2> &v, const Scalar<f32> &average,
                     const Scalar<f32> &scale) {
      auto result = (v - average) * scale;
      if (weighted)
        result = result * expand(cast<f32>(weight(group, channels)), 1);
      if (biased)
        result = result + expand(cast<f32>(bias(group, channels)), 1);
      out(batch, group, channels, here) = cast<T>(result);
    };
    auto keep = [&](const Scalar<f32> &average, const Scalar<f32> &scale) { // at the end: loads do not move past it
      if (with_mean)
        mean(batch, group) = average;
      if (with_rstd)
        rstd(batch, group) = scale;
    };
    auto isInside = [&](const Span &channels, const Span &here) {
      return (expand(channels.indices(), 1) < depth) & (expand(here.indices(), 0) < space);
    };
    if (resident) {
      auto channels = span(0, block_depth), here = span(0, block);
      auto v = cast<f32>(x(batch, group, channels, here));
      Scalar<f32> count = cast<f32>(depth * space), rough = approx_reciprocal(count);
      Scalar<f32> inverse = fma(fma(-rough, count, 1.0f), rough, rough); // a division is a call
      auto meanOf = [&](const Tile<f32, 2> &tile) -> Scalar<f32> {
        // Where blocks meet for each, by one reduction.
        Scalar<f32> total = cluster > 1 ? sum(reshape<1>(tile, {-1}), 0) : sum(sum(tile, 1), 0), near = total * inverse;
        return fma(fma(-near, count, total), inverse, near); // to half an ulp, which is much where the mean is large
      };
      Scalar<f32> average = meanOf(v);
      Tile<f32, 2> difference = v - average;
      if (!whole)
        difference = where(isInside(channels, here), difference, 0.0f);
      Scalar<f32> scale = rsqrt(meanOf(difference * difference) + eps);
      write(channels, here, v, average, scale);
      keep(average, scale);
      return;
    }
    auto means = zeros<f32>({block_depth, block}), squares = means, counts = means;
    Scalar<f32> tiles = 0.0f;
    for (auto c : range(0, depth, block_depth)) {
      auto channels = span(c, block_depth);
      for (auto s : range(0, space, block)) {
        auto here = span(s, block);
        auto v = cast<f32>(x(batch, group, channels, here));
        if (whole) { // every lane has seen as many
          tiles = tiles + 1.0f;
          auto difference = v - means;
          means = means + difference * (1.0f / tiles);
          squares = squares + difference * (v - means);
        } else {
          auto inside = isInside(channels, here);
          auto more = counts + where(inside, full<f32>({block_depth, block}, 1.0f), 0.0f);
          auto difference = where(inside, v - means, 0.0f);
          means = means + difference / maximum(more, 1.0f);
          squares = squares + difference * (v - means);
          counts = more;
        }
      }
    }
    if (whole)
      counts = full<f32>({block_depth, block}, tiles);
    using Moments = std::tuple<Scalar<f32>, Scalar<f32>, Scalar<f32>>; // mean, squared differences, count
    auto together = [](const Moments &a, const Moments &b) {
      auto [meanA, squaresA, countA] = a;
      auto [meanB, squaresB, countB] = b;
      auto count = countA + countB;
      auto share = countB / maximum(count, 1.0f);
      auto difference = meanB - meanA;
      return Moments(meanA + difference * share, squaresA + squaresB + difference * difference * countA * share, count);
    };
    auto flat = [](const auto &tile) { return reshape<1>(tile, {-1}); };
    auto [average, total, count] = reduce(std::tuple(flat(means), flat(squares), flat(counts)), 0, together);
    Scalar<f32> scale = rsqrt(total / count + eps);
    keep(average, scale);
    for (auto c : range(0, depth, block_depth)) {
      auto channels = span(c, block_depth);
      for (auto s : range(0, space, block)) {
        auto here = span(s, block);
        write(channels, here, cast<f32>(x(batch, group, channels, here)), average, scale);
      }
    }
  }
};

BITLOOM_REGISTER(GroupNorm<f32>, GroupNorm<f16>, GroupNorm<bf16>)

} // namespace bitloom::kernels
