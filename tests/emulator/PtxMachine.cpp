#include "bitloom/tests/emulator/PtxMachine.h"

#include <utility>

namespace bitloom::ptx {

Machine::Machine(const Module &module, const std::map<uint64_t, uint64_t> &allowed, std::string &printed)
    : module(module), allowed(allowed), printed(printed) {
  static const std::map<std::string, Step> known = {{"bra", &Machine::branch},
                                                    {"ret", &Machine::exit},
                                                    {"exit", &Machine::exit},
                                                    {"ld", &Machine::load},
                                                    {"ldu", &Machine::load},
                                                    {"st", &Machine::store},
                                                    {"atom", &Machine::atomic},
                                                    {"red", &Machine::atomic},
                                                    {"cvt", &Machine::convert},
                                                    {"cvta", &Machine::convertAddress},
                                                    {"mapa", &Machine::mapAddress},
                                                    {"call", &Machine::call},
                                                    {"trap", &Machine::trap},
                                                    {"barrier", &Machine::barrier},
                                                    {"fence", &Machine::fence},
                                                    {"mbarrier", &Machine::mbarrier},
                                                    {"cp", &Machine::copy},
                                                    {"membar", &Machine::nothing},
                                                    {"prefetch", &Machine::nothing},
                                                    {"prefetchu", &Machine::nothing},
                                                    {"griddepcontrol", &Machine::dependency},
                                                    {"nanosleep", &Machine::nothing},
                                                    {"discard", &Machine::nothing}};
  static const std::map<std::string, MeetingStep> meetings = {{"shfl", &Machine::shuffle},
                                                              {"vote", &Machine::vote},
                                                              {"elect", &Machine::elect},
                                                              {"redux", &Machine::reduceWarp},
                                                              {"setmaxnreg", &Machine::setRegisters},
                                                              {"ldmatrix", &Machine::matrixMove},
                                                              {"stmatrix", &Machine::matrixMove},
                                                              {"mma", &Machine::mma},
                                                              {"bar", &Machine::barrierOfWarps},
                                                              {"barrier", &Machine::barrierOfWarps}};
  for (const Instruction &i : module.code) {
    Step step = nullptr;
    MeetingStep meeting = nullptr;
    if (i.meets == Meets::None) {
      auto found = known.find(i.op);
      step = found == known.end() ? &Machine::arithmetic : found->second;
    } else if (i.op == "wgmma") {
      meeting = i.has("mma_async") ? &Machine::wgmma : &Machine::wgmmaGroups;
    } else if (i.op == "bar" && i.has("warp")) {
      meeting = &Machine::syncWarp;
    } else if (auto found = meetings.find(i.op); found != meetings.end()) {
      meeting = found->second;
    } else {
      fail("unknown instruction: " + i.text);
    }
    steps.push_back(step);
    meetingSteps.push_back(meeting);
  }
}

//===- Scheduling -------------------------------------------------------------------------------------------------===//

void Machine::run(const Launch &what) {
  launch = what;
  if (int(launch.words.size()) < module.wordCount || int(launch.maps.size()) != module.mapCount)
    fail("expected " + std::to_string(module.wordCount) + " words and " + std::to_string(module.mapCount) +
         " tensor maps, got " + std::to_string(launch.words.size()) + " and " + std::to_string(launch.maps.size()));
  constexpr uint64_t mostSharedBytes = 227 * 1024;
  if (module.staticBytes + launch.sharedBytes > mostSharedBytes)
    fail("expected at most 227 KiB of shared memory, got " + std::to_string(module.staticBytes + launch.sharedBytes) +
         " bytes");
  const std::array<int64_t, 3> shape = module.clusterShape;
  for (int d = 0; d < 3; ++d)
    if (launch.grid[d] % shape[d])
      fail("expected a grid of whole clusters");
  if (launch.watched.second)
    return runTogether();
  for (int64_t z = 0; z < launch.grid[2]; z += shape[2])
    for (int64_t y = 0; y < launch.grid[1]; y += shape[1])
      for (int64_t x = 0; x < launch.grid[0]; x += shape[0]) {
        cluster.clear();
        isAsyncSlot.clear();
        clusterBarrier = {};
        for (int64_t rank = 0; rank < shape[0] * shape[1] * shape[2]; ++rank)
          addBlock({x + rank % shape[0], y + rank / shape[0] % shape[1], z + rank / shape[0] / shape[1]}, int(rank));
        runCluster();
      }
}

// All blocks at the same time, as if they were one cluster.
void Machine::runTogether() {
  if (module.clusterShape != std::array<int64_t, 3>{1, 1, 1})
    fail("expected no clusters where global memory is watched");
  cluster.clear();
  isAsyncSlot.clear();
  releasedByAddress.clear();
  watchedMemory = std::make_unique<SharedMemory>(launch.watched.first, launch.watched.second, isAsyncSlot, "global");
  for (int64_t block = 0; block < launch.grid[0]; ++block)
    addBlock({block, 0, 0}, 0);
  runCluster();
  watchedMemory.reset();
}

void Machine::addBlock(std::array<int64_t, 3> index, int rank) {
  size_t bytes = module.staticBytes + launch.sharedBytes;
  auto block = std::make_unique<Block>(Block{index,
                                             rank,
                                             SharedMemory(module.sharedBase, bytes, isAsyncSlot),
                                             std::vector<Thread>(module.threads),
                                             {},
                                             {},
                                             {},
                                             {},
                                             {}});
  for (Thread &t : block->threads) {
    t.id = int(&t - block->threads.data());
    t.slot = newSlot(false);
    t.block = block.get();
    t.registers.assign(module.registers.size(), 0xdeadbeefdeadbeef);
    t.tick();
  }
  for (size_t first = 0; first < block->threads.size(); first += 32)
    block->warps.push_back(
        {std::span(block->threads).subspan(first, std::min<size_t>(32, block->threads.size() - first)), {}, 0});
  cluster.push_back(std::move(block));
}

int Machine::newSlot(bool isAsync) {
  isAsyncSlot.push_back(isAsync);
  return int(isAsyncSlot.size()) - 1;
}

void Machine::runCluster() {
  for (;;) {
    bool hasMoved = false, isDone = true;
    for (auto &block : cluster)
      hasMoved |= advance(*block);
    for (auto &block : cluster)
      for (Thread &t : block->threads)
        isDone &= t.status == Thread::Done;
    if (isDone) {
      if (banks)
        banks->finish();
      return;
    }
    if (!hasMoved)
      explainDeadlock();
  }
}

// Lets each warp of a block go as far as it can. False when none could.
bool Machine::advance(Block &block) {
  bool hasMoved = false;
  for (Warp &warp : block.warps)
    for (bool again = true; again;) {
      for (Thread &t : warp.threads)
        if (t.status == Thread::Ready) {
          hasMoved = true;
          runThread(t);
        }
      again = meet(block, warp);
      hasMoved |= again;
    }
  return hasMoved;
}

// Until the thread has to meet or wait for others, or a wait of it failed.
void Machine::runThread(Thread &t) {
  while (t.status == Thread::Ready) {
    if (t.at >= module.code.size())
      fail("a thread runs past the end of the code");
    if (++t.steps > 100'000'000)
      fail("a thread that does not end");
    const Instruction &i = module.code[t.at];
    if (i.guard >= 0 && bool(t.registers[i.guard] & 1) == i.guardNegated) {
      ++t.at;
    } else if (i.meets != Meets::None) {
      t.status = Thread::Meeting;
    } else {
      ++t.at;
      (this->*steps[t.at - 1])(t, i);
      if (std::exchange(t.yields, false))
        return;
    }
  }
}

// Runs what the threads of a warp, or its warpgroup, have met at, if they have.
bool Machine::meet(Block &block, Warp &warp) {
  std::vector<size_t> places; // several where a warp is divided
  for (Thread &t : warp.threads)
    if (t.status == Thread::Meeting && std::find(places.begin(), places.end(), t.at) == places.end())
      places.push_back(t.at);
  bool hasMet = false;
  for (size_t at : places)
    hasMet |= meetAt(block, warp, at);
  return hasMet;
}

bool Machine::meetAt(Block &block, Warp &warp, size_t at) {
  const Instruction &i = module.code[at];
  std::vector<Thread *> lanes;
  auto isThere = [&](Thread &t) { return t.status == Thread::Meeting && t.at == at; };
  if (i.meets == Meets::Mask) {
    uint64_t members = 0;
    for (Thread &t : warp.threads)
      if (isThere(t)) {
        uint64_t named = read(t, i.operands.back()) & 0xffffffff;
        if (!(named >> t.lane() & 1))
          fail("a thread is not in the mask it gives: " + i.text);
        if (members && named != members)
          continue; // another part of the warp
        members = named;
      }
    for (Thread &t : warp.threads)
      if (members >> t.lane() & 1) {
        if (!isThere(t))
          return false;
        lanes.push_back(&t);
      }
  } else {
    std::span<Thread> all = warp.threads;
    if (i.meets == Meets::Warpgroup) {
      size_t first = size_t(warp.threads[0].id) / 128 * 128;
      if (first + 128 > block.threads.size())
        fail("expected a warpgroup of 128 threads: " + i.text);
      all = std::span(block.threads).subspan(first, 128);
    }
    for (Thread &t : all) {
      if (!isThere(t))
        return false;
      lanes.push_back(&t);
    }
  }
  for (Thread *t : lanes) {
    ++t->at;
    t->status = Thread::Ready;
  }
  (this->*meetingSteps[at])(lanes, i);
  return true;
}

// Nobody can go on: says why, the most telling reason first.
void Machine::explainDeadlock() {
  bool anyDone = false;
  for (auto &block : cluster)
    for (Thread &t : block->threads)
      anyDone |= t.status == Thread::Done;
  auto cannotMeet = [&](const Thread &t) { fail("a warp's threads do not meet: " + module.code[t.at].text); };
  for (auto &block : cluster)
    for (Warp &warp : block->warps) {
      const Thread *lost = nullptr; // waits for threads of its warp that wait for nothing else
      bool isDivided = false;
      for (Thread &t : warp.threads) {
        if (t.status == Thread::Meeting && !lost)
          lost = &t;
        isDivided |= t.status == Thread::Done || (t.status == Thread::Meeting && t.at != lost->at);
      }
      if (lost && isDivided && std::all_of(warp.threads.begin(), warp.threads.end(), [](const Thread &t) {
            return t.status == Thread::Meeting || t.status == Thread::Done;
          }))
        cannotMeet(*lost);
    }
  for (auto &block : cluster)
    for (Thread &t : block->threads)
      if (t.status == Thread::AtMbarrier) {
        const Mbarrier &barrier = block->mbarriers.at(t.waitsOn);
        fail("deadlock: thread " + std::to_string(t.id) + " waits for the mbarrier at byte " +
             std::to_string(t.waitsOn - module.sharedBase) + " of shared memory, whose phase " +
             std::to_string(barrier.phase) + " lacks " + std::to_string(barrier.pending) + " arrivals and " +
             std::to_string(barrier.bytes) + " bytes: " + module.code[t.failedAt].text);
      }
  for (auto &block : cluster)
    for (auto &[id, barrier] : block->barriers)
      if (!barrier.waiting.empty())
        fail(std::string(anyDone ? "threads end while others wait at a barrier: " : "threads wait at a barrier: ") +
             std::to_string(barrier.arrived) + " of " + std::to_string(barrier.expected) +
             " have arrived: " + module.code[barrier.waiting[0]->at - 1].text);
  for (auto &block : cluster)
    for (Thread &t : block->threads)
      if (t.status == Thread::Meeting)
        cannotMeet(t);
  fail("threads wait at a barrier of the cluster that not all reach");
}

//===- Operands ---------------------------------------------------------------------------------------------------===//

uint64_t Machine::special(const Thread &t, int which) const {
  const uint64_t lane = uint64_t(t.lane());
  switch (which) {
  case tidX:
    return uint64_t(t.id);
  case ntidX:
    return uint64_t(module.threads);
  case tidY:
  case tidZ:
    return 0;
  case ntidY:
  case ntidZ:
    return 1;
  case ctaidX:
  case ctaidY:
  case ctaidZ:
    return uint64_t(t.block->index[which - ctaidX]);
  case nctaidX:
  case nctaidY:
  case nctaidZ:
    return uint64_t(launch.grid[which - nctaidX]);
  case laneId:
    return lane;
  case warpId:
    return uint64_t(t.id / 32);
  case laneMaskEq:
    return uint64_t{1} << lane;
  case laneMaskLt:
    return mask(int(lane));
  case laneMaskLe:
    return mask(int(lane) + 1);
  case laneMaskGt:
    return mask(32) & ~mask(int(lane) + 1);
  case laneMaskGe:
    return mask(32) & ~mask(int(lane));
  case clusterRank:
    return uint64_t(t.block->rank);
  case clusterBlocks:
    return cluster.size();
  case inClusterX:
  case inClusterY:
  case inClusterZ:
    return uint64_t(t.block->index[which - inClusterX] % module.clusterShape[which - inClusterX]);
  case clusterShapeX:
  case clusterShapeY:
  case clusterShapeZ:
    return uint64_t(module.clusterShape[which - clusterShapeX]);
  case clusterIdX:
  case clusterIdY:
  case clusterIdZ:
    return uint64_t(t.block->index[which - clusterIdX] / module.clusterShape[which - clusterIdX]);
  case clustersX:
  case clustersY:
  case clustersZ:
    return uint64_t(launch.grid[which - clustersX] / module.clusterShape[which - clustersX]);
  case sharedSize:
    return launch.sharedBytes;
  default: // clocks: any number that grows
    return t.steps;
  }
}

uint64_t Machine::read(const Thread &t, const Operand &o) {
  switch (o.kind) {
  case Operand::Register:
    return t.registers[o.index];
  case Operand::Immediate:
    return o.value;
  case Operand::Special:
    return special(t, o.index);
  case Operand::Symbol:
    if (auto found = module.sharedSymbols.find(o.name); found != module.sharedSymbols.end())
      return found->second;
    if (auto found = module.globals.find(o.name); found != module.globals.end())
      return uint64_t(found->second.data());
    if (auto found = module.parameters.find(o.name); found != module.parameters.end() && found->second < 0)
      return tensorMapHandles + tensorMapBytes * uint64_t(~found->second);
    fail("unknown symbol " + o.name);
  case Operand::Vector:
    fail("a vector where a scalar is expected");
  }
  return 0;
}

//===- Ends and calls ---------------------------------------------------------------------------------------------===//

void Machine::exit(Thread &t, const Instruction &i) {
  if (t.bulkCopies.awaited != t.bulkCopies.issued)
    fail("a thread ends before its bulk copies have read shared memory");
  t.status = Thread::Done;
  Block &block = *t.block;
  if (cluster.size() == 1)
    return;
  block.atEnd.join(t.knows.seen);
  bool isEnd = std::all_of(block.threads.begin(), block.threads.end(),
                           [](const Thread &other) { return other.status == Thread::Done; });
  if (isEnd && !block.atEnd.covers(block.fromOutside))
    fail("a block ends while others of its cluster may be at its shared memory: " + i.text);
}

void Machine::call(Thread &t, const Instruction &i) {
  if (i.text.find("__assertfail") != std::string::npos)
    fail("assertion failed");
  if (i.text.find("vprintf") != std::string::npos)
    return void(printed += "vprintf\n");
  fail("unknown call: " + i.text);
}

} // namespace bitloom::ptx
