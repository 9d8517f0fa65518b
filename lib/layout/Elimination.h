// Gaussian elimination over GF(2): what LinearLayout's inverses and properties are computed with.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace bitloom {

// The reduced form of the matrix whose column i is the image of input bit i (at most 64 of each). Input bits are taken
// low to high: a bit whose column depends on those of lower bits is *free*, and yields the kernel vector that has it as
// its highest bit and no other free bit. The other columns, the pivots, are independent.
class Elimination {
public:
  explicit Elimination(const std::vector<uint64_t> &columns);

  int rank() const { return static_cast<int>(pivots.size()); }
  uint64_t freeBits() const { return free; }
  // The smallest input with this image; none if no input has it.
  std::optional<uint64_t> preimage(uint64_t image) const;
  // The smallest input with the same image as this one.
  uint64_t smallest(uint64_t input) const;

private:
  struct Row {
    uint64_t image, input; // the map takes input to image
  };
  void reduce(Row &row) const;

  std::vector<Row> pivots;
  std::vector<uint64_t> kernel;
  uint64_t free = 0;
};

} // namespace bitloom
