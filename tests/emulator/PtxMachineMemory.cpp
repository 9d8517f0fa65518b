#include "bitloom/tests/emulator/PtxMachine.h"

#include <cmath>
#include <cstring>

namespace bitloom::ptx {

Block &Machine::blockOf(size_t rank, const Instruction &i) {
  if (rank >= cluster.size())
    fail("no such block in the cluster: " + i.text);
  Block &block = *cluster[rank];
  if (std::all_of(block.threads.begin(), block.threads.end(), [](Thread &t) { return t.status == Thread::Done; }))
    fail("the block of the cluster has ended: " + i.text);
  return block;
}

// Addresses of shared::cluster hold the rank of the block plus 1 above bit 24; those of the thread's own block need
// not.
Machine::SharedPlace Machine::placeOf(const Thread &t, uint64_t address, const Instruction &i) {
  if (address >= sharedWindow)
    address -= sharedWindow;
  address &= 0xffffffff; // registers may be of 32 bits
  uint64_t rank = address >> 24;
  return {rank ? blockOf(rank - 1, i) : *t.block, address & 0xffffff};
}

void Machine::reach(const Thread &t, Block &block, Stamp by) {
  if (&block != t.block)
    block.fromOutside.raise(by);
}

uint8_t *Machine::sharedAt(Thread &t, uint64_t address, size_t bytes, bool isWrite, const Instruction &i) {
  auto [block, at] = placeOf(t, address, i);
  reach(t, block, t.stamp());
  return block.memory.at(at, bytes, bytes, {t.stamp(), &t.knows, isWrite, false}, i.text);
}

uint8_t *Machine::globalAt(const Thread &t, uint64_t address, size_t bytes, size_t alignment, const Instruction &i) {
  if (module.overlapsPrevious && !t.hasAwaited)
    fail("before griddepcontrol.wait: " + i.text);
  if (address % alignment)
    fail("misaligned access: " + i.text);
  auto found = allowed.upper_bound(address);
  if (found == allowed.begin() || address + bytes > std::prev(found)->second)
    fail("access out of range: " + i.text);
  return reinterpret_cast<uint8_t *>(address);
}

// Between blocks: a release hands on what the thread knows to whoever acquires the value; the rest must be ordered.
void Machine::watchGlobal(Thread &t, uint64_t address, size_t bytes, bool isWrite, const Instruction &i) {
  if (!watchedMemory || address < launch.watched.first || address >= launch.watched.first + launch.watched.second)
    return;
  if (i.has("acquire")) {
    if (auto found = releasedByAddress.find(address); found != releasedByAddress.end())
      t.knows.join(found->second);
    t.yields = true; // it may ask again
  } else if (i.has("release")) {
    t.release(releasedByAddress[address] = {});
  } else if (i.has("relaxed")) {
    if (isWrite)
      releasedByAddress.erase(address);
  } else {
    watchedMemory->at(address, bytes, bytes, {t.stamp(), &t.knows, isWrite, false}, i.text);
  }
}

// By the instruction's space; a generic address says itself where it lies.
uint8_t *Machine::memoryAt(Thread &t, uint64_t address, size_t bytes, bool isWrite, const Instruction &i) {
  bool isShared = i.isShared || (!i.has("global") && address >= sharedWindow);
  if (isShared && banks)
    banks->note(t.slot - t.id, t.id, size_t(&i - module.code.data()), address, bytes); // its first thread's slot
  if (isShared)
    return sharedAt(t, address, bytes, isWrite, i);
  watchGlobal(t, address, bytes, isWrite, i);
  return globalAt(t, address, bytes, bytes, i);
}

static size_t vectorWidth(const Instruction &i) { return i.has("v8") ? 8 : i.has("v4") ? 4 : i.has("v2") ? 2 : 1; }

void Machine::load(Thread &t, const Instruction &i) {
  const Operand &to = i.operands[0], &from = i.operands[1];
  Type type = i.types.back();
  if (i.has("param")) {
    auto found = module.parameters.find(from.name);
    if (found == module.parameters.end() || found->second < 0)
      fail("unknown parameter: " + i.text);
    write(t, to, uint64_t(launch.words[found->second]) >> (8 * from.value) & mask(type.bits));
    return;
  }
  size_t width = vectorWidth(i), bytes = type.bits / 8;
  const uint8_t *source = memoryAt(t, addressOf(t, from), bytes * width, false, i);
  for (size_t k = 0; k < width; ++k) {
    uint64_t value = 0;
    std::memcpy(&value, source + k * bytes, bytes);
    if (type.kind == 's')
      value = uint64_t(signExtend(value, type.bits));
    write(t, width == 1 ? to : to.parts[k], value);
  }
}

void Machine::store(Thread &t, const Instruction &i) {
  if (i.has("param") || i.has("local"))
    return;
  if (i.has("async"))
    return storeAsync(t, i);
  const Operand &to = i.operands[0], &from = i.operands[1];
  Type type = i.types.back();
  size_t width = vectorWidth(i), bytes = type.bits / 8;
  uint8_t *place = memoryAt(t, addressOf(t, to), bytes * width, true, i);
  for (size_t k = 0; k < width; ++k) {
    uint64_t value = read(t, width == 1 ? from : from.parts[k]);
    std::memcpy(place + k * bytes, &value, bytes);
  }
}

// To a block's shared memory, with as many bytes for its mbarrier, whose phase also hands on what this thread knows (a
// release among the cluster). By the generic proxy.
void Machine::storeAsync(Thread &t, const Instruction &i) {
  const Type type = i.types.back();
  if (!i.has("mbarrier::complete_tx::bytes") || (type.bits != 32 && type.bits != 64))
    fail("unknown instruction: " + i.text);
  SharedPlace to = placeOf(t, addressOf(t, i.operands[0]), i), signal = placeOf(t, addressOf(t, i.operands.at(2)), i);
  if (&to.block != &signal.block)
    fail("expected an mbarrier in the shared memory that is written: " + i.text);
  const size_t width = vectorWidth(i), bytes = type.bits / 8;
  Stamp stamp = copyStamp(t, signal, i);
  reach(t, to.block, stamp);
  uint8_t *place = to.block.memory.at(to.address, bytes * width, bytes * width, {stamp, &t.knows, true, false}, i.text);
  for (size_t k = 0; k < width; ++k) {
    uint64_t value = read(t, width == 1 ? i.operands[1] : i.operands[1].parts[k]);
    std::memcpy(place + k * bytes, &value, bytes);
  }
  t.release(mbarrierAt(t, signal, i).arrived);
  finishCopy(t, signal, stamp, int64_t(bytes * width), i);
}

// Of global memory alone: blocks run one after the other, so nothing comes between.
void Machine::atomic(Thread &t, const Instruction &i) {
  Type type = i.types.back();
  size_t at = i.op == "red" ? 0 : 1;
  if (i.isShared)
    fail("unknown instruction: " + i.text);
  uint8_t *memory = globalAt(t, addressOf(t, i.operands[at]), type.bits / 8, type.bits / 8, i);
  uint64_t old = 0;
  std::memcpy(&old, memory, type.bits / 8);
  uint64_t given = read(t, i.operands[at + 1]) & mask(type.bits), next;
  if (i.has("cas"))
    next = old == given ? read(t, i.operands[at + 2]) : old;
  else
    next = combine(i, type, old, given);
  std::memcpy(memory, &next, type.bits / 8);
  if (i.op == "atom")
    write(t, i.operands[0], old);
}

void Machine::convertAddress(Thread &t, const Instruction &i) {
  uint64_t address = read(t, i.operands[1]);
  if (i.isShared)
    address = i.has("to") ? address - sharedWindow : (address & 0xffffffff) + sharedWindow;
  write(t, i.operands[0], address);
}

void Machine::mapAddress(Thread &t, const Instruction &i) {
  uint64_t rank = read(t, i.operands[2]) & 0xffffffff;
  blockOf(rank, i);
  uint64_t window = i.isShared ? 0 : sharedWindow;
  write(t, i.operands[0], window + (placeOf(t, read(t, i.operands[1]), i).address | (rank + 1) << 24));
}

} // namespace bitloom::ptx
