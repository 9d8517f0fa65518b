#include "bitloom/dsl/Example.h"
#include "bitloom/lib/runtime/Cuda.h"
#include "bitloom/lib/runtime/ThreadPool.h"
#include "bitloom/lowering/Executable.h"
#include "bitloom/tools/Commands.h"
#include "bitloom/tools/KernelChoice.h"
#include "bitloom/tools/Table.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>

namespace bitloom::tools {

namespace {

double median(std::vector<double> times) {
  std::ranges::nth_element(times, times.begin() + ptrdiff_t(times.size() / 2));
  return times[times.size() / 2];
}

// Milliseconds of each of `runs` calls, after one that is not counted.
std::vector<double> timed(Device device, int64_t runs, const std::function<void()> &work) {
  std::vector<double> times;
  if (device.kind == Device::Kind::Cuda) {
    cuda::Event before, after;
    for (int64_t i = -1; i < runs; ++i) {
      before.record();
      work();
      after.record();
      after.synchronize();
      if (i >= 0)
        times.push_back(after.millisecondsSince(before));
    }
    return times;
  }
  using Clock = std::chrono::steady_clock;
  for (int64_t i = -1; i < runs; ++i) {
    auto before = Clock::now();
    work();
    if (i >= 0)
      times.push_back(std::chrono::duration<double, std::milli>(Clock::now() - before).count());
  }
  return times;
}

// Milliseconds of a plain copy that reads and writes `bytes` in all, by what runs the kernel.
double copyTime(Device device, int64_t bytes, int64_t runs) {
  const auto half = size_t(std::max<int64_t>(bytes / 2, 1));
  DeviceMemory from(half, device), to(half, device);
  std::vector<std::byte> image(half, std::byte{1});
  from.write(0, image.data(), half);
  return median(timed(device, runs, [&] {
    if (device.kind == Device::Kind::Cuda)
      return cuda::copyAsync(to.data(), from.data(), half, nullptr);
    constexpr int64_t grain = 1 << 16;
    parallelFor(int64_t(half), grain, [&](int64_t begin, int64_t end) {
      std::memcpy(to.data() + begin, from.data() + begin, size_t(end - begin));
    });
  }));
}

} // namespace

static int runBench(const Arguments &arguments) {
  const KernelRow &kernel = kernelOf(arguments.operands()[0]);
  const int64_t runs = arguments.number("--runs", 20, 1, 100000);
  const std::vector<NamedTarget> targets = targetsOf(arguments);
  std::vector<std::string> cases = kernel.benchmarks.empty() ? std::vector<std::string>{""} : kernel.benchmarks;
  std::vector<std::vector<std::string>> rows = {
      {"kernel", "dtype", "sizes", "target", "ms", "MB", "GB/s", "copy ms", "copy GB/s", "of copy"}};
  std::string json;
  for (const auto &[targetName, target] : targets) {
    const Device device = deviceOf(target);
    DeviceScope scope(device);
    for (size_t variant : variantsOf(kernel, arguments))
      for (const std::string &sizes : cases) {
        Call call = callOf(kernel, variant, sizes, arguments);
        Example example(call, 0, device);
        explainIfAsked(arguments, call, target);
        const double ms = median(timed(device, runs, [&] { call.launch(target, nullptr); }));
        const int64_t bytes = call.minimalBytes();
        const double copyMs = copyTime(device, bytes, runs);
        const double perSecond = double(bytes) / ms / 1e6, copied = double(bytes) / copyMs / 1e6;
        const std::string text = sizesText(call, sizes, arguments), dtype = nameOf(kernel, variant);
        rows.push_back({kernel.name, dtype, text, targetName, fixed(ms, 4), fixed(double(bytes) / 1e6, 1),
                        fixed(perSecond, 1), fixed(copyMs, 4), fixed(copied, 1),
                        fixed(100 * perSecond / copied, 0) + " %"});
        char line[512];
        std::snprintf(line, sizeof line,
                      "{\"kernel\": %s, \"dtype\": %s, \"sizes\": %s, \"target\": %s, \"ms\": %.6f, \"bytes\": %lld, "
                      "\"copy_ms\": %.6f}",
                      jsonString(kernel.name).c_str(), jsonString(dtype).c_str(), jsonString(text).c_str(),
                      jsonString(targetName).c_str(), ms, (long long)bytes, copyMs);
        json += (json.empty() ? "" : ",\n ") + std::string(line);
      }
  }
  if (arguments.has("--json"))
    std::printf("[%s]\n", json.c_str());
  else
    std::fputs(tableOf(rows).c_str(), stdout);
  return 0;
}

static std::string helpText() {
  return std::string(kernelHelp) +
         "\nTimes the kernel on random tensors of the sizes that it is measured with, or those of --set, and beside it "
         "a\n"
         "plain copy of as many bytes by the same threads or device: what memory allows. MB are those of the tensors,\n"
         "each read or written once, the least that any kernel must move; where they fit a cache, both columns show "
         "the\n"
         "cache. Times are medians. On the host as many threads run as $BITLOOM_NUM_THREADS says, else all.\n";
}

const Command benchCommand = {
    .name = "bench",
    .operands = "KERNEL",
    .leastOperands = 1,
    .mostOperands = 1,
    .summary = "time a kernel beside a plain copy of its bytes",
    .description = helpText(),
    .options = {targetOption(),
                dtypeOption(),
                setOption(),
                verboseOption(),
                {"--runs", "NUMBER", "how often to run it; 20 without it"},
                {"--json", "", "the same as JSON"}},
    .run = runBench,
};

} // namespace bitloom::tools
