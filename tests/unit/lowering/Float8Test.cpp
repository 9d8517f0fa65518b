// 8-bit floats: every code and every tie of them, through the interpreter and through each way of lowering that runs
// here, against lib's conversions; and dots of them.
#include "bitloom/lowering/Executable.h"
#include "bitloom/lowering/Pipeline.h"
#include "bitloom/tests/emulator/PtxEmulator.h"
#include "bitloom/tests/unit/lowering/Interpreted.h"

#include <cstring>
#include <limits>
#include <random>

using namespace bitloom;

namespace {

// Runs the kernel on the target: PTX in the emulator. `sharedBytes`: what it may use.
void run(const std::string &text, const std::string &target, const std::vector<Argument> &arguments, int64_t programs,
         int sharedBytes = 0) {
  LaunchArguments words;
  for (const Argument &argument : arguments)
    words.addView(argument.tensor);
  Program program = Program::parse(text, "kernel.mlir");
  const std::array<int64_t, 3> grid = {programs, 1, 1};
  if (target == "interpreter")
    return interpret(program, words.words(), grid);
  if (isCpu(parseTarget(target).family))
    return build(program, parseTarget(target))->launch(words.words(), grid);
  PtxEmulator emulator(emit(program, parseTarget(target), Stage::Assembly));
  for (const Argument &argument : arguments)
    emulator.allow(static_cast<char *>(argument.tensor.data), argument.tensor.byteSize());
  emulator.launch(words.words(), grid, sharedBytes);
}

// The interpreter, this processor with its own features and with few, and PTX with and without instructions for it.
std::vector<std::string> targets() {
  std::vector<std::string> names = {"interpreter", hostTarget().name, "sm_80", "sm_90a"};
  for (const char *name : {"x86-64", "x86-64-v3", "aarch64"})
    if (runsOnHost(parseTarget(name)))
      names.push_back(name);
  return names;
}

constexpr int64_t block = 256;

// The elements of `x`, converted. Both views are ragged in the block.
template <Element To, Element From> std::vector<To> convertedOn(const std::string &target, const std::vector<From> &x) {
  const std::string conversion = std::integral<From>         ? (std::signed_integral<From> ? "sitofp" : "uitofp")
                                 : sizeof(To) > sizeof(From) ? "extf"
                                                             : "truncf";
  std::string from = irType<From>(), to = irType<To>(), tile = "tensor<" + std::to_string(block) + "x";
  std::string text = "func.func @convert(%x: !tile.view<?x" + from + ">, %y: !tile.view<?x" + to + R"(>)
      attributes {tile.kernel, tile.num_warps = 1 : i32} {
    %id = tile.program_id 0
    %block = arith.constant )" +
                     std::to_string(block) + R"( : i64
    %at = arith.muli %id, %block : i64
    %a = tile.load %x[%at] dims [0] : !tile.view<?x)" +
                     from + "> -> " + tile + from + "> \n%b = arith." + conversion + " %a : " + tile + from + "> to " +
                     tile + to + ">\ntile.store %b, %y[%at] dims [0] : " + tile + to + ">, !tile.view<?x" + to +
                     ">\nreturn\n}";
  std::vector<To> y(x.size());
  run(text, target, {Argument(x), Argument(y)}, (int64_t(x.size()) + block - 1) / block);
  return y;
}

template <Element F> std::vector<F> everyCode() {
  std::vector<F> codes(256);
  for (int code = 0; code < 256; ++code)
    codes[code].bits = uint8_t(code);
  return codes;
}

// Every number of the format, every tie between two, what lies next to them, and what no format has.
template <Element F> std::vector<float> critical() {
  const float infinity = std::numeric_limits<float>::infinity();
  std::vector<float> values = {0,   1e-45f, 0x1p-126f, 0x1p-24f, 0x1p-17f, 1e30f, infinity,
                               NAN, 449,    464,       465,      480,      61440, 65536};
  std::vector<float> numbers;
  for (F code : everyCode<F>())
    if (std::isfinite(float(code)) && !std::signbit(float(code)))
      numbers.push_back(float(code));
  for (size_t i = 0; i < numbers.size(); ++i)
    for (float value : {numbers[i], (numbers[i] + numbers[std::min(i + 1, numbers.size() - 1)]) / 2})
      for (float near : {value, std::nextafter(value, 0.0f), std::nextafter(value, infinity)})
        values.push_back(near);
  for (size_t i = 0, count = values.size(); i < count; ++i)
    values.push_back(-values[i]);
  return values;
}

