#include "bitloom/dsl/Kernel.h"
#include "bitloom/kernels/low_bit_matmul/QuantizedRow.h"

namespace bitloom::kernels {

// Activations for low_bit_matmul: each row of x as 8-bit numbers q with a scale, and perhaps a zero point, of its own:
// x = scale · (q − zero). Beside them the sums of q over each group of columns. `panel` rows lie together as
// activationPackingFor (lib/packing/PackingFor.h) says, runs of 8 columns of each row in turn; 1: row by row. What
// fills up the last group is 0.
template <class T> struct QuantizeRows {
  static constexpr auto name = "quantize_rows";
  static constexpr auto summary = "rows as 8-bit numbers with a scale each, and their sums a group: for low_bit_matmul";
  static constexpr auto tests = "m=1 k=1; m=3 k=199 group=32; m=9 k=130 group=48 panel=8; m=2 k=257 asymmetric=1; "
                                "m=5 k=96 group=16 panel=8 asymmetric=1";
  static constexpr auto benchmarks = "m=1 k=4096; m=64 k=4096";

  View<const T, 2> x{"m, k"};
  View<u8, 2> out{"ceil_div(m, panel), ceil_div(k, group) * group * panel"};
  View<f32, 1> scales{"m"}, zeros{"m * asymmetric"};
  View<f32, 2> sums{"ceil_div(k, group), m"};
  Meta<int> group = 128; // a multiple of 16
  Meta<int> panel = 1;
  Meta<bool> asymmetric = "zeros.given";
  BITLOOM_PARAMS(x, out, scales, zeros, sums, group, panel, asymmetric)

  Grid grid() const { return {ceil_div(x.extent(0), panel)}; }

  void operator()() const {
    auto at = block_at(program_id(0), panel);
    const RowNumbers numbers = rowNumbers(x, at, panel, group, asymmetric);
    scales(at) = numbers.scale;
    if (numbers.zero)
      zeros(at) = *numbers.zero;
    for (auto g : range(0, sums.extent(0))) {
      auto q = quantised(x, at, block_at(g, group), numbers);
      sums(g, at) = sum(q, 1);
      auto bytes = bitcast<u8>(cast<i8>(q));
      if (panel > 1)
        bytes = reshape<2>(trans(reshape<3>(bytes, {panel, group / 8, 8}), {1, 0, 2}), {panel, group});
      out(program_id(0), block_at(g, group * panel)) = reshape<1>(bytes, {group * panel});
    }
  }
};

BITLOOM_REGISTER(QuantizeRows<f32>, QuantizeRows<f16>, QuantizeRows<bf16>)

} // namespace bitloom::kernels
