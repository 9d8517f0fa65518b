#include "bitloom/lib/runtime/TensorMap.h"

#include <gtest/gtest.h>

using namespace bitloom;

namespace {

// The map of a matrix of elements of 2 bytes.
TensorMap mapOf(std::uintptr_t address, int64_t rows, int64_t columns, int64_t stride, int ways) {
  const TensorMapRequest request = {0, 2, DType::bf16, {64, 16}, 128, ways};
  const std::vector<int64_t> words = {int64_t(address), rows, columns, stride, 1};
  return request.of(words);
}

} // namespace

// What the copy engine asks of a map holds of each, and every element is where its row's map says.
TEST(TensorMap, RowsThatStartAnywhereAreSeveralMaps) {
  for (int ways : {2, 4, 8})
    for (std::uintptr_t offset : {0, 1, 5})
      for (int64_t rows : {1, 3, 17, 4097}) {
        const int64_t unit = 8 / ways, columns = 199 * unit, stride = (columns / unit | 1) * unit; // in elements
        const std::uintptr_t address = 0x7f0000000000 + offset * std::uintptr_t(unit) * 2;
        const TensorMap map = mapOf(address, rows, columns, stride, ways);
        std::vector<int64_t> found(size_t(ways), 0);
        for (int64_t row = 0; row < rows; ++row) {
          const TensorMap part = map.way(int(row % ways));
          const std::uintptr_t first = address + std::uintptr_t(2 * row * stride);
          const int64_t beyond = int64_t(first % 16 / 2), line = row / ways;
          ASSERT_EQ(reinterpret_cast<std::uintptr_t>(part.address) % 16, 0u);
          ASSERT_EQ(part.strides[1] % 16, 0);
          ASSERT_EQ(reinterpret_cast<std::uintptr_t>(part.address) +
                        std::uintptr_t(line * part.strides[1] + 2 * beyond),
                    first);
          ASSERT_EQ(part.extents[0], columns + beyond);
          ASSERT_EQ(part.ways, 1);
          found[size_t(row % ways)] = part.extents[1];
        }
        for (int w = 0; w < ways && w < rows; ++w)
          EXPECT_EQ(found[size_t(w)], (rows - w + ways - 1) / ways);
        for (int w = int(rows); w < ways; ++w) // the driver takes no empty map
          EXPECT_EQ(map.way(w).extents[1], 1);
      }
}

TEST(TensorMap, OtherRowsAreOne) {
  const TensorMap map = mapOf(0x7f0000000000, 100, 64, 72, 1);
  EXPECT_EQ(map.way(0), map);
  EXPECT_EQ(map.strides[1], 144);
}
