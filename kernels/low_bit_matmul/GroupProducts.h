// Products of 8-bit activations with a packed weight whose groups of columns have scales of their own.
#pragma once

#include "bitloom/dsl/Control.h"
#include "bitloom/dsl/Ops.h"
#include "bitloom/dsl/View.h"

namespace bitloom::kernels {

// What a kernel's activations are: `count` rows, packed in panels of a row or several, and the sums of their groups.
template <class Bytes, class Sums> struct Activations {
  const Bytes &bytes; // u8, panels by columns
  const Sums &sums;   // f32, groups by rows
  Span panels, rows;  // which of them
  int64_t count;
  Packing packing; // a panel's rows are packing.rows, or one where that is 0
  bool summed;     // whether there are sums for a weight without zero points
};

// Σ_g scale[g, j] · (Σ_k q_x · q_w − zero[g, j] · x_sum[g, i]) for the weight of a kernel, as LowBitMatmul describes
// it; j from the block-th `columns` columns of the result.
template <class Kernel, class Bytes, class Sums>
Tile<f32, 2> groupProducts(const Kernel &kernel, const Scalar<i64> &block, int64_t columns,
                           const Activations<Bytes, Sums> &x) {
  const int64_t group = kernel.group, rows = kernel.rows, bits = kernel.bits;
  Packing packing{.bits = int(bits),
                  .order = Packing::Order::Columns,
                  .block = kernel.depth,
                  .rows = int(rows),
                  .lanes = kernel.lanes,
                  .bias = Packing::Bias(int(kernel.biased_fields))};
  packing.check();
  // Biased fields read as unsigned are numbers with one and the same zero point.
  const bool offset = x.summed && !kernel.asymmetric && packing.bias == Packing::Bias::All;
  if (offset)
    packing.bias = Packing::Bias::None;
  auto cols = block_at(block, columns), panels = block_at(block, columns / rows);
  auto total = zeros<f32>({x.count, columns});
  for (auto g : range(0, kernel.scales.extent(0))) {
    auto left = unpack<i8>(x.bytes(x.panels, block_at(g, group * std::max(x.packing.rows, 1))), x.packing);
    auto bytes = kernel.weight(panels, block_at(g, group * rows * bits / 8));
    auto none = zeros<i32>({x.count, columns});
    auto product = cast<f32>(kernel.asymmetric || offset ? dot(left, trans(unpack<u8>(bytes, packing)), none)
                                                         : dot(left, trans(unpack<i8>(bytes, packing)), none));
    if (kernel.asymmetric)
      product = product - expand(x.sums(g, x.rows), 1) * expand(kernel.zeros(g, cols), 0);
    if (offset)
      product = product - expand(x.sums(g, x.rows), 1) * float(1 << (bits - 1));
    total = total + product * expand(cast<f32>(kernel.scales(g, cols)), 0);
  }
  return total;
}

} // namespace bitloom::kernels
