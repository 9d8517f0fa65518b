#include "bitloom/lib/dtype/DType.h"

#include <gtest/gtest.h>

#include <cmath>

using namespace bitloom;

TEST(DType, F16RoundTripsEveryCode) {
  for (int code = 0; code < 65536; ++code) {
    f16 value;
    value.bits = static_cast<uint16_t>(code);
    if (std::isnan(float(value)))
      continue;
    EXPECT_EQ(f16(float(value)).bits, code);
  }
}

TEST(DType, RoundsTiesToEven) {
  EXPECT_EQ(float(f16(2049.0f)), 2048.0f);
  EXPECT_EQ(float(f16(2051.0f)), 2052.0f);
  EXPECT_EQ(float(f16(65520.0f)), INFINITY);
  EXPECT_EQ(float(f16(std::ldexp(1.0f, -25))), 0.0f);
  EXPECT_EQ(float(bf16(257.0f)), 256.0f);
  EXPECT_EQ(float(bf16(259.0f)), 260.0f);
}

// The definition of the formats, by the fields of a code.
static double byDefinition(int code, int mantissaBits, int bias) {
  int exponent = (code & 0x7f) >> mantissaBits, mantissa = code & ((1 << mantissaBits) - 1);
  double magnitude = exponent ? std::ldexp(1 + std::ldexp(mantissa, -mantissaBits), exponent - bias)
                              : std::ldexp(mantissa, 1 - bias - mantissaBits);
  return code & 0x80 ? -magnitude : magnitude;
}

// Every code up to `largest` means what the definition says and comes back; between each two neighbours, the middle
// goes to the even code and what lies nearer to one goes there; past `largest` all saturates.
template <class T> static void checkEveryCode(int mantissaBits, int bias, int largest) {
  auto ofCode = [](int code) {
    T value;
    value.bits = static_cast<uint8_t>(code);
    return float(value);
  };
  for (int code = 0; code <= largest; ++code)
    for (int sign : {0, 0x80}) {
      ASSERT_EQ(ofCode(sign | code), byDefinition(sign | code, mantissaBits, bias)) << code;
      ASSERT_EQ(T(ofCode(sign | code)).bits, sign | code);
      if (code == largest)
        continue;
      float low = ofCode(sign | code), high = ofCode(sign | (code + 1)), middle = (low + high) / 2;
      ASSERT_EQ(T(middle).bits, sign | (code + code % 2)) << code;
      ASSERT_EQ(T(std::nextafter(middle, low)).bits, sign | code);
      ASSERT_EQ(T(std::nextafter(middle, high)).bits, sign | (code + 1));
    }
  for (float beyond : {ofCode(largest) * 1.01f, 1e30f, INFINITY}) {
    EXPECT_EQ(T(beyond).bits, largest);
    EXPECT_EQ(T(-beyond).bits, 0x80 | largest);
  }
  EXPECT_EQ(T(NAN).bits, 0x7f);
  EXPECT_TRUE(std::isnan(ofCode(0x7f)));
  EXPECT_TRUE(std::isnan(ofCode(0xff)));
}

TEST(DType, E4M3HasEveryCode) { checkEveryCode<f8e4m3>(3, 7, 0x7e); }
TEST(DType, E5M2HasEveryCode) {
  checkEveryCode<f8e5m2>(2, 15, 0x7b);
  f8e5m2 value;
  for (int code : {0x7c, 0xfc}) {
    value.bits = static_cast<uint8_t>(code);
    EXPECT_EQ(float(value), code == 0x7c ? INFINITY : -INFINITY);
  }
  for (int code : {0x7d, 0x7e, 0xfd}) {
    value.bits = static_cast<uint8_t>(code);
    EXPECT_TRUE(std::isnan(float(value)));
  }
}

TEST(DType, NamesMatchTheTable) {
  EXPECT_EQ(nameOf(dtypeOf<float>), "f32");
  EXPECT_EQ(dtypeNamed("bf16"), DType::bf16);
  EXPECT_EQ(nameOf(dtypeOf<f8e4m3>), "f8e4m3");
  EXPECT_EQ(dtypeNamed("float"), std::nullopt);
}
