// How the values of a unit of packed bytes (Packing::unit) come to be operands of an atom, in few instructions.
//
// A value need not be brought to the low end of its byte: what is 2^s too large in every product is so in the sum,
// which is divided once. Three ways:
//
//   aligned  the value at the top of a byte, zeros below: a signed number times 2^(8-b); one shift or one mask, both in
//            the middle of a byte
//   masked   for unsigned operands: the field where it stands, one mask
//   ladder   a byte under growing masks, and whole: neighbouring sums differ by the sum over one piece of a value, and
//            what the pieces of a value stand for is put together once, at the end. Fewer masks and no shifts, but
//            more products where a value has several pieces, and a few operations more a sum
//
// A biased field read as unsigned is larger by 2^(b-1) than the number it stands for; the sum of the other operand,
// times that, makes up for it.
#pragma once

#include "bitloom/lib/packing/Packing.h"

#include "llvm/ADT/SmallVector.h"

namespace bitloom::loops {

// Of the ladder: a byte under a mask. Without the rung before it, where that is of the same byte, it is 2^shift times
// one piece.
struct Rung {
  int byte, mask;
  bool overlaps; // the rung before it
};

struct Field {
  int scale = 0;      // the sum of products is 2^scale too large
  int offset = 0;     // then to be added, times the sum of the other operand
  bool flips = false; // the top bit has yet to be inverted
  // Of the ladder: what the sum consists of.
  struct Part {
    int rung, shift; // by which its sum is to be shifted to the left
    bool isNegative;
  };
  llvm::SmallVector<Part, 7> parts{};
};

struct FieldPlan {
  enum class Method { Aligned, Masked, Ladder };
  Packing::Unit unit;
  int bits;
  Method method;
  llvm::SmallVector<Field, 8> fields{};
  llvm::SmallVector<Rung, 14> rungs{}; // of the ladder, byte by byte

  bool needsSum() const; // of the other operand
  // Vectors that a unit becomes: its values, or the rungs.
  int64_t operands() const { return method == Method::Ladder ? int64_t(rungs.size()) : unit.values; }
};

// isSigned: the numbers that the fields stand for; unsignedOperand: what the atom multiplies; oneRow: of the other
// operand, so that products are no dearer than what prepares them; floats: so that differences of sums are not exact.
FieldPlan planFields(const Packing &packing, bool isSigned, bool unsignedOperand, bool oneRow, bool floats);

} // namespace bitloom::loops
