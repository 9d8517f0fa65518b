// Lesson 7: the same with 4-bit weights, two in a byte: they are read packed and unpacked in registers.
#include "bitloom/examples/lesson.h"

using namespace bitloom;

struct Int4Dot {
  static constexpr auto name = "lesson_int4_dot";
  static constexpr auto summary = "out[0] = the sum of weight[i] · x[i], signed 4-bit weights, two a byte";
  static constexpr auto tests = "n=1; n=3; n=32; n=33; n=199; n=4097";
  static constexpr auto benchmarks = "n=65536";

  View<const u8, 1> weight{"ceil_div(n, 2)"}; // the first of each pair in the low nibble
  View<const i8, 1> x{"n"};
  View<i32, 1> out{"1"};
  Meta<int> block = 1024; // weights at a time, so half as many bytes
  BITLOOM_PARAMS(weight, x, out, block)

  Grid grid() const { return {1}; }

  void operator()() const {
    const Packing packing{.bits = 4, .order = Packing::Order::LowFirst, .block = 8};
    Scalar<i32> total = 0;
    for (auto i : range(0, ceil_div(x.extent(0), block))) {
      auto w = cast<i32>(unpack<i8>(weight(block_at(i, block / 2)), packing));
      // An odd n leaves half a byte over: whatever it holds, the x beside it reads as zero.
      auto products = w * cast<i32>(x(block_at(i, block)));
      total = total + sum(products, 0);
    }
    out(0) = total;
  }
};
BITLOOM_REGISTER(Int4Dot)

int main() {
  for (int64_t n : {1, 15, 32, 33, 199, 4097}) {
    std::vector<i8> values(n), x(n);
    std::vector<u8> weight((n + 1) / 2, u8(0xff)); // the half byte that may be left over is no zero
    int64_t wanted = 0;
    for (int64_t i = 0; i < n; ++i) {
      values[i] = i8(i * 7 % 16 - 8); // all of -8 … 7
      x[i] = i8(i * 91 % 256 - 128);
      wanted += int64_t(values[i]) * x[i];
    }
    for (int64_t i = 0; i < n; ++i)
      weight[i / 2] = u8((weight[i / 2] & (i % 2 ? 0x0f : 0xf0)) | (values[i] & 15) << (i % 2 ? 4 : 0));
    std::vector<i32> out(1);
    Call call(kernelNamed("lesson_int4_dot"));
    call.set("weight", lesson::tensor(weight, {(n + 1) / 2}));
    call.set("x", lesson::tensor(x, {n}));
    call.set("out", lesson::tensor(out, {1}));
    lesson::runBothWays<i32>(call, out, [&](int64_t) { return double(wanted); });
  }
}

// The kernels that ship (`bitloom list`) are written in the same way: see kernels/low_bit_gemv for one grown up.
