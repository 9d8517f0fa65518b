#include "bitloom/kernels/glu/Gate.h"
#include "bitloom/kernels/glu/Glu.h"

namespace bitloom::kernels {

template <class T> struct SwigluBackward : GluBackward<T, Silu> {
  static constexpr auto name = "swiglu_backward";
  static constexpr auto summary = "the gradients of swiglu: dgate and dup";
  BITLOOM_PARAMS(dy, gate, up, dgate, dup, gate_multiplier, down_multiplier, block, block_rows)
};

BITLOOM_REGISTER(SwigluBackward<f32>, SwigluBackward<f16>, SwigluBackward<bf16>)

} // namespace bitloom::kernels
