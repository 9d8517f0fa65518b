#include "bitloom/kernels/glu/Gate.h"
#include "bitloom/kernels/glu/Glu.h"

namespace bitloom::kernels {

template <class T> struct Geglu : Glu<T, GeluTanh> {
  static constexpr auto name = "geglu";
  static constexpr auto summary = "out = gelu(gate * gate_multiplier) * up * down_multiplier, gelu in its tanh form";
  BITLOOM_PARAMS(gate, up, out, gate_multiplier, down_multiplier, block, block_rows)
};

BITLOOM_REGISTER(Geglu<f32>, Geglu<f16>, Geglu<bf16>)

} // namespace bitloom::kernels
