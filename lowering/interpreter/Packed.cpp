// Packed values and tables. Packing's pieces say where each bit lies.
#include "bitloom/lib/packing/Packing.h"
#include "bitloom/lowering/interpreter/Compiler.h"

#include <bit>

using namespace mlir;

namespace bitloom::interpreter {

// The blocks of a tile whose last dimensions are rows and columns: where each one's values and bytes begin. A block of
// several rows lies in panels of as many; tiles of such packings have a dimension of rows.
struct Blocks {
  int64_t panels, perPanel, columns;
  const Packing &packing;

  Blocks(const Packing &packing, mlir::Type values) : packing(packing) {
    ArrayRef<int64_t> shape = tile::shapeOf(values);
    columns = shape.back();
    panels = ShapedType::getNumElements(shape.drop_back()) / packing.rows;
    perPanel = columns / packing.block;
  }
  int64_t count() const { return panels * perPanel; }
  int64_t values(int64_t block) const {
    return block / perPanel * packing.rows * columns + block % perPanel * packing.block;
  }
};

static std::vector<std::uint64_t> flipsOf(const Packing &packing) { // by row
  std::vector<std::uint64_t> flips;
  for (int row = 0; row < packing.rows; ++row)
    flips.push_back(std::uint64_t(packing.flipped(row)));
  return flips;
}

static void compileUnpack(Compiler &compiler, Operation &op) {
  auto unpack = cast<tile::UnpackOp>(op);
  const Packing packing = Packing::parse(unpack.getPacking().getSpelling());
  Slot bytes = compiler.slotOf(unpack.getBytes()), out = compiler.define(unpack);
  compiler.add([=, pieces = packing.pieces(), flips = flipsOf(packing), isSigned = unpack.getIsSigned(),
                type = unpack.getType()](Frame &frame) {
    Blocks blocks(packing, type);
    const Cell *from = frame.at(bytes);
    for (int64_t block = 0; block < blocks.count(); ++block, from += packing.bytesPerBlock()) {
      Cell *to = frame.at(out) + blocks.values(block);
      for (int64_t row = 0; row < packing.rows; ++row)
        for (int64_t column = 0; column < packing.block; ++column)
          to[row * blocks.columns + column].bits = flips[row];
      for (const Packing::Piece &piece : pieces)
        to[piece.row * blocks.columns + piece.column].bits ^=
            (from[piece.byte].bits >> piece.shift & std::uint64_t(piece.mask())) << piece.valueShift;
      for (int64_t row = 0; isSigned && row < packing.rows; ++row)
        for (int64_t column = 0; column < packing.block; ++column) {
          std::uint64_t &value = to[row * blocks.columns + column].bits;
          value = std::uint64_t(signExtend(value, packing.bits)) & 0xff;
        }
    }
  });
}

static void compilePack(Compiler &compiler, Operation &op) {
  auto pack = cast<tile::PackOp>(op);
  const Packing packing = Packing::parse(pack.getPacking().getSpelling());
  Slot values = compiler.slotOf(pack.getValues()), out = compiler.define(pack);
  compiler.add(
      [=, pieces = packing.pieces(), flips = flipsOf(packing), type = pack.getValues().getType()](Frame &frame) {
        Blocks blocks(packing, type);
        Cell *to = frame.at(out);
        std::fill_n(to, blocks.count() * packing.bytesPerBlock(), Cell{});
        for (int64_t block = 0; block < blocks.count(); ++block, to += packing.bytesPerBlock()) {
          const Cell *from = frame.at(values) + blocks.values(block);
          for (const Packing::Piece &piece : pieces) {
            std::uint64_t value = from[piece.row * blocks.columns + piece.column].bits ^ flips[piece.row];
            to[piece.byte].bits |= (value >> piece.valueShift & std::uint64_t(piece.mask())) << piece.shift;
          }
        }
      });
}

static void compileLut(Compiler &compiler, Operation &op) {
  auto lut = cast<tile::LutOp>(op);
  Slot table = compiler.slotOf(lut.getTable()), indices = compiler.slotOf(lut.getIndices()), out = compiler.define(lut);
  std::uint64_t extent = compiler.countOf(lut.getTable()).elements, modulus = std::bit_ceil(extent);
  compiler.add([=, count = compiler.countOf(lut).elements](Frame &frame) {
    for (int64_t i = 0; i < count; ++i) {
      std::uint64_t index = frame.at(indices)[i].bits % modulus;
      frame.at(out)[i] = index < extent ? frame.at(table)[index] : Cell{};
    }
  });
}

void addPacked(Handlers &handlers) {
  handlers[tile::UnpackOp::getOperationName()] = compileUnpack;
  handlers[tile::PackOp::getOperationName()] = compilePack;
  handlers[tile::LutOp::getOperationName()] = compileLut;
}

} // namespace bitloom::interpreter
