// All that a kernel's source includes. A kernel is a struct:
//
//   struct VectorAdd {
//     static constexpr auto name = "vector_add";
//     static constexpr auto summary = "out = x + y";
//     static constexpr auto tests = "n=1; n=4097", benchmarks = "n=67108864";
//     // and, where random inputs must lie in some range: inputs = "target=0..cols-1" (KernelRow::inputs), where not
//     // all extents go together: conditions = "heads % kv_heads == 0"; not for GPUs: onlyCpus = true; what
//     // `bitloom tune` may try: tuning = "block=256,1024,4096"; and which views are worth a copy with aligned rows on
//     // a GPU, and when: realigned = "x: n >= 4096"
//
//     View<const f32, 1> x{"n"}, y{"n"};
//     View<f32, 1> out{"n"};
//     Meta<int> block = 1024;
//     BITLOOM_PARAMS(x, y, out, block) // in call order
//
//     Grid grid() const { return {ceil_div(out.extent(0), block)}; }
//     void operator()() const {
//       auto here = block_at(program_id(0), block);
//       out(here) = x(here) + y(here);
//     }
//   };
//   BITLOOM_REGISTER(VectorAdd)
#pragma once

#include "bitloom/dsl/Control.h"
#include "bitloom/dsl/Random.h"
#include "bitloom/dsl/Registry.h"
#include "bitloom/dsl/View.h"
#include "bitloom/lib/support/Expression.h"

#include <boost/hana/accessors.hpp>
#include <boost/hana/first.hpp>
#include <boost/hana/for_each.hpp>
#include <boost/hana/pair.hpp>
#include <boost/hana/second.hpp>
#include <boost/hana/string.hpp>
#include <boost/hana/tuple.hpp>
#include <boost/preprocessor/punctuation/comma_if.hpp>
#include <boost/preprocessor/seq/for_each_i.hpp>
#include <boost/preprocessor/stringize.hpp>
#include <boost/preprocessor/variadic/to_seq.hpp>

#include <cstring>

namespace bitloom {

// The programs of a launch along three axes.
struct Grid {
  Scalar<i64> x = 1, y = 1, z = 1;
};

namespace detail {
template <class T, int R> Parameter describe(std::string name, const View<T, R> &view) {
  return {Parameter::Kind::View, std::move(name),      dtypeOf<std::remove_const_t<T>>, R,
          View<T, R>::output,    splitList(view.shape)};
}
template <Element T> Parameter describe(std::string name, const Param<T> &param) {
  Parameter parameter{Parameter::Kind::Scalar, std::move(name), dtypeOf<T>};
  std::memcpy(&parameter.bits, &param.value, sizeof(T));
  return parameter;
}
template <class T> Parameter describe(std::string name, const Meta<T> &meta) {
  Parameter parameter{Parameter::Kind::Meta, std::move(name), std::is_same_v<T, bool> ? DType::b1 : DType::i64};
  parameter.bits = meta.value;
  parameter.expression = meta.expression;
  parameter.choices = splitList(meta.choices);
  return parameter;
}

template <class T, int R> void bind(View<T, R> &view, const Slot &slot) {
  view.node = slot.node;
  if (slot.tensor)
    view.tensor = *slot.tensor, view.bound = true;
}
template <Element T> void bind(Param<T> &param, const Slot &slot) {
  if (!slot.node.onHost())
    param.bind(slot.node);
}
template <class T> void bind(Meta<T> &meta, const Slot &slot) { meta.value = T(slot.number); }

template <class K, class F> void forEachField(K &kernel, F &&visit) {
  boost::hana::for_each(boost::hana::accessors<std::remove_const_t<K>>(), [&](auto field) {
    visit(boost::hana::to<const char *>(boost::hana::first(field)), boost::hana::second(field)(kernel));
  });
}

template <class K> K bound(const std::vector<Slot> &slots) {
  K kernel{};
  size_t next = 0;
  forEachField(kernel, [&](const char *, auto &field) { bind(field, slots[next++]); });
  return kernel;
}

template <class K> Variant variantOf() {
  Variant variant;
  K prototype{};
  forEachField(prototype, [&](const char *name, auto &field) { variant.parameters.push_back(describe(name, field)); });
  variant.body = [](const std::vector<Slot> &slots) { bound<K>(slots)(); };
  variant.grid = [](const std::vector<Slot> &slots) {
    Grid grid = bound<K>(slots).grid();
    return std::array<trace::Node, 3>{grid.x.node(), grid.y.node(), grid.z.node()};
  };
  return variant;
}

template <class First, class... Rest> KernelRow rowOf(const char *source) {
  auto cases = [](const char *text) {
    std::vector<std::string> all;
    for (std::string_view rest = text; !rest.empty();) {
      size_t end = std::min(rest.find(';'), rest.size());
      if (size_t first = rest.find_first_not_of(' '); first < end)
        all.emplace_back(rest.substr(first, end - first));
      rest.remove_prefix(std::min(end + 1, rest.size()));
    }
    return all;
  };
  KernelRow row{First::name,         First::summary,          source, {variantOf<First>(), variantOf<Rest>()...},
                cases(First::tests), cases(First::benchmarks)};
  if constexpr (requires { First::inputs; })
    row.inputs = First::inputs;
  if constexpr (requires { First::conditions; })
    row.conditions = cases(First::conditions);
  if constexpr (requires { First::onlyCpus; })
    row.onlyCpus = First::onlyCpus;
  if constexpr (requires { First::tuning; })
    row.tunables = parseTunables(First::tuning);
  if constexpr (requires { First::realigned; })
    row.realignments = parseRealignments(First::realigned);
  row.code = reinterpret_cast<const void *>(&rowOf<First, Rest...>);
  return row;
}

struct Registered {
  explicit Registered(KernelRow row) { registerKernel(std::move(row)); }
};
} // namespace detail

#define BITLOOM_PARAM_ACCESSOR(r, data, i, field)                                                                      \
  BOOST_PP_COMMA_IF(i)::boost::hana::make_pair(BOOST_HANA_STRING(BOOST_PP_STRINGIZE(field)),                           \
                                                                 [](auto &self) -> auto & { return self.field; })

// Reflects the parameters of a kernel's struct, in call order, as a Boost.Hana Struct.
#define BITLOOM_PARAMS(...)                                                                                            \
  struct hana_accessors_impl {                                                                                         \
    static constexpr auto apply() {                                                                                    \
      return ::boost::hana::make_tuple(                                                                                \
          BOOST_PP_SEQ_FOR_EACH_I(BITLOOM_PARAM_ACCESSOR, _, BOOST_PP_VARIADIC_TO_SEQ(__VA_ARGS__)));                  \
    }                                                                                                                  \
  };

// Registers a kernel: its struct, or several instances of one template that differ in element types.
#define BITLOOM_REGISTER(...) BITLOOM_REGISTER_AT(__LINE__, __VA_ARGS__)
#define BITLOOM_REGISTER_AT(line, ...) BITLOOM_REGISTER_AS(line, __VA_ARGS__)
#define BITLOOM_REGISTER_AS(line, ...)                                                                                 \
  static const ::bitloom::detail::Registered bitloomRegistered##line{::bitloom::detail::rowOf<__VA_ARGS__>(__FILE__)};

} // namespace bitloom
