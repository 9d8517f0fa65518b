// Packed values: bytes are loaded a vector at a time and taken apart by the packing's layout alone.
#include "bitloom/lowering/transforms/loops/KernelLowering.h"

#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace bitloom::tile;

namespace bitloom::loops {

// The one plane of a packing as a linear map on whole rows: bit k of a column goes to bits of the byte and of the
// shift.
struct RowLayout {
  int bits, mask, bitXor;
  SmallVector<int64_t> byteOf, shiftOf;           // of a column's bits
  SmallVector<int64_t> columnOfByte, columnOfBit; // of a byte's bits; of a bit's, in the byte

  RowLayout(Operation *op, PackingAttr attr, bool isSigned, int64_t columns) {
    Packing packing = Packing::parse(attr.getSpelling());
    if (packing.order == Packing::Order::Columns)
      throw Unsupported{op, "a packing in the order columns here: expected it as the operand of a dot in a range loop"};
    auto planes = packing.planes();
    if (planes.size() != 1 || isSigned)
      throw Unsupported{op, "a packing of several planes or with a sign; expected tile-decompose-packing to have run"};
    const Packing::Plane &plane = planes[0];
    bits = plane.bits;
    mask = plane.mask();
    bitXor = plane.bitXor;
    LinearLayout inverse = plane.layout.invert();
    int columnBits = plane.layout.inBits("column"), byteBits = inverse.inBits("byte");
    for (int k = 0; k <= int(llvm::Log2_64_Ceil(columns)); ++k) { // blocks follow each other
      bool inside = k < columnBits;
      byteOf.push_back(inside ? plane.layout.basis("column", k, "byte") : packing.bytesPerBlock() << (k - columnBits));
      shiftOf.push_back(inside ? plane.layout.basis("column", k, "bit") : 0);
      columnOfByte.push_back(k < byteBits ? inverse.basis("byte", k, "column")
                                          : int64_t{packing.block} << (k - byteBits));
    }
    for (int k = 0; k < 3; ++k)
      columnOfBit.push_back(inverse.basis("bit", k, "column"));
  }

