#include "bitloom/kernels/glu/Gate.h"
#include "bitloom/kernels/glu/Glu.h"

namespace bitloom::kernels {

template <class T> struct Swiglu : Glu<T, Silu> {
  static constexpr auto name = "swiglu";
  static constexpr auto summary = "out = silu(gate * gate_multiplier) * up * down_multiplier";
  BITLOOM_PARAMS(gate, up, out, gate_multiplier, down_multiplier, block, block_rows)
};

BITLOOM_REGISTER(Swiglu<f32>, Swiglu<f16>, Swiglu<bf16>)

} // namespace bitloom::kernels
