// Instructions at which the threads of a warp meet and tell each other something.
#include "bitloom/tests/emulator/PtxMachine.h"

#include <bit>

namespace bitloom::ptx {

void Machine::shuffle(Lanes lanes, const Instruction &i) {
  const size_t first = i.hasPair ? 2 : 1;
  std::array<uint64_t, 32> values{};
  uint32_t members = 0;
  for (Thread *t : lanes) {
    values[t->lane()] = read(*t, i.operands[first]);
    members |= 1u << t->lane();
  }
  for (Thread *t : lanes) {
    auto b = int(read(*t, i.operands[first + 1]) & 31), c = int(read(*t, i.operands[first + 2]));
    int lane = t->lane(), clamp = c & 31, segment = c >> 8 & 31;
    int last = (lane & segment) | (clamp & ~segment), start = lane & segment, from;
    bool isIn;
    if (i.has("up"))
      from = lane - b, isIn = from >= last;
    else if (i.has("down"))
      from = lane + b, isIn = from <= last;
    else if (i.has("bfly"))
      from = lane ^ b, isIn = from <= last;
    else if (i.has("idx"))
      from = start | (b & ~segment), isIn = from <= last;
    else
      fail("unknown shuffle: " + i.text);
    if (!isIn)
      from = lane;
    if (!(members >> from & 1))
      fail("a shuffle reads from a thread that is not there: " + i.text);
    write(*t, i.operands[0], values[from]);
    if (i.hasPair)
      write(*t, i.operands[1], isIn);
  }
}

void Machine::vote(Lanes lanes, const Instruction &i) {
  uint32_t ballot = 0, members = 0;
  for (Thread *t : lanes) {
    ballot |= uint32_t(holds(*t, i.operands[1])) << t->lane();
    members |= 1u << t->lane();
  }
  for (Thread *t : lanes) {
    uint64_t result = i.has("ballot") ? ballot
                      : i.has("all")  ? ballot == members
                      : i.has("any")  ? ballot != 0
                                      : ballot == members || !ballot;
    write(*t, i.operands[0], result);
  }
}

void Machine::elect(Lanes lanes, const Instruction &i) {
  for (Thread *t : lanes) {
    write(*t, i.operands[0], uint64_t(lanes[0]->lane()));
    write(*t, i.operands[1], t == lanes[0]);
  }
}

void Machine::reduceWarp(Lanes lanes, const Instruction &i) {
  Type type = i.types.back();
  uint64_t result = read(*lanes[0], i.operands[1]);
  for (Thread *t : lanes.subspan(1))
    result = combine(i, type, result, read(*t, i.operands[1]));
  for (Thread *t : lanes)
    write(*t, i.operands[0], result & mask(type.bits));
}

void Machine::setRegisters(Lanes lanes, const Instruction &i) {
  uint64_t count = read(*lanes[0], i.operands[0]);
  if (count < 24 || count > 256 || count % 8)
    fail("expected a multiple of 8 from 24 to 256: " + i.text);
  constexpr uint64_t registersOfBlock = 65536;
  std::vector<Warp> &warps = lanes[0]->block->warps;
  warps[size_t(lanes[0]->id) / 32].registersEach = count;
  uint64_t sum = 0;
  for (const Warp &warp : warps) {
    if (!warp.registersEach)
      return; // how many it has is not known
    sum += warp.registersEach * 32;
  }
  if (sum > registersOfBlock)
    fail("deadlock: the block's warps ask for " + std::to_string(sum) + " registers: " + i.text);
}

void Machine::syncWarp(Lanes lanes, const Instruction &i) {
  Knowledge all;
  for (Thread *t : lanes)
    t->release(all);
  for (Thread *t : lanes)
    t->knows.join(all);
}

} // namespace bitloom::ptx
