#include "bitloom/dsl/Kernel.h"
#include "bitloom/kernels/rows/Rows.h"

#include <numbers>

namespace bitloom::kernels {

// A row of up to 16384 columns is one tile, read once; where a cluster of blocks holds it, of up to 131072. A longer
// one is read twice: a running maximum and sum in each lane first (Milakov and Gimelshein, "Online normalizer
// calculation for softmax", 2018), then the quotients.
template <class T> struct Softmax {
  static constexpr auto name = "softmax";
  static constexpr auto summary = "out = exp(x - max(x)) / sum(exp(x - max(x))), row by row";
  static constexpr auto tests = "rows=1 cols=1; rows=3 cols=17; rows=17 cols=199; rows=3 cols=4097; rows=2 cols=20000; "
                                "rows=7 cols=9000";
  static constexpr auto benchmarks = "rows=4096 cols=4096; rows=4096 cols=65536";

  View<const T, 2> x{"rows, cols"};
  View<T, 2> out{"rows, cols"};
  Meta<int> cluster = rowCluster, block = rowBlock;
  Meta<bool> resident = "cols <= block";
  BITLOOM_PARAMS(x, out, cluster, block, resident)

  Grid grid() const { return {x.extent(0)}; }

  void operator()() const {
    hints({.cluster = cluster});
    auto row = program_id(0);
    auto cols = x.extent(1);
    if (resident) {
      auto here = span(0, block);
      auto v = cast<f32>(x(row, here).or_else(-infinity));
      auto e = power(v - max(v, 0));
      out(row, here) = cast<T>(e * (1.0f / sum(e, 0))); // one division a row
      return;
    }
    auto largest = full<f32>({block}, -std::numeric_limits<float>::max()); // finite: no lane ever subtracts infinities
    auto total = zeros<f32>({block});
    for (auto c : range(0, cols, block)) {
      auto v = cast<f32>(x(row, span(c, block)).or_else(-infinity));
      auto next = maximum(largest, v);
      total = total * exp(largest - next) + exp(v - next);
      largest = next;
    }
    auto top = max(largest, 0);
    auto sums = sum(total * exp(largest - top), 0);
    for (auto c : range(0, cols, block)) {
      auto here = span(c, block);
      out(row, here) = cast<T>(exp(cast<f32>(x(row, here)) - top) / sums);
    }
  }

private:
  // e^x, for a result of 16 bits by few instructions.
  Tile<f32, 1> power(const Tile<f32, 1> &x) const {
    return sizeof(T) == 2 ? exp2(x * std::numbers::log2e_v<float>) : exp(x);
  }
};

BITLOOM_REGISTER(Softmax<f32>, Softmax<f16>, Softmax<bf16>)

} // namespace bitloom::kernels
