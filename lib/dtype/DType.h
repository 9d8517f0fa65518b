// Element types: the enumeration, their facts, and the C++ type of each. Adding one is a row of DType.def.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace bitloom {

// IEEE 754 binary16 and bfloat16 as storage types of the host. Conversions round to nearest, ties to even.
struct f16 {
  std::uint16_t bits = 0;
  f16() = default;
  f16(float value);
  operator float() const;
};
struct bf16 {
  std::uint16_t bits = 0;
  bf16() = default;
  bf16(float value);
  operator float() const { return std::bit_cast<float>(std::uint32_t(bits) << 16); }
};

using i8 = std::int8_t;
using u8 = std::uint8_t;
using i16 = std::int16_t;
using u16 = std::uint16_t;
using i32 = std::int32_t;
using u32 = std::uint32_t;
using i64 = std::int64_t;
using u64 = std::uint64_t;
using f32 = float;
using f64 = double;

enum class DType : std::uint8_t {
#define BITLOOM_DTYPE(name, type, bits, kind) name,
#include "bitloom/lib/dtype/DType.def"
#undef BITLOOM_DTYPE
};

enum class DTypeKind : std::uint8_t { Bool, Signed, Unsigned, Float };

// bits: of storage in memory (a b1 takes a byte there).
struct DTypeFacts {
  std::string_view name;
  int bits;
  DTypeKind kind;
};
const DTypeFacts &factsOf(DType dtype);

inline std::string_view nameOf(DType dtype) { return factsOf(dtype).name; }
inline int bytesOf(DType dtype) { return factsOf(dtype).bits / 8; }
inline bool isFloat(DType dtype) { return factsOf(dtype).kind == DTypeKind::Float; }
inline bool isSigned(DType dtype) {
  return factsOf(dtype).kind == DTypeKind::Signed || factsOf(dtype).kind == DTypeKind::Float;
}
std::optional<DType> dtypeNamed(std::string_view name);

// The number stored at `element`, and its inverse (rounding to nearest even; integers wrap).
double readAsDouble(DType dtype, const void *element);
void writeFromDouble(DType dtype, void *element, double value);

// dtypeOf<float> == DType::f32. Only the types of the table have one.
template <class T> struct DTypeOf;
#define BITLOOM_DTYPE(name, type, bits, kind)                                                                          \
  template <> struct DTypeOf<type> {                                                                                   \
    static constexpr DType value = DType::name;                                                                        \
  };
#include "bitloom/lib/dtype/DType.def"
#undef BITLOOM_DTYPE
template <class T> inline constexpr DType dtypeOf = DTypeOf<T>::value;

template <class T>
concept Element = requires { DTypeOf<T>::value; };

} // namespace bitloom
