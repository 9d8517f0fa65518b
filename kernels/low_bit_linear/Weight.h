// The weight of low_bit_linear: it lies in the order `fragments` (lib/packing/Packing.h), in blocks of `together` rows
// by 128 columns that zeros fill up, as packingFor (lib/packing/PackingFor.h) says for GPUs. A group of columns of a
// row shares a scale and, when asymmetric, a zero point: the value of a field q is scale · q, q signed, or scale · (q −
// zero), q unsigned. These numbers lie as a block reads them: [blocks, n · groups in a block], a row's together, or for
// groups of several blocks [groups, n]. Instead of being numbers, fields of 4 bits may be places in a table.
#pragma once

#include "bitloom/dsl/Kernel.h"

#include <algorithm>
#include <optional>

namespace bitloom::kernels {

// Of a Meta parameter `together`: packingFor's rows, of `bits`.
inline constexpr auto rowsTogether = "4 + 4 * (bits == 1) - 2 * (bits == 4) - 3 * (bits == 8)";

struct BlockOfWeight {
  static constexpr int columns = 128;
  Packing packing;
  int rows;           // of a tile
  int groups, blocks; // a block has so many groups, or a group so many blocks

  BlockOfWeight(int bits, int group, int together, int rows)
      : packing{.bits = bits, .order = Packing::Order::Fragments, .block = columns, .rows = together}, rows(rows),
        groups(std::max(1, columns / std::max(1, group))), blocks(std::max(1, group / columns)) {
    if (group < 8 || (group < columns ? (group & (group - 1)) != 0 : group % columns != 0))
      throw UserError("argument group: expected 8, 16, 32, 64 or a multiple of 128, got " + std::to_string(group));
    packing.check();
    if (rows % together)
      throw UserError("argument block_n: expected a multiple of " + std::to_string(together) + ", got " +
                      std::to_string(rows));
  }

  // A tile's rows of blocks.
  Span panels(const Scalar<i64> &tile) const { return block_at(tile, rows / packing.rows); }

  // Where a block's scales and zero points lie in the first dimension, and a tile's in the last.
  Scalar<i64> group(const Scalar<i64> &block) const { return blocks == 1 ? block : block / blocks; }
  Span numbers(const Scalar<i64> &tile) const { return block_at(tile, rows * groups); }

  // Of them, each column's.
  template <class T> Tile<T, 2> each(const Tile<T, 1> &numbers) const {
    auto some = broadcast(expand(reshape(numbers, {rows, groups}), 2), {rows, groups, columns / groups});
    return reshape(some, {rows, columns});
  }

  // A block's values before their scales: what a table of 16 has for each field, or the fields, less the zero points
  // that `zeros` gives where there are such.
  template <class T, class Zeros>
  Tile<T, 2> values(const Tile<u8, 2> &bytes, const std::optional<Tile<T, 1>> &table, bool asymmetric,
                    const Zeros &zeros) const {
    if (table)
      return lut(*table, unpack<u8>(bytes, packing));
    if (!asymmetric)
      return cast<T>(unpack<i8>(bytes, packing));
    return cast<T>(unpack<u8>(bytes, packing)) - each<T>(zeros());
  }

  // The table, if there is one.
  template <class T>
  std::optional<Tile<T, 1>> entries(const View<const T, 1> &table, bool tabled, bool asymmetric) const {
    if (!tabled)
      return std::nullopt;
    if (packing.bits != 4 || asymmetric)
      throw UserError("argument table: expected weights of 4 bits without zero points, got " +
                      std::to_string(packing.bits) + " bits" + (asymmetric ? " with zero points" : ""));
    return Tile<T, 1>(table(span(0, 16)));
  }
};

} // namespace bitloom::kernels
