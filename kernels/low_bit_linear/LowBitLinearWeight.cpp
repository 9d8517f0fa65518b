#include "bitloom/dsl/Kernel.h"
#include "bitloom/kernels/low_bit_linear/Weight.h"

namespace bitloom::kernels {

// The weight of low_bit_linear as a matrix, in the unit of its scales: for products with so many rows that taking it
// apart once pays.
template <class T> struct LowBitLinearWeight {
  static constexpr auto name = "low_bit_linear_weight";
  static constexpr auto summary = "out = scale · (v - zero), the values of a weight as low_bit_linear has it";
  static constexpr auto tests =
      "n=3 columns=128; n=17 columns=256 bits=8; n=8 columns=256 bits=1; n=9 columns=384 bits=2 asymmetric=1; n=33 "
      "columns=384 bits=3 group=32; n=8 columns=256 bits=5; n=8 columns=256 bits=6 group=16 asymmetric=1; n=5 "
      "columns=1024 bits=7 group=384; n=9 columns=256 group=8; n=17 columns=384 group=32 tabled=1";
  static constexpr auto benchmarks = "n=4096 columns=4096; n=4096 columns=4096 group=32 asymmetric=1";
  static constexpr auto conditions = "columns % 128 == 0";

  View<const u8, 2> weight{"ceil_div(n, together), columns / 8 * together * bits"};
  View<const T, 2> scales{"ceil_div(columns, max(group, 128)), n * max(128 / group, 1)"};
  View<const T, 2> zeros{"ceil_div(columns, max(group, 128)) * asymmetric, n * max(128 / group, 1)"};
  View<const T, 1> table{"16 * tabled"};
  View<T, 2> out{"n, columns"};
  Meta<int> bits = 4;
  Meta<int> group = 128;             // 8, 16, 32, 64 or a multiple of 128
  Meta<int> together = rowsTogether; // rows of the weight in a block
  Meta<bool> asymmetric = "zeros.given", tabled = "table.given";
  Meta<int> block_n = 32;
  BITLOOM_PARAMS(weight, scales, zeros, table, out, bits, group, together, asymmetric, tabled, block_n)

  Grid grid() const { return {ceil_div(out.extent(0), block_n), ceil_div(out.extent(1), BlockOfWeight::columns)}; }

  void operator()() const {
    const BlockOfWeight blocks(bits, group, together, block_n);
    auto rows = block_at(program_id(0), block_n);
    auto entries = blocks.entries<T>(table, tabled, asymmetric);
    auto b = program_id(1);
    auto numbers = [&](const View<const T, 2> &view) { return view(blocks.group(b), blocks.numbers(program_id(0))); };
    auto bytes = weight(blocks.panels(program_id(0)), block_at(b, blocks.packing.bytesPerBlock()));
    auto values = blocks.values<T>(bytes, entries, asymmetric, [&] { return numbers(zeros); });
    out(rows, block_at(b, blocks.columns)) = values * blocks.each<T>(numbers(scales));
  }
};

BITLOOM_REGISTER(LowBitLinearWeight<f16>, LowBitLinearWeight<bf16>)

} // namespace bitloom::kernels
