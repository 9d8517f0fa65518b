// A kernel's parameters: views of memory, scalars, and values known while tracing.
#pragma once

#include "bitloom/dsl/Ops.h"
#include "bitloom/lib/runtime/Tensor.h"

#include <string>

namespace bitloom {

// `extent` consecutive coordinates from `start`. The extent is known while tracing.
struct Span {
  Scalar<i64> start;
  int64_t extent;

  // start, start + 1, …: the coordinates as a tile.
  Tile<i64, 1> indices(SourceLocation at = std::source_location::current()) const {
    return Tile<i64, 1>(
        trace::binary(trace::Binary::Add, DType::i64, arange<i64>(extent, at).node(), start.node(), at));
  }
};
inline Span span(const Scalar<i64> &start, int64_t extent) { return {start, extent}; }
// The block-th run of `extent` coordinates: [block * extent, (block + 1) * extent).
inline Span block_at(const Scalar<i64> &block, int64_t extent, SourceLocation at = std::source_location::current()) {
  return {Scalar<i64>(trace::binary(trace::Binary::Mul, DType::i64, block.node(), trace::Node::host(extent), at)),
          extent};
}

namespace detail {
template <class I>
concept IndexScalar = std::integral<std::remove_cvref_t<I>> ||
                      (Tiled<I> && TileOf<I>::rank == 0 && std::integral<typename TileOf<I>::element>);
template <class I> inline constexpr bool isSpan = std::same_as<std::remove_cvref_t<I>, Span>;

template <class I> trace::Node indexNode(const I &index, SourceLocation at) {
  if constexpr (isSpan<I>)
    return index.start.node();
  else if constexpr (std::integral<I>)
    return trace::Node::host(int64_t(index));
  else
    return trace::cast(TileOf<I>::dtype, DType::i64, index.node(), at);
}

// Where in a view a tile lies.
struct Place {
  trace::Node view;
  DType dtype;
  std::vector<trace::Node> offsets;
  std::vector<int> dims;
  trace::Shape extents;
  SourceLocation at;

