// Where each bit of a packed weight sits in memory.
//
// Values of 1–8 bits are packed along a row in blocks. A block is a sequence of *planes*, each holding a power-of-two
// number of bits of every value: one plane for widths 1, 2, 4 and 8, and 3 = 2+1, 5 = 4+1, 6 = 4+2, 7 = 4+2+1, the
// widest plane first and with the low bits of the value. Inside a plane, value j's bits stand together in one byte, its
// *field*:
//
//   order    byte          field in the byte, from the low end
//   low      j·p / 8       j mod (8/p)             consecutive values, low bits first
//   high     j·p / 8       8/p - 1 - j mod (8/p)   consecutive values, high bits first
//   planar   j mod S       j / S                   S = block·p / 8 bytes: consecutive values in consecutive bytes, so a
//                                                  vector of bytes unpacks by shift and mask, with no shuffle
//   fragments see below                            what a thread of a GPU feeds to its tensor cores is contiguous
//
// `fragments` is for blocks of 128 values and more along the depth of a product of 16-bit numbers, whose fragments
// (PTX manual, "matrix fragments for mma.m16n8k16") give value j to lane j / 2 mod 4 of four: its values fill a quarter
// of the plane, in 32-bit words. The two of a pair lie 16 bits apart, where the fields of two 16-bit numbers are read
// with one mask; the lane's further pairs fill the word, low fields first, and then its next words. A plane beside a
// wider one of w bits keeps the distance of w bits from pair to pair while that one's are in one word, and has those of
// the next words between them: so one shift brings all that belong to a word of the wider plane to where they belong.
// `fragments2` and `fragments4` are such planes by themselves, beside one of 2 and of 4 bits.
//
// Since p, the block and 8 are powers of two, each is an affine map over GF(2): a linear layout (column, bit) →
// (byte, bit), then a constant xor on the bit (for `high`, 8/p - 1 - f = f ^ (8/p - 1)). The layouts are bijective, so
// every bit of a block is used exactly once. Everything that reads or writes packed bytes is driven by planes().
//
// A new width is a sum of powers of two already; a new order is a row of the table in Packing.cpp. In the order
// fragments a block may be of several rows: each plane has all of them, one after the other, for a GPU's copies.
// The order `columns` packs `rows` rows of a matrix together, for processors that multiply vectors of bytes. A vector
// is `lanes` rows by `block` columns, row by row, and the fields of one byte belong to different rows with the same
// column: what is read with one load and one mask goes to accumulators of its own. U vectors of values, of consecutive
// rows, share V vectors of bytes, a *unit*; a piece of a value is a run of its bits in one byte (units() in
// Columns.cpp):
//
//   bits   U in V    pieces of value i, from the low end
//   1 2 4  8/b in 1  all bits at shift i·b
//   8      1 in 1    itself
//   3      8 in 3    i < 3: in byte i at 5; i < 6: in byte i-3 at 2; the others: 2 bits in byte i-6, 1 in byte 2
//   5      8 in 5    i < 4: in byte i at 3; the others: 3 bits in byte i-4 at 0, 2 bits in byte 4 at 2·(i-4)
//   6      4 in 3    i < 3: in byte i at 2; the last: 2 bits in each byte at 0
//   7      8 in 7    i < 7: in byte i at 1; the last: 1 bit in each byte at 0
//
// Each is a permutation of bits, and the vectors of a block of `rows` by `block` follow each other. `bias` says in
// which fields the top bit of the value is stored inverted, so that a two's complement number reads as an unsigned one
// that is larger by 2^(bits-1): what a processor wants whose instructions multiply unsigned bytes (all), or which masks
// a byte and takes it whole (low: all but those whose highest piece is at the top of its byte).
#pragma once

