// Runs PTX on the host, thread by thread: what the code for NVIDIA targets computes can be tested where there is no
// GPU.
//
// Global addresses are the host's own, and every access must lie in a range that was allowed. Shared memory starts out
// as garbage and is watched: conflicting accesses that no barrier, mbarrier or wait orders are an error, also those of
// copies and tensor cores, and what these read must have been fenced (fence.proxy.async) when threads wrote it.
// Asynchronous work is done when it is issued; only the race check sees that it might come later, and the check that a
// wait by parity is for the phase before the current one, whatever comes late. The threads of a warp meet at each
// instruction that needs them all, those of a warpgroup at each wgmma. Anything unknown throws.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>

namespace bitloom {

struct TensorMap;

class PtxError : public std::runtime_error {
public:
  using std::runtime_error::runtime_error;
};

class PtxEmulator {
public:
  explicit PtxEmulator(const std::string &ptx); // a module with one entry; PtxError on what it does not know
  ~PtxEmulator();

  void allow(const void *memory, size_t bytes); // kernels may touch these bytes of the host
  // These too, by which the blocks of a launch pass each other values: such a launch runs all of its blocks at the same
  // time, and accesses of these bytes that no release and acquire order are races, too.
  void watch(const void *memory, size_t bytes);
  // Runs every block of the grid, one cluster after the other. words: the kernel's scalar parameters, which come first.
  // maps: its parameters of 128 bytes. sharedBytes: of dynamic shared memory. Throws PtxError for an access out of
  // range, a race on shared memory, threads that do not meet or wait for ever, or a failed assertion.
  void launch(std::span<const int64_t> words, std::array<int64_t, 3> grid, int sharedBytes,
              std::span<const TensorMap> maps = {});
  // From here on, what the loads and stores of shared memory take of its banks: wavefronts, and how many these would be
  // without conflicts. Copies and tensor cores are not counted.
  void countBanks();
  int64_t wavefronts() const;
  int64_t leastWavefronts() const;
  int threads() const;                // of a block, as .reqntid says
  const std::string &printed() const; // what vprintf was called with: its formats

private:
  struct Impl;
  std::unique_ptr<Impl> impl;
};

} // namespace bitloom
