#include "bitloom/lib/packing/Quantize.h"

#include "bitloom/lib/support/Error.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

using namespace bitloom;
using Order = Packing::Order;

namespace {

// What a call gives, unpacked.
struct Quantized {
  std::vector<int> fields; // rows × stored columns
  std::vector<float> scales, zeros;
};

template <class T>
Quantized quantized(const WeightFormat &format, const std::vector<T> &weights, int64_t rows, int64_t columns) {
  std::vector<uint8_t> weight(size_t(format.weightBytes(rows, columns)), 0xaa);
  std::vector<std::byte> scales(size_t(format.scaleBytes(rows, columns))),
      zeros(size_t(format.zeroBytes(rows, columns)));
  quantize(format, weights.data(), dtypeOf<T>, rows, columns, weight.data(), scales.data(), zeros.data());
  Quantized result;
  std::vector<uint8_t> fields(size_t(rows * format.storedColumns(columns)));
  unpackRows(format.packing, weight, rows, format.storedColumns(columns), std::span(fields));
  const int sign = 1 << (format.packing.bits - 1);
  for (uint8_t field : fields)
    result.fields.push_back(format.asymmetric ? field : (field ^ sign) - sign);
  for (size_t i = 0; i < scales.size(); i += size_t(bytesOf(format.scales)))
    result.scales.push_back(float(readAsDouble(format.scales, scales.data() + i)));
  for (size_t i = 0; i < zeros.size(); i += size_t(bytesOf(format.scales)))
    result.zeros.push_back(float(readAsDouble(format.scales, zeros.data() + i)));
  return result;
}

std::vector<float> numbers(int64_t count) {
  std::vector<float> values;
  for (int64_t i = 0; i < count; ++i)
    values.push_back(float(std::sin(0.7 * double(i) * double(i)) * 0.05 + 0.01));
  return values;
}

template <class T> std::vector<T> as(const std::vector<float> &values) { return {values.begin(), values.end()}; }

std::string messageOf(auto action) {
  try {
    action();
  } catch (const UserError &error) {
    return error.what();
  }
  return "no error";
}

// Every value is within half a step of its own, save at the end that the range of two's complement lacks.
template <class T> void expectNear(const WeightFormat &format, int64_t rows, int64_t columns) {
  SCOPED_TRACE(format.packing.toString() + " group " + std::to_string(format.group));
  const std::vector<T> weights = as<T>(numbers(rows * columns));
  const Quantized result = quantized(format, weights, rows, columns);
  const int64_t stored = format.storedColumns(columns), groups = format.groups(columns);
  ASSERT_EQ(result.scales.size(), size_t(rows * groups));
  ASSERT_EQ(result.zeros.size(), format.asymmetric ? size_t(rows * groups) : 0u);
  const int highest = format.packing.highest(!format.asymmetric);
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t column = 0; column < stored; ++column) {
      const int field = result.fields[size_t(row * stored + column)];
      if (column >= columns) {
        ASSERT_EQ(field, 0);
        continue;
      }
      const size_t g = size_t(row * groups + column / format.group);
      const float scale = result.scales[g], zero = format.asymmetric ? result.zeros[g] : 0;
      const float value = float(weights[size_t(row * columns + column)]), got = scale * (float(field) - zero);
      const bool clamped = !format.asymmetric && field == highest;
      const float allowed = std::abs(scale) * (clamped ? 1.001f : format.asymmetric ? 0.51f + 0.5f : 0.51f);
      ASSERT_LE(std::abs(got - value), allowed)
          << "row " << row << " column " << column << ": " << value << " as " << got;
    }
}

} // namespace

TEST(Quantize, ValuesAreWithinAStep) {
  for (int bits = 2; bits <= 8; ++bits)
    for (bool asymmetric : {false, true})
      for (auto [group, block] : {std::pair(16, 16), std::pair(48, 16), std::pair(128, 128), std::pair(100000, 8)})
        for (int64_t columns : {1, 3, 17, 199, 4097}) {
          expectNear<float>({{bits, Order::Planar, block}, group, asymmetric, DType::f32}, 3, columns);
          expectNear<f16>({{bits, Order::LowFirst, 8}, group, asymmetric, DType::f16}, 3, columns);
        }
  expectNear<bf16>({{4, Order::HighFirst, 32}, 32, true, DType::bf16}, 199, 64);
}

