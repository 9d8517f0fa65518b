// What the fake driver of Driver.cpp was asked for last, and how often.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace bitloom::fake {

struct FakeMap { // in place of a CUtensorMap
  const void *address;
  std::uint64_t extents[5];
  char rest[80];
};
static_assert(sizeof(FakeMap) == 128);

struct Recorded {
  int launches = 0, encoded = 0, deviceQuestions = 0;
  unsigned grid[3] = {}, sharedBytes = 0;
  void *stream = nullptr;
  std::vector<std::int64_t> words; // of the last launch: as many as there are before it
  std::vector<FakeMap> maps;       // that follow them, likewise
};
Recorded &driver();

} // namespace bitloom::fake
