// The calling convention of kernels: their arguments are one flat array of 64-bit words, the same for every target.
#pragma once

#include "bitloom/lib/runtime/Cuda.h"
#include "bitloom/lib/runtime/Tensor.h"

#include <array>
#include <cstdint>
#include <cstring>
#include <span>

namespace bitloom {

// A view of rank R takes 1 + 2R words: the pointer, R extents, R strides, both in elements. A scalar takes one, its
// bits in the low bytes and zeros above. InternalError: more than cuda::maxLaunchWords words.
class LaunchArguments {
public:
  void addView(const TensorRef &tensor);
  template <Element T> void addScalar(T value) {
    std::uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof value); // every target is little-endian
    addWord(int64_t(bits));
  }
  void addWord(int64_t word);

  std::span<const int64_t> words() const { return {storage.data(), count}; }
  void clear() { count = 0; }

private:
  std::array<int64_t, cuda::maxLaunchWords> storage;
  size_t count = 0;
};

// A kernel compiled for a CPU: runs the program ids of linear index begin to end - 1, where
// linear = x + grid[0] * (y + grid[1] * z).
using CpuKernel = void (*)(const int64_t *arguments, const int64_t grid[3], int64_t begin, int64_t end);

// Runs the whole grid over the pool of the process, at least `grain` program ids at a time, and returns when all are
// done. A grid with an extent of 0 runs nothing. UserError: an extent below 0, a grid of 2^63 ids or more, or an
// assertion of the kernel that fails, and then not all program ids have run.
void launchCpu(CpuKernel kernel, std::span<const int64_t> words, std::array<int64_t, 3> grid, int64_t grain = 1);

} // namespace bitloom
