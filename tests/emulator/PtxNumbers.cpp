#include "bitloom/tests/emulator/PtxNumbers.h"

#include <bit>
#include <cctype>
#include <cmath>
#include <cstring>
#include <type_traits>

namespace bitloom::ptx {

std::optional<Type> typeNamed(const std::string &name) {
  if (name == "pred")
    return Type{'p', 1};
  if (name == "bf16")
    return Type{'x', 16};
  if (name == "tf32")
    return Type{'t', 32};
  if (name == "e4m3")
    return Type{'e', 8};
  if (name == "e5m2")
    return Type{'d', 8};
  if (name.size() < 2 || name.size() > 4 || !std::strchr("busf", name[0]))
    return std::nullopt;
  for (char c : name.substr(1))
    if (!std::isdigit(c))
      return std::nullopt;
  return Type{name[0], std::stoi(name.substr(1))};
}

namespace {

// e4m3 has no infinity: 0x7f and 0xff alone are NaN. e5m2 is the upper half of an f16.
double fromE4m3(uint64_t bits) {
  int exponent = int(bits >> 3 & 15), fraction = int(bits & 7);
  double value = exponent == 15 && fraction == 7 ? NAN
                 : exponent                      ? std::ldexp(8 + fraction, exponent - 10)
                                                 : std::ldexp(fraction, -9);
  return bits & 128 ? -value : value;
}

uint64_t toE4m3(double value) {
  uint64_t sign = std::signbit(value) ? 128 : 0;
  if (std::isnan(value))
    return 0x7f;
  double size = std::fabs(value);
  if (size >= 448)
    return sign | 0x7e;
  int exponent = size < 0x1p-6 ? -6 : std::ilogb(size);
  auto steps = uint64_t(std::nearbyint(std::ldexp(size, 3 - exponent))); // of the last place; 16 carries
  uint64_t code = (size < 0x1p-6 ? 0 : uint64_t(exponent + 6) << 3) + steps;
  return sign | std::min<uint64_t>(code, 0x7e);
}

uint64_t toE5m2(double value) {
  uint64_t sign = std::signbit(value) ? 128 : 0;
  if (std::isnan(value))
    return 0x7f;
  double size = std::fabs(value);
  if (size >= 57344)
    return sign | 0x7b;
  int exponent = size < 0x1p-14 ? -14 : std::ilogb(size);
  auto steps = uint64_t(std::nearbyint(std::ldexp(size, 2 - exponent)));
  return sign | ((size < 0x1p-14 ? 0 : uint64_t(exponent + 14) << 2) + steps);
}

} // namespace

double toDouble(uint64_t bits, Type type) {
  switch (type.kind) {
  case 'x':
    return std::bit_cast<float>(uint32_t(bits) << 16);
  case 't':
    return std::bit_cast<float>(uint32_t(bits) & 0xffffe000); // tensor cores ignore the low bits
  case 'e':
    return fromE4m3(bits);
  case 'd':
    return double(std::bit_cast<_Float16>(uint16_t(bits << 8)));
  }
  if (type.bits == 16)
    return double(std::bit_cast<_Float16>(uint16_t(bits)));
  if (type.bits == 32)
    return std::bit_cast<float>(uint32_t(bits));
  return std::bit_cast<double>(bits);
}

double numberOf(uint64_t bits, Type type) {
  if (type.isFloat())
    return toDouble(bits, type);
  return type.kind == 's' ? double(signExtend(bits, type.bits)) : double(bits & mask(type.bits));
}

uint64_t fromDouble(double value, Type type, bool towardZero) {
  if (type.kind == 'e')
    return toE4m3(value);
  if (type.kind == 'd')
    return toE5m2(value);
  if (type.bits == 64)
    return std::bit_cast<uint64_t>(value);
  auto adjust = [&](auto rounded) {
    if (towardZero && std::isfinite(value) && std::fabs(double(rounded)) > std::fabs(value)) {
      auto bits = std::bit_cast<std::conditional_t<sizeof rounded == 4, uint32_t, uint16_t>>(rounded);
      rounded = std::bit_cast<decltype(rounded)>(decltype(bits)(bits - 1));
    }
    return rounded;
  };
  if (type.kind == 't') { // cvt.rna: ties away from zero
    uint32_t bits = std::bit_cast<uint32_t>(float(value));
    return std::isfinite(value) ? (bits + 0x1000) & 0xffffe000 : bits;
  }
  if (type.bits == 32)
    return std::bit_cast<uint32_t>(adjust(float(value)));
  if (type.kind == 'f')
    return std::bit_cast<uint16_t>(adjust(_Float16(value)));
  if (std::isnan(value))
    return 0x7fff;
  // bf16: round what the 45 bits below leave; a double's exponent covers bf16's, subnormals included by way of f32.
  float single = float(value);
  uint32_t bits = std::bit_cast<uint32_t>(single);
  if (std::isinf(single) || towardZero)
    return bits >> 16;
  double exact = double(single);
  uint32_t low = bits & 0xffff, rounded = bits >> 16;
  bool above = low > 0x8000 || (low == 0x8000 && (std::fabs(value) > std::fabs(exact) ||
                                                  (std::fabs(value) == std::fabs(exact) && (rounded & 1))));
  return rounded + above;
}

} // namespace bitloom::ptx
