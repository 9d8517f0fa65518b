#include "bitloom/dsl/Kernel.h"

namespace bitloom::kernels {

// Products of quantised matrices where b has a scale for each group of its rows in a column, and a one for each row:
//
//   out[i, j] = scale_a[i] · Σ_g scales[g, j] · Σ_{k in g} a[i, k] · b[k, j] + addend[i, j]
//
// The sum over a group is exact where T is an integer, and that over groups is in f32.
template <class T, class Out> struct GroupScaledMatmul {
  static constexpr auto name = "group_scaled_matmul";
  static constexpr auto summary = "out = scale_a · (sum of scales[g] · a · b over the groups g along k) + addend";
  static constexpr auto tests =
      "m=1 n=1 k=128 groups=1; m=3 n=17 k=256 group=32 groups=8; m=17 n=33 k=64 group=16 groups=4 b_transposed=1; "
      "m=129 n=130 k=384 groups=3 b_transposed=1; m=65 n=70 k=256 group=64 groups=4 added=1; "
      "m=5 n=199 k=512 group=256 groups=2 b_transposed=1";
  static constexpr auto benchmarks = "m=4096 n=4096 k=4096 groups=32 b_transposed=1";
  static constexpr auto tuning = "block_m=8,16,32,64,128,256; block_n=16,32,64,128,256";

  View<const T, 2> a{"m, k"}, b{"k, n"};
  View<const f32, 2> scales{"groups, n"}; // of ceil_div(k, group) groups
  View<const f32, 1> scale_a{"m"};
  View<const Out, 2> addend{"m * added, n"};
  View<Out, 2> out{"m, n"};
  Meta<int> group = 128; // a power of two from 16 upwards
  Meta<bool> added = "addend.given", b_transposed = "b.transposed";
  Meta<int> block_m = "max(8, min(next_pow2(m), 128))";
  Meta<int> block_n = "max(16, min(next_pow2(n), 64 + 64 * (m > 32)))";
  BITLOOM_PARAMS(a, b, scales, scale_a, addend, out, group, added, b_transposed, block_m, block_n)

  Grid grid() const { return {ceil_div(out.extent(0), block_m), ceil_div(out.extent(1), block_n)}; }

  void operator()() const {
    using Sum = std::conditional_t<std::is_integral_v<T>, i32, f32>;
    auto rows = block_at(program_id(0), block_m), cols = block_at(program_id(1), block_n);
    auto total = zeros<f32>({block_m, block_n});
    for (auto g : range(0, scales.extent(0))) {
      auto depth = block_at(g, group);
      auto product = cast<f32>(dot(a(rows, depth), b(depth, cols), zeros<Sum>({block_m, block_n})));
      total = total + product * expand(scales(g, cols), 0);
    }
    total = total * expand(scale_a(rows), 1);
    if (added)
      total = total + cast<f32>(addend(rows, cols));
    out(rows, cols) = cast<Out>(total);
  }
};

BITLOOM_REGISTER(GroupScaledMatmul<i8, f32>, GroupScaledMatmul<i8, f16>, GroupScaledMatmul<i8, bf16>,
                 GroupScaledMatmul<f8e4m3, f32>, GroupScaledMatmul<f8e4m3, f16>, GroupScaledMatmul<f8e4m3, bf16>)

} // namespace bitloom::kernels