  trace::Node load(std::optional<trace::Node> other = std::nullopt) const {
    return trace::load(view, dtype, offsets, dims, extents, other, at);
  }
  void store(trace::Node value) const { trace::store(value, view, dtype, offsets, dims, extents, at); }
};

} // namespace detail

// What v(i, j) gives: the tile that lies there, out-of-range elements zero. Assigning to it as written, v(i, j) = tile,
// stores; a variable initialised from it is an ordinary tile.
template <class T, int R> class Access : public Tile<std::remove_const_t<T>, R> {
  using Value = Tile<std::remove_const_t<T>, R>;

public:
  explicit Access(detail::Place where) : Value(where.load()), place(std::move(where)) {}
  Access(const Access &) = default;

  // The tile with `other` for the elements out of range.
  Value or_else(Operand<std::remove_const_t<T>, 0> other) const { return Value(place.load(other.node)); }

  void operator=(const Value &value) && {
    static_assert(!std::is_const_v<T>,
                  "expected a view of mutable elements to store to: View<f32, 1>, not View<const f32, 1>");
    place.store(value.node());
  }
  void operator=(const Access &value) && { std::move(*this) = static_cast<const Value &>(value); }
  template <detail::ConstantFor<std::remove_const_t<T>> C> void operator=(C number) && {
    place.store(detail::constant(number));
  }
  template <detail::Tiled V>
    requires(!std::same_as<detail::TileOf<V>, Value>)
  void operator=(const V &) && {
    static_assert(std::same_as<typename detail::TileOf<V>::element, typename Value::element>,
                  "expected a tile of the view's element type to store: convert it, as in cast<f32>(x)");
    static_assert(!std::same_as<typename detail::TileOf<V>::element, typename Value::element>,
                  "expected a tile with one dimension for each Span among the indices to store");
  }
  Access &operator=(const Value &value) & {
    Value::operator=(value);
    return *this;
  }
  Access &operator=(const Access &value) & {
    Value::operator=(value);
    return *this;
  }

private:
  detail::Place place;
};

// A strided window on memory with R extents, known when the kernel runs. T may be const: then the kernel only reads it.
// Coordinates outside the extents are masked. `shape` names the extents in order, separated by commas, with names that
// the kernel's other views share or expressions of them and of its Meta parameters: "rows, cols", "n, k * bits / 8". A
// name stands for the same number everywhere in a call; that is checked, and outputs are made from it.
template <class T, int R> class View {
  using E = std::remove_const_t<T>;

public:
  using element = E;
  static constexpr int rank = R;
  static constexpr bool output = !std::is_const_v<T>;

  View(const char *shape = "") : shape(shape) {}
  View(TensorRef tensor) : tensor(std::move(tensor)), bound(true) {}

  Scalar<i64> extent(int dim, SourceLocation at = std::source_location::current()) const {
    if (dim < 0 || dim >= R)
      throw UserError(at, "extent: expected a dimension from 0 to " + std::to_string(R - 1) + ", got " +
                              std::to_string(dim));
    if (node.onHost() && bound)
      return Scalar<i64>(trace::Node::host(int64_t(tensor.extents[dim])));
    return Scalar<i64>(trace::extent(node, dim, at));
  }

  // One index a dimension: a Span keeps the dimension, an integer scalar drops it.
  template <class A> auto operator()(const A &a, std::source_location at = std::source_location::current()) const {
    return access(at, a);
  }
  template <class A, class B>
  auto operator()(const A &a, const B &b, std::source_location at = std::source_location::current()) const {
    return access(at, a, b);
  }
  template <class A, class B, class C>
  auto operator()(const A &a, const B &b, const C &c, std::source_location at = std::source_location::current()) const {
    return access(at, a, b, c);
  }
  template <class A, class B, class C, class D>
  auto operator()(const A &a, const B &b, const C &c, const D &d,
                  std::source_location at = std::source_location::current()) const {
    return access(at, a, b, c, d);
  }

  // The elements at the coordinates (index...[e]), each a tile of integers of one shape or a scalar; zero out of range.
  template <class... I> auto gather(const I &...index) const {
    return gatherTile<I...>(std::nullopt, std::nullopt, index...);
  }
  // The same where the mask holds; `other` elsewhere and out of range.
  template <int K, class... I>
  Tile<E, K> gather_if(const Tile<bool, K> &mask, Operand<E, 0> other, const I &...index) const {
    return gatherTile<I...>(mask.node(), other.node, index...);
  }
  // Writes value[e] at (index...[e]); nothing out of range. Of equal coordinates, one is written.
  template <int K, class... I> void scatter(const Tile<E, K> &value, const I &...index) const {
    static_assert(output, "expected a view of mutable elements to scatter to");
    trace::scatter(value.node(), node, dtypeOf<E>, {indices(index)...}, std::nullopt, {});
  }
  template <int K, class... I>
  void scatter_if(const Tile<bool, K> &mask, const Tile<E, K> &value, const I &...index) const {
    static_assert(output, "expected a view of mutable elements to scatter to");
    trace::scatter(value.node(), node, dtypeOf<E>, {indices(index)...}, mask.node(), {});
  }
  // Combines value[e] into the element at (index...[e]), atomically and in no order; gives what was there before.
  template <int K, class... I> Tile<E, K> atomic(trace::Atomic op, const Tile<E, K> &value, const I &...index) const {
    static_assert(output, "expected a view of mutable elements for an atomic");
    return Tile<E, K>(trace::atomic(op, value.node(), node, dtypeOf<E>, {indices(index)...}, std::nullopt, {}));
  }
  template <int K, class... I> Tile<E, K> atomic_add(const Tile<E, K> &value, const I &...index) const {
    return atomic(trace::Atomic::Add, value, index...);
  }

  std::string shape;  // the names of the extents, as declared
  trace::Node node;   // the traced parameter, while tracing
  TensorRef tensor{}; // what a call binds
  bool bound = false; // whether `tensor` is set

private:
  template <class... I> auto access(std::source_location at, const I &...index) const {
    static_assert(sizeof...(I) == R, "expected one index for each dimension of the view");
    static_assert(((detail::isSpan<I> || detail::IndexScalar<I>) && ...),
                  "expected each index to be a Span or an integer scalar: a tile of indices goes to gather");
    constexpr int kept = (int(detail::isSpan<I>) + ... + 0);
    detail::Place place{node, dtypeOf<E>, {detail::indexNode(index, at)...}, {}, {}, at};
    int dim = 0;
    (note(place, index, dim++), ...);
    return Access<T, kept>(std::move(place));
  }
  template <class I> static void note(detail::Place &place, const I &index, int dim) {
    if constexpr (detail::isSpan<I>) {
      place.dims.push_back(dim);
      place.extents.push_back(index.extent);
    }
  }
  template <class I> static trace::Node indices(const I &index) {
    if constexpr (detail::isSpan<I>)
      return index.indices().node();
    else if constexpr (std::integral<I>)
      return trace::Node::host(int64_t(index));
    else {
      static_assert(detail::Tiled<I> && std::integral<typename detail::TileOf<I>::element>, "expected integer indices");
      return trace::cast(detail::TileOf<I>::dtype, DType::i64, index.node(), {});
    }
  }
  template <class I> static consteval int rankOf() {
    if constexpr (detail::isSpan<I>)
      return 1;
    else if constexpr (std::integral<I>)
      return 0;
    else
      return detail::TileOf<I>::rank;
  }
  template <class... I>
  auto gatherTile(std::optional<trace::Node> mask, std::optional<trace::Node> other, const I &...index) const {
    static_assert(sizeof...(I) == R, "expected one index for each dimension of the view");
    constexpr int result = std::max({rankOf<I>()...});
    return Tile<E, result>(trace::gather(node, dtypeOf<E>, {indices(index)...}, mask, other, {}));
  }
};

// A scalar parameter, with its default.
template <Element T> class Param : public Scalar<T> {
public:
  using element = T;
  Param() : Scalar<T>(trace::Node::host(int64_t{0})) {}
  template <detail::ConstantFor<T> C> Param(C number) : Scalar<T>(number), value(T(number)) {}
  void bind(trace::Node node) { Scalar<T>::operator=(Scalar<T>(node)); }

  T value{}; // what a call passes
};

// A parameter known while tracing: each value of it is another machine code. Its default is a number or, as text, an
// expression of the names of the extents (see View) and of Meta parameters before it: "next_pow2(cols)". The functions
// are min, max, ceil_div, round_up(x, multiple), next_pow2; "x.given" is whether a call passes elements of the view x,
// or the scalar x. Where the default is "x.transposed" alone, the parameter says that the view x lies in memory with
// its last two dimensions swapped, and a call finds it out from the tensor's strides. The kernel speaks of x as it is
// declared all the same: what it reads is read as it lies and transposed.
template <class T> class Meta {
  static_assert(std::is_same_v<T, int> || std::is_same_v<T, bool>, "expected Meta<int> or Meta<bool>");

public:
  using element = T;
  using meta_value = T;
  Meta(T value = {}) : value(value) {}
  Meta(const char *expression) : expression(expression) {}
  // Values 0, 1, … that have names, separated by commas: callers write either. The default is the first.
  static Meta oneOf(const char *names) {
    Meta meta;
    meta.choices = names;
    return meta;
  }
  operator T() const { return value; }

  T value{};
  std::string expression; // empty: the default is `value`
  std::string choices;
};

} // namespace bitloom