template <Element Wide, Element F> void widens() {
  for (const std::string &target : targets()) {
    std::vector<F> codes = everyCode<F>();
    std::vector<Wide> numbers = convertedOn<Wide>(target, codes);
    for (int code = 0; code < 256; ++code) {
      float expected = codes[code], got = float(numbers[code]);
      if (std::isnan(expected))
        ASSERT_TRUE(std::isnan(got)) << code << " on " << target;
      else
        ASSERT_EQ(std::bit_cast<uint32_t>(got), std::bit_cast<uint32_t>(expected)) << code << " on " << target;
    }
  }
}

template <Element F, Element Wide> void narrows() {
  std::vector<Wide> numbers;
  for (float value : critical<F>())
    numbers.push_back(Wide(value));
  for (const std::string &target : targets()) {
    std::vector<F> codes = convertedOn<F>(target, numbers);
    for (size_t i = 0; i < numbers.size(); ++i)
      ASSERT_EQ(int(codes[i].bits), int(F(float(numbers[i])).bits)) << float(numbers[i]) << " on " << target;
  }
}

TEST(Float8, EveryE4M3Widens) {
  widens<f32, f8e4m3>();
  widens<f16, f8e4m3>();
  widens<bf16, f8e4m3>();
  widens<f64, f8e4m3>();
}
TEST(Float8, EveryE5M2Widens) {
  widens<f32, f8e5m2>();
  widens<f16, f8e5m2>();
  widens<bf16, f8e5m2>();
}
TEST(Float8, RoundsAndSaturatesToE4M3) {
  narrows<f8e4m3, f32>();
  narrows<f8e4m3, f16>();
  narrows<f8e4m3, bf16>();
}
TEST(Float8, RoundsAndSaturatesToE5M2) {
  narrows<f8e5m2, f32>();
  narrows<f8e5m2, f16>();
  narrows<f8e5m2, bf16>();
}

// Casts of integers by way of f32 are one operation once folded.
template <Element F, Element Integer> void takesIntegers() {
  std::vector<Integer> numbers;
  for (int code = -256; code < 256; ++code)
    numbers.push_back(Integer(code));
  if constexpr (sizeof(Integer) > 1)
    for (int power = 8; power < 30; ++power)
      for (int near : {-1, 0, 1})
        for (int sign : {-1, 1})
          numbers.push_back(Integer(sign * ((3 << power >> 1) + near)));
  for (const std::string &target : targets()) {
    std::vector<F> codes = convertedOn<F>(target, numbers);
    for (size_t i = 0; i < numbers.size(); ++i)
      ASSERT_EQ(int(codes[i].bits), int(F(float(numbers[i])).bits)) << int64_t(numbers[i]) << " on " << target;
  }
}
TEST(Float8, IntegersRoundAndSaturate) {
  takesIntegers<f8e4m3, i8>();
  takesIntegers<f8e4m3, u8>();
  takesIntegers<f8e4m3, i32>();
  takesIntegers<f8e5m2, i8>();
  takesIntegers<f8e5m2, u8>();
  takesIntegers<f8e5m2, i32>();
}

// What only moves values: a constant, select, a transposition, a slice, gather; on ragged shapes.
TEST(Float8, MovesBytes) {
  const std::string text = R"(
func.func @move(%x: !tile.view<?x?xf8E4M3FN>, %y: !tile.view<?x?xf8E4M3FN>) attributes {tile.kernel} {
  %zero = arith.constant 0 : i64
  %other = arith.constant -3.5 : f8E4M3FN
  %a = tile.load %x[%zero, %zero] dims [0, 1] else %other : !tile.view<?x?xf8E4M3FN> -> tensor<8x32xf8E4M3FN>
  %t = tile.transpose %a [1, 0] : tensor<8x32xf8E4M3FN> -> tensor<32x8xf8E4M3FN>
  %index = tile.iota : tensor<32xi32>
  %column = tile.reshape %index : tensor<32xi32> -> tensor<32x1xi32>
  %wide = tile.broadcast %column : tensor<32x1xi32> -> tensor<32x8xi32>
  %limit = arith.constant dense<9> : tensor<32x8xi32>
  %first = arith.cmpi slt, %wide, %limit : tensor<32x8xi32>
  %half = arith.constant dense<0.5> : tensor<32x8xf8E4M3FN>
  %r = arith.select %first, %t, %half : tensor<32x8xi1>, tensor<32x8xf8E4M3FN>
  tile.store %r, %y[%zero, %zero] dims [0, 1] : tensor<32x8xf8E4M3FN>, !tile.view<?x?xf8E4M3FN>
  return
})";
  std::vector<f8e4m3> x(5 * 17);
  for (size_t i = 0; i < x.size(); ++i)
    x[i].bits = uint8_t(i * 3);
  for (const std::string &target : targets()) {
    std::vector<f8e4m3> y(32 * 7);
    run(text, target, {matrix(x, 5, 17), matrix(y, 32, 7)}, 1, 4096);
    for (int row = 0; row < 32; ++row)
      for (int column = 0; column < 7; ++column) {
        f8e4m3 expected = row >= 9 ? f8e4m3(0.5f) : column < 5 ? x[column * 17 + row] : f8e4m3(-3.5f);
        ASSERT_EQ(int(y[row * 7 + column].bits), int(expected.bits)) << row << ", " << column << " on " << target;
      }
  }
}

