#include "bitloom/dsl/Kernel.h"

namespace bitloom::kernels {

// The end of the backward kernels whose programs each keep a partial sum of a parameter's gradient: rows are added in
// one order whatever the number of programs that ran at once, so the bits are the same from run to run.
template <class T> struct SumPartials {
  static constexpr auto name = "sum_partials";
  static constexpr auto summary = "out = the sum of partials over their first dimension, in f32, rounded once";
  static constexpr auto tests = "programs=1 cols=1; programs=3 cols=17; programs=17 cols=199; programs=132 cols=4097; "
                                "programs=1056 cols=128";
  static constexpr auto benchmarks = "programs=132 cols=8192; programs=132 cols=4096; programs=1056 cols=128";

  View<T, 1> out{"cols"};
  View<const f32, 2> partials{"programs, cols"};
  Meta<int> block = 32; // one line of memory: as many programs as there are lines in a row
  Meta<int> depth = "max(1, min(next_pow2(programs), 32))";
  BITLOOM_PARAMS(out, partials, block, depth)

  Grid grid() const { return {ceil_div(out.extent(0), block)}; }

  void operator()() const {
    auto here = block_at(program_id(0), block);
    auto total = zeros<f32>({depth, block});
    for (auto first : range(0, partials.extent(0), depth))
      total = total + partials(span(first, depth), here);
    out(here) = cast<T>(sum(total, 0));
  }
};

BITLOOM_REGISTER(SumPartials<f32>, SumPartials<f16>, SumPartials<bf16>)

} // namespace bitloom::kernels
