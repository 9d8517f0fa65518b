// Lesson 2: two dimensions, and reductions.
#include "bitloom/examples/lesson.h"

using namespace bitloom;

struct Softmax {
  static constexpr auto name = "lesson_softmax";
  static constexpr auto summary = "out = exp(x - max(x)) / sum(exp(x - max(x))), row by row";
  static constexpr auto tests = "rows=1 cols=1; rows=3 cols=17; rows=17 cols=199; rows=2 cols=4097";
  static constexpr auto benchmarks = "rows=1024 cols=1024";

  View<const f32, 2> x{"rows, cols"};
  View<f32, 2> out{"rows, cols"};
  // The default of a Meta parameter may depend on the extents: here the row is one tile, however long it is.
  Meta<int> block = "next_pow2(cols)";
  BITLOOM_PARAMS(x, out, block)

  Grid grid() const { return {x.extent(0)}; } // a program a row

  void operator()() const {
    auto row = program_id(0);   // a scalar, known when the kernel runs
    auto here = span(0, block); // columns 0 to block - 1
    // An integer index drops its dimension, a span keeps it: this tile has rank 1. Columns past the end would be zero,
    // and zero may be larger than the largest element. or_else says what they are instead.
    auto v = x(row, here).or_else(-infinity);
    auto e = exp(v - max(v, 0)); // max over dimension 0 is a scalar; scalars go with tiles of any rank
    out(row, here) = e / sum(e, 0);
  }
};
BITLOOM_REGISTER(Softmax)

int main() {
  const int64_t rows = 17, cols = 199;
  std::vector<float> x = lesson::numbers(rows * cols), out(rows * cols);

  std::vector<double> wanted(rows * cols);
  for (int64_t r = 0; r < rows; ++r) {
    double sum = 0;
    for (int64_t c = 0; c < cols; ++c)
      sum += std::exp(double(x[r * cols + c]));
    for (int64_t c = 0; c < cols; ++c)
      wanted[r * cols + c] = std::exp(double(x[r * cols + c])) / sum;
  }

  Call call(kernelNamed("lesson_softmax"));
  call.set("x", lesson::tensor(x, {rows, cols}));
  call.set("out", lesson::tensor(out, {rows, cols}));
  lesson::runBothWays<float>(call, out, [&](int64_t i) { return wanted[i]; }, 1e-7);
}

// Next: 03_rms_norm.cpp reads a row block by block, in any element type.
