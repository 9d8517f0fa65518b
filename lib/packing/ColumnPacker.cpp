// The host packers of the order columns. Runs of `block` columns are moved so that the values of each vector lie
// together, and then whole vectors are shifted, masked and merged.
#include "bitloom/lib/packing/ColumnPacker.h"

#include "bitloom/lib/packing/Packer.h"
#include "bitloom/lib/runtime/ThreadPool.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

namespace bitloom {

#if defined(__x86_64__)
#define BITLOOM_ANY_VECTORS [[gnu::target_clones("avx2", "default")]]
#else
#define BITLOOM_ANY_VECTORS
#endif

// Bytes that are merged at once: a few vectors, which stay in the first-level cache. A power of two, as vectors are.
constexpr int64_t bytesAtATime = 1024;

// to[i] |= (from[i] ^ flip) >> right & mask, shifted left.
BITLOOM_ANY_VECTORS static void merge(const uint8_t *__restrict from, uint8_t *__restrict to, int64_t count, int flip,
                                      int right, int mask, int left) {
  for (int64_t i = 0; i < count; ++i)
    to[i] = uint8_t(to[i] | ((from[i] ^ flip) >> right & mask) << left);
}

// Signed fields: (x ^ sign) - sign extends the sign of the low bits.
BITLOOM_ANY_VECTORS static void finish(uint8_t *values, int64_t count, int flip, int sign) {
  for (int64_t i = 0; i < count; ++i)
    values[i] = uint8_t((values[i] ^ flip ^ sign) - sign);
}

// copy(a length known to the compiler, where it is a usual one).
template <class Copy> static void ofLength(int bytes, Copy copy) {
  switch (bytes) {
  case 1:
    return copy(std::integral_constant<size_t, 1>());
  case 4:
    return copy(std::integral_constant<size_t, 4>());
  case 8:
    return copy(std::integral_constant<size_t, 8>());
  default:
    return copy(size_t(bytes));
  }
}

ColumnPacker::ColumnPacker(const Packing &packing) : described(packing), unit(packing.unit()) {
  described.check();
  for (int value = 0; value < unit.values; ++value)
    flips.push_back(described.flipped(value * described.lanes));
}

void ColumnPacker::pack(const uint8_t *values, int64_t stride, int64_t columns, uint8_t *bytes) const {
  const int64_t vector = int64_t{described.lanes} * described.block,
                together = std::max<int64_t>(1, bytesAtATime / vector);
  const int64_t unitBytes = unit.bytes * vector, blockBytes = described.bytesPerBlock();
  thread_local std::vector<uint8_t> ordered, merged;
  ordered.resize(size_t(together * vector));
  merged.resize(size_t(together * unitBytes));
  for (int64_t first = 0; first < columns; first += together * described.block) {
    const int64_t blocks = std::min(together, (columns - first) / described.block), count = blocks * vector;
    uint8_t *to = bytes + first / described.block * blockBytes;
    for (int row = 0; row < described.rows; row += unit.values * described.lanes, to += unitBytes) {
      std::memset(merged.data(), 0, size_t(count * unit.bytes)); // by byte of the unit, then block
      for (int value = 0; value < unit.values; ++value) {
        const uint8_t *from = values + (row + value * described.lanes) * stride + first;
        ofLength(described.block, [&](auto length) {
          for (int lane = 0; lane < described.lanes; ++lane)
            for (int64_t b = 0; b < blocks; ++b)
              std::memcpy(ordered.data() + b * vector + lane * described.block,
                          from + lane * stride + b * described.block, length);
        });
        for (const Packing::UnitPiece &piece : unit.pieces)
          if (piece.value == value)
            merge(ordered.data(), merged.data() + piece.byte * count, count, flips[size_t(value)], piece.valueShift,
                  piece.mask(), piece.shift);
      }
      for (int byte = 0; byte < unit.bytes; ++byte)
        for (int64_t b = 0; b < blocks; ++b)
          std::memcpy(to + b * blockBytes + byte * vector, merged.data() + byte * count + b * vector, size_t(vector));
    }
  }
}

void ColumnPacker::unpack(const uint8_t *bytes, int64_t stride, int64_t columns, uint8_t *values, bool isSigned) const {
  const int64_t vector = int64_t{described.lanes} * described.block,
                together = std::max<int64_t>(1, bytesAtATime / vector);
  const int64_t unitBytes = unit.bytes * vector, blockBytes = described.bytesPerBlock();
  const int sign = isSigned ? 1 << (described.bits - 1) : 0;
  thread_local std::vector<uint8_t> ordered, merged;
  ordered.resize(size_t(together * vector));
  merged.resize(size_t(together * unitBytes));
  for (int64_t first = 0; first < columns; first += together * described.block) {
    const int64_t blocks = std::min(together, (columns - first) / described.block), count = blocks * vector;
    const uint8_t *from = bytes + first / described.block * blockBytes;
    for (int row = 0; row < described.rows; row += unit.values * described.lanes, from += unitBytes) {
      for (int byte = 0; byte < unit.bytes; ++byte)
        for (int64_t b = 0; b < blocks; ++b)
          std::memcpy(merged.data() + byte * count + b * vector, from + b * blockBytes + byte * vector, size_t(vector));
      for (int value = 0; value < unit.values; ++value) {
        std::memset(ordered.data(), 0, size_t(count));
        for (const Packing::UnitPiece &piece : unit.pieces)
          if (piece.value == value)
            merge(merged.data() + piece.byte * count, ordered.data(), count, 0, piece.shift, piece.mask(),
                  piece.valueShift);
        finish(ordered.data(), count, flips[size_t(value)], sign);
        uint8_t *to = values + (row + value * described.lanes) * stride + first;
        ofLength(described.block, [&](auto length) {
          for (int lane = 0; lane < described.lanes; ++lane)
            for (int64_t b = 0; b < blocks; ++b)
              std::memcpy(to + lane * stride + b * described.block,
                          ordered.data() + b * vector + lane * described.block, length);
        });
      }
    }
  }
}

// visit(first value, first byte) of every panel, on threads.
template <class Visit> static void overPanels(const Packing &packing, int64_t rows, int64_t columns, Visit visit) {
  const int64_t bytesPerPanel = packing.bytesPerRow(columns), values = packing.rows * columns;
  parallelFor(rows / packing.rows, std::max<int64_t>(1, 65536 / std::max<int64_t>(values, 1)),
              [&](int64_t begin, int64_t end) {
                for (int64_t i = begin; i < end; ++i)
                  visit(i * values, i * bytesPerPanel);
              });
}

void packColumns(const Packing &packing, const uint8_t *values, int64_t rows, int64_t columns, uint8_t *bytes) {
  const ColumnPacker packer(packing);
  overPanels(packing, rows, columns,
             [&](int64_t from, int64_t to) { packer.pack(values + from, columns, columns, bytes + to); });
}

void unpackColumns(const Packing &packing, const uint8_t *bytes, int64_t rows, int64_t columns, uint8_t *values,
                   bool isSigned) {
  const ColumnPacker packer(packing);
  overPanels(packing, rows, columns,
             [&](int64_t to, int64_t from) { packer.unpack(bytes + from, columns, columns, values + to, isSigned); });
}

} // namespace bitloom
