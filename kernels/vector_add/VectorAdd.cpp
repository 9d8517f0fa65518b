#include "bitloom/dsl/Kernel.h"

namespace bitloom::kernels {

template <class T> struct VectorAdd {
  static constexpr auto name = "vector_add";
  static constexpr auto summary = "out = x + y";
  static constexpr auto tests = "n=1; n=3; n=17; n=199; n=4097; n=100003";
  static constexpr auto benchmarks = "n=67108864";

  View<const T, 1> x{"n"}, y{"n"};
  View<T, 1> out{"n"};
  Meta<int> block = 1024;
  BITLOOM_PARAMS(x, y, out, block)

  Grid grid() const { return {ceil_div(out.extent(0), block)}; }

  void operator()() const {
    auto here = block_at(program_id(0), block);
    out(here) = x(here) + y(here);
  }
};

BITLOOM_REGISTER(VectorAdd<f32>, VectorAdd<f16>, VectorAdd<bf16>, VectorAdd<i32>)

} // namespace bitloom::kernels
