#include "bitloom/dsl/Kernel.h"

namespace bitloom::kernels {

// An id that is no row of the weight gives zeros, and 1 + its place in `error`, at the largest.
template <class T> struct Embedding {
  static constexpr auto name = "embedding";
  static constexpr auto summary = "out[i] = weight[ids[i]]";
  static constexpr auto tests = "n=1 vocab=1 cols=1; n=3 vocab=5 cols=17; n=17 vocab=199 cols=192 checked=1; "
                                "n=199 vocab=3 cols=33; n=3 vocab=17 cols=4097 checked=1; n=2 vocab=3 cols=20000";
  static constexpr auto benchmarks = "n=16384 vocab=128256 cols=4096";
  static constexpr auto inputs = "ids=0..vocab-1";

  View<const i64, 1> ids{"n"};
  View<const T, 2> weight{"vocab, cols"};
  View<T, 2> out{"n, cols"};
  View<i32, 1> error{"1 * checked"}; // read too: the caller sets it to 0
  Meta<bool> checked = "error.given";
  Meta<int> block = "min(round_up(cols, 128), 8192)";
  BITLOOM_PARAMS(ids, weight, out, error, checked, block)

  Grid grid() const { return {out.extent(0), ceil_div(out.extent(1), block)}; }

  void operator()() const {
    auto cols = block_at(program_id(1), block);
    auto i = program_id(0);
    Scalar<i64> id = ids(i);
    auto row = weight(id, cols);
    out(i, cols) = row;
    if (checked)
      when((id < 0) | (id >= weight.extent(0)), [&] { error.atomic(trace::Atomic::Max, cast<i32>(i + 1), 0); });
  }
};

BITLOOM_REGISTER(Embedding<f32>, Embedding<f16>, Embedding<bf16>)

} // namespace bitloom::kernels
