// Lesson 3: a loop that the kernel runs, variables that it carries, and more than one element type.
#include "bitloom/examples/lesson.h"

using namespace bitloom;

// Zhang and Sennrich, "Root Mean Square Layer Normalization" (2019). T is the element type in memory.
template <class T> struct RmsNorm {
  static constexpr auto name = "lesson_rms_norm";
  static constexpr auto summary = "out = x / sqrt(mean(x^2) + eps) * weight, row by row";
  static constexpr auto tests = "rows=1 cols=1; rows=3 cols=17; rows=17 cols=199; rows=2 cols=4097";
  static constexpr auto benchmarks = "rows=1024 cols=4096";

  View<const T, 2> x{"rows, cols"};
  View<const T, 1> weight{"cols"};
  View<T, 2> out{"rows, cols"};
  Param<f32> eps = 1e-6f; // a scalar of the call, with a default
  Meta<int> block = 128;
  BITLOOM_PARAMS(x, weight, out, eps, block)

  Grid grid() const { return {x.extent(0)}; }

  void operator()() const {
    auto row = program_id(0);
    auto cols = x.extent(1);

    // A plain C++ for would run here and now, while tracing. range is a loop of the kernel: its body is traced once and
    // runs cols / block times. squares is assigned in it, so the loop carries it from turn to turn. It holds a sum for
    // each lane; one reduction at the end is enough.
    auto squares = zeros<f32>({block});
    for (auto c : range(0, cols, block)) {
      auto v = cast<f32>(x(row, span(c, block))); // nothing converts by itself
      squares = squares + v * v;
    }
    auto scale = rsqrt(sum(squares, 0) / cast<f32>(cols) + eps);

    for (auto c : range(0, cols, block)) {
      auto here = span(c, block);
      auto v = cast<f32>(x(row, here)) * scale * cast<f32>(weight(here));
      out(row, here) = cast<T>(v); // rounds once
    }
  }
};
// One row of the registry, three variants: a call takes the one that its tensors fit.
BITLOOM_REGISTER(RmsNorm<f32>, RmsNorm<f16>, RmsNorm<bf16>)

template <class T> static void runWith(double tolerance) {
  const int64_t rows = 3, cols = 199;
  std::vector<float> plain = lesson::numbers(rows * cols), scales = lesson::numbers(cols);
  std::vector<T> x(plain.begin(), plain.end()), weight(scales.begin(), scales.end()), out(rows * cols);

  std::vector<double> wanted(rows * cols);
  for (int64_t r = 0; r < rows; ++r) {
    double squares = 0;
    for (int64_t c = 0; c < cols; ++c)
      squares += double(x[r * cols + c]) * double(x[r * cols + c]);
    for (int64_t c = 0; c < cols; ++c)
      wanted[r * cols + c] = double(x[r * cols + c]) / std::sqrt(squares / cols + 1e-3) * double(weight[c]);
  }

  Call call(kernelNamed("lesson_rms_norm"));
  call.set("x", lesson::tensor(x, {rows, cols}));
  call.set("weight", lesson::tensor(weight, {cols}));
  call.set("out", lesson::tensor(out, {rows, cols}));
  call.set("eps", 1e-3);
  lesson::runBothWays<T>(call, out, [&](int64_t i) { return wanted[i]; }, tolerance);
}

int main() {
  runWith<float>(1e-6);
  runWith<f16>(0x1p-10); // half a unit in the last place, of values below 2
  runWith<bf16>(0x1p-7);
}

// Next: 04_int4_unpack.cpp takes values out of bytes.
