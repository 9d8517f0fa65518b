#include <bitloom/dsl/Kernel.h>

using namespace bitloom;

// Shazeer, "GLU Variants Improve Transformer" (2020).
template <class T> struct SwiGlu {
  static constexpr auto name = "my_swiglu";
  static constexpr auto summary = "out = gate * sigmoid(gate) * up";
  static constexpr auto tests = "rows=1 cols=1; rows=3 cols=199; rows=17 cols=4097";
  static constexpr auto benchmarks = "rows=1024 cols=4096";

  View<const T, 2> gate{"rows, cols"}, up{"rows, cols"};
  View<T, 2> out{"rows, cols"};
  Meta<int> block = 512;
  BITLOOM_PARAMS(gate, up, out, block)

  Grid grid() const { return {ceil_div(out.extent(1), block), out.extent(0)}; }

  void operator()() const {
    auto row = program_id(1);
    auto here = block_at(program_id(0), block);
    auto g = cast<f32>(gate(row, here));
    out(row, here) = cast<T>(g / (1.0f + exp(-g)) * cast<f32>(up(row, here)));
  }
};
BITLOOM_REGISTER(SwiGlu<f32>, SwiGlu<f16>, SwiGlu<bf16>)
