// A kernel whose body a test gives: views x and out of n elements, a scalar and two Meta parameters.
#pragma once

#include "bitloom/dsl/Call.h"
#include "bitloom/dsl/Kernel.h"
#include "bitloom/lowering/Program.h"

#include <functional>
#include <utility>

namespace bitloom::test {

struct Body {
  static inline std::function<void(const Body &)> run;

  View<const f32, 1> x{"n"};
  View<f32, 1> out{"n"};
  Param<f32> scale = 1.0f;
  Meta<int> block = 4;
  BITLOOM_PARAMS(x, out, scale, block)

  Grid grid() const { return {ceil_div(out.extent(0), block)}; }
  void operator()() const { run(*this); }
};

inline const KernelRow &bodyRow() {
  static const KernelRow row{"body", "what a test gives", __FILE__, {detail::variantOf<Body>()}, {}, {}};
  return row;
}

// The tile IR of a body, as traced.
inline Program traced(std::function<void(const Body &)> body) {
  Body::run = std::move(body);
  Call call(bodyRow());
  call.setSizes({{"n", 8}});
  call.resolve();
  return call.trace();
}

// What UserError the body throws while it is traced; empty when none.
inline std::string errorOf(std::function<void(const Body &)> body) {
  try {
    traced(std::move(body));
  } catch (const UserError &error) {
    return error.what();
  }
  return "";
}

// "tests/…/File.cpp:LINE: error: MESSAGE", as an error at that line of the calling file reads.
inline std::string errorAt(uint32_t line, const std::string &message,
                           std::source_location at = std::source_location::current()) {
  return std::string(at.file_name()) + ":" + std::to_string(line) + ": error: " + message;
}

// out after the body ran in the interpreter over x.
std::vector<float> interpreted(std::function<void(const Body &)> body, std::vector<float> x);

} // namespace bitloom::test
