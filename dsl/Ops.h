// The functions on tiles: maths, shapes, reductions, dot, packed values, random numbers. All are traced; `at` is the
// caller's line, for errors and for the IR's locations. UserError at that line when extents do not fit.
#pragma once

#include "bitloom/dsl/Tile.h"
#include "bitloom/lib/packing/Packing.h"

#include <array>
#include <string_view>
#include <tuple>
#include <utility>

namespace bitloom {

inline constexpr float infinity = std::numeric_limits<float>::infinity();

#define BITLOOM_HERE SourceLocation at = std::source_location::current()

//===- The grid ---------------------------------------------------------------------------------------------------===//

// This program's coordinate in the grid, and the grid's extent, along an axis (0, 1 or 2).
inline Scalar<i64> program_id(int axis, BITLOOM_HERE) { return Scalar<i64>(trace::programId(axis, at)); }
inline Scalar<i64> num_programs(int axis, BITLOOM_HERE) { return Scalar<i64>(trace::numPrograms(axis, at)); }

//===- Making tiles -----------------------------------------------------------------------------------------------===//

template <Element T, int R> Tile<T, R> full(const int64_t (&shape)[R], Operand<T, 0> value) {
  return Tile<T, R>(trace::splat(dtypeOf<T>, value.node, trace::Shape(shape, shape + R), value.at));
}
template <Element T, int R> Tile<T, R> zeros(const int64_t (&shape)[R], BITLOOM_HERE) {
  return Tile<T, R>(trace::splat(dtypeOf<T>, trace::Node::host(int64_t{0}), trace::Shape(shape, shape + R), at));
}
// 0, 1, …, extent - 1.
template <Element T = i64> Tile<T, 1> arange(int64_t extent, BITLOOM_HERE) {
  static_assert(std::is_integral_v<T> && !std::same_as<T, bool>, "expected an integer element type for arange");
  return Tile<T, 1>(trace::iota(dtypeOf<T>, extent, at));
}

//===- Element by element -----------------------------------------------------------------------------------------===//

// Float to integer truncates towards zero (out of range is undefined); to a narrower float rounds to nearest even; to
// bool asks whether it differs from zero. To an 8-bit float saturates: past its largest number, 448 of f8e4m3 and 57344
// of f8e5m2, comes that number, an infinity included (which may stay one where it came from f8e5m2 or is a constant),
// and a NaN is 0x7f; f64 goes by way of f32. 8-bit floats are loaded, stored, cast, moved and multiplied by dot alone.
template <Element To, Element T, int R> Tile<To, R> cast(const Tile<T, R> &a, BITLOOM_HERE) {
  return Tile<To, R>(trace::cast(dtypeOf<T>, dtypeOf<To>, a.node(), at));
}
// The same bits under another type of the same width.
template <Element To, Element T, int R> Tile<To, R> bitcast(const Tile<T, R> &a, BITLOOM_HERE) {
  static_assert(sizeof(To) == sizeof(T), "expected element types of one width for bitcast");
  return Tile<To, R>(trace::bitcast(dtypeOf<T>, dtypeOf<To>, a.node(), at));
}

#define BITLOOM_MATHS(name, operation)                                                                                 \
  template <Element T, int R> Tile<T, R> name(const Tile<T, R> &a, BITLOOM_HERE) {                                     \
    static_assert(dtypeOf<T> >= DType::f16, "expected a tile of floats for " #name);                                   \
    detail::checkComputes<T>();                                                                                        \
    return Tile<T, R>(trace::unary(trace::Unary::operation, dtypeOf<T>, a.node(), at));                                \
  }
BITLOOM_MATHS(exp, Exp)
BITLOOM_MATHS(exp2, Exp2)
BITLOOM_MATHS(expm1, Expm1)
BITLOOM_MATHS(log, Log)
BITLOOM_MATHS(log2, Log2)
// Of f32 above 0, where a GPU's own will do: within 2^-22 of the truth from 1/2 to 2, and to 2^-22 of it elsewhere.
BITLOOM_MATHS(approx_log2, ApproxLog2)
BITLOOM_MATHS(log1p, Log1p)
// 1 / a, where a GPU's own will do: within 2^-22 of it, 0 where it is below 2^-126.
BITLOOM_MATHS(approx_reciprocal, ApproxReciprocal)
BITLOOM_MATHS(sqrt, Sqrt)
BITLOOM_MATHS(rsqrt, Rsqrt)
BITLOOM_MATHS(sin, Sin)
BITLOOM_MATHS(cos, Cos)
BITLOOM_MATHS(tanh, Tanh)
BITLOOM_MATHS(erf, Erf)
BITLOOM_MATHS(floor, Floor)
BITLOOM_MATHS(ceil, Ceil)
BITLOOM_MATHS(round, Round) // to nearest, ties to even
#undef BITLOOM_MATHS

template <Element T, int R> Tile<T, R> abs(const Tile<T, R> &a, BITLOOM_HERE) {
  return Tile<T, R>(trace::unary(trace::Unary::Abs, dtypeOf<T>, a.node(), at));
}

// The smaller and the larger operand; NaN where either is NaN.
template <Element T, int R> Tile<T, R> minimum(const Tile<T, R> &a, std::type_identity_t<Operand<T, R>> b) {
  return Tile<T, R>(trace::binary(trace::Binary::Min, dtypeOf<T>, a.node(), b.node, b.at));
}
template <Element T, int R> Tile<T, R> maximum(const Tile<T, R> &a, std::type_identity_t<Operand<T, R>> b) {
  return Tile<T, R>(trace::binary(trace::Binary::Max, dtypeOf<T>, a.node(), b.node, b.at));
}
template <Element T, int R> Tile<T, R> pow(const Tile<T, R> &a, std::type_identity_t<Operand<T, R>> b) {
  return Tile<T, R>(trace::binary(trace::Binary::Pow, dtypeOf<T>, a.node(), b.node, b.at));
}
// The quotient of integers rounded up, both positive.
template <Element T, int R> Tile<T, R> ceil_div(const Tile<T, R> &a, std::type_identity_t<Operand<T, R>> b) {
  return Tile<T, R>(trace::binary(trace::Binary::CeilDiv, dtypeOf<T>, a.node(), b.node, b.at));
}
// The high half of the double-width product of unsigned integers.
template <Element T, int R> Tile<T, R> mul_high(const Tile<T, R> &a, std::type_identity_t<Operand<T, R>> b) {
  static_assert(std::is_unsigned_v<T>, "expected unsigned integers for mul_high");
  return Tile<T, R>(trace::binary(trace::Binary::MulHigh, dtypeOf<T>, a.node(), b.node, b.at));
}
// a · b + c, rounded once.
template <Element T, int R>
Tile<T, R> fma(const Tile<T, R> &a, std::type_identity_t<Operand<T, R>> b, std::type_identity_t<Operand<T, R>> c) {
  return Tile<T, R>(trace::fma(dtypeOf<T>, a.node(), b.node, c.node, b.at));
}
// yes where the condition holds, no elsewhere. One of yes and no is a tile, the other may be a scalar or a constant.
template <Element T, int R>
Tile<T, R> where(const Tile<bool, R> &condition, const Tile<T, R> &yes, std::type_identity_t<Operand<T, R>> no) {
  return Tile<T, R>(trace::select(dtypeOf<T>, condition.node(), yes.node(), no.node, no.at));
}
template <Element T, int R, detail::ConstantFor<T> C>
Tile<T, R> where(const Tile<bool, R> &condition, C yes, const Tile<T, R> &no, BITLOOM_HERE) {
  return Tile<T, R>(trace::select(dtypeOf<T>, condition.node(), detail::constant(yes), no.node(), at));
}

//===- Shapes -----------------------------------------------------------------------------------------------------===//

// The same elements in row-major order. One extent may be -1: it is what the others leave.
template <int To, Element T, int R> Tile<T, To> reshape(const Tile<T, R> &a, const int64_t (&shape)[To], BITLOOM_HERE) {
  return Tile<T, To>(trace::reshape(a.node(), trace::Shape(shape, shape + To), at));
}
// A new dimension of extent 1 in front of dimension `dim` (0 to R).
template <Element T, int R> Tile<T, R + 1> expand(const Tile<T, R> &a, int dim, BITLOOM_HERE) {
  trace::Shape shape = a.shape();
  if (dim < 0 || dim > R)
    throw UserError(at, "expand: expected a dimension from 0 to " + std::to_string(R) + ", got " + std::to_string(dim));
  shape.insert(shape.begin() + dim, 1);
  return Tile<T, R + 1>(trace::reshape(a.node(), shape, at));
}
// Dimension k of the result is dimension permutation[k] of a.
template <Element T, int R> Tile<T, R> trans(const Tile<T, R> &a, const std::array<int, R> &permutation, BITLOOM_HERE) {
  return Tile<T, R>(trace::transpose(a.node(), {permutation.begin(), permutation.end()}, at));
}
template <Element T> Tile<T, 2> trans(const Tile<T, 2> &a, BITLOOM_HERE) {
  return Tile<T, 2>(trace::transpose(a.node(), {1, 0}, at));
}
// Repeat along the dimensions of extent 1.
template <Element T, int R> Tile<T, R> broadcast(const Tile<T, R> &a, const int64_t (&shape)[R], BITLOOM_HERE) {
  return Tile<T, R>(trace::broadcast(a.node(), trace::Shape(shape, shape + R), at));
}
// Two tiles side by side in a new last dimension of extent 2, and the inverse.
template <Element T, int R> Tile<T, R + 1> join(const Tile<T, R> &a, const Tile<T, R> &b, BITLOOM_HERE) {
  static_assert(R >= 1, "expected tiles of rank 1 or more for join");
  return Tile<T, R + 1>(trace::join(a.node(), b.node(), at));
}
template <Element T, int R> std::pair<Tile<T, R - 1>, Tile<T, R - 1>> split(const Tile<T, R> &a, BITLOOM_HERE) {
  static_assert(R >= 2, "expected a tile of rank 2 or more for split");
  auto [first, second] = trace::split(a.node(), at);
  return {Tile<T, R - 1>(first), Tile<T, R - 1>(second)};
}
// b after a, along the last dimension of two tiles of one shape.
template <Element T> Tile<T, 1> cat(const Tile<T, 1> &a, const Tile<T, 1> &b, BITLOOM_HERE) {
  return reshape<1>(trans(join(a, b, at), at), {2 * a.extent(0)}, at);
}
// The rectangle of a that starts at offsets; all known while tracing.
template <Element T, int R>
Tile<T, R> slice(const Tile<T, R> &a, const int64_t (&offsets)[R], const int64_t (&extents)[R], BITLOOM_HERE) {
  return Tile<T, R>(trace::slice(a.node(), trace::Shape(offsets, offsets + R), trace::Shape(extents, extents + R), at));
}

//===- Reductions and scans ---------------------------------------------------------------------------------------===//

namespace detail {
template <class... Ts, size_t... I>
std::tuple<Ts...> unpackNodes(const std::vector<trace::Node> &nodes, std::index_sequence<I...>) {
  return {Ts(nodes[I])...};
}
template <Element... Ts, class F> trace::Combine combiner(F combine) {
  return [combine](const std::vector<trace::Node> &left, const std::vector<trace::Node> &right) {
    constexpr auto all = std::index_sequence_for<Ts...>();
    auto combined = combine(unpackNodes<Scalar<Ts>...>(left, all), unpackNodes<Scalar<Ts>...>(right, all));
    return std::apply([](const auto &...part) { return std::vector<trace::Node>{Scalar<Ts>(part).node()...}; },
                      combined);
  };
}
} // namespace detail

// Combine the elements along `axis` (0 to R - 1) of several tiles of one shape at once. combine takes two std::tuples
// of scalars, the left and the right partial result, and returns one; it must be associative.
template <Element... Ts, int R, class F>
std::tuple<Tile<Ts, R - 1>...> reduce(const std::tuple<Tile<Ts, R>...> &sources, int axis, F combine, BITLOOM_HERE) {
  static_assert(R >= 1, "expected tiles of rank 1 or more for reduce");
  auto nodes = std::apply([](const auto &...tile) { return std::vector<trace::Node>{tile.node()...}; }, sources);
  return detail::unpackNodes<Tile<Ts, R - 1>...>(trace::reduce(nodes, axis, detail::combiner<Ts...>(combine), at),
                                                 std::index_sequence_for<Ts...>());
}
// The same for one tile: combine takes two scalars.
template <Element T, int R, class F>
Tile<T, R - 1> reduce(const Tile<T, R> &source, int axis, F combine, BITLOOM_HERE) {
  auto one = [combine](const std::tuple<Scalar<T>> &a, const std::tuple<Scalar<T>> &b) {
    return std::tuple<Scalar<T>>(combine(std::get<0>(a), std::get<0>(b)));
  };
  return std::get<0>(reduce(std::tuple<Tile<T, R>>(source), axis, one, at));
}
// Running combinations along `axis`, inclusive; from the end with `reverse`.
template <Element... Ts, int R, class F>
std::tuple<Tile<Ts, R>...> scan(const std::tuple<Tile<Ts, R>...> &sources, int axis, F combine, bool reverse = false,
                                BITLOOM_HERE) {
  auto nodes = std::apply([](const auto &...tile) { return std::vector<trace::Node>{tile.node()...}; }, sources);
  return detail::unpackNodes<Tile<Ts, R>...>(trace::scan(nodes, axis, reverse, detail::combiner<Ts...>(combine), at),
                                             std::index_sequence_for<Ts...>());
}
template <Element T, int R, class F>
Tile<T, R> scan(const Tile<T, R> &source, int axis, F combine, bool reverse = false, BITLOOM_HERE) {
  auto one = [combine](const std::tuple<Scalar<T>> &a, const std::tuple<Scalar<T>> &b) {
    return std::tuple<Scalar<T>>(combine(std::get<0>(a), std::get<0>(b)));
  };
  return std::get<0>(scan(std::tuple<Tile<T, R>>(source), axis, one, reverse, at));
}

namespace detail {
// A reduction by one operation, its operations at the caller's line.
template <Element T, int R>
Tile<T, R - 1> reduceBy(trace::Binary op, const Tile<T, R> &a, int axis, SourceLocation at) {
  return reduce(
      a, axis,
      [=](Scalar<T> x, Scalar<T> y) { return Scalar<T>(trace::binary(op, dtypeOf<T>, x.node(), y.node(), at)); }, at);
}
} // namespace detail

template <Element T, int R> Tile<T, R - 1> sum(const Tile<T, R> &a, int axis, BITLOOM_HERE) {
  return detail::reduceBy(trace::Binary::Add, a, axis, at);
}
template <Element T, int R> Tile<T, R - 1> max(const Tile<T, R> &a, int axis, BITLOOM_HERE) {
  return detail::reduceBy(trace::Binary::Max, a, axis, at);
}
template <Element T, int R> Tile<T, R - 1> min(const Tile<T, R> &a, int axis, BITLOOM_HERE) {
  return detail::reduceBy(trace::Binary::Min, a, axis, at);
}
template <Element T, int R> Tile<T, R> cumsum(const Tile<T, R> &a, int axis, BITLOOM_HERE) {
  return scan(a, axis, [](Scalar<T> x, Scalar<T> y) { return x + y; }, false, at);
}
// The index of the largest element along the axis of a tile of rank 1; the first of equals.
template <Element T> Scalar<i32> argmax(const Tile<T, 1> &a, BITLOOM_HERE) {
  auto better = [](const std::tuple<Scalar<T>, Scalar<i32>> &l, const std::tuple<Scalar<T>, Scalar<i32>> &r) {
    auto [x, i] = l;
    auto [y, j] = r;
    auto left = (x > y) | ((x == y) & (i < j));
    return std::tuple(where(left, x, y), where(left, i, j));
  };
  return std::get<1>(reduce(std::tuple(a, arange<i32>(a.extent(0), at)), 0, better, at));
}

// acc + a · b for a of M×K, b of K×N and acc of M×N, in acc's element type. tf32 lets a target round f32 operands to
// tf32. Integer operands need an integer acc, floats a float one; it is none of 8-bit floats.
template <Element A, Element B, Element Acc>
Tile<Acc, 2> dot(const Tile<A, 2> &a, const Tile<B, 2> &b, const Tile<Acc, 2> &acc, bool tf32 = false, BITLOOM_HERE) {
  static_assert(std::is_integral_v<A> == std::is_integral_v<Acc> && std::is_integral_v<B> == std::is_integral_v<Acc>,
                "expected operands and accumulator of dot all of integers or all of floats");
  detail::checkComputes<Acc>();
  return Tile<Acc, 2>(trace::dot(a.node(), dtypeOf<A>, b.node(), dtypeOf<B>, acc.node(), dtypeOf<Acc>, tf32, at));
}

//===- Packed values ----------------------------------------------------------------------------------------------===//

// The 1- to 8-bit values in a tile of bytes, whose last dimension holds whole blocks of the packing. i8: signed fields
// (two's complement); u8: unsigned ones.
template <Element To = u8, int R> Tile<To, R> unpack(const Tile<u8, R> &bytes, const Packing &packing, BITLOOM_HERE) {
  static_assert(sizeof(To) == 1 && !std::same_as<To, bool>, "expected i8 or u8 for unpacked values: cast them after");
  return Tile<To, R>(trace::unpack(bytes.node(), packing.toString(), std::is_signed_v<To>, at));
}
// The same with the width as a template argument, in low-first order.
template <int bits, Element To = u8, int R> Tile<To, R> unpack(const Tile<u8, R> &bytes, BITLOOM_HERE) {
  static_assert(bits >= 1 && bits <= 8, "expected a width of 1 to 8 bits");
  return unpack<To>(bytes, Packing{.bits = bits, .order = Packing::Order::LowFirst, .block = 8}, at);
}
// The inverse; bits above the width are dropped.
template <Element T, int R> Tile<u8, R> pack(const Tile<T, R> &values, const Packing &packing, BITLOOM_HERE) {
  static_assert(sizeof(T) == 1 && !std::same_as<T, bool>, "expected i8 or u8 values to pack");
  return Tile<u8, R>(trace::pack(values.node(), packing.toString(), at));
}
template <int bits, Element T, int R> Tile<u8, R> pack(const Tile<T, R> &values, BITLOOM_HERE) {
  static_assert(bits >= 1 && bits <= 8, "expected a width of 1 to 8 bits");
  return pack(values, Packing{.bits = bits, .order = Packing::Order::LowFirst, .block = 8}, at);
}
// table[index] for each index; the table has 1 to 256 elements.
template <Element T, Element I, int R>
Tile<T, R> lut(const Tile<T, 1> &table, const Tile<I, R> &indices, BITLOOM_HERE) {
  static_assert(std::is_integral_v<I>, "expected integer indices for lut");
  return Tile<T, R>(trace::lut(table.node(), indices.node(), at));
}

//===- For people -------------------------------------------------------------------------------------------------===//

// Prints the tile from every program.
template <Element T, int R> void print(std::string_view label, const Tile<T, R> &value, BITLOOM_HERE) {
  trace::print(label, dtypeOf<T>, value.node(), at);
}
// Fails the launch with this line and the message where an element is false.
template <int R> void assert_(const Tile<bool, R> &condition, std::string_view message, BITLOOM_HERE) {
  trace::assert_(condition.node(), message, at);
}

#undef BITLOOM_HERE

} // namespace bitloom
