// Lesson 1: a kernel, from its struct to its result.
//
// A kernel is a struct. Its members are its parameters, its call operator is its body, and the body says what one
// program of the grid does with a block of the data. Running the body once records it; nothing is computed then.
#include "bitloom/examples/lesson.h"

using namespace bitloom;

struct VectorAdd {
  // What the command line and Python show, and the sizes that `bitloom check` and `bitloom bench` run.
  static constexpr auto name = "lesson_vector_add";
  static constexpr auto summary = "out = x + y";
  static constexpr auto tests = "n=1; n=3; n=199; n=4097", benchmarks = "n=1048576";

  // Views of memory: an element type, a rank, and names for the extents. All three have one extent, called n, so a call
  // with tensors of different lengths is refused. What the kernel only reads is const.
  View<const f32, 1> x{"n"}, y{"n"};
  View<f32, 1> out{"n"};
  // A number that is known while tracing. Each value of it makes other machine code.
  Meta<int> block = 256;
  BITLOOM_PARAMS(x, y, out, block) // in the order of a call

  // How many programs there are: enough for n elements.
  Grid grid() const { return {ceil_div(out.extent(0), block)}; }

  void operator()() const {
    // This program's elements: block of them, from program_id · block. Those past the end of a view are read as zero
    // and never written, so any n will do.
    auto here = block_at(program_id(0), block);
    out(here) = x(here) + y(here);
  }
};
BITLOOM_REGISTER(VectorAdd)

int main() {
  const int64_t n = 4097;
  std::vector<float> x = lesson::numbers(n), y(n, 0.5f), out(n);

  Call call(kernelNamed("lesson_vector_add"));
  call.set("x", lesson::tensor(x, {n}));
  call.set("y", lesson::tensor(y, {n}));
  call.set("out", lesson::tensor(out, {n}));
  lesson::runBothWays<float>(call, out, [&](int64_t i) { return x[i] + 0.5f; });
}

// Built as a shared library, the same file is there for the command line:
//
//   bitloom inspect ./liblesson_01_vector_add.so:lesson_vector_add --emit tile        what was recorded
//   bitloom inspect ./liblesson_01_vector_add.so:lesson_vector_add --emit asm --target aarch64
//   bitloom check ./liblesson_01_vector_add.so:lesson_vector_add --target host,aarch64,sm_90a
//
// Next: 02_softmax.cpp reduces a row.
