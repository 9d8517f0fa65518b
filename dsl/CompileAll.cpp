#include "bitloom/dsl/CompileAll.h"

#include "bitloom/lowering/Executable.h"

#include <algorithm>
#include <atomic>
#include <thread>

namespace bitloom {

std::vector<CompiledCall> compileAll(const std::vector<Call> &calls, const Target &target, int threads) {
  std::vector<CompiledCall> compiled(calls.size());
  std::atomic<size_t> next = 0;
  auto work = [&] { // each program has an MLIR context of its own, so threads share nothing
    for (size_t i = next++; i < calls.size(); i = next++)
      try {
        compiled[i].code = std::make_shared<const MachineCode>(compileOrFind(calls[i].trace(), target));
      } catch (...) {
        compiled[i].error = std::current_exception();
      }
  };
  const size_t wanted = size_t(threads > 0 ? threads : std::max(1u, std::thread::hardware_concurrency()));
  std::vector<std::jthread> workers;
  for (size_t i = 1; i < std::min(wanted, calls.size()); ++i)
    workers.emplace_back(work);
  work();
  workers.clear(); // waits for them
  return compiled;
}

} // namespace bitloom
