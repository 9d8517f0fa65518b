// Memory on a device of any kind, for what makes tensors of its own: examples, tests, benchmarks.
#pragma once

#include "bitloom/lib/runtime/Cuda.h"
#include "bitloom/lib/runtime/Tensor.h"

#include <cstddef>
#include <memory>
#include <new>
#include <optional>

namespace bitloom {

// Makes `device` the calling thread's while the scope lives: its context, on a GPU. UserError: there is none.
class DeviceScope {
public:
  explicit DeviceScope(Device device) {
    if (device.kind == Device::Kind::Cuda)
      context.emplace(device.index);
  }

private:
  std::optional<cuda::ContextScope> context;
};

// Bytes freed at the end of the scope, at an address that is a multiple of `alignment`; what they hold at first is not
// said. UserError: no such device. std::bad_alloc, cuda::CudaError: no room.
class DeviceMemory {
public:
  static constexpr size_t alignment = 256;

  DeviceMemory() = default;
  DeviceMemory(size_t bytes, Device device);
  std::byte *data() const { return host ? host.get() : static_cast<std::byte *>(remote.data()); }
  size_t bytes() const { return size; }
  Device device() const { return where; }

  // Between the host and [offset, offset + bytes); done on return. InternalError: outside the memory.
  void write(size_t offset, const void *from, size_t bytes);
  void read(void *to, size_t offset, size_t bytes) const;

private:
  void check(size_t offset, size_t bytes) const;

  struct Free {
    void operator()(std::byte *bytes) const { ::operator delete[](bytes, std::align_val_t(alignment)); }
  };
  std::unique_ptr<std::byte[], Free> host;
  cuda::Buffer remote;
  Device where;
  size_t size = 0;
};

} // namespace bitloom
