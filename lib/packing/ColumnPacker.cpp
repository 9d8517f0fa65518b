// The host packers of the order columns: blocks of several rows, piece by piece.
#include "bitloom/lib/packing/Packer.h"
#include "bitloom/lib/runtime/ThreadPool.h"

#include <algorithm>

namespace bitloom {

static std::vector<uint8_t> flippedBits(const Packing &packing) {
  std::vector<uint8_t> bits;
  for (int row = 0; row < packing.rows; ++row)
    bits.push_back(uint8_t(packing.flipped(row)));
  return bits;
}

// visit(first value, first byte) of every block, on threads that take whole rows of blocks.
template <class Visit> static void overBlocks(const Packing &packing, int64_t rows, int64_t columns, Visit visit) {
  const int64_t bytesPerRow = packing.bytesPerRow(columns), values = packing.rows * columns;
  parallelFor(
      rows / packing.rows, std::max<int64_t>(1, 65536 / std::max<int64_t>(values, 1)), [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i)
          for (int64_t column = 0, byte = 0; column < columns; column += packing.block, byte += packing.bytesPerBlock())
            visit(i * values + column, i * bytesPerRow + byte);
      });
}

void packColumns(const Packing &packing, const uint8_t *values, int64_t rows, int64_t columns, uint8_t *bytes) {
  const std::vector<Packing::Piece> pieces = packing.pieces();
  const std::vector<uint8_t> flipped = flippedBits(packing);
  overBlocks(packing, rows, columns, [&](int64_t from, int64_t to) {
    std::fill_n(bytes + to, packing.bytesPerBlock(), uint8_t{0});
    for (const Packing::Piece &p : pieces) {
      const int value = values[from + p.row * columns + p.column] ^ flipped[size_t(p.row)];
      bytes[to + p.byte] |= uint8_t((value >> p.valueShift & p.mask()) << p.shift);
    }
  });
}

void unpackColumns(const Packing &packing, const uint8_t *bytes, int64_t rows, int64_t columns, uint8_t *values,
                   bool isSigned) {
  const std::vector<Packing::Piece> pieces = packing.pieces();
  const std::vector<uint8_t> flipped = flippedBits(packing);
  const int sign = isSigned ? 1 << (packing.bits - 1) : 0;
  overBlocks(packing, rows, columns, [&](int64_t to, int64_t from) {
    for (int row = 0; row < packing.rows; ++row)
      std::fill_n(values + to + row * columns, packing.block, uint8_t{0});
    for (const Packing::Piece &p : pieces)
      values[to + p.row * columns + p.column] |= uint8_t((bytes[from + p.byte] >> p.shift & p.mask()) << p.valueShift);
    for (int row = 0; row < packing.rows; ++row)
      for (int column = 0; column < packing.block; ++column) { // (x ^ sign) - sign extends the sign of the low bits
        uint8_t &value = values[to + row * columns + column];
        value = uint8_t((value ^ flipped[size_t(row)] ^ sign) - sign);
      }
  });
}

} // namespace bitloom