#include "bitloom/lib/layout/LinearLayout.h"

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace bitloom {

struct Packing {
  enum class Order { LowFirst, HighFirst, Planar, Columns, Fragments, FragmentsOf2, FragmentsOf4 };
  enum class Bias { None, Low, All };

  int bits = 4;                  // of a value: 1 to 8
  Order order = Order::LowFirst; // of the values in a plane
  int block = 8; // values of a row packed together: a power of two in [8, 65536], of columns in [1, 16]; of
                 // fragments 128 or more
  // Of the order columns, rows also of fragments; 1, 1 and None otherwise.
  int rows = 1;           // packed together: a power of two, of columns a multiple of U · lanes
  int lanes = 1;          // rows in a vector of bytes: a power of two
  Bias bias = Bias::None; // Low: not of 8 bits

  struct Field {
    int byte;  // in the block
    int shift; // of the field's lowest bit in the byte
    bool operator==(const Field &) const = default;
  };

  // Some bits of every value of a block.
  struct Plane {
    int bits;            // 1, 2, 4 or 8
    int shift;           // of these bits in the value
    int byteOffset;      // of the plane in the block
    LinearLayout layout; // (column, bit) → (byte, bit): block × bits onto (block·bits/8) × 8, bijective
    int bitXor;          // applied to the bit that the layout gives

    int mask() const { return (1 << bits) - 1; }
    // Where the value's bits [shift, shift + bits) sit. column in [0, block).
    Field field(int column) const;
  };

  // Throws UserError unless bits, order and block are legal. All other members presume it.
  void check() const;

  // Some bits of one value of a block.
  struct Piece {
    int row, column; // of the value in the block
    int byte, shift; // in the block: of the piece's lowest bit
    int bits;
    int valueShift; // of the piece in the value
    int mask() const { return (1 << bits) - 1; }
  };
  // Every piece of a block, in the order in which the bytes follow from the values; together each bit once.
  std::vector<Piece> pieces() const;
  // What the bits of this row's values in a block are xored with.
  int flipped(int row) const;

  // The same inside a unit of the order columns: `value` in [0, U), `byte` in [0, V).
  struct UnitPiece {
    int value, valueShift, bits, byte, shift;
    int mask() const { return (1 << bits) - 1; }
  };
  struct Unit {
    int values, bytes;
    std::vector<UnitPiece> pieces; // by value, from the low end
    bool isBiased(int value, Bias bias) const;
  };
  Unit unit() const;

  // By ascending shift and byteOffset; their bits add up to `bits`. InternalError: order columns, or several rows.
  //   value(column) = Σ over planes of (byte[field(column).byte] >> field(column).shift & mask()) << shift
  std::vector<Plane> planes() const;
  // That plane of a row by itself.
  Packing packingOf(const Plane &plane) const;
  int64_t bytesPerBlock() const { return int64_t{rows} * block * bits / 8; }
  // Of `rows` rows. Throws UserError unless columns is a multiple of block, and not negative.
  int64_t bytesPerRow(int64_t columns) const;
  // The range of a value: two's complement if signed. One signed bit is {-1, 0}.
  int lowest(bool isSigned) const { return isSigned ? -(1 << (bits - 1)) : 0; }
  int highest(bool isSigned) const { return (1 << (isSigned ? bits - 1 : bits)) - 1; }

  // "bits=4,order=planar,block=128", "bits=4,order=columns,block=4,rows=32,lanes=4,bias=low"; parse takes the keys in
  // any order and throws UserError.
  std::string toString() const;
  static Packing parse(std::string_view text);
  // Not of the order columns. A block as a table: a row per byte, the bits of the byte from 7 to 0, each cell
  // "value.bit". The middle of planes of more than eight bytes is left out.
  std::string drawing() const;

  bool operator==(const Packing &) const = default;

private:
  void checkColumns() const; // Columns.cpp
  std::vector<Piece> columnPieces() const;
};

// The name of an order in the text form: low, high, planar, columns, fragments.
std::string_view nameOf(Packing::Order order);
std::string_view nameOf(Packing::Bias bias); // none, low, all

// The host packers, and the reference for every unpack lowering. One or more whole rows at once: values is row-major
// with no padding, values.size() is a multiple of block (as are the columns of each row, so blocks never straddle
// rows), and bytes.size() = bytesPerRow(values.size()). The value type says whether the fields are signed. Throw
// UserError on sizes that do not fit, on a value out of range, and for the order columns, which is packRows's.
void pack(const Packing &packing, std::span<const int8_t> values, std::span<uint8_t> bytes);
void pack(const Packing &packing, std::span<const uint8_t> values, std::span<uint8_t> bytes);
void unpack(const Packing &packing, std::span<const uint8_t> bytes, std::span<int8_t> values);
void unpack(const Packing &packing, std::span<const uint8_t> bytes, std::span<uint8_t> values);

// Of a row-major rows × columns matrix, whose columns are a multiple of block and rows of packing.rows.
std::vector<uint8_t> packRows(const Packing &packing, std::span<const int8_t> values, int64_t rows, int64_t columns);
std::vector<uint8_t> packRows(const Packing &packing, std::span<const uint8_t> values, int64_t rows, int64_t columns);
void unpackRows(const Packing &packing, std::span<const uint8_t> bytes, int64_t rows, int64_t columns,
                std::span<int8_t> values);
void unpackRows(const Packing &packing, std::span<const uint8_t> bytes, int64_t rows, int64_t columns,
                std::span<uint8_t> values);

} // namespace bitloom
