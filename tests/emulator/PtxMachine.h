// Runs a module: the threads of a cluster of blocks in turn, each until it has to wait for others.
#pragma once

#include "bitloom/lib/runtime/TensorMap.h"
#include "bitloom/tests/emulator/BankCounter.h"
#include "bitloom/tests/emulator/PtxModule.h"
#include "bitloom/tests/emulator/SharedMemory.h"

#include <array>
#include <deque>
#include <memory>
#include <span>

namespace bitloom::ptx {

struct Block;

// What one issues to an agent beside it, in groups that it waits for.
struct AsyncGroups {
  int slot = -1; // the agent's
  uint32_t issued = 0, awaited = 0;
  std::deque<uint32_t> committed; // groups: the last that was issued before each
  void commit() { committed.push_back(issued); }
};

struct Thread {
  enum Status { Ready, Meeting, AtBarrier, AtClusterBarrier, AtMbarrier, Done };
  Status status = Ready;
  int id = 0, slot = 0;
  Block *block = nullptr;
  size_t at = 0, steps = 0;
  std::vector<uint64_t> registers;
  Knowledge knows;
  AsyncGroups copies, bulkCopies; // cp.async and cp.async.bulk
  // The last test of an mbarrier that failed: of which, and where. The second in a row makes the thread wait.
  uint64_t waitsOn = 0;
  size_t failedAt = ~size_t{0};
  bool yields = false;     // lets others go first
  bool hasAwaited = false; // the launch before this one: griddepcontrol.wait
  int clusterArrivals = 0, clusterWaits = 0;
  // mbarriers: its own, that a fence has made known to whoever waits for its next arrival; and those it knows of so.
  Clock announces, initialised;
  int lane() const { return id % 32; }
  Stamp stamp() const { return {slot, knows.seen[slot]}; }
  void tick() { knows.seen.raise({slot, knows.seen[slot] + 1}); }
  void release(Knowledge &to) {
    to.join(knows);
    tick();
  }
};

struct Warp {
  std::span<Thread> threads;
  AsyncGroups wgmmas;
  uint64_t registersEach = 0; // that setmaxnreg asked for
};

struct NamedBarrier {
  int arrived = 0, expected = 0; // for a cluster, expected counts the times it was passed
  Knowledge knows;
  Clock initialised; // mbarriers that were announced, for a cluster
  std::vector<Thread *> waiting;
};

struct Mbarrier {
  int64_t expected = 0, pending = 0, bytes = 0; // bytes: still to come
  uint64_t phase = 0;
  Knowledge arrived, completed; // of this phase so far, of those before
  int slot = -1;                // of the copies that complete on it
  int phases = -1;              // the slot that counts its phases
  uint32_t copies = 0;
};

struct Block {
  std::array<int64_t, 3> index{};
  int rank = 0; // in its cluster
  SharedMemory memory;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::map<int, NamedBarrier> barriers;
  std::map<uint64_t, Mbarrier> mbarriers; // by address
  Clock fromOutside = {}, atEnd = {};     // accesses by other blocks, and what its threads know when they end
};

using Lanes = std::span<Thread *const>;

class Machine {
public:
  struct Launch {
    std::span<const int64_t> words;
    std::span<const TensorMap> maps;
    std::array<int64_t, 3> grid{};
    size_t sharedBytes = 0;                // dynamic
    std::pair<uint64_t, size_t> watched{}; // global memory between blocks, which then run together: its address, bytes
  };

  Machine(const Module &module, const std::map<uint64_t, uint64_t> &allowed, std::string &printed);
  void run(const Launch &launch);
  void countBanks(BankCounter &counter) { banks = &counter; } // where that is wanted: it takes time

private:
  using Step = void (Machine::*)(Thread &, const Instruction &);
  using MeetingStep = void (Machine::*)(Lanes, const Instruction &);

  const Module &module;
  const std::map<uint64_t, uint64_t> &allowed; // begin to end
  std::string &printed;
  std::vector<Step> steps;
  std::vector<MeetingStep> meetingSteps;
  Launch launch;
  BankCounter *banks = nullptr;
  std::vector<std::unique_ptr<Block>> cluster;
  std::vector<char> isAsyncSlot;
  NamedBarrier clusterBarrier;
  std::unique_ptr<SharedMemory> watchedMemory;     // what is watched of global memory, not its contents
  std::map<uint64_t, Knowledge> releasedByAddress; // with what is there now

  // PtxMachine.cpp: scheduling, operands, and what steers threads.
  void runCluster();
  void runTogether();
  void addBlock(std::array<int64_t, 3> index, int rank);
  bool advance(Block &block);
  void runThread(Thread &t);
  bool meet(Block &block, Warp &warp);
  bool meetAt(Block &block, Warp &warp, size_t at);
  [[noreturn]] void explainDeadlock();
  uint64_t read(const Thread &t, const Operand &o);
  uint64_t special(const Thread &t, int which) const;
  bool holds(const Thread &t, const Operand &o) { return ((read(t, o) & 1) != 0) != o.isNegated; }
  void write(Thread &t, const Operand &o, uint64_t value) { t.registers.at(o.index) = value; }
  uint64_t addressOf(const Thread &t, const Operand &o) {
    return read(t, o) + o.value * (o.kind != Operand::Immediate);
  }
  int newSlot(bool isAsync);
  void branch(Thread &t, const Instruction &i) { t.at = size_t(i.target); }
  void exit(Thread &t, const Instruction &i);
  void call(Thread &t, const Instruction &i);
  void trap(Thread &t, const Instruction &i) { fail("a trap"); }
  void nothing(Thread &t, const Instruction &i) {}
  void dependency(Thread &t, const Instruction &i) { t.hasAwaited |= i.has("wait"); }

