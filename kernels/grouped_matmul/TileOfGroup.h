// Programs for the tiles of groups of rows: group g has the rows offsets[g] to offsets[g + 1] - 1.
#pragma once

#include "bitloom/dsl/Kernel.h"

namespace bitloom::kernels {

// The tiles of a group begin at its first row. With s(g) = ⌊offsets[g] / block⌋ + g, a group of r rows has ⌈r / block⌉
// ≤ s(g + 1) − s(g) tiles, so program s(g) + i can take tile i of group g, and of rows / block + groups programs at
// most one a group finds nothing to do. Its group is that of the last s(g) not above its number, for which scalars are
// searched: what a program reads is then known ahead of it, and may be on its way sooner.
struct TileOfGroup {
  Scalar<i64> group, row, end; // row >= end: there is no such tile
};

// Of `program`; powerOfTwo: not less than the number of groups.
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

} // namespace bitloom::kernels
