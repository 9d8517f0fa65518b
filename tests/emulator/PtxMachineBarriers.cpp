// Barriers of blocks and clusters, mbarriers, fences, and waits for groups of asynchronous work.
#include "bitloom/tests/emulator/PtxMachine.h"

#include <cstdlib>

namespace bitloom::ptx {

//===- Named barriers ---------------------------------------------------------------------------------------------===//

void Machine::arriveAtBarrier(Lanes threads, const Instruction &i) {
  Block &block = *threads[0]->block;
  bool waits = i.has("sync");
  if (!waits && !i.has("arrive"))
    fail("unknown instruction: " + i.text);
  int id = int(read(*threads[0], i.operands[0]));
  int everybody = (module.threads + 31) / 32 * 32;
  int expected = i.operands.size() > 1 ? int(read(*threads[0], i.operands[1])) : everybody;
  if (id < 0 || id > 15 || expected <= 0 || expected % 32 || expected > everybody)
    fail("expected a barrier 0 to 15 and a multiple of 32 threads of the block: " + i.text);
  NamedBarrier &barrier = block.barriers[id];
  if (barrier.arrived && barrier.expected != expected)
    fail("threads disagree on how many a barrier waits for: " + i.text);
  barrier.expected = expected;
  barrier.arrived += i.meets == Meets::Warp ? 32 : int(threads.size()); // a warp counts whole, even a ragged last one
  if (barrier.arrived > expected)
    fail("more threads than expected at a barrier: " + i.text);
  for (Thread *t : threads) {
    t->release(barrier.knows);
    if (waits) {
      t->status = Thread::AtBarrier;
      barrier.waiting.push_back(t);
    }
  }
  if (barrier.arrived < expected)
    return;
  for (Thread *t : barrier.waiting) {
    t->knows.join(barrier.knows);
    t->status = Thread::Ready;
  }
  barrier = {};
}

void Machine::barrierOfWarps(Lanes lanes, const Instruction &i) {
  if (!i.has("cluster"))
    return arriveAtBarrier(lanes, i);
  for (Thread *t : lanes)
    i.has("wait") ? clusterWait(*t, i) : clusterArrive(*t, i);
}

void Machine::barrier(Thread &t, const Instruction &i) {
  if (i.has("cluster"))
    return i.has("wait") ? clusterWait(t, i) : clusterArrive(t, i);
  Thread *one = &t;
  arriveAtBarrier({&one, 1}, i);
}

// A thread may arrive for the next time only after it waited, so one count of arrivals is enough.
void Machine::clusterArrive(Thread &t, const Instruction &i) {
  if (t.clusterArrivals != t.clusterWaits)
    fail("two arrivals at the cluster's barrier with no wait between: " + i.text);
  ++t.clusterArrivals;
  if (i.has("relaxed"))
    t.tick();
  else
    t.release(clusterBarrier.knows);
  clusterBarrier.initialised.join(t.announces);
  if (++clusterBarrier.arrived < int(cluster.size()) * module.threads)
    return;
  clusterBarrier.arrived = 0;
  ++clusterBarrier.expected;
  for (Thread *waiting : clusterBarrier.waiting) {
    waiting->knows.join(clusterBarrier.knows);
    waiting->initialised.join(clusterBarrier.initialised);
    waiting->status = Thread::Ready;
  }
  clusterBarrier.waiting.clear();
}

void Machine::clusterWait(Thread &t, const Instruction &i) {
  if (t.clusterArrivals == t.clusterWaits)
    fail("a wait at the cluster's barrier with no arrival before: " + i.text);
  ++t.clusterWaits;
  if (clusterBarrier.expected >= t.clusterWaits) {
    t.initialised.join(clusterBarrier.initialised);
    return t.knows.join(clusterBarrier.knows);
  }
  t.status = Thread::AtClusterBarrier;
  clusterBarrier.waiting.push_back(&t);
}

//===- Fences and groups ------------------------------------------------------------------------------------------===//

void Machine::fence(Thread &t, const Instruction &i) {
  if (i.has("mbarrier_init"))
    return t.announces.raise(t.stamp()), t.tick();
  if (!i.has("proxy") || !(i.has("async") || i.has("async::generic")) || (!i.isShared && i.has("async::global")))
    return;
  t.knows.fenced = t.knows.seen;
  t.tick(); // what it writes from here on is not fenced
}

// Until at most `left` groups are unfinished.
void Machine::await(AsyncGroups &groups, uint64_t left, Knowledge &knows) {
  while (groups.committed.size() > left) {
    groups.awaited = groups.committed.front();
    groups.committed.pop_front();
  }
  if (groups.slot >= 0)
    knows.seen.raise({groups.slot, groups.awaited});
}

//===- mbarriers --------------------------------------------------------------------------------------------------===//

Mbarrier &Machine::mbarrierAt(const Thread &t, SharedPlace place, const Instruction &i) {
  auto found = place.block.mbarriers.find(place.address);
  if (found == place.block.mbarriers.end())
    fail("no mbarrier at the address: " + i.text);
  if (!place.block.memory.isOrdered(place.address, t.initialised))
    place.block.memory.checkOrdered(place.address, t.knows.seen, i.text);
  return found->second;
}

void Machine::completeIfDone(SharedPlace place, Mbarrier &barrier) {
  if (barrier.pending || barrier.bytes)
    return;
  barrier.completed = barrier.arrived;
  barrier.pending = barrier.expected;
  ++barrier.phase;
  if (barrier.phases < 0)
    barrier.phases = newSlot(false);
  barrier.completed.seen.raise({barrier.phases, uint32_t(barrier.phase)});
  for (Thread &t : place.block.threads)
    if (t.status == Thread::AtMbarrier && t.waitsOn == place.address)
      t.status = Thread::Ready;
}

void Machine::expectBytes(Mbarrier &barrier, int64_t bytes, const Instruction &i) {
  constexpr int64_t most = (1 << 20) - 1;
  barrier.bytes += bytes;
  if (std::abs(barrier.bytes) > most)
    fail("expected at most 2^20 - 1 bytes on their way: " + i.text);
}

void Machine::arrive(Thread &t, SharedPlace place, int64_t count, int64_t bytes, const Instruction &i) {
  Mbarrier &barrier = mbarrierAt(t, place, i);
  if (count > barrier.pending)
    fail("more arrivals than the mbarrier expects: " + i.text);
  reach(t, place.block, t.stamp());
  if (i.has("relaxed"))
    t.tick();
  else
    t.release(barrier.arrived);
  barrier.pending -= count;
  expectBytes(barrier, bytes, i);
  completeIfDone(place, barrier);
}

void Machine::mbarrier(Thread &t, const Instruction &i) {
  const std::string &what = i.mods.at(0);
  if (what == "try_wait" || what == "test_wait")
    return waitForMbarrier(t, i);
  size_t at = i.operands.at(0).isAddress ? 0 : 1;
  SharedPlace place = placeOf(t, addressOf(t, i.operands.at(at)), i);
  auto given = [&](int64_t otherwise) {
    return i.operands.size() > at + 1 ? int64_t(read(t, i.operands[at + 1]) & 0xffffffff) : otherwise;
  };
  if (what == "init") {
    if (place.block.mbarriers.contains(place.address))
      fail("an mbarrier is there already: " + i.text);
    sharedAt(t, addressOf(t, i.operands[at]), 8, true, i);
    place.block.memory.makeBarrier(place.address, true);
    Mbarrier &barrier = place.block.mbarriers[place.address];
    barrier.expected = barrier.pending = given(0);
    if (barrier.expected < 1 || barrier.expected >= 1 << 20)
      fail("expected a count from 1 to 2^20 - 1: " + i.text);
    return;
  }
  Mbarrier &barrier = mbarrierAt(t, place, i);
  if (what == "inval") {
    place.block.memory.makeBarrier(place.address, false);
    place.block.mbarriers.erase(place.address);
    sharedAt(t, addressOf(t, i.operands[at]), 8, true, i);
  } else if (what == "expect_tx") {
    expectBytes(barrier, given(0), i);
  } else if (what == "complete_tx") {
    barrier.bytes -= given(0);
    completeIfDone(place, barrier);
  } else if (what == "arrive" || what == "arrive_drop") {
    if (at == 1)
      write(t, i.operands[0], barrier.phase); // the token: which phase it arrived in
    bool expects = i.has("expect_tx");
    if (what == "arrive_drop")
      barrier.expected -= expects ? 1 : given(1);
    arrive(t, place, expects ? 1 : given(1), expects ? given(0) : 0, i);
  } else {
    fail("unknown instruction: " + i.text);
  }
}

void Machine::waitForMbarrier(Thread &t, const Instruction &i) {
  SharedPlace place = placeOf(t, addressOf(t, i.operands.at(1)), i);
  if (&place.block != t.block)
    fail("a wait on another block's mbarrier: " + i.text);
  Mbarrier &barrier = mbarrierAt(t, place, i);
  uint64_t phase = read(t, i.operands.at(2));
  // By parity: whether the phase before the current one is of that parity. By token: whether its phase is past.
  bool isOver = i.has("parity") ? (barrier.phase & 1) != (phase & 1) : barrier.phase > phase;
  write(t, i.operands[0], isOver);
  if (isOver) {
    // Two phases earlier it would have ended as well, unless the thread knows that these are over.
    if (i.has("parity") && barrier.phase >= 2 && t.knows.seen[barrier.phases] + 1 < barrier.phase)
      fail("a wait that an earlier phase of the same parity could have ended: " + i.text);
    if (barrier.phases >= 0)
      t.knows.seen.raise({barrier.phases, uint32_t(barrier.phase)});
    if (!i.has("relaxed"))
      t.knows.join(barrier.completed);
    t.failedAt = ~size_t{0};
    return;
  }
  // A second failure in a row at the same place is a loop: nothing to do until the barrier's phase ends.
  if (t.failedAt == t.at - 1 && t.waitsOn == place.address)
    t.status = Thread::AtMbarrier;
  t.failedAt = t.at - 1;
  t.waitsOn = place.address;
  t.yields = true;
}

} // namespace bitloom::ptx
