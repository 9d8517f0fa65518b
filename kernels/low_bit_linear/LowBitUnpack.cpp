#include "bitloom/dsl/Kernel.h"
#include "bitloom/kernels/low_bit_linear/Weight.h"

namespace bitloom::kernels {

// The fields of low_bit_linear's weight as a matrix of bytes, for products with 8 bits on both sides and so many rows
// that taking it apart once pays: numbers of i8 or f8e4m3, which scales multiply after the product. A value is the
// field, signed or not, or table[field]. Into f8e4m3 only what it has is exact: whole numbers up to 16.
template <class T> struct LowBitUnpack {
  static constexpr auto name = "low_bit_unpack";
  static constexpr auto summary = "out = the fields of a weight as low_bit_linear has it, or what a table has for "
                                  "them, as i8 or f8e4m3";
  static constexpr auto tests =
      "n=2 columns=128; n=20 columns=256 bits=7; n=8 columns=256 bits=1; n=12 columns=384 bits=2; n=36 columns=256 "
      "bits=3; n=200 columns=384 bits=5; n=6 columns=4224 is_signed=0; n=8 columns=256 bits=3 is_signed=0; n=10 "
      "columns=256 tabled=1";
  static constexpr auto benchmarks = "n=4096 columns=4096; n=28672 columns=8192";
  static constexpr auto tuning = "block_n=8,16,32,64,128";
  static constexpr auto conditions = "columns % 128 == 0";

  View<const u8, 2> weight{"ceil_div(n, together), columns / 8 * together * bits"};
  View<const f32, 1> table{"16 * tabled"};
  View<T, 2> out{"n, columns"};
  Meta<int> bits = 4;
  Meta<int> together = rowsTogether; // rows of the weight in a block
  Meta<bool> is_signed = true;
  Meta<bool> tabled = "table.given";
  Meta<int> block_n = 32;
  BITLOOM_PARAMS(weight, table, out, bits, together, is_signed, tabled, block_n)

  Grid grid() const { return {ceil_div(out.extent(0), block_n), ceil_div(out.extent(1), BlockOfWeight::columns)}; }

  void operator()() const {
    const BlockOfWeight blocks(bits, BlockOfWeight::columns, together, block_n);
    auto entries = blocks.entries<f32>(table, tabled, false);
    auto b = program_id(1);
    auto bytes = weight(blocks.panels(program_id(0)), block_at(b, blocks.packing.bytesPerBlock()));
    auto write = [&](const auto &values) {
      out(block_at(program_id(0), block_n), block_at(b, blocks.columns)) = cast<T>(values);
    };
    if (entries)
      write(lut(*entries, unpack<u8>(bytes, blocks.packing)));
    else if constexpr (std::same_as<T, i8>)
      write(is_signed ? unpack<i8>(bytes, blocks.packing) : bitcast<i8>(unpack<u8>(bytes, blocks.packing)));
    else
      write(is_signed ? cast<f32>(unpack<i8>(bytes, blocks.packing)) : cast<f32>(unpack<u8>(bytes, blocks.packing)));
  }
};

BITLOOM_REGISTER(LowBitUnpack<i8>, LowBitUnpack<f8e4m3>)

} // namespace bitloom::kernels
