#include "bitloom/kernels/glu/Gate.h"
#include "bitloom/kernels/glu/Glu.h"

namespace bitloom::kernels {

template <class T> struct GegluExact : Glu<T, GeluExact> {
  static constexpr auto name = "geglu_exact";
  static constexpr auto summary =
      "out = gelu(gate * gate_multiplier) * up * down_multiplier, gelu by the error function";
  BITLOOM_PARAMS(gate, up, out, gate_multiplier, down_multiplier, block, block_rows)
};

BITLOOM_REGISTER(GegluExact<f32>, GegluExact<f16>, GegluExact<bf16>)

} // namespace bitloom::kernels
