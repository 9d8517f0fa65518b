// libcuda.so.1 without a GPU: what launches hand to the driver, for tests, and a driver that takes no time, for
// measurements of what comes before it. Memory is the host's; kernels do nothing.
#include "bitloom/tests/fake_cuda/Driver.h"

#include <cstdint>
#include <cstdlib>
#include <cstring>

using namespace bitloom::fake;

static Recorded recorded;
Recorded &bitloom::fake::driver() { return recorded; }

namespace {
void *const context = reinterpret_cast<void *>(0x10);
void *current = nullptr;
constexpr int sharedPerSm = 233472, reserved = 1024;

struct LaunchConfig { // CUlaunchConfig
  unsigned grid[3], block[3], sharedBytes;
  void *stream, *attributes;
  unsigned attributeCount;
};

void record(const unsigned *grid, unsigned sharedBytes, void *stream, void **parameters) {
  ++recorded.launches;
  for (int axis = 0; axis < 3; ++axis)
    recorded.grid[axis] = grid[axis];
  recorded.sharedBytes = sharedBytes;
  recorded.stream = stream;
  for (size_t i = 0; i < recorded.words.size(); ++i)
    std::memcpy(&recorded.words[i], parameters[i], sizeof(std::int64_t));
  for (size_t i = 0; i < recorded.maps.size(); ++i)
    std::memcpy(&recorded.maps[i], parameters[recorded.words.size() + i], sizeof recorded.maps[i]);
}
} // namespace

extern "C" {
int cuInit(unsigned) { return 0; }
int cuDriverGetVersion(int *version) { return *version = 13000, 0; }
int cuGetErrorName(int, const char **name) { return *name = "CUDA_ERROR_FAKE", 0; }
int cuGetErrorString(int, const char **text) { return *text = "of the fake driver", 0; }
int cuDeviceGetCount(int *count) { return *count = 1, 0; }
int cuDeviceGetName(char *name, int size, int) { return std::strncpy(name, "fake", size_t(size)), 0; }
int cuDeviceGetAttribute(int *value, int which, int) { // CUdevice_attribute, of an H200
  *value = which == 16    ? 132
           : which == 75  ? 9
           : which == 76  ? 0
           : which == 81  ? sharedPerSm
           : which == 97  ? sharedPerSm - reserved
           : which == 111 ? reserved
                          : 1 << 20;
  return 0;
}
int cuDeviceTotalMem_v2(size_t *bytes, int) { return *bytes = size_t{1} << 37, 0; }
int cuDevicePrimaryCtxRetain(void **made, int) { return *made = context, 0; }
int cuCtxGetCurrent(void **now) { return *now = current, 0; }
int cuCtxGetDevice(int *device) { return ++recorded.deviceQuestions, *device = 0, 0; }
int cuCtxPushCurrent_v2(void *now) { return current = now, 0; }
int cuCtxPopCurrent_v2(void **now) { return *now = current, current = nullptr, 0; }
int cuCtxSynchronize() { return 0; }
int cuModuleLoadDataEx(void **module, const void *, unsigned, int *, void **) {
  return *module = reinterpret_cast<void *>(0x20), 0;
}
int cuModuleUnload(void *) { return 0; }
int cuModuleGetFunction(void **function, void *, const char *) { return *function = reinterpret_cast<void *>(0x30), 0; }
int cuFuncGetAttribute(int *value, int, void *) { return *value = 32, 0; }
int cuFuncSetAttribute(void *, int, int) { return 0; }
// As if there were only shared memory to take.
int cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, void *, int, size_t sharedBytes) {
  return *blocks = sharedPerSm / (int(sharedBytes) + reserved), 0;
}
int cuOccupancyMaxActiveClusters(int *clusters, void *, const void *) { return *clusters = 30, 0; }
int cuLaunchKernel(void *, unsigned x, unsigned y, unsigned z, unsigned, unsigned, unsigned, unsigned sharedBytes,
                   void *stream, void **parameters, void **) {
  const unsigned grid[3] = {x, y, z};
  return record(grid, sharedBytes, stream, parameters), 0;
}
int cuLaunchKernelEx(const void *config, void *, void **parameters, void **) {
  auto *given = static_cast<const LaunchConfig *>(config);
  return record(given->grid, given->sharedBytes, given->stream, parameters), 0;
}
// Of a map only what tells tensors apart: the address and the extents.
int cuTensorMapEncodeTiled(void *map, int, unsigned rank, const void *address, const std::uint64_t *extents,
                           const std::uint64_t *, const unsigned *, const unsigned *, int, int, int, int) {
  ++recorded.encoded;
  FakeMap made{address, {}, {}};
  for (unsigned d = 0; d < rank; ++d)
    made.extents[d] = extents[d];
  return std::memcpy(map, &made, sizeof made), 0;
}
int cuMemAlloc_v2(std::uintptr_t *memory, size_t bytes) {
  return *memory = reinterpret_cast<std::uintptr_t>(std::aligned_alloc(256, (bytes + 255) & ~size_t{255})), 0;
}
int cuMemFree_v2(std::uintptr_t memory) { return std::free(reinterpret_cast<void *>(memory)), 0; }
int cuMemcpy(std::uintptr_t to, std::uintptr_t from, size_t bytes) {
  return std::memcpy(reinterpret_cast<void *>(to), reinterpret_cast<void *>(from), bytes), 0;
}
int cuMemcpyAsync(std::uintptr_t to, std::uintptr_t from, size_t bytes, void *) { return cuMemcpy(to, from, bytes); }
int cuMemsetD8Async(std::uintptr_t memory, unsigned char value, size_t bytes, void *) {
  return std::memset(reinterpret_cast<void *>(memory), value, bytes), 0;
}
int cuStreamSynchronize(void *) { return 0; }
int cuStreamIsCapturing(void *, int *status) { return *status = 0, 0; }
int cuEventCreate(void **event, unsigned) { return *event = nullptr, 0; }
int cuEventDestroy_v2(void *) { return 0; }
int cuEventRecord(void *, void *) { return 0; }
int cuEventSynchronize(void *) { return 0; }
int cuEventElapsedTime(float *milliseconds, void *, void *) { return *milliseconds = 0, 0; }
}
