// Tiles in registers, in the order of a multiplying instruction's sums rather than row by row.
#include "bitloom/lowering/transforms/loops/KernelLowering.h"

#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"

using namespace mlir;
using namespace bitloom::tile;

namespace bitloom::loops {

// The sum divided by 2^scale, as a number of this type.
Value KernelLowering::scaled(const FragmentSum &sum, Type element) {
  int64_t lanes = lanesOf(sum.value);
  Type type = vectorOf(element, lanes);
  if (isa<FloatType>(getElementTypeOrSelf(sum.value.getType()))) {
    Value by = constant(builder.getFloatAttr(element, 1.0 / double(1 << sum.scale)), lanes);
    return sum.scale ? pure<arith::MulFOp>({sum.value, by}, sum.value, by) : sum.value;
  }
  if (isa<IntegerType>(element)) {
    Value by = constant(builder.getI32IntegerAttr(sum.scale), lanes);
    return sum.scale ? pure<arith::ShRSIOp>({sum.value, by}, sum.value, by) : sum.value;
  }
  if (sum.scale && target.family == Family::Cpu_aarch64 && lanes == 4 && element.isF32())
    return callIntrinsic("llvm.aarch64.neon.vcvtfxs2fp.v4f32.v4i32", type,
                         {sum.value, constant(builder.getI32IntegerAttr(sum.scale))});
  Value whole = scaled(sum, builder.getI32Type());
  return pure<arith::SIToFPOp>(whole, type, whole);
}

Value KernelLowering::evaluateFragment(Value tile, const Fragment &fragment, FragmentValues &values) {
  if (!isTile(tile))
    return broadcast(scalar(tile), fragment.lanes);
  auto key = std::pair(tile, fragment.number);
  if (auto it = values.known.find(key); it != values.known.end())
    return it->second;
  auto remembered = [&](Value value) { return values.known[key] = broadcast(value, fragment.lanes); };
  if (auto it = values.sums.find(key); it != values.sums.end())
    return remembered(scaled(it->second, elementOf(tile.getType())));
  Operation *op = tile.getDefiningOp();
  if (op && isInline(op) && !bufferOf(tile)) {
    if (auto convert = dyn_cast<arith::SIToFPOp>(op))
      if (auto it = values.sums.find({convert.getIn(), fragment.number}); it != values.sums.end())
        return remembered(scaled(it->second, elementOf(tile.getType())));
    if (auto literal = dyn_cast<arith::ConstantOp>(op); literal && isa<SplatElementsAttr>(literal.getValue()))
      return remembered(evaluate(tile, Place{{fragment.row, fragment.column}}));
    if (auto splat = dyn_cast<tensor::SplatOp>(op))
      return remembered(scalar(splat.getInput()));
    if (auto repeat = dyn_cast<BroadcastOp>(op))
      return remembered(gatherFragment(repeat.getSource(), fragment));
    if (OpTrait::hasElementwiseMappableTraits(op) && op->getNumResults() == 1) {
      Values operands;
      for (Value operand : op->getOperands())
        operands.push_back(evaluateFragment(operand, fragment, values));
      return remembered(clone(op, operands, fragment.lanes)[0]);
    }
  }
  return remembered(gatherFragment(tile, fragment));
}

// From what is evaluated row by row. A dimension of extent 1 is the same for all.
Value KernelLowering::gatherFragment(Value tile, const Fragment &fragment) {
  ArrayRef<int64_t> shape = shapeOf(tile.getType());
  const int64_t width = fragment.lanes / fragment.rows;
  if (shape[0] > 1 && shape[1] == 1) { // of each row a number
    const int64_t native = target.vectorBits / 32;
    Coord first = fragment.row;
    if (shape[0] % native == 0 && (!first.dyn || first.multiple % native == 0)) {
      const int64_t skipped = first.cst % native; // of a vector that neighbours share
      first.cst -= skipped;
      Value all = evaluate(tile, Place{{first, Coord()}, 0, native});
      SmallVector<int64_t> picked;
      for (int64_t i = 0; i < fragment.lanes; ++i)
        picked.push_back(skipped + i / width);
      return shuffle(all, all, picked);
    }
    Values rows;
    for (int64_t row = 0; row < fragment.rows; ++row) {
      Coord at = fragment.row + row;
      if (at.isConstant() && at.cst >= shape[0])
        at.cst = shape[0] - 1;
      rows.push_back(evaluate(tile, Place{{at, Coord()}}));
    }
    if (fragment.rows == 1)
      return broadcast(rows[0], fragment.lanes);
    Values each;
    for (int64_t i = 0; i < fragment.lanes; ++i)
      each.push_back(rows[i / width]);
    return lanes(each);
  }
  if (shape[1] == 1)
    return broadcast(evaluate(tile, Place{{Coord(), Coord()}}), fragment.lanes);
  // Short runs are picked from a vector that their neighbours share; two of NEON's registers of numbers that were 16
  // bits wide come from one load.
  int64_t native = std::max<int64_t>(width, target.vectorBits / (target.vectorBits > 128 ? 32 : 16));
  Coord column = fragment.column;
  while (native > width && (shape[1] % native || (column.dyn && column.multiple % native)))
    native /= 2;
  const int64_t skipped = column.cst % native;
  column.cst -= skipped;
  Values rows;
  for (int64_t row = 0; row < (shape[0] > 1 ? fragment.rows : 1); ++row) {
    Coord at = shape[0] > 1 ? fragment.row + row : Coord();
    if (at.isConstant() && at.cst >= shape[0])
      at.cst = shape[0] - 1;
    rows.push_back(evaluate(tile, Place{{at, column}, native > 1 ? 1 : -1, native}));
  }
  if (fragment.rows == 1 && native == width)
    return rows[0];
  SmallVector<int64_t> picked;
  for (int64_t i = 0; i < fragment.lanes; ++i)
    picked.push_back(skipped + i % width + (rows.size() > 1 ? i / width * native : 0));
  return shuffle(rows[0], rows.size() > 1 ? rows[1] : rows[0], picked);
}

// The low or the high halves of two vectors of four, as one instruction of words of 64 bits.
Value KernelLowering::halvesOf(Value first, Value second, int64_t half) {
  Type words = VectorType::get({2}, builder.getF64Type());
  Value a = pure<vector::BitCastOp>(first, words, first), b = pure<vector::BitCastOp>(second, words, second);
  Value both = shuffle(a, b, {half, 2 + half});
  return pure<vector::BitCastOp>(both, first.getType(), both);
}

// Whether the fragment and the next one are beside each other, and each of their rows half a native vector.
bool KernelLowering::isPair(ArrayRef<Fragment> fragments, size_t first) {
  const Fragment &fragment = fragments[first];
  return first + 1 < fragments.size() && fragment.rows == 2 && fragment.lanes == 4 &&
         fragments[first + 1].row == fragment.row && fragments[first + 1].column == fragment.column + 2;
}

void KernelLowering::splitRows(SmallVector<Fragment> &fragments, Values &values) {
  const size_t count = fragments.size();
  for (size_t f = 0; f < count; f += 2)
    if (!isPair(fragments, f))
      return;
  Values split;
  for (size_t first = 0; first < values.size(); first += 2)
    for (int64_t row = 0; row < 2; ++row)
      split.push_back(halvesOf(values[first], values[first + 1], row));
  SmallVector<Fragment> rows;
  for (size_t f = 0; f < count; ++f)
    rows.push_back({fragments[f / 2 * 2].row + int64_t(f % 2), fragments[f / 2 * 2].column, 1, 4, int64_t(f)});
  fragments = rows;
  values = split;
}

// Calls `visit` with the runs of rows that the fragments hold: their place and elements. Runs of neighbours that
// together are no more than a native vector come as one.
template <class Visit>
void KernelLowering::forRuns(ArrayRef<Fragment> fragments, int64_t tileRows, llvm::function_ref<Value(size_t)> valueOf,
                             Visit visit) {
  for (size_t f = 0; f < fragments.size();) {
    const Fragment &fragment = fragments[f];
    const int64_t width = fragment.lanes / fragment.rows;
    const bool pair = isPair(fragments, f);
    Value first = valueOf(f), second = pair ? valueOf(f + 1) : first;
    for (int64_t row = 0; row < fragment.rows; ++row) {
      Coord at = fragment.row + row;
      if (at.isConstant() && at.cst >= tileRows)
        continue; // no such row
      Value part = first;
      if (fragment.rows > 1) {
        SmallVector<int64_t> picked = llvm::to_vector(llvm::seq(row * width, (row + 1) * width));
        part = pair ? halvesOf(first, second, row) : shuffle(first, second, picked);
      }
      const int64_t run = pair ? 2 * width : width;
      visit(Place{{at, fragment.column}, run > 1 ? 1 : -1, run}, part);
    }
    f += pair ? 2 : 1;
  }
}

void KernelLowering::writeFragments(const Buffer &buffer, ArrayRef<Fragment> fragments, ArrayRef<Value> values,
                                    Operation *adds) {
  forRuns(
      fragments, buffer.shape[0], [&](size_t f) { return values[f]; },
      [&](const Place &place, Value part) {
        write(buffer, place, adds ? clone(adds, {readNow(buffer, place), part}, place.width)[0] : part);
      });
}

void KernelLowering::storeFragments(const Contraction &contraction, scf::ForOp loop, const RegisterTile &tile,
                                    ArrayRef<Fragment> all, ArrayRef<Value> carried) {
  // In rows, a row's number is a lane of a vector that an instruction may pick by itself.
  SmallVector<Fragment> fragments(all);
  Values values(carried);
  splitRows(fragments, values);
  StoreOp op = contraction.store;
  Value within = andI(allInside(contraction.storeLoads, {}, {}), allInside(op, tile));
  here();
  auto branch = scf::IfOp::create(builder, loc, TypeRange(), within, /*addThenBlock=*/true, /*addElseBlock=*/true);
  for (bool known : {true, false}) {
    open(known ? branch.thenBlock() : branch.elseBlock(), branch);
    int outerFloor = std::exchange(memoryFloor, depth()), outerCodeFloor = codeFloor;
    if (known) {
      inside.insert(op);
      for (LoadOp load : contraction.storeLoads)
        inside.insert(load);
    } else {
      codeFloor = depth();
      hideOffsets(op.getOffsets(), nullptr);
      for (LoadOp load : contraction.storeLoads)
        hideOffsets(load.getOffsets(), nullptr);
    }
    // From row to row by strides, from a pointer of which LLVM does not know that each row's could be known earlier.
    Value origin;
    auto type = cast<ViewType>(op.getView().getType());
    const bool plain = known && !type.getStrided() && op.getDims().size() == 2 && type.getRank() == 2;
    if (plain) {
      origin = access(op, op.getView(), op.getOffsets(), op.getDims(), shapeOf(op.getValue().getType()),
                      Place{{tile.row, tile.column}})
                   .pointer;
      origin = opaque(origin)[0];
    }
    std::map<int64_t, Value> ofRow;
    auto pointerTo = [&](int64_t row) {
      Value pointer = origin;
      for (int64_t r = 0; r <= row; ++r) {
        Value &known = ofRow[r];
        if (!known)
          known = r ? address(pointer, view(op.getView(), op).strides[0], type.getElementType()) : origin;
        pointer = known;
      }
      return pointer;
    };
    FragmentValues held;
    for (auto [i, result] : llvm::enumerate(loop.getResults()))
      for (const Fragment &fragment : fragments)
        held.known[{result, fragment.number}] = values[i * fragments.size() + size_t(fragment.number)];
    forRuns(
        fragments, shapeOf(op.getValue().getType())[0],
        [&](size_t f) { return evaluateFragment(op.getValue(), fragments[f], held); },
        [&](const Place &place, Value part) {
          if (!plain)
            return storeAt(op, place, part, nullptr);
          Value to = address(pointerTo(place.at[0].cst - tile.row.cst), i64(place.at[1].cst - tile.column.cst),
                             type.getElementType());
          part = toStored(part);
          here();
          LLVM::StoreOp::create(builder, loc, part, to, bytesOf(type.getElementType()));
        });
    here();
    scf::YieldOp::create(builder, loc);
    inside.clear();
    memoryFloor = outerFloor;
    codeFloor = outerCodeFloor;
    close();
  }
  here();
}

} // namespace bitloom::loops
