// What loads and stores take of the banks of shared memory.
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <map>
#include <tuple>

namespace bitloom::ptx {

class BankCounter {
public:
  // A thread's access of so many bytes, by the instruction at a place of the code. The n-th of each thread of a warp
  // there are one access of the warp. block: a number that tells blocks apart until they have all ended.
  void note(int block, int thread, size_t at, uint64_t address, size_t bytes);
  void finish(); // these blocks have

  // That the banks, of 4 bytes a cycle, took; and would have taken if no two threads wanted different words of a bank.
  int64_t wavefronts = 0, least = 0;

private:
  struct Access {
    int block, warp;
    size_t at;
    int turn;
    auto operator<=>(const Access &) const = default;
  };
  struct Lanes {
    std::array<uint64_t, 32> addresses{};
    std::array<size_t, 32> bytes{}; // 0: not of this access
  };
  int64_t wavefrontsOf(const Lanes &lanes, bool withoutConflicts) const;

  std::map<std::tuple<int, int, size_t>, int> turns; // by block, thread and place
  std::map<Access, Lanes> accesses;
};

} // namespace bitloom::ptx
