#include "bitloom/dsl/Tune.h"

#include "bitloom/dsl/CompileAll.h"
#include "bitloom/dsl/Example.h"
#include "bitloom/lib/runtime/Cuda.h"
#include "bitloom/lib/support/Suggest.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <deque>
#include <limits>

namespace bitloom {

namespace {

using Metas = std::map<std::string, int64_t>;
constexpr double never = std::numeric_limits<double>::infinity();

class Search {
public:
  Search(const KernelRow &kernel, size_t variant, const Target &target, Device device,
         const std::map<std::string, int64_t> &sizes, const TuneOptions &options)
      : kernel(kernel), variant(variant), target(target), device(device), sizes(sizes), options(options) {
    Call usual = call();
    usual.ignoreTuned();
    usual.resolve();
    result.key = usual.tunedKey();
    for (const Tunable &tunable : kernel.tunables)
      start[tunable.meta] = usual.names().at(tunable.meta);
    makeTensors(usual);
  }

  Tuned run() {
    time({start});
    const double usual = times.at(start);
    if (usual == never)
      throw UserError(kernel.name + ": expected its default configuration to run on " + target.name);
    Metas best = start;
    report(usual, usual);
    for (bool better = true; better;) {
      better = false;
      for (const Tunable &tunable : kernel.tunables) {
        std::vector<Metas> others;
        for (int64_t value : tunable.values)
          if (value != best.at(tunable.meta)) {
            others.push_back(best);
            others.back()[tunable.meta] = value;
          }
        time(others);
        for (const Metas &other : others)
          if (times.at(other) < 0.98 * times.at(best))
            best = other, better = true;
        report(times.at(best), usual);
      }
    }
    result.configuration = {best, times.at(best), usual};
    return result;
  }

private:
  Call call() const {
    Call call(kernel);
    call.chooseVariant(variant);
    call.tuneFor(target);
    call.setSizes(sizes);
    return call;
  }

  // Sets of tensors that are used in turn: together larger than a last-level cache, if that takes few.
  void makeTensors(const Call &usual) {
    constexpr int64_t wanted = 256 << 20, most = 16;
    Call first = usual;
    examples.emplace_back(first, 0, device);
    bound.push_back(first.tensors());
    const int64_t bytes = std::max<int64_t>(first.minimalBytes(), 1);
    const int64_t sets = device.kind == Device::Kind::Cuda ? std::clamp<int64_t>(wanted / bytes, 1, most) : 1;
    for (int64_t i = 1; i < sets; ++i) {
      Call next = usual;
      examples.emplace_back(next, 0, device);
      bound.push_back(next.tensors());
    }
  }

  // The configuration's call on one of the sets.
  Call callOf(const Metas &metas, size_t set) const {
    Call one = call();
    for (size_t i = 0; i < bound[set].size(); ++i)
      if (bound[set][i])
        one.set(kernel.variants[variant].parameters[i].name, *bound[set][i]);
    one.setSizes(metas);
    one.resolve();
    return one;
  }

  // Compiles what was not timed yet, many at a time, and times one after the other.
  void time(const std::vector<Metas> &configurations) {
    std::vector<Metas> fresh;
    std::vector<Call> calls;
    for (const Metas &metas : configurations) {
      if (times.contains(metas))
        continue;
      times[metas] = never;
      try {
        calls.push_back(callOf(metas, 0));
        fresh.push_back(metas);
      } catch (const UserError &) {
        ++result.refused;
      }
    }
    const std::vector<CompiledCall> compiled = compileAll(calls, target, options.threads);
    for (size_t i = 0; i < fresh.size(); ++i)
      try {
        if (compiled[i].error) {
          ++result.refused;
          continue;
        }
        times[fresh[i]] = timeOf(fresh[i]);
        ++result.timed;
      } catch (const UserError &) { // the device has not what it needs
        ++result.refused;
      }
  }

  // Milliseconds of a call: the least of several rounds, each of so many that it takes about 4 ms.
  double timeOf(const Metas &metas) const {
    std::vector<PreparedCall> prepared;
    for (size_t set = 0; set < bound.size(); ++set)
      prepared.push_back(callOf(metas, set).prepare(target));
    size_t next = 0;
    auto round = [&](int64_t calls) {
      auto launch = [&] {
        for (int64_t i = 0; i < calls; ++i)
          prepared[next++ % prepared.size()].launch();
      };
      if (device.kind == Device::Kind::Cuda) {
        cuda::Event before, after;
        before.record();
        launch();
        after.record();
        after.synchronize();
        return after.millisecondsSince(before) / double(calls);
      }
      const auto before = std::chrono::steady_clock::now();
      launch();
      const std::chrono::duration<double, std::milli> passed = std::chrono::steady_clock::now() - before;
      return passed.count() / double(calls);
    };
    round(1);
    const double once = std::max(round(1), 1e-4);
    const auto calls = int64_t(std::clamp(4.0 / once, 1.0, 200.0));
    double least = never;
    for (int i = 0; i < std::max(options.rounds, 1); ++i)
      least = std::min(least, round(calls));
    return least;
  }

  void report(double best, double usual) const {
    if (options.progress)
      options.progress(result.timed, best, usual);
  }

  const KernelRow &kernel;
  size_t variant;
  const Target &target;
  Device device;
  const std::map<std::string, int64_t> &sizes;
  const TuneOptions &options;
  Metas start;
  std::deque<Example> examples; // hold the memory of
  std::vector<std::vector<std::optional<TensorRef>>> bound;
  std::map<Metas, double> times; // infinite: refused
  Tuned result;
};

} // namespace

Tuned tune(const KernelRow &kernel, size_t variant, const Target &target, Device device,
           const std::map<std::string, int64_t> &sizes, const TuneOptions &options) {
  if (kernel.tunables.empty())
    throw UserError(kernel.name + ": expected a kernel with parameters to tune, got one without");
  for (const Tunable &tunable : kernel.tunables)
    if (sizes.contains(tunable.meta))
      throw UserError(kernel.name + ": argument " + tunable.meta + ": expected none, since it is tuned, got " +
                      std::to_string(sizes.at(tunable.meta)));
  DeviceScope scope(device);
  return Search(kernel, variant, target, device, sizes, options).run();
}

} // namespace bitloom
