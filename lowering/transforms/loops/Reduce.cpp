// Reductions: over the innermost dimension lane-wise, the lanes combined at the end; over another, row by row, in
// registers where the results of a row are one vector.
#include "bitloom/lowering/Explain.h"
#include "bitloom/lowering/transforms/loops/KernelLowering.h"

#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"

using namespace mlir;
using namespace bitloom::tile;

namespace bitloom::loops {

// A row of at most this many chunks is written out.
constexpr int64_t unrolledRow = 8;

// The region's only operation besides the yield, applied to its two arguments.
static Operation *onlyOperation(ReduceOp op) {
  Block &block = op.getCombiner().front();
  if (op.getSources().size() != 1 || llvm::range_size(block.without_terminator()) != 1)
    return nullptr;
  Operation *only = &block.front();
  bool plain = only->getNumOperands() == 2 && only->getOperand(0) != only->getOperand(1) &&
               llvm::is_contained(block.getArguments(), only->getOperand(0)) &&
               llvm::is_contained(block.getArguments(), only->getOperand(1)) && only->getNumResults() == 1 &&
               block.getTerminator()->getOperand(0) == only->getResult(0);
  return plain ? only : nullptr;
}

// x with combine(x, y) = y for every y, signed zeros and NaNs included.
static TypedAttr neutralOf(ReduceOp op, Builder builder) {
  Operation *only = onlyOperation(op);
  if (!only)
    return {};
  Type type = only->getResult(0).getType();
  if (auto real = dyn_cast<FloatType>(type)) {
    const llvm::fltSemantics &semantics = real.getFloatSemantics();
    auto value = [&](const APFloat &number) { return builder.getFloatAttr(type, number); };
    if (isa<arith::AddFOp>(only))
      return value(APFloat::getZero(semantics, /*Negative=*/true));
    if (isa<arith::MulFOp>(only))
      return value(APFloat::getOne(semantics));
    if (isa<arith::MaximumFOp>(only))
      return value(APFloat::getInf(semantics, /*Negative=*/true));
    if (isa<arith::MinimumFOp>(only))
      return value(APFloat::getInf(semantics));
    if (isa<arith::MaxNumFOp, arith::MinNumFOp>(only))
      return value(APFloat::getNaN(semantics));
    return {};
  }
  unsigned bits = type.getIntOrFloatBitWidth();
  auto value = [&](const APInt &number) { return builder.getIntegerAttr(type, number); };
  if (isa<arith::AddIOp, arith::OrIOp, arith::XOrIOp, arith::MaxUIOp>(only))
    return value(APInt::getZero(bits));
  if (isa<arith::MulIOp>(only))
    return value(APInt(bits, 1));
  if (isa<arith::AndIOp, arith::MinUIOp>(only))
    return value(APInt::getAllOnes(bits));
  if (isa<arith::MaxSIOp>(only))
    return value(APInt::getSignedMinValue(bits));
  if (isa<arith::MinSIOp>(only))
    return value(APInt::getSignedMaxValue(bits));
  return {};
}

KernelLowering::Values KernelLowering::neutral(const Reduction &reduction, int64_t lanes) {
  Values values;
  for (ReduceOp op : reduction.ops) {
    TypedAttr attr = neutralOf(op, builder);
    if (!attr)
      return {};
    values.push_back(constant(attr, lanes));
  }
  return values;
}

KernelLowering::Values KernelLowering::combine(Region &region, ValueRange left, ValueRange right) {
  Block &block = region.front();
  int64_t lanes = lanesOf(left[0]);
  llvm::DenseMap<Value, Value> known;
  for (auto [i, value] : llvm::enumerate(left))
    known[block.getArgument(i)] = value;
  for (auto [i, value] : llvm::enumerate(right))
    known[block.getArgument(left.size() + i)] = value;
  auto valueOf = [&](Value original) {
    auto it = known.find(original);
    return it == known.end() ? scalar(original) : it->second;
  };
  for (Operation &op : block.without_terminator()) {
    if (auto literal = dyn_cast<arith::ConstantOp>(op)) {
      known[literal] = constant(cast<TypedAttr>(literal.getValue()));
      continue;
    }
    if (!OpTrait::hasElementwiseMappableTraits(&op))
      throw Unsupported{&op, "this operation in the region of a reduction or scan"};
    Values operands;
    for (Value operand : op.getOperands())
      operands.push_back(valueOf(operand));
    for (auto [result, value] : llvm::zip(op.getResults(), clone(&op, operands, lanes))) {
      known[result] = value;
      // Telling the zeros apart would take x86 twice as long.
      if (Operation *copy = value.getDefiningOp(); isa_and_nonnull<arith::MaximumFOp, arith::MinimumFOp>(copy))
        copy->setAttr("fastmath", arith::FastMathFlagsAttr::get(builder.getContext(), arith::FastMathFlags::nsz));
    }
  }
  Values results;
  for (Value value : block.getTerminator()->getOperands())
    results.push_back(broadcast(valueOf(value), lanes));
  return results;
}

KernelLowering::Values KernelLowering::combineAll(const Reduction &reduction, ValueRange left, ValueRange right) {
  Values results;
  for (ReduceOp op : reduction.ops) {
    size_t first = results.size(), count = op.getSources().size();
    llvm::append_range(results, combine(op.getCombiner(), left.slice(first, count), right.slice(first, count)));
  }
  return results;
}

KernelLowering::Values KernelLowering::accumulate(const Reduction &reduction, Place place, ValueRange partial) {
  place = normal(reduction.shape, place);
  nestPlace = place;
  if (reduction.atom) {
    Value sum = addProducts(reduction, place, partial.empty() ? Value() : partial[0]);
    nestPlace.reset();
    return {sum};
  }
  Values results;
  for (ReduceOp op : reduction.ops) {
    size_t first = results.size(), count = op.getSources().size();
    // The product that is summed need not be rounded.
    auto product = op.getSources()[0].getDefiningOp<arith::MulFOp>();
    if (!partial.empty() && product && isa_and_nonnull<arith::AddFOp>(onlyOperation(op)) && !bufferOf(product) &&
        !fusion.worthKeeping(product)) {
      Value a = evaluate(product.getLhs(), place), b = evaluate(product.getRhs(), place), c = partial[first];
      results.push_back(pure<math::FmaOp>({a, b, c}, a, b, c));
      continue;
    }
    Values values;
    for (Value source : op.getSources())
      values.push_back(evaluate(source, place));
    if (!partial.empty())
      values = combine(op.getCombiner(), partial.slice(first, count), values);
    llvm::append_range(results, values);
  }
  nestPlace.reset();
  return results;
}

// Sums of products of bytes, of whole vectors of them, along the axis: in which lane a product is added makes no
// difference to integers.
std::optional<Atom> KernelLowering::atomOf(const Reduction &reduction) {
  auto product = reduction.sources[0].getDefiningOp<arith::MulIOp>();
  if (reduction.ops.size() != 1 || !product || !isa_and_nonnull<arith::AddIOp>(onlyOperation(reduction.ops[0])) ||
      !elementOf(product.getType()).isInteger(32) || bufferOf(product) || fusion.worthKeeping(product))
    return {};
  bool isUnsigned[2];
  for (auto [factor, isUnsignedOne] : llvm::zip(product->getOperands(), isUnsigned)) {
    Operation *extended = factor.getDefiningOp();
    if (!isa_and_nonnull<arith::ExtSIOp, arith::ExtUIOp>(extended) ||
        !elementOf(extended->getOperand(0).getType()).isInteger(8))
      return {};
    isUnsignedOne = isa<arith::ExtUIOp>(extended);
  }
  // Where one is unsigned, it is the right one.
  std::optional<Atom> atom = byteProductsFor(target, isUnsigned[0] && isUnsigned[1], isUnsigned[0] || isUnsigned[1]);
  if (!atom || reduction.shape[size_t(reduction.axis)] % (atom->lanes * atom->block))
    return {};
  return atom;
}

Value KernelLowering::addProducts(const Reduction &reduction, const Place &place, Value partial) {
  const Atom &atom = *reduction.atom;
  auto product = reduction.sources[0].getDefiningOp<arith::MulIOp>();
  auto isUnsigned = [](Value factor) { return isa<arith::ExtUIOp>(factor.getDefiningOp()); };
  Value left = product.getLhs(), right = product.getRhs();
  if (isUnsigned(left))
    std::swap(left, right);
  const bool asUnsigned = atom.unsignedRight && !isUnsigned(right);
  left = evaluate(left.getDefiningOp()->getOperand(0), place);
  right = evaluate(right.getDefiningOp()->getOperand(0), place);
  Value none = zero(builder.getI32Type(), atom.lanes);
  if (!partial)
    partial = none;
  if (!asUnsigned)
    return multiply(atom, left, right, partial);
  // 128 more is read, and what it adds to the sum taken away.
  Value sign = constant(builder.getI8IntegerAttr(int8_t(0x80)), place.width);
  Value sum = multiply(atom, left, pure<arith::XOrIOp>({right, sign}, right, sign), partial);
  Value more = multiply(atom, left, sign, none);
  return pure<arith::SubIOp>({sum, more}, sum, more);
}

// Later reductions over the same domain that need nothing of what lies between. They read what this one reads, once.
KernelLowering::Reduction KernelLowering::reducedTogether(ReduceOp op) {
  Reduction reduction;
  reduction.ops.push_back(op);
  ArrayRef<int64_t> shape = shapeOf(op.getSources()[0].getType());
  reduction.shape.assign(shape.begin(), shape.end());
  reduction.axis = op.getAxis();
  auto independent = [&](ReduceOp other) {
    SmallVector<Operation *> pending = {other};
    llvm::SmallPtrSet<Operation *, 16> seen;
    while (!pending.empty()) {
      Operation *next = pending.pop_back_val();
      bool known = next->getBlock() != op->getBlock() || next->isBeforeInBlock(op);
      if (known || !seen.insert(next).second)
        continue;
      if (next != other && !isInline(next) && (next->getNumRegions() || !isMemoryEffectFree(next)))
        return false;
      next->walk([&](Operation *inner) {
        for (Value operand : inner->getOperands())
          if (Operation *source = operand.getDefiningOp(); source && source->getBlock() == op->getBlock())
            pending.push_back(source);
      });
    }
    return true;
  };
  for (Operation *next = op->getNextNode(); next; next = next->getNextNode()) {
    if (auto other = dyn_cast<ReduceOp>(next)) {
      if (int(other.getAxis()) == reduction.axis && shapeOf(other.getSources()[0].getType()) == shape &&
          independent(other) &&
          !llvm::any_of(other.getSources(), [&](Value v) { return lanesFor(v, 64) != lanesFor(op.getSources(), 64); }))
        reduction.ops.push_back(other);
      continue;
    }
    if (!isMemoryEffectFree(next) && !isa<LoadOp, GatherOp>(next))
      break; // it may write what the later ones read
  }
  for (ReduceOp each : reduction.ops) {
    llvm::append_range(reduction.sources, each.getSources());
    llvm::append_range(reduction.results, each.getResults());
  }
  return reduction;
}

void KernelLowering::lowerReduce(ReduceOp op) {
  if (done.contains(op))
    return;
  Reduction reduction = reducedTogether(op);
  for (ReduceOp each : reduction.ops)
    done.insert(each);
  for (Value result : reduction.results)
    if (isTile(result))
      reduction.buffers.push_back(allocate(shapeOf(result.getType()), elementOf(result.getType())));
  int64_t behind = ShapedType::getNumElements(ArrayRef(reduction.shape).drop_front(reduction.axis + 1));
  int last = vectorDim(reduction.shape);
  beginNest(reduction.shape);
  if (behind == 1)
    reduction.atom = atomOf(reduction);
  if (reduction.atom)
    explainChoice(op, [&] {
      return "sum of products of bytes: " + std::string(reduction.atom->name) + ", since " + target.name + " has " +
             reduction.atom->feature;
    });
  if (behind == 1)
    reduceInRegisters(reduction, reduction.axis);
  else if (behind == reduction.shape[last] && behind == lanesFor(reduction.sources, behind))
    reduceInRegisters(reduction, last);
  else
    reduceInMemory(reduction);
  endNest();
  for (auto [result, buffer] : llvm::zip(reduction.results, reduction.buffers))
    scopes.back()->buffers[result] = buffer;
}

//===- In registers -----------------------------------------------------------------------------------------------===//

void KernelLowering::reduceInRegisters(const Reduction &reduction, int vec) {
  int64_t extent = reduction.shape[reduction.axis], width = lanesFor(reduction.sources, reduction.shape[vec]);
  if (reduction.atom)
    width = reduction.atom->lanes * reduction.atom->block;
  int64_t chunks = vec == reduction.axis ? extent / width : extent;
  int64_t cost = 0;
  for (Value source : reduction.sources)
    cost += fusion.cost(source);
  // Several rows at a time: their chunks share what is the same in each row, and the sums do not wait for each other.
  int rowDim = -1;
  for (int dim = 0; dim < reduction.axis; ++dim)
    if (reduction.shape[dim] > 1)
      rowDim = dim;
  int64_t widest = 0;
  for (Value source : reduction.sources)
    widest = std::max<int64_t>(widest, elementOf(source.getType()).getIntOrFloatBitWidth());
  const int64_t lanes = reduction.atom ? reduction.atom->lanes : width; // of a partial result
  int64_t registers = std::max<int64_t>(lanes * widest / target.vectorBits, 1);
  int64_t together = std::min<int64_t>(target.vectorRegisters >= 32 ? 8 : 4, target.vectorRegisters / 2 / registers);
  together /= int64_t(llvm::PowerOf2Ceil(reduction.sources.size()));
  together = std::min({std::max<int64_t>(together, 1), lanes, cost > 40 ? 2 : cost > 20 ? int64_t{4} : int64_t{8}});

  Place start;
  start.at.resize(reduction.shape.size());
  std::function<void(int, Place)> walk = [&](int dim, Place place) {
    if (dim == reduction.axis)
      return rowDim < 0 ? reduceRows(reduction, place, -1, 1, vec, width) : void();
    if (dim != rowDim)
      return loop(0, reduction.shape[dim], 1, [&](Coord at) {
        place.at[dim] = at;
        walk(dim + 1, place);
      });
    int64_t rows = reduction.shape[dim];
    for (int64_t block = together, row = 0; row < rows; block /= 2) {
      int64_t end = row + (rows - row) / block * block;
      auto visit = [&](Coord at) {
        place.at[dim] = at;
        reduceRows(reduction, place, dim, block, vec, width);
      };
      if ((end - row) * chunks <= 32)
        for (; row < end; row += block)
          visit({{}, row});
      else
        loop(row, end, block, visit);
      row = end;
    }
  };
  walk(0, start);
}

// Chunks of a row in an order that visits together those which are unpacked from the same bytes; of several planes,
// those of the one with most bytes.
static SmallVector<int64_t> chunkOrder(ValueRange sources, int64_t chunks, int64_t width) {
  int64_t period = 0;
  llvm::SmallPtrSet<Operation *, 16> seen;
  std::function<void(Value)> visit = [&](Value tile) {
    Operation *op = tile.getDefiningOp();
    if (!op || !isInline(op) || !seen.insert(op).second)
      return;
    if (auto unpack = dyn_cast<UnpackOp>(op)) {
      Packing packing = Packing::parse(unpack.getPacking().getSpelling());
      if (packing.order == Packing::Order::Planar)
        period = std::max(period, packing.bytesPerBlock());
    }
    for (Value operand : op->getOperands())
      if (isTile(operand))
        visit(operand);
  };
  for (Value source : sources)
    visit(source);
  if (!period || period > chunks * width)
    period = chunks * width;
  SmallVector<int64_t> order;
  for (int64_t i = 0; i < chunks; ++i)
    order.push_back(i * width);
  llvm::sort(order, [&](int64_t a, int64_t b) { return std::pair(a % period, a) < std::pair(b % period, b); });
  return order;
}

void KernelLowering::reduceRows(const Reduction &reduction, const Place &first, int rowDim, int64_t rows, int vec,
                                int64_t width) {
  const bool acrossLanes = vec == reduction.axis; // otherwise each chunk is one step along the axis
  const int64_t stride = acrossLanes ? width : 1;
  int64_t extent = reduction.shape[reduction.axis], chunks = extent / stride, whole = chunks * stride;
  const int64_t lanes = reduction.atom ? reduction.atom->lanes : width; // of a partial
  size_t parts = reduction.sources.size();
  // Chains of additions: enough to fill the pipeline with the rows there are.
  int64_t chains = std::max<int64_t>(1, 4 / rows / int64_t(llvm::PowerOf2Ceil(parts)));
  chains = std::min<int64_t>(chains, llvm::bit_floor(uint64_t(chunks)));
  auto placeOf = [&](int64_t row, Coord start, int64_t lanes) {
    Place place = first;
    if (rowDim >= 0)
      place.at[rowDim] = place.at[rowDim] + row;
    place.at[reduction.axis] = start;
    place.vec = vec;
    place.width = lanes;
    return place;
  };
  // Partials are laid out [row][chain][part].
  auto slot = [&](int64_t row, int64_t chain) { return (row * chains + chain) * int64_t(parts); };
  auto add = [&](Values &partials, Coord start, int64_t chain) {
    for (int64_t row = 0; row < rows; ++row) {
      ValueRange old = ValueRange(partials).slice(slot(row, chain), parts);
      if (!old[0])
        old = {};
      Values next = accumulate(reduction, placeOf(row, start, width), old);
      llvm::copy(next, partials.begin() + slot(row, chain));
    }
  };
  // The ragged end goes to the low lanes.
  auto addTail = [&](Values &partials) {
    for (int64_t at = whole, lanes = width; at < extent; at += lanes) {
      while (at + lanes > extent)
        lanes /= 2;
      for (int64_t row = 0; row < rows; ++row) {
        SmallVector<int64_t> low, back;
        for (int64_t i = 0; i < width; ++i) {
          back.push_back(i < lanes ? i + width : i);
          if (i < lanes)
            low.push_back(i);
        }
        Values old;
        for (size_t part = 0; part < parts; ++part)
          old.push_back(shuffle(partials[slot(row, 0) + part], partials[slot(row, 0) + part], low));
        Values next = accumulate(reduction, placeOf(row, {{}, at}, lanes), old);
        for (size_t part = 0; part < parts; ++part) {
          Value &partial = partials[slot(row, 0) + part];
          Value widened = lanes == 1 ? broadcast(next[part], width) : next[part];
          if (lanes > 1) {
            SmallVector<int64_t> stretch;
            for (int64_t i = 0; i < width; ++i)
              stretch.push_back(std::min(i, lanes - 1));
            widened = shuffle(widened, widened, stretch);
          }
          partial = width == 1 ? widened : shuffle(partial, widened, back);
        }
      }
    }
  };

  Values partials(rows * chains * int64_t(parts));
  SmallVector<Type> types;
  for (int64_t i = 0; i < rows * chains; ++i)
    for (Value source : reduction.sources)
      types.push_back(vectorOf(elementOf(source.getType()), lanes));
  if (chunks <= unrolledRow) {
    partials = splitUnrolled(types, [&] {
      Values inside(partials.size());
      if (rows * chunks > 16 && !currentSplit->fast) { // the part with masks is rare: it stays a loop
        for (int64_t chain = 0; chain < chains; ++chain)
          add(inside, {{}, chain * stride}, chain);
        Value from = i64(chains * stride), to = i64(whole), step = i64(stride);
        here();
        auto loop = scf::ForOp::create(builder, loc, from, to, step, inside);
        open(loop.getBody(), loop);
        Values carried(loop.getRegionIterArgs());
        add(carried, {loop.getInductionVar(), 0, stride}, 0);
        here();
        scf::YieldOp::create(builder, loc, carried);
        close();
        inside.assign(loop.getResults().begin(), loop.getResults().end());
      } else {
        for (auto [i, start] : llvm::enumerate(chunkOrder(reduction.sources, chunks, width)))
          add(inside, {{}, start / width * stride}, i % chains);
      }
      addTail(inside);
      return inside;
    });
  } else {
    int64_t begin = 0;
    Values none = neutral(reduction, lanes);
    if (!none.empty()) {
      for (int64_t i = 0; i < rows * chains; ++i)
        llvm::copy(none, partials.begin() + i * int64_t(parts));
    } else {
      begin = chains * stride;
      partials = splitUnrolled(types, [&] {
        Values inside(partials.size());
        for (int64_t chain = 0; chain < chains; ++chain)
          add(inside, {{}, chain * stride}, chain);
        return inside;
      });
    }
    int64_t unroll = std::max<int64_t>(chains, rows == 1 ? 4 : 2);
    partials = split(begin, whole, stride, unroll, partials, [&](ArrayRef<Coord> starts, ValueRange carried) {
      Values inside(carried);
      for (auto [i, start] : llvm::enumerate(starts))
        add(inside, start, i % chains);
      return inside;
    });
    if (whole < extent)
      partials = splitUnrolled(types, [&] {
        Values inside(partials);
        addTail(inside);
        return inside;
      });
  }

  SmallVector<Values> ofRows;
  for (int64_t row = 0; row < rows; ++row) {
    SmallVector<Values> chain;
    for (int64_t i = 0; i < chains; ++i)
      chain.emplace_back(ValueRange(partials).slice(slot(row, i), parts));
    for (; chain.size() > 1; chain.resize(chain.size() / 2))
      for (size_t i = 0; i < chain.size() / 2; ++i)
        chain[i] = combineAll(reduction, chain[i], chain[i + chain.size() / 2]);
    ofRows.push_back(chain[0]);
  }
  if (!acrossLanes) {
    for (int64_t row = 0; row < rows; ++row) {
      Place to = placeOf(row, {}, width);
      to.at.erase(to.at.begin() + reduction.axis);
      --to.vec;
      for (auto [buffer, value] : llvm::zip(reduction.buffers, ofRows[row]))
        write(buffer, to, value);
    }
    return;
  }
  Values results = horizontal(reduction, ofRows);
  if (reduction.buffers.empty()) {
    for (auto [result, value] : llvm::zip(reduction.results, results))
      bind(result, value);
    return;
  }
  Place to = first;
  to.at.erase(to.at.begin() + reduction.axis);
  to.vec = rows > 1 ? rowDim : -1;
  to.width = rows;
  for (auto [buffer, value] : llvm::zip(reduction.buffers, results))
    write(buffer, to, value);
}

KernelLowering::Values KernelLowering::horizontal(const Reduction &reduction, SmallVector<Values> rows) {
  int64_t lanes = lanesOf(rows[0][0]), segments = 1;
  // Pairs of vectors become one, of which each row holds a segment half as long.
  for (; rows.size() > 1; segments *= 2) {
    int64_t length = lanes / segments;
    SmallVector<int64_t> low, high;
    for (int64_t from : {int64_t{0}, lanes})
      for (int64_t segment = 0; segment < segments; ++segment)
        for (int64_t i = 0; i < length / 2; ++i) {
          low.push_back(from + segment * length + i);
          high.push_back(low.back() + length / 2);
        }
    for (size_t i = 0; i < rows.size() / 2; ++i) {
      Values left, right;
      for (auto [a, b] : llvm::zip(rows[2 * i], rows[2 * i + 1])) {
        left.push_back(shuffle(a, b, low));
        right.push_back(shuffle(a, b, high));
      }
      rows[i] = combineAll(reduction, left, right);
    }
    rows.resize(rows.size() / 2);
  }
  for (int64_t length = lanes / segments; length > 1; length /= 2) {
    SmallVector<int64_t> low, high;
    for (int64_t segment = 0; segment < segments; ++segment)
      for (int64_t i = 0; i < length / 2; ++i) {
        low.push_back(segment * length + i);
        high.push_back(low.back() + length / 2);
      }
    Values left, right;
    for (Value value : rows[0]) {
      left.push_back(shuffle(value, value, low));
      right.push_back(shuffle(value, value, high));
    }
    rows[0] = combineAll(reduction, left, right);
  }
  return rows[0];
}

//===- In memory --------------------------------------------------------------------------------------------------===//

Value KernelLowering::readNow(const Buffer &buffer, const Place &place) {
  int floor = std::exchange(memoryFloor, depth());
  Value value = read(buffer, place);
  memoryFloor = floor;
  return value;
}

void KernelLowering::reduceInMemory(const Reduction &reduction) {
  ArrayRef<int64_t> shape = reduction.shape;
  int axis = reduction.axis;
  int64_t width = lanesFor(reduction.sources, shape[vectorDim(shape)]);
  auto resultPlace = [&](Place place) {
    place.at.erase(place.at.begin() + axis);
    if (place.vec > axis)
      --place.vec;
    return place;
  };
  auto commit = [&](const Place &place, ValueRange values) {
    for (auto [buffer, value] : llvm::zip(reduction.buffers, values))
      write(buffer, resultPlace(place), value);
  };
  // Rows [at, at + count) into the results.
  auto rowsFrom = [&](Fixed fixed, Coord at, int64_t count, bool first) {
    fixed[axis] = at;
    nest(
        shape, width, 2,
        [&](const Place &place) {
          Values partial;
          if (!first)
            for (const Buffer &buffer : reduction.buffers)
              partial.push_back(readNow(buffer, resultPlace(place)));
          for (int64_t i = 0; i < count; ++i) {
            Place row = place;
            row.at[axis] = row.at[axis] + i;
            partial = accumulate(reduction, row, partial);
          }
          return partial;
        },
        commit, fixed);
  };
  constexpr int64_t together = 4;
  std::function<void(int, Fixed)> walk = [&](int dim, Fixed fixed) {
    if (dim < axis)
      return loop(0, shape[dim], 1, [&](Coord at) {
        fixed[dim] = at;
        walk(dim + 1, fixed);
      });
    int64_t lead = (shape[axis] - 1) % together + 1;
    rowsFrom(fixed, Coord(), lead, /*first=*/true);
    loop(lead, shape[axis], together, [&](Coord at) { rowsFrom(fixed, at, together, /*first=*/false); });
  };
  walk(0, Fixed(shape.size()));
}

} // namespace bitloom::loops
