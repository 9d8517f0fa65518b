// The order columns made ready to be applied: what packs and unpacks panels of packing.rows rows.
#pragma once

#include "bitloom/lib/packing/Packing.h"

#include <cstdint>
#include <vector>

namespace bitloom {

class ColumnPacker {
public:
  explicit ColumnPacker(const Packing &packing); // of the order columns. UserError: an illegal one

  // One panel: packing.rows rows of values that begin `stride` apart, their low bits being the fields, and
  // packing.bytesPerRow(columns) bytes. On the caller's thread; any number of threads may use one packer.
  void pack(const uint8_t *values, int64_t stride, int64_t columns, uint8_t *bytes) const;
  // The inverse: fields with zeros above, or sign-extended.
  void unpack(const uint8_t *bytes, int64_t stride, int64_t columns, uint8_t *values, bool isSigned) const;

private:
  Packing described;
  Packing::Unit unit;
  std::vector<int> flips; // by value of a unit
};

} // namespace bitloom
