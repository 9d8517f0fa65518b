// Programs for the tiles of groups of rows: group g has the rows offsets[g] to offsets[g + 1] - 1.
#pragma once

#include "bitloom/dsl/Kernel.h"

#include <bit>
#include <vector>

namespace bitloom::kernels {

struct TileOfGroup {
  Scalar<i64> group, row, end; // row >= end: there is no such tile
};

// The tiles of a group begin at its first row. With s(g) = ⌊offsets[g] / block⌋ + g, a group of r rows has ⌈r / block⌉
// ≤ s(g + 1) − s(g) tiles, so program s(g) + i can take tile i of group g, and of rows / block + groups programs at
// most one a group finds nothing to do. Its group is that of the last s(g) not above its number, for which scalars are
// searched: what a program reads is then known ahead of it, and may be on its way sooner. `powerOfTwo`: not less than
// the number of groups.
inline TileOfGroup tileOfGroup(const View<const i32, 1> &offsets, const Scalar<i64> &program, int block,
                               int powerOfTwo) {
  auto at = [&](const Scalar<i64> &g) { return cast<i64>(Scalar<i32>(offsets(g))); };
  Scalar<i64> group = 0;
  for (int step = powerOfTwo / 2; step; step /= 2) {
    auto next = group + step;
    auto begun = (next + 1 < offsets.extent(0)) & (at(next) / block + next <= program);
    group = where(begun, next, group);
  }
  auto start = at(group);
  return {group, start + (program - start / block - group) * block, at(group + 1)};
}

// The same tiles without gaps: those that do not exist come after all others, so that blocks which take every n-th
// program have as many each. Counts the tiles of one group after the other, in rows; their ends are loaded some at a
// time.
inline TileOfGroup countedTileOfGroup(const View<const i32, 1> &offsets, const Scalar<i64> &program, int block) {
  constexpr int together = 8;
  auto at = [&](const Scalar<i64> &g) { return Scalar<i32>(offsets(g)); };
  auto wholeTiles = [&](const Scalar<i32> &rows) -> Scalar<i32> {
    auto above = rows + (block - 1);
    return std::has_single_bit(unsigned(block)) ? above & -block : above / block * block;
  };
  const Scalar<i64> groups = offsets.extent(0) - 1;
  const Scalar<i32> wanted = cast<i32>(program) * block;
  Scalar<i32> group = 0, first = 0, counted = 0, start = at(0); // `first`: rows of the tiles before the group's
  for (auto g : range(0, groups, together)) {
    std::vector<Scalar<i32>> ends;
    for (int i = 1; i <= together; ++i)
      ends.push_back(at(g + i));
    for (const Scalar<i32> &offset : ends) {
      auto end = maximum(offset, start); // no rows after the last group
      counted = counted + wholeTiles(end - start);
      auto isBefore = counted <= wanted;
      group = group + cast<i32>(isBefore);
      first = where(isBefore, counted, first);
      start = end;
    }
  }
  const Scalar<i64> own = minimum(cast<i64>(group), groups - 1);
  return {own, cast<i64>(at(own) + (wanted - first)), cast<i64>(at(own + 1))};
}

} // namespace bitloom::kernels
