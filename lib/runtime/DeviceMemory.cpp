#include "bitloom/lib/runtime/DeviceMemory.h"

#include "bitloom/lib/support/Error.h"

#include <cstring>

namespace bitloom {

DeviceMemory::DeviceMemory(size_t bytes, Device device) : where(device), size(bytes) {
  if (device.kind == Device::Kind::Cpu) {
    host.reset(static_cast<std::byte *>(::operator new[](bytes, std::align_val_t(alignment))));
    return;
  }
  DeviceScope scope(device);
  remote = cuda::Buffer(bytes);
}

void DeviceMemory::check(size_t offset, size_t bytes) const {
  if (offset > size || bytes > size - offset)
    throw InternalError("device memory of " + std::to_string(size) + " bytes, accessed at " + std::to_string(offset) +
                        " for " + std::to_string(bytes));
}

void DeviceMemory::write(size_t offset, const void *from, size_t bytes) {
  check(offset, bytes);
  if (bytes == 0)
    return;
  if (host) {
    std::memcpy(data() + offset, from, bytes);
    return;
  }
  DeviceScope scope(where);
  cuda::copy(data() + offset, from, bytes);
}

void DeviceMemory::read(void *to, size_t offset, size_t bytes) const {
  check(offset, bytes);
  if (bytes == 0)
    return;
  if (host) {
    std::memcpy(to, data() + offset, bytes);
    return;
  }
  DeviceScope scope(where);
  cuda::copy(to, data() + offset, bytes);
}

} // namespace bitloom
