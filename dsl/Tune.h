// Searching for the configuration that runs fastest.
#pragma once

#include "bitloom/dsl/Call.h"

#include <functional>
#include <map>
#include <string>

namespace bitloom {

struct TuneOptions {
  int rounds = 5;  // that each configuration is timed in; the least counts
  int threads = 0; // that compile at a time; 0: one a processor
  // Told what was done: how many configurations are timed, the best so far and, at its start, the default.
  std::function<void(size_t timed, double best, double usual)> progress{};
};

struct Tuned {
  TunedKey key;
  TunedConfiguration configuration; // of all tunable Meta parameters, perhaps the default
  size_t timed = 0, refused = 0;    // configurations; refused: such as do not fit the target
};

// From the kernel's default one tunable Meta parameter at a time is changed for the best of its values, until none is
// better by 2 %. What runs are calls on made-up tensors (dsl/Example.h) of these sizes (names of extents, and Meta
// parameters that are not tunable) on `device`, in turn on so many that caches hold none of them where memory allows.
// UserError: a kernel without tunable parameters, a size that is one, sizes as Call::resolve has it.
Tuned tune(const KernelRow &kernel, size_t variant, const Target &target, Device device,
           const std::map<std::string, int64_t> &sizes, const TuneOptions &options = {});

} // namespace bitloom
