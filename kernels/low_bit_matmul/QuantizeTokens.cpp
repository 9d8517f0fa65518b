#include "bitloom/dsl/Kernel.h"

#include <limits>

namespace bitloom::kernels {

// Activations for the 8-bit products of tensor cores: each row of x as numbers q of i8 or f8e4m3 with a scale of its
// own, x = scale · q, whose largest magnitude becomes the type's. Rows are filled up with zeros to a multiple of
// columns, such as copy engines and groups of scales want. A row of up to 16384 columns is read once.
template <class T, class Q> struct QuantizeTokens {
  static constexpr auto name = "quantize_tokens";
  static constexpr auto summary = "rows as i8 or f8e4m3 numbers with a scale each: for matmul and group_scaled_matmul";
  static constexpr auto tests = "m=1 k=1; m=3 k=199 multiple=32; m=9 k=130 multiple=1; m=17 k=48 multiple=128; "
                                "m=3 k=4097; m=2 k=20000 multiple=64";
  static constexpr auto benchmarks = "m=1 k=4096; m=4096 k=4096; m=4096 k=28672";

  View<const T, 2> x{"m, k"};
  View<Q, 2> out{"m, round_up(k, multiple)"};
  View<f32, 1> scales{"m"};
  Meta<int> multiple = 16;
  Meta<int> block = "min(round_up(k, max(multiple, 128)), 16384)";
  Meta<int> block_rows = "max(1, 1024 / next_pow2(block))";
  Meta<bool> resident = "round_up(k, multiple) <= block"; // the row is one tile
  BITLOOM_PARAMS(x, out, scales, multiple, block, block_rows, resident)

  Grid grid() const { return {ceil_div(x.extent(0), block_rows)}; }

  void operator()() const {
    constexpr float limit = std::same_as<Q, i8> ? 127.0f : 448.0f;
    auto rows = block_at(program_id(0), block_rows);
    auto scaleOf = [&](const Tile<f32, 1> &largest) {
      auto scale = largest / limit;
      scale = where(scale >= std::numeric_limits<float>::min(), scale, 1.0f); // whose inverse is finite
      scales(rows) = scale;
      return expand(1.0f / scale, 1);
    };
    auto write = [&](const Span &here, const Tile<f32, 2> &v, const Tile<f32, 2> &inverse) {
      auto q = v * inverse;
      if constexpr (std::same_as<Q, i8>)
        q = minimum(maximum(round(q), -limit), limit);
      out(rows, here) = cast<Q>(q);
    };
    if (resident) {
      auto here = span(0, block);
      auto v = cast<f32>(x(rows, here));
      write(here, v, scaleOf(max(abs(v), 1)));
      return;
    }
    auto largest = zeros<f32>({block_rows, block});
    for (auto c : range(0, x.extent(1), block))
      largest = maximum(largest, abs(cast<f32>(x(rows, span(c, block)))));
    auto inverse = scaleOf(max(largest, 1));
    for (auto c : range(0, out.extent(1), block)) {
      auto here = span(c, block);
      write(here, cast<f32>(x(rows, here)), inverse);
    }
  }
};

BITLOOM_REGISTER(QuantizeTokens<f32, i8>, QuantizeTokens<f16, i8>, QuantizeTokens<bf16, i8>,
                 QuantizeTokens<f32, f8e4m3>, QuantizeTokens<f16, f8e4m3>, QuantizeTokens<bf16, f8e4m3>)

} // namespace bitloom::kernels
