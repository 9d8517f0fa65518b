#include "bitloom/dsl/Kernel.h"

namespace bitloom::kernels {

// Row-wise products of x with a packed weight of n rows and k columns. A row of the weight is packed in planar order
// (lib/packing/Packing.h) in blocks of `group` values, the last one filled up with zeros; a group of one row shares a
// scale and, when asymmetric, a zero point. The value of a field q is scale · q, q signed, or scale · (q − zero), q
// unsigned. Each row's sum is kept as `lanes` partial sums, so that only the end adds lanes to each other.
template <class T> struct LowBitGemv {
  static constexpr auto name = "low_bit_gemv";
  static constexpr auto summary = "out = x · dequantised(weight)^T, weights of 1 to 8 bits with a scale a group";
  static constexpr auto tests = "m=1 n=3 k=128; m=3 n=17 k=199 group=32; m=1 n=8 k=256 bits=1; m=1 n=8 k=256 bits=2; "
                                "m=1 n=8 k=256 bits=3; m=1 n=8 k=256 bits=5; "
                                "m=1 n=8 k=256 bits=6; m=1 n=8 k=256 bits=7; m=2 n=9 k=384 bits=8; m=1 n=5 k=4097 "
                                "asymmetric=1; m=1 n=8 k=256 bits=3 asymmetric=1";
  static constexpr auto benchmarks = "m=1 n=4096 k=4096; m=1 n=4096 k=4096 bits=8; m=1 n=4096 k=4096 bits=2";
  static constexpr auto tuning = "block_n=1,2,4,8,16,32";

  View<const T, 2> x{"m, k"};
  View<const u8, 2> weight{"n, ceil_div(k, group) * group * bits / 8"};
  View<const f32, 2> scales{"n, ceil_div(k, group)"};
  View<const f32, 2> zeros{"n * asymmetric, ceil_div(k, group)"};
  View<T, 2> out{"m, n"};
  Meta<int> bits = 4;
  Meta<int> group = 128; // a power of two from 8 upwards
  Meta<bool> asymmetric = false;
  Meta<int> block_n = 8;
  Meta<int> lanes = "min(group, 16)"; // a divisor of group
  BITLOOM_PARAMS(x, weight, scales, zeros, out, bits, group, asymmetric, block_n, lanes)

  Grid grid() const { return {ceil_div(out.extent(1), block_n), out.extent(0)}; }

  void operator()() const {
    Packing packing{.bits = bits, .order = Packing::Order::Planar, .block = group};
    packing.check();
    auto rows = block_at(program_id(0), block_n);
    auto m = program_id(1);
    auto total = bitloom::zeros<f32>({block_n, lanes});
    for (auto g : range(0, scales.extent(1))) {
      auto v = cast<f32>(x(m, block_at(g, group)));
      auto bytes = weight(rows, block_at(g, packing.bytesPerBlock()));
      auto q = asymmetric ? cast<f32>(unpack<u8>(bytes, packing)) : cast<f32>(unpack<i8>(bytes, packing));
      auto partial = sum(reshape(q * expand(v, 0), {block_n, group / lanes, lanes}), 1);
      if (asymmetric)
        partial = partial - expand(zeros(rows, g), 1) * expand(sum(reshape(v, {group / lanes, lanes}), 0), 0);
      total = total + partial * expand(scales(rows, g), 1);
    }
    out(m, rows) = cast<T>(sum(total, 1));
  }
};

BITLOOM_REGISTER(LowBitGemv<f32>, LowBitGemv<f16>, LowBitGemv<bf16>)

} // namespace bitloom::kernels
