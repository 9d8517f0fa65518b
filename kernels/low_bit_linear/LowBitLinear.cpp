#include "bitloom/dsl/Kernel.h"

namespace bitloom::kernels {

// Products of 16-bit activations with a weight of 1 to 8 bits, for tensor cores. The weight, of n rows and k columns,
// lies row by row in the order `fragments` (lib/packing/Packing.h), in blocks of 128 columns that zeros fill up. A
// group of columns of a row shares a scale and, when asymmetric, a zero point: the value of a field q is scale · q, q
// signed, or scale · (q − zero), q unsigned.
//
// A program computes a tile of out^T = weight · x^T, so that the weight is the operand that tensor cores take from
// registers, where it is unpacked; few rows of x are the narrow one. Fields are exact in 16 bits, and the sum over a
// block is multiplied by its scale in f32.
template <class T> struct LowBitLinear {
  static constexpr auto name = "low_bit_linear";
  static constexpr auto summary = "out = x · dequantised(weight)^T on tensor cores, weights of 1 to 8 bits";
  static constexpr auto tests =
      "m=1 n=64 k=128; m=3 n=17 k=199; m=17 n=70 k=129 bits=8; m=1 n=8 k=256 bits=1; m=1 n=9 k=256 bits=2; "
      "m=2 n=8 k=256 bits=3; m=1 n=8 k=256 bits=5; m=1 n=8 k=256 bits=6; m=1 n=8 k=256 bits=7; "
      "m=5 n=65 k=1025 group=256; m=2 n=8 k=300 asymmetric=1; m=3 n=130 k=640 split=3; m=40 n=72 k=256 bits=3; "
      "m=9 n=33 k=640 bits=8 asymmetric=1";
  static constexpr auto benchmarks = "m=1 n=4096 k=4096; m=16 n=4096 k=4096; m=1 n=4096 k=4096 bits=2";

  View<const T, 2> x{"m, k"};
  View<const u8, 2> weight{"n, ceil_div(k, 128) * 16 * bits"};
  View<const T, 2> scales{"ceil_div(k, group), n"};
  View<const T, 2> zeros{"ceil_div(k, group) * asymmetric, n"};
  View<T, 2> out{"m, n"};
  Meta<int> bits = 4;
  Meta<int> group = 128; // a multiple of 128
  Meta<bool> asymmetric = "zeros.given";
  Meta<int> block_m = "max(8, min(next_pow2(m), 128))";
  // Many rows of the weight where x has few; with all of x's in a block, as few as give most multiprocessors a tile.
  Meta<int> block_n = "max(64, min(next_pow2(n), 64 + 64 * max(m <= 32, 2 * ceil_div(m, 128) * ceil_div(n, 128) > "
                      "multiprocessors) + 128 * (m <= 16)))";
  // Thread blocks that share the sum over k of a tile, where tiles are too few for all multiprocessors.
  Meta<int> split = "max(1, min(min(8, next_pow2(ceil_div(k, 512))), "
                    "next_pow2(multiprocessors / max(1, ceil_div(m, block_m) * ceil_div(n, block_n)) + 1) / 2))";
  BITLOOM_PARAMS(x, weight, scales, zeros, out, bits, group, asymmetric, block_m, block_n, split)

  Grid grid() const { return {ceil_div(out.extent(1), block_n), ceil_div(out.extent(0), block_m)}; }

  void operator()() const {
    constexpr int block = 128;
    if (group < block || group % block)
      throw UserError("argument group: expected a multiple of 128, got " + std::to_string(int(group)));
    Packing packing{.bits = bits, .order = Packing::Order::Fragments, .block = block};
    packing.check();
    hints({.warps = std::max(4, block_n / 16), .split = split}); // 16 rows of the weight each
    auto cols = block_at(program_id(0), block_n), rows = block_at(program_id(1), block_m);
    auto total = bitloom::zeros<f32>({block_n, block_m});
    for (auto b : range(0, ceil_div(x.extent(1), block))) {
      auto bytes = weight(cols, block_at(b, packing.bytesPerBlock()));
      auto g = b / (group / block);
      auto scale = cast<f32>(scales(g, cols));
      auto multiplied = [&](const auto &w) {
        return dot(w, trans(x(rows, block_at(b, block))), bitloom::zeros<f32>({block_n, block_m}));
      };
      auto product = asymmetric ? multiplied(cast<T>(unpack<u8>(bytes, packing)) - expand(zeros(g, cols), 1))
                                : multiplied(cast<T>(unpack<i8>(bytes, packing)));
      total = total + product * expand(scale, 1);
    }
    out(rows, cols) = cast<T>(trans(total));
  }
};

BITLOOM_REGISTER(LowBitLinear<f16>, LowBitLinear<bf16>)

} // namespace bitloom::kernels
