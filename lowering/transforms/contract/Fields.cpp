#include "bitloom/lowering/transforms/contract/Fields.h"

#include "llvm/ADT/STLExtras.h"

#include <algorithm>
#include <utility>

namespace bitloom::loops {

bool FieldPlan::needsSum() const {
  for (const Field &field : fields)
    if (field.offset)
      return true;
  return false;
}

// Of signed numbers: a piece at the top of a byte is read with its sign. Other pieces with a sign are biased, or of one
// bit, whose sum is subtracted.
static void planLadder(FieldPlan &plan, Packing::Bias bias) {
  llvm::SmallVector<Packing::UnitPiece, 14> pieces(plan.unit.pieces.begin(), plan.unit.pieces.end());
  llvm::sort(pieces, [](auto &a, auto &b) { return std::pair(a.byte, a.shift) < std::pair(b.byte, b.shift); });
  for (const Packing::UnitPiece &piece : pieces) {
    Field &field = plan.fields[size_t(piece.value)];
    field.scale = std::max(field.scale, piece.shift - piece.valueShift);
  }
  for (const Packing::UnitPiece &piece : pieces) {
    Field &field = plan.fields[size_t(piece.value)];
    const bool isTop = piece.valueShift + piece.bits == plan.bits, isSigned = piece.shift + piece.bits == 8;
    const bool isBiased = plan.unit.isBiased(piece.value, bias);
    if (isTop && isBiased)
      field.offset = -(1 << (plan.bits - 1));
    field.parts.push_back({.rung = int(plan.rungs.size()),
                           .shift = piece.valueShift - piece.shift + field.scale,
                           .isNegative = isTop && !isSigned && !isBiased});
    plan.rungs.push_back(
        {.byte = piece.byte, .mask = (1 << (piece.shift + piece.bits)) - 1, .overlaps = piece.shift > 0});
  }
}

FieldPlan planFields(const Packing &packing, bool isSigned, bool unsignedOperand, bool oneRow, bool floats) {
  FieldPlan plan{.unit = packing.unit(), .bits = packing.bits, .method = FieldPlan::Method::Aligned};
  const int half = 1 << (packing.bits - 1);
  plan.fields.resize(size_t(plan.unit.values));
  const bool suits = packing.bias == Packing::Bias::Low ||
                     (oneRow && packing.bias == Packing::Bias::None && (packing.bits == 1 || packing.bits == 7));
  if (isSigned && !unsignedOperand && suits && !floats) {
    plan.method = FieldPlan::Method::Ladder;
    planLadder(plan, packing.bias);
    return plan;
  }
  // Read as signed, what is stored should be two's complement of the number, or of it less 2^(b-1) when it has no sign;
  // read as unsigned, the number, or what is larger by 2^(b-1) when it has one.
  const bool corrected = isSigned == unsignedOperand; // and then the field should be biased, too
  if (unsignedOperand && plan.unit.bytes == 1)
    plan.method = FieldPlan::Method::Masked;
  for (int i = 0; i < plan.unit.values; ++i) {
    Field &field = plan.fields[size_t(i)];
    if (plan.method == FieldPlan::Method::Masked)
      field.scale = i * packing.bits;
    else
      field.scale = packing.bits == 1 ? 0 : 8 - packing.bits; // one bit becomes 0 or -1
    field.offset = corrected ? (isSigned ? -half : half) : 0;
    field.flips = corrected != plan.unit.isBiased(i, packing.bias);
  }
  return plan;
}

} // namespace bitloom::loops