  static int64_t image(ArrayRef<int64_t> basis, int64_t index) {
    int64_t result = 0;
    for (size_t k = 0; k < basis.size(); ++k)
      if (index >> k & 1)
        result ^= basis[k];
    return result;
  }
};

Coord KernelLowering::mapBits(ArrayRef<int64_t> basis, const Coord &coord) {
  if (!coord.dyn)
    return {{}, RowLayout::image(basis, coord.cst)};
  Value from = coord.dyn;
  int64_t known = coord.multiple, constant = coord.cst;
  if (constant < 0 || constant >= known) { // its sum with the rest may carry
    from = valueOf(coord);
    known = std::min(known, coord.cst & -coord.cst);
    constant = 0;
  }
  // Bits that move by the same distance move together.
  std::map<int64_t, int64_t> masks;
  int64_t multiple = int64_t{1} << 30;
  for (size_t k = llvm::Log2_64(known); k < basis.size(); ++k)
    if (basis[k]) {
      masks[int64_t(llvm::Log2_64(basis[k])) - int64_t(k)] |= int64_t{1} << k;
      multiple = std::min(multiple, basis[k]);
    }
  SmallVector<Value> terms;
  for (auto [distance, mask] : masks) {
    int64_t all = (int64_t{1} << basis.size()) - known;
    Value moved = mask == all ? from : index<arith::AndIOp>(from, i64(mask));
    Value by = i64(std::abs(distance));
    if (distance > 0)
      moved = index<arith::ShLIOp>(moved, by);
    else if (distance < 0)
      moved = index<arith::ShRUIOp>(moved, by);
    terms.push_back(moved);
  }
  int64_t offset = RowLayout::image(basis, constant);
  return terms.empty() ? Coord{{}, offset} : Coord{sum(terms), offset, multiple};
}

Value KernelLowering::evaluateUnpack(UnpackOp op, const Place &place, Type element, std::optional<int64_t> position) {
  RowLayout layout(op, op.getPacking(), op.getIsSigned(), shapeOf(op.getType()).back());
  int last = int(place.at.size()) - 1;
  const Coord &column = place.at[last];
  int64_t lanes = place.vec == last ? place.width : 1;
  bool alongRows = place.vec >= 0 && place.vec != last;
  if (!column.alignedTo(lanes)) { // a chunk as good as any, one by one
    Values each;
    for (int64_t i = 0; i < lanes; ++i) {
      Place one{place.at};
      one.at[last] = column + i;
      each.push_back(evaluateUnpack(op, one, element, position));
    }
    return this->lanes(each);
  }
  SmallVector<int64_t> byteOfLane, shiftOfLane;
  int64_t bytes = 1;
  bool uniform = true, inOrder = true; // all at one shift; a byte a lane
  for (int64_t i = 0; i < lanes; ++i) {
    byteOfLane.push_back(RowLayout::image(layout.byteOf, i));
    shiftOfLane.push_back(RowLayout::image(layout.shiftOf, i));
    bytes = std::max(bytes, byteOfLane.back() + 1);
    uniform &= shiftOfLane.back() == 0;
    inOrder &= byteOfLane.back() == i;
  }
  Place from = place;
  from.at[last] = mapBits(layout.byteOf, column);
  if (!alongRows) {
    from.vec = bytes > 1 ? last : -1;
    from.width = bytes;
  }
  Value packed = evaluate(op.getBytes(), from);
  int64_t width = place.width;
  // The shift is that of the lane xor that of the chunk.
  Coord chunk = mapBits(layout.shiftOf, column);
  int64_t fixed = chunk.cst ^ layout.bitXor;
  bool wide = element.getIntOrFloatBitWidth() > 8;
  bool widened = wide || (!uniform && chunk.dyn);
  Type type = widened ? builder.getI32Type() : builder.getI8Type();
  auto splat = [&](int64_t value, int64_t count) {
    return constant(builder.getIntegerAttr(type, APInt(type.getIntOrFloatBitWidth(), value)), count);
  };
  Value value;
  if (widened || uniform) {
    if (!alongRows && !inOrder)
      packed = bytes == 1 ? broadcast(packed, width) : shuffle(packed, packed, byteOfLane);
    value = packed;
    if (widened) {
      Key key = {4, int64_t(packed.getAsOpaquePointer())}; // halves of a byte share the extension
      value = find(key);
      if (!value) {
        Type target = vectorOf(type, width);
        value = remember(key, pure<arith::ExtUIOp>(packed, target, packed));
      }
    }
    bool masked = true;
    if (uniform && !chunk.dyn) {
      int64_t up = position.value_or(0) - fixed;
      if (up > 0)
        value = index<arith::ShLIOp>(value, splat(up, width));
      else if (up < 0)
        value = index<arith::ShRUIOp>(value, splat(-up, width));
      masked = fixed + layout.bits < 8; // the topmost field has nothing above it
    } else {
      SmallVector<Attribute> shifts;
      for (int64_t i = 0; i < width; ++i)
        shifts.push_back(builder.getIntegerAttr(type, (uniform ? 0 : shiftOfLane[i]) ^ fixed));
      Value shift = width == 1 ? literal(cast<TypedAttr>(shifts[0]))
                               : literal(DenseElementsAttr::get(cast<ShapedType>(vectorOf(type, width)), shifts));
      if (chunk.dyn) {
        Value moving = pure<arith::TruncIOp>(chunk.dyn, type, chunk.dyn);
        moving = broadcast(moving, width);
        shift = pure<arith::XOrIOp>({moving, shift}, moving, shift);
      }
      value = pure<arith::ShRUIOp>({value, shift}, value, shift);
      if (position.value_or(0))
        value = index<arith::ShLIOp>(value, splat(*position, width));
    }
    if (masked && !position)
      value = andI(value, splat(layout.mask, width));
  } else {
    // Each field of all bytes, then the fields interleaved.
    SmallVector<Value> parts;
    SmallVector<int64_t> shifts(shiftOfLane);
    llvm::sort(shifts);
    shifts.erase(llvm::unique(shifts), shifts.end());
    for (int64_t shift : shifts) {
      int64_t by = shift ^ fixed;
      Value part = by ? pure<arith::ShRUIOp>(packed, packed, splat(by, bytes)) : packed;
      parts.push_back(by + layout.bits < 8 ? andI(part, splat(layout.mask, bytes)) : part);
    }
    SmallVector<int64_t> order;
    for (int64_t i = 0; i < lanes; ++i)
      order.push_back((llvm::find(shifts, shiftOfLane[i]) - shifts.begin()) * bytes + byteOfLane[i]);
    for (int64_t each = bytes; parts.size() > 2; each *= 2) {
      SmallVector<int64_t> both;
      for (int64_t i = 0; i < 2 * each; ++i)
        both.push_back(i);
      for (size_t i = 0; i < parts.size() / 2; ++i)
        parts[i] =
            each == 1 ? this->lanes({parts[2 * i], parts[2 * i + 1]}) : shuffle(parts[2 * i], parts[2 * i + 1], both);
      parts.resize(parts.size() / 2);
    }
    if (bytes == 1 && !isa<VectorType>(parts[0].getType())) {
      Values each;
      for (int64_t from : order)
        each.push_back(parts[from]);
      value = this->lanes(each);
    } else {
      value = shuffle(parts[0], parts[1], order);
    }
  }
  if (widened && !wide) {
    Type narrow = vectorOf(builder.getI8Type(), width);
    value = pure<arith::TruncIOp>(value, narrow, value);
  }
  return value;
}

Value KernelLowering::evaluatePack(PackOp op, const Place &place) {
  RowLayout layout(op, op.getPacking(), /*isSigned=*/false, shapeOf(op.getValues().getType()).back());
  int last = int(place.at.size()) - 1;
  const Coord &byte = place.at[last];
  int64_t lanes = place.vec == last ? place.width : 1, fields = 8 / layout.bits;
  auto columnOf = [&](int64_t lane, int64_t field) {
    return RowLayout::image(layout.columnOfByte, lane) ^
           RowLayout::image(layout.columnOfBit, (field * layout.bits) ^ layout.bitXor);
  };
  bool inOrder = true, together = true; // each field's columns are consecutive; those of all fields are
  for (int64_t lane = 0; lane < lanes; ++lane)
    for (int64_t field = 0; field < fields; ++field) {
      inOrder &= RowLayout::image(layout.columnOfByte, lane) == lane;
      together &= columnOf(lane, field) < lanes * fields;
    }
  if (!byte.alignedTo(lanes) || (lanes > 1 && !inOrder && !together)) {
    Values each;
    for (int64_t i = 0; i < lanes; ++i) {
      Place one{place.at};
      one.at[last] = byte + i;
      each.push_back(evaluatePack(op, one));
    }
    return this->lanes(each);
  }
  Coord start = mapBits(layout.columnOfByte, byte);
  Place from = place;
  from.at[last] = start;
  Value all;
  if (lanes > 1 && !inOrder) {
    from.width = lanes * fields;
    all = evaluate(op.getValues(), from);
  }
  Value result;
  for (int64_t field = 0; field < fields; ++field) {
    Value value;
    if (all) {
      SmallVector<int64_t> picked;
      for (int64_t lane = 0; lane < lanes; ++lane)
        picked.push_back(columnOf(lane, field));
      value = shuffle(all, all, picked);
    } else {
      from.at[last] = start + columnOf(0, field);
      value = evaluate(op.getValues(), from);
    }
    auto splat = [&](int64_t number) { return constant(builder.getI8IntegerAttr(int8_t(number)), place.width); };
    if (layout.bits < 8)
      value = andI(value, splat(layout.mask));
    if (field)
      value = index<arith::ShLIOp>(value, splat(field * layout.bits));
    result = result ? pure<arith::OrIOp>({result, value}, result, value) : value;
  }
  return result;
}

//===- Casts of unpacked values -----------------------------------------------------------------------------------===//

// What the values may be when the arithmetic is exact, without wrapping at 8 bits.
std::optional<std::pair<int64_t, int64_t>> KernelLowering::rangeOf(Value tile) {
  using Range = std::pair<int64_t, int64_t>;
  Operation *op = tile.getDefiningOp();
  if (!op || !isInline(op) || bufferOf(tile) || fusion.worthKeeping(tile))
    return {};
  if (auto unpack = dyn_cast<UnpackOp>(op))
    return unpack.getIsSigned() ? std::nullopt : std::optional(Range{0, (1 << unpack.getPacking().bits()) - 1});
  if (auto constant = dyn_cast<arith::ConstantOp>(op)) {
    auto splat = dyn_cast<SplatElementsAttr>(constant.getValue());
    if (!splat)
      return {};
    int64_t value = splat.getSplatValue<APInt>().getZExtValue();
    return Range{value, value};
  }
  if (!isa<arith::AddIOp, arith::SubIOp, arith::XOrIOp, arith::OrIOp, arith::ShLIOp>(op))
    return {};
  auto a = rangeOf(op->getOperand(0)), b = rangeOf(op->getOperand(1));
  if (!a || !b)
    return {};
  Range result;
  if (isa<arith::AddIOp>(op)) {
    result = {a->first + b->first, a->second + b->second};
  } else if (isa<arith::SubIOp>(op)) {
    result = {a->first - b->second, a->second - b->first};
  } else if (a->first < 0 || b->first < 0) {
    return {};
  } else if (isa<arith::ShLIOp>(op)) {
    if (b->second > 7)
      return {};
    result = {a->first << b->first, a->second << b->second};
  } else {
    result = {0, int64_t(llvm::NextPowerOf2(std::max(a->second, b->second))) - 1};
  }
  bool sane = result.first >= -1024 && result.second <= 65536;
  return sane ? std::optional(result) : std::nullopt;
}

Value KernelLowering::evaluateWide(Value tile, const Place &place) {
  Key key = keyOf(tile, place);
  key[0] = 5;
  if (Value known = find(key))
    return known;
  Operation *op = tile.getDefiningOp();
  if (auto unpack = dyn_cast<UnpackOp>(op))
    return remember(key, evaluateUnpack(unpack, place, builder.getI32Type()));
  if (auto literal = dyn_cast<arith::ConstantOp>(op)) {
    int64_t value = cast<SplatElementsAttr>(literal.getValue()).getSplatValue<APInt>().getZExtValue();
    return constant(builder.getI32IntegerAttr(int32_t(value)), place.width);
  }
  Value a = evaluateWide(op->getOperand(0), place), b = evaluateWide(op->getOperand(1), place);
  OperationState state(loc, op->getName());
  state.addOperands({a, b});
  state.addTypes(a.getType());
  hoist({a, b});
  return remember(key, builder.create(state)->getResult(0));
}

std::optional<KernelLowering::Fields> KernelLowering::fieldsOf(Value tile) {
  Operation *op = tile.getDefiningOp();
  if (!op || !isInline(op) || bufferOf(tile) || fusion.worthKeeping(tile))
    return {};
  Fields fields;
  if (auto unpack = dyn_cast<UnpackOp>(op)) {
    if (unpack.getIsSigned())
      return {};
    fields.planes.emplace_back(unpack, 0);
    fields.bits = int(unpack.getPacking().bits());
    for (int64_t code = 0; code < int64_t{1} << fields.bits; ++code)
      fields.values.push_back(int8_t(code));
    return fields;
  }
  DenseElementsAttr constant;
  if (isa<arith::OrIOp>(op) && !matchPattern(op->getOperand(1), m_Constant(&constant))) { // a plane above the others
    auto shifted = op->getOperand(1).getDefiningOp<arith::ShLIOp>();
    auto low = fieldsOf(op->getOperand(0));
    auto high = shifted ? fieldsOf(shifted.getLhs()) : std::nullopt;
    if (!low || !high || bufferOf(shifted) || !matchPattern(shifted.getRhs(), m_Constant(&constant)) ||
        !constant.isSplat() || constant.getSplatValue<APInt>().getZExtValue() != uint64_t(low->bits) ||
        low->bits + high->bits > 8 || !low->isPlain() || !high->isPlain())
      return {};
    for (auto [unpack, shift] : high->planes)
      low->planes.emplace_back(unpack, shift + low->bits);
    low->bits += high->bits;
    low->values.clear();
    for (int64_t code = 0; code < int64_t{1} << low->bits; ++code)
      low->values.push_back(int8_t(code));
    return low;
  }
  if (!isa<arith::AddIOp, arith::SubIOp, arith::XOrIOp, arith::OrIOp, arith::AndIOp, arith::MulIOp>(op))
    return {};
  auto found = fieldsOf(op->getOperand(0));
  if (!found || !matchPattern(op->getOperand(1), m_Constant(&constant)) || !constant.isSplat())
    return {};
  int64_t by = constant.getSplatValue<APInt>().getSExtValue();
  for (int64_t &value : found->values) {
    if (isa<arith::AddIOp>(op))
      value += by;
    else if (isa<arith::SubIOp>(op))
      value -= by;
    else if (isa<arith::XOrIOp>(op))
      value ^= by;
    else if (isa<arith::OrIOp>(op))
      value |= by;
    else if (isa<arith::AndIOp>(op))
      value &= by;
    else
      value *= by;
    value = int8_t(value);
  }
  return found;
}

bool KernelLowering::Fields::isPlain() const {
  for (auto [code, value] : llvm::enumerate(values))
    if (value != int8_t(code))
      return false;
  return true;
}

bool KernelLowering::Fields::isSignExtension() const {
  int64_t sign = int64_t{1} << (bits - 1);
  for (auto [code, value] : llvm::enumerate(values))
    if (value != (int64_t(code) ^ sign) - sign)
      return false;
  return true;
}

Value KernelLowering::evaluateFields(const Fields &fields, const Place &place, int64_t lift) {
  auto splat = [&](uint32_t value) { return constant(builder.getI32IntegerAttr(int32_t(value)), place.width); };
  Value all;
  for (auto [unpack, shift] : fields.planes) {
    Value plane = evaluateUnpack(unpack, place, builder.getI32Type(), shift + lift);
    Value below = splat((uint32_t{1} << (shift + lift)) - 1); // what is below a plane is the others'
    all = all ? selectBits(below, all, plane) : plane;
  }
  return all;
}

Value KernelLowering::selectBits(Value mask, Value a, Value b) {
  if (target.family == Family::Cpu_x86 && target.vectorBits == 32 * lanesOf(mask) && lanesOf(mask) == 16) {
    // AVX-512's function of three bits. LLVM would find it, had it not made the masks smaller where bits do not count.
    constexpr int32_t firstChooses = 0xca;
    Value table = constant(builder.getI32IntegerAttr(firstChooses));
    hoist({mask, a, b});
    return LLVM::CallIntrinsicOp::create(builder, loc, mask.getType(),
                                         builder.getStringAttr("llvm.x86.avx512.pternlog.d.512"),
                                         ValueRange{mask, a, b, table})
        .getResult(0);
  }
  Value inverse = index<arith::XOrIOp>(mask, constant(builder.getI32IntegerAttr(-1), lanesOf(mask)));
  Value first = index<arith::AndIOp>(a, mask), second = index<arith::AndIOp>(b, inverse);
  return index<arith::OrIOp>(first, second);
}

Value KernelLowering::evaluateWidened(Operation *op, const Place &place) {
  bool isSigned = isa<arith::SIToFPOp, arith::ExtSIOp>(op);
  if (place.width == 1 || (!isSigned && !isa<arith::UIToFPOp, arith::ExtUIOp>(op)))
    return {};
  Value source = op->getOperand(0);
  Type element = elementOf(op->getResult(0).getType());
  if (!isTile(source) || !elementOf(source.getType()).isInteger(8) || element.getIntOrFloatBitWidth() < 32)
    return {};
  if (place.width * 32 >= 4 * target.vectorBits) // on bytes, arithmetic does as much in one vector as on words in four
    return {};
  if (auto fields = element.isF32() ? fieldsOf(source) : std::nullopt) {
    auto number = [&](int64_t value) { return isSigned ? float(int8_t(value)) : float(uint8_t(value)); };
    int64_t codes = fields->values.size(), nativeLanes = target.vectorBits / 32;
    if (picksLanes(codes, place.width)) { // a permutation, whatever the arithmetic is
      SmallVector<float> table;
      for (int64_t lane = 0; lane < std::max(codes, nativeLanes); ++lane)
        table.push_back(number(fields->values[lane % codes]));
      auto type = VectorType::get({int64_t(table.size())}, element);
      return pickLanes(literal(DenseElementsAttr::get(type, ArrayRef<float>(table))),
                       evaluateFields(*fields, place, /*lift=*/0));
    }
    bool extends = isSigned && fields->isSignExtension(), plain = !isSigned && fields->isPlain();
    if (fields->planes.size() > 1 &&
        (extends || plain)) { // from the top of the word: what is below them is shifted out
      int64_t lift = 32 - fields->bits;
      Value raised = evaluateFields(*fields, place, lift), by = constant(builder.getI32IntegerAttr(lift), place.width);
      Value values = extends ? index<arith::ShRSIOp>(raised, by) : index<arith::ShRUIOp>(raised, by);
      Type to = vectorOf(element, place.width);
      return pure<arith::SIToFPOp>(values, to, values);
    }
  }
  auto range = rangeOf(source);
  if (!range || range->first < (isSigned ? -128 : 0) || range->second > (isSigned ? 127 : 255))
    return {};
  Value value = evaluateWide(source, place);
  Type to = vectorOf(element, place.width);
  if (isa<FloatType>(element))
    return pure<arith::SIToFPOp>(value, to, value);
  return element.isInteger(32) ? value : pure<arith::ExtSIOp>(value, to, value);
}

bool KernelLowering::picksLanes(int64_t tableExtent, int64_t lanes) {
  int64_t native = target.vectorBits / 32;
  if (target.lanePick.empty() || lanes % native)
    return false;
  return tableExtent <= native || (tableExtent == 2 * native && !target.lanePickOfTwo.empty());
}

Value KernelLowering::pickLanes(Value table, Value indices) {
  int64_t native = target.vectorBits / 32, lanes = lanesOf(indices);
  auto piece = [&](Value vector, int64_t from) {
    return lanesOf(vector) == native ? vector
                                     : shuffle(vector, vector, llvm::to_vector(llvm::seq(from, from + native)));
  };
  Values parts;
  for (int64_t from = 0; from < lanes; from += native) {
    Values operands = {piece(table, 0), piece(indices, from)};
    const std::string *pick = &target.lanePick;
    if (lanesOf(table) > native) {
      operands.push_back(piece(table, native));
      pick = &target.lanePickOfTwo;
    }
    hoist(operands);
    parts.push_back(
        LLVM::CallIntrinsicOp::create(builder, loc, operands[0].getType(), builder.getStringAttr(*pick), operands)
            .getResult(0));
  }
  for (; parts.size() > 1; parts.resize(parts.size() / 2)) {
    SmallVector<int64_t> both;
    for (int64_t i = 0; i < 2 * lanesOf(parts[0]); ++i)
      both.push_back(i);
    for (size_t i = 0; i < parts.size() / 2; ++i)
      parts[i] = shuffle(parts[2 * i], parts[2 * i + 1], both);
  }
  return parts[0];
}

//===- Tables -----------------------------------------------------------------------------------------------------===//

const Buffer &KernelLowering::lutTable(Value table) {
  for (const auto &scope : llvm::reverse(scopes))
    if (auto it = scope->tables.find(table); it != scope->tables.end())
      return it->second;
  int64_t extent = shapeOf(table.getType())[0], padded = llvm::PowerOf2Ceil(extent);
  Type element = elementOf(table.getType());
  if (padded == extent) {
    const Buffer *known = bufferOf(table);
    return scopes[statement]->tables[table] = known ? *known : materialise(table);
  }
  const Buffer from = bufferOf(table) ? *bufferOf(table) : materialise(table);
  Buffer buffer = allocate({padded}, element);
  for (int64_t i = 0; i < padded; ++i) { // before the present statement's loops, as materialise does
    Value value = zero(stored(element));
    if (i < extent) {
      Value at = address(from.pointer, i64(i), element);
      Emitter::at(statement);
      value = LLVM::LoadOp::create(builder, loc, stored(element), at, bytesOf(element));
    }
    Value to = address(buffer.pointer, i64(i), element);
    at(statement);
    LLVM::StoreOp::create(builder, loc, value, to, bytesOf(element));
  }
  return scopes[statement]->tables[table] = buffer;
}

Value KernelLowering::evaluateLut(LutOp op, const Place &place) {
  const Buffer table = lutTable(op.getTable());
  Value index = evaluate(op.getIndices(), place);
  unsigned bits = getElementTypeOrSelf(index.getType()).getIntOrFloatBitWidth();
  Type i32 = vectorOf(builder.getI32Type(), place.width);
  if (bits < 32)
    index = pure<arith::ExtUIOp>(index, i32, index);
  else if (bits > 32)
    index = pure<arith::TruncIOp>(index, i32, index);
  if (bits > llvm::Log2_64(table.shape[0]))
    index = andI(index, constant(builder.getI32IntegerAttr(int32_t(table.shape[0] - 1)), place.width));
  if (table.element.isF32() && picksLanes(table.shape[0], place.width)) {
    int64_t native = target.vectorBits / 32;
    Place start{{Coord()}, table.shape[0] > 1 ? 0 : -1, table.shape[0]};
    Value values = read(table, start);
    if (table.shape[0] == 1)
      values = broadcast(values, native);
    if (table.shape[0] > 1 && table.shape[0] < native) {
      SmallVector<int64_t> repeated;
      for (int64_t i = 0; i < native; ++i)
        repeated.push_back(i % table.shape[0]);
      values = shuffle(values, values, repeated);
    }
    return pickLanes(values, index);
  }
  Value pointers = address(table.pointer, index, table.element);
  return readElements(pointers, {}, zero(table.element), table.element, place.width);
}

} // namespace bitloom::loops
