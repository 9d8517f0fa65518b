// CUDA through the driver, libcuda.so.1, opened at the first use: a program with this in it starts on any machine.
// Handles are the driver's own (CUstream, CUcontext, …) as void *, so those of PyTorch can be passed as they are.
#pragma once

#include "bitloom/lib/runtime/TensorMap.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>

namespace bitloom::cuda {

// A call of the driver that failed; what() reads "cuModuleLoadData: CUDA_ERROR_INVALID_IMAGE: device kernel image is
// invalid", with the assembler's log after it where there is one.
class CudaError : public std::runtime_error {
public:
  CudaError(int code, const std::string &message) : std::runtime_error(message), result(code) {}
  int code() const { return result; } // CUresult

private:
  int result;
};

// Why there is no CUDA device here ("no CUDA device: libcuda.so.1 could not be opened (…)"); empty when there is one.
// Never throws. Every other function throws that text as a UserError when there is none.
const std::string &whyUnavailable();
inline bool available() { return whyUnavailable().empty(); }

int driverVersion(); // 1000 * major + 10 * minor, as cuDriverGetVersion
int deviceCount();   // 0 when there is none; does not throw

struct DeviceInfo {
  std::string name;
  int computeCapability = 0; // 10 * major + minor
  int smCount = 0;
  int maxSharedPerBlock = 0; // bytes, what a kernel can opt in to
  int sharedPerSm = 0;       // bytes, of which each block there takes reservedSharedPerBlock besides its own
  int reservedSharedPerBlock = 0;
  int64_t l2Bytes = 0;
  int64_t memoryBytes = 0;
  int memoryBusBits = 0;
  int memoryClockKhz = 0; // 0 where the driver does not say
};
const DeviceInfo &deviceInfo(int device); // UserError unless 0 <= device < deviceCount()

// The device of the calling thread's current context; 0 when it has none.
int currentDevice();

// Makes a context of `device` current on this thread while the scope lives: the current one when it is of that device,
// else the primary one, which the CUDA run-time, and so PyTorch, use too. -1 means currentDevice().
class ContextScope {
public:
  explicit ContextScope(int device = -1);
  ~ContextScope();
  ContextScope(const ContextScope &) = delete;
  ContextScope &operator=(const ContextScope &) = delete;
  void *context() const { return handle; } // CUcontext: modules and functions belong to one

private:
  void *handle = nullptr;
  bool pushed = false;
};

// What the compiler made of a function.
struct FunctionAttributes {
  int registers = 0;         // per thread
  int localBytes = 0;        // per thread: spills and indexed arrays
  int staticSharedBytes = 0; // per block
  int constantBytes = 0;
  int maxThreadsPerBlock = 0; // what the registers leave
};

// A kernel that is ready to launch; lives as long as its module.
struct Function {
  void *handle = nullptr; // CUfunction
  unsigned dynamicSharedBytes = 0;
  FunctionAttributes attributes() const;
  // Blocks of that many threads that fit on an SM at once.
  int residentBlocks(int threadsPerBlock) const;
  // The same code with so much more shared memory a block that at most that many, 1 or more, fit on an SM at once.
  Function withAtMost(int blocksPerSm) const;
  // Clusters of so many such blocks that fit on the device at once: fewer than the SMs would take singly, where its
  // parts hold no multiple of that many.
  int residentClusters(int threadsPerBlock, int blocksPerCluster) const;
};

// Code loaded into the context that is current (ContextScope).
class Module {
public:
  Module() = default;
  // A cubin, or PTX text, which the driver's own compiler takes. CudaError carries that compiler's log.
  explicit Module(std::string_view image);
  ~Module();
  Module(Module &&other) noexcept;
  Module &operator=(Module &&other) noexcept;

  // Throws CudaError when there is no such entry, or the device cannot give that much shared memory.
  Function function(const std::string &name, unsigned dynamicSharedBytes = 0) const;
  explicit operator bool() const { return handle; }

private:
  void *handle = nullptr, *context = nullptr;
};

struct Dim3 {
  unsigned x = 1, y = 1, z = 1;
};

struct LaunchOptions {
  Dim3 grid{};                  // blocks
  Dim3 block{};                 // threads
  Dim3 cluster{};               // blocks; the grid is a multiple of it
  bool overlapPrevious = false; // programmatic dependent launch: may start before the kernel ahead of it ends
  void *stream = nullptr;       // CUstream
};

constexpr size_t maxLaunchWords = 512; // 4 KiB of parameters
constexpr size_t maxLaunchMaps = 16;

// Queues the kernel with each word as one 8-byte parameter, and then each map as one of 128 bytes. InternalError: more
// than maxLaunchWords words or maxLaunchMaps maps. CudaError: a map that the copy engine cannot take.
void launch(const Function &function, std::span<const int64_t> words, const LaunchOptions &options,
            std::span<const TensorMap> maps = {});

// Device memory. Throw CudaError (CUDA_ERROR_OUT_OF_MEMORY, …); `free` of null does nothing.
void *allocate(size_t bytes);
void free(void *memory);
void copy(void *to, const void *from, size_t bytes); // between any of host and devices; returns when done
void copyAsync(void *to, const void *from, size_t bytes, void *stream);
void fill(void *memory, std::uint8_t value, size_t bytes, void *stream = nullptr); // queued on the stream

// Memory freed at the end of the scope.
class Buffer {
public:
  Buffer() = default;
  explicit Buffer(size_t bytes) : memory(bytes ? allocate(bytes) : nullptr), size(bytes) {}
  ~Buffer();
  Buffer(Buffer &&other) noexcept : memory(other.memory), size(other.size) {
    other.memory = nullptr;
    other.size = 0;
  }
  Buffer &operator=(Buffer &&other) noexcept;
  void *data() const { return memory; }
  size_t bytes() const { return size; }

private:
  void *memory = nullptr;
  size_t size = 0;
};

void synchronizeStream(void *stream);
bool isCapturing(void *stream); // into a graph, or unable to say because another stream is
void synchronize();             // the current context

// A point in a stream's order, for timing.
class Event {
public:
  Event();
  ~Event();
  Event(const Event &) = delete;
  Event &operator=(const Event &) = delete;
  void record(void *stream = nullptr);
  void synchronize() const;
  double millisecondsSince(const Event &earlier) const; // both reached; resolution about 0.5 µs

private:
  void *handle = nullptr;
};

} // namespace bitloom::cuda
