#include "bitloom/kernels/glu/Gate.h"
#include "bitloom/kernels/glu/Glu.h"

namespace bitloom::kernels {

template <class T> struct GeGlu : Glu<T, GeluTanh> {
  static constexpr auto name = "geglu";
  static constexpr auto summary = "out = gelu(gate * gate_multiplier) * up * down_multiplier, gelu in its tanh form";
  BITLOOM_PARAMS(gate, up, out, gate_multiplier, down_multiplier, block, block_rows)
};
BITLOOM_REGISTER(GeGlu<f32>, GeGlu<f16>, GeGlu<bf16>)

template <class T> struct GeGluBackward : GluBackward<T, GeluTanh> {
  static constexpr auto name = "geglu_backward";
  static constexpr auto summary = "the gradients of geglu: dgate and dup";
  BITLOOM_PARAMS(dy, gate, up, dgate, dup, gate_multiplier, down_multiplier, block, block_rows)
};
BITLOOM_REGISTER(GeGluBackward<f32>, GeGluBackward<f16>, GeGluBackward<bf16>)

} // namespace bitloom::kernels
