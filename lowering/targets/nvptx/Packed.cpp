// Packed values and tables. A thread holds the byte of each of its values (bytesLayout), so unpacking is a shift and a
// mask, and the values of each of its bytes (valuesLayout), so packing is shifts and ors. Values that are numbers of 16
// bits next are made so from the bytes at once (PackedCasts.cpp).
#include "bitloom/lowering/targets/nvptx/Emitter.h"

#include "bitloom/lib/support/Error.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace bitloom;
using namespace bitloom::nvptx;

static FailureOr<Packing> onePlane(Operation *op, tile::PackingAttr attr) {
  Packing packing = Packing::parse(attr.getSpelling());
  if (packing.planes().size() == 1)
    return packing;
  return op->emitOpError() << "expected a packing of one plane (tile-decompose-packing makes them), got " << attr;
}

LogicalResult nvptx::lower(Emitter &e, tile::UnpackOp unpack) {
  OpBuilder &b = e.builder;
  FailureOr<Packing> packing = onePlane(unpack, unpack.getPacking());
  if (failed(packing))
    return failure();
  Packing::Plane plane = packing->planes().front();
  RankedTensorType from = unpack.getBytes().getType(), to = unpack.getType();
  const LinearLayout &values = e.layout(to);
  Registers bytes = exchange(e, e.get(unpack.getBytes()), from.getElementType(), e.layout(from), from.getShape(),
                             byteOfValueLayout(values, *packing));

  // Where in its byte each value starts, before the packing's xor: linear in the column.
  int last = int(to.getRank()) - 1;
  std::vector<LinearLayout::InDim> ins;
  LinearLayout fieldOfColumn = plane.layout.sublayout({"column"}, {"bit"});
  for (const auto &in : values.ins()) {
    LinearLayout::InDim shifts{in.name, {}};
    for (const auto &basis : in.bases)
      shifts.bases.push_back(fieldOfColumn.apply({basis[last] & (packing->block - 1)}));
    ins.push_back(shifts);
  }
  LinearLayout shift(ins, {{"bit", 8}});
  Value thread = e.threadImage(shift, 0);
  if (thread)
    thread = arith::TruncIOp::create(b, e.loc, b.getI8Type(), thread);
  auto i8 = [&](int64_t value) -> Value {
    return arith::ConstantOp::create(b, e.loc, b.getI8IntegerAttr(int8_t(value)));
  };
  Registers registers;
  SmallVector<int> shifts;
  for (int r = 0; r < values.inSize(reg); ++r) {
    int32_t own = shift.apply({{reg, r}})[0] ^ plane.bitXor;
    shifts.push_back(own);
    Value value = bytes[r];
    if (thread)
      value = arith::ShRUIOp::create(b, e.loc, value, arith::XOrIOp::create(b, e.loc, thread, i8(own)));
    else if (own)
      value = arith::ShRUIOp::create(b, e.loc, value, i8(own));
    if (plane.bits < 8)
      value = arith::AndIOp::create(b, e.loc, value, i8(plane.mask()));
    if (unpack.getIsSigned() && plane.bits < 8) {
      Value up = arith::ShLIOp::create(b, e.loc, value, i8(8 - plane.bits));
      value = arith::ShRSIOp::create(b, e.loc, up, i8(8 - plane.bits));
    }
    registers.push_back(value);
  }
  e.put(unpack, registers);
  if (!thread)
    e.putFields(unpack, {bytes, shifts});
  return success();
}

LogicalResult nvptx::lower(Emitter &e, tile::PackOp pack) {
  OpBuilder &b = e.builder;
  FailureOr<Packing> packing = onePlane(pack, pack.getPacking());
  if (failed(packing))
    return failure();
  Packing::Plane plane = packing->planes().front();
  RankedTensorType from = pack.getValues().getType(), to = pack.getType();
  const LinearLayout &bytes = e.layout(to);
  Registers values = exchange(e, e.get(pack.getValues()), from.getElementType(), e.layout(from), from.getShape(),
                              valuesLayout(bytes, *packing));
  int fields = 8 / plane.bits;
  auto i8 = [&](int64_t value) -> Value {
    return arith::ConstantOp::create(b, e.loc, b.getI8IntegerAttr(int8_t(value)));
  };
  Registers registers;
  for (int r = 0; r < bytes.inSize(reg); ++r) {
    Value byte;
    for (int f = 0; f < fields; ++f) {
      Value value = values[r * fields + f];
      if (plane.bits < 8)
        value = arith::AndIOp::create(b, e.loc, value, i8(plane.mask()));
      if (int shift = (f * plane.bits) ^ plane.bitXor)
        value = arith::ShLIOp::create(b, e.loc, value, i8(shift));
      byte = byte ? arith::OrIOp::create(b, e.loc, byte, value).getResult() : value;
    }
    registers.push_back(byte);
  }
  e.put(pack, registers);
  return success();
}

// Through shared memory: every thread may want any entry.
LogicalResult nvptx::lower(Emitter &e, tile::LutOp lut) {
  if (lowerPackedLookup(e, lut))
    return success();
  OpBuilder &b = e.builder;
  auto table = cast<RankedTensorType>(lut.getTable().getType());
  Type element = table.getElementType();
  int64_t entries = table.getDimSize(0), padded = llvm::PowerOf2Ceil(entries);
  Value base = e.scratch(padded * std::max(1u, element.getIntOrFloatBitWidth() / 8));
  // Entries past the extent read zero, and are written so: each register's value is zeroed there.
  const LinearLayout &layout = e.layout(table);
  Registers values = e.get(lut.getTable());
  for (int r = 0; r < int(values.size()); ++r)
    if (!e.isInside(e.registerCoordinates(layout)[r][0], e.threadBits(layout, 0), entries))
      values[r] = e.select(e.compare(e.coordinate(layout, 0, r), "ult", e.i32(entries)), values[r], e.zero(element));
  storeShared(e, values, layout, {padded}, base);
  e.barrier();
  Registers registers;
  for (Value index : e.get(lut.getIndices())) {
    unsigned width = index.getType().getIntOrFloatBitWidth();
    if (width < 32)
      index = arith::ExtUIOp::create(b, e.loc, b.getI32Type(), index);
    if (width > 32)
      index = arith::TruncIOp::create(b, e.loc, b.getI32Type(), index);
    index = arith::AndIOp::create(b, e.loc, index, e.i32(padded - 1));
    registers.push_back(e.sharedLoad(e.sharedAddress(base, index, element), element));
  }
  e.put(lut, registers);
  return success();
}
