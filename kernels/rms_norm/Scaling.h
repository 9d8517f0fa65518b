// The last step of rms_norm and of its fused forms.
#pragma once

#include "bitloom/dsl/Ops.h"

namespace bitloom::kernels {

// How the steps of x · rstd · (weight + offset) are rounded, by the name of the models that do so. The sum of squares
// is in f32 always.
enum Casting {
  Gemma, // once, at the end
  Llama, // x · rstd and weight + offset to x's type, then their product
  None,  // rstd too: every step is of x's type
};
inline constexpr auto castingNames = "gemma, llama, none";

template <Element T, int R> Tile<f32, R> rounded(const Tile<f32, R> &a) { return cast<f32>(cast<T>(a)); }

// v: x in f32; factor: weight + offset, or 1.
template <Element T, int R>
Tile<T, R> scaled(const Tile<f32, R> &v, const Tile<f32, R> &rstd, const Tile<f32, R> *factor, int casting) {
  auto result = v * (casting == None ? rounded<T>(rstd) : rstd);
  if (!factor)
    return cast<T>(result);
  if (casting == Gemma)
    return cast<T>(result * *factor);
  return cast<T>(rounded<T>(result) * rounded<T>(*factor));
}

} // namespace bitloom::kernels
