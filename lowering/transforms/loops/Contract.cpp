// Products with packed weights. A loop that only adds up products of tiles is turned inside out: a tile of the result
// that fits the registers goes through the whole loop, then the next one. What is carried from one iteration to the next
// is held in *fragments*, registers in the order of the sums of the instruction that multiplies (contract/Atoms.h), and
// the weight's bytes are taken apart once for all of the tile's rows (contract/Fields.h).
#include "bitloom/lowering/transforms/loops/KernelLowering.h"

#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"

using namespace mlir;
using namespace bitloom::tile;

namespace bitloom::loops {

//===- Which loops ------------------------------------------------------------------------------------------------===//

// The packed weight that is the dot's right operand: w in dot(a, transpose(unpack(w))).
static UnpackOp weightOf(DotOp dot) {
  auto transposed = dot.getB().getDefiningOp<TransposeOp>();
  auto unpack = transposed ? transposed.getSource().getDefiningOp<UnpackOp>() : UnpackOp();
  if (!unpack || Packing::parse(unpack.getPacking().getSpelling()).order != Packing::Order::Columns)
    return {};
  return unpack;
}

// Adds to `loads` what `tile` reads; false where it depends on what the loop carries or on its products in another way
// than element by element.
static bool readsInOrder(Value tile, scf::ForOp loop, bool elementwise, llvm::SetVector<LoadOp> &loads) {
  if (!isTile(tile))
    return true;
  Operation *op = tile.getDefiningOp();
  bool carried = !op ? tile.getParentBlock() == loop.getBody() : isa<DotOp>(op) && op->getBlock() == loop.getBody();
  if (carried)
    return elementwise;
  if (!op || !isInline(op))
    return true; // in memory
  if (auto load = dyn_cast<LoadOp>(op))
    loads.insert(load);
  elementwise &= OpTrait::hasElementwiseMappableTraits(op);
  return llvm::all_of(op->getOperands(), [&](Value v) { return readsInOrder(v, loop, elementwise, loads); });
}

std::optional<KernelLowering::Contraction> KernelLowering::contractionOf(scf::ForOp op) {
  Contraction result;
  for (Operation &inner : op.getBody()->without_terminator()) {
    if (auto dot = dyn_cast<DotOp>(inner)) {
      result.dots.push_back(dot);
      continue;
    }
    bool isScalar = !inner.getNumRegions() && (isMemoryEffectFree(&inner) || isa<LoadOp, GatherOp>(inner)) &&
                    !llvm::any_of(inner.getOperands(), isTile) && !llvm::any_of(inner.getResults(), isTile);
    if (isScalar)
      result.scalars.push_back(&inner);
    else if (!isInline(&inner))
      return {};
  }
  if (result.dots.empty())
    return {};
  ArrayRef<int64_t> shape = shapeOf(result.dots[0].getType());
  llvm::SetVector<LoadOp> loads;
  for (DotOp dot : result.dots) {
    UnpackOp weight = weightOf(dot);
    if (!weight || shapeOf(dot.getType()) != shape || !readsInOrder(weight.getBytes(), op, false, loads) ||
        !readsInOrder(dot.getA(), op, false, loads) || !readsInOrder(dot.getAcc(), op, true, loads))
      return {};
  }
  for (auto [init, next] : llvm::zip(op.getInitArgs(), op.getYieldedValues()))
    if (!isTile(init) || shapeOf(init.getType()) != shape || !readsInOrder(next, op, true, loads))
      return {};
  result.loads = loads.takeVector();
  auto describe = [&](DotOp dot) {
    bool floats = isa<FloatType>(elementOf(dot.getType()));
    return atomFor(target, Packing::parse(weightOf(dot).getPacking().getSpelling()), floats);
  };
  result.atom = describe(result.dots[0]);
  Packing packing = Packing::parse(weightOf(result.dots[0]).getPacking().getSpelling());
  for (DotOp dot : result.dots) {
    Packing other = Packing::parse(weightOf(dot).getPacking().getSpelling());
    Atom atom = describe(dot);
    if (other.rows != packing.rows || atom.lanes != result.atom.lanes || atom.rows != result.atom.rows)
      throw Unsupported{dot, "products of tiles packed in different ways in one loop"};
    if (dot.getUnsignedA())
      throw Unsupported{dot, "a product of unsigned activations with a packed weight"};
  }
  result.tile = tileShapeFor(target, result.atom, packing, shape[0]);
  return result;
}

bool KernelLowering::lowerContraction(scf::ForOp op) {
  std::optional<Contraction> found = contractionOf(op);
  if (!found)
    return false;
  SmallVector<Buffer> results = buffersFor(op.getResultTypes());
  ArrayRef<int64_t> shape = shapeOf(op.getResult(0).getType());
  loop(0, shape[1], found->tile.columns, [&](Coord column) {
    for (int64_t block = found->tile.rows, row = 0; row < shape[0];) {
      while (block > found->atom.rows && row + block > shape[0])
        block /= 2;
      int64_t end = row + std::max<int64_t>((shape[0] - row) / block, 1) * block;
      loop(row, end, block,
           [&](Coord at) { contractTile(op, *found, {at, column, block, found->tile.columns}, results); });
      row = end;
    }
  });
  for (auto [result, buffer] : llvm::zip(op.getResults(), results))
    scopes.back()->buffers[result] = buffer;
  return true;
}

//===- A tile of the result ---------------------------------------------------------------------------------------===//

// A scalar of the loop's body for the iteration at `iv`; none where it is more than sums and products, of which it would
// not be known that they grow with it.
std::optional<Value> KernelLowering::scalarAt(Value original, scf::ForOp loop, Value iv) {
  if (original == loop.getInductionVar())
    return iv;
  Operation *op = original.getDefiningOp();
  if (!op || op->getBlock() != loop.getBody())
    return scalar(original);
  if (!isa<arith::AddIOp, arith::MulIOp>(op))
    return {};
  std::optional<Value> a = scalarAt(op->getOperand(0), loop, iv), b = scalarAt(op->getOperand(1), loop, iv);
  if (!a || !b)
    return {};
  return clone(op, {*a, *b}, 1)[0];
}

Value KernelLowering::allInside(ArrayRef<LoadOp> loads, scf::ForOp loop, Value iv) {
  SmallVector<Value> conditions;
  for (LoadOp load : loads) {
    const View &memory = view(load.getView(), load);
    for (auto [dim, offset] : llvm::enumerate(load.getOffsets())) {
      auto it = llvm::find(load.getDims(), int32_t(dim));
      int64_t extent = it == load.getDims().end() ? 1 : shapeOf(load.getType())[it - load.getDims().begin()];
      std::optional<Value> start = scalarAt(offset, loop, iv);
      if (!start || bitsOf(offset) >= 64) // perhaps negative, or less in a later iteration
        return i1(false);
      conditions.push_back(compare(arith::CmpIPredicate::sle, add(*start, i64(extent)), memory.extents[dim]));
    }
  }
  Value all = i1(true);
  for (int level = 0; level <= depth(); ++level) // so that what is known early is decided early
    for (Value condition : conditions)
      if (depthOf(condition) == level)
        all = andI(all, condition);
  return all;
}

void KernelLowering::contractTile(scf::ForOp op, const Contraction &contraction, const RegisterTile &tile,
                                  ArrayRef<Buffer> results) {
  const Atom &atom = contraction.atom;
  SmallVector<Fragment> fragments;
  for (int64_t row = 0; row < tile.rows; row += atom.rows)
    for (int64_t column = 0; column < tile.columns; column += atom.lanes)
      fragments.push_back(
          {tile.row + row, tile.column + column, atom.rows, atom.lanes * atom.rows, int64_t(fragments.size())});
  Values carried;
  FragmentValues nothing;
  for (Value init : op.getInitArgs())
    for (const Fragment &fragment : fragments)
      carried.push_back(evaluateFragment(init, fragment, nothing));

  // Offsets grow from iteration to iteration: all are in bounds, or all but the last one, or it is not worth asking.
  Value lower = scalar(op.getLowerBound()), upper = scalar(op.getUpperBound()), step = scalar(op.getStep());
  Value count = divU(add(maxS(sub(upper, lower), i64(0)), sub(step, i64(1))), step);
  Value last = add(lower, mul(sub(count, i64(1)), step)), beforeLast = sub(last, step);
  Value none = lower;
  Value middle = select(allInside(contraction.loads, op, beforeLast), last, none);
  middle = select(allInside(contraction.loads, op, last), upper, middle);
  middle = maxS(middle, lower);
  carried = contractRange(op, contraction, tile, fragments, lower, middle, step, carried, /*inside=*/true);
  carried = contractRange(op, contraction, tile, fragments, middle, upper, step, carried, /*inside=*/false);
  for (size_t i = 0; i < results.size(); ++i)
    writeFragments(results[i], fragments, ArrayRef(carried).slice(i * fragments.size(), fragments.size()));
}

// The loop from `from` to `to`. Where something may be out of bounds, what is read is copied first, with zeros for the
// rest.
KernelLowering::Values KernelLowering::contractRange(scf::ForOp op, const Contraction &contraction,
                                                     const RegisterTile &tile, ArrayRef<Fragment> fragments, Value from,
                                                     Value to, Value step, ValueRange carried, bool inside) {
  // Together with the sums of products, what is carried may be too much for the registers. Then it is in memory, a load
  // and a store each for every iteration; a register allocator left alone moves twice as much.
  const int64_t lanes = fragments[0].lanes, vectors = lanes * 32 / target.vectorBits;
  const bool inMemory = int64_t(carried.size() + fragments.size()) * vectors > target.vectorRegisters - 6;
  Buffer memory;
  if (inMemory) {
    memory = allocate({int64_t(carried.size()) * lanes}, getElementTypeOrSelf(carried[0].getType()));
    for (auto [i, value] : llvm::enumerate(carried)) {
      Value at = address(memory.pointer, i64(int64_t(i) * lanes), memory.element);
      here();
      LLVM::StoreOp::create(builder, loc, value, at, 16);
    }
  }
  here();
  auto loop = scf::ForOp::create(builder, op.getLoc(), from, to, step, inMemory ? ValueRange() : carried);
  open(loop.getBody(), loop);
  bind(op.getInductionVar(), loop.getInductionVar());
  int outerStatement = std::exchange(statement, depth()), outerFloor = std::exchange(memoryFloor, depth());
  int outerCodeFloor = std::exchange(codeFloor, inside ? codeFloor : depth());
  Block *outerBlock = std::exchange(statementBlock, op.getBody());
  Operation *outerOp = std::exchange(statementOp, op.getOperation());
  for (Operation *inner : contraction.scalars)
    lowerScalar(inner);
  for (LoadOp load : contraction.loads)
    if (inside)
      insideLoads.insert(load);
    else if (!bufferOf(load))
      materialise(load);
  FragmentValues values;
  const size_t count = fragments.size(), tiles = op.getNumResults();
  auto know = [&](size_t tile, size_t fragment, Value value) {
    values.known[{op.getRegionIterArg(unsigned(tile)), int64_t(fragment)}] = value;
  };
  for (size_t i = 0; !inMemory && i < tiles; ++i)
    for (size_t f = 0; f < count; ++f)
      know(i, f, loop.getRegionIterArg(unsigned(i * count + f)));
  for (DotOp dot : contraction.dots)
    contract(dot, contraction, tile, fragments, values, /*together=*/inMemory);
  Values next;
  if (!inMemory) {
    for (Value value : op.getYieldedValues())
      for (const Fragment &fragment : fragments)
        next.push_back(evaluateFragment(value, fragment, values));
  } else {
    Value own = opaque(memory.pointer)[0];
    const int64_t together = count % 2 ? 1 : 2; // one instruction loads or stores two of NEON's
    for (size_t f = 0; f < count; f += size_t(together)) {
      auto placeOf = [&](size_t i) {
        return address(own, i64(int64_t(i * count + f) * lanes), memory.element);
      };
      for (size_t i = 0; i < tiles; ++i) {
        Value from = placeOf(i);
        hoistRead(from);
        Value both = LLVM::LoadOp::create(builder, loc, vectorOf(memory.element, lanes * together), from, 16);
        for (int64_t part = 0; part < together; ++part)
          know(i, f + size_t(part), shuffle(both, both, llvm::to_vector(llvm::seq(part * lanes, (part + 1) * lanes))));
      }
      for (size_t i = 0; i < tiles; ++i) {
        Values results;
        for (int64_t part = 0; part < together; ++part)
          results.push_back(evaluateFragment(op.getYieldedValues()[i], fragments[f + size_t(part)], values));
        Value all = results[0];
        if (together == 2)
          all = shuffle(all, results[1], llvm::to_vector(llvm::seq<int64_t>(0, 2 * lanes)));
        Value to = placeOf(i);
        here();
        LLVM::StoreOp::create(builder, loc, all, to, 16);
      }
    }
  }
  if (!inMemory) {
    here();
    scf::YieldOp::create(builder, op.getLoc(), next);
  }
  insideLoads.clear();
  statement = outerStatement;
  memoryFloor = outerFloor;
  codeFloor = outerCodeFloor;
  statementBlock = outerBlock;
  statementOp = outerOp;
  close();
  if (!inMemory)
    return Values(loop.getResults());
  Values results;
  for (size_t i = 0; i < carried.size(); ++i) {
    Value at = address(memory.pointer, i64(int64_t(i) * lanes), memory.element);
    here();
    results.push_back(LLVM::LoadOp::create(builder, loc, vectorOf(memory.element, lanes), at, 16));
  }
  return results;
}

// The same values, but all are there at once, and LLVM does not know where they come from. It neither moves what is in
// memory to registers, there are enough or not, nor begins to use some sums before others are complete, which takes more
// registers for what they still have to come from.
KernelLowering::Values KernelLowering::opaque(ValueRange values) {
  std::string out, in;
  for (auto [i, value] : llvm::enumerate(values)) {
    bool vector = isa<VectorType>(value.getType());
    const char *registers = !vector ? "=r" : target.family == Family::Cpu_aarch64 ? "=w" : "=v";
    out += (i ? "," : "") + std::string(registers);
    in += "," + std::to_string(i);
  }
  Type type = values[0].getType();
  if (values.size() > 1)
    type = LLVM::LLVMStructType::getLiteral(builder.getContext(), SmallVector<Type>(values.getTypes()));
  here();
  auto dialect = LLVM::AsmDialectAttr::get(builder.getContext(), LLVM::AsmDialect::AD_ATT);
  Value all = LLVM::InlineAsmOp::create(builder, loc, type, values, "", out + in, /*has_side_effects=*/true,
                                        /*is_align_stack=*/false, LLVM::tailcallkind::TailCallKind::None, dialect,
                                        ArrayAttr())
                  .getResult(0);
  if (values.size() == 1)
    return {all};
  Values results;
  for (size_t i = 0; i < values.size(); ++i)
    results.push_back(LLVM::ExtractValueOp::create(builder, loc, all, int64_t(i)));
  return results;
}

//===- A product --------------------------------------------------------------------------------------------------===//

Value KernelLowering::callIntrinsic(StringRef name, Type result, ValueRange operands) {
  hoist(operands);
  return LLVM::CallIntrinsicOp::create(builder, loc, result, builder.getStringAttr(name), operands).getResult(0);
}

static int64_t bytesIn(Value vector) { return cast<VectorType>(vector.getType()).getDimSize(0); }

Value KernelLowering::insertBits(Value into, Value from, int shift) {
  int64_t lanes = lanesOf(into);
  auto splat = [&](int value) { return constant(builder.getI8IntegerAttr(int8_t(value)), lanes); };
  bool left = shift > 0;
  int by = left ? shift : -shift;
  if (target.family == Family::Cpu_aarch64 && lanes == 16)
    return callIntrinsic(left ? "llvm.aarch64.neon.vsli.v16i8" : "llvm.aarch64.neon.vsri.v16i8", into.getType(),
                         {into, from, constant(builder.getI32IntegerAttr(by))});
  Value moved = left ? index<arith::ShLIOp>(from, splat(by)) : index<arith::ShRUIOp>(from, splat(by));
  Value kept = index<arith::AndIOp>(into, splat(left ? (1 << by) - 1 : ~(0xff >> by)));
  return index<arith::OrIOp>(kept, moved);
}

KernelLowering::Values KernelLowering::takeApart(const FieldPlan &plan, ArrayRef<Value> bytes) {
  int64_t lanes = bytesIn(bytes[0]);
  auto splat = [&](int value) { return constant(builder.getI8IntegerAttr(int8_t(value)), lanes); };
  auto masked = [&](Value value, int mask) {
    return (mask & 0xff) == 0xff ? value : index<arith::AndIOp>(value, splat(mask));
  };
  auto raised = [&](Value value, int by) { return by ? index<arith::ShLIOp>(value, splat(by)) : value; };
  const int bits = plan.bits, all = (1 << bits) - 1, top = all << (8 - bits);
  Values result;
  for (int i = 0; i < plan.unit.values; ++i) {
    SmallVector<Packing::UnitPiece> pieces;
    for (const Packing::UnitPiece &piece : plan.unit.pieces)
      if (piece.value == i)
        pieces.push_back(piece);
    const Packing::UnitPiece &low = pieces.front(), &high = pieces.back();
    Value value = bytes[low.byte];
    const bool flips = plan.fields[i].flips;
    if (plan.method == FieldPlan::Method::Ladder) {
      result.push_back(masked(value, (1 << (low.shift + bits)) - 1));
      continue;
    }
    if (plan.method == FieldPlan::Method::Masked) {
      value = masked(value, all << low.shift);
      result.push_back(flips ? index<arith::XOrIOp>(value, splat(1 << (bits - 1 + low.shift))) : value);
      continue;
    }
    if (bits == 1) { // a comparison gives all ones, which is -1
      Value bit = index<arith::AndIOp>(value, splat(1 << low.shift)), none = zero(builder.getI8Type(), lanes);
      Value set = compare(flips ? arith::CmpIPredicate::eq : arith::CmpIPredicate::ne, bit, none);
      result.push_back(pure<arith::ExtSIOp>(set, value.getType(), set));
      continue;
    }
    bool chain = llvm::all_of(pieces, [](const Packing::UnitPiece &piece) { return piece.shift == 0; });
    if (pieces.size() == 1) {
      value = raised(value, 8 - bits - low.shift);
      if (low.shift)
        value = masked(value, top);
    } else if (chain) { // each above the one before it
      for (const Packing::UnitPiece &piece : ArrayRef(pieces).drop_front())
        value = insertBits(value, bytes[piece.byte], piece.valueShift);
      value = raised(value, 8 - bits);
    } else { // two: the high one at the top, the low one below it
      assert(pieces.size() == 2 && "a unit with pieces like no other");
      Value below = raised(value, 8 - low.bits - low.shift);
      value = insertBits(raised(bytes[high.byte], 8 - high.bits - high.shift), below, -high.bits);
      if (low.shift)
        value = masked(value, top);
    }
    result.push_back(flips ? index<arith::XOrIOp>(value, splat(0x80)) : value);
  }
  return result;
}

Value KernelLowering::leftOperand(DotOp dot, const Atom &atom, Coord row, Coord column, int64_t part) {
  Value a = dot.getA();
  const int64_t rows = shapeOf(a.getType())[0], depth = shapeOf(a.getType())[1];
  auto clamped = [&](int64_t by) { // a tile of few rows has them repeated, and the results go nowhere
    Coord at = row + by;
    return at.isConstant() ? Coord{{}, std::min(at.cst, rows - 1)} : at;
  };
  auto ofRow = [&](int64_t by, Coord from, int64_t width) {
    return evaluate(a, Place{{clamped(by), from}, width > 1 ? 1 : -1, width});
  };
  auto repeated = [&](Value value, int64_t times) { // as a whole
    SmallVector<int64_t> lanes;
    for (int64_t i = 0; i < times * lanesOf(value); ++i)
      lanes.push_back(i % lanesOf(value));
    return shuffle(value, value, lanes);
  };
  auto words = [&](Value bytes) {
    Type type = VectorType::get({bytesIn(bytes) / 4}, builder.getI32Type());
    return pure<vector::BitCastOp>(bytes, type, bytes);
  };
  auto ofWord = [&](Value word) { // a vector of four bytes repeated
    Value all = broadcast(word, atom.lanes);
    return pure<vector::BitCastOp>(all, VectorType::get({atom.lanes * 4}, builder.getI8Type()), all);
  };
  switch (atom.left) {
  case Atom::Left::Element: {
    if (depth % 16 == 0) {
      Value vector = words(ofRow(0, column + -part * atom.block, 16));
      SmallVector<int64_t> picked(4, part);
      Value four = shuffle(vector, vector, picked);
      return pure<vector::BitCastOp>(four, VectorType::get({16}, builder.getI8Type()), four);
    }
    [[fallthrough]];
  }
  case Atom::Left::Broadcast:
    return ofWord(lane(words(ofRow(0, column, 4)), 0));
  case Atom::Left::Matrix: {
    if (auto unpack = a.getDefiningOp<UnpackOp>()) {
      Packing packing = Packing::parse(unpack.getPacking().getSpelling());
      if (packing.order == Packing::Order::Columns) {
        if (packing.bits != 8 || packing.lanes != atom.rows || packing.block != atom.block ||
            packing.bias != Packing::Bias::None)
          throw Unsupported{unpack, "activations in a packing of another instruction"};
        Coord inPanel = modulo(row, packing.rows);
        Coord byte = plus(times(dividedBy(column, packing.block), packing.bytesPerBlock()),
                          times(inPanel, packing.block));
        return evaluate(unpack.getBytes(), Place{{dividedBy(row, packing.rows), byte}, 1, atom.rows * atom.block});
      }
    }
    Value first = ofRow(0, column, atom.block), second = ofRow(1, column, atom.block);
    return shuffle(first, second, llvm::to_vector(llvm::seq<int64_t>(0, 2 * atom.block)));
  }
  case Atom::Left::Repeated: {
    Type element = elementOf(dot.getType());
    Value block = convert(ofRow(0, column, atom.block), element, /*isUnsigned=*/false);
    return atom.block == 1 ? broadcast(block, atom.lanes) : repeated(block, atom.lanes);
  }
  }
  llvm_unreachable("an atom with no left operand");
}

Value KernelLowering::multiply(const Atom &atom, Value left, Value right, Value sum) {
  if (*atom.intrinsic) {
    Values operands = {sum, left, right};
    if (atom.left != Atom::Left::Matrix) // the weight is the first factor
      std::swap(operands[1], operands[2]);
    return callIntrinsic(atom.intrinsic, sum.getType(), operands);
  }
  Type element = cast<VectorType>(sum.getType()).getElementType();
  if (isa<FloatType>(element)) {
    Type words = vectorOf(builder.getI32Type(), lanesOf(right)); // no target converts bytes directly
    right = pure<arith::ExtSIOp>(right, words, right);
    right = pure<arith::SIToFPOp>(right, sum.getType(), right);
    return pure<math::FmaOp>({left, right, sum}, left, right, sum);
  }
  right = pure<arith::ExtSIOp>(right, sum.getType(), right);
  Value product = pure<arith::MulIOp>({left, right}, left, right);
  return pure<arith::AddIOp>({product, sum}, product, sum);
}

Value KernelLowering::sumOfLeft(const Atom &atom, Value left, Value sum) {
  if (*atom.intrinsic)
    return multiply(atom, left, constant(builder.getI8IntegerAttr(1), bytesIn(left)), sum);
  if (isa<FloatType>(cast<VectorType>(sum.getType()).getElementType()))
    return pure<arith::AddFOp>({left, sum}, left, sum);
  return pure<arith::AddIOp>({left, sum}, left, sum);
}

void KernelLowering::contract(DotOp dot, const Contraction &contraction, const RegisterTile &tile,
                              ArrayRef<Fragment> fragments, FragmentValues &values, bool together) {
  UnpackOp weight = weightOf(dot);
  const Packing packing = Packing::parse(weight.getPacking().getSpelling());
  Type element = elementOf(dot.getType());
  const Atom atom = atomFor(target, packing, isa<FloatType>(element));
  const FieldPlan plan = planFields(packing, weight.getIsSigned(), atom.unsignedRight);
  const bool repeated = atom.left == Atom::Left::Repeated, byElement = atom.left == Atom::Left::Element;
  const int64_t depth = shapeOf(dot.getA().getType())[1], steps = depth / atom.block;
  const int64_t across = tile.columns / atom.lanes, blocks = tile.rows / atom.rows, perUnit = plan.unit.values;
  const int64_t vectorBytes = atom.lanes * atom.block;
  // Larger products would leave the accumulator's range only because of the scale.
  if (element.isInteger(32) && depth > 65536)
    throw Unsupported{dot, "a sum of more than 65536 products with a packed weight"};

  // One step of the inner dimension is a block; steps that share a vector of the left operand, and chains, go together.
  const bool shares = byElement && depth % 16 == 0;
  int64_t least = shares ? 4 : 1;
  least = std::max<int64_t>(least, contraction.tile.chains);
  while (steps % least)
    least /= 2;
  const int64_t chains = std::min<int64_t>(contraction.tile.chains, least);
  const int64_t cost = across / perUnit * (plan.unit.bytes + 2 * perUnit) + blocks * (across + 1);
  constexpr int64_t longest = 320; // instructions, about, of a loop's body
  int64_t unroll = least;
  while (unroll * 2 <= steps && steps % (unroll * 2) == 0 && unroll * 2 * cost <= longest)
    unroll *= 2;
  if (steps * cost <= 3 * longest)
    unroll = steps;

  // Sums by [chain][row block][column vector], then those of the left operand by row block.
  Type sumType = VectorType::get({repeated ? vectorBytes : atom.lanes * atom.rows}, element);
  const int64_t perChain = blocks * across;
  Values sums(chains * perChain + (plan.needsSum() ? blocks : 0),
              zero(element, cast<VectorType>(sumType).getDimSize(0)));
  auto doSteps = [&](Coord first, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      Coord step = first + i, column = times(step, atom.block);
      const int64_t chain = i % chains, part = shares ? i % 4 : 0;
      Values right;
      for (int64_t unit = 0; unit < across / perUnit; ++unit) {
        Coord row = tile.column + unit * perUnit * atom.lanes;
        Coord inPanel = dividedBy(modulo(row, packing.rows), perUnit * atom.lanes);
        Coord byte = plus(times(step, packing.bytesPerBlock()), times(inPanel, plan.unit.bytes * vectorBytes));
        Values bytes;
        for (int64_t v = 0; v < plan.unit.bytes; ++v)
          bytes.push_back(evaluate(weight.getBytes(),
                                   Place{{dividedBy(row, packing.rows), byte + v * vectorBytes}, 1, vectorBytes}));
        right.append(takeApart(plan, bytes));
      }
      for (int64_t block = 0; block < blocks; ++block) {
        Value left = leftOperand(dot, atom, tile.row + block * atom.rows, column, part);
        for (int64_t j = 0; j < across; ++j) {
          Value &sum = sums[chain * perChain + block * across + j];
          sum = multiply(atom, left, right[j], sum);
        }
        if (plan.needsSum() && part == 0) {
          Value whole = left;
          if (shares) // all sixteen at once, and lanes added at the end
            whole = evaluate(dot.getA(), Place{{tile.row + block * atom.rows, column}, 1, 16});
          Value &sum = sums[chains * perChain + block];
          sum = sumOfLeft(atom, whole, sum);
        }
      }
    }
  };
  if (unroll == steps) {
    doSteps({}, steps);
  } else {
    Value from = i64(0), to = i64(steps), by = i64(unroll);
    here();
    auto loop = scf::ForOp::create(builder, loc, from, to, by, sums);
    open(loop.getBody(), loop);
    sums.assign(loop.getRegionIterArgs().begin(), loop.getRegionIterArgs().end());
    doSteps({loop.getInductionVar(), 0, unroll & -unroll}, unroll);
    here();
    scf::YieldOp::create(builder, loc, sums);
    close();
    sums.assign(loop.getResults().begin(), loop.getResults().end());
  }

