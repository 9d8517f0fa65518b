#include "bitloom/dsl/Kernel.h"
#include "bitloom/kernels/low_bit_linear/Weight.h"

namespace bitloom::kernels {

// Products of 16-bit activations with a weight of 1 to 8 bits, for tensor cores.
//
// A program computes a tile of out^T = weight · x^T, so that the weight is the operand that tensor cores take from
// registers, where it is unpacked; few rows of x are the narrow one. Fields are exact in 16 bits. Either the sum over a
// block is multiplied by its scale in f32, or, `premultiplied`, each value by its own, rounded to 16 bits, before: so
// where a block has several scales, and where x has so many rows that the sums of a block are more than its values.
// Activations of 8 bits are numbers of f16, too: sums of whole numbers are exact in f32 up to 2^24.
template <class T, class Out> struct LowBitLinear {
  static constexpr auto name = "low_bit_linear";
  static constexpr auto summary = "out = x · dequantised(weight)^T + bias on tensor cores, weights of 1 to 8 bits";
  static constexpr auto tests =
      "m=1 n=64 k=128; m=3 n=17 k=199; m=17 n=70 k=129 bits=8; m=1 n=8 k=256 bits=1; m=1 n=9 k=256 bits=2; "
      "m=2 n=8 k=256 bits=3; m=1 n=8 k=256 bits=5; m=1 n=8 k=256 bits=6; m=1 n=8 k=256 bits=7; "
      "m=5 n=65 k=1025 group=256; m=2 n=8 k=300 asymmetric=1; m=3 n=130 k=640 split=3 biased=1; m=40 n=72 k=256 "
      "bits=3; "
      "m=9 n=33 k=640 bits=8 asymmetric=1; m=3 n=17 k=199 group=32 in_units=1; m=1 n=9 k=300 bits=8 group=16 "
      "asymmetric=1 biased=1; m=17 n=66 k=270 bits=3 group=64; m=2 n=8 k=130 bits=2 group=8; m=3 n=17 k=199 tabled=1; "
      "m=2 n=70 k=300 group=64 tabled=1; m=3 n=17 k=640 at_once=4; m=2 n=70 k=900 at_once=2 asymmetric=1; "
      "m=2 n=130 k=4200 bits=8; m=3 n=17 k=640 scaled_x=1 in_units=1 row_units=1; m=40 n=70 k=300 group=32 scaled_x=1 "
      "biased=1";
  static constexpr auto benchmarks = "m=1 n=4096 k=4096; m=16 n=4096 k=4096; m=1 n=4096 k=4096 bits=2; "
                                     "m=1 n=4096 k=4096 group=32; m=1024 n=4096 k=4096";
  static constexpr auto tuning = "block_m=8,16,32,64,128; block_n=64,128,256; split=1,2,4,8; at_once=1,2,4";

  View<const T, 2> x{"m, k"};
  View<const u8, 2> weight{"ceil_div(n, together), ceil_div(k, 128) * together * 16 * bits"};
  View<const T, 2> scales{"ceil_div(k, max(group, 128)), n * max(128 / group, 1)"};
  View<const T, 2> zeros{"ceil_div(k, max(group, 128)) * asymmetric, n * max(128 / group, 1)"};
  View<const T, 1> table{"16 * tabled"};
  View<const f32, 1> unit{"(1 + (n - 1) * row_units) * in_units"}; // of the scales, of all or of a row's
  View<const f32, 1> x_scales{"m * scaled_x"};
  View<const Out, 1> bias{"n * biased"};
  View<Out, 2> out{"m, n"};
  Meta<int> bits = 4;
  Meta<int> group = 128;             // 8, 16, 32, 64 or a multiple of 128
  Meta<int> together = rowsTogether; // rows of the weight in a block
  Meta<bool> asymmetric = "zeros.given", tabled = "table.given", in_units = "unit.given", biased = "bias.given",
             scaled_x = "x_scales.given";
  Meta<bool> row_units = false; // whether each row of the weight has its own unit
  Meta<bool> premultiplied = "max(group < 128, m > 32)";
  Meta<int> block_m = "max(8, min(next_pow2(m), 128))";
  // Many rows of the weight where x has few and tiles are more than multiprocessors; few where two blocks then share
  // each tile and are as many as these.
  Meta<int> block_n = "max(64, min(next_pow2(n), 128 - 64 * (m <= 16) * (2 * ceil_div(n, 64) <= multiprocessors) + "
                      "128 * (m <= 16) * (ceil_div(n, 128) > multiprocessors)))";
  Meta<int> tiles = "ceil_div(m, block_m) * ceil_div(n, block_n)";
  // Thread blocks that share the sum over k of a tile, where tiles are too few for all multiprocessors. Clusters of two
  // reach all of these, larger ones not the last few: of an H200's 132, threes 117, fours and eights 120.
  Meta<int> split = "max(1, min(next_pow2(ceil_div(k, 512)), "
                    "max(max(2 * (2 * tiles <= multiprocessors), 3 * (100 * tiles <= 29 * multiprocessors)), "
                    "max(4 * (100 * tiles <= 22 * multiprocessors), 8 * (100 * tiles <= 11 * multiprocessors)))))";
  // Blocks of columns in a step, which share what a step takes beside its products; where these are few, smaller steps.
  Meta<int> at_once = "1 + (bits < 8) * (max(premultiplied == 0, block_m == 64) + "
                      "2 * (premultiplied == 0) * (m <= 8 + 8 * (bits <= 2)) * (bits <= 3) * (k >= 2048 * split))";
  BITLOOM_PARAMS(x, weight, scales, zeros, table, unit, bias, x_scales, out, bits, group, together, asymmetric, tabled,
                 in_units, biased, scaled_x, row_units, premultiplied, block_m, block_n, tiles, split, at_once)

  Grid grid() const { return {ceil_div(out.extent(1), block_n), ceil_div(out.extent(0), block_m)}; }

  void operator()() const {
    const BlockOfWeight blocks(bits, group, together, block_n);
    if (group < blocks.columns && !premultiplied)
      throw UserError("argument premultiplied: expected true with groups of less than 128 columns, got false");
    // 16 rows of the weight each; groups of them take the steps in turn where that leaves some of 16.
    hints({.warps = block_m <= 32 ? 16 : std::max(4, block_n / 16), .split = split});
    auto cols = block_at(program_id(0), block_n), rows = block_at(program_id(1), block_m);
    auto entries = blocks.entries<T>(table, tabled, asymmetric);
    auto total = bitloom::zeros<f32>({block_n, block_m});
    auto add = [&](const Scalar<i64> &b) {
      auto depth = trans(x(rows, block_at(b, blocks.columns)));
      auto numbers = [&](const View<const T, 2> &view) { return view(blocks.group(b), blocks.numbers(program_id(0))); };
      auto bytes = weight(blocks.panels(program_id(0)), block_at(b, blocks.packing.bytesPerBlock()));
      auto values = blocks.values<T>(bytes, entries, asymmetric, [&] { return numbers(zeros); });
      if (premultiplied) {
        total = dot(values * blocks.each<T>(numbers(scales)), depth, total);
      } else {
        auto scale = cast<f32>(numbers(scales));
        total = total + dot(values, depth, bitloom::zeros<f32>({block_n, block_m})) * expand(scale, 1);
      }
    };
    for (auto step : range(0, ceil_div(x.extent(1), at_once * blocks.columns)))
      for (int i = 0; i < at_once; ++i) // past the last block all is zero
        add(step * at_once + i);
    if (in_units)
      total = row_units ? total * expand(unit(cols), 1) : total * Scalar<f32>(unit(0));
    if (scaled_x)
      total = total * expand(x_scales(rows), 0);
    if (biased)
      total = total + cast<f32>(expand(bias(cols), 1));
    out(rows, cols) = trans(cast<Out>(total));
  }
};

BITLOOM_REGISTER(LowBitLinear<f16, f16>, LowBitLinear<bf16, bf16>, LowBitLinear<f16, f32>, LowBitLinear<bf16, f32>,
                 LowBitLinear<f16, bf16>)

} // namespace bitloom::kernels
