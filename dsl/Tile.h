// Traced tiles and scalars, and the operators on them.
#pragma once

#include "bitloom/dsl/Trace.h"

#include <concepts>
#include <initializer_list>
#include <limits>
#include <source_location>
#include <type_traits>

namespace bitloom {

template <Element T, int R> class Tile;
template <Element T> using Scalar = Tile<T, 0>;

namespace detail {
template <class> inline constexpr bool never = false;

template <Element T, int R> Tile<T, R> asTile(const Tile<T, R> &); // for deduction from derived classes
template <class A>
concept Tiled = requires(const A &a) { detail::asTile(a); };
template <class A> using TileOf = decltype(detail::asTile(std::declval<const A &>()));

template <class C>
concept Number = std::is_arithmetic_v<C> || std::same_as<C, f16> || std::same_as<C, bf16> || std::same_as<C, f8e4m3> ||
                 std::same_as<C, f8e5m2>;

// The one readable line for arithmetic on 8-bit floats.
template <Element T> constexpr void checkComputes() {
  static_assert(!isStorageFloat(dtypeOf<T>),
                "expected elements to compute with, got 8-bit floats: convert them first, as in cast<f32>(x)");
}

template <class C> struct NumberOf {
  using type = C;
};
template <class C>
  requires requires { typename C::meta_value; }
struct NumberOf<C> {
  using type = typename C::meta_value; // a Meta parameter is a number while tracing
};

template <class C, class T>
concept SameKind = Number<C> && (!std::is_integral_v<T>  ? !std::same_as<C, bool>
                                 : std::same_as<T, bool> ? std::same_as<C, bool>
                                                         : std::is_integral_v<C> && !std::same_as<C, bool>);
// Whether a C++ constant may stand for an element of T without losing its kind.
template <class C, class T>
concept ConstantFor = SameKind<typename NumberOf<C>::type, T>;

template <class C> trace::Node constant(C source) {
  typename NumberOf<C>::type number = source;
  using N = decltype(number);
  if constexpr (std::is_integral_v<N>)
    return trace::Node::host(int64_t(number));
  else
    return trace::Node::host(double(number));
}
} // namespace detail

// An operand of a tile operator: a tile of that type, a scalar of its element type or a C++ constant, with the line
// that it was written on. Its converting constructors are where operators get their source location from.
template <Element T, int R> struct Operand {
  trace::Node node;
  SourceLocation at;

  Operand(const Tile<T, R> &tile, std::source_location where = std::source_location::current());
  Operand(const Tile<T, 0> &scalar, std::source_location where = std::source_location::current())
    requires(R != 0);
  template <detail::ConstantFor<T> C>
  Operand(C number, std::source_location where = std::source_location::current())
      : node(detail::constant(number)), at(where) {}
};

// A tile of rank R, with extents known while tracing and elements of type T known when the kernel runs. Rank 0 is a
// scalar. It behaves as a value: copies are independent, and assigning to one inside a staged loop makes the loop carry
// it. Operators work element by element; operands need one element type and one rank, extents of 1 are broadcast, and a
// scalar or a C++ constant goes with any rank.
template <Element T, int R> class Tile {
public:
  using element = T;
  static constexpr int rank = R;
  static constexpr DType dtype = dtypeOf<T>;

  explicit Tile(trace::Node node) : variable(node) {}
  template <detail::ConstantFor<T> C>
    requires(R == 0)
  Tile(C number) : variable(trace::literal(dtype, detail::constant(number))) {}

  trace::Node node() const { return variable.read(); }
  trace::Shape shape() const { return trace::shapeOf(node()); }
  int64_t extent(int dim) const { return shape().at(dim); }

  template <class B = bool> explicit operator bool() const {
    static_assert(detail::never<B>, "a traced value is not known while tracing: use when(condition, then, else) for "
                                    "control flow, where(condition, a, b) for values, & | ! for logic");
    return false;
  }

#define BITLOOM_BINARY(symbol, operation, result)                                                                      \
  friend Tile<result, R> operator symbol(Operand<T, R> a, Operand<T, R> b) {                                           \
    detail::checkComputes<T>();                                                                                        \
    return Tile<result, R>(trace::binary(trace::Binary::operation, dtype, a.node, b.node, a.at));                      \
  }
  BITLOOM_BINARY(+, Add, T)
  BITLOOM_BINARY(-, Sub, T)
  BITLOOM_BINARY(*, Mul, T)
  BITLOOM_BINARY(/, Div, T)
  BITLOOM_BINARY(%, Rem, T)
  BITLOOM_BINARY(&, And, T)
  BITLOOM_BINARY(|, Or, T)
  BITLOOM_BINARY(^, Xor, T)
  BITLOOM_BINARY(<<, ShiftLeft, T)
  BITLOOM_BINARY(>>, ShiftRight, T)
  BITLOOM_BINARY(==, Equal, bool)
  BITLOOM_BINARY(!=, NotEqual, bool)
  BITLOOM_BINARY(<, Less, bool)
  BITLOOM_BINARY(<=, LessEqual, bool)
  BITLOOM_BINARY(>, Greater, bool)
  BITLOOM_BINARY(>=, GreaterEqual, bool)
#undef BITLOOM_BINARY

  friend Tile operator-(Operand<T, R> a) {
    detail::checkComputes<T>();
    return Tile(trace::unary(trace::Unary::Negate, dtype, a.node, a.at));
  }
  friend Tile operator~(Operand<T, R> a) { return Tile(trace::unary(trace::Unary::Not, dtype, a.node, a.at)); }
  friend Tile operator!(Operand<T, R> a)
    requires std::same_as<T, bool>
  {
    return Tile(trace::unary(trace::Unary::Not, dtype, a.node, a.at));
  }

  Tile &operator+=(Operand<T, R> b) { return update(trace::Binary::Add, b); }
  Tile &operator-=(Operand<T, R> b) { return update(trace::Binary::Sub, b); }
  Tile &operator*=(Operand<T, R> b) { return update(trace::Binary::Mul, b); }
  Tile &operator/=(Operand<T, R> b) { return update(trace::Binary::Div, b); }

private:
  Tile &update(trace::Binary op, const Operand<T, R> &b) {
    detail::checkComputes<T>();
    variable.assign(trace::binary(op, dtype, node(), b.node, b.at));
    return *this;
  }

  trace::Variable variable;
};

template <Element T, int R>
Operand<T, R>::Operand(const Tile<T, R> &tile, std::source_location where) : node(tile.node()), at(where) {}
template <Element T, int R>
Operand<T, R>::Operand(const Tile<T, 0> &scalar, std::source_location where)
  requires(R != 0)
    : node(scalar.node()), at(where) {}

namespace detail {
template <class A, class B> consteval bool mismatched() {
  if constexpr (Tiled<A> && Tiled<B>) {
    using X = TileOf<A>;
    using Y = TileOf<B>;
    return !std::same_as<typename X::element, typename Y::element> || (X::rank != Y::rank && X::rank && Y::rank);
  } else if constexpr (Tiled<A> && Number<B>)
    return !ConstantFor<B, typename TileOf<A>::element>;
  else if constexpr (Number<A> && Tiled<B>)
    return !ConstantFor<A, typename TileOf<B>::element>;
  else
    return false;
}

// The one readable line for operands that do not go together.
template <class A, class B> constexpr void explainMismatch() {
  if constexpr (Tiled<A> && Tiled<B>) {
    using X = TileOf<A>;
    using Y = TileOf<B>;
    static_assert(std::same_as<typename X::element, typename Y::element> || never<A>,
                  "expected operands of one element type: convert one of them, as in cast<f32>(x)");
    static_assert(!std::same_as<typename X::element, typename Y::element> || X::rank == Y::rank || never<A>,
                  "expected operands of one rank: give one of them the missing dimensions, as in expand(x, 0)");
  } else
    static_assert(never<A>, "expected a constant of the tile's kind: an integer for integers, a float for floats");
}
} // namespace detail

#define BITLOOM_REFUSE(symbol)                                                                                         \
  template <class A, class B>                                                                                          \
    requires(detail::mismatched<A, B>())                                                                               \
  auto operator symbol(const A &a, const B &) {                                                                        \
    detail::explainMismatch<A, B>();                                                                                   \
    return a;                                                                                                          \
  }
BITLOOM_REFUSE(+)
BITLOOM_REFUSE(-)
BITLOOM_REFUSE(*)
BITLOOM_REFUSE(/)
BITLOOM_REFUSE(%)
BITLOOM_REFUSE(&)
BITLOOM_REFUSE(|)
BITLOOM_REFUSE(^)
BITLOOM_REFUSE(<)
BITLOOM_REFUSE(<=)
BITLOOM_REFUSE(>)
BITLOOM_REFUSE(>=)
BITLOOM_REFUSE(==)
BITLOOM_REFUSE(!=)
#undef BITLOOM_REFUSE

} // namespace bitloom
