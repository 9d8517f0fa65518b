// What a matrix product's epilogue may apply to its elements.
#pragma once

#include "bitloom/dsl/Ops.h"

namespace bitloom::kernels {

// 0: none, 1: relu, 2: silu (x · σ(x)), 3: gelu (x · Φ(x), exact). UserError for 2 and 3 of integers.
template <Element T, int R> Tile<T, R> activated(const Tile<T, R> &x, int activation) {
  if (activation == 0)
    return x;
  if (activation == 1)
    return maximum(x, T(0));
  if constexpr (std::is_floating_point_v<T>) {
    constexpr float sqrtHalf = 0.70710678118654752f;
    return activation == 2 ? x / (1.0f + exp(-x)) : 0.5f * x * (1.0f + erf(x * sqrtHalf));
  } else {
    throw UserError("argument activation: expected 0 (none) or 1 (relu) for integers, got " +
                    std::to_string(activation));
  }
}

} // namespace bitloom::kernels
