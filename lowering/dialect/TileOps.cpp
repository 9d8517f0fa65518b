// What each operation demands of its types, and the rewrites that hold for it alone.
#include "bitloom/lowering/dialect/Tile.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Utils/IndexingUtils.h"
#include "mlir/IR/PatternMatch.h"

using namespace mlir;
using namespace bitloom::tile;

// "expected X, got Y", the one form of a complaint.
template <class Expected, class Got>
static LogicalResult expect(Operation *op, bool holds, const Twine &what, const Expected &expected, const Got &got) {
  if (holds)
    return success();
  return op->emitOpError() << what.str() << ": expected " << expected << ", got " << got;
}

static int64_t elementsIn(ArrayRef<int64_t> shape) { return ShapedType::getNumElements(shape); }

//===- Views ------------------------------------------------------------------------------------------------------===//

LogicalResult ExtentOp::verify() {
  int64_t rank = getView().getType().getRank();
  int32_t dim = getDim(); // as written: the attribute's accessor is unsigned
  return expect(*this, dim >= 0 && dim < rank, "dimension", "0 to " + Twine(rank - 1), dim);
}

// What load and store share: one offset a dimension of the view, `dims` ascending and one a dimension of the tile.
static LogicalResult verifyAccess(Operation *op, ViewType view, size_t offsets, ArrayRef<int32_t> dims, Type tile) {
  if (failed(expect(op, int64_t(offsets) == view.getRank(), "offsets", view.getRank(), offsets)))
    return failure();
  if (failed(expect(op, dims.size() == shapeOf(tile).size(), "dims", shapeOf(tile).size(), dims.size())))
    return failure();
  for (auto [i, dim] : llvm::enumerate(dims))
    if (dim < 0 || dim >= view.getRank() || (i && dims[i - 1] >= dim))
      return op->emitOpError() << "dims: expected ascending dimensions of the view, got " << dims;
  return expect(op, elementOf(tile) == view.getElementType(), "element type", view.getElementType(), elementOf(tile));
}

static LogicalResult verifyIndices(Operation *op, ViewType view, OperandRange indices, Value mask, Type tile) {
  if (failed(expect(op, int64_t(indices.size()) == view.getRank(), "indices", view.getRank(), indices.size())))
    return failure();
  for (Value index : indices)
    if (isa<RankedTensorType>(index.getType()) && shapeOf(index.getType()) != shapeOf(tile))
      return op->emitOpError() << "index: expected a scalar or the shape of " << tile << ", got " << index.getType();
  if (mask && shapeOf(mask.getType()) != shapeOf(tile))
    return op->emitOpError() << "mask: expected the shape of " << tile << ", got " << mask.getType();
  return expect(op, elementOf(tile) == view.getElementType(), "element type", view.getElementType(), elementOf(tile));
}

static LogicalResult verifyOther(Operation *op, Value other, Type tile) {
  if (!other || other.getType() == elementOf(tile))
    return success();
  return expect(op, false, "else", elementOf(tile), other.getType());
}

LogicalResult LoadOp::verify() {
  if (failed(verifyOther(*this, getOther(), getType())))
    return failure();
  return verifyAccess(*this, getView().getType(), getOffsets().size(), getDims(), getType());
}

LogicalResult StoreOp::verify() {
  return verifyAccess(*this, getView().getType(), getOffsets().size(), getDims(), getValue().getType());
}

LogicalResult GatherOp::verify() {
  if (failed(verifyOther(*this, getOther(), getType())))
    return failure();
  return verifyIndices(*this, getView().getType(), getIndices(), getMask(), getType());
}

LogicalResult ScatterOp::verify() {
  return verifyIndices(*this, getView().getType(), getIndices(), getMask(), getValue().getType());
}

LogicalResult AtomicOp::verify() {
  if (getType() != getValue().getType())
    return expect(*this, false, "result", getValue().getType(), getType());
  bool isFloat = isa<FloatType>(elementOf(getType()));
  if (isFloat && getKind() != Atomic::Add && getKind() != Atomic::Max && getKind() != Atomic::Min &&
      getKind() != Atomic::Exchange)
    return expect(*this, false, "kind", "add, max, min or exchange of floats", stringifyAtomic(getKind()));
  return verifyIndices(*this, getView().getType(), getIndices(), getMask(), getValue().getType());
}

//===- Shapes -----------------------------------------------------------------------------------------------------===//

static LogicalResult sameElements(Operation *op, Type source, Type result) {
  return expect(op, elementOf(source) == elementOf(result), "element type", elementOf(source), elementOf(result));
}

