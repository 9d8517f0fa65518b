// A kernel of 19 arguments that does next to nothing, to measure what a launch costs.
#include "bitloom/dsl/Kernel.h"

namespace {

using namespace bitloom;

struct Nineteen {
  static constexpr auto name = "nineteen";
  static constexpr auto summary = "out[0] = the sum of what it is given";
  static constexpr auto tests = "n=1; n=17", benchmarks = "n=1";

  View<const f32, 2> a{"n, n"}, b{"n, n"}, c{"n, n"}, d{"n, n"}, e{"n, n"}, f{"n, n"}, g{"n, n"}, h{"n, n"}, i{"n, n"};
  View<f32, 2> out{"n, n"};
  Param<f32> p = 1.0f, q = 1.0f, r = 1.0f, s = 1.0f, t = 1.0f, u = 1.0f, v = 1.0f, w = 1.0f, x = 1.0f;
  BITLOOM_PARAMS(a, b, c, d, e, f, g, h, i, out, p, q, r, s, t, u, v, w, x)

  Grid grid() const { return {1}; }
  void operator()() const {
    auto views = a(0, 0) + b(0, 0) + c(0, 0) + d(0, 0) + e(0, 0) + f(0, 0) + g(0, 0) + h(0, 0) + i(0, 0);
    out(0, 0) = views + p + q + r + s + t + u + v + w + x;
  }
};
BITLOOM_REGISTER(Nineteen)

} // namespace
