#include "bitloom/lib/runtime/Cuda.h"

#include "bitloom/lib/support/Error.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include <dlfcn.h>

namespace bitloom::cuda {

// ---------------------------------------------------------------------------------------------------- cuda.h, by hand

enum DeviceAttribute { // CUdevice_attribute
  SmCount = 16,
  MemoryClock = 36,
  MemoryBusWidth = 37,
  L2CacheSize = 38,
  ComputeCapabilityMajor = 75,
  ComputeCapabilityMinor = 76,
  SharedPerSm = 81,
  MaxSharedPerBlockOptin = 97,
  ReservedSharedPerBlock = 111,
};
enum FunctionAttribute { // CUfunction_attribute
  MaxThreadsPerBlock = 0,
  SharedBytes = 1,
  ConstantBytes = 2,
  LocalBytes = 3,
  Registers = 4,
  MaxDynamicSharedBytes = 8,
};
enum JitOption { ErrorLogBuffer = 5, ErrorLogBufferBytes = 6 };                 // CUjit_option
enum LaunchAttributeId { ClusterDimension = 4, ProgrammaticSerialization = 6 }; // CUlaunchAttributeID

struct LaunchAttribute { // CUlaunchAttribute
  int id;
  int pad;
  union {
    char bytes[64];
    unsigned cluster[3];
    int programmaticSerialization;
  };
};
struct LaunchConfig { // CUlaunchConfig
  unsigned grid[3], block[3], sharedBytes;
  void *stream;
  LaunchAttribute *attributes;
  unsigned attributeCount;
};
static_assert(sizeof(LaunchAttribute) == 72 && sizeof(LaunchConfig) == 56);

// --------------------------------------------------------------------------------------------------------- the driver

namespace {
struct Driver {
  std::string unavailable; // why, as whyUnavailable()
  int version = 0;
  std::vector<DeviceInfo> devices;

#define BITLOOM_CUDA(name, symbol, parameters) int(*name) parameters = nullptr;
#include "bitloom/lib/runtime/CudaDriver.def"
#undef BITLOOM_CUDA

