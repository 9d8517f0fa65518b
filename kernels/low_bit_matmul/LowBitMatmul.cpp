#include "bitloom/dsl/Kernel.h"
#include "bitloom/kernels/low_bit_matmul/GroupProducts.h"

namespace bitloom::kernels {

// Products of 8-bit activations with a weight of 1 to 8 bits. The weight, of n rows and k columns, lies in panels of
// `rows` rows in the order `columns` (lib/packing/Packing.h), and so may the activations; packingFor and
// activationPackingFor (lib/packing/PackingFor.h) say how a target wants them. Both are filled up with zeros to whole
// panels and whole groups of columns.
//
// A group of a row of the weight shares a scale: the value of a field q is scale · q, q signed, or scale · (q − zero),
// q unsigned. The activations of a row are x_scale · (q − x_zero), q signed. So
//
//   out[i, j] = x_scale[i] · (Σ_g scale[g, j] · (Σ_k q_x · q_w − zero[g, j] · x_sum[g, i]) − x_zero[i] · w_sum[j]) +
//   bias[j]
//
// where x_sum[g, i] is the sum of row i's q_x in group g, and w_sum[j] that of row j of the dequantised weight. The
// sums of x also spare a product with signed weights, all of whose fields are stored biased, from adding x up once
// more.
template <class Scale> struct LowBitMatmul {
  static constexpr auto name = "low_bit_matmul";
  static constexpr auto summary = "out = x · dequantised(weight)^T, 8-bit activations, weights of 1 to 8 bits";
  static constexpr auto tests =
      "m=1 n=32 groups=2; m=1 n=40 groups=3 group=32; m=3 n=199 groups=1 group=48 bits=2; m=5 n=64 groups=2 "
      "asymmetric=1; m=2 n=17 groups=2 x_asymmetric=1 biased=1; m=4 n=33 groups=2 bits=8 clamped=1";
  static constexpr auto benchmarks = "m=1 n=4096 groups=32; m=64 n=4096 groups=32";

  static constexpr bool onlyCpus = true;

  View<const u8, 2> x{"ceil_div(m, x_rows), groups * group * x_rows"};
  View<const u8, 2> weight{"ceil_div(n, rows), groups * group * rows * bits / 8"};
  View<const Scale, 2> scales{"groups, n"};
  View<const f32, 1> x_scales{"m"};
  View<const f32, 1> x_zeros{"m * x_asymmetric"}, w_sums{"n * x_asymmetric"};
  View<const f32, 2> zeros{"groups * asymmetric, n"}, x_sums{"groups * max(asymmetric, summed), m"};
  View<const f32, 1> bias{"n * biased"};
  View<f32, 2> out{"m, n"};
  Param<f32> lower = 0.0f, upper = 6.0f; // when clamped
  Meta<int> bits = 4;
  Meta<int> group = 128; // a multiple of 16
  // The packing of the weight: rows and columns in a vector of bytes, rows together, and which fields are biased.
  Meta<int> lanes = 4, depth = 4, rows = "max(lanes * 8, 32)";
  Meta<int> biased_fields = Meta<int>::oneOf("none, low, all");
  Meta<int> x_rows = 1, x_lanes = 2; // of the activations: row by row, or packed as for the instruction
  Meta<bool> asymmetric = "zeros.given", summed = "x_sums.given", x_asymmetric = "x_zeros.given", biased = "bias.given",
             clamped = false;
  Meta<int> block_m = "max(x_rows, min(next_pow2(m), 64))",
            block_n = "max(rows, 32 * min(m, 2))"; // multiples of x_rows and rows
  BITLOOM_PARAMS(x, weight, scales, x_scales, x_zeros, w_sums, zeros, x_sums, bias, out, lower, upper, bits, group,
                 lanes, depth, rows, biased_fields, x_rows, x_lanes, asymmetric, summed, x_asymmetric, biased, clamped,
                 block_m, block_n)

  Grid grid() const { return {ceil_div(out.extent(1), block_n), ceil_div(out.extent(0), block_m)}; }

  void operator()() const {
    Packing packing{.bits = 8, .order = Packing::Order::LowFirst, .block = 8};
    if (x_rows > 1)
      packing = {.bits = 8, .order = Packing::Order::Columns, .block = depth, .rows = x_rows, .lanes = x_lanes};
    auto cols = block_at(program_id(0), block_n), at = block_at(program_id(1), block_m);
    auto panels = block_at(program_id(1), block_m / x_rows);
    auto total =
        groupProducts(*this, program_id(0), block_n, Activations{x, x_sums, panels, at, block_m, packing, summed});
    if (x_asymmetric)
      total = total - expand(x_zeros(at), 1) * expand(w_sums(cols), 0);
    auto result = total * expand(x_scales(at), 1);
    if (biased)
      result = result + expand(bias(cols), 0);
    if (clamped)
      result = minimum(maximum(result, lower), upper);
    out(at, cols) = result;
  }
};

BITLOOM_REGISTER(LowBitMatmul<bf16>, LowBitMatmul<f32>)

} // namespace bitloom::kernels
