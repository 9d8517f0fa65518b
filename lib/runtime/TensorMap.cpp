#include "bitloom/lib/runtime/TensorMap.h"

#include "bitloom/lib/support/Error.h"

#include <algorithm>

namespace bitloom {

TensorMap TensorMapRequest::of(std::span<const int64_t> words) const {
  constexpr int64_t alignment = 16;
  TensorMap map{reinterpret_cast<const void *>(words[word]), dtype, rank, {}, {}, {}, swizzle};
  const int64_t *extents = &words[word + 1], *strides = extents + rank;
  for (int d = 0; d < rank; ++d) {
    const int64_t extent = extents[rank - 1 - d];
    if (extent >= int64_t{1} << 31)
      throw UserError("expected extents below 2^31 in a view that the copy engine reads, got " +
                      std::to_string(extent));
    map.extents[d] = std::max<int64_t>(extent, 1); // of an empty view nothing is copied
    map.strides[d] = (d ? strides[rank - 1 - d] : 1) * bytesOf(dtype);
    if (d && extent <= 1) // any will do, and the given one may be none that the copy engine takes
      map.strides[d] = (map.strides[d - 1] * map.extents[d - 1] + alignment - 1) / alignment * alignment;
    map.box[d] = box[d];
  }
  return map;
}

} // namespace bitloom
