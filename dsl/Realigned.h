// Calls on copies of views whose rows start anywhere.
//
// A GPU brings rows to its tensor cores in pieces of 16 bytes, from addresses that are multiples of 16: those of other
// rows, as of matrices with an odd number of 16-bit columns, go through registers one element at a time. A product of
// many such rows takes several times as long as a copy of its operands with aligned rows and the product of these. So a
// kernel's declaration may name views that it reads, and when they are worth a copy.
// The copies are in a workspace that a stream keeps (lib/runtime/Workspace.h).
#pragma once

#include "bitloom/dsl/Call.h"

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

namespace bitloom {

struct RealignedCall {
  struct Copy {
    size_t parameter; // whose view
    size_t at;        // where its copy is, in bytes from the workspace's start
  };
  struct Launch {
    std::vector<Copy> copies; // one or two
    PreparedCall call;
  };
  std::vector<Launch> before;
  PreparedCall call; // on the copies
  size_t bytes = 0;  // of all of them

  // On tensors whose addresses `data` has by parameter. False, and nothing is done, where there is no workspace.
  bool launchOn(std::span<void *const> data, void *stream) const;
};

// None where no view is worth it, or the copies take more than a GiB. The call is resolved, with every view bound.
std::shared_ptr<const RealignedCall> realigned(const Call &call, const Target &target);

// out = x and more_out = more_x, of matrices of 1, 2 or 4 bytes an element: what makes the copies. No kernel of the
// registry.
const KernelRow &copyRows();

} // namespace bitloom
