#include "bitloom/dsl/Kernel.h"

namespace bitloom::kernels {

template <class T> struct ReluSquaredBackward {
  static constexpr auto name = "relu_squared_backward";
  static constexpr auto summary = "the gradient of relu_squared: dx = 2 * dy * max(x, 0)";
  static constexpr auto tests = "n=1; n=3; n=17; n=199; n=4097";
  static constexpr auto benchmarks = "n=117440512";

  View<const T, 1> dy{"n"}, x{"n"};
  View<T, 1> dx{"n"};
  Meta<int> block = 1024;
  BITLOOM_PARAMS(dy, x, dx, block)

  Grid grid() const { return {ceil_div(x.extent(0), block)}; }

  void operator()() const {
    auto here = block_at(program_id(0), block);
    dx(here) = cast<T>(2.0f * cast<f32>(dy(here)) * maximum(cast<f32>(x(here)), 0.0f));
  }
};

BITLOOM_REGISTER(ReluSquaredBackward<f32>, ReluSquaredBackward<f16>, ReluSquaredBackward<bf16>)

} // namespace bitloom::kernels
