#include "bitloom/lib/runtime/TensorMap.h"
#include "bitloom/lib/support/Error.h"

#include <gtest/gtest.h>

using namespace bitloom;

namespace {

// The map of a matrix of elements of 2 bytes.
TensorMap mapOf(int64_t rows, int64_t columns, int64_t stride) {
  const TensorMapRequest request = {0, 2, DType::bf16, {64, 16}, 128};
  const std::vector<int64_t> words = {0x7f0000000000, rows, columns, stride, 1};
  return request.of(words);
}

} // namespace

TEST(TensorMap, HasTheExtentsInnermostFirstAndStridesInBytes) {
  const TensorMap map = mapOf(17, 4097, 4104);
  EXPECT_EQ(map.extents[0], 4097);
  EXPECT_EQ(map.extents[1], 17);
  EXPECT_EQ(map.strides[1], 2 * 4104);
}

// The driver wants strides that are multiples of 16 bytes also of one row, and no extent of 0.
TEST(TensorMap, OfARowOrOfNothingIsOneThatTheDriverTakes) {
  EXPECT_EQ(mapOf(1, 4097, 4097).strides[1], 8208);
  EXPECT_EQ(mapOf(0, 64, 64).extents[1], 1);
  EXPECT_THROW(mapOf(1, int64_t{1} << 31, 1), UserError);
}
