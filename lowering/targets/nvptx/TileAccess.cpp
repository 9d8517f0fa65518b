#include "bitloom/lowering/targets/nvptx/TileAccess.h"

#include "mlir/Dialect/Arith/IR/Arith.h"

using namespace mlir;
using namespace bitloom;
using namespace bitloom::nvptx;

TileAccess::TileAccess(Emitter &e, Value viewValue, ValueRange offsets, ArrayRef<int32_t> dims, Type tile)
    : e(e), view(e.view(viewValue)), dims(dims), shape(tile::shapeOf(tile)), bytes(bytesOf(view.element)) {
  OpBuilder &b = e.builder;
  Location loc = e.loc;
  Type wide = b.getI64Type(), word = b.getI32Type();
  count = e.registersOf(tile);
  if (!isFlat())
    layout = &e.layout(tile);
  contiguous = !view.strides.back() && !dims.empty() && dims.back() == int32_t(view.extents.size()) - 1;

  origin = LLVM::PtrToIntOp::create(b, loc, wide, view.pointer);
  int k = 0;
  for (size_t d = 0; d < view.extents.size(); ++d) {
    Value offset = e.scalar(offsets[d]), extent = view.extents[d];
    Value step = e.i64(bytes);
    if (view.strides[d])
      step = arith::MulIOp::create(b, loc, view.strides[d], step);
    origin = arith::AddIOp::create(b, loc, origin, arith::MulIOp::create(b, loc, offset, step));
    if (k == int(dims.size()) || dims[k] != int32_t(d)) {
      always = e.both(always, e.compare(offset, "ult", extent)); // a negative offset is a large one
      continue;
    }
    Value nothing = e.i64(0), all = e.i64(shape[k]);
    auto clamp = [&](Value value) -> Value {
      value = arith::MinSIOp::create(b, loc, arith::MaxSIOp::create(b, loc, value, nothing), all);
      return arith::TruncIOp::create(b, loc, word, value);
    };
    Value high = clamp(arith::SubIOp::create(b, loc, extent, offset));
    low.push_back(clamp(arith::SubIOp::create(b, loc, nothing, offset)));
    span.push_back(arith::SubIOp::create(b, loc, high, low.back()));
    Value thread = e.threadCoordinate(*layout, k);
    threadFromLow.push_back(arith::SubIOp::create(b, loc, thread, low.back()));
    stride.push_back(step);
    bool disjoint = true;
    for (const LinearLayout::Vector &own : e.registerCoordinates(*layout))
      disjoint &= !(own[k] & e.threadBits(*layout, k));
    if (!disjoint)
      threadFromLow.back() = Value(); // then each register's coordinate is computed whole
    else
      origin = arith::AddIOp::create(b, loc, origin,
                                     arith::MulIOp::create(b, loc, arith::ExtUIOp::create(b, loc, wide, thread), step));
    if (++k == int(dims.size())) {
      lastHigh = high;
      lowBits = arith::OrIOp::create(b, loc, high, low.back());
      lowBits = arith::OrIOp::create(b, loc, lowBits, arith::TruncIOp::create(b, loc, word, offset));
    }
  }
  if (!isFlat() && always)
    span[0] = e.select(always, span[0], e.i32(0));
  if (!contiguous || isFlat() || !threadFromLow.back())
    return;
  runLength = std::min<int64_t>(layout->contiguousRegisters(dimName(shape.size() - 1)), 16 / bytes);
  int64_t aligned = view.alignment & -view.alignment;
  if (runLength * bytes == 16 && aligned <= 4 && bytes <= 4 && shape.back() % runLength == 0)
    shiftedLength = runLength;
  while (runLength > 1 && (runLength * bytes > aligned || shape.back() % runLength))
    runLength /= 2;
}

// Rows may lie in any order, with gaps between them, but in one allocation.
void TileAccess::findMemory() {
  if (cache.memory)
    return;
  OpBuilder &b = e.builder;
  Value begin = LLVM::PtrToIntOp::create(b, e.loc, b.getI64Type(), view.pointer), end = begin;
  for (auto [extent, step] : llvm::zip(view.extents, view.strides)) {
    Value reach = arith::MulIOp::create(b, e.loc, arith::SubIOp::create(b, e.loc, extent, e.i64(1)), e.i64(bytes));
    if (step)
      reach = arith::MulIOp::create(b, e.loc, reach, step);
    begin = arith::AddIOp::create(b, e.loc, begin, arith::MinSIOp::create(b, e.loc, reach, e.i64(0)));
    end = arith::AddIOp::create(b, e.loc, end, arith::MaxSIOp::create(b, e.loc, reach, e.i64(0)));
  }
  cache.memory = begin;
  cache.memoryEnd = arith::AddIOp::create(b, e.loc, end, e.i64(bytes));
}

