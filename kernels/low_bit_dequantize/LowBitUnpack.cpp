#include "bitloom/dsl/Kernel.h"

namespace bitloom::kernels {

// The fields of a packed weight as a matrix of bytes, for 8-bit products with as many bits on both sides: numbers of i8
// or f8e4m3, which scales multiply after the product. Rows are packed in planar order (lib/packing/Packing.h) in blocks
// of `block` values. v is the field, signed or not; with a table, table[field]. Into f8e4m3 only what it has is exact:
// whole numbers up to 16.
template <class T> struct LowBitUnpack {
  static constexpr auto name = "low_bit_unpack";
  static constexpr auto summary = "out = the fields of a weight of 1 to 8 bits, or what a table has for them, as i8 or "
                                  "f8e4m3";
  static constexpr auto tests =
      "n=3 k=128; n=17 k=224 block=32; n=1 k=8 block=8; n=8 k=256 bits=1; n=9 k=256 bits=2; n=8 k=256 bits=3; "
      "n=199 k=384 bits=5; n=5 k=4224 is_signed=0; n=8 k=256 bits=3 is_signed=0; n=9 k=256 block=64 tabled=1";
  static constexpr auto benchmarks = "n=4096 k=4096; n=28672 k=8192";
  static constexpr auto tuning = "block_n=8,16,32,64,128";

  View<const u8, 2> weight{"n, k * bits / 8"}; // k: a multiple of block
  View<const f32, 1> table{"256 * tabled"};    // of which 2^bits are read
  View<T, 2> out{"n, k"};
  Meta<int> bits = 4;
  Meta<int> block = 128; // a power of two from 8 upwards
  Meta<bool> is_signed = true;
  Meta<bool> tabled = "table.given";
  Meta<int> block_n = 32;
  BITLOOM_PARAMS(weight, table, out, bits, block, is_signed, tabled, block_n)

  Grid grid() const { return {ceil_div(out.extent(0), block_n), ceil_div(out.extent(1), block)}; }

  void operator()() const {
    Packing packing{.bits = bits, .order = Packing::Order::Planar, .block = block};
    packing.check();
    auto rows = block_at(program_id(0), block_n), cols = block_at(program_id(1), block);
    auto bytes = weight(rows, block_at(program_id(1), packing.bytesPerBlock()));
    if (tabled)
      out(rows, cols) = cast<T>(lut(table(span(0, 1 << bits)), unpack<u8>(bytes, packing)));
    else if constexpr (std::same_as<T, i8>)
      out(rows, cols) = is_signed ? unpack<i8>(bytes, packing) : bitcast<i8>(unpack<u8>(bytes, packing));
    else
      out(rows, cols) =
          cast<T>(is_signed ? cast<f32>(unpack<i8>(bytes, packing)) : cast<f32>(unpack<u8>(bytes, packing)));
  }
};

BITLOOM_REGISTER(LowBitUnpack<i8>, LowBitUnpack<f8e4m3>)

} // namespace bitloom::kernels
