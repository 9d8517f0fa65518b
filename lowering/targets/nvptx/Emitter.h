// The state of lowering one kernel to one thread's program: every tile is one SSA value per register of its layout, a
// scalar is a single value. The lowerings of the operations are free functions over an Emitter, a file per kind.
#pragma once

#include "bitloom/lib/runtime/TensorMap.h"
#include "bitloom/lib/target/Target.h"
#include "bitloom/lowering/dialect/Tile.h"
#include "bitloom/lowering/targets/nvptx/Costs.h"
#include "bitloom/lowering/targets/nvptx/Layouts.h"
#include "bitloom/lowering/targets/nvptx/Mma.h"
#include "bitloom/lowering/transforms/Float8.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/IR/Builders.h"

#include <functional>
#include <unordered_map>

namespace bitloom::nvptx {

using Registers = llvm::SmallVector<mlir::Value>;

struct ViewWords {
  mlir::Value pointer;                             // !llvm.ptr<1>
  llvm::SmallVector<mlir::Value> extents, strides; // i64, in elements; strides.back() is null when it is known to be 1
  mlir::Type element;
  int64_t alignment; // of the pointer and the outer strides, in bytes
};

class Emitter {
public:
  Emitter(mlir::func::FuncOp kernel, Target target);

  // Puts the lowered function in the place of the kernel.
  llvm::LogicalResult run();

  // --- Values ---
  const Registers &get(mlir::Value tile);
  mlir::Value scalar(mlir::Value value) { return get(value).front(); }
  void put(mlir::Value tile, Registers registers);
  // The registers are computed by `unpack` where they are used, and until then wait as what it takes them from.
  void putLazily(mlir::Value tile, std::function<Registers()> unpack);
  const ViewWords &view(mlir::Value value) const { return views.at(value); }
  // Of unpacked values, what they are taken from: the byte of each, and where in it the value starts.
  struct PackedFields {
    Registers bytes;
    llvm::SmallVector<int> shifts;
  };
  void putFields(mlir::Value tile, PackedFields fields) { packedFields[tile] = std::move(fields); }
  const PackedFields *fields(mlir::Value tile) { // null where a shift differs among threads
    auto found = packedFields.find(tile);
    return found == packedFields.end() ? nullptr : &found->second;
  }

  mlir::Value i32(int64_t value);
  mlir::Value i64(int64_t value);
  mlir::Value zero(mlir::Type scalarType);
  mlir::Value truth(bool value);
  mlir::Value both(mlir::Value a, mlir::Value b); // of i1, null standing for true
  mlir::Value select(mlir::Value condition, mlir::Value yes, mlir::Value no);
  mlir::Value compare(mlir::Value a, const char *predicate, mlir::Value b); // "slt", "ult", … of integers
  // The value as an integer of as many bits as memory holds of it (i1 becomes i8), and back.
  mlir::Value toBits(mlir::Value value);
  mlir::Value fromBits(mlir::Value bits, mlir::Type type);
  mlir::Value ptx(llvm::StringRef text, llvm::StringRef constraints, mlir::Type result, mlir::ValueRange operands,
                  bool hasSideEffects);

  // --- Layouts ---
  const LinearLayout &layout(mlir::Type tile) { return layouts.of(tile); }
  int registersOf(mlir::Type tile); // 1 for a scalar
  const std::vector<LinearLayout::Vector> &registerCoordinates(const LinearLayout &layout);
  // A register's coordinate along `dim`, i32: that of the thread, computed once at the kernel's entry, and the
  // register's.
  mlir::Value coordinate(const LinearLayout &layout, int dim, int registerIndex);
  mlir::Value threadCoordinate(const LinearLayout &layout, int dim);
  // The image of (0, lane, warp) under any layout from these dims; null when it is 0 in every thread.
  mlir::Value threadImage(const LinearLayout &layout, size_t out);
  int32_t threadBits(const LinearLayout &layout, int dim); // the bits that some lane or warp sets
  // In no thread, or in every thread, does the register hold an element inside the shape.
  bool isDead(const LinearLayout &layout, llvm::ArrayRef<int64_t> shape, int registerIndex);
  bool isInside(int32_t registerCoordinate, int32_t threadBits, int64_t extent) {
    return (registerCoordinate | threadBits) < extent;
  }
  // Of the threads that hold replicas of the same elements, one; null when there are none.
  mlir::Value isFirstReplica(const LinearLayout &layout);

