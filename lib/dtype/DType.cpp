#include "bitloom/lib/dtype/DType.h"

#include <array>
#include <cmath>
#include <cstring>

namespace bitloom {

static constexpr DTypeFacts facts[] = {
#define BITLOOM_DTYPE(name, type, bits, kind) {#name, bits, DTypeKind::kind},
#include "bitloom/lib/dtype/DType.def"
#undef BITLOOM_DTYPE
};

const DTypeFacts &factsOf(DType dtype) { return facts[static_cast<int>(dtype)]; }

std::optional<DType> dtypeNamed(std::string_view name) {
  for (size_t i = 0; i < std::size(facts); ++i)
    if (facts[i].name == name)
      return static_cast<DType>(i);
  return std::nullopt;
}

bf16::bf16(float value) {
  auto word = std::bit_cast<uint32_t>(value);
  if (std::isnan(value))
    bits = static_cast<uint16_t>((word >> 16) | 0x40); // stay a quiet NaN
  else
    bits = static_cast<uint16_t>((word + 0x7fff + ((word >> 16) & 1)) >> 16);
}

f16::f16(float value) {
  const auto word = std::bit_cast<uint32_t>(value);
  const uint32_t magnitude = word & 0x7fffffff;
  uint32_t code = 0;
  if (magnitude > 0x7f800000) {
    code = 0x7e00; // NaN
  } else if (magnitude >= 143u << 23) {
    code = 0x7c00; // 2^16 and above
  } else if (magnitude < 113u << 23) {
    // Below 2^-14: the sum with 1/2 has the grid of subnormal numbers, 2^-24, as its last place, and is rounded to it.
    code = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - std::bit_cast<uint32_t>(0.5f);
  } else {
    // To the nearest, ties to even; a carry goes on into the exponent, whose bias changes from 127 to 15.
    code = (magnitude + 0xfff + (magnitude >> 13 & 1) - (112u << 23)) >> 13;
  }
  bits = uint16_t(word >> 16 & 0x8000) | uint16_t(code);
}

f16::operator float() const {
  const uint32_t sign = uint32_t(bits & 0x8000) << 16, magnitude = uint32_t(bits & 0x7fff) << 13;
  if (magnitude >= 31u << 23) // infinity or NaN: the largest exponent here too
    return std::bit_cast<float>(sign | (magnitude + (224u << 23)));
  if (magnitude >= 1u << 23)
    return std::bit_cast<float>(sign | (magnitude + (112u << 23)));
  const float subnormal = float(bits & 0x7fff) * 0x1p-24f;
  return sign ? -subnormal : subnormal;
}

// The code of an 8-bit float with `mantissa` bits of mantissa and normal numbers from 2^least.
static uint8_t narrowed(float value, int mantissa, int least, uint8_t largest) {
  if (std::isnan(value))
    return 0x7f;
  uint8_t sign = std::signbit(value) ? 0x80 : 0;
  if (std::isinf(value))
    return sign | largest;
  double magnitude = std::fabs(double(value));
  int exponent = magnitude == 0 ? least : std::max(std::ilogb(magnitude), least);
  // In units of the last place. Codes count up through subnormal and normal numbers alike, a carry included.
  double rounded = std::nearbyint(std::ldexp(magnitude, mantissa - exponent));
  double code = std::ldexp(double(exponent - least), mantissa) + rounded;
  return sign | static_cast<uint8_t>(std::min(code, double(largest)));
}

f8e4m3::f8e4m3(float value) : bits(narrowed(value, 3, -6, 0x7e)) {}
f8e5m2::f8e5m2(float value) : bits(narrowed(value, 2, -14, 0x7b)) {}

f8e4m3::operator float() const {
  int exponent = (bits >> 3) & 15, mantissa = bits & 7;
  float magnitude = (bits & 0x7f) == 0x7f ? NAN
                    : exponent == 0       ? std::ldexp(float(mantissa), -9)
                                          : std::ldexp(float(mantissa + 8), exponent - 10);
  return bits & 0x80 ? -magnitude : magnitude;
}

f8e5m2::operator float() const {
  f16 same;
  same.bits = static_cast<uint16_t>(bits << 8);
  return same;
}

template <class T> static double readElement(const void *element) {
  T value;
  std::memcpy(&value, element, sizeof value);
  return static_cast<double>(value);
}

template <class T> static void writeElement(void *element, double value) {
  T stored;
  if constexpr (std::is_same_v<T, bool>)
    stored = value != 0;
  else if constexpr (std::is_integral_v<T>)
    stored = static_cast<T>(static_cast<int64_t>(value));
  else
    stored = T(static_cast<float>(value));
  if constexpr (std::is_same_v<T, double>)
    stored = value;
  std::memcpy(element, &stored, sizeof stored);
}

double readAsDouble(DType dtype, const void *element) {
  switch (dtype) {
#define BITLOOM_DTYPE(name, type, bits, kind)                                                                          \
  case DType::name:                                                                                                    \
    return readElement<type>(element);
#include "bitloom/lib/dtype/DType.def"
#undef BITLOOM_DTYPE
  }
  return 0;
}

void writeFromDouble(DType dtype, void *element, double value) {
  switch (dtype) {
#define BITLOOM_DTYPE(name, type, bits, kind)                                                                          \
  case DType::name:                                                                                                    \
    return writeElement<type>(element, value);
#include "bitloom/lib/dtype/DType.def"
#undef BITLOOM_DTYPE
  }
}

} // namespace bitloom
