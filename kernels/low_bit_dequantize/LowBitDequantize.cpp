#include "bitloom/dsl/Kernel.h"

namespace bitloom::kernels {

// A packed weight as a matrix, for products with so many rows that taking it apart once pays. It is packed as
// low_bit_gemv has it. A group of one row shares a scale and, when asymmetric, a zero point: the value of a field q is
// scale · (v − zero). v is q, signed, unsigned when asymmetric; with a table, table[q].
template <class T> struct LowBitDequantize {
  static constexpr auto name = "low_bit_dequantize";
  static constexpr auto summary =
      "out = scale · (v - zero), the values of a weight of 1 to 8 bits with a scale a group";
  static constexpr auto tests =
      "n=3 groups=1; n=17 groups=7 group=32; n=1 groups=1 group=8; n=8 groups=2 bits=1; n=9 groups=2 bits=2; "
      "n=8 groups=2 bits=3; n=199 groups=3 bits=5; n=8 groups=2 bits=6; n=8 groups=2 bits=7; n=9 groups=3 bits=8; "
      "n=5 groups=33 asymmetric=1; n=8 groups=2 bits=3 asymmetric=1; n=9 groups=4 group=64 tabled=1; "
      "n=3 groups=3 group=16 bits=8 tabled=1; n=17 groups=2 tabled=1 asymmetric=1";
  static constexpr auto benchmarks = "n=4096 groups=32; n=4096 groups=32 tabled=1";

  View<const u8, 2> weight{"n, groups * group * bits / 8"};
  View<const f32, 2> scales{"n, groups"};
  View<const f32, 2> zeros{"n * asymmetric, groups"};
  View<const f32, 1> table{"256 * tabled"}; // of which 2^bits are read
  View<T, 2> out{"n, groups * group"};
  Meta<int> bits = 4;
  Meta<int> group = 128; // a power of two from 8 upwards
  Meta<bool> asymmetric = "zeros.given", tabled = "table.given";
  Meta<int> block_n = 8;
  BITLOOM_PARAMS(weight, scales, zeros, table, out, bits, group, asymmetric, tabled, block_n)

  Grid grid() const { return {ceil_div(out.extent(0), block_n), scales.extent(1)}; }

  void operator()() const {
    Packing packing{.bits = bits, .order = Packing::Order::Planar, .block = group};
    packing.check();
    auto rows = block_at(program_id(0), block_n);
    auto g = program_id(1);
    auto bytes = weight(rows, block_at(g, packing.bytesPerBlock()));
    auto value = bitloom::zeros<f32>({block_n, group});
    if (tabled)
      value = lut(table(span(0, 1 << bits)), unpack<u8>(bytes, packing));
    else if (asymmetric)
      value = cast<f32>(unpack<u8>(bytes, packing));
    else
      value = cast<f32>(unpack<i8>(bytes, packing));
    if (asymmetric)
      value = value - expand(zeros(rows, g), 1);
    out(rows, block_at(g, group)) = cast<T>(value * expand(scales(rows, g), 1));
  }
};

BITLOOM_REGISTER(LowBitDequantize<f32>, LowBitDequantize<f16>, LowBitDequantize<bf16>)

} // namespace bitloom::kernels
