#include "bitloom/lib/runtime/Launch.h"

#include "bitloom/lib/runtime/Hooks.h"
#include "bitloom/lib/runtime/ThreadPool.h"
#include "bitloom/lib/support/Error.h"

#include <bit>
#include <string>

namespace bitloom {

static_assert(std::endian::native == std::endian::little, "scalars lie in the low bytes of their words");

void LaunchArguments::addWord(int64_t word) {
  if (count == storage.size())
    throw InternalError("expected at most " + std::to_string(storage.size()) + " words of kernel arguments");
  storage[count++] = word;
}

void LaunchArguments::addView(const TensorRef &tensor) {
  addWord(int64_t(reinterpret_cast<std::intptr_t>(tensor.data)));
  for (int64_t extent : tensor.extents)
    addWord(extent);
  for (int64_t stride : tensor.strides)
    addWord(stride);
}

void launchCpu(CpuKernel kernel, std::span<const int64_t> words, std::array<int64_t, 3> grid, int64_t grain) {
  int64_t total = 1;
  bool empty = false, overflow = false;
  for (int64_t extent : grid) {
    if (extent < 0)
      throw UserError("expected a grid with extents of 0 or more, got " + std::to_string(extent));
    empty |= extent == 0;
    overflow |= __builtin_mul_overflow(total, extent, &total);
  }
  if (empty)
    return;
  if (overflow)
    throw UserError("expected a grid of less than 2^63 program ids, got " + std::to_string(grid[0]) + " x " +
                    std::to_string(grid[1]) + " x " + std::to_string(grid[2]));
  LaunchFailure failure;
  parallelFor(total, grain, [&](int64_t begin, int64_t end) {
    if (failure.any())
      return;
    AssertScope scope(failure);
    kernel(words.data(), grid.data(), begin, end);
  });
  failure.raise();
}

} // namespace bitloom
