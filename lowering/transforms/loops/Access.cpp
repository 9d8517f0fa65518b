// Views: where an element is, whether it is there at all, and how chunks of them are read and written.
#include "bitloom/lowering/Explain.h"
#include "bitloom/lowering/transforms/loops/KernelLowering.h"

#include "mlir/Dialect/Vector/IR/VectorOps.h"

#include <numeric>

using namespace mlir;
using namespace bitloom::tile;

namespace bitloom::loops {

constexpr auto relaxed = LLVM::AtomicOrdering::monotonic;
constexpr auto below = arith::CmpIPredicate::ult; // unsigned: a negative coordinate is above every extent

// How many bits the kernel's scalar takes at most; 64 when it may be negative. Programs and iterations are fewer than
// 2^47: nobody would see the last one run.
int KernelLowering::bitsOf(Value original) {
  constexpr int counted = 47;
  APInt number;
  if (matchPattern(original, m_ConstantInt(&number)))
    return number.isNegative() ? 64 : int(number.getActiveBits());
  if (auto argument = dyn_cast<BlockArgument>(original)) {
    auto loop = dyn_cast<scf::ForOp>(argument.getOwner()->getParentOp());
    bool counts = loop && argument == loop.getInductionVar() && matchPattern(loop.getLowerBound(), m_Zero()) &&
                  matchPattern(loop.getStep(), m_ConstantInt(&number));
    return counts ? std::min(64, counted + int(number.getActiveBits())) : 64;
  }
  Operation *op = original.getDefiningOp();
  if (isa<ProgramIdOp>(op))
    return counted;
  if (!isa<arith::AddIOp, arith::MulIOp>(op))
    return 64;
  int a = bitsOf(op->getOperand(0)), b = bitsOf(op->getOperand(1));
  int bits = isa<arith::MulIOp>(op) ? a + b : std::max(a, b) + 1;
  return bits < 64 ? bits : 64;
}

KernelLowering::Access KernelLowering::access(Operation *op, Value viewValue, ValueRange offsets,
                                              ArrayRef<int32_t> dims, ArrayRef<int64_t> shape, const Place &place) {
  const View &memory = view(viewValue, op);
  auto type = cast<ViewType>(viewValue.getType());
  int vecDim = place.vec < 0 ? -1 : dims[place.vec];
  Access result;
  // Constant coordinates are added to the pointer last: the rows of a tile are then so many strides from the first one.
  SmallVector<Value> terms, constants;
  Value inside = i1(true);
  for (int dim = 0; dim < int(type.getRank()); ++dim) {
    bool unit = dim == type.getRank() - 1 && !type.getStrided();
    auto scaled = [&](Value index) { return unit ? index : mul(index, memory.strides[dim]); };
    Value offset = scalar(offsets[dim]);
    terms.push_back(scaled(offset));
    if (dim == vecDim) {
      if (!unit)
        result.stride = memory.strides[dim];
      continue;
    }
    SmallVector<Value> parts = {offset};
    if (auto it = llvm::find(dims, dim); it != dims.end()) {
      const Coord &coord = place.at[it - dims.begin()];
      if (coord.dyn)
        parts.push_back(coord.dyn);
      if (coord.cst)
        parts.push_back(i64(coord.cst));
      if (coord.dyn)
        terms.push_back(scaled(coord.dyn));
      if (coord.cst)
        constants.push_back(scaled(i64(coord.cst)));
    }
    Value within = compare(below, sum(parts), memory.extents[dim]);
    inside = andI(inside, within);
  }
  result.pointer = address(memory.pointer, sum(terms), type.getElementType());
  if (!constants.empty())
    result.pointer = address(result.pointer, sum(constants), type.getElementType());
  result.inBounds = inside;
  if (place.vec < 0)
    return result;

  Key key = {3, int64_t(op), place.vec};
  for (auto [dim, coord] : llvm::enumerate(place.at))
    if (int(dim) != place.vec) {
      key.push_back(int64_t(coord.dyn.getAsOpaquePointer()));
      key.push_back(coord.cst);
    }
  for (const auto &scope : llvm::reverse(scopes))
    if (auto it = scope->bounds.find(key); it != scope->bounds.end()) {
      result.bounds = it->second;
      return result;
    }
  Value offset = scalar(offsets[vecDim]), extent = i64(shape[place.vec]), none = i64(0);
  auto clamped = [&](Value value) { return minS(maxS(value, none), extent); };
  Value lo = bitsOf(offsets[vecDim]) < 64 ? none : clamped(sub(none, offset));
  result.bounds = {lo, clamped(sub(memory.extents[vecDim], offset)), inside};
  scopes[depthOf({lo, result.bounds.end, inside})]->bounds[key] = result.bounds;
  return result;
}

bool KernelLowering::isGuarded(const Access &access) {
  const Bounds &bounds = access.bounds;
  return currentSplit && depthOf({bounds.lo, bounds.end, bounds.inside}) <= currentSplit->outside;
}

Value KernelLowering::maskOf(const Access &access, const Place &place, int64_t extent) {
  const Coord &start = place.at[place.vec];
  auto [lo, end, inside] = access.bounds;
  bool guarded = isGuarded(access);
  if (guarded) {
    bool relative = start.dyn && start.dyn == currentSplit->iv;
    bool anywhere = start.dyn && !relative;
    Split::Guard guard{lo, end, relative, anywhere ? 0 : start.cst, anywhere ? extent : start.cst + place.width};
    auto *known = llvm::find_if(currentSplit->guards, [&](const Split::Guard &other) {
      return other.lo == lo && other.end == end && other.relative == relative;
    });
    if (currentSplit->fast) {
      if (known != currentSplit->guards.end() && currentSplit->insides.contains(inside))
        return {};
    } else {
      currentSplit->insides.insert(inside);
      if (known == currentSplit->guards.end()) {
        currentSplit->guards.push_back(guard);
      } else {
        known->first = std::min(known->first, guard.first);
        known->last = std::max(known->last, guard.last);
      }
    }
  }
  // lo <= start + lane < end, by one comparison of differences; tiles have fewer than 2^31 elements. What masks need is
  // written where masks are, not where it is known: most often none are.
  int outerFloor = std::exchange(codeFloor, guarded ? currentSplit->outside + 1 : codeFloor);
  Type i32 = builder.getI32Type();
  Value from = sub(valueOf(start), lo), span = sub(select(inside, end, lo), lo);
  from = pure<arith::TruncIOp>(from, i32, from);
  span = pure<arith::TruncIOp>(span, i32, span);
  Value first = broadcast(from, place.width), lane = iota(place.width, i32);
  Value index = pure<arith::AddIOp>({first, lane}, first, lane);
  Value mask = compare(below, index, broadcast(span, place.width));
  codeFloor = outerFloor;
  return mask;
}

Value KernelLowering::readScalar(Value pointer, Value inBounds, Value other, Type element) {
  Value safe = select(inBounds, pointer, spare);
  hoistRead(safe);
  Value value = fromStored(LLVM::LoadOp::create(builder, loc, stored(element), safe, bytesOf(element)), element);
  return other == zero(element) ? value : select(inBounds, value, other);
}

Value KernelLowering::readElements(Value pointers, Value mask, Value other, Type element, int64_t lanes) {
  if (lanes == 1)
    return readScalar(pointers, mask ? mask : i1(true), other, element);
  if (!mask)
    mask = constant(builder.getBoolAttr(true), lanes);
  Value rest = toStored(broadcast(other, lanes));
  hoistRead({pointers, mask, rest});
  Value value = LLVM::masked_gather::create(builder, loc, vectorOf(stored(element), lanes), pointers, mask,
                                            ValueRange{rest}, uint32_t(bytesOf(element)));
  return fromStored(value, element);
}

// With SVE, LLVM has no loads and stores of NEON's vectors of bf16 under masks: of their bits, then.
Value KernelLowering::underMask(Value vector) {
  auto type = cast<VectorType>(vector.getType());
  if (!target.scalableVectors || !type.getElementType().isBF16())
    return vector;
  return pure<LLVM::BitcastOp>(vector, type.cloneWith({}, builder.getI16Type()), vector);
}

Value KernelLowering::evaluateLoad(LoadOp op, const Place &place) {
  Type element = elementOf(op.getType());
  Value other = op.getOther() ? scalar(op.getOther()) : zero(element);
  ArrayRef<int64_t> shape = shapeOf(op.getType());
  Access from = access(op, op.getView(), op.getOffsets(), op.getDims(), shape, place);
  const bool known = inside.contains(op);
  if (place.vec < 0)
    return readScalar(from.pointer, known ? i1(true) : from.inBounds, other, element);
  int floor = memoryFloor;
  if (!known && isGuarded(from)) // the two parts read differently
    memoryFloor = std::max(memoryFloor, currentSplit->outside + 1);
  Value mask = known ? Value() : maskOf(from, place, shape[place.vec]);
  Value start = valueOf(place.at[place.vec]), value;
  if (from.stride) {
    Value first = broadcast(start, place.width), lane = iota(place.width, builder.getI64Type());
    Value index = pure<arith::AddIOp>({first, lane}, first, lane);
    Value stride = broadcast(from.stride, place.width);
    index = pure<arith::MulIOp>({index, stride}, index, stride);
    value = readElements(address(from.pointer, index, element), mask, other, element, place.width);
  } else {
    Value pointer = address(from.pointer, place.at[place.vec], element);
    Type chunk = vectorOf(stored(element), place.width);
    if (mask) {
      Value rest = underMask(toStored(broadcast(other, place.width)));
      hoistRead({pointer, mask, rest});
      value = LLVM::MaskedLoadOp::create(builder, loc, rest.getType(), pointer, mask, rest, uint32_t(bytesOf(element)));
      if (value.getType() != chunk)
        value = pure<LLVM::BitcastOp>(value, chunk, value);
    } else {
      prefetchNext(op, pointer, place);
      hoistRead(pointer);
      value = LLVM::LoadOp::create(builder, loc, chunk, pointer, bytesOf(element));
    }
    value = fromStored(value, element);
  }
  memoryFloor = floor;
  return value;
}

// A scalar of the kernel as it is in the next iteration of `loop`, or, without one, in the next program along x; none
// where it is the same there.
std::optional<Value> KernelLowering::inNextRound(Value original, scf::ForOp loop) {
  if (loop && original == loop.getInductionVar())
    return add(scalar(original), scalar(loop.getStep()));
  if (auto id = original.getDefiningOp<ProgramIdOp>())
    return !loop && id.getAxis() == 0 ? std::optional(add(programIds[0], i64(1))) : std::nullopt;
  Operation *op = original.getDefiningOp();
  if (!op || op->getNumRegions() || op->getNumResults() != 1 || !isMemoryEffectFree(op) ||
      isa<TileDialect>(op->getDialect()))
    return {};
  bool changes = false;
  Values operands;
  for (Value operand : op->getOperands()) {
    std::optional<Value> next = inNextRound(operand, loop);
    changes |= next.has_value();
    operands.push_back(next ? *next : scalar(operand));
  }
  return changes ? std::optional(clone(op, operands, 1)[0]) : std::nullopt;
}

// The first statement that reads a row waits for memory; a later one finds it in a cache and leaves memory idle. There
// the row that the loop around it, or without one the next program, has in this one's place is asked for. With it come
// rows that this statement alone reads.
void KernelLowering::prefetchNext(LoadOp op, Value pointer, const Place &place) {
  Type element = elementOf(op.getType());
  int64_t bytes = bytesOf(element), line = 64;
  Operation *first = readFirst.try_emplace(op, statementOp).first->second;
  bool again = first != statementOp && readAgain.try_emplace(op, statementOp).first->second == statementOp;
  bool along = first == statementOp && asking == statementOp && fusion.sinks(op).size() == 1;
  if (!again && !along)
    return;
  const Coord &start = place.at[place.vec];
  if (!currentSplit || !start.dyn || start.dyn != currentSplit->iv ||
      shapeOf(op.getType())[place.vec] * bytes < 32 * line || start.cst * bytes % line)
    return;
  const View &memory = view(op.getView(), op);
  SmallVector<Value> steps;
  for (auto [offset, stride] : llvm::zip(op.getOffsets(), memory.strides))
    if (std::optional<Value> next = inNextRound(offset, op->getParentOfType<scf::ForOp>()))
      steps.push_back(mul(sub(*next, scalar(offset)), stride));
  if (steps.empty())
    return;
  asking = statementOp;
  Value ahead = sum(steps);
  for (int64_t at = 0; at < place.width * bytes; at += line) {
    Value target = address(address(pointer, ahead, element), i64(at / bytes), element);
    here();
    LLVM::Prefetch::create(builder, loc, target, /*rw=*/0, /*hint=*/2, /*cache=*/1);
  }
}

// Of a tile that the first statement has kept.
void KernelLowering::prefetchNext(LoadOp op, const Place &place) {
  if (!currentSplit || !currentSplit->fast || place.vec < 0 || !readFirst.contains(op))
    return;
  Access from = access(op, op.getView(), op.getOffsets(), op.getDims(), shapeOf(op.getType()), place);
  if (!from.stride)
    prefetchNext(op, address(from.pointer, valueOf(place.at[place.vec]), elementOf(op.getType())), place);
}

void KernelLowering::lowerStore(StoreOp op) {
  Value tile = op.getValue();
  if (!isTile(tile))
    return storeAt(op, Place(), scalar(tile), nullptr);
  SmallVector<StoreOp> stores;
  Values tiles;
  int64_t cost = 0;
  bool keeps = false;
  for (StoreOp each : fusion.storedWith(op)) {
    if (!done.insert(each.getOperation()).second)
      continue;
    stores.push_back(each);
    tiles.push_back(each.getValue());
    cost += fusion.cost(each.getValue());
    keeps |= keepsSomething(each.getValue());
  }
  if (stores.empty())
    return;
  ValueRange carried;
  ArrayRef<Buffer> into;
  if (scf::YieldOp end = fusion.carriedWith(op)) {
    done.insert(end);
    carried = end.getOperands();
    into = carriers.at(end);
  }
  SmallVector<Buffer> buffers; // of the tiles behind those that are stored
  for (auto [value, buffer] : llvm::zip(carried, into))
    if (isTile(value) && !isIn(value, buffer)) {
      tiles.push_back(value);
      buffers.push_back(buffer);
      cost += fusion.cost(value);
      keeps |= keepsSomething(value);
    }
  ArrayRef<int64_t> shape = shapeOf(tile.getType());
  int dim = vectorDim(shape);
  int64_t width = dim < 0 ? 1 : lanesFor(tiles, shape[dim]);
  StoreHints hints;
  hints.clips = !keeps && buffers.empty(); // what is kept for later is wanted in full
  nest(
      shape, width, cost > 40 ? 2 : 4,
      [&](const Place &place) { return llvm::map_to_vector(tiles, [&](Value each) { return evaluate(each, place); }); },
      [&](const Place &place, ValueRange values) {
        storeAll(stores, place, values.take_front(stores.size()), hints);
        for (auto [buffer, value] : llvm::zip(buffers, values.drop_front(stores.size())))
          write(buffer, place, value);
      },
      {}, &hints);
}

void KernelLowering::storeAll(ArrayRef<StoreOp> stores, const Place &place, ValueRange values, StoreHints &hints) {
  Values ends, streams;
  for (auto [store, value] : llvm::zip(stores, values)) {
    StoreHints own{.end = {}, .stream = {}, .streaming = hints.streaming};
    storeAt(store, place, value, &own);
    if (own.end)
      ends.push_back(own.end);
    if (own.stream)
      streams.push_back(own.stream);
  }
  if (ends.size() == stores.size())
    hints.end = std::accumulate(ends.begin() + 1, ends.end(), ends[0], [&](Value a, Value b) { return maxS(a, b); });
  hints.stream = streams.size() == stores.size() ? allOf(streams) : Value();
}

Value KernelLowering::shouldStream(StoreOp op, Value first, int64_t width) {
  Type element = elementOf(op.getValue().getType());
  int64_t bytes = width * bytesOf(element);
  bool readToo =
      llvm::any_of(op.getView().getUsers(), [](Operation *user) { return isa<LoadOp, GatherOp, AtomicOp>(user); });
  if (!target.streamedBytes || readToo || bytes * 8 > target.vectorBits || bytes < 16)
    return {};
  explainChoice(op, [&] {
    return "store: past the caches where the tensor has " + std::to_string(target.streamedBytes >> 20) +
           " MiB or more, since it would not stay in one";
  });
  Value size = i64(bytesOf(element));
  for (Value extent : view(op.getView(), op).extents)
    size = mul(size, extent);
  Value large = compare(arith::CmpIPredicate::sge, size, i64(target.streamedBytes));
  Value place = pure<LLVM::PtrToIntOp>(first, builder.getI64Type(), first);
  Value aligned = compare(arith::CmpIPredicate::eq, index<arith::AndIOp>(place, i64(bytes - 1)), i64(0));
  return andI(large, aligned);
}

void KernelLowering::storeAt(StoreOp op, const Place &place, Value value, StoreHints *hints) {
  Type element = elementOf(op.getValue().getType());
  ArrayRef<int64_t> shape = shapeOf(op.getValue().getType());
  Access to = access(op, op.getView(), op.getOffsets(), op.getDims(), shape, place);
  value = toStored(broadcast(value, place.width));
  uint32_t alignment = bytesOf(element);
  if (place.vec < 0) {
    here();
    auto branch = scf::IfOp::create(builder, loc, to.inBounds, /*withElseRegion=*/false);
    builder.setInsertionPointToStart(branch.thenBlock());
    LLVM::StoreOp::create(builder, loc, value, to.pointer, alignment);
    return;
  }
  Value mask = inside.contains(op) ? Value() : maskOf(to, place, shape[place.vec]);
  if (hints)
    hints->end = select(to.bounds.inside, to.bounds.end, to.bounds.lo);
  Value start = valueOf(place.at[place.vec]);
  if (to.stride) {
    Value first = broadcast(start, place.width), lane = iota(place.width, builder.getI64Type());
    Value index = pure<arith::AddIOp>({first, lane}, first, lane);
    Value stride = broadcast(to.stride, place.width);
    index = pure<arith::MulIOp>({index, stride}, index, stride);
    Value pointers = address(to.pointer, index, element);
    if (!mask)
      mask = constant(builder.getBoolAttr(true), place.width);
    here();
    LLVM::masked_scatter::create(builder, loc, value, pointers, mask, alignment);
    return;
  }
  Value pointer = address(to.pointer, place.at[place.vec], element);
  if (hints && mask && currentSplit && currentSplit->mayStream)
    hints->stream = shouldStream(op, to.pointer, place.width);
  bool stream = hints && hints->streaming;
  streams |= stream;
  if (stream && isa<FloatType>(element) && bytesOf(element) == 2) {
    // LLVM's x86 back end has no such stores of 16-bit floats: it drops the hint. A mere bitcast it folds into the
    // store.
    Type words = vectorOf(builder.getF32Type(), place.width / 2);
    value = pure<LLVM::BitcastOp>(value, words, value);
    here();
    value = LLVM::CallIntrinsicOp::create(builder, loc, words, builder.getStringAttr("llvm.arithmetic.fence"),
                                          ValueRange{value})
                .getResult(0);
  }
  if (mask)
    value = underMask(value);
  here();
  if (mask)
    LLVM::MaskedStoreOp::create(builder, loc, value, pointer, mask, alignment);
  else
    LLVM::StoreOp::create(builder, loc, value, pointer, stream ? place.width * alignment : alignment, false, stream);
}

//===- Coordinates computed element by element --------------------------------------------------------------------===//

std::pair<Value, Value> KernelLowering::elementsAt(Operation *op, Value viewValue, ValueRange indices, Value mask,
                                                   const Place &place) {
  const View &memory = view(viewValue, op);
  auto type = cast<ViewType>(viewValue.getType());
  Value scalarPart = i64(0), vectorPart, inside = i1(true);
  if (mask)
    inside = evaluate(mask, place);
  for (auto [dim, index] : llvm::enumerate(indices)) {
    Value at = extend(isTile(index) ? evaluate(index, place) : scalar(index));
    int64_t lanes = lanesOf(at);
    Value within = compare(below, at, broadcast(memory.extents[dim], lanes));
    if (int64_t wanted = std::max(lanes, lanesOf(inside)); wanted > 1) {
      within = broadcast(within, wanted);
      inside = broadcast(inside, wanted);
    }
    inside = andI(inside, within);
    bool unit = int64_t(dim) == type.getRank() - 1 && !type.getStrided();
    Value term = unit ? at : mul(at, broadcast(memory.strides[dim], lanes));
    if (lanes == 1)
      scalarPart = add(scalarPart, term);
    else
      vectorPart = vectorPart ? add(vectorPart, term) : term;
  }
  Value pointer = address(memory.pointer, scalarPart, type.getElementType());
  if (place.width > 1)
    pointer = address(pointer, vectorPart ? vectorPart : broadcast(i64(0), place.width), type.getElementType());
  return {pointer, broadcast(inside, place.width)};
}

Value KernelLowering::evaluateGather(GatherOp op, const Place &place) {
  Type element = elementOf(op.getType());
  Value other = op.getOther() ? scalar(op.getOther()) : zero(element);
  auto [pointers, inside] = elementsAt(op, op.getView(), op.getIndices(), op.getMask(), place);
  return readElements(pointers, inside, other, element, place.width);
}

void KernelLowering::lowerScatter(ScatterOp op) {
  Value tile = op.getValue();
  ArrayRef<int64_t> shape = shapeOf(tile.getType());
  Type element = elementOf(tile.getType());
  auto compute = [&](const Place &place) -> Values {
    auto [pointers, inside] = elementsAt(op, op.getView(), op.getIndices(), op.getMask(), place);
    return {toStored(evaluate(tile, place)), pointers, inside};
  };
  auto commit = [&](const Place &place, ValueRange values) {
    here();
    uint32_t alignment = bytesOf(element);
    if (place.width > 1) {
      LLVM::masked_scatter::create(builder, loc, values[0], values[1], values[2], alignment);
      return;
    }
    auto branch = scf::IfOp::create(builder, loc, values[2], /*withElseRegion=*/false);
    builder.setInsertionPointToStart(branch.thenBlock());
    LLVM::StoreOp::create(builder, loc, values[0], values[1], alignment);
  };
  int dim = vectorDim(shape);
  nest(shape, dim < 0 ? 1 : lanesFor(tile, shape[dim]), 1, compute, commit);
}

static std::optional<LLVM::AtomicBinOp> operationOf(Atomic kind, Type element) {
  using Op = LLVM::AtomicBinOp;
  bool isFloat = isa<FloatType>(element);
  switch (kind) {
  case Atomic::Add:
    return isFloat ? Op::fadd : Op::add;
  case Atomic::Max:
    return isFloat ? Op::fmax : Op::max;
  case Atomic::Min:
    return isFloat ? Op::fmin : Op::min;
  case Atomic::MaxU:
    return Op::umax;
  case Atomic::MinU:
    return Op::umin;
  case Atomic::And:
    return Op::_and;
  case Atomic::Or:
    return Op::_or;
  case Atomic::Xor:
    return Op::_xor;
  case Atomic::Exchange:
    return Op::xchg;
  }
  return {};
}

// Floats of 16 bits are computed as f32, and replaced as integers unless someone else was faster.
Value KernelLowering::atomicHalf(LLVM::AtomicBinOp kind, Value pointer, Value value) {
  Type element = value.getType(), bits = builder.getI16Type(), single = builder.getF32Type();
  if (kind == LLVM::AtomicBinOp::xchg) {
    Value word = arith::BitcastOp::create(builder, loc, bits, value);
    Value old = LLVM::AtomicRMWOp::create(builder, loc, kind, pointer, word, relaxed);
    return arith::BitcastOp::create(builder, loc, element, old);
  }
  Value by = arith::ExtFOp::create(builder, loc, single, value);
  Value first = LLVM::LoadOp::create(builder, loc, bits, pointer, 2);
  auto before = [&](OpBuilder &inner, Location loc, ValueRange seen) {
    Value old = arith::BitcastOp::create(inner, loc, element, seen[0]);
    old = arith::ExtFOp::create(inner, loc, single, old);
    Value next = kind == LLVM::AtomicBinOp::fadd   ? arith::AddFOp::create(inner, loc, old, by).getResult()
                 : kind == LLVM::AtomicBinOp::fmax ? arith::MaxNumFOp::create(inner, loc, old, by).getResult()
                                                   : arith::MinNumFOp::create(inner, loc, old, by).getResult();
    next = arith::TruncFOp::create(inner, loc, element, next);
    next = arith::BitcastOp::create(inner, loc, bits, next);
    Value result = LLVM::AtomicCmpXchgOp::create(inner, loc, pointer, seen[0], next, relaxed, relaxed);
    Value there = LLVM::ExtractValueOp::create(inner, loc, result, ArrayRef<int64_t>{0});
    Value changed = arith::CmpIOp::create(inner, loc, arith::CmpIPredicate::ne, there, seen[0]);
    scf::ConditionOp::create(inner, loc, changed, there);
  };
  auto again = [&](OpBuilder &inner, Location loc, ValueRange seen) { scf::YieldOp::create(inner, loc, seen); };
  auto loop = scf::WhileOp::create(builder, loc, TypeRange{bits}, ValueRange{first}, before, again);
  return arith::BitcastOp::create(builder, loc, element, loop.getResult(0));
}

void KernelLowering::lowerAtomic(AtomicOp op) {
  Value tile = op.getValue();
  ArrayRef<int64_t> shape = shapeOf(tile.getType());
  Type element = elementOf(tile.getType());
  std::optional<LLVM::AtomicBinOp> kind = operationOf(op.getKind(), element);
  if (!kind || element.isInteger(1) || isFloat8(element))
    throw Unsupported{op, "this operation on elements of this type"};
  std::optional<Buffer> result;
  if (isTile(tile) && !op->use_empty())
    result = allocate(shape, element);
  auto compute = [&](const Place &place) -> Values {
    auto [pointer, inside] = elementsAt(op, op.getView(), op.getIndices(), op.getMask(), place);
    return {evaluate(tile, place), pointer, inside};
  };
  auto commit = [&](const Place &place, ValueRange values) {
    Value none = zero(element);
    here();
    auto branch = scf::IfOp::create(builder, loc, TypeRange{element}, values[2], /*withElseRegion=*/true);
    OpBuilder::InsertionGuard guard(builder);
    builder.setInsertionPointToStart(branch.thenBlock());
    Value old = isa<FloatType>(element) && bytesOf(element) == 2
                    ? atomicHalf(*kind, values[1], values[0])
                    : LLVM::AtomicRMWOp::create(builder, loc, *kind, values[1], values[0], relaxed).getResult();
    scf::YieldOp::create(builder, loc, old);
    builder.setInsertionPointToStart(branch.elseBlock());
    scf::YieldOp::create(builder, loc, none);
    if (result)
      write(*result, place, branch.getResult(0));
    else if (!isTile(tile))
      bind(op, branch.getResult(0));
  };
  if (!isTile(tile)) {
    Values values = compute(Place());
    return commit(Place(), values);
  }
  nest(shape, 1, 1, compute, commit); // element by element
  if (result)
    scopes.back()->buffers[op] = *result;
}

} // namespace bitloom::loops
