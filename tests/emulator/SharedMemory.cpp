#include "bitloom/tests/emulator/SharedMemory.h"

#include "bitloom/tests/emulator/PtxModule.h"

namespace bitloom::ptx {

SharedMemory::SharedMemory(uint64_t base, size_t count, const std::vector<char> &isAsyncSlot, std::string name)
    : base(base), name(std::move(name)), bytes(count), isAsyncSlot(isAsyncSlot), watches(count) {
  for (size_t k = 0; k < count; ++k)
    bytes[k] = uint8_t(0xa5 ^ (k * 37));
}

size_t SharedMemory::offsetOf(uint64_t address, size_t count, const std::string &text) const {
  uint64_t offset = address - base;
  if (address < base || offset + count > bytes.size())
    fail("shared access out of range: " + text);
  return offset;
}

uint8_t *SharedMemory::at(uint64_t address, size_t count, uint64_t alignment, const Access &access,
                          const std::string &text) {
  size_t offset = offsetOf(address, count, text);
  if (address % alignment)
    fail("misaligned shared access: " + text);
  const Knowledge &knows = *access.knows;
  for (size_t k = offset; k < offset + count; ++k) {
    Watch &watch = watches[k];
    if (watch.isBarrier)
      fail("access to an mbarrier's bytes: " + text);
    if (!knows.seen.covers(watch.writer))
      fail("race on " + name + " memory: " + text);
    if (access.isAsync && watch.writer.slot >= 0 && !isAsyncSlot[watch.writer.slot] &&
        !knows.fenced.covers(watch.writer))
      fail("no proxy fence between a write to shared memory and its use by the asynchronous proxy: " + text);
    if (access.isWrite) {
      bool isOrdered = knows.seen.covers(watch.reader);
      if (watch.readers >= 0) {
        for (Stamp reader : readerSets[watch.readers])
          isOrdered &= knows.seen.covers(reader);
        readerSets[watch.readers].clear();
      }
      if (!isOrdered)
        fail("race on " + name + " memory: " + text);
      watch.writer = access.by;
      watch.reader = {};
    } else if (watch.reader.slot == access.by.slot || knows.seen.covers(watch.reader)) {
      watch.reader = access.by; // whoever is after this read is after the one it replaces
    } else {
      if (watch.readers < 0) {
        watch.readers = int(readerSets.size());
        readerSets.emplace_back();
      }
      std::vector<Stamp> &set = readerSets[watch.readers];
      auto same = std::find_if(set.begin(), set.end(), [&](Stamp s) { return s.slot == access.by.slot; });
      if (same == set.end())
        set.push_back(access.by);
      else
        *same = access.by;
    }
  }
  return bytes.data() + offset;
}

void SharedMemory::makeBarrier(uint64_t address, bool isBarrier) {
  for (int k = 0; k < 8; ++k)
    watches[address - base + k].isBarrier = isBarrier;
}

void SharedMemory::checkOrdered(uint64_t address, const Clock &seen, const std::string &text) {
  if (!isOrdered(address, seen))
    fail("race between an mbarrier's initialisation and its use: " + text);
}

} // namespace bitloom::ptx
