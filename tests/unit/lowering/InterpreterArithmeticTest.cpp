// Elementwise operations of the interpreter, against the same in C++.
#include "bitloom/tests/unit/lowering/Interpreted.h"

#include <bit>
#include <cmath>
#include <functional>
#include <limits>

namespace bitloom {
namespace {

std::vector<i32> someInts(size_t count, std::uint64_t seed) {
  std::vector<i32> values;
  for (double number : someNumbers(count, seed))
    values.push_back(i32(std::bit_cast<std::uint64_t>(number) >> 13));
  values[0] = std::numeric_limits<i32>::min();
  return values;
}

// One op on two i32 tiles against a function of C++.
void checkInts(const std::string &op, const std::function<i32(i32, i32)> &expected, bool shift = false) {
  SCOPED_TRACE(op);
  std::vector<i32> a = someInts(199, 3), b = someInts(199, 5);
  for (size_t i = 0; i < b.size(); ++i)
    b[i] = shift ? b[i] & 31 : i % 5 == 0 ? -1 : b[i] ? b[i] >> (i % 30) | 1 : 1;
  std::vector<i32> r = mapped<i32>("%r = " + op + " %a, %b : tensor<Nxi32>", a, b);
  for (size_t i = 0; i < a.size(); ++i)
    EXPECT_EQ(r[i], expected(a[i], b[i])) << a[i] << ", " << b[i];
}

TEST(InterpreterArithmetic, Integers) {
  checkInts("arith.addi", [](i32 x, i32 y) { return i32(u32(x) + u32(y)); });
  checkInts("arith.subi", [](i32 x, i32 y) { return i32(u32(x) - u32(y)); });
  checkInts("arith.muli", [](i32 x, i32 y) { return i32(u32(x) * u32(y)); });
  checkInts("arith.andi", [](i32 x, i32 y) { return x & y; });
  checkInts("arith.ori", [](i32 x, i32 y) { return x | y; });
  checkInts("arith.xori", [](i32 x, i32 y) { return x ^ y; });
  checkInts("arith.maxsi", [](i32 x, i32 y) { return std::max(x, y); });
  checkInts("arith.minsi", [](i32 x, i32 y) { return std::min(x, y); });
  checkInts("arith.maxui", [](i32 x, i32 y) { return i32(std::max(u32(x), u32(y))); });
  checkInts("arith.minui", [](i32 x, i32 y) { return i32(std::min(u32(x), u32(y))); });
  checkInts("arith.divsi", [](i32 x, i32 y) { return i32(int64_t(x) / y); });
  checkInts("arith.remsi", [](i32 x, i32 y) { return i32(int64_t(x) % y); });
  checkInts("arith.divui", [](i32 x, i32 y) { return i32(u32(x) / u32(y)); });
  checkInts("arith.remui", [](i32 x, i32 y) { return i32(u32(x) % u32(y)); });
  checkInts("arith.floordivsi", [](i32 x, i32 y) { return i32(int64_t(std::floor(double(x) / y))); });
  checkInts("arith.ceildivsi", [](i32 x, i32 y) { return i32(int64_t(std::ceil(double(x) / y))); });
  checkInts("arith.ceildivui", [](i32 x, i32 y) { return i32(u32(std::ceil(double(u32(x)) / u32(y)))); });
  checkInts("arith.shli", [](i32 x, i32 y) { return i32(u32(x) << y); }, true);
  checkInts("arith.shrsi", [](i32 x, i32 y) { return x >> y; }, true);
  checkInts("arith.shrui", [](i32 x, i32 y) { return i32(u32(x) >> y); }, true);
}

TEST(InterpreterArithmetic, WrapsAtEveryWidth) {
  std::vector<i8> a = {127, -128, 100}, b = {1, -1, 100};
  EXPECT_EQ(mapped<i8>("%r = arith.addi %a, %b : tensor<Nxi8>", a, b), (std::vector<i8>{-128, 127, -56}));
  EXPECT_EQ(mapped<i8>("%r = arith.divsi %a, %b : tensor<Nxi8>", a, b), (std::vector<i8>{127, -128, 1}));
  std::vector<i64> c = {INT64_MAX, -7}, d = {1, 2};
  EXPECT_EQ(mapped<i64>("%r = arith.addi %a, %b : tensor<Nxi64>", c, d), (std::vector<i64>{INT64_MIN, -5}));
}

TEST(InterpreterArithmetic, ExtendedMultiplicationAndAddition) {
  std::vector<u32> a = {0xffffffff, 7, 0x80000000}, b = {0xffffffff, 9, 3};
  auto low = mapped<u32>("%r, %h = arith.mului_extended %a, %b : tensor<Nxi32>", a, b);
  auto high = mapped<u32>("%l, %r = arith.mului_extended %a, %b : tensor<Nxi32>", a, b);
  auto signedHigh = mapped<u32>("%l, %r = arith.mulsi_extended %a, %b : tensor<Nxi32>", a, b);
  auto carry = mapped<u8>("%s, %c = arith.addui_extended %a, %b : tensor<Nxi32>, tensor<Nxi1>\n"
                          "%r = arith.extui %c : tensor<Nxi1> to tensor<Nxi8>",
                          a, b);
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(low[i], u32(u64(a[i]) * b[i]));
    EXPECT_EQ(high[i], u32(u64(a[i]) * b[i] >> 32));
    EXPECT_EQ(signedHigh[i], u32(u64(int64_t(i32(a[i])) * i32(b[i])) >> 32));
    EXPECT_EQ(carry[i], (u64(a[i]) + b[i]) >> 32);
  }
  std::vector<u64> wide = {0xffffffffffffffff, 0x123456789abcdef0};
  auto wideHigh = mapped<u64>("%l, %r = arith.mului_extended %a, %a : tensor<Nxi64>", wide);
  for (size_t i = 0; i < wide.size(); ++i)
    EXPECT_EQ(wideHigh[i], u64((unsigned __int128)(wide[i]) * wide[i] >> 64));
}

TEST(InterpreterArithmetic, CountsBits) {
  std::vector<i16> a = {0, 1, -1, 0x40, -32768};
  EXPECT_EQ(mapped<i16>("%r = math.ctpop %a : tensor<Nxi16>", a), (std::vector<i16>{0, 1, 16, 1, 1}));
  EXPECT_EQ(mapped<i16>("%r = math.ctlz %a : tensor<Nxi16>", a), (std::vector<i16>{16, 15, 0, 9, 0}));
  EXPECT_EQ(mapped<i16>("%r = math.cttz %a : tensor<Nxi16>", a), (std::vector<i16>{16, 0, 0, 6, 15}));
  EXPECT_EQ(mapped<i16>("%r = math.absi %a : tensor<Nxi16>", a), (std::vector<i16>{0, 1, 1, 64, -32768}));
  std::vector<i16> three(5, 3);
  EXPECT_EQ(mapped<i16>("%r = math.ipowi %a, %b : tensor<Nxi16>", std::vector<i16>{2, -3, 0, 1, -1}, three),
            (std::vector<i16>{8, -27, 0, 1, -1}));
}

TEST(InterpreterArithmetic, IntegerComparisons) {
  std::vector<i8> a = {-1, 1, 5}, b = {1, -1, 5};
  auto compared = [&](const std::string &predicate) {
    return mapped<i8>("%c = arith.cmpi " + predicate + ", %a, %b : tensor<Nxi8>\n" +
                          "%r = arith.extui %c : tensor<Nxi1> to tensor<Nxi8>",
                      a, b);
  };
  using V = std::vector<i8>;
  EXPECT_EQ(compared("eq"), (V{0, 0, 1}));
  EXPECT_EQ(compared("ne"), (V{1, 1, 0}));
  EXPECT_EQ(compared("slt"), (V{1, 0, 0}));
  EXPECT_EQ(compared("sle"), (V{1, 0, 1}));
  EXPECT_EQ(compared("sgt"), (V{0, 1, 0}));
  EXPECT_EQ(compared("sge"), (V{0, 1, 1}));
  EXPECT_EQ(compared("ult"), (V{0, 1, 0}));
  EXPECT_EQ(compared("ule"), (V{0, 1, 1}));
  EXPECT_EQ(compared("ugt"), (V{1, 0, 0}));
  EXPECT_EQ(compared("uge"), (V{1, 0, 1}));
}

TEST(InterpreterArithmetic, FloatComparisons) {
  std::vector<f32> a = {1, 2, 2, NAN, 0.0f}, b = {2, 1, 2, 1, -0.0f};
  auto compared = [&](const std::string &predicate) {
    return mapped<i8>("%c = arith.cmpf " + predicate + ", %a, %b : tensor<Nxf32>\n" +
                          "%r = arith.extui %c : tensor<Nxi1> to tensor<Nxi8>",
                      a, b);
  };
  using V = std::vector<i8>;
  EXPECT_EQ(compared("false"), (V{0, 0, 0, 0, 0}));
  EXPECT_EQ(compared("true"), (V{1, 1, 1, 1, 1}));
  EXPECT_EQ(compared("ord"), (V{1, 1, 1, 0, 1}));
  EXPECT_EQ(compared("uno"), (V{0, 0, 0, 1, 0}));
  EXPECT_EQ(compared("oeq"), (V{0, 0, 1, 0, 1}));
  EXPECT_EQ(compared("ueq"), (V{0, 0, 1, 1, 1}));
  EXPECT_EQ(compared("one"), (V{1, 1, 0, 0, 0}));
  EXPECT_EQ(compared("une"), (V{1, 1, 0, 1, 0}));
  EXPECT_EQ(compared("olt"), (V{1, 0, 0, 0, 0}));
  EXPECT_EQ(compared("ult"), (V{1, 0, 0, 1, 0}));
  EXPECT_EQ(compared("ole"), (V{1, 0, 1, 0, 1}));
  EXPECT_EQ(compared("ule"), (V{1, 0, 1, 1, 1}));
  EXPECT_EQ(compared("ogt"), (V{0, 1, 0, 0, 0}));
  EXPECT_EQ(compared("ugt"), (V{0, 1, 0, 1, 0}));
  EXPECT_EQ(compared("oge"), (V{0, 1, 1, 0, 1}));
  EXPECT_EQ(compared("uge"), (V{0, 1, 1, 1, 1}));
}

TEST(InterpreterArithmetic, FloatsRoundToTheirType) {
  std::vector<f32> a = some<f32>(199, 1), b = some<f32>(199, 2);
  std::vector<f16> ha = some<f16>(199, 1), hb = some<f16>(199, 2);
  std::vector<bf16> ba = some<bf16>(199, 1), bb = some<bf16>(199, 2);
  std::vector<f64> da = someNumbers(199, 1), db = someNumbers(199, 2);
  struct Case {
    const char *op;
    f64 (*inF64)(f64, f64);
    f32 (*inF32)(f32, f32);
  };
  for (const Case &each :
       {Case{"addf", [](f64 x, f64 y) { return x + y; }, [](f32 x, f32 y) { return x + y; }},
        {"subf", [](f64 x, f64 y) { return x - y; }, [](f32 x, f32 y) { return x - y; }},
        {"mulf", [](f64 x, f64 y) { return x * y; }, [](f32 x, f32 y) { return x * y; }},
        {"divf", [](f64 x, f64 y) { return x / y; }, [](f32 x, f32 y) { return x / y; }},
        {"remf", [](f64 x, f64 y) { return std::fmod(x, y); }, [](f32 x, f32 y) { return std::fmod(x, y); }}}) {
    SCOPED_TRACE(each.op);
    auto op = [&](const std::string &type) {
      return "%r = arith." + std::string(each.op) + " %a, %b : tensor<Nx" + type + ">";
    };
    auto r = mapped<f32>(op("f32"), a, b);
    auto half = mapped<f16>(op("f16"), ha, hb);
    auto brain = mapped<bf16>(op("bf16"), ba, bb);
    auto wide = mapped<f64>(op("f64"), da, db);
    for (size_t i = 0; i < a.size(); ++i) {
      EXPECT_EQ(r[i], each.inF32(a[i], b[i])); // the hardware rounds once
      // An f32 operation on 11 bits is exact enough for a second rounding to be innocuous.
      EXPECT_EQ(float(half[i]), float(f16(each.inF32(ha[i], hb[i]))));
      EXPECT_EQ(float(brain[i]), float(bf16(each.inF32(ba[i], bb[i]))));
      EXPECT_EQ(wide[i], each.inF64(da[i], db[i]));
    }
  }
}

TEST(InterpreterArithmetic, MaximaAndMinima) {
  std::vector<f32> a = {1, NAN, -0.0f, 3}, b = {2, 1, 0.0f, NAN};
  auto bits = [](std::vector<f32> values) {
    std::vector<u32> all;
    for (f32 value : values)
      all.push_back(std::isnan(value) ? 0x7fc00000 : std::bit_cast<u32>(value));
    return all;
  };
  auto of = [&](const std::string &op) {
    return bits(mapped<f32>("%r = arith." + op + " %a, %b : tensor<Nxf32>", a, b));
  };
  EXPECT_EQ(of("maximumf"), bits({2, NAN, 0.0f, NAN}));
  EXPECT_EQ(of("minimumf"), bits({1, NAN, -0.0f, NAN}));
  EXPECT_EQ(of("maxnumf"), bits({2, 1, 0.0f, 3}));
  EXPECT_EQ(of("minnumf"), bits({1, 1, -0.0f, 3}));
}

TEST(InterpreterArithmetic, Math) {
  std::vector<f32> a = some<f32>(17);
  struct Case {
    const char *op;
    f64 (*expected)(f64);
    bool positive = false;
  };
  for (const Case &each : {Case{"exp", std::exp},
                           {"exp2", std::exp2},
                           {"expm1", std::expm1},
                           {"log", std::log, true},
                           {"log2", std::log2, true},
                           {"log10", std::log10, true},
                           {"log1p", std::log1p, true},
                           {"sqrt", std::sqrt, true},
                           {"rsqrt", [](f64 x) { return 1 / std::sqrt(x); }, true},
                           {"cbrt", std::cbrt},
                           {"sin", std::sin},
                           {"cos", std::cos},
                           {"tan", std::tan},
                           {"tanh", std::tanh},
                           {"sinh", std::sinh},
                           {"cosh", std::cosh},
                           {"atan", std::atan},
                           {"asinh", std::asinh},
                           {"erf", std::erf},
                           {"erfc", std::erfc},
                           {"absf", std::fabs},
                           {"floor", std::floor},
                           {"ceil", std::ceil},
                           {"trunc", std::trunc},
                           {"round", std::round},
                           {"roundeven", std::nearbyint}}) {
    SCOPED_TRACE(each.op);
    std::vector<f32> x = a;
    if (each.positive)
      for (f32 &value : x)
        value = std::fabs(value);
    auto r = mapped<f32>("%r = math." + std::string(each.op) + " %a : tensor<Nxf32>", x);
    for (size_t i = 0; i < x.size(); ++i)
      EXPECT_EQ(r[i], f32(each.expected(x[i]))) << x[i];
  }
  std::vector<f32> b = some<f32>(17, 2), c = some<f32>(17, 3);
  auto fma = mapped<f32>("%r = math.fma %a, %b, %c : tensor<Nxf32>", a, b, c);
  auto power = mapped<f32>("%p = math.absf %a : tensor<Nxf32>\n%r = math.powf %p, %b : tensor<Nxf32>", a, b);
  auto sign = mapped<f32>("%r = math.copysign %a, %b : tensor<Nxf32>", a, b);
  auto negated = mapped<f32>("%r = arith.negf %a : tensor<Nxf32>", a);
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(fma[i], std::fma(a[i], b[i], c[i]));
    EXPECT_EQ(power[i], f32(std::pow(std::fabs(f64(a[i])), f64(b[i]))));
    EXPECT_EQ(sign[i], std::copysign(a[i], b[i]));
    EXPECT_EQ(negated[i], -a[i]);
  }
  EXPECT_EQ(mapped<f32>("%r = math.round %a : tensor<Nxf32>", std::vector<f32>{0.5f, 2.5f, -2.5f}),
            (std::vector<f32>{1, 3, -3}));
  EXPECT_EQ(mapped<f32>("%r = math.roundeven %a : tensor<Nxf32>", std::vector<f32>{0.5f, 2.5f, -2.5f}),
            (std::vector<f32>{0, 2, -2}));
  EXPECT_EQ(mapped<i8>("%c = math.isnan %a : tensor<Nxf32>\n%r = arith.extui %c : tensor<Nxi1> to tensor<Nxi8>",
                       std::vector<f32>{1, NAN, INFINITY}),
            (std::vector<i8>{0, 1, 0}));
}

