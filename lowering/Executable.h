// Machine code, loaded and ready to launch.
#pragma once

#include "bitloom/lowering/Pipeline.h"

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

namespace bitloom {

class Executable {
public:
  // Loads code for a target that runs on this machine: through ORC on the CPU, through the driver on a GPU (in the
  // current CUDA context). Throws UserError when the machine cannot run the target.
  static std::shared_ptr<Executable> load(const MachineCode &code, const Target &target);
  virtual ~Executable() = default;

  // Runs the whole grid. `words` by the calling convention of lib/runtime/Launch.h. On a CPU it returns when all is
  // done, having spread the grid over the thread pool, at least `grain` programs to a thread; on a GPU it enqueues on
  // `stream` (a CUstream) and returns.
  virtual void launch(std::span<const int64_t> words, std::array<int64_t, 3> grid, void *stream = nullptr,
                      int64_t grain = 1) = 0;
};

// Compiles, or takes the machine code from the disk cache, and loads it.
std::shared_ptr<Executable> build(const Program &program, const Target &target);

// The machine code alone, from the disk cache or compiled and put there. Of what the disk cache has, MachineCode's
// costs are not known.
MachineCode compileOrFind(const Program &program, const Target &target);

// As build, of the program that `trace` makes, which is not asked for where the disk cache has what an earlier process
// built. `request` determines the program: it names the kernel, the build of the library that has its code, and all
// that the tracing depends on.
std::shared_ptr<Executable> build(const std::string &request, const std::function<Program()> &trace,
                                  const Target &target);

} // namespace bitloom
