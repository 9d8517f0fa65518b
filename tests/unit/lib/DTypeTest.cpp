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

TEST(DType, NamesMatchTheTable) {
  EXPECT_EQ(nameOf(dtypeOf<float>), "f32");
  EXPECT_EQ(dtypeNamed("bf16"), DType::bf16);
  EXPECT_EQ(dtypeNamed("float"), std::nullopt);
}
