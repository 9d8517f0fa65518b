// Divergences of a distribution q, the input, from p, the target, row by row, with their gradients in the same kernel.
//
// A form says, of an element's log2 q, log2 p, q and p: what it adds to the loss, and
// ∂loss / ∂log q. Logarithms are to base 2 since a GPU's are. Where the views
// hold logits, the rows of both are read once more before, for their normalisers, unless these are given, and with g
// for ∂loss / ∂log q the gradient is (g − q · Σ g) / temperature.
#pragma once

#include "bitloom/dsl/Kernel.h"

#include <numbers>
#include <utility>

namespace bitloom::kernels {

using Elements = Tile<f32, 1>;

inline constexpr float log2e = std::numbers::log2e_v<float>, ln2 = std::numbers::ln2_v<float>;

// 0 where p is, whatever x is there.
inline Elements product(const Elements &p, const Elements &x) { return where(p > 0.0f, p * x, 0.0f); }

// log2 p; some finite number where p is 0.
inline Elements logOf(const Elements &p) { return approx_log2(maximum(p, std::numeric_limits<float>::min())); }

// The names and meanings of what the views may hold.
enum Space { LogProbs, Logits, Probs };
inline constexpr auto spaceNames = "log_probs, logits, probs";

inline constexpr auto divergenceBlock = "min(round_up(cols, 128), 2048)";

// Rows of log-probabilities, to base 2, from those of views that may hold something else.
struct Normaliser {
  int space;
  Scalar<f32> inverseTemperature, logSum;

  // log Σ exp(x / temperature) of a row of logits; 0 of others. A running maximum and sum in each lane (Milakov and
  // Gimelshein, "Online normalizer calculation for softmax", 2018).
  template <class View>
  static Normaliser of(const View &view, const Scalar<i64> &row, int block, int space, const Scalar<f32> &temperature) {
    Scalar<f32> inverse = 1.0f / temperature, logSum = 0.0f;
    if (space == Logits) {
      auto largest = full<f32>({block}, std::numeric_limits<float>::lowest()), total = zeros<f32>({block});
      for (auto c : range(0, view.extent(1), block)) {
        auto x = cast<f32>(view(row, span(c, block)).or_else(-infinity)) * inverse;
        auto next = maximum(largest, x);
        total = total * exp(largest - next) + exp(x - next);
        largest = next;
      }
      auto top = max(largest, 0);
      logSum = top + log(sum(total * exp(largest - top), 0));
    }
    return {space, inverse, logSum};
  }

  // log2 p and p; p is 0 past the row.
  template <class View>
  std::pair<Elements, Elements> operator()(const View &view, const Scalar<i64> &row, const Span &here) const {
    if (space == Probs) {
      auto p = cast<f32>(view(row, here));
      return {logOf(p), p};
    }
    auto x = cast<f32>(view(row, here).or_else(-infinity));
    x = (space == Logits ? x * inverseTemperature - logSum : x) * log2e;
    return {x, exp2(x)};
  }
};

// loss and dinput from a form's terms(log q, log p, q, p): the loss's elements and ∂loss / ∂log q.
template <class T, class Terms>
void diverge(const View<const T, 2> &input, const View<const T, 2> &target, const View<const f32, 1> &scale,
             const View<T, 2> &dinput, const View<f32, 1> &loss, const Scalar<f32> &temperature, int inputSpace,
             int targetSpace, bool scaled, bool withGradient, int block, const Terms &terms,
             const View<const f32, 1> *inputLse = nullptr, const View<const f32, 1> *targetLse = nullptr) {
  auto row = program_id(0);
  auto cols = input.extent(1);
  auto normaliser = [&](const auto &view, int space, const View<const f32, 1> *lse) {
    return lse ? Normaliser{space, 1.0f / temperature, (*lse)(row)}
               : Normaliser::of(view, row, block, space, temperature);
  };
  auto q = normaliser(input, inputSpace, inputLse), p = normaliser(target, targetSpace, targetLse);
  auto at = [&](const Span &here) {
    auto [logQ, ownQ] = q(input, row, here);
    auto [logP, ownP] = p(target, row, here);
    auto [own, slope] = terms(logQ, logP, ownQ, ownP);
    return std::tuple(own, slope, ownQ);
  };
  Scalar<f32> multiplier = scaled ? Scalar<f32>(scale(row)) : Scalar<f32>(1.0f);
  auto losses = zeros<f32>({block}), slopes = zeros<f32>({block});
  for (auto c : range(0, cols, block)) {
    auto here = span(c, block);
    auto [own, slope, ownQ] = at(here);
    losses = losses + own;
    if (inputSpace == Logits)
      slopes = slopes + slope;
    else if (withGradient)
      dinput(row, here) = cast<T>(slope * multiplier);
  }
  loss(row) = sum(losses, 0);
  if (inputSpace != Logits || !withGradient)
    return;
  auto all = sum(slopes, 0);
  auto factor = multiplier * q.inverseTemperature;
  for (auto c : range(0, cols, block)) {
    auto here = span(c, block);
    auto [own, slope, ownQ] = at(here);
    dinput(row, here) = cast<T>((slope - ownQ * all) * factor);
  }
}

} // namespace bitloom::kernels
