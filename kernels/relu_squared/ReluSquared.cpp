#include "bitloom/dsl/Kernel.h"

namespace bitloom::kernels {

// So et al., "Primer: Searching for Efficient Transformers for Language Modeling" (2021).
template <class T> struct ReluSquared {
  static constexpr auto name = "relu_squared";
  static constexpr auto summary = "out = max(x, 0)^2";
  static constexpr auto tests = "n=1; n=3; n=17; n=199; n=4097";
  static constexpr auto benchmarks = "n=117440512";

  View<const T, 1> x{"n"};
  View<T, 1> out{"n"};
  Meta<int> block = 1024;
  BITLOOM_PARAMS(x, out, block)

  Grid grid() const { return {ceil_div(x.extent(0), block)}; }

  void operator()() const {
    auto here = block_at(program_id(0), block);
    auto positive = maximum(cast<f32>(x(here)), 0.0f);
    out(here) = cast<T>(positive * positive);
  }
};

BITLOOM_REGISTER(ReluSquared<f32>, ReluSquared<f16>, ReluSquared<bf16>)

} // namespace bitloom::kernels
