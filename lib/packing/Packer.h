// A packing made ready to be applied: what the host packers run.
//
// Any packing is planar packing of its values in another order, since a plane's layout is a bijection: value
// source[f·S + s] sits in field f of byte s of a plane of S bytes. So values are gathered, by copies of runs where the
// order has long ones, and then packed byte by byte with vectors. Short blocks are taken many at a time. The order
// columns, whose fields cross rows, is ColumnPacker.h's.
#pragma once

#include "bitloom/lib/packing/Packing.h"

#include <cstdint>
#include <vector>

namespace bitloom {

class Packer {
public:
  // For calls on up to `blocks` blocks at once; more are taken in turns. Not of the order columns. UserError: an
  // illegal packing.
  explicit Packer(const Packing &packing, int64_t blocks = 1 << 20);

  // values: packing.rows rows of blocks × packing.block, their low bits being the fields, what is above ignored; bytes:
  // blocks × packing.bytesPerBlock(). On the caller's thread; any number of threads may use one Packer.
  void pack(const uint8_t *values, uint8_t *bytes, int64_t blocks) const;
  // The inverse: fields with zeros above, or sign-extended.
  void unpack(const uint8_t *bytes, uint8_t *values, int64_t blocks, bool isSigned) const;

  const Packing &packing() const { return described; }

private:
  struct Run {
    int32_t from, to, length;
  };
  struct Plane {
    int bits, shift, byteOffset;
    int bytes;                   // of one block's plane
    std::vector<int32_t> source; // planar position → value
    std::vector<Run> runs;       // the same as copies, where they are long; else empty
  };
  struct Plan {
    int blocks; // taken at a time
    std::vector<Plane> planes;
  };

  Plan planFor(int blocks) const;
  void pack(const Plan &plan, const uint8_t *values, uint8_t *bytes) const;
  void unpack(const Plan &plan, const uint8_t *bytes, uint8_t *values, bool isSigned) const;
  void packRow(const uint8_t *values, uint8_t *bytes, int64_t blocks) const;
  void unpackRow(const uint8_t *bytes, uint8_t *values, int64_t blocks, bool isSigned) const;

  Packing described;
  Packing row;    // the same of one row
  Plan many, one; // of a row; what is left over is packed by the block
};

// Of the order columns: a row-major rows × columns matrix whose rows are a multiple of packing.rows and columns of its
// block. The low bits of values are the fields; unpacked, they have zeros above, or are sign-extended. On threads.
void packColumns(const Packing &packing, const uint8_t *values, int64_t rows, int64_t columns, uint8_t *bytes);
void unpackColumns(const Packing &packing, const uint8_t *bytes, int64_t rows, int64_t columns, uint8_t *values,
                   bool isSigned);

} // namespace bitloom
