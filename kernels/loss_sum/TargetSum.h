// What target_scale and target_weight_scale share.
#pragma once

#include "bitloom/dsl/Kernel.h"

namespace bitloom::kernels {

// What a mean over targets multiplies by: one over the sum of what valueOf(classes) gives for those that count, 0 where
// none does. It stays on the device, where the loss's kernel takes it from.
template <class ValueOf>
void writeTargetScale(const View<const i64, 1> &target, const View<f32, 1> &out, const Scalar<i64> &ignored, int block,
                      ValueOf valueOf) {
  auto total = zeros<f32>({block});
  for (auto first : range(0, target.extent(0), block)) {
    auto here = span(first, block);
    auto classes = target(here);
    auto counts = (classes != ignored) & (here.indices() < target.extent(0));
    total = total + where(counts, valueOf(classes), 0.0f);
  }
  auto all = sum(total, 0);
  out(0) = where(all > 0.0f, 1.0f / all, 0.0f);
}

inline constexpr auto targetBlock = "min(next_pow2(max(rows, 1)), 4096)";

} // namespace bitloom::kernels
