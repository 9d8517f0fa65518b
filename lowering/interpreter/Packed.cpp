// Packed values and tables. Packing's planes say where each bit lies.
#include "bitloom/lib/packing/Packing.h"
#include "bitloom/lowering/interpreter/Compiler.h"

#include <bit>

using namespace mlir;

namespace bitloom::interpreter {

// A field of a value in a block.
struct PackedField {
  int byte, shift;    // where its lowest bit lies
  int mask, position; // its bits, and its lowest bit's place in the value
};

static std::vector<std::vector<PackedField>> fieldsOf(const Packing &packing) { // by column
  std::vector<std::vector<PackedField>> columns(packing.block);
  for (const Packing::Plane &plane : packing.planes())
    for (int column = 0; column < packing.block; ++column) {
      Packing::Field field = plane.field(column);
      columns[column].push_back({field.byte, field.shift, plane.mask(), plane.shift});
    }
  return columns;
}

// Rows hold whole blocks, so a tile is a sequence of blocks, whatever its shape.
static void compileUnpack(Compiler &compiler, Operation &op) {
  auto unpack = cast<tile::UnpackOp>(op);
  Packing packing = Packing::parse(unpack.getPacking().getSpelling());
  Slot bytes = compiler.slotOf(unpack.getBytes()), out = compiler.define(unpack);
  compiler.add([=, fields = fieldsOf(packing), isSigned = unpack.getIsSigned(),
                blocks = compiler.countOf(unpack).elements / packing.block](Frame &frame) {
    const Cell *from = frame.at(bytes);
    Cell *to = frame.at(out);
    for (int64_t block = 0; block < blocks; ++block, from += packing.bytesPerBlock())
      for (const std::vector<PackedField> &column : fields) {
        std::uint64_t value = 0;
        for (const PackedField &field : column)
          value |= (from[field.byte].bits >> field.shift & field.mask) << field.position;
        (to++)->bits = isSigned ? std::uint64_t(signExtend(value, packing.bits)) & 0xff : value;
      }
  });
}

static void compilePack(Compiler &compiler, Operation &op) {
  auto pack = cast<tile::PackOp>(op);
  Packing packing = Packing::parse(pack.getPacking().getSpelling());
  Slot values = compiler.slotOf(pack.getValues()), out = compiler.define(pack);
  compiler.add([=, fields = fieldsOf(packing),
                blocks = compiler.countOf(pack.getValues()).elements / packing.block](Frame &frame) {
    const Cell *from = frame.at(values);
    Cell *to = frame.at(out);
    std::fill_n(to, blocks * packing.bytesPerBlock(), Cell{});
    for (int64_t block = 0; block < blocks; ++block, to += packing.bytesPerBlock())
      for (const std::vector<PackedField> &column : fields) {
        std::uint64_t value = (from++)->bits;
        for (const PackedField &field : column)
          to[field.byte].bits |= (value >> field.position & field.mask) << field.shift;
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