// The order columns holds the same numbers: fields in panels, filled up with zeros, and scales group by group.
TEST(Quantize, PanelsHoldWhatRowsHold) {
  for (int bits = 1; bits <= 8; ++bits)
    for (Packing::Bias bias : {Packing::Bias::None, Packing::Bias::All})
      for (bool asymmetric : {false, true})
        for (int64_t rows : {1, 64, 199}) {
          const int64_t columns = 199, group = 48, stored = 240, groups = 5;
          std::vector<float> weights(size_t(rows * columns));
          for (size_t i = 0; i < weights.size(); ++i)
            weights[i] = std::sin(float(i * i));
          const Packing panels{.bits = bits, .order = Order::Columns, .block = 4, .rows = 64, .lanes = 8, .bias = bias};
          const Packing plain{.bits = bits, .order = Order::LowFirst, .block = 16};
          auto run = [&](const Packing &packing, std::vector<uint8_t> &weight, std::vector<float> &scales,
                         std::vector<float> &zeros) {
            const WeightFormat format{packing, group, asymmetric, DType::f32};
            weight.resize(size_t(format.weightBytes(rows, columns)));
            scales.resize(size_t(rows * groups));
            zeros.resize(scales.size());
            quantize(format, weights.data(), DType::f32, rows, columns, weight.data(), scales.data(), zeros.data());
          };
          std::vector<uint8_t> weight[2];
          std::vector<float> scales[2], zeros[2];
          run(plain, weight[0], scales[0], zeros[0]);
          run(panels, weight[1], scales[1], zeros[1]);
          const int64_t filled = (rows + 63) / 64 * 64;
          std::vector<uint8_t> expected(size_t(filled * stored)), got(expected.size());
          unpackRows(plain, weight[0], rows, stored, std::span(expected).first(size_t(rows * stored)));
          unpackRows(panels, weight[1], filled, stored, std::span(got));
          ASSERT_EQ(got, expected) << panels.toString() << ", " << rows << " rows";
          for (int64_t r = 0; r < rows; ++r)
            for (int64_t g = 0; g < groups; ++g) {
              ASSERT_EQ(scales[1][size_t(g * rows + r)], scales[0][size_t(r * groups + g)]);
              ASSERT_EQ(zeros[1][size_t(g * rows + r)], zeros[0][size_t(r * groups + g)]);
            }
        }
}

// Worked out by hand.
TEST(Quantize, TheExtremeValueIsTheLowestField) {
  const WeightFormat format{{4, Order::LowFirst, 8}, 8, false, DType::f32};
  Quantized result = quantized<float>(format, {0, 1, 2, 3, 4, -1, -2, -3.25f}, 1, 8);
  EXPECT_EQ(result.scales, std::vector<float>{-0.5f});
  EXPECT_EQ(result.fields, (std::vector<int>{0, -2, -4, -6, -8, 2, 4, 6})); // 6.5 is a tie: even
  result = quantized<float>(format, {0, 1, 2, 3, 3.99f, -1, -2, -4}, 1, 8);
  EXPECT_EQ(result.scales, std::vector<float>{0.5f});
  EXPECT_EQ(result.fields, (std::vector<int>{0, 2, 4, 6, 7, -2, -4, -8}));
}

TEST(Quantize, AsymmetricRangesHoldZero) {
  const WeightFormat format{{2, Order::LowFirst, 8}, 4, true, DType::f32};
  Quantized result = quantized<float>(format, {0, -1, 1, 2, 4, 5, 6, 3}, 1, 8);
  EXPECT_EQ(result.scales, (std::vector<float>{1, 2}));
  EXPECT_EQ(result.zeros, (std::vector<float>{1, 0}));
  EXPECT_EQ(result.fields, (std::vector<int>{1, 0, 2, 3, 2, 2, 3, 2})); // 2.5 and 1.5 are ties
}

