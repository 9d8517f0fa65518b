#include "bitloom/dsl/Kernel.h"

namespace bitloom::kernels {

// A sum of products in as much memory as one of f32, whose end result is in 16 bits and in its place: out has it
// rounded, rest what that leaves, together 16 bits of it and more. The addends, out's and rest's contents before, may
// be in the same memory; the last product of a sum needs no rest.
template <class T> struct MatmulSum {
  static constexpr auto name = "matmul_sum";
  static constexpr auto summary = "out + rest = a · b + addend + addend_rest, out being the sum rounded";
  static constexpr auto tests =
      "m=1 n=1 k=1; m=17 n=33 k=65 added=1; m=129 n=70 k=199 a_transposed=1 added=1; m=129 n=272 k=208 added=1; m=65 "
      "n=70 k=199 a_transposed=1 b_transposed=1 added=1; m=200 n=264 k=72 a_transposed=1 added=1";
  static constexpr auto benchmarks = "m=4096 n=4096 k=16384 added=1; m=128256 n=4096 k=8192 a_transposed=1 added=1";

  View<const T, 2> a{"m, k"}, b{"k, n"};
  View<const T, 2> addend{"m * added, n"}, addend_rest{"m * added, n"};
  View<T, 2> out{"m, n"}, rest{"m * with_rest, n"};
  Meta<bool> added = "addend.given", with_rest = "rest.given";
  Meta<bool> a_transposed = "a.transposed", b_transposed = "b.transposed";
  Meta<int> block_m = "max(8, min(next_pow2(m), 128 + 128 * (compute_capability == 0)))";
  // As for matmul; with a as it lies the sums are long enough to outweigh stores that nothing else covers.
  Meta<int> block_n = "max(16, min(next_pow2(n), 64 + 64 * (m > 32) + 128 * (m > 128) * (compute_capability == 90) * "
                      "(1 - a_transposed) * (ceil_div(m, 128) * ceil_div(n, 128) > multiprocessors) * "
                      "(32 * ceil_div(ceil_div(m, 128) * ceil_div(n, 256), max(multiprocessors, 1)) <= "
                      "17 * ceil_div(ceil_div(m, 128) * ceil_div(n, 128), max(multiprocessors, 1)))))";
  Meta<int> block_k = "max(16, min(next_pow2(k), 64 + 64 * (compute_capability == 0)))";
  BITLOOM_PARAMS(a, b, addend, addend_rest, out, rest, added, with_rest, a_transposed, b_transposed, block_m, block_n,
                 block_k)

  Grid grid() const { return {ceil_div(out.extent(0), block_m), ceil_div(out.extent(1), block_n)}; }

  void operator()() const {
    auto rows = block_at(program_id(0), block_m), cols = block_at(program_id(1), block_n);
    auto acc = zeros<f32>({block_m, block_n});
    for (auto k : range(0, a.extent(1), block_k)) {
      auto depth = span(k, block_k);
      acc = dot(a(rows, depth), b(depth, cols), acc);
    }
    if (added)
      acc = acc + (cast<f32>(addend(rows, cols)) + cast<f32>(addend_rest(rows, cols)));
    auto rounded = cast<T>(acc);
    out(rows, cols) = rounded;
    if (with_rest)
      rest(rows, cols) = cast<T>(acc - cast<f32>(rounded));
  }
};

BITLOOM_REGISTER(MatmulSum<bf16>)

} // namespace bitloom::kernels
