// A window on a tensor that the copy engine of sm_90 moves box by box between global and shared memory: what the driver
// encodes as a CUtensorMap. Kernels take one as a 128-byte parameter after their words.
#pragma once

#include "bitloom/lib/dtype/DType.h"

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace bitloom {

constexpr int maxTensorMapRank = 5;
constexpr int tensorMapBytes = 128; // of a CUtensorMap, a kernel's parameter aligned to 64

// How the 16-byte pieces of each row of a box are permuted in shared memory: piece p of the 128-byte line l lies at
// p ^ (l mod bytes/16 …) as the PTX manual's "swizzling modes" say; `bytes` is 0 (none), 32, 64 or 128.
using SwizzleBytes = int;

// Dim 0 is the innermost one, of stride 1 element. The copy engine moves pieces of 16 bytes: boxes may only start at
// multiples of that along dim 0, any other start is an illegal instruction.
struct TensorMap {
  const void *address = nullptr; // a multiple of 16 bytes
  DType dtype{};
  int rank = 0;
  std::array<int64_t, maxTensorMapRank> extents{}; // elements, at least 1
  std::array<int64_t, maxTensorMapRank> strides{}; // bytes, multiples of 16 but for dim 0's
  std::array<int32_t, maxTensorMapRank> box{};     // elements, 1 to 256; box[0] elements are at most `swizzle` bytes
  SwizzleBytes swizzle = 0;
  bool operator==(const TensorMap &) const = default;
};

// What compiled code wants of one: a view among its words, and the box.
struct TensorMapRequest {
  int word = 0; // the view's pointer among the kernel's words; its extents and strides follow, outermost dim first
  int rank = 0;
  DType dtype{};
  std::vector<int32_t> box; // elements, innermost dim first
  SwizzleBytes swizzle = 0;
  bool operator==(const TensorMapRequest &) const = default;

  // Of the view in a launch's words. UserError: an extent of 2^31 or more.
  TensorMap of(std::span<const int64_t> words) const;
};

} // namespace bitloom
