// The weight of low_bit_linear: its rows lie in the order `fragments` (lib/packing/Packing.h), in blocks of 128 columns
// that zeros fill up. A group of columns of a row shares a scale and, when asymmetric, a zero point: the value of a
// field q is scale · q, q signed, or scale · (q − zero), q unsigned. These numbers lie as a block reads them: [blocks,
// n, groups in a block], or for groups of several blocks [groups, n, 1].
#pragma once

#include "bitloom/dsl/Kernel.h"

#include <algorithm>

namespace bitloom::kernels {

struct BlockOfWeight {
  static constexpr int columns = 128;
  Packing packing;
  int rows;           // of a tile
  int groups, blocks; // a block has so many groups, or a group so many blocks

  BlockOfWeight(int bits, int group, int rows)
      : packing{.bits = bits, .order = Packing::Order::Fragments, .block = columns}, rows(rows),
        groups(std::max(1, columns / std::max(1, group))), blocks(std::max(1, group / columns)) {
    if (group < 8 || (group < columns ? (group & (group - 1)) != 0 : group % columns != 0))
      throw UserError("argument group: expected 8, 16, 32, 64 or a multiple of 128, got " + std::to_string(group));
    packing.check();
  }

  // Where a block's scales and zero points lie in the first dimension, and in the last.
  Scalar<i64> group(const Scalar<i64> &block) const { return blocks == 1 ? block : block / blocks; }
  Span all() const { return span(0, groups); }

  // Of them, each column's.
  template <class T> Tile<T, 2> each(const Tile<T, 2> &numbers) const {
    auto some = broadcast(expand(numbers, 2), {rows, groups, columns / groups});
    return reshape(some, {rows, columns});
  }

  // A block's values before their scales; `zeros` gives their zero points where there are such.
  template <class T, class Zeros>
  Tile<T, 2> values(const Tile<u8, 2> &bytes, bool asymmetric, const Zeros &zeros) const {
    if (!asymmetric)
      return cast<T>(unpack<i8>(bytes, packing));
    return cast<T>(unpack<u8>(bytes, packing)) - each<T>(zeros());
  }
};

} // namespace bitloom::kernels
