#include "bitloom/lowering/interpreter/Number.h"

#include "bitloom/lib/dtype/DType.h"

#include <gtest/gtest.h>

#include <cfenv>
#include <cmath>
#include <limits>

namespace bitloom::interpreter {
namespace {

using Kind = Number::Kind;
constexpr double infinity = std::numeric_limits<double>::infinity();

double valueOf(f16 number) { return float(number); }
double valueOf(bf16 number) { return float(number); }
double valueOf(f8e4m3 number) { return float(number); }
double valueOf(f8e5m2 number) { return float(number); }

// Every number of a type of 8 or 16 bits reads as lib's own conversion says, rounds to itself and is written back.
template <class T> void roundTrips(Kind kind) {
  for (int bits = 0; bits < 1 << 8 * sizeof(T); ++bits) {
    T number;
    number.bits = decltype(number.bits)(bits);
    double value = decode(bits, kind);
    if (std::isnan(valueOf(number))) {
      ASSERT_TRUE(std::isnan(value)) << bits;
      ASSERT_TRUE(std::isnan(decode(encode(value, kind), kind))) << bits;
      continue;
    }
    ASSERT_EQ(value, valueOf(number)) << bits;
    if (std::isfinite(value) || sizeof(T) > 1)
      ASSERT_EQ(rounded(value, kind), value) << bits;
    ASSERT_EQ(encode(value, kind), std::uint64_t(bits));
  }
}

TEST(Number, EveryHalfRoundTrips) { roundTrips<f16>(Kind::F16); }
TEST(Number, EveryBFloatRoundTrips) { roundTrips<bf16>(Kind::BF16); }
TEST(Number, EveryE4M3RoundTrips) { roundTrips<f8e4m3>(Kind::F8E4M3); }
TEST(Number, EveryE5M2RoundTrips) { roundTrips<f8e5m2>(Kind::F8E5M2); }

// Between each two neighbours: the middle goes to the even one, and what lies nearer to one of them goes there.
void roundsBetweenNeighbours(Kind kind, int largest) {
  for (int bits = 0; bits < largest; ++bits) {
    double low = decode(bits, kind), high = decode(bits + 1, kind), middle = (low + high) / 2;
    double even = bits % 2 ? high : low;
    for (double sign : {1.0, -1.0}) {
      ASSERT_EQ(rounded(sign * middle, kind), sign * even) << bits;
      ASSERT_EQ(rounded(sign * std::nextafter(middle, 0.0), kind), sign * low) << bits;
      ASSERT_EQ(rounded(sign * std::nextafter(middle, infinity), kind), sign * high) << bits;
      ASSERT_EQ(rounded(sign * middle, kind, Rounding::TowardZero), sign * low) << bits;
      ASSERT_EQ(rounded(sign * middle, kind, Rounding::NearestAway), sign * high) << bits;
      ASSERT_EQ(rounded(sign * middle, kind, Rounding::Up), sign > 0 ? high : -low) << bits;
      ASSERT_EQ(rounded(sign * middle, kind, Rounding::Down), sign > 0 ? low : -high) << bits;
    }
  }
}

TEST(Number, RoundsBetweenHalves) { roundsBetweenNeighbours(Kind::F16, 0x7bff); }
TEST(Number, RoundsBetweenBFloats) { roundsBetweenNeighbours(Kind::BF16, 0x7f7f); }
TEST(Number, RoundsBetweenE4M3s) { roundsBetweenNeighbours(Kind::F8E4M3, 0x7e); }
TEST(Number, RoundsBetweenE5M2s) { roundsBetweenNeighbours(Kind::F8E5M2, 0x7b); }

TEST(Number, RoundingOverflows) {
  EXPECT_EQ(rounded(65519.99, Kind::F16), 65504);
  EXPECT_EQ(rounded(65520, Kind::F16), infinity);
  EXPECT_EQ(rounded(-1e300, Kind::F16), -infinity);
  EXPECT_EQ(rounded(1e300, Kind::F16, Rounding::TowardZero), 65504);
  EXPECT_EQ(rounded(-70000, Kind::F16, Rounding::Up), -65504);
  EXPECT_EQ(rounded(-70000, Kind::F16, Rounding::Down), -infinity);
  EXPECT_EQ(rounded(0x1.ffp127, Kind::BF16), infinity);
  EXPECT_EQ(rounded(infinity, Kind::F16), infinity);
  EXPECT_EQ(rounded(1e300, Kind::F8E4M3), 448);
  EXPECT_EQ(rounded(-449, Kind::F8E4M3, Rounding::Down), -448);
  EXPECT_EQ(rounded(-infinity, Kind::F8E5M2), -57344);
  EXPECT_EQ(rounded(infinity, Kind::F8E5M2, Rounding::Up), 57344);
  EXPECT_TRUE(std::isnan(rounded(NAN, Kind::F16)));
  EXPECT_TRUE(std::signbit(rounded(-1e-300, Kind::BF16)));
}

// f32 against the hardware in each of its rounding modes.
TEST(Number, RoundsToFloatAsTheHardware) {
  double value = 1.0 / 3;
  for (int i = 0; i < 4000; ++i, value = std::fmod(value * -1.7, 1e38) * (i % 3 ? 1 : 1e-3)) {
    struct Mode {
      int hardware;
      Rounding rounding;
    };
    for (Mode mode : {Mode{FE_DOWNWARD, Rounding::Down},
                      {FE_UPWARD, Rounding::Up},
                      {FE_TOWARDZERO, Rounding::TowardZero},
                      {FE_TONEAREST, Rounding::NearestEven}}) {
      std::fesetround(mode.hardware);
      volatile double source = value;
      volatile float expected = float(source);
      std::fesetround(FE_TONEAREST);
      ASSERT_EQ(rounded(value, Kind::F32, mode.rounding), double(expected)) << value;
    }
  }
}

// The one rounding of a fused multiply-add, where rounding the f64 sum again would go wrong.
TEST(Number, FusedMultiplyAddRoundsOnce) {
  std::uint64_t seed = 7;
  auto next = [&] {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return float(std::ldexp(double(int64_t(seed) >> 40), int(seed >> 20 & 63) - 48));
  };
  for (int i = 0; i < 100000; ++i) {
    float a = next(), b = next(), c = next();
    ASSERT_EQ(float(fusedMultiplyAdd(a, b, c, Kind::F32)), std::fma(a, b, c)) << a << " " << b << " " << c;
  }
  // 1 + 2^-24 is a tie that the tiny term breaks.
  EXPECT_EQ(fusedMultiplyAdd(0x1p-40, 0x1p-40, 1 + 0x1p-23, Kind::F32), 1 + 0x1p-23);
  EXPECT_EQ(fusedMultiplyAdd(0x1p-12f + 0x1p-35f, 0x1p-12f, 1, Kind::F32), 1 + 0x1p-23);
  EXPECT_EQ(fusedMultiplyAdd(0x1p-12, 0x1p-12, 1, Kind::F32), 1);
}

TEST(Number, IntegersRoundOnce) {
  EXPECT_EQ(fromSigned(-3, Kind::F16), -3);
  EXPECT_EQ(fromUnsigned(2049, Kind::F16), 2048);
  EXPECT_EQ(fromUnsigned(2051, Kind::F16), 2052);
  EXPECT_EQ(fromUnsigned(70000, Kind::F16), infinity);
  // Just over a tie of f32, by less than f64 holds: rounding to f64 first would lose it.
  std::uint64_t overTie = (std::uint64_t{1} << 63) + (std::uint64_t{1} << 39) + 1;
  EXPECT_EQ(fromUnsigned(overTie, Kind::F32), 0x1p63 + 0x1p40);
  EXPECT_EQ(fromUnsigned(overTie - 1, Kind::F32), 0x1p63);
  EXPECT_EQ(fromSigned(INT64_MIN, Kind::F32), -0x1p63);
  EXPECT_EQ(fromSigned(INT64_MIN, Kind::F64), -0x1p63);
}

TEST(Number, ToIntegersSaturates) {
  EXPECT_EQ(toSigned(-1.9, 8), 0xffu);
  EXPECT_EQ(toSigned(127.9, 8), 127u);
  EXPECT_EQ(toSigned(128, 8), 127u);
  EXPECT_EQ(toSigned(-200, 8), 0x80u);
  EXPECT_EQ(toSigned(NAN, 8), 0u);
  EXPECT_EQ(toSigned(1e30, 64), std::uint64_t(INT64_MAX));
  EXPECT_EQ(toUnsigned(-5, 8), 0u);
  EXPECT_EQ(toUnsigned(255.5, 8), 255u);
  EXPECT_EQ(toUnsigned(256, 8), 255u);
  EXPECT_EQ(toUnsigned(1e30, 64), UINT64_MAX);
  EXPECT_EQ(toUnsigned(NAN, 64), 0u);
}

} // namespace
} // namespace bitloom::interpreter
