#include "bitloom/kernels/glu/Gate.h"
#include "bitloom/kernels/glu/Glu.h"

namespace bitloom::kernels {

template <class T> struct GegluBackward : GluBackward<T, GeluTanh> {
  static constexpr auto name = "geglu_backward";
  static constexpr auto summary = "the gradients of geglu: dgate and dup";
  BITLOOM_PARAMS(dy, gate, up, dgate, dup, gate_multiplier, down_multiplier, block, block_rows)
};

BITLOOM_REGISTER(GegluBackward<f32>, GegluBackward<f16>, GegluBackward<bf16>)

} // namespace bitloom::kernels
