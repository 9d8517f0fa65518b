#include "bitloom/dsl/Kernel.h"

#include <numbers>

namespace bitloom::kernels {

// The gradient of a cross entropy by a linear layer's results, which are not written: a program has a tile of them, and
// stores what cross_entropy_part_backward would make of it without smoothing and softcap, which take more registers
// than there are. Results are rounded to T first, as linear_lse rounds them.
template <class T> struct LinearCrossEntropyBackward {
  static constexpr auto name = "linear_cross_entropy_backward";
  static constexpr auto summary =
      "dlogits = slope * exp(x - lse) - least * [column + first == target], x = a · b + bias";
  static constexpr auto tests = "m=1 n=1 k=1; m=17 n=33 k=65 biased=1 first=5; m=199 n=300 k=72 b_transposed=1; m=129 "
                                "n=256 k=96 b_transposed=1 biased=1; m=3 n=257 k=199 first=3";
  static constexpr auto benchmarks = "m=16384 n=7296 k=4096 b_transposed=1";
  static constexpr auto inputs = "target=0..n-1";

  View<const T, 2> a{"m, k"}, b{"k, n"};
  View<const i64, 1> target{"m"};
  View<const f32, 1> lse{"m"}, slope{"m"}, least{"m"};
  View<const T, 1> bias{"n * biased"};
  View<T, 2> dlogits{"m, n"};
  Param<i64> first = 0; // the first column's class
  Meta<bool> biased = "bias.given";
  Meta<bool> a_transposed = "a.transposed", b_transposed = "b.transposed";
  Meta<int> block_m = "max(8, min(next_pow2(m), 128 + 128 * (compute_capability == 0)))", block_n = 128;
  Meta<int> block_k = "max(16, min(next_pow2(k), 64 + 64 * (compute_capability == 0)))";
  BITLOOM_PARAMS(a, b, target, lse, slope, least, bias, dlogits, first, biased, a_transposed, b_transposed, block_m,
                 block_n, block_k)

  Grid grid() const { return {ceil_div(a.extent(0), block_m), ceil_div(b.extent(1), block_n)}; }

  void operator()() const {
    auto rows = block_at(program_id(0), block_m), cols = block_at(program_id(1), block_n);
    auto acc = zeros<f32>({block_m, block_n});
    for (auto k : range(0, a.extent(1), block_k)) {
      auto depth = span(k, block_k);
      if (std::same_as<T, f32>) // in blocks along k, as matmul
        acc = acc + dot(a(rows, depth), b(depth, cols), zeros<f32>({block_m, block_n}));
      else
        acc = dot(a(rows, depth), b(depth, cols), acc);
    }
    if (biased)
      acc = acc + cast<f32>(expand(bias(cols), 0));
    auto x = cast<f32>(cast<T>(acc));
    // e^(x − lse) · slope, of one fma and one exp2.
    constexpr float log2e = std::numbers::log2e_v<float>;
    const int64_t tile[] = {block_m, block_n};
    auto gradient = exp2(fma(x, log2e, broadcast(expand(lse(rows) * -log2e, 1), tile))) * expand(slope(rows), 1);
    // Of 32 bits: a class that these make a column of is none, and has nothing taken away.
    auto place = broadcast(expand(cast<i32>(target(rows) - (first + cols.start)), 1), tile);
    auto isClass = broadcast(expand(arange<i32>(block_n), 0), tile) == place;
    dlogits(rows, cols) = cast<T>(gradient - where(isClass, broadcast(expand(least(rows), 1), tile), 0.0f));
  }
};

BITLOOM_REGISTER(LinearCrossEntropyBackward<f32>, LinearCrossEntropyBackward<f16>, LinearCrossEntropyBackward<bf16>)

} // namespace bitloom::kernels
