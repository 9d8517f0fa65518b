// One product of a tile with a packed weight: the weight's bytes are taken apart, and multiplied by the atom. What the
// sums stand for is ProductSums.cpp's.
#include "bitloom/lowering/transforms/loops/KernelLowering.h"

#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"

using namespace mlir;
using namespace bitloom::tile;

namespace bitloom::loops {

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
  if (target.family == Family::Cpu_aarch64 && cast<VectorType>(into.getType()).isScalable())
    return callIntrinsic(left ? "llvm.aarch64.sve.sli.nxv16i8" : "llvm.aarch64.sve.sri.nxv16i8", into.getType(),
                         {into, from, constant(builder.getI32IntegerAttr(by))});
  if (target.family == Family::Cpu_aarch64 && lanes == 16)
    return callIntrinsic(left ? "llvm.aarch64.neon.vsli.v16i8" : "llvm.aarch64.neon.vsri.v16i8", into.getType(),
                         {into, from, constant(builder.getI32IntegerAttr(by))});
  Value moved = left ? index<arith::ShLIOp>(from, splat(by)) : index<arith::ShRUIOp>(from, splat(by));
  Value kept = index<arith::AndIOp>(into, splat(left ? (1 << by) - 1 : ~(0xff >> by)));
  return index<arith::OrIOp>(kept, moved);
}

Atom KernelLowering::atomOf(DotOp dot) {
  UnpackOp weight = weightOf(dot);
  const bool floats = isa<FloatType>(elementOf(dot.getType()));
  return atomFor(target, Packing::parse(weight.getPacking().getSpelling()), {weight.getIsSigned(), floats});
}

FieldPlan KernelLowering::planOf(DotOp dot) {
  UnpackOp weight = weightOf(dot);
  const bool floats = isa<FloatType>(elementOf(dot.getType())), oneRow = shapeOf(dot.getType())[0] == 1;
  const Packing packing = Packing::parse(weight.getPacking().getSpelling());
  return planFields(packing, weight.getIsSigned(), atomOf(dot).unsignedRight, oneRow, floats);
}

