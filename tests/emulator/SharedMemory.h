// Memory, the shared memory of one block say, watched byte by byte: an access that no synchronisation orders after an
// earlier one it conflicts with throws.
#pragma once

#include "bitloom/tests/emulator/Clock.h"

#include <string>

namespace bitloom::ptx {

class SharedMemory {
public:
  // Who touches: its stamp and what it knows. Accesses through the asynchronous proxy also need a proxy fence between
  // them and writes of the generic one.
  struct Access {
    Stamp by;
    const Knowledge *knows = nullptr;
    bool isWrite = false, isAsync = false;
  };

  // Fills it with garbage. isAsyncSlot: whether a slot of the clocks is of the asynchronous proxy.
  SharedMemory(uint64_t base, size_t bytes, const std::vector<char> &isAsyncSlot, std::string name = "shared");

  // The bytes at an address. Throws PtxError, naming `text`, for a race or an address out of range or misaligned.
  uint8_t *at(uint64_t address, size_t count, uint64_t alignment, const Access &access, const std::string &text);

  void makeBarrier(uint64_t address, bool isBarrier); // its 8 bytes may then be touched by mbarrier instructions only
  bool isOrdered(uint64_t address, const Clock &seen) const { return seen.covers(watches[address - base].writer); }
  void checkOrdered(uint64_t address, const Clock &seen, const std::string &text); // that a barrier's init came before

private:
  struct Watch {
    Stamp writer, reader; // of the last write, and of a read since
    int readers = -1;     // where the other reads since are, in readerSets
    bool isBarrier = false;
  };
  uint64_t base;
  std::string name; // "shared", for messages
  std::vector<uint8_t> bytes;
  const std::vector<char> &isAsyncSlot;
  std::vector<Watch> watches;
  std::vector<std::vector<Stamp>> readerSets;

  size_t offsetOf(uint64_t address, size_t count, const std::string &text) const;
};

} // namespace bitloom::ptx
