#include "bitloom/dsl/Kernel.h"

namespace bitloom::kernels {

// The end of the backward kernels whose programs each keep a partial sum of a parameter's gradient: rows are added in
// one order whatever the number of programs that ran at once, so the bits are the same from run to run. Those of a
// second parameter come along: a launch takes longer than either sum.
template <class T> struct SumPartials {
  static constexpr auto name = "sum_partials";
  static constexpr auto summary =
      "out = the sum of partials over their first dimension, in f32, rounded once; second_out that of second_partials";
  static constexpr auto tests = "programs=1 cols=1; programs=3 cols=17; programs=17 cols=199; programs=132 cols=4097; "
                                "programs=1056 cols=128; programs=17 cols=199 two=1";
  static constexpr auto benchmarks = "programs=132 cols=8192; programs=132 cols=4096; programs=1056 cols=128; "
                                     "programs=132 cols=8192 two=1";

  View<T, 1> out{"cols"};
  View<const f32, 2> partials{"programs, cols"};
  View<T, 1> second_out{"cols * two"};
  View<const f32, 2> second_partials{"programs * two, cols"};
  Meta<bool> two = "second_partials.given";
  Meta<int> block = 32; // one line of memory: as many programs as there are lines in a row
  // On a GPU, whose loads are up to three steps ahead, 192 programs are on their way at once.
  Meta<int> depth = "max(1, min(next_pow2(programs), 32 + 32 * (compute_capability > 0)))";
  BITLOOM_PARAMS(out, partials, second_out, second_partials, two, block, depth)

  Grid grid() const { return {ceil_div(out.extent(0), block), 1 + two}; }

  void operator()() const {
    if (!two)
      return add(out, partials);
    when(program_id(1) == 0, [&] { add(out, partials); }, [&] { add(second_out, second_partials); });
  }

private:
  void add(const View<T, 1> &to, const View<const f32, 2> &from) const {
    auto here = block_at(program_id(0), block);
    auto total = zeros<f32>({depth, block});
    for (auto first : range(0, from.extent(0), depth))
      total = total + from(span(first, depth), here);
    to(here) = cast<T>(sum(total, 0));
  }
};

BITLOOM_REGISTER(SumPartials<f32>, SumPartials<f16>, SumPartials<bf16>)

} // namespace bitloom::kernels
