// Rows of floats as 8-bit numbers, x = scale · (q − zero): what quantises before a product, and what does within one.
#pragma once

#include "bitloom/dsl/Control.h"
#include "bitloom/dsl/Ops.h"
#include "bitloom/dsl/View.h"

#include <limits>
#include <optional>

namespace bitloom::kernels {

// One of each a row; no zero: it is 0 for all.
struct RowNumbers {
  Tile<f32, 1> scale, inverse;
  std::optional<Tile<f32, 1>> zero;
};

// Of the `count` rows at `rows`, read `group` columns at a time.
template <class T>
RowNumbers rowNumbers(const View<const T, 2> &x, const Span &rows, int64_t count, int64_t group, bool asymmetric) {
  auto scaleOf = [](const Tile<f32, 1> &step) { // one whose inverse is finite
    return where(step >= std::numeric_limits<float>::min(), step, 1.0f);
  };
  auto largest = zeros<f32>({count, group});
  if (!asymmetric) {
    for (auto c : range(0, x.extent(1), group))
      largest = maximum(largest, abs(cast<f32>(x(rows, span(c, group)))));
    auto scale = scaleOf(max(largest, 1) / 127.0f);
    return {scale, 1.0f / scale, std::nullopt};
  }
  auto smallest = zeros<f32>({count, group});
  for (auto c : range(0, x.extent(1), group)) {
    auto v = cast<f32>(x(rows, span(c, group)));
    largest = maximum(largest, v);
    smallest = minimum(smallest, v);
  }
  auto bottom = min(smallest, 1);
  auto scale = scaleOf((max(largest, 1) - bottom) / 255.0f);
  auto inverse = 1.0f / scale;
  return {scale, inverse, minimum(maximum(round(-128.0f - bottom * inverse), -128.0f), 127.0f)};
}

// q of those columns, whole numbers from −128 to 127; 0 beyond the last column.
template <class T>
Tile<f32, 2> quantised(const View<const T, 2> &x, const Span &rows, const Span &columns, const RowNumbers &numbers) {
  auto q = round(cast<f32>(x(rows, columns)) * expand(numbers.inverse, 1));
  auto inRange = [](const Tile<f32, 2> &v) { return minimum(maximum(v, -128.0f), 127.0f); };
  if (!numbers.zero)
    return inRange(q);
  return where(expand(columns.indices() < x.extent(1), 0), inRange(q + expand(*numbers.zero, 1)), 0.0f);
}

} // namespace bitloom::kernels
