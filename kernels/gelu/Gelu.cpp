#include "bitloom/dsl/Kernel.h"

namespace bitloom::kernels {

// Hendrycks and Gimpel, "Gaussian Error Linear Units" (2016): exact by default, their tanh form on request.
template <class T> struct Gelu {
  static constexpr auto name = "gelu";
  static constexpr auto summary = "out = x * Φ(x), Φ the normal distribution's; by tanh when approximate";
  static constexpr auto tests = "n=1; n=3; n=17; n=199; n=4097; n=4097 approximate=1";
  static constexpr auto benchmarks = "n=16777216; n=16777216 approximate=1";

  View<const T, 1> x{"n"};
  View<T, 1> out{"n"};
  Meta<bool> approximate = false;
  Meta<int> block = 1024;
  BITLOOM_PARAMS(x, out, approximate, block)

  Grid grid() const { return {ceil_div(x.extent(0), block)}; }

  void operator()() const {
    auto here = block_at(program_id(0), block);
    auto v = cast<f32>(x(here));
    constexpr float sqrtHalf = 0.70710678118654752f, sqrt2OverPi = 0.79788456080286536f;
    if (approximate)
      out(here) = cast<T>(0.5f * v * (1.0f + tanh(sqrt2OverPi * (v + 0.044715f * v * v * v))));
    else
      out(here) = cast<T>(0.5f * v * (1.0f + erf(v * sqrtHalf)));
  }
};

BITLOOM_REGISTER(Gelu<f32>, Gelu<f16>, Gelu<bf16>)

} // namespace bitloom::kernels
