// Moving a tile's elements between threads and registers: conversions of layout, and the operations on shapes.
// What stays in its thread is a renaming of registers; what stays in its warp goes by shuffles; the rest goes through
// shared memory.
#include "bitloom/lowering/targets/nvptx/Emitter.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/IR/PatternMatch.h"

using namespace mlir;
using namespace bitloom;
using namespace bitloom::nvptx;

Value nvptx::flatIndex(Emitter &e, ArrayRef<Value> coordinates, ArrayRef<int64_t> shape) {
  Value flat;
  int64_t stride = 1;
  for (size_t d = shape.size(); d-- > 0; stride *= shape[d]) {
    if (shape[d] == 1)
      continue;
    Value term = stride == 1 ? coordinates[d]
                             : arith::MulIOp::create(e.builder, e.loc, coordinates[d], e.i32(stride)).getResult();
    flat = flat ? arith::AddIOp::create(e.builder, e.loc, flat, term).getResult() : term;
  }
  return flat ? flat : e.i32(0);
}

void nvptx::storeShared(Emitter &e, const Registers &source, const LinearLayout &from, ArrayRef<int64_t> shape,
                        Value base) {
  e.when(e.isFirstReplica(from), [&] {
    const std::vector<LinearLayout::Vector> &own = e.registerCoordinates(from);
    for (int r = 0; r < int(source.size()); ++r) {
      if (r & from.freeBits(reg) || e.isDead(from, shape, r))
        continue;
      SmallVector<Value> at;
      Value inside;
      for (auto [d, extent] : llvm::enumerate(shape)) {
        at.push_back(e.coordinate(from, d, r));
        if (!e.isInside(own[r][d], e.threadBits(from, d), extent))
          inside = e.both(inside, e.compare(at.back(), "ult", e.i32(extent)));
      }
      Value address = e.sharedAddress(base, flatIndex(e, at, shape), source[r].getType());
      e.when(inside, [&] { e.sharedStore(address, source[r]); });
    }
  });
}

// The elements of `to` at the coordinates that `place` gives, from a row-major tile of `shape` in shared memory.
static Registers loadShared(Emitter &e, Type element, const LinearLayout &to, ArrayRef<int64_t> resultShape,
                            ArrayRef<int64_t> shape, Value base, llvm::function_ref<Value(int registerIndex)> flat) {
  int64_t last = ShapedType::getNumElements(shape) - 1;
  Registers result;
  for (int r = 0; r < to.inSize(reg); ++r) {
    if (e.isDead(to, resultShape, r)) {
      result.push_back(e.zero(element));
      continue;
    }
    Value index = flat(r);
    bool isInside = true;
    for (auto [d, extent] : llvm::enumerate(resultShape))
      isInside &= e.isInside(e.registerCoordinates(to)[r][d], e.threadBits(to, d), extent);
    if (!isInside)
      index = arith::MinUIOp::create(e.builder, e.loc, index, e.i32(last)); // padding reads anything in reach
    result.push_back(e.sharedLoad(e.sharedAddress(base, index, element), element));
  }
  return result;
}

// Whether no input but `in` itself decides the source's `in`, and that is the same; `constant`: what is added to it.
static bool staysIn(const LinearLayout &places, const char *in) {
  size_t out = 0;
  while (places.outs()[out].name != in)
    ++out;
  for (const auto &dim : places.ins())
    for (size_t bit = 0; bit < dim.bases.size(); ++bit)
      if (dim.bases[bit][out] != (dim.name == in ? 1 << bit : 0))
        return false;
  return true;
}

static size_t outNamed(const LinearLayout &layout, const char *name) {
  size_t out = 0;
  while (layout.outs()[out].name != name)
    ++out;
  return out;
}

