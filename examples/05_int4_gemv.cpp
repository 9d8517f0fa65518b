// Lesson 5: what a language model does for each token: a matrix of 4-bit weights, with a scale for each group of them,
// times a vector. The weights are read once and never stored unpacked.
#include "bitloom/examples/lesson.h"

using namespace bitloom;

struct Int4Gemv {
  static constexpr auto name = "lesson_int4_gemv";
  static constexpr auto summary = "out = dequantised(weight) · x, weight = scale · (q - 8), q of 4 bits";
  static constexpr auto tests = "n=1 k=32; n=3 k=64; n=17 k=416; n=199 k=4096";
  static constexpr auto benchmarks = "n=4096 k=4096";

  // Extents may be expressions of names and of Meta parameters.
  View<const u8, 2> weight{"n, k / 2"};
  View<const f32, 2> scales{"n, k / group"};
  View<const f32, 1> x{"k"};
  View<f32, 1> out{"n"};
  Meta<int> group = 32;
  Meta<int> block_n = 16; // rows of the weight that a program takes
  BITLOOM_PARAMS(weight, scales, x, out, group, block_n)

  Grid grid() const { return {ceil_div(out.extent(0), block_n)}; }

  void operator()() const {
    // Neighbours in a group sit in neighbouring bytes, so that vectors of bytes unpack without a shuffle.
    const Packing packing{.bits = 4, .order = Packing::Order::Planar, .block = group};
    auto rows = block_at(program_id(0), block_n);
    auto total = zeros<f32>({block_n});
    for (auto g : range(0, scales.extent(1))) {
      auto bytes = weight(rows, block_at(g, group / 2));     // [block_n, group / 2] of u8
      auto q = cast<f32>(unpack<u8>(bytes, packing)) - 8.0f; // [block_n, group]
      auto v = x(block_at(g, group));                        // [group]
      auto partial = sum(q * expand(v, 0), 1);               // expand: [1, group], broadcast along the rows
      total = total + partial * scales(rows, g);             // an integer index drops its dimension
    }
    out(rows) = total;
  }
};
BITLOOM_REGISTER(Int4Gemv)

int main() {
  const int64_t n = 17, k = 416, group = 32;
  std::vector<u8> q(n * k);
  for (int64_t i = 0; i < n * k; ++i)
    q[i] = u8(i * 5 % 16);
  std::vector<u8> weight =
      packRows({.bits = 4, .order = Packing::Order::Planar, .block = group}, std::span<const u8>(q), n, k);
  std::vector<float> scales = lesson::numbers(n * k / group), x = lesson::numbers(k), out(n);

  std::vector<double> wanted(n);
  for (int64_t row = 0; row < n; ++row)
    for (int64_t col = 0; col < k; ++col)
      wanted[row] += double(scales[row * (k / group) + col / group]) * (q[row * k + col] - 8) * double(x[col]);

  Call call(kernelNamed("lesson_int4_gemv"));
  call.set("weight", lesson::tensor(weight, {n, k / 2}));
  call.set("scales", lesson::tensor(scales, {n, k / group}));
  call.set("x", lesson::tensor(x, {k}));
  call.set("out", lesson::tensor(out, {n}));
  lesson::runBothWays<float>(call, out, [&](int64_t i) { return wanted[i]; }, 1e-4);
}

// Next: 06_int8_dot.cpp has integers on both sides.