  if (together)
    sums = opaque(sums);
  // The sums of a result: over chains, and over the lanes of a block.
  auto added = [&](Value a, Value b) {
    return isa<FloatType>(element) ? pure<arith::AddFOp>({a, b}, a, b) : pure<arith::AddIOp>({a, b}, a, b);
  };
  auto joined = [&](Value sum) {
    for (int64_t half = repeated ? atom.block / 2 : 0; half; half /= 2) {
      SmallVector<int64_t> low, high;
      for (int64_t i = 0; i < lanesOf(sum) / 2; ++i) {
        low.push_back(i / half * 2 * half + i % half);
        high.push_back(low.back() + half);
      }
      sum = added(shuffle(sum, sum, low), shuffle(sum, sum, high));
    }
    return sum;
  };
  for (int64_t width = chains / 2; width; width /= 2)
    for (int64_t i = 0; i < width * perChain; ++i)
      sums[i] = added(sums[i], sums[i + width * perChain]);
  std::map<std::pair<int64_t, int>, Value> corrections; // by row block and factor
  auto correction = [&](int64_t block, int factor) {
    Value &known = corrections[{block, factor}];
    if (known)
      return known;
    Value all = joined(sums[chains * perChain + block]);
    if (shares)
      for (int i = 0; i < 2; ++i)
        all = callIntrinsic("llvm.aarch64.neon.addp.v4i32", all.getType(), {all, all});
    Value times = isa<FloatType>(element) ? constant(builder.getFloatAttr(element, factor), lanesOf(all))
                                          : constant(builder.getI32IntegerAttr(factor), lanesOf(all));
    known = isa<FloatType>(element) ? pure<arith::MulFOp>({all, times}, all, times)
                                    : pure<arith::MulIOp>({all, times}, all, times);
    return known;
  };
  const bool fromZero = matchPattern(dot.getAcc(), m_Zero()) || matchPattern(dot.getAcc(), m_AnyZeroFloat());
  for (const Fragment &fragment : fragments) {
    const int64_t block = fragment.number / across, j = fragment.number % across;
    const Field &field = plan.fields[j % perUnit];
    Value sum = joined(sums[block * across + j]);
    if (field.overlaps) {
      Value before = joined(sums[block * across + j - 1]);
      sum = pure<arith::SubIOp>({sum, before}, sum, before);
    }
    if (field.offset)
      sum = added(sum, correction(block, field.offset << field.scale));
    FragmentSum result{sum, field.scale};
    if (!fromZero || isa<FloatType>(element)) {
      Value whole = scaled(result, element);
      if (!fromZero)
        whole = added(whole, evaluateFragment(dot.getAcc(), fragment, values));
      result = {whole, 0};
    }
    values.sums[{dot.getResult(), fragment.number}] = result;
  }
}

} // namespace bitloom::loops