  // --- The block ---
  mlir::Value laneId() const { return laneValue; }
  mlir::Value warpId() const { return warpValue; }
  mlir::Value linearThreadId() const { return threadValue; }
  int warps() const { return warpCount; } // that hold a tile
  mlir::Value programId(int axis);        // i32
  mlir::Value gridExtent(int axis);       // i32
  llvm::StringRef kernelName() { return function.getName(); }
  void barrier();
  // Shared memory for one exchange, 16-byte aligned; !llvm.ptr<3>. Waits where earlier readers may not be done: then
  // write, barrier(), read. UserError when the block cannot have that much: `loc` is then the line that takes the most.
  // Among all threads of the program; UserError, too, where these are several blocks'.
  mlir::Value scratch(int64_t bytes);
  mlir::Value blockScratch(int64_t bytes); // among the block's
  // The same of a few bytes, but two places in turn in a loop: who writes there has been at the barrier() of the
  // exchange between, and the others after they read, so that none is needed before.
  mlir::Value alternatingScratch(int64_t bytes);
  // Shared memory that is this caller's alone; the offset in bytes. `costs` says which lines it is for, where that is
  // worth a mention in an error. UserError as scratch().
  int64_t reserve(int64_t bytes, int64_t alignment, llvm::ArrayRef<Cost> costs);
  // The same until the last use of the operation's result: later ones may have it then, past a barrier.
  int64_t reserveWhileUsed(mlir::Operation *op, int64_t bytes, int64_t alignment, const Cost &cost);
  mlir::Value sharedAt(int64_t offset);                                               // i32 address
  mlir::Value sharedAddress(mlir::Value base, mlir::Value index, mlir::Type element); // index: i32, in elements
  void sharedStore(mlir::Value address, mlir::Value value);
  mlir::Value sharedLoad(mlir::Value address, mlir::Type type);
  // shfl.sync of any scalar: from lane ^ mask, or from the lane (i32) given.
  mlir::Value shuffleXor(mlir::Value value, int mask);
  mlir::Value shuffleFrom(mlir::Value value, mlir::Value lane);
  // A private constant array in global memory, and a global string.
  mlir::Value globalConstant(mlir::DenseElementsAttr values);
  mlir::Value globalString(llvm::StringRef text); // a generic pointer, null-terminated
  // The function of this name and type, declared at the first use.
  mlir::LLVM::LLVMFuncOp declare(llvm::StringRef name, mlir::LLVM::LLVMFunctionType type);
  // A body under a condition on this thread, without results; null stands for true.
  void when(mlir::Value condition, llvm::function_ref<void()> body);

  // --- Blocks of a cluster that hold tiles together: the lane, the warp and the thread are those among all ---
  bool spansCluster() const { return clusterSize > 1 && !isSpecialized; }
  int blockWarps() const { return spansCluster() ? warpCount / clusterSize : warpCount; }
  // An exchange among those that differ in some bits of their ranks. All their threads: beginExchange(), clusterStore()
  // to the block of a rank at such an address of one's own, awaitExchange(), and read `base`.
  struct ClusterExchange {
    mlir::Value base;            // !llvm.ptr<3>, 16-byte aligned, the same in each block
    mlir::Value barrier, parity; // i32
  };
  // `bytes` of shared memory, into which so many are written in each block. Whoever comes here has met the block's
  // other threads after they read what the exchange before this one brought, `haveMet`, or meets them now.
  ClusterExchange beginExchange(int32_t ranks, int64_t bytes, int64_t written, bool haveMet);
  // A value of 32 or 64 bits, by the threads of which `condition` holds; null stands for true.
  void clusterStore(const ClusterExchange &exchange, mlir::Value address, mlir::Value rank, mlir::Value value,
                    mlir::Value condition);
  void awaitExchange(const ClusterExchange &exchange) { waitFor(exchange.barrier, exchange.parity); }
  void meetCluster(); // all of them, and what they wrote before is seen after
  // Gathers whose elements must be there before the reduction's threads meet (emitBlock).
  llvm::ArrayRef<tile::GatherOp> gathersBefore(tile::ReduceOp reduce) { return readBefore[reduce]; }

