// A tensor that someone else owns, as Python, the command line and C++ hand it to a launch.
#pragma once

#include "bitloom/lib/dtype/DType.h"

#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>

namespace bitloom {

constexpr int maxRank = 8;

struct Device {
  enum class Kind : std::uint8_t { Cpu, Cuda };
  Kind kind = Kind::Cpu;
  int index = 0; // among those of the kind; a CPU's is 0
  bool operator==(const Device &) const = default;
};
std::string nameOf(Device device); // "cpu", "cuda:1"

// Up to maxRank numbers, one a dimension, held in place: a launch allocates nothing.
class Dims {
public:
  Dims() = default;
  Dims(std::initializer_list<int64_t> values) : Dims(std::span(values.begin(), values.size())) {}
  explicit Dims(std::span<const int64_t> values); // UserError: more than maxRank
  int size() const { return count; }
  int64_t &operator[](int i) { return numbers[i]; }
  int64_t operator[](int i) const { return numbers[i]; }
  const int64_t *begin() const { return numbers.data(); }
  const int64_t *end() const { return numbers.data() + count; }
  bool operator==(const Dims &) const = default;

private:
  std::array<int64_t, maxRank> numbers{};
  int count = 0;
};

// Strides of rows in C order, in elements.
Dims contiguousStrides(const Dims &extents);

struct TensorRef {
  void *data = nullptr; // of element (0, …, 0)
  DType dtype = DType::f32;
  Dims extents; // elements
  Dims strides; // elements; may be 0 (broadcast) or negative; as many as extents
  Device device;

  TensorRef() = default;
  // In C order unless strides are given. UserError: an extent below 0, or as many strides as extents there are not.
  TensorRef(void *data, DType dtype, const Dims &extents, Device device = {});
  TensorRef(void *data, DType dtype, const Dims &extents, const Dims &strides, Device device = {});

  int rank() const { return extents.size(); }
  int64_t elementCount() const;
  int64_t byteSize() const { return elementCount() * bytesOf(dtype); } // of the elements, gaps between them left out
  bool contiguous() const; // in C order with no gaps; strides of extents 1 do not matter, nor any of an empty tensor
  std::string describe() const; // "f32[4, 17] on cpu", with strides where it is not contiguous
};

} // namespace bitloom
