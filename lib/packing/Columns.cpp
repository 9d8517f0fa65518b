// The order columns: how the values of a unit share its bytes. The only place that knows a width.
#include "bitloom/lib/packing/Packing.h"
#include "bitloom/lib/support/Error.h"

#include <bit>

namespace bitloom {

Packing::Unit Packing::unit() const {
  Unit unit{};
  auto add = [&](int value, int valueShift, int length, int byte, int shift) {
    unit.pieces.push_back({value, valueShift, length, byte, shift});
  };
  switch (bits) {
  case 1:
  case 2:
  case 4:
  case 8:
    unit.values = 8 / bits;
    unit.bytes = 1;
    for (int i = 0; i < unit.values; ++i)
      add(i, 0, bits, 0, i * bits);
    break;
  case 3:
    unit.values = 8;
    unit.bytes = 3;
    for (int i = 0; i < 6; ++i)
      add(i, 0, 3, i % 3, i < 3 ? 5 : 2);
    for (int i = 0; i < 2; ++i) {
      add(6 + i, 0, 2, i, 0);
      add(6 + i, 2, 1, 2, i);
    }
    break;
  case 5:
    unit.values = 8;
    unit.bytes = 5;
    for (int i = 0; i < 4; ++i)
      add(i, 0, 5, i, 3);
    for (int i = 0; i < 4; ++i) {
      add(4 + i, 0, 3, i, 0);
      add(4 + i, 3, 2, 4, 2 * i);
    }
    break;
  case 6:
  case 7: {
    int spare = 8 - bits; // bits a byte
    unit.bytes = bits / spare;
    unit.values = unit.bytes + 1;
    for (int i = 0; i < unit.bytes; ++i)
      add(i, 0, bits, i, spare);
    for (int i = 0; i < unit.bytes; ++i)
      add(unit.bytes, i * spare, spare, i, 0);
    break;
  }
  default:
    throw InternalError("a unit of " + std::to_string(bits) + " bits");
  }
  return unit;
}

bool Packing::Unit::isBiased(int value, Bias bias) const {
  if (bias != Bias::Low)
    return bias == Bias::All;
  const UnitPiece *top = nullptr;
  for (const UnitPiece &piece : pieces)
    if (piece.value == value)
      top = &piece;
  return top->shift + top->bits < 8;
}

void Packing::checkColumns() const {
  auto isPower = [](int number, int most) {
    return number >= 1 && number <= most && std::has_single_bit(static_cast<unsigned>(number));
  };
  if (!isPower(block, 16))
    throw UserError("expected a power of two in [1, 16] as block of order=columns, got " + std::to_string(block));
  if (!isPower(lanes, 64))
    throw UserError("expected a power of two in [1, 64] as lanes, got " + std::to_string(lanes));
  int together = unit().values * lanes;
  if (!isPower(rows, 4096) || rows % together)
    throw UserError("expected a power of two that is a multiple of " + std::to_string(together) +
                    " and at most 4096 as rows, got " + std::to_string(rows));
  if (bias == Bias::Low && bits == 8)
    throw UserError("expected bias=low with less than 8 bits, got 8");
}

std::vector<Packing::Piece> Packing::columnPieces() const {
  Unit all = unit();
  std::vector<Piece> result;
  for (int first = 0, byte = 0; first < rows; first += all.values * lanes, byte += all.bytes * lanes * block)
    for (const UnitPiece &p : all.pieces)
      for (int lane = 0; lane < lanes; ++lane)
        for (int column = 0; column < block; ++column)
          result.push_back({first + p.value * lanes + lane, column, byte + (p.byte * lanes + lane) * block + column,
                            p.shift, p.bits, p.valueShift});
  return result;
}

} // namespace bitloom