  // --- Roles: with a tile.specialize, the block has a warpgroup more than the layouts speak of (the producer) ---
  llvm::LogicalResult emitSpecialize(tile::SpecializeOp specialize);
  // Of the ring's slots and barriers.
  struct Ring {
    int stages;
    int64_t slots, slotBytes, full, empty;  // offsets in shared memory; a barrier takes 8 bytes
    llvm::SmallVector<int64_t> tileOffsets; // in a slot
    int64_t copiedBytes;                    // by one fill
    mlir::Value fillSlot, fillPhase, frontSlot, frontPhase, popSlot; // pointers to i32 of the thread
    mlir::Value startSlot, startPhase;                               // of a program's first step, where groups share it
    mlir::Value front{};                                             // i32: the slot that was waited for last
  };
  Ring &ring(mlir::Value value) { return rings[value]; }
  bool hasRoles() const { return isSpecialized; }
  int consumerCount() const { return consumers; }
  int stepGroups() const { return stepGroupCount; } // that take a program's steps in turn
  mlir::Value stepGroup();                          // i32
  mlir::Value blockGroup();                         // i32: of all the block's warpgroups, the producer's last
  mlir::Value isFirstProgram() const { return isFirstProgramValue; }
  // Blocks may have started while it runs (LaunchOptions::overlapPrevious). All that it wrote is seen by the threads
  // that have been here.
  void awaitPreviousLaunch();
  void admitNextLaunch(); // its blocks, where there is room for them, once a thread of each of ours has been here
  int fillingWarp() const { return fillingWarpNumber; } // of those that share the copies, the one emitted for
  int clusterBlocks() const { return clusterSize; }
  mlir::Value clusterRank();                          // i32
  struct ClusterSum {                                 // of the one tile.cluster_sum
    int64_t slots = 0, bytes = 0, full = 0, free = 0; // offsets in shared memory, and the bytes of a slot
    mlir::Value phase{};
    int64_t ofGroups = 0; // slots of the block's other groups
  };
  const ClusterSum &sumRoom() const { return clusterSum; }
  // Where blocks share the steps of programs (StreamK.cpp); all i32 but the workspace's address.
  struct Stream {
    mlir::Value steps, programs, blocks, position; // of a program; of the grid; that run; of this block among them
    mlir::Value streamed, sharing;                 // programs whose steps are shared; blocks that have a range of them
    mlir::Value perBlock, rest;                    // steps of a range, and how many ranges have one more
    mlir::Value begin, end, firstProgram, parts;   // this block's share of them, and in how many programs that lies
    mlir::Value workspace;                         // i64
  };
  struct Share {
    mlir::Value program, first, end, before; // see tile.share
    mlir::Value isStreamed;
  };
  const Stream &stream() const { return streamValues; }
  const Share &share() const { return shareValues; }
  // On barriers in shared memory (i32 addresses): made for so many arrivals; until the phase of a parity is complete.
  void initialiseBarrier(mlir::Value barrier, int arrivals);
  // An acquire among the block's threads: one in the cluster would invalidate the first-level cache.
  void waitFor(mlir::Value barrier, mlir::Value parity);
  mlir::Value localWord(); // a pointer to an i32 of the thread, 0 at first
  // The kernel's parameter that holds the tensor map of this load or staged store.
  mlir::Value tensorMap(mlir::Operation *access);
  // The address of a tile in shared memory, i32.
  mlir::Value sharedTile(mlir::Value tile) { return sharedTiles.at(tile); }
  void putShared(mlir::Value tile, mlir::Value address) { sharedTiles[tile] = address; }
  mlir::Value warpGroup();                          // i32, the same for all of a warp as far as the assembler can see
  int64_t stagingOffset() const { return staging; } // of the staged stores' buffers
  int64_t stagedBytes() const { return stagedBox; } // of one of them
  bool areStagedEvenly() const { return stagedEvenly; } // every store leaves the first buffer as the next in turn
  int &stagedTurn() { return turnOfStaged; }            // the buffer that the next piece of a store takes
  std::optional<StagedStore> staged(tile::StoreOp store) {
    return isSpecialized ? stagedStore(store, layouts, warpCount) : std::nullopt;
  }

