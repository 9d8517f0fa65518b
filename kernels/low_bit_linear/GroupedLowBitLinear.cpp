#include "bitloom/dsl/Kernel.h"
#include "bitloom/kernels/grouped_matmul/TileOfGroup.h"
#include "bitloom/kernels/low_bit_linear/Weight.h"

namespace bitloom::kernels {

// The experts of a mixture, with weights as low_bit_linear has them: the rows of x come sorted by expert, expert e has
// those from offsets[e] to offsets[e + 1] - 1. Rows of no expert are not written. Tiles are those of low_bit_linear.
template <class T> struct GroupedLowBitLinear {
  static constexpr auto name = "grouped_low_bit_linear";
  static constexpr auto summary =
      "out = x · dequantised(weight[e])^T in the rows offsets[e] to offsets[e + 1] - 1 of each expert e";
  static constexpr auto tests =
      "tokens=1 experts=1 n=8 k=128; tokens=3 experts=5 n=17 k=199; tokens=70 experts=3 n=33 k=270 bits=3 group=32; "
      "tokens=37 experts=9 n=70 k=130 bits=8 asymmetric=1; tokens=40 experts=2 n=20 k=300 group=16 asymmetric=1 "
      "in_units=1 block_m=16; tokens=150 experts=2 n=9 k=256 bits=2 group=256; tokens=9 experts=2 n=17 k=199 tabled=1";
  static constexpr auto benchmarks = "tokens=16 experts=8 n=14336 k=4096; tokens=1024 experts=64 n=2048 k=4096";
  static constexpr auto inputs = "offsets=0..tokens ascending";

  View<const T, 2> x{"tokens, k"};
  View<const u8, 3> weight{"experts, ceil_div(n, together), ceil_div(k, 128) * together * 16 * bits"};
  View<const T, 3> scales{"experts, ceil_div(k, max(group, 128)), n * max(128 / group, 1)"};
  View<const i32, 1> offsets{"experts + 1"}; // ascending, from 0 to tokens
  View<const T, 3> zeros{"experts * asymmetric, ceil_div(k, max(group, 128)), n * max(128 / group, 1)"};
  View<const T, 1> table{"16 * tabled"};
  View<const f32, 1> unit{"experts * in_units"}; // of the scales
  View<T, 2> out{"tokens, n"};
  Meta<int> bits = 4;
  Meta<int> group = 128;             // of columns: 8, 16, 32, 64 or a multiple of 128
  Meta<int> together = rowsTogether; // rows of the weight in a block
  Meta<bool> asymmetric = "zeros.given", tabled = "table.given", in_units = "unit.given";
  Meta<int> all = "next_pow2(experts)";
  Meta<int> block_m = "max(8, min(next_pow2(ceil_div(tokens, max(experts, 1))), 128))";
  Meta<int> block_n = "max(64, min(next_pow2(n), 128 + 128 * (block_m <= 16)))";
  Meta<bool> premultiplied = "max(group < 128, block_m > 32)";
  BITLOOM_PARAMS(x, weight, scales, offsets, zeros, table, unit, out, bits, group, together, asymmetric, tabled,
                 in_units, all, block_m, block_n, premultiplied)

  Grid grid() const { return {x.extent(0) / block_m + weight.extent(0), ceil_div(out.extent(1), block_n)}; }

  void operator()() const {
    const BlockOfWeight blocks(bits, group, together, block_n);
    if (group < blocks.columns && !premultiplied)
      throw UserError("argument premultiplied: expected true with groups of less than 128 columns, got false");
    hints({.warps = std::max(4, block_n / 16)});
    auto cols = block_at(program_id(1), block_n);
    const TileOfGroup tile = tileOfGroup(offsets, program_id(0), block_m, all);
    when(tile.row < tile.end, [&] {
      auto rows = span(tile.row, block_m);
      auto entries = blocks.entries<T>(table, tabled, asymmetric);
      auto total = bitloom::zeros<f32>({block_n, block_m});
      for (auto b : range(0, ceil_div(x.extent(1), blocks.columns))) {
        auto depth = trans(x(rows, block_at(b, blocks.columns)));
        auto numbers = [&](const View<const T, 3> &view) {
          return view(tile.group, blocks.group(b), blocks.numbers(program_id(1)));
        };
        auto bytes = weight(tile.group, blocks.panels(program_id(1)), block_at(b, blocks.packing.bytesPerBlock()));
        auto values = blocks.values<T>(bytes, entries, asymmetric, [&] { return numbers(zeros); });
        if (premultiplied) {
          total = dot(values * blocks.each<T>(numbers(scales)), depth, total);
        } else {
          auto scale = cast<f32>(numbers(scales));
          total = total + dot(values, depth, bitloom::zeros<f32>({block_n, block_m})) * expand(scale, 1);
        }
      }
      if (in_units)
        total = total * Scalar<f32>(unit(tile.group));
      auto result = trans(cast<T>(total));
      when(
          tile.row + block_m <= tile.end, [&] { out(rows, cols) = result; },
          [&] { // the rows after are another expert's
            auto own = broadcast(expand(rows.indices() < tile.end, 1), {block_m, block_n});
            out.scatter_if(own, result, expand(rows.indices(), 1), expand(cols.indices(), 0));
          });
    });
  }
};

BITLOOM_REGISTER(GroupedLowBitLinear<f16>, GroupedLowBitLinear<bf16>)

} // namespace bitloom::kernels
