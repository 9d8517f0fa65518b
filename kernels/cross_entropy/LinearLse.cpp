#include "bitloom/dsl/Kernel.h"

namespace bitloom::kernels {

// What a cross entropy needs of a linear layer's results, which are not written: a program has a tile of them, and
// gives a part of each row's normaliser. Results are rounded to T first: so they are where somebody computes them again
// to store them.
template <class T> struct LinearLse {
  static constexpr auto name = "linear_lse";
  static constexpr auto summary = "of each row of x = a · b + bias and each block_n columns: lse, log sum(exp(x)); "
                                  "with targets own, the target's x or 0; on request x itself, without softcap";
  static constexpr auto tests = "m=1 n=1 k=1; m=17 n=33 k=65 biased=1 first=5 with_own=1; m=199 n=300 k=72 "
                                "b_transposed=1 with_own=1 with_logits=1; m=129 "
                                "n=256 k=96 b_transposed=1 softcap=2.5 biased=1; m=3 n=257 k=199 softcap=1.5";
  static constexpr auto benchmarks = "m=4096 n=128256 k=4096 b_transposed=1";
  static constexpr auto inputs = "target=0..n-1";

  View<const T, 2> a{"m, k"}, b{"k, n"};
  View<const i64, 1> target{"m * with_own"};
  View<const T, 1> bias{"n * biased"};
  View<f32, 2> lse{"ceil_div(n, block_n), m"}, own{"ceil_div(n, block_n) * with_own, m"};
  View<T, 2> logits{"m * with_logits, n"};
  Param<i64> first = 0;      // the first column's class
  Param<f32> softcap = 0.0f; // where given: above 0
  Meta<bool> biased = "bias.given", capped = "softcap.given", with_own = "target.given", with_logits = "logits.given";
  Meta<bool> a_transposed = "a.transposed", b_transposed = "b.transposed";
  Meta<int> block_m = "max(8, min(next_pow2(m), 128 + 128 * (compute_capability == 0)))", block_n = 128;
  Meta<int> block_k = "max(16, min(next_pow2(k), 64 + 64 * (compute_capability == 0)))";
  Meta<bool> whole = "n % block_n == 0"; // no tile reaches past the row
  BITLOOM_PARAMS(a, b, target, bias, lse, own, logits, first, softcap, biased, capped, with_own, with_logits,
                 a_transposed, b_transposed, block_m, block_n, block_k, whole)

  Grid grid() const { return {ceil_div(a.extent(0), block_m), lse.extent(0)}; }

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
    auto rounded = cast<T>(acc);
    if (with_logits)
      logits(rows, cols) = rounded;
    auto x = cast<f32>(rounded);
    if (capped)
      x = softcap * tanh(x / softcap);
    auto columns = broadcast(expand(cols.indices(), 0), {block_m, block_n});
    if (with_own)
      own(program_id(1), rows) = sum(where(columns == expand(target(rows) - first, 1), x, 0.0f), 1);
    if (!whole)
      x = where(columns < b.extent(1), x, -infinity);
    auto top = maximum(max(x, 1), std::numeric_limits<float>::lowest()); // finite: no infinities are subtracted
    lse(program_id(1), rows) = top + log(sum(exp(x - expand(top, 1)), 1));
  }
};

BITLOOM_REGISTER(LinearLse<f32>, LinearLse<f16>, LinearLse<bf16>)

} // namespace bitloom::kernels