  llvm::LogicalResult emit(mlir::Operation *op);
  llvm::LogicalResult emitBlock(mlir::Block &block); // all but its terminator
  llvm::LogicalResult emitElementwise(mlir::Operation *op);
  // The combiner of a reduce or a scan on two tuples.
  Registers combine(mlir::Region &combiner, mlir::ValueRange left, mlir::ValueRange right);

  mlir::OpBuilder builder;
  mlir::Location loc;
  const Target target;

private:
  mlir::Value shuffle(mlir::Value value, mlir::Value offset, bool isXor);
  llvm::LogicalResult emitFor(mlir::Operation *op);
  llvm::LogicalResult emitWhile(mlir::Operation *op);
  llvm::LogicalResult emitIf(mlir::Operation *op);
  llvm::LogicalResult emitConstant(mlir::Operation *op);
  bool emitRangeTest(mlir::Operation *op); // false where it is none
  bool emitIndexTest(mlir::Operation *op); // the same
  void orderGathers(mlir::Block &block);
  void mapArguments();
  Registers expand(mlir::ValueRange values);
  // What a loop carries: narrow elements as words, in which loads and stores move them.
  Registers carried(mlir::ValueRange values);
  void bindCarried(mlir::ValueRange tiles, mlir::ValueRange values);
  // Takes as many of `values` as each of `tiles` has registers.
  void bind(mlir::ValueRange tiles, mlir::ValueRange values);
  llvm::SmallVector<mlir::Type> expandedTypes(mlir::TypeRange types);

  llvm::SmallVector<Cost> sharedCosts() const;
  void checkShared();
  void checkRegisters(int blockWarps);
  void collectTensorMaps();
  void describeTensorMaps(); // on the lowered function
  void allocateRings();
  void enterCluster(); // the prologue where a cluster's blocks hold tiles together
  void awaitClusterStart();
  mlir::Value turnOf(int64_t bytes); // 0 and `bytes` by turns, where it is computed
  void prepareClusterSum(tile::ClusterSumOp sum);
  void prepareStream(mlir::Value steps, mlir::Value programs, mlir::Value block, mlir::Value blocks);
  mlir::Value streamedParts();           // i32: how many parts of programs the block does
  mlir::Value beginShare(mlir::Value n); // of the n-th of them; the program

  mlir::func::FuncOp kernel;
  mlir::LLVM::LLVMFuncOp function;
  mlir::LLVM::GlobalOp sharedMemory;
  mlir::Operation *prologueEnd = nullptr; // values of use everywhere are computed before it
  int warpCount, loopDepth = 0, constants = 0, wordCount = 0;
  mlir::Value laneValue, warpValue, threadValue;
  struct Lazy {
    std::function<Registers()> unpack;
    mlir::Block *done = nullptr; // where the present registers were computed
  };
  llvm::DenseMap<mlir::Value, Registers> tiles;
  llvm::DenseMap<mlir::Value, Lazy> lazyTiles;
  llvm::DenseMap<mlir::Value, PackedFields> packedFields;
  llvm::DenseMap<mlir::Operation *, llvm::SmallVector<tile::GatherOp>> readBefore; // by reductions
  llvm::DenseSet<mlir::Operation *> waitsForGathers;                               // by a barrier of its own
  llvm::DenseMap<mlir::Value, ViewWords> views;
  Layouts layouts;
  std::unordered_map<LinearLayout, std::vector<LinearLayout::Vector>> coordinates;
  std::unordered_map<LinearLayout, std::vector<mlir::Value>> threadCoordinates;
  llvm::StringMap<mlir::LLVM::GlobalOp> strings;
  // Shared memory: regions used once, then one that exchanges take in turn, a barrier before each.
  int64_t onceBytes = 0, turnBytes = 0;
  llvm::SmallVector<std::pair<mlir::LLVM::ConstantOp, int64_t>> onceOffsets;
  llvm::SmallVector<mlir::LLVM::ConstantOp> turnOffsets;
  llvm::SmallVector<Cost> keptCosts; // of what is not taken in turn
  std::optional<Cost> turnCost;      // the largest of the rest
  // Before both: what is reserved, some of it only while an operation's result is used.
  struct Slot {
    int64_t offset, bytes;
    mlir::Operation *user;
  };
  int64_t reservedBytes = 0;
  llvm::SmallVector<Slot> slots;
  llvm::DenseMap<mlir::Value, mlir::Value> sharedTiles;

