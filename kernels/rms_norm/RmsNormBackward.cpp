#include "bitloom/kernels/rms_norm/Backward.h"
#include "bitloom/kernels/rows/Rows.h"

namespace bitloom::kernels {

template <class T> struct RmsNormBackward {
  static constexpr auto name = "rms_norm_backward";
  static constexpr auto summary = "the gradients of rms_norm: dx, and dweight as one partial sum a program";
  static constexpr auto tests =
      "rows=1 cols=3 weighted=1; rows=3 cols=17 weighted=1; rows=17 cols=199 weighted=1; rows=3 cols=4097 weighted=1; "
      "rows=199 cols=128 weighted=1; rows=2 cols=20000 weighted=1; rows=199 cols=192 weighted=1 has_rstd=1 offset=1; "
      "rows=3 cols=20000 weighted=1 has_rstd=1 offset=1; rows=5 cols=4097; rows=5 cols=20000; "
      "rows=4097 cols=17 weighted=1 programs=7";
  static constexpr auto benchmarks =
      "rows=4096 cols=4096 weighted=1; rows=8192 cols=8192 weighted=1; rows=4096 cols=16384 weighted=1; "
      "rows=4096 cols=20000 weighted=1";

  View<const T, 2> dy{"rows, cols"}, x{"rows, cols"};
  View<const T, 1> weight{"cols * weighted"};
  View<const f32, 1> rstd{"rows * has_rstd"};
  View<T, 2> dx{"rows, cols"};
  View<f32, 2> dweight{"programs * weighted, cols"};
  Param<f32> eps = 1e-6f, offset = 0.0f;
  Meta<bool> weighted = "weight.given", has_rstd = "rstd.given";
  Meta<int> cluster = gradientCluster, block = gradientBlock;
  Meta<int> block_rows = "max(1, 1024 / next_pow2(block))";
  Meta<int> programs = gradientPrograms;
  Meta<bool> resident = "cols <= block";
  Meta<int> stages = 2; // rows' slots: one is read, the next on its way; 0: as many as fit, to 4, which were slower
  BITLOOM_PARAMS(dy, x, weight, rstd, dx, dweight, eps, offset, weighted, has_rstd, cluster, block, block_rows,
                 programs, resident, stages)

  Grid grid() const { return {programs}; }

  void operator()() const {
    hints({.stages = stages, .cluster = cluster});
    RmsNormGradient<T>{dy,     x,     {},       weight,   rstd,     dx,    dweight,   eps,
                       offset, false, weighted, has_rstd, resident, block, block_rows}();
  }
};

BITLOOM_REGISTER(RmsNormBackward<f32>, RmsNormBackward<f16>, RmsNormBackward<bf16>)

} // namespace bitloom::kernels
