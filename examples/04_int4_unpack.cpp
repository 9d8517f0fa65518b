// Lesson 4: packed values. Two 4-bit values share a byte; which of them comes first is a convention, and files differ
// in it. A Packing says it once, for the host's packer, the interpreter and the code of every target.
#include "bitloom/examples/lesson.h"

using namespace bitloom;

// `bitloom packing bits=4,order=low,block=8` draws where each bit sits; so it does for order=high.
template <Packing::Order order> struct Unpack {
  static constexpr Packing packing = {.bits = 4, .order = order, .block = 8};
  static constexpr auto name = order == Packing::Order::LowFirst ? "lesson_unpack_low" : "lesson_unpack_high";
  static constexpr auto summary = "out = the signed 4-bit values of packed, two a byte";
  static constexpr auto tests = "rows=1 cols=8; rows=3 cols=24; rows=17 cols=200; rows=2 cols=4104";
  static constexpr auto benchmarks = "rows=1024 cols=4096";

  View<const u8, 2> packed{"rows, cols / 2"};
  View<i8, 2> out{"rows, cols"};
  Meta<int> block = 128; // values, so half as many bytes
  BITLOOM_PARAMS(packed, out, block)

  Grid grid() const { return {out.extent(0), ceil_div(out.extent(1), block)}; }

  void operator()() const {
    auto row = program_id(0), part = program_id(1);
    auto bytes = packed(row, block_at(part, block / 2)); // a tile of u8
    auto values = unpack<i8>(bytes, packing);            // twice as many; i8 reads the fields as two's complement
    out(row, block_at(part, block)) = values;
  }
};
BITLOOM_REGISTER(Unpack<Packing::Order::LowFirst>)
BITLOOM_REGISTER(Unpack<Packing::Order::HighFirst>)

static void runWith(Packing::Order order, const char *name) {
  const int64_t rows = 3, cols = 200;
  std::vector<i8> values(rows * cols), out(rows * cols);
  for (int64_t i = 0; i < rows * cols; ++i)
    values[i] = i8(i * 7 % 16 - 8); // all of -8 … 7

  // By hand, so that the convention is plain to see.
  std::vector<u8> packed(rows * cols / 2);
  for (int64_t i = 0; i < rows * cols; ++i) {
    bool inLowNibble = order == Packing::Order::LowFirst ? i % 2 == 0 : i % 2 == 1;
    packed[i / 2] |= u8((values[i] & 15) << (inLowNibble ? 0 : 4));
  }
  // The library's packer gives the same bytes.
  if (packRows({.bits = 4, .order = order, .block = 8}, std::span<const i8>(values), rows, cols) != packed) {
    std::printf("%s: the packer disagrees\n", name);
    std::exit(1);
  }

  Call call(kernelNamed(name));
  call.set("packed", lesson::tensor(packed, {rows, cols / 2}));
  call.set("out", lesson::tensor(out, {rows, cols}));
  lesson::runBothWays<i8>(call, out, [&](int64_t i) { return double(values[i]); });
}

int main() {
  runWith(Packing::Order::LowFirst, "lesson_unpack_low");
  runWith(Packing::Order::HighFirst, "lesson_unpack_high");
}

// Next: 05_int4_gemv.cpp computes with them.
