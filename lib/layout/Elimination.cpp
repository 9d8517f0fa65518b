#include "bitloom/lib/layout/Elimination.h"

#include <bit>

namespace bitloom {

Elimination::Elimination(const std::vector<uint64_t> &columns) {
  for (size_t i = 0; i < columns.size(); ++i) {
    Row row{columns[i], uint64_t{1} << i};
    reduce(row);
    if (row.image != 0) {
      pivots.push_back(row);
    } else {
      free |= uint64_t{1} << i;
      kernel.push_back(row.input);
    }
  }
}

// Clears the leading bits of all pivots. Each pivot was reduced by those before it, so none sets the leading bit of an
// earlier one, and one pass in order suffices.
void Elimination::reduce(Row &row) const {
  for (const Row &pivot : pivots)
    if (row.image & std::bit_floor(pivot.image)) {
      row.image ^= pivot.image;
      row.input ^= pivot.input;
    }
}

// What reduce() adds to the input is made of pivot bits only, so the preimage has no free bit: it is the smallest.
std::optional<uint64_t> Elimination::preimage(uint64_t image) const {
  Row row{image, 0};
  reduce(row);
  if (row.image != 0)
    return std::nullopt;
  return row.input;
}

uint64_t Elimination::smallest(uint64_t input) const {
  for (uint64_t vector : kernel)
    if (input & std::bit_floor(vector))
      input ^= vector;
  return input;
}

} // namespace bitloom
