#include "bitloom/lib/runtime/Tensor.h"

#include "bitloom/lib/support/Error.h"

#include <algorithm>

namespace bitloom {

std::string nameOf(Device device) {
  return device.kind == Device::Kind::Cpu ? "cpu" : "cuda:" + std::to_string(device.index);
}

Dims::Dims(std::span<const int64_t> values) {
  if (values.size() > size_t(maxRank))
    throw UserError("expected a tensor of at most " + std::to_string(maxRank) + " dimensions, got " +
                    std::to_string(values.size()));
  std::copy(values.begin(), values.end(), numbers.begin());
  count = int(values.size());
}

Dims contiguousStrides(const Dims &extents) {
  Dims strides = extents;
  int64_t stride = 1;
  for (int i = extents.size() - 1; i >= 0; --i) {
    strides[i] = stride;
    stride *= extents[i];
  }
  return strides;
}

static std::string listOf(const Dims &dims) {
  std::string text = "[";
  for (int i = 0; i < dims.size(); ++i)
    text += (i ? ", " : "") + std::to_string(dims[i]);
  return text + "]";
}

TensorRef::TensorRef(void *data, DType dtype, const Dims &extents, Device device)
    : TensorRef(data, dtype, extents, contiguousStrides(extents), device) {}

TensorRef::TensorRef(void *data, DType dtype, const Dims &extents, const Dims &strides, Device device)
    : data(data), dtype(dtype), extents(extents), strides(strides), device(device) {
  if (strides.size() != extents.size())
    throw UserError("expected " + std::to_string(extents.size()) + " strides for extents " + listOf(extents) +
                    ", got " + listOf(strides));
  for (int64_t extent : extents)
    if (extent < 0)
      throw UserError("expected extents of 0 or more, got " + listOf(extents));
}

int64_t TensorRef::elementCount() const {
  int64_t count = 1;
  for (int64_t extent : extents)
    count *= extent;
  return count;
}

bool TensorRef::contiguous() const {
  if (elementCount() == 0)
    return true;
  const Dims wanted = contiguousStrides(extents);
  for (int i = 0; i < rank(); ++i)
    if (extents[i] != 1 && strides[i] != wanted[i])
      return false;
  return true;
}

std::string TensorRef::describe() const {
  return std::string(nameOf(dtype)) + listOf(extents) + (contiguous() ? "" : " with strides " + listOf(strides)) +
         " on " + nameOf(device);
}

} // namespace bitloom
