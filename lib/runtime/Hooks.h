// What compiled kernels call on the host: a failed assertion, and printing. The object files name these two symbols.
#pragma once

#include "bitloom/lib/dtype/DType.h"

#include <atomic>
#include <cstdint>
#include <span>
#include <string>

extern "C" {
// `message` is that of the error, with the line of the user's source. Returns, and the kernel then leaves the program
// id that failed: kernels are compiled without unwind tables. Safe from any thread inside an AssertScope; elsewhere it
// ends the process.
void bitloom_rt_assert(const char *message);

// Prints `data`, contiguous elements of DType number `dtype` in C order, to stdout, in one piece.
void bitloom_rt_print(const char *label, int32_t dtype, const void *data, int64_t rank, const int64_t *shape);
}

namespace bitloom {

// The first failure of a launch, gathered from all of its threads.
class LaunchFailure {
public:
  bool any() const { return first.load(std::memory_order_relaxed); }
  // Once all threads have finished. Throws UserError with the first message, if any.
  void raise() const;

private:
  friend void ::bitloom_rt_assert(const char *);
  std::atomic<const char *> first{nullptr}; // in the kernel's constants
};

// While it lives, failures on this thread belong to `launch`.
class AssertScope {
public:
  explicit AssertScope(LaunchFailure &launch);
  ~AssertScope();
  AssertScope(const AssertScope &) = delete;
  AssertScope &operator=(const AssertScope &) = delete;

private:
  LaunchFailure *outer;
};

// "acc = [[1, 2, 3], [4, 5, 6]]\n", each number as short as reads back the same; a scalar has no brackets.
std::string printedTile(std::string_view label, DType dtype, const void *data, std::span<const int64_t> shape);

} // namespace bitloom
