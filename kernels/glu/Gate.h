// The activations of gated linear units, with their derivatives.
#pragma once

#include "bitloom/dsl/Ops.h"

#include <utility>

namespace bitloom::kernels {

// 1 / (1 + 2^-u). 2^u and the reciprocal are a GPU's own, an instruction each: errors of 2^-21 relative and, of 2^u, as
// much more as the rounding of u is, 2^-24 |u|, where the results are small.
template <int R> Tile<f32, R> sigmoidOfLog2(const Tile<f32, R> &u) { return approx_reciprocal(1.0f + exp2(-u)); }
inline constexpr float log2e = 1.4426950408889634f;

// x · σ(x) (Elfwing, Uchibe and Doya, "Sigmoid-Weighted Linear Units", 2017) and its derivative
// σ(x) · (1 + x · (1 − σ(x))).
struct Silu {
  template <int R> static Tile<f32, R> value(const Tile<f32, R> &x) { return x * sigmoidOfLog2(x * log2e); }
  template <int R> static std::pair<Tile<f32, R>, Tile<f32, R>> withDerivative(const Tile<f32, R> &x) {
    auto sigmoid = sigmoidOfLog2(x * log2e);
    auto value = x * sigmoid;
    return {value, sigmoid + value * (1.0f - sigmoid)};
  }
};

// ½ · x · (1 + tanh(u)) with u = √(2/π) · (x + 0.044715 · x³) (Hendrycks and Gimpel, "Gaussian Error Linear Units",
// 2016). As (1 + tanh(u)) / 2 = σ(2u), it is x · σ(2u), one exponential; its derivative is
// σ(2u) · (1 + x · 2u' · (1 − σ(2u))).
struct GeluTanh {
  static constexpr float linear = 1.5957691216057308f, cubic = 0.071354816272600248f; // of 2u: 2·√(2/π), times 0.044715

  template <int R> static Tile<f32, R> sigmoid(const Tile<f32, R> &x) {
    return sigmoidOfLog2(x * (log2e * linear + (log2e * cubic) * x * x));
  }
  template <int R> static Tile<f32, R> value(const Tile<f32, R> &x) { return x * sigmoid(x); }
  template <int R> static std::pair<Tile<f32, R>, Tile<f32, R>> withDerivative(const Tile<f32, R> &x) {
    auto s = sigmoid(x);
    auto value = x * s;
    return {value, s + value * (linear + 3.0f * cubic * x * x) * (1.0f - s)};
  }
};

// x · Φ(x) with Φ(x) = (1 + erf(x / √2)) / 2, the normal distribution's, as the same paper defines it; its derivative
// is Φ(x) + x · exp(−x² / 2) / √(2π).
struct GeluExact {
  template <int R> static Tile<f32, R> below(const Tile<f32, R> &x) {
    return 0.5f + 0.5f * erf(x * 0.70710678118654752f);
  }
  template <int R> static Tile<f32, R> value(const Tile<f32, R> &x) { return x * below(x); }
  template <int R> static std::pair<Tile<f32, R>, Tile<f32, R>> withDerivative(const Tile<f32, R> &x) {
    auto part = below(x);
    return {x * part, part + x * exp(-0.5f * x * x) * 0.39894228040143268f};
  }
};

} // namespace bitloom::kernels
