// Loops over an index space, in chunks of native vectors along one dimension.
#include "bitloom/lowering/transforms/loops/KernelLowering.h"

#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace bitloom::tile;

namespace bitloom::loops {

// A space of at most this many chunks is written out, by constant coordinates: LLVM then keeps its tiles in registers.
constexpr int64_t unrolledChunks = 16;
// A row of at most this many is, too, inside the loops over the rows.
constexpr int64_t unrolledRow = 4;

int KernelLowering::vectorDim(ArrayRef<int64_t> shape, const Fixed &fixed) {
  for (int dim = int(shape.size()) - 1; dim >= 0; --dim)
    if (shape[dim] > 1 && !(dim < int(fixed.size()) && fixed[dim]))
      return dim;
  return -1;
}

// As many lanes as fill a vector with the widest elements that the tiles are computed in. Offsets and counts of 64 bits
// would halve it for the sake of a few address computations, and are not asked.
int64_t KernelLowering::lanesFor(ValueRange tiles, int64_t extent) {
  int64_t widest = 8;
  bool packed = false, wide = false, other = false;
  llvm::SmallPtrSet<Operation *, 16> seen;
  std::function<void(Value)> visit = [&](Value tile) {
    Type element = elementOf(tile.getType());
    int64_t bits = element.isInteger(1) ? 8 : int64_t(element.getIntOrFloatBitWidth());
    if (element.isInteger() && bits >= 64) {
      wide = true;
    } else {
      other |= bits > 8;
      widest = std::max(widest, bits);
    }
    Operation *op = tile.getDefiningOp();
    if (!op || !isInline(op) || bufferOf(tile) || !seen.insert(op).second)
      return;
    packed |= isa<UnpackOp>(op);
    for (Value operand : op->getOperands())
      if (isTile(operand))
        visit(operand);
  };
  for (Value tile : tiles)
    visit(tile);
  if (wide && !other)
    widest = 64;
  int64_t lanes = target.vectorBits / widest;
  if (packed && widest == 32)
    lanes = std::max<int64_t>(lanes, 16); // so that bytes are loaded a vector at a time
  return std::min<int64_t>(lanes, llvm::bit_floor(uint64_t(extent)));
}

void KernelLowering::loop(int64_t begin, int64_t end, int64_t step, llvm::function_ref<void(Coord)> body, Value limit) {
  if (begin + step >= end)
    return begin < end ? body({{}, begin}) : void();
  Value first = i64(begin), last = limit ? minS(i64(end), limit) : i64(end), by = i64(step);
  here();
  auto loop = scf::ForOp::create(builder, loc, first, last, by);
  open(loop.getBody(), loop);
  int64_t bits = begin | step;
  body({loop.getInductionVar(), 0, bits & -bits});
  close();
}

//===- With and without masks -------------------------------------------------------------------------------------===//

Value KernelLowering::allInBounds(const Split &split, int64_t begin) {
  SmallVector<Value> conditions(split.insides.begin(), split.insides.end());
  auto both = [&](Value low, Value high) { conditions.push_back(compare(arith::CmpIPredicate::sle, low, high)); };
  for (const Split::Guard &guard : split.guards) {
    both(guard.lo, i64(guard.first + (guard.relative ? begin : 0)));
    if (!guard.relative)
      both(i64(guard.last), guard.end);
  }
  return allOf(conditions);
}

Value KernelLowering::allOf(ArrayRef<Value> conditions) {
  Value all = i1(true);
  for (int level = 0; level <= depth(); ++level) // so that what is known early is decided early
    for (Value condition : conditions)
      if (depthOf(condition) == level)
        all = andI(all, condition);
  return all;
}

Value KernelLowering::fastEnd(const Split &split, int64_t begin, int64_t end, int64_t width, int64_t step) {
  Value length = i64(end - begin);
  for (const Split::Guard &guard : split.guards)
    if (guard.relative) // the last chunk of a step at iv ends at iv + step - width + last
      length = minS(length, add(guard.end, i64(width - guard.last - begin)));
  length = maxS(length, i64(0));
  length = andI(length, i64(-step));
  Value all = allInBounds(split, begin);
  return select(all, add(length, i64(begin)), i64(begin));
}

KernelLowering::Values KernelLowering::split(int64_t begin, int64_t end, int64_t width, int64_t unroll,
                                             ValueRange inits, SplitBody body, StoreHints *hints) {
  unroll = std::min<int64_t>(unroll, llvm::bit_floor(uint64_t((end - begin) / width)));
  if (begin >= end)
    return Values(inits);
  Split state{.iv = {}, .outside = depth(), .mayStream = hints != nullptr};
  Split *outerSplit = std::exchange(currentSplit, &state);
  int64_t step = width * unroll;
  auto write = [&](Value from, Value to, int64_t by, ValueRange carried) {
    Value stepValue = i64(by);
    here();
    auto loop = scf::ForOp::create(builder, loc, from, to, stepValue, carried);
    state.iv = loop.getInductionVar();
    open(loop.getBody(), loop);
    SmallVector<Coord> starts;
    for (int64_t i = 0; i < by / width; ++i)
      starts.push_back({state.iv, i * width, std::min(by, int64_t{1} << llvm::countr_zero(uint64_t(by | begin)))});
    Values next = body(starts, loop.getRegionIterArgs());
    here();
    if (!carried.empty())
      scf::YieldOp::create(builder, loc, next);
    close();
    return loop;
  };

  // The part with masks comes last but is written first: only then is it known what must be in bounds.
  scf::ForOp masked = write(i64(begin), i64(end), width, inits);
  auto outside = [&](Value value) { return value && depthOf(value) <= state.outside; };
  bool clips = hints && hints->clips && outside(hints->end);
  Operation *outerChild = std::exchange(scopes.back()->child, masked.getOperation());
  if (clips)
    masked.setUpperBound(minS(i64(end), hints->end));
  Value middle = fastEnd(state, begin, end, width, step);
  state.fast = true;
  Value start = i64(begin);
  if (hints && outside(hints->stream)) { // the same once more; stores carry nothing
    start = select(hints->stream, middle, start);
    hints->streaming = true;
    write(i64(begin), start, step, inits);
    hints->streaming = false;
  }
  scf::ForOp fast = write(start, middle, step, inits);
  masked.setLowerBound(middle);
  masked.getInitArgsMutable().assign(fast.getResults());
  scopes.back()->child = outerChild;
  currentSplit = outerSplit;

  APInt known;
  Values results(masked.getResults());
  if (matchPattern(middle, m_ConstantInt(&known)) && known.getSExtValue() == end) {
    results.assign(fast.getResults().begin(), fast.getResults().end());
    masked.erase();
  }
  here();
  return results;
}

KernelLowering::Values KernelLowering::splitUnrolled(ArrayRef<Type> types, llvm::function_ref<Values()> body,
                                                     StoreHints *hints) {
  Split state{.iv = {}, .outside = depth(), .mayStream = hints != nullptr};
  Split *outerSplit = std::exchange(currentSplit, &state);
  Value always = i1(true);
  here();
  auto branch = scf::IfOp::create(builder, loc, TypeRange(types), always, /*addThenBlock=*/true, /*addElseBlock=*/true);
  auto terminate = [&](Block *block, ValueRange results) {
    here();
    if (block->empty() || !block->back().hasTrait<OpTrait::IsTerminator>())
      scf::YieldOp::create(builder, loc, results);
  };
  auto write = [&](scf::IfOp of, Block *block) {
    open(block, of);
    Values results = body();
    terminate(block, results);
    close();
    return results;
  };
  Values results = write(branch, branch.elseBlock());
  if (state.guards.empty()) { // nothing to decide
    Block *block = branch.elseBlock();
    block->getTerminator()->erase();
    branch->getBlock()->getOperations().splice(Block::iterator(branch), block->getOperations());
    branch.erase();
  } else {
    Operation *outerChild = std::exchange(scopes.back()->child, branch.getOperation());
    branch.getConditionMutable().assign(allInBounds(state, 0));
    scopes.back()->child = outerChild;
    state.fast = true;
    if (hints && hints->stream && depthOf(hints->stream) <= state.outside) { // stores carry nothing
      open(branch.thenBlock(), branch);
      here();
      auto streaming = scf::IfOp::create(builder, loc, TypeRange(), hints->stream, /*addThenBlock=*/true,
                                         /*addElseBlock=*/true);
      hints->streaming = true;
      write(streaming, streaming.thenBlock());
      hints->streaming = false;
      write(streaming, streaming.elseBlock());
      terminate(branch.thenBlock(), {});
      close();
    } else {
      write(branch, branch.thenBlock());
    }
    results.assign(branch.getResults().begin(), branch.getResults().end());
  }
  currentSplit = outerSplit;
  here();
  return results;
}

//===- Whole nests ------------------------------------------------------------------------------------------------===//

void KernelLowering::beginNest(ArrayRef<int64_t> shape) {
  if (nestLevel++ == 0)
    nestShape.assign(shape.begin(), shape.end());
}

void KernelLowering::endNest() {
  if (--nestLevel)
    return;
  for (auto &[tile, buffer] : keeping)
    scopes[statement]->buffers.try_emplace(tile, buffer);
  keeping.clear();
}

void KernelLowering::nest(ArrayRef<int64_t> shape, int64_t width, int64_t unroll, Compute compute, Commit commit,
                          Fixed fixed, StoreHints *hints) {
  fixed.resize(shape.size());
  beginNest(shape);
  int vec = vectorDim(shape, fixed);
  int64_t extent = vec < 0 ? 1 : shape[vec];
  SmallVector<int> outer;
  int64_t rows = 1;
  for (int dim = 0; dim < int(shape.size()); ++dim)
    if (dim != vec && !fixed[dim] && shape[dim] > 1) {
      outer.push_back(dim);
      rows *= shape[dim];
    }

  auto visit = [&](ArrayRef<Place> places) {
    SmallVector<Values> all;
    for (const Place &place : places) {
      Place chunk = normal(shape, place);
      nestPlace = chunk;
      all.push_back(compute(chunk));
    }
    for (auto [place, values] : llvm::zip(places, all))
      commit(normal(shape, place), values);
    nestPlace.reset();
  };
  // A row from `begin` on, ragged end included, by constants.
  auto rowPlaces = [&](Place place, int64_t begin, SmallVectorImpl<Place> &places) {
    place.vec = vec;
    for (int64_t at = begin, lanes = width; at < extent; at += lanes) {
      while (at + lanes > extent)
        lanes /= 2;
      place.width = lanes;
      if (vec >= 0)
        place.at[vec] = {{}, at};
      places.push_back(place);
    }
  };
  auto visitUnrolled = [&](ArrayRef<Place> places, StoreHints *hints) {
    if (places.empty())
      return;
    auto body = [&]() -> Values {
      for (size_t i = 0; i < places.size(); i += unroll)
        visit(places.slice(i, std::min<size_t>(unroll, places.size() - i)));
      return {};
    };
    splitUnrolled({}, body, hints);
  };

  Place start;
  for (const auto &coord : fixed)
    start.at.push_back(coord.value_or(Coord()));
  SmallVector<Place> ofRow;
  rowPlaces(start, 0, ofRow);
  if (rows * int64_t(ofRow.size()) <= unrolledChunks) {
    SmallVector<Place> places;
    std::function<void(size_t, Place)> enumerate = [&](size_t depth, Place place) {
      if (depth == outer.size())
        return rowPlaces(place, 0, places);
      for (int64_t i = 0; i < shape[outer[depth]]; ++i) {
        place.at[outer[depth]] = {{}, i};
        enumerate(depth + 1, place);
      }
    };
    enumerate(0, start);
    visitUnrolled(places, nullptr);
  } else {
    std::function<void(size_t, Place)> walk = [&](size_t depth, Place place) {
      if (depth < outer.size())
        return loop(0, shape[outer[depth]], 1, [&](Coord at) {
          place.at[outer[depth]] = at;
          walk(depth + 1, place);
        });
      SmallVector<Place> tail;
      if (int64_t(ofRow.size()) <= unrolledRow) {
        rowPlaces(place, 0, tail);
        return visitUnrolled(tail, extent % width == 0 ? hints : nullptr); // chunks as aligned as the row
      }
      place.vec = vec;
      place.width = width;
      int64_t whole = extent / width * width;
      split(
          0, whole, width, unroll, {},
          [&](ArrayRef<Coord> starts, ValueRange) -> Values {
            SmallVector<Place> places;
            for (const Coord &at : starts) {
              places.push_back(place);
              places.back().at[vec] = at;
            }
            visit(places);
            return {};
          },
          hints);
      rowPlaces(place, whole, tail);
      visitUnrolled(tail, nullptr);
    };
    walk(0, start);
  }
  endNest();
}

} // namespace bitloom::loops
