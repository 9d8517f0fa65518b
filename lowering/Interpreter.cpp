#include "bitloom/lowering/Interpreter.h"

#include "bitloom/lib/runtime/ThreadPool.h"
#include "bitloom/lib/support/Error.h"
#include "bitloom/lowering/Diagnostics.h"
#include "bitloom/lowering/dialect/Tile.h"
#include "bitloom/lowering/interpreter/Compiler.h"

#include "mlir/IR/BuiltinOps.h"

#include <mutex>

using namespace mlir;

namespace bitloom {

static func::FuncOp kernelOf(const Program &program) {
  std::string name = program.kernelName();
  auto kernel = program.module().lookupSymbol<func::FuncOp>(name);
  if (!kernel || !kernel.getBody().hasOneBlock())
    throw UserError("expected tile IR to interpret, got a later stage of " + name);
  return kernel;
}

static int64_t programsIn(std::array<int64_t, 3> grid) {
  int64_t total = 1;
  bool overflow = false;
  for (int64_t extent : grid) {
    if (extent < 0)
      throw UserError("expected a grid with extents of 0 or more, got " + std::to_string(extent));
    overflow |= __builtin_mul_overflow(total, extent, &total);
  }
  if (grid[0] == 0 || grid[1] == 0 || grid[2] == 0)
    return 0;
  if (overflow)
    throw UserError("expected a grid of less than 2^63 programs");
  return total;
}

void interpret(const Program &program, std::span<const int64_t> words, std::array<int64_t, 3> grid) {
  interpreter::Compiler kernel(kernelOf(program));
  int64_t total = programsIn(grid);
  // Frames are large and each thread needs one at a time.
  std::mutex mutex;
  std::vector<std::unique_ptr<interpreter::Frame>> idle;
  idle.push_back(kernel.makeFrame(words, grid));
  auto run = [&](int64_t begin, int64_t end) {
    std::unique_ptr<interpreter::Frame> frame;
    if (std::lock_guard lock(mutex); !idle.empty()) {
      frame = std::move(idle.back());
      idle.pop_back();
    }
    if (!frame)
      frame = kernel.makeFrame(words, grid);
    for (int64_t id = begin; id < end; ++id) {
      frame->programId = {id % grid[0], id / grid[0] % grid[1], id / grid[0] / grid[1]};
      kernel.code().run(*frame);
    }
    std::lock_guard lock(mutex);
    idle.push_back(std::move(frame));
  };
  if (kernel.sequential())
    run(0, total);
  else
    parallelFor(total, 1, run);
}

} // namespace bitloom
