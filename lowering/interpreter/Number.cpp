#include "bitloom/lowering/interpreter/Number.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

namespace bitloom::interpreter {

using Kind = Number::Kind;

// IEEE 754 binary formats and the like: bits of significand with the leading one, and the least exponent of a normal
// number. Past the largest number comes infinity, or the number itself where the format saturates.
struct Format {
  int precision;
  int leastExponent;
  double largest;
  bool saturates = false;

  double beyond() const { return saturates ? largest : std::numeric_limits<double>::infinity(); }
};
static Format formatOf(Kind kind) {
  switch (kind) {
  case Kind::F16:
    return {11, -14, 65504};
  case Kind::BF16:
    return {8, -126, 0x1.fep127};
  case Kind::F8E4M3:
    return {4, -6, 448, true};
  case Kind::F8E5M2:
    return {3, -14, 57344, true};
  case Kind::F32:
    return {24, -126, std::numeric_limits<float>::max()};
  default:
    return {53, -1022, std::numeric_limits<double>::max()};
  }
}

// A power of two in the normal range of f64.
static double powerOfTwo(int exponent) { return std::bit_cast<double>(std::uint64_t(exponent + 1023) << 52); }

// The distance between neighbours of the format around `value`, which is finite.
static double spacing(double value, const Format &format) {
  int exponent = int(std::bit_cast<std::uint64_t>(value) >> 52 & 0x7ff) - 1023;
  return powerOfTwo(std::max(exponent, format.leastExponent) - (format.precision - 1));
}

// A sum with 1.5 · 2^52 spacings is itself a multiple of the spacing, so the hardware's addition rounds as wanted.
static double roundedToFormat(double value, const Format &format) {
  if (std::isnan(value))
    return value;
  double nearest = format.beyond();
  if (std::abs(value) < 2 * format.largest) {
    double magic = spacing(value, format) * 0x1.8p52;
    nearest = std::abs((value + magic) - magic);
    if (nearest > format.largest)
      nearest = format.beyond();
  }
  return std::copysign(nearest, value);
}

static double rounded(double value, const Format &format, Rounding rounding) {
  if (rounding == Rounding::NearestEven)
    return roundedToFormat(value, format);
  if (std::isinf(value))
    return std::copysign(format.beyond(), value);
  if (!std::isfinite(value) || value == 0)
    return value;
  double unit = spacing(value, format), scaled = value / unit; // exact, and below 2^53
  switch (rounding) {
  case Rounding::Down:
    scaled = std::floor(scaled);
    break;
  case Rounding::Up:
    scaled = std::ceil(scaled);
    break;
  case Rounding::TowardZero:
    scaled = std::trunc(scaled);
    break;
  default:
    scaled = std::round(scaled);
  }
  double result = scaled * unit;
  if (std::abs(result) > format.largest) {
    bool keepsFinite = rounding == Rounding::TowardZero || (rounding == Rounding::Down && value > 0) ||
                       (rounding == Rounding::Up && value < 0);
    result = keepsFinite ? format.largest : format.beyond();
  }
  return std::copysign(result, value);
}

double rounded(double value, Kind kind, Rounding rounding) {
  if (kind == Kind::F64 || kind == Kind::Int)
    return value;
  if (kind == Kind::F32 && rounding == Rounding::NearestEven)
    return float(value);
  return rounded(value, formatOf(kind), rounding);
}

void roundAll(Cell *cells, int64_t count, Kind kind) {
  if (kind == Kind::F64 || kind == Kind::Int)
    return;
  if (kind == Kind::F32) {
    for (int64_t i = 0; i < count; ++i)
      cells[i].number = float(cells[i].number);
    return;
  }
  Format format = formatOf(kind);
  for (int64_t i = 0; i < count; ++i)
    cells[i].number = roundedToFormat(cells[i].number, format);
}

// Rounding to odd keeps what a second rounding to fewer bits needs (Boldo and Melquiond, Emulation of FMA and correctly
// rounded sums, 2008): an inexact result takes the neighbour with an odd significand.
double fusedMultiplyAdd(double a, double b, double c, Kind kind) {
  if (kind == Kind::F64)
    return std::fma(a, b, c);
  double product = a * b; // exact: at most 48 bits
  double sum = product + c;
  if (!std::isfinite(sum))
    return rounded(sum, kind);
  double back = sum - product; // Knuth's TwoSum: sum + error = product + c
  double error = (product - (sum - back)) + (c - back);
  auto bits = std::bit_cast<std::uint64_t>(sum);
  if (error != 0 && bits % 2 == 0)
    bits += (error > 0) == (sum > 0) ? 1 : -1;
  return rounded(std::bit_cast<double>(bits), kind);
}

double fromUnsigned(std::uint64_t value, Kind kind) {
  int extra = std::max(0, int(std::bit_width(value)) - 53);
  if (extra == 0)
    return rounded(double(value), kind);
  if (kind == Kind::F64)
    return double(value);
  bool inexact = value & ((std::uint64_t{1} << extra) - 1);
  return rounded(std::ldexp(double(value >> extra | std::uint64_t(inexact)), extra), kind);
}

double fromSigned(int64_t value, Kind kind) {
  return value < 0 ? -fromUnsigned(-std::uint64_t(value), kind) : fromUnsigned(value, kind);
}

std::uint64_t toSigned(double value, int width) {
  Number type{Kind::Int, width};
  if (std::isnan(value))
    return 0;
  double limit = powerOfTwo(width - 1), whole = std::trunc(value);
  if (whole >= limit)
    return type.mask() >> 1;
  if (whole < -limit)
    return std::uint64_t{1} << (width - 1);
  return std::uint64_t(int64_t(whole)) & type.mask();
}

std::uint64_t toUnsigned(double value, int width) {
  if (!(value >= 1))
    return 0;
  return value >= powerOfTwo(width) ? Number{Kind::Int, width}.mask() : std::uint64_t(value);
}

// An f16's exponent and significand, put into an f64's fields, are the number scaled by 2^(15 - 1023).
constexpr int f16Shift = 52 - 10;

std::uint64_t encode(double value, Kind kind) {
  switch (kind) {
  case Kind::F64:
    return std::bit_cast<std::uint64_t>(value);
  case Kind::F32:
    return std::bit_cast<std::uint32_t>(float(value));
  case Kind::BF16:
    return std::bit_cast<std::uint32_t>(float(value)) >> 16 | (std::isnan(value) ? 0x40 : 0); // stays a NaN
  case Kind::F16: {
    auto all = std::bit_cast<std::uint64_t>(value);
    std::uint64_t sign = all >> 63 << 15;
    if (std::isnan(value))
      return sign | 0x7e00 | (all >> f16Shift & 0x3ff);
    if (std::isinf(value))
      return sign | 0x7c00;
    return sign | std::bit_cast<std::uint64_t>(std::abs(value) * 0x1p-1008) >> f16Shift;
  }
  case Kind::F8E5M2: // the upper half of an f16
    return std::isnan(value) ? 0x7f : encode(value, Kind::F16) >> 8;
  case Kind::F8E4M3:
    if (std::isnan(value))
      return 0x7f;
    return (std::signbit(value) ? 0x80 : 0) | encode(std::abs(value) / 256, Kind::F16) >> 7;
  case Kind::Int:
    break;
  }
  return 0;
}

static double decodeF16(std::uint16_t bits) {
  std::uint64_t magnitude = std::uint64_t(bits & 0x7fff) << f16Shift;
  if ((bits & 0x7c00) == 0x7c00)
    magnitude |= 0x7ff0'0000'0000'0000;
  else
    magnitude = std::bit_cast<std::uint64_t>(std::bit_cast<double>(magnitude) * 0x1p1008);
  return std::bit_cast<double>(magnitude | std::uint64_t(bits >> 15) << 63);
}

double decode(std::uint64_t bits, Kind kind) {
  switch (kind) {
  case Kind::F64:
    return std::bit_cast<double>(bits);
  case Kind::F32:
    return std::bit_cast<float>(std::uint32_t(bits));
  case Kind::BF16:
    return std::bit_cast<float>(std::uint32_t(bits) << 16);
  case Kind::F16:
    return decodeF16(std::uint16_t(bits));
  case Kind::F8E5M2:
    return decodeF16(std::uint16_t(bits << 8));
  case Kind::F8E4M3: // an f16's fields of another bias; all exponents are of numbers but for the one NaN
    if ((bits & 0x7f) == 0x7f)
      return std::numeric_limits<double>::quiet_NaN();
    return 256 * decodeF16(std::uint16_t((bits & 0x80) << 8 | (bits & 0x7f) << 7));
  case Kind::Int:
    break;
  }
  return 0;
}

// Calls fn with a value of the unsigned type that an element takes in memory.
template <class Fn> static void withStorage(int width, Fn fn) {
  if (width == 8)
    fn(std::uint8_t{});
  else if (width == 16)
    fn(std::uint16_t{});
  else if (width == 32)
    fn(std::uint32_t{});
  else
    fn(std::uint64_t{});
}

void read(Number type, const char *from, int64_t stride, int64_t count, Cell *cells) {
  withStorage(type.width, [&]<class Word>(Word word) {
    for (int64_t i = 0; i < count; ++i) {
      std::memcpy(&word, from + i * stride, sizeof word);
      cells[i].bits = word;
    }
  });
  if (type.isFloat())
    for (int64_t i = 0; i < count; ++i)
      cells[i].number = decode(cells[i].bits, type.kind);
}

void write(Number type, const Cell *cells, char *to, int64_t stride, int64_t count) {
  withStorage(type.width, [&]<class Word>(Word word) {
    for (int64_t i = 0; i < count; ++i) {
      word = Word(type.isFloat() ? encode(cells[i].number, type.kind) : cells[i].bits);
      std::memcpy(to + i * stride, &word, sizeof word);
    }
  });
}

} // namespace bitloom::interpreter