TEST(InterpreterArithmetic, Casts) {
  std::vector<i8> a = {-1, 127, -128};
  EXPECT_EQ(mapped<i32>("%r = arith.extsi %a : tensor<Nxi8> to tensor<Nxi32>", a), (std::vector<i32>{-1, 127, -128}));
  EXPECT_EQ(mapped<i32>("%r = arith.extui %a : tensor<Nxi8> to tensor<Nxi32>", a), (std::vector<i32>{255, 127, 128}));
  EXPECT_EQ(mapped<f32>("%r = arith.sitofp %a : tensor<Nxi8> to tensor<Nxf32>", a), (std::vector<f32>{-1, 127, -128}));
  EXPECT_EQ(mapped<f32>("%r = arith.uitofp %a : tensor<Nxi8> to tensor<Nxf32>", a), (std::vector<f32>{255, 127, 128}));
  EXPECT_EQ(mapped<i8>("%r = arith.trunci %a : tensor<Nxi32> to tensor<Nxi8>", std::vector<i32>{0x1ff, 0x17f, -129}),
            (std::vector<i8>{-1, 127, 127}));
  std::vector<f32> x = {-1.75f, 200, NAN, 3.99f};
  EXPECT_EQ(mapped<i8>("%r = arith.fptosi %a : tensor<Nxf32> to tensor<Nxi8>", x), (std::vector<i8>{-1, 127, 0, 3}));
  EXPECT_EQ(mapped<u8>("%r = arith.fptoui %a : tensor<Nxf32> to tensor<Nxi8>", x), (std::vector<u8>{0, 200, 0, 3}));
  std::vector<f32> bits = some<f32>(17);
  auto asInt = mapped<u32>("%r = arith.bitcast %a : tensor<Nxf32> to tensor<Nxi32>", bits);
  for (size_t i = 0; i < bits.size(); ++i)
    EXPECT_EQ(asInt[i], std::bit_cast<u32>(bits[i]));
  EXPECT_EQ(mapped<f32>("%r = arith.bitcast %a : tensor<Nxi32> to tensor<Nxf32>", asInt), bits);
  std::vector<u16> halves = {0x3c00, 0xc500, 0x0001, 0x7bff};
  EXPECT_EQ(mapped<f32>("%h = arith.bitcast %a : tensor<Nxi16> to tensor<Nxf16>\n"
                        "%r = arith.extf %h : tensor<Nxf16> to tensor<Nxf32>",
                        halves),
            (std::vector<f32>{1, -5, 0x1p-24f, 65504}));
}