Registers nvptx::exchange(Emitter &e, const Registers &source, Type element, const LinearLayout &from,
                          ArrayRef<int64_t> shape, const LinearLayout &to, ArrayRef<int64_t> offsets) {
  // Where to read from is linear, plus the place of `offsets` when those touch no bit that `to` sets.
  std::vector<LinearLayout::InDim> ins = to.ins();
  LinearLayout embedded(ins, from.outs());
  LinearLayout::Vector start(from.ins().size(), 0);
  bool isAffine = true;
  SmallVector<int64_t> resultShape(shape);
  for (size_t d = 0; d < shape.size(); ++d) {
    int64_t offset = offsets.empty() ? 0 : offsets[d];
    isAffine &= offset % to.outs()[d].size == 0;
    resultShape[d] = offsets.empty() ? shape[d] : std::min<int64_t>(to.outs()[d].size, shape[d] - offset);
  }
  LinearLayout places = embedded.invertAndCompose(from);
  size_t regOut = outNamed(places, reg), laneOut = outNamed(places, lane), warpOut = outNamed(places, warp);
  if (isAffine && !offsets.empty()) {
    LinearLayout inverse = from.pseudoinvert();
    std::vector<std::pair<std::string_view, int32_t>> named;
    for (size_t d = 0; d < shape.size(); ++d)
      named.push_back({from.outs()[d].name, int32_t(offsets[d])});
    LinearLayout::Vector at = inverse.apply(named);
    for (size_t i = 0; i < at.size(); ++i)
      start[outNamed(places, inverse.outs()[i].name.c_str())] = at[i];
  }
  bool regIsOwn = true; // the source's register depends on the register alone
  for (const char *in : {lane, warp})
    for (int bit = 0; bit < places.inBits(in); ++bit)
      regIsOwn &= places.basis(in, bit)[regOut] == 0;
  auto sourceRegister = [&](int r) { return places.apply({{reg, r}})[regOut] ^ start[regOut]; };

  if (isAffine && regIsOwn && staysIn(places, warp) && start[warpOut] == 0) {
    Registers result;
    if (staysIn(places, lane) && start[laneOut] == 0) {
      for (int r = 0; r < to.inSize(reg); ++r)
        result.push_back(source[sourceRegister(r)]);
      return result;
    }
    bool laneIsLinear = true; // of the lane alone, with a constant for the register
    for (int bit = 0; bit < places.inBits(warp); ++bit)
      laneIsLinear &= places.basis(warp, bit)[laneOut] == 0;
    if (laneIsLinear) {
      Value thread = e.threadImage(places, laneOut);
      for (int r = 0; r < to.inSize(reg); ++r) {
        Value own = e.i32(places.apply({{reg, r}})[laneOut] ^ start[laneOut]);
        Value at = thread ? arith::XOrIOp::create(e.builder, e.loc, thread, own).getResult() : own;
        result.push_back(e.shuffleFrom(source[sourceRegister(r)], at));
      }
      return result;
    }
  }
  Value base = e.scratch(ShapedType::getNumElements(shape) * bytesOf(element));
  storeShared(e, source, from, shape, base);
  e.barrier();
  return loadShared(e, element, to, resultShape, shape, base, [&](int r) {
    SmallVector<Value> at;
    for (size_t d = 0; d < shape.size(); ++d) {
      Value coordinate = e.coordinate(to, d, r);
      if (!offsets.empty() && offsets[d])
        coordinate = arith::AddIOp::create(e.builder, e.loc, coordinate, e.i32(offsets[d]));
      at.push_back(coordinate);
    }
    return flatIndex(e, at, shape);
  });
}

//===- The operations ---------------------------------------------------------------------------------------------===//

// What lies in shared memory as its layout says, as the thread's registers hold it.
static Registers readShared(Emitter &e, tile::ConvertLayoutOp convert) {
  OpBuilder &b = e.builder;
  RankedTensorType from = convert.getSource().getType();
  Type element = from.getElementType();
  // The place of each register is that of the thread xor its own.
  LinearLayout places = e.layout(convert.getType()).compose(e.layout(from).invert());
  int64_t bytes = bytesOf(element);
  const SmallVector<size_t> order = runFirst(places, "offset", 16 / bytes);
  places = withRegisterBits(places, order);
  int run = int(std::min<int64_t>(places.contiguousRegisters("offset"), 16 / bytes));
  Value thread = e.threadImage(places, 0), base = e.sharedTile(convert.getSource());
  int64_t words = std::max<int64_t>(1, run * bytes / 4);
  Type word = b.getIntegerType(unsigned(std::min<int64_t>(run * bytes, 4) * 8));
  Type loaded = words == 1 ? word : VectorType::get({words}, word);
  Registers registers(places.inSize(reg));
  for (int r = 0; r < places.inSize(reg); r += run) {
    Value place = e.i32(places.apply({{reg, r}})[0]);
    if (thread)
      place = arith::XOrIOp::create(b, e.loc, thread, place);
    if (bytes > 1)
      place = arith::MulIOp::create(b, e.loc, place, e.i32(bytes));
    Value address = arith::AddIOp::create(b, e.loc, base, place);
    Value pointer = LLVM::IntToPtrOp::create(b, e.loc, LLVM::LLVMPointerType::get(b.getContext(), 3), address);
    Value value = LLVM::LoadOp::create(b, e.loc, loaded, pointer, unsigned(run * bytes));
    SmallVector<Value> parts;
    for (int64_t w = 0; w < words; ++w)
      parts.push_back(words == 1 ? value : LLVM::ExtractElementOp::create(b, e.loc, value, e.i32(w)).getResult());
    for (auto [i, value] : llvm::enumerate(unpackWords(e, parts, element, run)))
      registers[registerBefore(size_t(r) + i, order)] = value;
  }
  return registers;
}

LogicalResult nvptx::lower(Emitter &e, tile::ConvertLayoutOp convert) {
  if (isShared(convert.getType()))
    return putInShared(e, convert), success();
  if (isShared(convert.getSource().getType()))
    return e.put(convert, readShared(e, convert)), success();
  RankedTensorType from = convert.getSource().getType();
  e.put(convert, exchange(e, e.get(convert.getSource()), from.getElementType(), e.layout(from), from.getShape(),
                          e.layout(convert.getType())));
  return success();
}