TEST(Quantize, OneBitIsASign) {
  const WeightFormat format{{1, Order::LowFirst, 8}, 8, true, DType::f32};
  const Quantized result = quantized<float>(format, {1, -1, 2, -2, 3, -3, 4, -4}, 1, 8);
  EXPECT_EQ(result.scales, std::vector<float>{5}); // twice the mean
  EXPECT_EQ(result.zeros, std::vector<float>{0.5f});
  EXPECT_EQ(result.fields, (std::vector<int>{1, 0, 1, 0, 1, 0, 1, 0}));
}

TEST(Quantize, ZerosStayZeros) {
  for (bool asymmetric : {false, true}) {
    const WeightFormat format{{4, Order::Planar, 16}, 16, asymmetric, DType::f16};
    const Quantized result = quantized(format, std::vector<float>(48), 1, 48);
    EXPECT_EQ(result.scales, std::vector<float>(3, 0.0f));
    EXPECT_EQ(result.fields, std::vector<int>(48, 0));
  }
}

// Every finite f16: its own field where the scale is 1.
TEST(Quantize, ReadsEveryHalf) {
  const WeightFormat format{{8, Order::LowFirst, 8}, 2, false, DType::f32};
  for (uint32_t bits = 0; bits < 0x7c00; ++bits) {
    f16 value, extreme = -65504.0f;
    value.bits = uint16_t(bits);
    const Quantized result = quantized<f16>(format, {extreme, value}, 1, 2);
    const float scale = 65504.0f / 128;
    ASSERT_EQ(result.fields[0], -128);
    ASSERT_EQ(result.fields[1], std::min(127.0f, std::nearbyint(float(value) / scale))) << bits;
    // A group of its own: scale · -128 is the value, exactly, subnormal numbers too.
    const Quantized alone = quantized<f16>({{8, Order::LowFirst, 8}, 1, false, DType::f32}, {value}, 1, 1);
    ASSERT_EQ(alone.scales[0] * -128, float(value)) << bits;
    ASSERT_EQ(alone.fields[0], bits == 0 ? 0 : -128) << bits;
  }
}

TEST(Quantize, NamesWhatItCannotStore) {
  const WeightFormat format{{4, Order::LowFirst, 8}, 8, false, DType::f16};
  std::vector<float> weights(48, 1.0f);
  weights[17] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(messageOf([&] { quantized(format, weights, 6, 8); }),
            "expected finite values, got an infinity or a NaN in row 2");
  weights[17] = -std::numeric_limits<float>::infinity();
  EXPECT_EQ(messageOf([&] { quantized(format, as<f16>(weights), 3, 16); }),
            "expected finite values, got an infinity or a NaN in row 1");
  weights[17] = 1e6f;
  EXPECT_EQ(messageOf([&] { quantized(format, weights, 6, 8); }),
            "expected scales that f16 holds, got -125000.000000 in row 2");
  EXPECT_EQ(messageOf([&] { quantized(format, std::vector<double>(8), 1, 8); }),
            "expected weights of f32, f16 or bf16, got f64");
  EXPECT_EQ(messageOf([&] { WeightFormat{{4, Order::LowFirst, 8}, 0}.check(); }),
            "expected groups of 1 value or more, got 0");
  EXPECT_EQ(messageOf([&] { WeightFormat{{4, Order::LowFirst, 8}, 8, false, DType::i8}.check(); }),
            "expected scales of f32, f16 or bf16, got i8");
}

TEST(Quantize, ProgressEndsWithTheLastRow) {
  const WeightFormat format{{4, Order::LowFirst, 8}, 8, false, DType::f32};
  const int64_t rows = 100000, columns = 512;
  const std::vector<float> weights(size_t(rows * columns), 1.0f);
  std::vector<uint8_t> weight(size_t(format.weightBytes(rows, columns)));
  std::vector<float> scales(size_t(rows * format.groups(columns)));
  std::vector<int64_t> seen;
  quantize(format, weights.data(), DType::f32, rows, columns, weight.data(), scales.data(), nullptr,
           [&](int64_t done) { seen.push_back(done); });
  EXPECT_GE(seen.size(), 2u);
  EXPECT_TRUE(std::ranges::is_sorted(seen));
  EXPECT_EQ(seen.back(), rows);
}
