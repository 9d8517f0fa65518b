#include "bitloom/dsl/Kernel.h"
#include "bitloom/kernels/low_bit_matmul/GroupProducts.h"
#include "bitloom/kernels/low_bit_matmul/QuantizedRow.h"

namespace bitloom::kernels {

// quantize_rows and low_bit_matmul of one row in one launch, bit for bit. Each program quantises the row for itself,
// into memory of its own that stays in its caches; so there are few programs, each for many panels of the weight.
template <class T, class Scale> struct LowBitMatvec {
  static constexpr auto name = "low_bit_matvec";
  static constexpr auto summary =
      "out = quantised(x) · dequantised(weight)^T, one row of floats, weights of 1 to 8 bits";
  static constexpr auto tests =
      "n=32 k=256; n=40 k=199 group=32; n=199 k=40 group=48 bits=2; n=64 k=257 asymmetric=1; n=17 k=130; "
      "n=1033 k=300 bits=8 panels=3; n=700 k=17 group=16 bits=3 panels=1; n=45 k=1 lanes=16 biased_fields=2 rows=64";
  static constexpr auto benchmarks = "n=4096 k=4096; n=1024 k=1024";

  static constexpr bool onlyCpus = true;

  View<const T, 2> x{"1, k"};
  View<const u8, 2> weight{"ceil_div(n, rows), ceil_div(k, group) * group * rows * bits / 8"};
  View<const Scale, 2> scales{"ceil_div(k, group), n"};
  View<const f32, 2> zeros{"ceil_div(k, group) * asymmetric, n"};
  View<f32, 2> out{"1, n"};
  // A program's row, and the sums of its groups.
  View<u8, 2> bytes{"ceil_div(n, rows * panels), ceil_div(k, group) * group"};
  View<f32, 2> sums{"ceil_div(k, group), ceil_div(n, rows * panels)"};
  Meta<int> bits = 4;
  Meta<int> group = 128; // a multiple of 16
  // The packing of the weight, as of low_bit_matmul.
  Meta<int> lanes = 4, depth = 4, rows = "max(lanes * 8, 32)";
  Meta<int> biased_fields = Meta<int>::oneOf("none, low, all");
  Meta<bool> asymmetric = "zeros.given";
  Meta<int> panels = "ceil_div(n, 8 * rows)"; // of the weight, for a program
  BITLOOM_PARAMS(x, weight, scales, zeros, out, bytes, sums, bits, group, lanes, depth, rows, biased_fields, asymmetric,
                 panels)

  Grid grid() const { return {ceil_div(out.extent(1), rows * panels)}; }

  void operator()() const {
    auto own = block_at(program_id(0), 1), row = span(0, 1);
    const RowNumbers numbers = rowNumbers(x, row, 1, group, /*asymmetric=*/false);
    for (auto g : range(0, sums.extent(0))) {
      auto here = block_at(g, group);
      auto q = quantised(x, row, here, numbers);
      sums(g, own) = sum(q, 1);
      bytes(own, here) = bitcast<u8>(cast<i8>(q));
    }
    const Packing packing{.bits = 8, .order = Packing::Order::LowFirst, .block = 8};
    auto first = program_id(0) * panels;
    for (auto i : range(0, minimum(weight.extent(0) - first, panels))) {
      auto products = groupProducts(*this, first + i, rows, Activations{bytes, sums, own, own, 1, packing, true});
      out(row, block_at(first + i, rows)) = products * expand(numbers.scale, 1);
    }
  }
};

BITLOOM_REGISTER(LowBitMatvec<f32, bf16>, LowBitMatvec<f16, bf16>, LowBitMatvec<bf16, bf16>, LowBitMatvec<f32, f32>,
                 LowBitMatvec<f16, f32>, LowBitMatvec<bf16, f32>)

} // namespace bitloom::kernels