TEST(InterpreterArithmetic, TruncationRounds) {
  std::vector<f32> x = {1 + 0x1p-11f, 1 + 0x3p-11f, -1 - 0x1p-11f, 1e6f};
  auto truncated = [&](const std::string &mode) {
    std::vector<f32> result;
    for (f16 value : mapped<f16>("%r = arith.truncf %a " + mode + " : tensor<Nxf32> to tensor<Nxf16>", x))
      result.push_back(value);
    return result;
  };
  constexpr f32 inf = INFINITY;
  EXPECT_EQ(truncated(""), (std::vector<f32>{1, 1 + 0x2p-10f, -1, inf}));
  EXPECT_EQ(truncated("toward_zero"), (std::vector<f32>{1, 1 + 0x1p-10f, -1, 65504}));
  EXPECT_EQ(truncated("upward"), (std::vector<f32>{1 + 0x1p-10f, 1 + 0x2p-10f, -1, inf}));
  EXPECT_EQ(truncated("downward"), (std::vector<f32>{1, 1 + 0x1p-10f, -1 - 0x1p-10f, 65504}));
  // f64 to bf16 directly: through f32 the tie would be made first.
  EXPECT_EQ(float(mapped<bf16>("%r = arith.truncf %a : tensor<Nxf64> to tensor<Nxbf16>",
                               std::vector<f64>{1 + 0x1p-8 + 0x1p-40})[0]),
            1 + 0x1p-7f);
}

TEST(InterpreterArithmetic, Select) {
  std::vector<i32> a = {1, 2, 3}, b = {4, 5, 6};
  EXPECT_EQ(mapped<i32>("%c = arith.constant dense<[true, false, true]> : tensor<3xi1>\n"
                        "%r = arith.select %c, %a, %b : tensor<Nxi1>, tensor<Nxi32>",
                        a, b),
            (std::vector<i32>{1, 5, 3}));
  EXPECT_EQ(mapped<i32>("%c = arith.constant false\n%r = arith.select %c, %a, %b : tensor<Nxi32>", a, b), b);
}

TEST(InterpreterArithmetic, DivisionByZeroNamesItsLine) {
  std::vector<i32> a = {1, 2}, b = {1, 0};
  std::string message = errorOf([&] { mapped<i32>("%r = arith.divsi %a, %b : tensor<Nxi32>", a, b); });
  EXPECT_EQ(message, "kernel.mlir:5: error: expected a divisor other than zero, got zero");
}

} // namespace
} // namespace bitloom
