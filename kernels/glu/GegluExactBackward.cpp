#include "bitloom/kernels/glu/Gate.h"
#include "bitloom/kernels/glu/Glu.h"

namespace bitloom::kernels {

template <class T> struct GegluExactBackward : GluBackward<T, GeluExact> {
  static constexpr auto name = "geglu_exact_backward";
  static constexpr auto summary = "the gradients of geglu_exact: dgate and dup";
  BITLOOM_PARAMS(dy, gate, up, dgate, dup, gate_multiplier, down_multiplier, block, block_rows)
};

BITLOOM_REGISTER(GegluExactBackward<f32>, GegluExactBackward<f16>, GegluExactBackward<bf16>)

} // namespace bitloom::kernels
