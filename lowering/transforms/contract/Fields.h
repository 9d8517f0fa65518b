// How the values of a unit of packed bytes (Packing::unit) come to be operands of an atom, in few instructions.
//
// A value need not be brought to the low end of its byte: what is 2^s too large in every product is so in the sum,
// which is divided once. Three ways:
//
//   aligned  the value at the top of a byte, zeros below: a signed number times 2^(8-b); one shift or one mask, both in
//            the middle of a byte
//   masked   for unsigned operands: the field where it stands, one mask
//   ladder   a byte under growing masks, and whole: neighbouring sums differ by the sum over one field. One mask less a
//            byte, one subtraction more a sum
//
// A biased field read as unsigned is larger by 2^(b-1) than the number it stands for; the sum of the other operand,
// times that, makes up for it.
#pragma once

#include "bitloom/lib/packing/Packing.h"

#include "llvm/ADT/SmallVector.h"

namespace bitloom::loops {

struct Field {
  int scale = 0;         // the sum of products is 2^scale too large
  int offset = 0;        // then to be added, times the sum of the other operand
  bool overlaps = false; // ladder: the value before it, of the same byte, is contained
  bool flips = false;    // the top bit has yet to be inverted
};

struct FieldPlan {
  enum class Method { Aligned, Masked, Ladder };
  Packing::Unit unit;
  int bits;
  Method method;
  llvm::SmallVector<Field, 8> fields{};

  bool needsSum() const; // of the other operand
};

// isSigned: the numbers that the fields stand for; unsignedOperand: what the atom multiplies.
FieldPlan planFields(const Packing &packing, bool isSigned, bool unsignedOperand);

} // namespace bitloom::loops
