// Products, and which way their operands take to the tensor cores.
#pragma once

#include "bitloom/tests/unit/lowering/Products.h"

namespace bitloom {

enum class Way { Copied, Exchanged, Cores }; // the copy engine feeds wgmma; threads do; no tensor core

inline void tookWay(const EmulatedKernel &kernel, Way way) {
  EXPECT_EQ(kernel.isPersistent, way == Way::Copied);
  EXPECT_EQ(kernel.ptx.find("wgmma.mma_async") != std::string::npos, way != Way::Cores);
}

template <Element In, Element Sum = float, Element Out = Sum>
void multiplies(Product product, int64_t m, int64_t n, int64_t k, Way way = Way::Copied, std::vector<int> warps = {0},
                std::vector<int> blocks = {2}) {
  SCOPED_TRACE(std::to_string(m) + " x " + std::to_string(n) + " x " + std::to_string(k));
  product.operand = irType<In>(), product.sum = irType<Sum>(), product.result = irType<Out>();
  Operands<In, Out> data(product, m, n, k);
  tookWay(*agrees(product.text(), {data.a, data.b, data.c},
                  {.grid = product.grid(m, n), .tolerance = 0, .warps = warps, .blocks = blocks}),
          way);
}

} // namespace bitloom
