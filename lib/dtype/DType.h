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

// The 8-bit floats of Micikevicius et al., "FP8 Formats for Deep Learning" (2022), as the Open Compute Project
// standardised them (OFP8): e4m3 has no infinities and one NaN, 0x7f with either sign (torch's float8_e4m3fn); e5m2 is
// the upper half of a binary16. Conversions round to nearest, ties to even, and saturate: what lies past the largest
// number, 448 or 57344, becomes it, infinities included; a NaN becomes 0x7f. So convert the instructions of GPUs, and
// torch to e4m3; to e5m2 torch overflows to an infinity.
struct f8e4m3 {
  std::uint8_t bits = 0;
  f8e4m3() = default;
  f8e4m3(float value);
  operator float() const;
};
struct f8e5m2 {
  std::uint8_t bits = 0;
  f8e5m2() = default;
  f8e5m2(float value);
  operator float() const;
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
// Of 8 bits: to be loaded, stored, converted, moved and multiplied by dot, and not computed with otherwise.
inline constexpr bool isStorageFloat(DType dtype) { return dtype == DType::f8e4m3 || dtype == DType::f8e5m2; }
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
