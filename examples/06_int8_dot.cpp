// Lesson 6: the dot product of two vectors of 8-bit integers, any number of them. Products are widened before they are
// added, so the sum is exact: 32 bits hold 2^17 products of the largest magnitude.
#include "bitloom/examples/lesson.h"

using namespace bitloom;

struct Int8Dot {
  static constexpr auto name = "lesson_int8_dot";
  static constexpr auto summary = "out[0] = the sum of a[i] · b[i], 8-bit integers";
  static constexpr auto tests = "n=1; n=3; n=16; n=17; n=199; n=4097";
  static constexpr auto benchmarks = "n=65536";

  View<const i8, 1> a{"n"};
  View<const i8, 1> b{"n"};
  View<i32, 1> out{"1"};
  Meta<int> block = 1024; // elements at a time
  BITLOOM_PARAMS(a, b, out, block)

  Grid grid() const { return {1}; }

  void operator()() const {
    Scalar<i32> total = 0;
    for (auto i : range(0, ceil_div(a.extent(0), block))) {
      // Past the end both read as zero, which adds nothing: n need be a multiple of nothing.
      auto products = cast<i32>(a(block_at(i, block))) * cast<i32>(b(block_at(i, block)));
      // Integers may be added in any order, so processors' instructions for just this are used where there are some:
      // `sdot` and `vpdpbusd` add four neighbours at once.
      total = total + sum(products, 0);
    }
    out(0) = total;
  }
};
BITLOOM_REGISTER(Int8Dot)

int main() {
  for (int64_t n : {1, 15, 16, 17, 199, 4097}) {
    std::vector<i8> a(n), b(n);
    int64_t wanted = 0;
    for (int64_t i = 0; i < n; ++i) {
      a[i] = i8(i * 37 % 256 - 128); // all of -128 … 127
      b[i] = i8(i * 91 % 256 - 128);
      wanted += int64_t(a[i]) * b[i];
    }
    std::vector<i32> out(1);
    Call call(kernelNamed("lesson_int8_dot"));
    call.set("a", lesson::tensor(a, {n}));
    call.set("b", lesson::tensor(b, {n}));
    call.set("out", lesson::tensor(out, {1}));
    lesson::runBothWays<i32>(call, out, [&](int64_t) { return double(wanted); });
  }
}

// `bitloom inspect build/lib/liblesson_06_int8_dot.so:lesson_int8_dot --verbose --target aarch64+dotprod` says what it
// becomes there. Next: 07_int4_dot.cpp, where one of the vectors is packed.