// The products are exact in f32, and so are these sums: integers over 2^6.
TEST(Float8, DotsAreExact) {
  for (const char *right : {"f8E4M3FN", "f8E5M2"}) {
    const std::string text = replaced(R"(
func.func @product(%a: !tile.view<?x?xf8E4M3FN>, %b: !tile.view<?x?xRIGHT>, %c: !tile.view<?x?xf32>)
    attributes {tile.kernel} {
  %zero = arith.constant 0 : i64
  %x = tile.load %a[%zero, %zero] dims [0, 1] : !tile.view<?x?xf8E4M3FN> -> tensor<16x32xf8E4M3FN>
  %y = tile.load %b[%zero, %zero] dims [0, 1] : !tile.view<?x?xRIGHT> -> tensor<32x16xRIGHT>
  %none = arith.constant dense<0.0> : tensor<16x16xf32>
  %d = tile.dot %x, %y, %none : tensor<16x32xf8E4M3FN>, tensor<32x16xRIGHT>, tensor<16x16xf32>
  tile.store %d, %c[%zero, %zero] dims [0, 1] : tensor<16x16xf32>, !tile.view<?x?xf32>
  return
})",
                                      "RIGHT", right);
    auto check = [&]<class B>(B) {
      std::mt19937 random(7);
      std::vector<f8e4m3> a(13 * 31);
      std::vector<B> b(31 * 15);
      for (f8e4m3 &value : a)
        value = f8e4m3(float(int(random() % 31) - 15) / 8);
      for (B &value : b)
        value = B(float(int(random() % 15) - 7) / 8);
      for (const std::string &target : targets()) {
        std::vector<float> c(13 * 15, NAN);
        run(text, target, {matrix(a, 13, 31), matrix(b, 31, 15), matrix(c, 13, 15)}, 1, 4096);
        for (int i = 0; i < 13; ++i)
          for (int j = 0; j < 15; ++j) {
            float sum = 0;
            for (int k = 0; k < 31; ++k)
              sum += float(a[i * 31 + k]) * float(b[k * 15 + j]);
            ASSERT_EQ(c[i * 15 + j], sum) << i << ", " << j << " on " << target;
          }
      }
    };
    if (right == std::string("f8E4M3FN"))
      check(f8e4m3());
    else
      check(f8e5m2());
  }
}

// What cannot be lowered is said at the operation.
TEST(Float8, ArithmeticIsRefusedOnNvidia) {
  const std::string text = R"(
func.func @sum(%x: !tile.view<?xf8E5M2>) attributes {tile.kernel} {
  %zero = arith.constant 0 : i64
  %a = tile.load %x[%zero] dims [0] : !tile.view<?xf8E5M2> -> tensor<64xf8E5M2>
  %b = arith.addf %a, %a : tensor<64xf8E5M2>
  tile.store %b, %x[%zero] dims [0] : tensor<64xf8E5M2>, !tile.view<?xf8E5M2>
  return
})";
  try {
    emit(Program::parse(text, "kernel.mlir"), parseTarget("sm_90a"), Stage::Assembly);
    FAIL() << "expected an error";
  } catch (const UserError &error) {
    EXPECT_NE(std::string(error.what()).find("expected elements to compute with, got 'f8E5M2'; cast them first"),
              std::string::npos)
        << error.what();
  }
}

} // namespace
