#include "bitloom/kernels/glu/Gate.h"
#include "bitloom/kernels/glu/Glu.h"

namespace bitloom::kernels {

template <class T> struct SwiGlu : Glu<T, Silu> {
  static constexpr auto name = "swiglu";
  static constexpr auto summary = "out = silu(gate * gate_multiplier) * up * down_multiplier";
  BITLOOM_PARAMS(gate, up, out, gate_multiplier, down_multiplier, block, block_rows)
};
BITLOOM_REGISTER(SwiGlu<f32>, SwiGlu<f16>, SwiGlu<bf16>)

template <class T> struct SwiGluBackward : GluBackward<T, Silu> {
  static constexpr auto name = "swiglu_backward";
  static constexpr auto summary = "the gradients of swiglu: dgate and dup";
  BITLOOM_PARAMS(dy, gate, up, dgate, dup, gate_multiplier, down_multiplier, block, block_rows)
};
BITLOOM_REGISTER(SwiGluBackward<f32>, SwiGluBackward<f16>, SwiGluBackward<bf16>)

} // namespace bitloom::kernels
