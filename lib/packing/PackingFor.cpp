#include "bitloom/lib/packing/PackingFor.h"

#include "bitloom/lib/support/Error.h"

#include <algorithm>
#include <bit>

namespace bitloom {

namespace {
// The vectors of bytes that an instruction multiplies: the first row that a target has, and whose rows suffice.
struct VectorRow {
  Family family;
  const char *feature; // "": every target of the family
  int64_t rows;        // of the product, at least
  int lanes, block;
  int together; // rows of the weight, at least
  bool isUnsigned;
};
constexpr VectorRow vectors[] = {
    {.family = Family::Cpu_x86,
     .feature = "avx512vnni",
     .rows = 1,
     .lanes = 16,
     .block = 4,
     .together = 64,
     .isUnsigned = true},
    {.family = Family::Cpu_x86,
     .feature = "avxvnni",
     .rows = 1,
     .lanes = 8,
     .block = 4,
     .together = 32,
     .isUnsigned = true},
    {.family = Family::Cpu_x86,
     .feature = "avx2",
     .rows = 1,
     .lanes = 8,
     .block = 2,
     .together = 32,
     .isUnsigned = false},
    {.family = Family::Cpu_x86, .feature = "", .rows = 1, .lanes = 16, .block = 1, .together = 16, .isUnsigned = false},
    {.family = Family::Cpu_aarch64,
     .feature = "i8mm",
     .rows = 2,
     .lanes = 2,
     .block = 8,
     .together = 4,
     .isUnsigned = false},
    {.family = Family::Cpu_aarch64,
     .feature = "dotprod",
     .rows = 1,
     .lanes = 4,
     .block = 4,
     .together = 32,
     .isUnsigned = false},
    {.family = Family::Cpu_aarch64,
     .feature = "",
     .rows = 1,
     .lanes = 16,
     .block = 1,
     .together = 16,
     .isUnsigned = false},
};

const VectorRow &vectorsOf(const Target &target, int64_t rows) {
  for (const VectorRow &row : vectors)
    if (row.family == target.family && rows >= row.rows && (*row.feature == 0 || target.has(row.feature)))
      return row;
  throw UserError("expected a CPU target for a packing in the order columns, got " + target.name);
}

// Rows of a block of 128 columns that the copy engine brings together, in lines of up to 128 bytes: a line takes as
// long however short it is. What the rows have of the widest plane is one such line; of a narrower one next to it half
// of one or more.
int rowsForTensorCores(int bits) {
  const int widest = int(std::bit_floor(unsigned(bits)));
  return std::max(8 / widest, bits == widest ? 1 : 4);
}
} // namespace

Packing packingFor(const Target &target, int bits, int64_t rows) {
  if (!isCpu(target.family)) {
    Packing packing{.bits = bits, .order = Packing::Order::Fragments, .block = 128};
    packing.check();
    packing.rows = rowsForTensorCores(bits);
    return packing;
  }
  const VectorRow &row = vectorsOf(target, rows);
  Packing packing{.bits = bits, .order = Packing::Order::Columns, .block = row.block, .lanes = row.lanes};
  packing.rows = std::max(packing.unit().values * row.lanes, row.together);
  // The sum of the activations that biased fields want is the same for all rows: the more, the less often it is formed.
  if (row.family == Family::Cpu_aarch64 && *row.feature && rows == 1 && (bits == 2 || bits == 4))
    packing.rows *= 2;
  // In vectors of any length, neighbouring units are multiplied together: those of 64 bytes, the most that processors
  // have.
  if (target.scalableVectors && *row.feature)
    packing.rows = std::max(packing.rows, packing.unit().values * 64 / row.block);
  // With signed bytes and one row, bytes under growing masks give each of their pieces for a mask and a product: fewer
  // than a value takes to be put together. With more rows that is done once for all of them. One bit and seven have
  // pieces of one bit beside those at the top, whose sums may as well be subtracted.
  if (row.isUnsigned)
    packing.bias = Packing::Bias::All;
  else if (rows == 1 && (bits == 2 || bits == 4 || (*row.feature && bits > 1 && bits < 7)))
    packing.bias = Packing::Bias::Low;
  packing.check();
  return packing;
}

Packing activationPackingFor(const Target &target, int64_t rows) {
  const VectorRow &row = vectorsOf(target, rows);
  if (row.block != 8)
    return {.bits = 8, .order = Packing::Order::LowFirst, .block = 8};
  return {.bits = 8, .order = Packing::Order::Columns, .block = row.block, .rows = 8, .lanes = row.lanes};
}

} // namespace bitloom
