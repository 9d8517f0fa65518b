// The types that PTX instructions name, and what the bits of one mean.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace bitloom::ptx {

struct Type {
  char kind = 'b'; // b, u, s, f, x (bf16), t (tf32), e (e4m3), d (e5m2), p (pred)
  int bits = 32;
  bool isFloat() const { return kind == 'f' || kind == 'x' || kind == 't' || kind == 'e' || kind == 'd'; }
};

std::optional<Type> typeNamed(const std::string &name); // without its dot

inline uint64_t mask(int bits) { return bits >= 64 ? ~uint64_t{0} : (uint64_t{1} << bits) - 1; }
inline int64_t signExtend(uint64_t value, int bits) {
  return bits >= 64 ? int64_t(value) : int64_t(value << (64 - bits)) >> (64 - bits);
}

double toDouble(uint64_t bits, Type type); // of a float type
double numberOf(uint64_t bits, Type type); // of any

// Rounds to the nearest, ties to even, or toward zero. An 8-bit float saturates, as PTX has no other way.
uint64_t fromDouble(double value, Type type, bool towardZero = false);

} // namespace bitloom::ptx