LogicalResult ReshapeOp::verify() {
  int64_t from = elementsIn(shapeOf(getSource().getType())), to = elementsIn(shapeOf(getType()));
  if (failed(expect(*this, from == to, "elements", from, to)))
    return failure();
  return sameElements(*this, getSource().getType(), getType());
}

OpFoldResult ReshapeOp::fold(FoldAdaptor adaptor) {
  if (getSource().getType() == getType())
    return getSource();
  if (auto splat = dyn_cast_or_null<SplatElementsAttr>(adaptor.getSource()))
    return splat.resizeSplat(getType());
  if (auto inner = getSource().getDefiningOp<ReshapeOp>()) {
    getSourceMutable().assign(inner.getSource());
    return getResult();
  }
  return {};
}

LogicalResult TransposeOp::verify() {
  ArrayRef<int64_t> from = shapeOf(getSource().getType()), to = shapeOf(getType());
  if (!isPermutationVector(SmallVector<int64_t>(getPermutation().begin(), getPermutation().end())) ||
      getPermutation().size() != from.size() || to.size() != from.size())
    return emitOpError() << "permutation: expected a permutation of " << from.size() << " dimensions, got "
                         << getPermutation();
  for (size_t k = 0; k < to.size(); ++k)
    if (failed(expect(*this, to[k] == from[getPermutation()[k]], "extent of dimension " + Twine(k),
                      from[getPermutation()[k]], to[k])))
      return failure();
  return sameElements(*this, getSource().getType(), getType());
}

OpFoldResult TransposeOp::fold(FoldAdaptor adaptor) {
  if (llvm::is_sorted(getPermutation()))
    return getSource();
  if (auto splat = dyn_cast_or_null<SplatElementsAttr>(adaptor.getSource()))
    return splat.resizeSplat(getType());
  return {};
}

LogicalResult BroadcastOp::verify() {
  ArrayRef<int64_t> from = shapeOf(getSource().getType()), to = shapeOf(getType());
  if (failed(expect(*this, from.size() == to.size(), "rank", from.size(), to.size())))
    return failure();
  for (size_t k = 0; k < to.size(); ++k)
    if (failed(expect(*this, from[k] == 1 || from[k] == to[k], "source's extent of dimension " + Twine(k),
                      "1 or " + Twine(to[k]), from[k])))
      return failure();
  return sameElements(*this, getSource().getType(), getType());
}

OpFoldResult BroadcastOp::fold(FoldAdaptor adaptor) {
  if (getSource().getType() == getType())
    return getSource();
  if (auto splat = dyn_cast_or_null<SplatElementsAttr>(adaptor.getSource()))
    return splat.resizeSplat(getType());
  return {};
}

// `pair` is `half` with a last dimension of extent 2 more.
static LogicalResult verifyPair(Operation *op, Type half, Type pair) {
  SmallVector<int64_t> shape(shapeOf(half));
  shape.push_back(2);
  Type expected = tileOf(shape, elementOf(half));
  if (ArrayRef<int64_t>(shape) == shapeOf(pair) && elementOf(half) == elementOf(pair))
    return success();
  return op->emitOpError() << "expected " << expected << ", got " << pair;
}

LogicalResult JoinOp::verify() { return verifyPair(*this, getLhs().getType(), getType()); }
LogicalResult SplitOp::verify() { return verifyPair(*this, getLhs().getType(), getSource().getType()); }

LogicalResult SliceOp::verify() {
  ArrayRef<int64_t> from = shapeOf(getSource().getType()), to = shapeOf(getType());
  if (failed(expect(*this, from.size() == to.size(), "rank", from.size(), to.size())) ||
      failed(expect(*this, getOffsets().size() == to.size(), "offsets", to.size(), getOffsets().size())))
    return failure();
  for (size_t k = 0; k < to.size(); ++k)
    if (getOffsets()[k] < 0 || getOffsets()[k] + to[k] > from[k])
      return emitOpError() << "dimension " << k << ": expected a slice within extent " << from[k] << ", got "
                           << getOffsets()[k] << " + " << to[k];
  return sameElements(*this, getSource().getType(), getType());
}