  // Of a kernel with roles.
  bool isSpecialized = false, inRole = false;
  int fillingWarpNumber = 0;
  int consumers = 1;      // groups of warps that take programs in turn, or
  int stepGroupCount = 1; // as many the steps of each
  int clusterSize = 1;
  // Where the blocks say that they have started, and where they have waited for it; null before that is needed.
  mlir::Operation *saysClusterStarted = nullptr;
  struct ExchangeBarriers {
    int64_t offset;    // of two in shared memory
    mlir::Value round; // a pointer to an i32 of the thread: of the next exchange, modulo 4
  };
  llvm::SmallDenseMap<int32_t, ExchangeBarriers> exchangeBarriers; // by the bits of the ranks
  ClusterSum clusterSum;
  bool sharesSteps = false;
  Stream streamValues;
  Share shareValues;
  llvm::DenseMap<mlir::Value, Ring> rings;
  llvm::SmallVector<mlir::Value, 3> programIds, gridExtents; // i32
  mlir::Value warpGroupValue, blockGroupValue, isFirstProgramValue;
  llvm::DenseMap<mlir::Operation *, int> mapOf; // index in requests
  std::vector<TensorMapRequest> requests;
  int64_t staging = -1, stagedBox = 0; // offset, and the bytes of a buffer
  bool stagedEvenly = true;
  int turnOfStaged = 0;
};

// One lowering each; failure with a diagnostic on the operation. Emitter::emit dispatches to them.
llvm::LogicalResult lower(Emitter &, tile::LoadOp);
llvm::LogicalResult lower(Emitter &, tile::StoreOp);
llvm::LogicalResult lower(Emitter &, tile::GatherOp);
llvm::LogicalResult lower(Emitter &, tile::ScatterOp);
llvm::LogicalResult lower(Emitter &, tile::AtomicOp);
llvm::LogicalResult lower(Emitter &, tile::ReduceOp);
bool meetsAll(Emitter &, tile::ReduceOp); // whether all threads of all blocks meet in it
llvm::LogicalResult lower(Emitter &, tile::ScanOp);
llvm::LogicalResult lower(Emitter &, tile::ConvertLayoutOp);
llvm::LogicalResult lower(Emitter &, tile::ReshapeOp);
llvm::LogicalResult lower(Emitter &, tile::TransposeOp);
llvm::LogicalResult lower(Emitter &, tile::BroadcastOp);
llvm::LogicalResult lower(Emitter &, tile::JoinOp);
llvm::LogicalResult lower(Emitter &, tile::SplitOp);
llvm::LogicalResult lower(Emitter &, tile::SliceOp);
llvm::LogicalResult lower(Emitter &, tile::UnpackOp);
llvm::LogicalResult lower(Emitter &, tile::PackOp);
llvm::LogicalResult lower(Emitter &, tile::LutOp);
llvm::LogicalResult lower(Emitter &, tile::DotOp);
llvm::LogicalResult lower(Emitter &, tile::PrintOp);
llvm::LogicalResult lower(Emitter &, tile::AssertOp);
llvm::LogicalResult lower(Emitter &, tile::RingOp);
llvm::LogicalResult lower(Emitter &, tile::FillOp);
llvm::LogicalResult lower(Emitter &, tile::FrontOp);
llvm::LogicalResult lower(Emitter &, tile::PopOp);
llvm::LogicalResult lower(Emitter &, tile::DotWaitOp);
llvm::LogicalResult lower(Emitter &, tile::TakeTurnOp);
llvm::LogicalResult lower(Emitter &, tile::PassTurnOp);
llvm::LogicalResult lower(Emitter &, tile::AwaitGroupOp);
llvm::LogicalResult lower(Emitter &, tile::AdmitGroupOp);
llvm::LogicalResult lower(Emitter &, tile::ClusterRankOp);
llvm::LogicalResult lower(Emitter &, tile::ClusterSumOp);
llvm::LogicalResult lower(Emitter &, tile::ShareOp);
llvm::LogicalResult lower(Emitter &, tile::ShareSumOp);
// A dot with an operand in shared memory.
llvm::LogicalResult lowerWgmma(Emitter &, tile::DotOp);
llvm::LogicalResult lowerMma(Emitter &, tile::DotOp);
// Accumulators in and out of one piece of PTX, in which they are $0, $1, …; `text` may use the operands after them as
// $(2n), …. `startsThem`: what they were is not read, and the operands after them are $n, ….
void throughAccumulators(Emitter &, llvm::MutableArrayRef<mlir::Value> sums, const std::string &text,
                         const std::string &moreConstraints, mlir::ValueRange more, bool startsThem = false);
// Before the first tile.await_group of a kernel with roles, in its consumers.
void admitFirstGroup(Emitter &);
// {$first, …}
std::string braced(size_t first, size_t count);
// False where the store is none of accumulators that the copy engine can write.
bool lowerStaged(Emitter &, tile::StoreOp);
// Starts this thread's share of the copies of a load to its place in shared memory (i32), see planCopies.
void copyToShared(Emitter &, tile::LoadOp, mlir::Value address);
// What the thread holds of the load's result (ownChunk), asynchronously to its own places in such a slot of so many
// bytes, and from there.
int64_t ownSlotBytes(Emitter &, mlir::Type tile);
void copyToOwnPlaces(Emitter &, tile::LoadOp, mlir::Value address);
Registers readOwnPlaces(Emitter &, mlir::RankedTensorType type, mlir::Value address);
// A conversion whose result lies in shared memory.
void putInShared(Emitter &, tile::ConvertLayoutOp);
// A view's offsets (i64) as those of the copy engine, i32 and innermost first.
llvm::SmallVector<mlir::Value> copyCoordinates(Emitter &, mlir::Value view, mlir::ValueRange offsets);
// One store of up to four words to an i32 address.
void storeSharedWords(Emitter &, mlir::Value address, mlir::ValueRange words);
// `elements` values of one type as i32 words, or as one i16 or i8 where they take less.
llvm::SmallVector<mlir::Value> packWords(Emitter &, mlir::ValueRange elements);
// The reverse: `count` elements.
Registers unpackWords(Emitter &, mlir::ValueRange words, mlir::Type element, int64_t count);
// One scalar operation of math, or one of arith that needs more than its LLVM counterpart; null where it is neither.
mlir::FailureOr<mlir::Value> lowerMath(Emitter &, mlir::Operation *op, mlir::ValueRange operands);
// A division of f32 tiles where several registers have the same divisor; false where that does not hold.
bool lowerDivision(Emitter &, mlir::arith::DivFOp division);
// A conversion of packed values to 16-bit floats; false where it is none, or must go value by value.
bool lowerPackedCast(Emitter &, mlir::Operation *op);
// Packed values looked up in a table that every thread holds; false where they must be looked up one by one.
bool lowerPackedLookup(Emitter &, tile::LutOp lut);
// A conversion to or from 8-bit floats; false where it is none.
mlir::FailureOr<bool> lowerFloat8Cast(Emitter &, mlir::Operation *op);
// Codes of 8-bit floats of the format as numbers of another float type, exactly.
Registers widenFloat8(Emitter &, mlir::ValueRange codes, mlir::Type format, mlir::Type to);
// Rewrites what lowerMath left, as polynomials.
llvm::LogicalResult expandMath(mlir::Operation *function);

// The tile `source`, held as `from` says, as `to` wants it: element i of the result is element i + offsets of the
// source (offsets empty: 0). Both layouts have the same number of dims; `shape` is the source's.
Registers exchange(Emitter &, const Registers &source, mlir::Type element, const LinearLayout &from,
                   llvm::ArrayRef<int64_t> shape, const LinearLayout &to, llvm::ArrayRef<int64_t> offsets = {});
// Writes the tile to `base` in row-major order of its real shape, each element once.
void storeShared(Emitter &, const Registers &source, const LinearLayout &from, llvm::ArrayRef<int64_t> shape,
                 mlir::Value base);
// What lies there in that order, of a tile of this shape, as `to` wants it: the elements at its coordinates plus start.
Registers loadShared(Emitter &, mlir::Type element, const LinearLayout &to, llvm::ArrayRef<int64_t> shape,
                     const LinearLayout::Vector &start, mlir::Value base);
// What lies in shared memory as its layout says, as the result's layout wants it.
Registers loadConverted(Emitter &, tile::ConvertLayoutOp);
// Sum over dims of coordinate · stride, i32.
mlir::Value flatIndex(Emitter &, llvm::ArrayRef<mlir::Value> coordinates, llvm::ArrayRef<int64_t> shape);

} // namespace bitloom::nvptx