  Driver();
  std::string describe(const char *call, int result) const;

private:
  void open();
  DeviceInfo query(int device);
};
} // namespace

// "cuInit: CUDA_ERROR_NO_DEVICE: no CUDA-capable device is detected"
std::string Driver::describe(const char *call, int result) const {
  const char *name = nullptr, *text = nullptr;
  if (cuGetErrorName)
    cuGetErrorName(result, &name);
  if (cuGetErrorString)
    cuGetErrorString(result, &text);
  return std::string(call) + ": " + (name ? name : "error " + std::to_string(result)) + (text ? ": " : "") +
         (text ? text : "");
}

Driver::Driver() {
  try {
    open();
  } catch (const std::exception &error) {
    unavailable = std::string("no CUDA device: ") + error.what();
    devices.clear();
  }
}

void Driver::open() {
  void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL); // never closed
  if (!library)
    throw std::runtime_error("libcuda.so.1 could not be opened (" + std::string(dlerror()) + ")");
#define BITLOOM_CUDA(name, symbol, parameters)                                                                         \
  name = reinterpret_cast<decltype(name)>(dlsym(library, #symbol));                                                    \
  if (!name)                                                                                                           \
    throw std::runtime_error("libcuda.so.1 has no " #symbol ": expected the driver of CUDA 12.0 or later");
#include "bitloom/lib/runtime/CudaDriver.def"
#undef BITLOOM_CUDA
  int count = 0;
  if (int result = cuInit(0))
    throw std::runtime_error(describe("cuInit", result));
  if (int result = cuDriverGetVersion(&version))
    throw std::runtime_error(describe("cuDriverGetVersion", result));
  if (int result = cuDeviceGetCount(&count))
    throw std::runtime_error(describe("cuDeviceGetCount", result));
  if (count == 0)
    throw std::runtime_error("the driver finds none");
  for (int device = 0; device < count; ++device)
    devices.push_back(query(device));
}

DeviceInfo Driver::query(int device) {
  auto check = [&](const char *call, int result) {
    if (result)
      throw std::runtime_error(describe(call, result));
  };
  auto attribute = [&](DeviceAttribute which) {
    int value = 0;
    check("cuDeviceGetAttribute", cuDeviceGetAttribute(&value, which, device));
    return value;
  };
  DeviceInfo info;
  char name[256] = "";
  size_t bytes = 0;
  check("cuDeviceGetName", cuDeviceGetName(name, sizeof name, device));
  check("cuDeviceTotalMem", cuDeviceTotalMem(&bytes, device));
  info.name = name;
  info.memoryBytes = int64_t(bytes);
  info.computeCapability = 10 * attribute(ComputeCapabilityMajor) + attribute(ComputeCapabilityMinor);
  info.smCount = attribute(SmCount);
  info.maxSharedPerBlock = attribute(MaxSharedPerBlockOptin);
  info.sharedPerSm = attribute(SharedPerSm);
  info.reservedSharedPerBlock = attribute(ReservedSharedPerBlock);
  info.l2Bytes = attribute(L2CacheSize);
  info.memoryBusBits = attribute(MemoryBusWidth);
  info.memoryClockKhz = attribute(MemoryClock);
  return info;
}

static const Driver &opened() {
  static const Driver driver;
  return driver;
}

static const Driver &driver() {
  const Driver &driver = opened();
  if (!driver.unavailable.empty())
    throw UserError(driver.unavailable);
  return driver;
}

[[noreturn]] static void fail(const char *call, int result, const std::string &detail = "") {
  throw CudaError(result, driver().describe(call, result) + (detail.empty() ? "" : "\n" + detail));
}

#define CHECK(call, ...)                                                                                               \
  if (int result = driver().call(__VA_ARGS__))                                                                         \
  fail(#call, result)

const std::string &whyUnavailable() { return opened().unavailable; }
int driverVersion() { return driver().version; }
int deviceCount() { return int(opened().devices.size()); }

const DeviceInfo &deviceInfo(int device) {
  const auto &devices = driver().devices;
  if (device < 0 || device >= int(devices.size()))
    throw UserError("expected a CUDA device from 0 to " + std::to_string(devices.size() - 1) + ", got " +
                    std::to_string(device));
  return devices[device];
}

// ----------------------------------------------------------------------------------------------------------- contexts

static void *currentContext() {
  void *context = nullptr;
  CHECK(cuCtxGetCurrent, &context);
  return context;
}

int currentDevice() {
  int device = 0; // the driver's devices count from 0 as ordinals do
  if (currentContext())
    CHECK(cuCtxGetDevice, &device);
  return device;
}

// The primary contexts that this process has retained, by device.
static std::vector<std::atomic<void *>> &retainedContexts() {
  static auto &contexts = *new std::vector<std::atomic<void *>>(size_t(deviceCount()));
  return contexts;
}

// Retained once a process and never released: PyTorch shares it, and modules outlive scopes.
static void *primaryContext(int device) {
  static std::mutex mutex;
  deviceInfo(device); // checks the number
  std::lock_guard<std::mutex> lock(mutex);
  void *context = retainedContexts()[device];
  if (!context) {
    CHECK(cuDevicePrimaryCtxRetain, &context, device);
    retainedContexts()[device] = context;
  }
  return context;
}

ContextScope::ContextScope(int device) {
  handle = currentContext();
  if (handle && device >= 0 && device < deviceCount() && handle == retainedContexts()[device])
    return; // as in most launches: no need to ask the driver whose it is
  if (handle) {
    int current = 0;
    CHECK(cuCtxGetDevice, &current);
    if (device == -1 || device == current)
      return;
  }
  handle = primaryContext(std::max(device, 0));
  CHECK(cuCtxPushCurrent, handle);
  pushed = true;
}

ContextScope::~ContextScope() {
  void *popped = nullptr;
  if (pushed)
    driver().cuCtxPopCurrent(&popped);
}

// ---------------------------------------------------------------------------------------------------- code and launch

Module::Module(std::string_view image) {
  context = currentContext();
  std::string text(image), log(8192, '\0'); // text ends in the zero byte that the driver wants after PTX
  int options[] = {ErrorLogBuffer, ErrorLogBufferBytes};
  void *values[] = {log.data(), reinterpret_cast<void *>(log.size())};
  if (int result = driver().cuModuleLoadDataEx(&handle, text.data(), 2, options, values))
    fail("cuModuleLoadDataEx", result, log.c_str());
}

Module::~Module() {
  if (!handle)
    return;
  // At exit the driver may be gone already and its memory with it: results do not matter.
  void *popped = nullptr;
  if (driver().cuCtxPushCurrent(context))
    return;
  driver().cuModuleUnload(handle);
  driver().cuCtxPopCurrent(&popped);
}

Module::Module(Module &&other) noexcept
    : handle(std::exchange(other.handle, nullptr)), context(std::exchange(other.context, nullptr)) {}

Module &Module::operator=(Module &&other) noexcept {
  std::swap(handle, other.handle);
  std::swap(context, other.context);
  return *this;
}

constexpr unsigned sharedWithoutOptin = 48 * 1024;

static void optIn(const Function &function, const std::string &whose) {
  if (function.dynamicSharedBytes <= sharedWithoutOptin)
    return;
  if (int result =
          driver().cuFuncSetAttribute(function.handle, MaxDynamicSharedBytes, int(function.dynamicSharedBytes)))
    fail("cuFuncSetAttribute", result,
         whose + " asks for " + std::to_string(function.dynamicSharedBytes) + " bytes of dynamic shared memory");
}

Function Module::function(const std::string &name, unsigned dynamicSharedBytes) const {
  Function function{.dynamicSharedBytes = dynamicSharedBytes};
  if (int result = driver().cuModuleGetFunction(&function.handle, handle, name.c_str()))
    fail("cuModuleGetFunction", result, "looking for '" + name + "'");
  optIn(function, "'" + name + "'");
  return function;
}

Function Function::withAtMost(int blocksPerSm) const {
  constexpr unsigned granule = 1024; // no less than any GPU's
  const DeviceInfo &device = deviceInfo(currentDevice());
  const int reserved = device.reservedSharedPerBlock;
  const unsigned tooMany = unsigned(std::max(0, device.sharedPerSm / (blocksPerSm + 1) - reserved));
  Function function = *this;
  function.dynamicSharedBytes = std::max(dynamicSharedBytes, (tooMany / granule + 1) * granule);
  optIn(function, "a launch with room");
  return function;
}

FunctionAttributes Function::attributes() const {
  auto attribute = [&](FunctionAttribute which) {
    int value = 0;
    CHECK(cuFuncGetAttribute, &value, which, handle);
    return value;
  };
  return {.registers = attribute(Registers),
          .localBytes = attribute(LocalBytes),
          .staticSharedBytes = attribute(SharedBytes),
          .constantBytes = attribute(ConstantBytes),
          .maxThreadsPerBlock = attribute(MaxThreadsPerBlock)};
}

int Function::residentBlocks(int threadsPerBlock) const {
  int blocks = 0;
  CHECK(cuOccupancyMaxActiveBlocksPerMultiprocessor, &blocks, handle, threadsPerBlock, dynamicSharedBytes);
  return blocks;
}

int Function::residentClusters(int threadsPerBlock, int blocksPerCluster) const {
  LaunchAttribute attribute = {};
  attribute.id = ClusterDimension;
  attribute.cluster[0] = unsigned(blocksPerCluster), attribute.cluster[1] = attribute.cluster[2] = 1;
  const LaunchConfig config = {{unsigned(blocksPerCluster), 1, 1},
                               {unsigned(threadsPerBlock), 1, 1},
                               dynamicSharedBytes,
                               nullptr,
                               &attribute,
                               1};
  int clusters = 0;
  CHECK(cuOccupancyMaxActiveClusters, &clusters, handle, &config);
  return clusters;
}

static std::uintptr_t address(const void *memory) { return reinterpret_cast<std::uintptr_t>(memory); }

namespace {
struct alignas(64) EncodedMap { // CUtensorMap
  char bytes[tensorMapBytes];
};
} // namespace

static int encodedType(DType dtype) { // CUtensorMapDataType
  switch (dtype) {
  case DType::u16:
  case DType::i16:
    return 1;
  case DType::u32:
    return 2;
  case DType::i32:
    return 3;
  case DType::u64:
    return 4;
  case DType::i64:
    return 5;
  case DType::f16:
    return 6;
  case DType::f32:
    return 7;
  case DType::f64:
    return 8;
  case DType::bf16:
    return 9;
  default:
    return 0; // bytes
  }
}

static void encode(EncodedMap &to, const TensorMap &map) {
  std::uint64_t extents[maxTensorMapRank], strides[maxTensorMapRank];
  unsigned box[maxTensorMapRank], steps[maxTensorMapRank];
  for (int d = 0; d < map.rank; ++d) {
    extents[d] = std::uint64_t(map.extents[d]);
    box[d] = unsigned(map.box[d]);
    steps[d] = 1;
    if (d)
      strides[d - 1] = std::uint64_t(map.strides[d]);
  }
  int swizzle = map.swizzle == 128 ? 3 : map.swizzle == 64 ? 2 : map.swizzle == 32 ? 1 : 0; // CUtensorMapSwizzle
  constexpr int noInterleave = 0, promoteTo256 = 3, zeros = 0;
  if (int result =
          driver().cuTensorMapEncodeTiled(&to, encodedType(map.dtype), unsigned(map.rank), map.address, extents,
                                          strides, box, steps, noInterleave, swizzle, promoteTo256, zeros))
    fail("cuTensorMapEncodeTiled", result, "of a view of rank " + std::to_string(map.rank));
}

// What encode() gives, kept for the launches to come, which mostly see the same few tensors: the driver takes some
// 100 ns to make one. Of two in one place the later stays.
static void encodeOnce(const TensorMap &map, EncodedMap &to) {
  struct Entry {
    TensorMap map;
    EncodedMap bytes;
  };
  constexpr size_t count = 128;
  static thread_local const auto kept = std::make_unique<std::array<Entry, count>>();
  std::uint64_t hash = std::uint64_t(address(map.address)) ^ std::uint64_t(map.box[0]) << 40;
  for (int d = 0; d < map.rank; ++d)
    hash = (hash ^ std::uint64_t(map.extents[d]) ^ std::uint64_t(map.box[d]) << 32) * 0x9e3779b97f4a7c15; // 2^64 / φ
  Entry &entry = (*kept)[hash >> 57];
  if (!map.rank || entry.map != map) {
    entry.map.rank = 0; // should encoding fail
    encode(entry.bytes, map);
    entry.map = map;
  }
  to = entry.bytes;
}

void launch(const Function &function, std::span<const int64_t> words, const LaunchOptions &options,
            std::span<const TensorMap> maps) {
  if (words.size() > maxLaunchWords || maps.size() > maxLaunchMaps)
    throw InternalError("expected at most " + std::to_string(maxLaunchWords) + " words of kernel arguments and " +
                        std::to_string(maxLaunchMaps) + " tensor maps, got " + std::to_string(words.size()) + " and " +
                        std::to_string(maps.size()));
  void *parameters[maxLaunchWords + maxLaunchMaps];
  for (size_t i = 0; i < words.size(); ++i)
    parameters[i] = const_cast<int64_t *>(&words[i]);
  EncodedMap encoded[maxLaunchMaps];
  for (size_t i = 0; i < maps.size(); ++i) {
    encodeOnce(maps[i], encoded[i]);
    parameters[words.size() + i] = &encoded[i];
  }

  const auto &[grid, block, cluster, overlapPrevious, stream] = options;
  const bool clustered = cluster.x * cluster.y * cluster.z > 1;
  if (!clustered && !overlapPrevious) {
    CHECK(cuLaunchKernel, function.handle, grid.x, grid.y, grid.z, block.x, block.y, block.z,
          function.dynamicSharedBytes, stream, parameters, nullptr);
    return;
  }
  LaunchAttribute attributes[2] = {};
  unsigned count = 0;
  if (clustered) {
    attributes[count].id = ClusterDimension;
    attributes[count].cluster[0] = cluster.x;
    attributes[count].cluster[1] = cluster.y;
    attributes[count++].cluster[2] = cluster.z;
  }
  if (overlapPrevious) {
    attributes[count].id = ProgrammaticSerialization;
    attributes[count++].programmaticSerialization = 1;
  }
  LaunchConfig config = {
      {grid.x, grid.y, grid.z}, {block.x, block.y, block.z}, function.dynamicSharedBytes, stream, attributes, count};
  CHECK(cuLaunchKernelEx, &config, function.handle, parameters, nullptr);
}

// --------------------------------------------------------------------------------------------------- memory and events

void *allocate(size_t bytes) {
  std::uintptr_t memory = 0;
  if (int result = driver().cuMemAlloc(&memory, bytes))
    fail("cuMemAlloc", result, "asking for " + std::to_string(bytes) + " bytes");
  return reinterpret_cast<void *>(memory);
}

void free(void *memory) {
  if (memory)
    CHECK(cuMemFree, address(memory));
}

Buffer::~Buffer() {
  if (memory)
    driver().cuMemFree(address(memory));
}

Buffer &Buffer::operator=(Buffer &&other) noexcept {
  std::swap(memory, other.memory);
  std::swap(size, other.size);
  return *this;
}

void copy(void *to, const void *from, size_t bytes) {
  if (bytes)
    CHECK(cuMemcpy, address(to), address(from), bytes);
}

void copyAsync(void *to, const void *from, size_t bytes, void *stream) {
  if (bytes)
    CHECK(cuMemcpyAsync, address(to), address(from), bytes, stream);
}

void fill(void *memory, std::uint8_t value, size_t bytes, void *stream) {
  if (bytes)
    CHECK(cuMemsetD8Async, address(memory), value, bytes, stream);
}

void synchronizeStream(void *stream) { CHECK(cuStreamSynchronize, stream); }
bool isCapturing(void *stream) {
  int status = 0; // CUstreamCaptureStatus: none
  return driver().cuStreamIsCapturing(stream, &status) || status;
}
void synchronize() { CHECK(cuCtxSynchronize); }

Event::Event() { CHECK(cuEventCreate, &handle, 0); }
Event::~Event() { driver().cuEventDestroy(handle); }
void Event::record(void *stream) { CHECK(cuEventRecord, handle, stream); }
void Event::synchronize() const { CHECK(cuEventSynchronize, handle); }

double Event::millisecondsSince(const Event &earlier) const {
  float milliseconds = 0;
  CHECK(cuEventElapsedTime, &milliseconds, earlier.handle, handle);
  return milliseconds;
}

} // namespace bitloom::cuda
