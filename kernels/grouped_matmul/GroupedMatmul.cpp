#include "bitloom/dsl/Kernel.h"
#include "bitloom/kernels/grouped_matmul/TileOfGroup.h"

namespace bitloom::kernels {

// The experts of a mixture: the rows of x come sorted by group, group g has those from offsets[g] to offsets[g + 1] - 1
// and the weight w[g]. Rows of no group are not written.
template <class T> struct GroupedMatmul {
  static constexpr auto name = "grouped_matmul";
  static constexpr auto summary = "out = x · w[g]^T in the rows offsets[g] to offsets[g + 1] - 1 of each group g";
  static constexpr auto tests =
      "tokens=1 groups=1 n=1 k=1; tokens=3 groups=5 n=17 k=33; tokens=199 groups=3 n=33 k=65; tokens=129 groups=17 "
      "n=70 "
      "k=199; tokens=257 groups=2 n=129 k=40; tokens=33 groups=4 n=48 k=64 w_transposed=1; "
      "tokens=150 groups=3 n=20 k=17 block_m=16; tokens=199 groups=65 n=33 k=17";
  static constexpr auto benchmarks = "tokens=4096 groups=8 n=14336 k=4096; tokens=8192 groups=64 n=2048 k=1408";
  static constexpr auto inputs = "offsets=0..tokens ascending";

  View<const T, 2> x{"tokens, k"};
  View<const T, 3> w{"groups, n, k"};
  View<const i32, 1> offsets{"groups + 1"}; // ascending, from 0 to tokens
  View<T, 2> out{"tokens, n"};
  Meta<bool> w_transposed = "w.transposed";
  Meta<int> all = "next_pow2(groups)";
  Meta<int> block_m = "max(16, min(next_pow2(ceil_div(tokens, max(groups, 1))), 128))";
  // Twice as wide for Hopper's tensor cores: no group of warps computes while another stores, where programs may be
  // empty.
  Meta<int> block_n = sizeof(T) == 2 ? "max(16, min(next_pow2(n), 128 + 128 * (compute_capability == 90) * "
                                       "(block_m == 128) * (k % 8 == 0)))"
                                     : "max(16, min(next_pow2(n), 128))";
  Meta<int> block_k = "max(16, min(next_pow2(k), 64))";
  BITLOOM_PARAMS(x, w, offsets, out, w_transposed, all, block_m, block_n, block_k)

  Grid grid() const { return {x.extent(0) / block_m + w.extent(0), ceil_div(out.extent(1), block_n)}; }

  void operator()() const {
    auto cols = block_at(program_id(1), block_n);
    // Without gaps in the programs' numbers, which takes some 30 cycles a group and program on Hopper.
    const TileOfGroup tile = all <= 64 ? countedTileOfGroup(offsets, program_id(0), block_m)
                                       : tileOfGroup(offsets, program_id(0), block_m, all);
    when(tile.row < tile.end, [&] {
      auto rows = span(tile.row, block_m);
      auto acc = zeros<f32>({block_m, block_n});
      for (auto k : range(0, x.extent(1), block_k)) {
        auto depth = span(k, block_k);
        acc = dot(x(rows, depth), trans(w(tile.group, cols, depth)), acc);
      }
      auto result = cast<T>(acc);
      when(
          tile.row + block_m <= tile.end, [&] { out(rows, cols) = result; },
          [&] { // the rows after are another group's
            auto own = broadcast(expand(rows.indices() < tile.end, 1), {block_m, block_n});
            out.scatter_if(own, result, expand(rows.indices(), 1), expand(cols.indices(), 0));
          });
    });
  }
};

BITLOOM_REGISTER(GroupedMatmul<f32>, GroupedMatmul<f16>, GroupedMatmul<bf16>)

} // namespace bitloom::kernels