TileAccess::Pieces TileAccess::pieces(int r) {
  OpBuilder &b = e.builder;
  findMemory();
  auto [address, beyond] = place(r);
  Value shift = arith::AndIOp::create(b, e.loc, arith::TruncIOp::create(b, e.loc, b.getI32Type(), address), e.i32(15));
  Value first = arith::AndIOp::create(b, e.loc, address, e.i64(~int64_t{15}));
  Value begin = arith::AddIOp::create(b, e.loc, first, e.i64(beyond));
  Value end = arith::AddIOp::create(b, e.loc, begin, e.select(e.compare(shift, "eq", e.i32(0)), e.i64(16), e.i64(32)));
  Value isInMemory = e.both(e.compare(begin, "uge", cache.memory), e.compare(end, "ule", cache.memoryEnd));
  Value isWhole = e.both(inBounds(r), inBounds(r + int(shiftedLength) - 1));
  return {{first, beyond}, shift, e.both(isWhole, isInMemory)};
}

Value TileAccess::runsAreWhole() {
  return e.compare(arith::AndIOp::create(e.builder, e.loc, lowBits, e.i32(runLength - 1)), "eq", e.i32(0));
}

Value TileAccess::touchesRun(int r) {
  int last = int(shape.size()) - 1;
  Value first = e.coordinate(*layout, last, r);
  Value end = arith::AddIOp::create(e.builder, e.loc, first, e.i32(std::max(runLength, shiftedLength)));
  return e.both(e.compare(first, "slt", lastHigh), e.compare(end, "sgt", low[last]));
}

Value TileAccess::countInBounds(int r, int64_t most) {
  OpBuilder &b = e.builder;
  Value left = arith::SubIOp::create(b, e.loc, lastHigh, e.coordinate(*layout, int(shape.size()) - 1, r));
  return e.select(inBounds(r), arith::MinSIOp::create(b, e.loc, left, e.i32(most)), e.i32(0));
}

Value TileAccess::isWhole() {
  Value all;
  for (auto [inside, extent] : llvm::zip(span, shape))
    all = e.both(all, e.compare(inside, "eq", e.i32(extent)));
  return all;
}

Value TileAccess::rowsAreWhole() { return e.compare(span.back(), "eq", e.i32(shape.back())); }

Value TileAccess::stepTo(LinearLayout::Vector own) {
  OpBuilder &b = e.builder;
  auto last = std::find_if(own.rbegin(), own.rend(), [](int32_t coordinate) { return coordinate != 0; });
  Value &address = cache.steps[own];
  if (!address && last == own.rend())
    address = e.ptx("mov.b64 $0, $1;", "=l,l", b.getI64Type(), {origin}, /*hasSideEffects=*/false);
  if (address)
    return address;
  size_t dim = size_t(own.rend() - last) - 1;
  auto bit = int32_t(llvm::bit_floor(uint32_t(own[dim])));
  LinearLayout::Vector before = own;
  before[dim] -= bit;
  Value step = arith::MulIOp::create(b, e.loc, stride[dim], e.i64(bit));
  return cache.steps[own] = arith::AddIOp::create(b, e.loc, stepTo(before), step);
}

TileAccess::Place TileAccess::placeBySteps(int r) {
  LinearLayout::Vector own = e.registerCoordinates(*layout)[r];
  int64_t beyond = own.back() * bytes;
  own.back() = 0;
  return {stepTo(own), beyond};
}

TileAccess::Place TileAccess::place(int r) {
  if (isFlat())
    return {origin, 0};
  OpBuilder &b = e.builder;
  LinearLayout::Vector own = e.registerCoordinates(*layout)[r];
  int64_t beyond = 0;
  if (contiguous && threadFromLow.back()) {
    beyond = own.back() * bytes;
    own.back() = 0;
  }
  Value &address = cache.addresses[own];
  if (!address) {
    address = origin;
    for (size_t k = 0; k < own.size(); ++k) {
      Value along;
      if (!threadFromLow[k])
        along = arith::ExtUIOp::create(b, e.loc, b.getI64Type(), e.coordinate(*layout, k, r));
      else if (own[k])
        along = e.i64(own[k]);
      if (along)
        address = arith::AddIOp::create(b, e.loc, address, arith::MulIOp::create(b, e.loc, along, stride[k]));
    }
  }
  return {address, beyond};
}

Value TileAccess::inBounds(int r) {
  if (isFlat())
    return always ? always : e.truth(true);
  Value all;
  const LinearLayout::Vector &own = e.registerCoordinates(*layout)[r];
  for (size_t k = 0; k < own.size(); ++k) {
    Value &inside = cache.bounds[{int(k), own[k]}];
    if (!inside) {
      Value from = threadFromLow[k];
      if (!from)
        from = arith::SubIOp::create(e.builder, e.loc, e.coordinate(*layout, k, r), low[k]);
      else if (own[k])
        from = arith::AddIOp::create(e.builder, e.loc, from, e.i32(own[k]));
      inside = e.compare(from, "ult", span[k]);
    }
    all = e.both(all, inside);
  }
  return all;
}
