// The scalars of tile IR as the interpreter holds them, and the exact conversions between their formats.
#pragma once

#include <cstdint>

namespace bitloom::interpreter {

// One element: an integer's bits with zeros above its width, or a float of any type as the f64 of equal value.
union Cell {
  std::uint64_t bits;
  double number;
};

// The type of an element.
struct Number {
  enum class Kind : std::uint8_t { Int, F16, BF16, F32, F64, F8E4M3, F8E5M2 };
  Kind kind = Kind::Int;
  int width = 64; // bits: 1 to 64

  bool isFloat() const { return kind != Kind::Int; }
  std::uint64_t mask() const { return ~std::uint64_t{0} >> (64 - width); }
  bool operator==(const Number &) const = default;
};

inline int64_t signExtend(std::uint64_t bits, int width) { return int64_t(bits << (64 - width)) >> (64 - width); }

// Numbered as arith.truncf's.
enum class Rounding { NearestEven, Down, Up, TowardZero, NearestAway };

// The number of the float type nearest to `value`, rounded once: `value` is exact, or was rounded to odd. 8-bit floats
// saturate, infinities included.
double rounded(double value, Number::Kind kind, Rounding rounding = Rounding::NearestEven);
void roundAll(Cell *cells, int64_t count, Number::Kind kind);

// a * b + c and integers, rounded once to the type (for F64 too).
double fusedMultiplyAdd(double a, double b, double c, Number::Kind kind);
double fromSigned(int64_t value, Number::Kind kind);
double fromUnsigned(std::uint64_t value, Number::Kind kind);
// Toward zero; what lies past the range saturates, a NaN is 0.
std::uint64_t toSigned(double value, int width);
std::uint64_t toUnsigned(double value, int width);

// The bits that a number has in memory. `value` is one of the type.
std::uint64_t encode(double value, Number::Kind kind);
double decode(std::uint64_t bits, Number::Kind kind);

// `count` elements in memory, `stride` bytes apart, and cells. Integers of 8, 16, 32 and 64 bits, and every float.
void read(Number type, const char *from, int64_t stride, int64_t count, Cell *cells);
void write(Number type, const Cell *cells, char *to, int64_t stride, int64_t count);

} // namespace bitloom::interpreter
