// The instructions that multiply vectors of packed weights, and matrices of bytes or bf16, as a table. Pure facts, no
// IR.
#pragma once

#include "bitloom/lib/packing/Packing.h"
#include "bitloom/lib/target/Target.h"
#include "bitloom/lowering/transforms/contract/Fields.h"

#include <optional>

namespace bitloom::loops {

// acc += left · right, where `right` is a vector of values of the weight, `lanes` of its rows by `block` of its
// columns, and `left` has `rows` rows of as many columns. An accumulator has rows × lanes numbers, row by row.
struct Atom {
  enum class Left {
    Element,   // four bytes of a vector, picked by their number
    Broadcast, // four bytes, the same for all lanes
    Matrix,    // as many bytes as `right`, row by row
    Repeated,  // the block repeated for each lane: arithmetic that every target has, the sums of a lane kept apart
  };
  const char *name; // of the instruction, for people
  Family family;
  const char *feature;   // that a target must have; "": any
  const char *intrinsic; // LLVM's; "": plain arithmetic
  Left left;
  int lanes, block, rows;
  bool unsignedRight;        // otherwise signed
  bool unsignedLeft = false; // the same; the activations of packed weights are signed
  bool words = false;        // multiplies numbers of 16 bits, to which bytes are extended
  bool bfloats = false;      // multiplies numbers of bf16 and adds to f32
  // LLVM's for vectors of any length, which multiplies so in each segment of 16 bytes; "": none.
  const char *scalable = "";
};

// What the numbers of a product with a packed weight are: those of the weight signed or not, and the others 8-bit
// signed ones or floats.
struct Factors {
  bool signedWeight, floats;
};
// The atom for weights in this packing, of the order columns. With floats to multiply by, plain arithmetic.
Atom atomFor(const Target &target, const Packing &packing, const Factors &factors);

// The atom for two vectors of bytes of which neither is packed for one, at best as they are: one that takes signed
// bytes as unsigned ones otherwise, for two signed ones. None where the target has none.
std::optional<Atom> byteProductsFor(const Target &target, bool unsignedLeft, bool unsignedRight);

// The atom for matrices of bf16, or of bytes, of which neither is packed for one. None where the target has none.
struct MatrixFactors {
  bool bfloats, unsignedLeft, unsignedRight;
};
std::optional<Atom> matrixProductsFor(const Target &target, const MatrixFactors &factors);

// The tile of the product that stays in registers.
struct TileShape {
  int64_t rows, columns;
  int chains; // accumulators for one and the same result, so that one sum need not wait for the other
};
// For a product of so many rows. Columns are those of whole units of the plan, or half, a quarter … of one.
TileShape tileShapeFor(const Target &target, const Atom &atom, const Packing &packing, const FieldPlan &plan,
                       int64_t rows);

// A product in vectors of any length. A vector's segments of 16 bytes are neighbouring units of a panel, so that the
// sums for one of a unit's values are as many registers' worth of rows of the result. Where all bytes of a unit become
// operands in one way, the segments may as well be those bytes, which lie one after the other; where they do not,
// neighbouring units' are gathered.
struct SegmentShape {
  TileShape tile;
  int64_t vectors;    // of segments at a time, whatever their length: `tile` is that many of 64 bytes
  int64_t operands;   // of a segment, that are multiplied in one pass over the inner dimension
  int64_t perUnit;    // segments of a unit
  int64_t ofASegment; // operands that one becomes
  int64_t fewest;     // segments of a vector with which that is worth it
};
// None where the target has no such vectors, the atom no such form, or a panel's block less than two segments.
std::optional<SegmentShape> segmentShapeFor(const Target &target, const Atom &atom, const Packing &packing,
                                            const FieldPlan &plan, int64_t rows);

} // namespace bitloom::loops
