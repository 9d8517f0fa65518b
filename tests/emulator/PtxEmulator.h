// Runs PTX on the host, thread by thread: what the code for NVIDIA targets computes can be tested where there is no
// GPU.
//
// Global addresses are the host's own, and every access must lie in a range that was allowed. Shared memory starts out
// as garbage and is watched: a byte that one thread writes and another touches with no barrier between is an error. The
// threads of a warp meet at each shfl, those of the block at each bar.sync. Only what LLVM makes of our kernels is
// known; anything else throws.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>

namespace bitloom {

class PtxError : public std::runtime_error {
public:
  using std::runtime_error::runtime_error;
};

class PtxEmulator {
public:
  explicit PtxEmulator(const std::string &ptx); // a module with one entry; PtxError on what it does not know
  ~PtxEmulator();

  void allow(const void *memory, size_t bytes); // kernels may touch these bytes of the host
  // Runs every program of the grid, one after the other. Throws PtxError for an access out of range, a race on shared
  // memory, threads that do not meet, or a failed assertion.
  void launch(std::span<const int64_t> words, std::array<int64_t, 3> grid, int sharedBytes);
  int threads() const;                // of a block, as .reqntid says
  const std::string &printed() const; // what vprintf was called with: its formats

private:
  struct Impl;
  std::unique_ptr<Impl> impl;
};

} // namespace bitloom
