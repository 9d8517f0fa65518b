// How the elements of a tile get from the threads that hold them under one layout to those that want them under
// another: by shuffles within warps, or through shared memory in an order without bank conflicts. Layouts of threads
// map (register, lane, warp), of 32 lanes, to the tile's dims.
//
// Both constructions follow Zhou et al., "Linear Layouts: Robust Code Generation of Efficient Tensor Computation Using
// F2" (2025); the proofs are in Exchange.cpp.
#pragma once

#include "bitloom/lib/layout/LinearLayout.h"

namespace bitloom {

//===- Through shared memory --------------------------------------------------------------------------------------===//

// What the accesses by which one warp writes or reads its part of a tile take. Shared memory has 32 banks of 4 bytes.
// An instruction that moves 4 bytes a thread, or less, takes one wavefront if no two lanes want different words of a
// bank; one that moves 8 or 16 bytes takes 2 or 4, each for a half or a quarter of the lanes.
struct SharedAccess {
  int32_t vector;       // elements that an instruction moves for a thread: neighbours in memory, at most 16 bytes
  int64_t instructions; // of a warp
  int64_t wavefronts;
  int64_t least; // wavefronts, if no lanes met at a bank: as many for each instruction as are needed for its bytes
};

// order: (offset) → the tile's dims, a bijection; offsets in elements, whose size is a power of two of at most 8 bytes.
SharedAccess sharedAccess(const LinearLayout &tile, const LinearLayout &order, int64_t elementBytes);

// The order in which a tile that is written as `from` has it and read as `to` has it wants to lie: without bank
// conflicts on either side, and of such orders, which move as vectors what both sides have in registers or what one
// has, that of the fewest wavefronts. `from` is surjective; `to` has the same output dims.
LinearLayout swizzledOrder(const LinearLayout &from, const LinearLayout &to, int64_t elementBytes);

//===- Within warps -----------------------------------------------------------------------------------------------===//

// In the threads that set an odd number of these bits of lane and warp, index i of an array gets what index i ^ flip
// has; in the others it keeps its own.
struct Selection {
  int32_t flip;
  int32_t lanes, warps; // masks
};

// Words of neighbouring elements move in rounds, numbered as the result's registers are:
//   1. a thread arranges the words of its source by the selections `before`;
//   2. in round r it sends the word whose index `places` names then, and gets that of the lane which `places` names;
//   3. it arranges what it got by the selections `after`: index r is the word of the result's register r.
struct ShufflePlan {
  // Which bits of the register index tell elements of one word apart: of the result's registers, and of the source's.
  // Rounds and indices of words have 0 there.
  std::vector<std::pair<int, int>> packed;
  std::vector<Selection> before, after;
  LinearLayout places;        // (register, lane, warp) → (register, lane): the source's of a round, less `start`
  LinearLayout::Vector start; // what is added to that
  bool isXor = false;         // whether a round's lane is one's own xor what `places` gives for the round

  int64_t shuffles() const; // of words
  int64_t selects() const;
};

// places: from (register, lane, warp) of the result to those of the source, with `start` added to them (in the order of
// the output dims). None if elements change warps, or the lanes of a source are too few to send theirs at a time.
std::optional<ShufflePlan> planShuffles(const LinearLayout &places, const LinearLayout::Vector &start,
                                        int64_t elementBytes);

} // namespace bitloom
