#include "bitloom/kernels/rms_norm/Backward.h"
#include "bitloom/kernels/rows/Rows.h"

namespace bitloom::kernels {

// sum = x + residual has one gradient, which is that of both: rms_norm's, and dsum where the sum itself is used.
template <class T> struct FusedAddRmsNormBackward {
  static constexpr auto name = "fused_add_rms_norm_backward";
  static constexpr auto summary =
      "the gradients of fused_add_rms_norm: dx, x's and the residual's, and dweight as one partial sum a program";
  static constexpr auto tests =
      "rows=1 cols=3 weighted=1 added=1; rows=3 cols=17 weighted=1 added=1 has_rstd=1; rows=17 cols=199 weighted=1 "
      "added=1; rows=3 cols=4097 weighted=1; rows=199 cols=128 weighted=1 added=1 offset=1; rows=2 cols=20000 "
      "weighted=1 added=1; rows=5 cols=192 added=1";
  static constexpr auto benchmarks = "rows=8192 cols=8192 weighted=1 added=1; rows=16384 cols=4096 weighted=1 added=1";

  View<const T, 2> dy{"rows, cols"}, sum{"rows, cols"};
  View<const T, 1> weight{"cols * weighted"};
  View<const T, 2> dsum{"rows * added, cols"};
  View<const f32, 1> rstd{"rows * has_rstd"};
  View<T, 2> dx{"rows, cols"};
  View<f32, 2> dweight{"programs * weighted, cols"};
  Param<f32> eps = 1e-6f, offset = 0.0f;
  Meta<bool> weighted = "weight.given", added = "dsum.given", has_rstd = "rstd.given";
  Meta<int> cluster = gradientCluster, block = gradientBlock;
  Meta<int> block_rows = "max(1, 1024 / next_pow2(block))";
  Meta<int> programs = gradientPrograms;
  Meta<bool> resident = "cols <= block";
  Meta<int> stages = 2; // rows' slots: one is read, the next on its way; 0: as many as fit, to 4, which were slower
  BITLOOM_PARAMS(dy, sum, weight, dsum, rstd, dx, dweight, eps, offset, weighted, added, has_rstd, cluster, block,
                 block_rows, programs, resident, stages)

  Grid grid() const { return {programs}; }

  void operator()() const {
    hints({.stages = stages, .cluster = cluster});
    RmsNormGradient<T>{dy,     sum,   dsum,     weight,   rstd,     dx,    dweight,   eps,
                       offset, added, weighted, has_rstd, resident, block, block_rows}();
  }
};

BITLOOM_REGISTER(FusedAddRmsNormBackward<f32>, FusedAddRmsNormBackward<f16>, FusedAddRmsNormBackward<bf16>)

} // namespace bitloom::kernels