// A slice of a tile just loaded is a smaller load: the planes of a packed block are read where they lie.
LogicalResult SliceOp::canonicalize(SliceOp slice, PatternRewriter &rewriter) {
  auto load = slice.getSource().getDefiningOp<LoadOp>();
  if (!load || load->getBlock() != slice->getBlock())
    return failure();
  for (Operation *op = load->getNextNode(); op != slice; op = op->getNextNode())
    if (!isMemoryEffectFree(op) && !isa<LoadOp, GatherOp>(op))
      return failure(); // it may write what is read
  SmallVector<Value> offsets(load.getOffsets());
  for (auto [k, dim] : llvm::enumerate(load.getDims())) {
    if (slice.getOffsets()[k] == 0)
      continue;
    auto by = arith::ConstantOp::create(rewriter, slice.getLoc(), rewriter.getI64IntegerAttr(slice.getOffsets()[k]));
    offsets[dim] = arith::AddIOp::create(rewriter, slice.getLoc(), offsets[dim], by);
  }
  rewriter.replaceOpWithNewOp<LoadOp>(slice, slice.getType(), load.getView(), offsets, load.getDims(), load.getOther());
  return success();
}

//===- Combining elements -----------------------------------------------------------------------------------------===//

// What reduce and scan share: sources of one shape, a region from two tuples of their elements to one.
static LogicalResult verifyCombiner(Operation *op, ValueRange sources, int32_t axis, Region &combiner) {
  if (sources.empty())
    return op->emitOpError() << "expected one source or more, got none";
  ArrayRef<int64_t> shape = shapeOf(sources.front().getType());
  for (Value source : sources)
    if (shapeOf(source.getType()) != shape)
      return op->emitOpError() << "expected sources of one shape, got " << sources.front().getType() << " and "
                               << source.getType();
  if (axis < 0 || axis >= int64_t(shape.size()))
    return op->emitOpError() << "axis: expected 0 to " << shape.size() - 1 << ", got " << axis;
  SmallVector<Type> elements;
  for (Value source : sources)
    elements.push_back(elementOf(source.getType()));
  SmallVector<Type> both(elements);
  both.append(elements);
  if (combiner.getArgumentTypes() != TypeRange(both))
    return op->emitOpError() << "region: expected arguments (" << both << "), got (" << combiner.getArgumentTypes()
                             << ")";
  TypeRange yielded = combiner.front().getTerminator()->getOperandTypes();
  if (yielded != TypeRange(elements))
    return op->emitOpError() << "region: expected to yield (" << elements << "), got (" << yielded << ")";
  return success();
}

LogicalResult ReduceOp::verify() {
  if (failed(verifyCombiner(*this, getSources(), getAxis(), getCombiner())))
    return failure();
  SmallVector<int64_t> shape(shapeOf(getSources().front().getType()));
  shape.erase(shape.begin() + getAxis());
  if (getResults().size() != getSources().size())
    return expect(*this, false, "results", getSources().size(), getResults().size());
  for (auto [source, result] : llvm::zip(getSources(), getResults()))
    if (shapeOf(result.getType()) != ArrayRef<int64_t>(shape) ||
        elementOf(result.getType()) != elementOf(source.getType()))
      return expect(*this, false, "result", tileOf(shape, elementOf(source.getType())), result.getType());
  return success();
}

LogicalResult ScanOp::verify() {
  if (getOperandTypes() != getResultTypes())
    return emitOpError() << "expected results of the sources' types, got " << getResultTypes();
  return verifyCombiner(*this, getSources(), getAxis(), getCombiner());
}

LogicalResult DotOp::verify() {
  ArrayRef<int64_t> a = shapeOf(getA().getType()), b = shapeOf(getB().getType()), acc = shapeOf(getAcc().getType());
  if (a.size() != 2 || b.size() != 2 || acc.size() != 2)
    return emitOpError() << "expected operands of rank 2";
  if (failed(expect(*this, a[1] == b[0], "inner extent of b", a[1], b[0])))
    return failure();
  if (failed(expect(*this, acc[0] == a[0], "rows of the accumulator", a[0], acc[0])))
    return failure();
  if (failed(expect(*this, acc[1] == b[1], "columns of the accumulator", b[1], acc[1])))
    return failure();
  Type aType = elementOf(getA().getType()), bType = elementOf(getB().getType()),
       accType = elementOf(getAcc().getType());
  bool ints = aType.isInteger() && bType.isInteger() && accType.isInteger();
  bool floats = isa<FloatType>(aType) && isa<FloatType>(bType) && isa<FloatType>(accType);
  if (ints || floats)
    return success();
  return emitOpError() << "expected operands all of integers or all of floats, got " << aType << ", " << bType
                       << " and " << accType;
}

//===- Packed values ----------------------------------------------------------------------------------------------===//

