#include "bitloom/kernels/divergences/Divergence.h"

namespace bitloom::kernels {

// The total variation distance, ½ · Σ |p − q|; where p = q its gradient is 0.
template <class T> struct Tvd {
  static constexpr auto name = "tvd";
  static constexpr auto summary = "the total variation distance of each row, sum(|p - q|) / 2, q the input and p the "
                                  "target; dinput = scale * its gradient";
  static constexpr auto tests =
      "rows=1 cols=1; rows=3 cols=17 with_gradient=1; rows=17 cols=199 with_gradient=1 scaled=1 space=1; rows=3 "
      "cols=4097 "
      "with_gradient=1 scaled=1 space=2; rows=3 cols=4097 space=1 with_gradient=1 temperature=2.5; rows=2 cols=20000 "
      "with_gradient=1";
  static constexpr auto benchmarks = "rows=2048 cols=128256 with_gradient=1 scaled=1";

  View<const T, 2> input{"rows, cols"}, target{"rows, cols"};
  View<const f32, 1> scale{"rows * scaled"};
  View<f32, 1> loss{"rows"};
  View<T, 2> dinput{"rows * with_gradient, cols"};
  Param<f32> temperature = 1.0f; // of logits
  Meta<int> space = Meta<int>::oneOf(spaceNames);
  Meta<bool> scaled = "scale.given", with_gradient = "dinput.given";
  Meta<int> block = divergenceBlock;
  BITLOOM_PARAMS(input, target, scale, loss, dinput, temperature, space, scaled, with_gradient, block)

  Grid grid() const { return {input.extent(0)}; }

  void operator()() const {
    auto terms = [&](const Elements &, const Elements &, const Elements &q, const Elements &p) {
      auto slope = where(q > p, 0.5f, where(q < p, full<f32>({block}, -0.5f), 0.0f));
      return std::pair(0.5f * abs(p - q), space == Probs ? slope : slope * q);
    };
    diverge(input, target, scale, dinput, loss, temperature, space, space, scaled, with_gradient, block, terms);
  }
};

BITLOOM_REGISTER(Tvd<f32>, Tvd<f16>, Tvd<bf16>)

} // namespace bitloom::kernels
