#include "bitloom/dsl/Kernel.h"
#include "bitloom/kernels/matmul/Activation.h"
#include "bitloom/kernels/matmul/Tiles.h"

namespace bitloom::kernels {

// One program computes one tile of c. a and b may lie either way round in memory: b = weight.T costs no copy. Integers
// accumulate exactly in i32, floats in f32; products of full f32 operands in blocks along k, whose error grows with
// k / block_k + block_k rather than k (Higham, "The Accuracy of Floating Point Summation", 1993). So do those of 8-bit
// floats, since Hopper's tensor cores keep some 14 bits of their sums ("DeepSeek-V3 Technical Report", 2024, 3.3.2);
// fast_sums leaves them there. Operands that were quantised pass what multiplies them back, one scale each or one for
// each row of a and each column of b; sums of integers are exact before that. The addend may be out itself: so a
// product is added to what is there, in f32 where out is.
template <class T, class Out> struct Matmul {
  static constexpr auto name = "matmul";
  static constexpr auto summary = "out = activation(scale_a · scale_b · a · b + bias + addend)";
  static constexpr auto tests =
      "m=1 n=1 k=1; m=17 n=33 k=65; m=129 n=257 k=199 biased=1; m=3 n=199 k=17 activation=1; m=17 n=1 k=4097; "
      "m=33 n=65 k=17 b_transposed=1; m=129 n=31 k=70 a_transposed=1; m=65 n=70 k=199 a_transposed=1 b_transposed=1; "
      "m=33 n=48 k=64 block_m=16 block_n=32 block_k=16; m=129 n=272 k=208 b_transposed=1 biased=1 stream_k=1; "
      "m=129 n=70 k=199 a_transposed=1 added=1; m=257 n=272 k=208 b_transposed=1 biased=1 multicast=2";
  static constexpr auto benchmarks = "m=4096 n=4096 k=4096 b_transposed=1; m=16 n=14336 k=4096 b_transposed=1";
  static constexpr auto tuning = "block_m=8,16,32,64,128,256; block_n=16,32,64,128,256; block_k=16,32,64,128,256; "
                                 "split=1,2,4,8; stream_k=0,1";
  // Of rows that start anywhere a product takes some 6 times as long on Hopper; a copy as long as 350 rows, or columns,
  // of the other operand's. Results in such rows are stored as they are.
  static constexpr auto realigned =
      "a: (n >= 128) * (m * n * k >= 536870912); b: (m >= 128) * (m * n * k >= 536870912)";

  View<const T, 2> a{"m, k"}, b{"k, n"};
  View<const Out, 1> bias{"n * biased"};
  // Not of i8 into i32.
  View<const f32, 1> scale_a{"(1 + (m - 1) * row_scales) * scaled_a"};
  View<const f32, 1> scale_b{"(1 + (n - 1) * column_scales) * scaled_b"};
  View<const Out, 2> addend{"m * added, n"};
  View<Out, 2> out{"m, n"};
  Meta<int> activation = Meta<int>::oneOf("none, relu, silu, gelu"); // integers: none, relu
  Meta<bool> biased = "bias.given";
  Meta<bool> scaled_a = "scale_a.given", scaled_b = "scale_b.given";
  Meta<bool> row_scales = false, column_scales = false; // whether scale_a has one a row of a, scale_b one a column of b
  Meta<bool> added = "addend.given";
  Meta<bool> a_transposed = "a.transposed", b_transposed = "b.transposed";
  Meta<bool> tf32 = false;      // f32 operands may be rounded to 10 bits of mantissa
  Meta<bool> fast_sums = false; // of 8-bit floats
  Meta<int> block_m = tiles::rows().c_str(), block_n = tiles::columns<T, Out>().c_str(),
            block_k = tiles::depth<T>().c_str();
  // Thread blocks that share the sum over k of a tile: two where tiles are too few for all multiprocessors.
  Meta<int> split = "1 + (m > 64) * (k >= 8192) * "
                    "(2 * ceil_div(m, max(block_m, 1)) * ceil_div(n, max(block_n, 1)) <= multiprocessors)";
  Meta<bool> stream_k = false; // whether thread blocks share the steps along k of all tiles evenly
  Meta<int> multicast = 1;     // thread blocks with neighbouring tiles that load what these have in common together
  Meta<int> stages = 0;        // tiles of a and b on their way, at most; 0: what fits
  BITLOOM_PARAMS(a, b, bias, scale_a, scale_b, addend, out, activation, biased, scaled_a, scaled_b, row_scales,
                 column_scales, added, a_transposed, b_transposed, tf32, fast_sums, block_m, block_n, block_k, split,
                 stream_k, multicast, stages)

  Grid grid() const { return {ceil_div(out.extent(0), block_m), ceil_div(out.extent(1), block_n)}; }

  void operator()() const {
    hints({.stages = stages, .split = stream_k ? 1 : int(split), .stream_k = stream_k, .multicast = multicast});
    using Sum = std::conditional_t<std::is_integral_v<T>, i32, f32>;
    auto rows = block_at(program_id(0), block_m), cols = block_at(program_id(1), block_n);
    const bool blocked = (std::same_as<T, f32> && !tf32) || (isStorageFloat(dtypeOf<T>) && !fast_sums);
    auto acc = zeros<Sum>({block_m, block_n});
    auto add = [&](auto &sum, const Scalar<i64> &k) {
      auto depth = span(k, block_k);
      sum = dot(a(rows, depth), b(depth, cols), sum, tf32);
    };
    auto depth = a.extent(1);
    for (auto k : range(0, depth, block_k)) {
      if (blocked) {
        auto partial = zeros<Sum>({block_m, block_n});
        add(partial, k);
        acc = acc + partial;
      } else {
        add(acc, k);
      }
    }
    using Result = std::conditional_t<std::is_integral_v<Out>, i32, f32>;
    auto result = cast<Result>(acc);
    if constexpr (std::is_integral_v<Out>) {
      if (scaled_a || scaled_b)
        throw UserError("argument scale_a, scale_b: expected an out of floats, got integers");
    } else {
      if (scaled_a)
        result = row_scales ? result * expand(scale_a(rows), 1) : result * Scalar<f32>(scale_a(0));
      if (scaled_b)
        result = column_scales ? result * expand(scale_b(cols), 0) : result * Scalar<f32>(scale_b(0));
    }
    if (biased)
      result = result + cast<Result>(expand(bias(cols), 0));
    if (added)
      result = result + cast<Result>(addend(rows, cols));
    out(rows, cols) = cast<Out>(activated(result, activation));
  }
};

BITLOOM_REGISTER(Matmul<f32, f32>, Matmul<f16, f16>, Matmul<bf16, bf16>, Matmul<i8, i32>, Matmul<f8e4m3, bf16>,
                 Matmul<f8e5m2, bf16>, Matmul<f16, f32>, Matmul<bf16, f32>, Matmul<i8, f32>, Matmul<i8, f16>,
                 Matmul<i8, bf16>, Matmul<f8e4m3, f32>, Matmul<f8e4m3, f16>)

} // namespace bitloom::kernels