// `bytes` holds `values` packed along the last dimension, in panels of as many rows as the packing has.
static LogicalResult verifyPacked(Operation *op, PackingAttr packing, Type bytes, Type values) {
  ArrayRef<int64_t> from = shapeOf(bytes), to = shapeOf(values);
  bitloom::Packing parsed = bitloom::Packing::parse(packing.getSpelling());
  SmallVector<int64_t> outer(from.drop_back());
  if (parsed.rows > 1) {
    if (from.size() < 2)
      return op->emitOpError() << "expected a dimension of rows for a packing of " << parsed.rows << " rows, got "
                               << bytes;
    outer.back() *= parsed.rows;
  }
  if (from.size() != to.size() || ArrayRef<int64_t>(outer) != to.drop_back())
    return op->emitOpError() << "expected equal shapes but for the last dimension, got " << bytes << " and " << values;
  int64_t block = parsed.block;
  if (to.back() % block)
    return op->emitOpError() << "values: expected a multiple of the block " << block << ", got " << to.back();
  return expect(op, packing.bytesFor(to.back()) == from.back(), "bytes for " + Twine(to.back()) + " values",
                packing.bytesFor(to.back()), from.back());
}

LogicalResult UnpackOp::verify() { return verifyPacked(*this, getPacking(), getBytes().getType(), getType()); }
LogicalResult PackOp::verify() { return verifyPacked(*this, getPacking(), getType(), getValues().getType()); }

LogicalResult LutOp::verify() {
  auto table = cast<RankedTensorType>(getTable().getType());
  if (failed(expect(*this, table.getDimSize(0) >= 1 && table.getDimSize(0) <= 256, "table", "1 to 256 elements",
                    table.getDimSize(0))))
    return failure();
  if (shapeOf(getType()) != shapeOf(getIndices().getType()))
    return emitOpError() << "result: expected the shape of " << getIndices().getType() << ", got " << getType();
  return sameElements(*this, table, getType());
}

//===- Layouts ----------------------------------------------------------------------------------------------------===//

LogicalResult ConvertLayoutOp::verify() {
  if (failed(sameElements(*this, getSource().getType(), getType())))
    return failure();
  return expect(*this, shapeOf(getSource().getType()) == shapeOf(getType()), "shape", shapeOf(getSource().getType()),
                shapeOf(getType()));
}

OpFoldResult ConvertLayoutOp::fold(FoldAdaptor) {
  return getSource().getType() == getType() ? OpFoldResult(getSource()) : OpFoldResult();
}

//===- Warps with roles -------------------------------------------------------------------------------------------===//

LogicalResult FillOp::verify() {
  Block &block = getBody().front();
  for (Operation &op : block.without_terminator())
    if (!isa<LoadOp>(op))
      return emitOpError() << "region: expected loads alone, got " << op.getName();
  TypeRange yielded = block.getTerminator()->getOperandTypes();
  if (yielded != TypeRange(getRing().getType().getTiles()))
    return emitOpError() << "region: expected to yield (" << getRing().getType().getTiles() << "), got (" << yielded
                         << ")";
  for (Value value : block.getTerminator()->getOperands())
    if (value.getParentBlock() != &block)
      return emitOpError() << "region: expected to yield what it loads, got a value from outside";
  return success();
}

LogicalResult FrontOp::verify() {
  if (getResultTypes() == TypeRange(getRing().getType().getTiles()))
    return success();
  return emitOpError() << "expected results (" << getRing().getType().getTiles() << "), got (" << getResultTypes()
                       << ")";
}

LogicalResult SpecializeOp::verify() {
  auto check = [&](Region &region, StringRef role, auto isOutOfPlace) -> LogicalResult {
    if (!isa<YieldOp>(region.front().back()) || region.front().back().getNumOperands())
      return emitOpError() << role << ": expected to end with a tile.yield of nothing, got "
                           << region.front().back().getName();
    Operation *found = nullptr;
    region.walk([&](Operation *op) {
      if (!found && isOutOfPlace(op))
        found = op;
    });
    if (!found)
      return success();
    InFlightDiagnostic diagnostic = emitOpError() << role << ": expected no " << found->getName();
    diagnostic.attachNote(found->getLoc()) << "here";
    return diagnostic;
  };
  if (failed(check(getProducer(), "producer",
                   [](Operation *op) { return isa<FrontOp, PopOp, StoreOp, ScatterOp, AtomicOp, PrintOp>(op); })))
    return failure();
  return check(getConsumer(), "consumer", [](Operation *op) { return isa<FillOp>(op); });
}