KernelLowering::Values KernelLowering::takeApart(const FieldPlan &plan, const llvm::SmallBitVector &wanted,
                                                 llvm::function_ref<Value(int)> byteAt) {
  SmallVector<Value, 8> loaded(size_t(plan.unit.bytes));
  auto byte = [&](int number) {
    Value &known = loaded[size_t(number)];
    return known ? known : known = byteAt(number);
  };
  // SVE's operations with immediates, but shifts, write over their operand, which most often is wanted once more. And
  // beside code for it, LLVM would form the ladder's masks anew for each use.
  const bool besideIt = target.scalableVectors && plan.method == FieldPlan::Method::Ladder && plan.unit.bytes == 1;
  auto splat = [&](Value like, int value) {
    Value all = splatLike(like, builder.getI8IntegerAttr(int8_t(value)));
    return besideIt || cast<VectorType>(like.getType()).isScalable() ? inRegister(all) : all;
  };
  auto masked = [&](Value value, int mask) {
    return (mask & 0xff) == 0xff ? value : index<arith::AndIOp>(value, splat(value, mask));
  };
  auto raised = [&](Value value, int by) {
    return by ? index<arith::ShLIOp>(value, splatLike(value, builder.getI8IntegerAttr(int8_t(by)))) : value;
  };
  const int bits = plan.bits, all = (1 << bits) - 1, top = all << (8 - bits);
  Values result;
  for (int i = 0; i < plan.operands(); ++i) {
    if (!wanted[unsigned(i)]) {
      result.emplace_back();
      continue;
    }
    if (plan.method == FieldPlan::Method::Ladder) {
      result.push_back(masked(byte(plan.rungs[i].byte), plan.rungs[i].mask));
      continue;
    }
    SmallVector<Packing::UnitPiece> pieces;
    for (const Packing::UnitPiece &piece : plan.unit.pieces)
      if (piece.value == i)
        pieces.push_back(piece);
    const Packing::UnitPiece &low = pieces.front(), &high = pieces.back();
    Value value = byte(low.byte);
    const bool flips = plan.fields[i].flips;
    if (plan.method == FieldPlan::Method::Masked) {
      value = masked(value, all << low.shift);
      result.push_back(flips ? index<arith::XOrIOp>(value, splat(value, 1 << (bits - 1 + low.shift))) : value);
      continue;
    }
    if (bits == 1) { // a comparison gives all ones, which is -1
      Value bit = index<arith::AndIOp>(value, splat(value, 1 << low.shift)), none = splat(value, 0);
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
        value = insertBits(value, byte(piece.byte), piece.valueShift);
      value = raised(value, 8 - bits);
    } else { // two: the high one at the top, the low one below it
      assert(pieces.size() == 2 && "a unit with pieces like no other");
      Value below = raised(value, 8 - low.bits - low.shift);
      value = insertBits(raised(byte(high.byte), 8 - high.bits - high.shift), below, -high.bits);
      if (low.shift)
        value = masked(value, top);
    }
    result.push_back(flips ? index<arith::XOrIOp>(value, splat(value, 0x80)) : value);
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
    if (atom.words) { // extended before they are repeated
      Value block = ofRow(0, column, atom.block);
      block = pure<arith::ExtSIOp>(block, vectorOf(builder.getI16Type(), atom.block), block);
      Value word = pure<vector::BitCastOp>(block, VectorType::get({1}, builder.getI32Type()), block);
      Value all = broadcast(lane(word, 0), atom.lanes);
      return pure<vector::BitCastOp>(all, VectorType::get({atom.lanes * atom.block}, builder.getI16Type()), all);
    }
    return ofWord(lane(words(ofRow(0, column, 4)), 0));
  case Atom::Left::Matrix: {
    if (auto unpack = a.getDefiningOp<UnpackOp>()) {
      Packing packing = Packing::parse(unpack.getPacking().getSpelling());
      if (packing.order == Packing::Order::Columns) {
        if (packing.bits != 8 || packing.lanes != atom.rows || packing.block != atom.block ||
            packing.bias != Packing::Bias::None)
          throw Unsupported{unpack, "activations in a packing of another instruction"};
        Coord inPanel = modulo(row, packing.rows);
        Coord byte =
            plus(times(dividedBy(column, packing.block), packing.bytesPerBlock()), times(inPanel, packing.block));
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
  if (atom.words) {
    auto extended = [&](Value value) {
      Type type = vectorOf(builder.getI16Type(), lanesOf(value));
      return value.getType() == type ? value : pure<arith::ExtSIOp>(value, type, value);
    };
    Value products = callIntrinsic(atom.intrinsic, sum.getType(), {extended(left), extended(right)});
    return pure<arith::AddIOp>({products, sum}, products, sum);
  }
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

KernelLowering::ProductSums KernelLowering::productsOf(DotOp dot, const Contraction &contraction,
                                                       const RegisterTile &tile, bool together) {
  UnpackOp weight = weightOf(dot);
  const Packing packing = Packing::parse(weight.getPacking().getSpelling());
  Type element = elementOf(dot.getType());
  const Atom atom = atomOf(dot);
  const FieldPlan plan = planOf(dot);
  const bool repeated = atom.left == Atom::Left::Repeated, byElement = atom.left == Atom::Left::Element;
  const int64_t depth = shapeOf(dot.getA().getType())[1], steps = depth / atom.block;
  const int64_t across = tile.columns / atom.lanes, blocks = tile.rows / atom.rows, perUnit = plan.unit.values;
  const int64_t vectorBytes = atom.lanes * atom.block;
  // The tile has whole units, or a part of one.
  const int64_t units = std::max<int64_t>(across / perUnit, 1), perStep = units * plan.operands();
  const int64_t firstValue = tile.column.cst % (perUnit * atom.lanes) / atom.lanes;
  llvm::SmallBitVector wanted(unsigned(plan.operands()));
  for (int64_t value = firstValue; value < std::min(firstValue + across, perUnit); ++value) {
    if (plan.method != FieldPlan::Method::Ladder)
      wanted.set(unsigned(value));
    for (const Field::Part &part : plan.fields[size_t(value)].parts) {
      wanted.set(unsigned(part.rung));
      if (plan.rungs[size_t(part.rung)].overlaps)
        wanted.set(unsigned(part.rung) - 1);
    }
  }
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
  const int64_t products = units * int64_t(wanted.count());
  const int64_t cost = units * plan.unit.bytes + products * (plan.method == FieldPlan::Method::Aligned ? 2 : 1) +
                       blocks * (products + 1);
  constexpr int64_t longest = 320; // instructions, about, of a loop's body
  // NEON's instruction that loads two registers reaches 1 KiB; those that load four with products move on.
  const bool paired = target.family == Family::Cpu_aarch64 && !*atom.intrinsic;
  const int64_t reach = paired ? 1024 / packing.bytesPerBlock() : steps;
  int64_t unroll = least;
  while (unroll * 2 <= std::min(steps, reach) && steps % (unroll * 2) == 0 && unroll * 2 * cost <= 2 * longest)
    unroll *= 2;
  if (steps * cost <= 4 * longest && steps <= reach)
    unroll = steps;

  // Sums by [chain][row block][operand], then those of the left operand by row block.
  Type sumType = VectorType::get({repeated ? vectorBytes : atom.lanes * atom.rows}, element);
  const int64_t perChain = blocks * perStep;
  Values sums(chains * perChain + (plan.needsSum() ? blocks : 0),
              zero(element, cast<VectorType>(sumType).getDimSize(0)));
  auto doSteps = [&](Coord first, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      Coord step = first + i, column = times(step, atom.block);
      const int64_t chain = i % chains, part = shares ? i % 4 : 0;
      auto operandsOf = [&](int64_t unit, const llvm::SmallBitVector &operands) {
        Coord row = tile.column + (unit * perUnit - firstValue) * atom.lanes;
        Coord inPanel = dividedBy(modulo(row, packing.rows), perUnit * atom.lanes);
        Coord byte = plus(times(step, packing.bytesPerBlock()), times(inPanel, plan.unit.bytes * vectorBytes));
        return takeApart(plan, operands, [&](int number) {
          return evaluate(weight.getBytes(),
                          Place{{dividedBy(row, packing.rows), byte + number * vectorBytes}, 1, vectorBytes});
        });
      };
      auto leftOf = [&](int64_t block) { return leftOperand(dot, atom, tile.row + block * atom.rows, column, part); };
      auto add = [&](int64_t block, int64_t operand, Value left, Value right) {
        Value &sum = sums[chain * perChain + block * perStep + operand];
        sum = multiply(atom, left, right, sum);
      };
      // The order in which least is held at a time: of the operands of which there are more, one after the other.
      Values lefts;
      if (products >= blocks) {
        for (int64_t block = 0; block < blocks; ++block)
          lefts.push_back(leftOf(block));
        for (int64_t operand = 0; operand < perStep; ++operand) {
          const int64_t inUnit = operand % plan.operands();
          if (!wanted[unsigned(inUnit)])
            continue;
          llvm::SmallBitVector only(unsigned(plan.operands()));
          only.set(unsigned(inUnit));
          Value right = operandsOf(operand / plan.operands(), only)[inUnit];
          for (int64_t block = 0; block < blocks; ++block)
            add(block, operand, lefts[block], right);
        }
      } else {
        Values right;
        for (int64_t unit = 0; unit < units; ++unit)
          right.append(operandsOf(unit, wanted));
        for (int64_t block = 0; block < blocks; ++block) {
          lefts.push_back(leftOf(block));
          for (int64_t operand = 0; operand < perStep; ++operand)
            if (right[operand])
              add(block, operand, lefts[block], right[operand]);
        }
      }
      for (int64_t block = 0; plan.needsSum() && part == 0 && block < blocks; ++block) {
        Value whole = lefts[block];
        if (shares) // all sixteen at once, and lanes added at the end
          whole = evaluate(dot.getA(), Place{{tile.row + block * atom.rows, column}, 1, 16});
        Value &sum = sums[chains * perChain + block];
        sum = sumOfLeft(atom, whole, sum);
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

  if (together) {
    Values used;
    auto isUsed = [&](size_t i) { return i >= size_t(chains * perChain) || wanted[unsigned(i % plan.operands())]; };
    for (size_t i = 0; i < sums.size(); ++i)
      if (isUsed(i))
        used.push_back(sums[i]);
    used = opaque(used);
    for (size_t i = 0, next = 0; i < sums.size(); ++i)
      if (isUsed(i))
        sums[i] = used[next++];
  }
  for (int64_t width = chains / 2; width; width /= 2)
    for (int64_t i = 0; i < width * perChain; ++i)
      sums[i] = added(sums[i], sums[i + width * perChain]);
  return {.atom = atom,
          .plan = plan,
          .across = across,
          .firstValue = firstValue,
          .perBlock = perStep,
          .byLanes = shares,
          .sums = Values(ArrayRef(sums).take_front(size_t(perChain))),
          .ofLeft = Values(ArrayRef(sums).drop_front(size_t(chains * perChain)))};
}

} // namespace bitloom::loops
