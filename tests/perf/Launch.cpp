// What a launch costs the host: ours beside cuLaunchKernelEx of the same function with the same parameters, and what a
// process waits for code that an earlier one compiled.
//
//   launch_bench LIBRARY/libnineteen.so
//
// Each figure is the least of many samples of some launches, between which the stream is emptied, so that no launch
// waits for room in its queue.
#include "bitloom/dsl/Call.h"
#include "bitloom/lib/runtime/Cuda.h"
#include "bitloom/lib/runtime/DeviceMemory.h"
#include "bitloom/lowering/Executable.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <memory>
#include <vector>

#include <dlfcn.h>

using namespace bitloom;

namespace {

struct LaunchAttribute { // CUlaunchAttribute
  int id, pad;
  union {
    char bytes[64];
    int value;
  };
};
struct LaunchConfig { // CUlaunchConfig
  unsigned grid[3], block[3], sharedBytes;
  void *stream;
  LaunchAttribute *attributes;
  unsigned attributeCount;
};
struct alignas(64) EncodedMap { // CUtensorMap
  char bytes[tensorMapBytes];
};

template <class F> F symbol(const char *name) {
  static void *driver = dlopen("libcuda.so.1", RTLD_NOW);
  return reinterpret_cast<F>(dlsym(driver, name));
}

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

template <class F> double microseconds(F &&launch) {
  constexpr int samples = 200, launches = 100;
  double least = 1e9;
  for (int sample = 0; sample < samples; ++sample) {
    cuda::synchronize();
    const double start = seconds();
    for (int i = 0; i < launches; ++i)
      launch();
    least = std::min(least, (seconds() - start) / launches);
  }
  cuda::synchronize();
  return least * 1e6;
}

// A call with memory for all its views.
struct Bound {
  Call call;
  std::vector<std::unique_ptr<DeviceMemory>> memory;

  Bound(const char *kernel, DType dtype, const std::map<std::string, int64_t> &sizes) : call(kernelNamed(kernel)) {
    const Device gpu{Device::Kind::Cuda, 0};
    call.chooseVariant(dtype);
    call.setSizes(sizes);
    call.resolve();
    for (const Call::Missing &view : call.missingViews()) {
      int64_t elements = 1;
      for (int64_t extent : view.extents)
        elements *= extent;
      memory.push_back(std::make_unique<DeviceMemory>(size_t(elements * bytesOf(view.dtype)), gpu));
      call.set(view.name, TensorRef(memory.back()->data(), view.dtype, view.extents, view.strides, gpu));
    }
  }
};

// The driver alone, with parameters that are ready.
class Raw {
public:
  Raw(const MachineCode &code, std::vector<int64_t> given, std::array<int64_t, 3> grid)
      : module(code.image), function(module.function(code.entry, unsigned(code.sharedBytes))), words(std::move(given)),
        maps(code.tensorMaps.size()) {
    using Encode = int (*)(void *, int, unsigned, const void *, const std::uint64_t *, const std::uint64_t *,
                           const unsigned *, const unsigned *, int, int, int, int);
    for (size_t i = 0; i < maps.size(); ++i) {
      const TensorMap map = code.tensorMaps[i].of(words);
      std::uint64_t extents[maxTensorMapRank], strides[maxTensorMapRank];
      unsigned box[maxTensorMapRank], steps[maxTensorMapRank];
      for (int d = 0; d < map.rank; ++d) {
        extents[d] = std::uint64_t(map.extents[d]);
        box[d] = unsigned(map.box[d]);
        steps[d] = 1;
        if (d)
          strides[d - 1] = std::uint64_t(map.strides[d]);
      }
      constexpr int bf16 = 9, swizzle128 = 3, promoteTo256 = 3;
      if (symbol<Encode>("cuTensorMapEncodeTiled")(&maps[i], bf16, unsigned(map.rank), map.address, extents, strides,
                                                   box, steps, 0, map.swizzle == 128 ? swizzle128 : 0, promoteTo256, 0))
        throw std::runtime_error("cuTensorMapEncodeTiled failed");
    }
    if (code.isPersistent)
      words.insert(words.end(), grid.begin(), grid.end());
    for (int64_t &word : words)
      parameters.push_back(&word);
    for (EncodedMap &map : maps)
      parameters.push_back(&map);
    const int64_t programs = grid[0] * grid[1] * grid[2];
    config.grid[0] = unsigned(code.isPersistent ? std::min<int64_t>(programs, cuda::deviceInfo(0).smCount) : programs);
    config.block[0] = unsigned(code.threadsPerProgram);
    config.sharedBytes = unsigned(code.sharedBytes);
    overlap.id = 6; // CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
    overlap.value = 1;
    config.attributes = &overlap;
    config.attributeCount = 1;
  }
  Raw(const Raw &) = delete;

  void launch() {
    if (driverLaunch(&config, function.handle, parameters.data(), nullptr))
      throw std::runtime_error("cuLaunchKernelEx failed");
  }

private:
  using Launch = int (*)(const void *, void *, void **, void **);
  Launch driverLaunch = symbol<Launch>("cuLaunchKernelEx");
  cuda::Module module;
  cuda::Function function;
  std::vector<int64_t> words;
  std::vector<EncodedMap> maps;
  std::vector<void *> parameters;
  LaunchAttribute overlap{};
  LaunchConfig config{{1, 1, 1}, {1, 1, 1}, 0, nullptr, nullptr, 0};
};

void measure(const char *name, Bound bound, const Target &target) {
  const double start = seconds();
  const PreparedCall prepared = bound.call.prepare(target);
  const double ready = seconds() - start;
  Raw raw(compile(bound.call.trace(), target), prepared.words, prepared.grid);
  std::vector<void *> data(bound.call.tensors().size());
  for (size_t i = 0; i < data.size(); ++i)
    data[i] = bound.call.tensors()[i] ? bound.call.tensors()[i]->data : nullptr;
  const double driver = microseconds([&] { raw.launch(); });
  const double ours = microseconds([&] {
    cuda::ContextScope scope(0);
    prepared.launchOn(data);
  });
  std::printf("%-24s cuLaunchKernelEx %6.2f us   ours %6.2f us   over it %6.2f us   code ready after %7.1f ms\n", name,
              driver, ours, ours - driver, ready * 1e3);
}

} // namespace

int main(int argc, char **argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: launch_bench LIBRARY/libnineteen.so\n");
    return 2;
  }
  try {
    loadKernels(argv[1]);
    cuda::ContextScope scope(0);
    const Target target = parseTarget("cuda");
    measure("nineteen arguments", Bound("nineteen", DType::f32, {{"n", 1}}), target);
    measure("rms_norm 1x128", Bound("rms_norm", DType::bf16, {{"rows", 1}, {"cols", 128}}), target);
    measure("matmul 128x128x64", Bound("matmul", DType::bf16, {{"m", 128}, {"n", 128}, {"k", 64}, {"b_transposed", 1}}),
            target);
  } catch (const std::exception &error) {
    std::fprintf(stderr, "launch_bench: %s\n", error.what());
    return 1;
  }
}