LogicalResult nvptx::lower(Emitter &e, tile::ReshapeOp reshape) {
  RankedTensorType from = reshape.getSource().getType(), to = reshape.getType();
  Type element = from.getElementType();
  if (std::optional<LinearLayout> moved = reshapedLayout(e.layout(from), from.getShape(), to.getShape())) {
    e.put(reshape, exchange(e, e.get(reshape.getSource()), element, *moved, to.getShape(), e.layout(to)));
    return success();
  }
  Value base = e.scratch(from.getNumElements() * bytesOf(element));
  storeShared(e, e.get(reshape.getSource()), e.layout(from), from.getShape(), base);
  e.barrier();
  const LinearLayout &layout = e.layout(to);
  e.put(reshape, loadShared(e, element, layout, to.getShape(), to.getShape(), base, [&](int r) {
          SmallVector<Value> at;
          for (size_t d = 0; d < to.getShape().size(); ++d)
            at.push_back(e.coordinate(layout, d, r));
          return flatIndex(e, at, to.getShape());
        }));
  return success();
}

LogicalResult nvptx::lower(Emitter &e, tile::TransposeOp transpose) {
  if (isShared(transpose.getType())) // the same bytes under the other name
    return e.putShared(transpose, e.sharedTile(transpose.getSource())), success();
  RankedTensorType from = transpose.getSource().getType(), to = transpose.getType();
  LinearLayout moved = transposedLayout(e.layout(from), transpose.getPermutation());
  e.put(transpose,
        exchange(e, e.get(transpose.getSource()), from.getElementType(), moved, to.getShape(), e.layout(to)));
  return success();
}

LogicalResult nvptx::lower(Emitter &e, tile::BroadcastOp broadcast) {
  RankedTensorType from = broadcast.getSource().getType(), to = broadcast.getType();
  // The result's layout with the repeated coordinates held at 0, every register kept.
  LinearLayout read = e.layout(to);
  for (auto [d, extent] : llvm::enumerate(from.getShape()))
    if (extent == 1)
      read = read.dropOutDim(dimName(d)).addOutDim(dimName(d), d, 1);
  e.put(broadcast,
        exchange(e, e.get(broadcast.getSource()), from.getElementType(), e.layout(from), from.getShape(), read));
  return success();
}

// The thread's and the register's bit of the last coordinate, of extent 2; null when it is 0.
static Value lastBit(Emitter &e, const LinearLayout &layout, int r) {
  int last = int(layout.outs().size()) - 1;
  if (!e.threadBits(layout, last))
    return e.registerCoordinates(layout)[r][last] ? e.truth(true) : Value();
  return e.compare(e.coordinate(layout, last, r), "ne", e.i32(0));
}

LogicalResult nvptx::lower(Emitter &e, tile::JoinOp join) {
  RankedTensorType half = join.getLhs().getType(), pair = join.getType();
  const LinearLayout &layout = e.layout(pair);
  LinearLayout read = layout.dropOutDim(dimName(half.getRank())); // every register kept
  Registers left = exchange(e, e.get(join.getLhs()), half.getElementType(), e.layout(half), half.getShape(), read);
  Registers right = exchange(e, e.get(join.getRhs()), half.getElementType(), e.layout(half), half.getShape(), read);
  bool inRegisters = !e.threadBits(layout, int(half.getRank()));
  Registers result;
  for (size_t r = 0; r < left.size(); ++r) {
    Value isRight = lastBit(e, layout, r);
    if (inRegisters)
      result.push_back(isRight ? right[r] : left[r]);
    else
      result.push_back(e.select(isRight, right[r], left[r]));
  }
  e.put(join, result);
  return success();
}

LogicalResult nvptx::lower(Emitter &e, tile::SplitOp split) {
  RankedTensorType pair = split.getSource().getType(), half = split.getLhs().getType();
  LinearLayout layout = e.layout(half);
  LinearLayout read = layout.addOutDim(dimName(half.getRank()), int(half.getRank()), 1);
  SmallVector<int64_t> offsets(pair.getRank(), 0);
  for (int64_t side = 0; side < 2; ++side) {
    offsets.back() = side;
    e.put(split.getResult(side),
          exchange(e, e.get(split.getSource()), half.getElementType(), e.layout(pair), pair.getShape(), read, offsets));
  }
  return success();
}

LogicalResult nvptx::lower(Emitter &e, tile::SliceOp slice) {
  RankedTensorType from = slice.getSource().getType(), to = slice.getType();
  e.put(slice, exchange(e, e.get(slice.getSource()), from.getElementType(), e.layout(from), from.getShape(),
                        e.layout(to), slice.getOffsets()));
  return success();
}
