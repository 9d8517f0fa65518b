#include "bitloom/dsl/Kernel.h"

namespace bitloom::kernels {

// The rows of dy are taken in the order of their ids, `order` (a stable sort of them); those of id v are at starts[v]
// to starts[v + 1] - 1 of it. One program a row of the weight adds them up, in f32 and in their order, and writes the
// row, zeros where there is none: no atomics, the same bits each time, and no pass to set the gradient to zero. Atomic
// additions would read and write a row for each token, and round to the weight's type each time.
//
// Several rows are loaded at once, so that a frequent id does not wait for the memory row by row.
template <class T> struct EmbeddingBackward {
  static constexpr auto name = "embedding_backward";
  static constexpr auto summary = "the gradient of embedding: dweight[v] = the sum of dy[i] over the i whose id is v";
  static constexpr auto tests = "n=1 vocab=1 cols=1; n=3 vocab=5 cols=17; n=17 vocab=199 cols=192; n=199 vocab=3 "
                                "cols=33; n=199 vocab=17 cols=128 "
                                "padding=5; n=3 vocab=17 cols=4097; n=5 vocab=3 cols=20000";
  static constexpr auto benchmarks = "n=16384 vocab=128256 cols=4096";
  static constexpr auto inputs = "order=0..n-1; starts=0..n ascending";

  View<const T, 2> dy{"n, cols"};
  View<const i64, 1> order{"n"}, starts{"vocab + 1"};
  View<T, 2> dweight{"vocab, cols"};
  Param<i64> padding = -1; // an id whose row gets no gradient
  Meta<int> block = "min(round_up(cols, 128), 8192)";
  Meta<int> ahead = 4; // rows loaded at once
  BITLOOM_PARAMS(dy, order, starts, dweight, padding, block, ahead)

  Grid grid() const { return {dweight.extent(0), ceil_div(dweight.extent(1), block)}; }

  void operator()() const {
    auto cols = block_at(program_id(1), block);
    auto id = program_id(0);
    Scalar<i64> first = starts(id);
    Scalar<i64> last = where(id == padding, first, Scalar<i64>(starts(id + 1)));
    auto total = zeros<f32>({block});
    for (auto i : range(first, last, ahead)) {
      std::vector<Tile<f32, 1>> rows;
      for (int k = 0; k < ahead; ++k) // past the last, a row that is nowhere: zeros, and no memory is read
        rows.push_back(cast<f32>(dy(where(i + k < last, Scalar<i64>(order(i + k)), int64_t(-1)), cols)));
      for (const auto &row : rows)
        total = total + row;
    }
    dweight(id, cols) = cast<T>(total);
  }
};

BITLOOM_REGISTER(EmbeddingBackward<f32>, EmbeddingBackward<f16>, EmbeddingBackward<bf16>)

} // namespace bitloom::kernels
