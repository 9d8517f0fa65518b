#include "bitloom/dsl/Kernel.h"

namespace bitloom::kernels {

// A sum of products in as much memory as one of f32, whose end result is in 16 bits and in its place: out has it
// rounded, rest what that leaves, together 16 bits of it and more. The addends, out's and rest's contents before, may
// be in the same memory; the last product of a sum needs no rest.
//
// With an identity matrix the addends are two more products, [a | 1 | 1] · [b; addend; addend_rest] in every 128 rows:
// as exact, and they come by the ring that a and b come by, ahead and through no registers. That is 256 steps of the
// depth, for reads that nothing would cover at the end of a tile of 256 columns. But 0 · ∞ is no number there: where an
// addend is not finite, the others of its column in these rows are not either.
template <class T> struct MatmulSum {
  static constexpr auto name = "matmul_sum";
  static constexpr auto summary = "out + rest = a · b + addend + addend_rest, out being the sum rounded";
  static constexpr auto tests =
      "m=1 n=1 k=1; m=17 n=33 k=65 added=1; m=129 n=70 k=199 a_transposed=1 added=1; m=129 n=272 k=208 added=1; m=65 "
      "n=70 k=199 a_transposed=1 b_transposed=1 added=1; m=200 n=264 k=72 a_transposed=1 added=1; m=3 n=17 k=5 added=1 "
      "by_product=1; m=257 n=272 k=72 added=1 by_product=1; m=200 n=264 k=65 added=1 by_product=1 a_transposed=1 "
      "identity_transposed=1";
  // The last three are of the sums of a weight's gradient and of an input's.
  static constexpr auto benchmarks =
      "m=4096 n=4096 k=16384 added=1; m=4096 n=4096 k=16384 added=1 with_rest=1; m=128256 n=4096 k=8192 a_transposed=1 "
      "added=0 with_rest=1; m=128256 n=4096 k=8192 a_transposed=1 added=1 by_product=1 identity_transposed=1; m=16384 "
      "n=4096 k=7296 added=1 with_rest=1 by_product=1";

  View<const T, 2> a{"m, k"}, b{"k, n"};
  View<const T, 2> addend{"m * added, n"}, addend_rest{"m * added, n"};
  View<const T, 2> identity{"128 * by_product, 128 * by_product"}; // best as a lies
  View<T, 2> out{"m, n"}, rest{"m * with_rest, n"};
  Meta<bool> added = "addend.given", with_rest = "rest.given";
  Meta<bool> by_product = "identity.given";
  Meta<bool> a_transposed = "a.transposed", b_transposed = "b.transposed", identity_transposed = "identity.transposed";
  Meta<int> block_m = "max(8, min(next_pow2(m), 128 + 128 * (compute_capability == 0) * (by_product == 0)))";
  // As for matmul, but that an addend's tile of 256 columns would not fit the registers beside the sum's.
  Meta<int> block_n = "max(16, min(next_pow2(n), 64 + 64 * (m > 32) + 128 * (m > 128) * (compute_capability == 90) * "
                      "max(by_product, added == 0) * (ceil_div(m, 128) * ceil_div(n, 128) > multiprocessors) * "
                      "(32 * ceil_div(ceil_div(m, 128) * ceil_div(n, 256), max(multiprocessors, 1)) <= "
                      "17 * ceil_div(ceil_div(m, 128) * ceil_div(n, 128), max(multiprocessors, 1)))))";
  Meta<int> block_k = "max(16, min(next_pow2(k), 64 + 64 * (compute_capability == 0)))";
  BITLOOM_PARAMS(a, b, addend, addend_rest, out, rest, identity, added, with_rest, by_product, a_transposed,
                 b_transposed, identity_transposed, block_m, block_n, block_k)

  Grid grid() const { return {ceil_div(out.extent(0), block_m), ceil_div(out.extent(1), block_n)}; }

  void operator()() const {
    auto rows = block_at(program_id(0), block_m), cols = block_at(program_id(1), block_n);
    auto acc = zeros<f32>({block_m, block_n});
    for (auto k : range(0, a.extent(1), block_k)) {
      auto depth = span(k, block_k);
      acc = dot(a(rows, depth), b(depth, cols), acc);
    }
    if (added && by_product) {
      for (const auto *view : {&addend, &addend_rest})
        for (auto k : range(0, block_m, block_k))
          acc = dot(identity(span(0, block_m), span(k, block_k)), (*view)(span(rows.start + k, block_k), cols), acc);
    } else if (added)
      acc = acc + (cast<f32>(addend(rows, cols)) + cast<f32>(addend_rest(rows, cols)));
    auto rounded = cast<T>(acc);
    out(rows, cols) = rounded;
    if (with_rest)
      rest(rows, cols) = cast<T>(acc - cast<f32>(rounded));
  }
};

BITLOOM_REGISTER(MatmulSum<bf16>)

} // namespace bitloom::kernels