  // PtxMachineMemory.cpp
  struct SharedPlace {
    Block &block;
    uint64_t address; // in its own window
  };
  Block &blockOf(size_t rank, const Instruction &i); // of the cluster, which must not have ended
  SharedPlace placeOf(const Thread &t, uint64_t address, const Instruction &i);
  void reach(const Thread &t, Block &block, Stamp by); // an access that must come before the block's end
  uint8_t *sharedAt(Thread &t, uint64_t address, size_t bytes, bool isWrite, const Instruction &i);
  uint8_t *globalAt(const Thread &t, uint64_t address, size_t bytes, size_t alignment, const Instruction &i);
  void watchGlobal(Thread &t, uint64_t address, size_t bytes, bool isWrite, const Instruction &i);
  uint8_t *memoryAt(Thread &t, uint64_t address, size_t bytes, bool isWrite, const Instruction &i);
  void load(Thread &t, const Instruction &i);
  void store(Thread &t, const Instruction &i);
  void storeAsync(Thread &t, const Instruction &i);
  void atomic(Thread &t, const Instruction &i);
  void convertAddress(Thread &t, const Instruction &i);
  void mapAddress(Thread &t, const Instruction &i);

  // PtxMachineArithmetic.cpp
  void arithmetic(Thread &t, const Instruction &i);
  void halves(Thread &t, const Instruction &i);
  void convert(Thread &t, const Instruction &i);
  void convertPair(Thread &t, const Instruction &i);
  void move(Thread &t, const Instruction &i, Type type);
  void compare(Thread &t, const Instruction &i, Type type);
  bool floatArithmetic(Thread &t, const Instruction &i, Type type);
  bool integerArithmetic(Thread &t, const Instruction &i, Type type);
  uint64_t combine(const Instruction &i, Type type, uint64_t a, uint64_t b);

  // PtxMachineBarriers.cpp
  void arriveAtBarrier(std::span<Thread *const> threads, const Instruction &i);
  void barrier(Thread &t, const Instruction &i);
  void barrierOfWarps(Lanes lanes, const Instruction &i);
  void clusterArrive(Thread &t, const Instruction &i);
  void clusterWait(Thread &t, const Instruction &i);
  void syncWarp(Lanes lanes, const Instruction &i);
  void fence(Thread &t, const Instruction &i);
  void mbarrier(Thread &t, const Instruction &i);
  void waitForMbarrier(Thread &t, const Instruction &i);
  Mbarrier &mbarrierAt(const Thread &t, SharedPlace place, const Instruction &i);
  void expectBytes(Mbarrier &barrier, int64_t bytes, const Instruction &i);
  void arrive(Thread &t, SharedPlace place, int64_t count, int64_t bytes, const Instruction &i);
  void completeIfDone(SharedPlace place, Mbarrier &barrier);
  void await(AsyncGroups &groups, uint64_t left, Knowledge &knows);

  // PtxMachineWarp.cpp
  void shuffle(Lanes lanes, const Instruction &i);
  void vote(Lanes lanes, const Instruction &i);
  void elect(Lanes lanes, const Instruction &i);
  void reduceWarp(Lanes lanes, const Instruction &i);
  void setRegisters(Lanes lanes, const Instruction &i);

  // PtxMachineCopies.cpp
  void copy(Thread &t, const Instruction &i);
  void copyAsync(Thread &t, const Instruction &i);
  void copyBulk(Thread &t, const Instruction &i);
  void copyTensor(Thread &t, const Instruction &i);
  void loadBox(Thread &t, const Instruction &i, const TensorMap &map, std::span<const int64_t> start, SharedPlace to,
               SharedPlace signal);
  void storeBox(Thread &t, const Instruction &i, const TensorMap &map, std::span<const int64_t> start,
                SharedPlace from);
  const TensorMap &mapOf(Thread &t, const Operand &o, const Instruction &i);
  Stamp copyStamp(const Thread &t, SharedPlace signal, const Instruction &i);
  void finishCopy(const Thread &t, SharedPlace signal, Stamp stamp, int64_t bytes, const Instruction &i);
  Stamp bulkStoreStamp(Thread &t);

  // PtxMachineTensorCores.cpp
  void matrixMove(Lanes lanes, const Instruction &i); // ldmatrix and stmatrix
  void mma(Lanes lanes, const Instruction &i);
  void wgmma(Lanes lanes, const Instruction &i);
  void wgmmaGroups(Lanes lanes, const Instruction &i);
};

constexpr uint64_t tensorMapHandles = 0x7a00'0000'0000'0000; // where the addresses of tensor maps start
constexpr uint64_t sharedWindow = 0x7b00'0000'0000'0000;     // where generic addresses of shared memory start

} // namespace bitloom::ptx
