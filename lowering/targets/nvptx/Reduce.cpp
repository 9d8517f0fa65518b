// Reductions: over a thread's registers, then its warp's lanes by butterflies of shuffles, then the warps through
// shared memory, then the blocks of a cluster through each other's. Every thread that holds replicas of a result
// combines the same partial results in the same order, so all get the same bits. Padding never enters: a partial result
// carries whether it holds any element.
#include "bitloom/lowering/targets/nvptx/Emitter.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace bitloom;
using namespace bitloom::nvptx;

namespace {

// A partial result: one scalar an operand, and whether it holds an element (null: it always does; none: it never does).
struct Partial {
  Registers values;
  Value valid;
};

class Combiner {
public:
  Combiner(Emitter &e, Region &region) : e(e), region(region) {}

  std::optional<Partial> operator()(const std::optional<Partial> &left, const std::optional<Partial> &right) {
    if (!left || !right)
      return left ? left : right;
    Registers joined = e.combine(region, left->values, right->values);
    for (auto [i, value] : llvm::enumerate(joined)) {
      if (right->valid)
        value = e.select(right->valid, value, left->values[i]);
      if (left->valid)
        value = e.select(left->valid, value, right->values[i]);
    }
    Value valid;
    if (left->valid && right->valid)
      valid = arith::OrIOp::create(e.builder, e.loc, left->valid, right->valid);
    return Partial{joined, valid};
  }

  // Whether combine(a, b) and combine(b, a) are the same bits, so that the order need not be made the same everywhere.
  bool isCommutative() const {
    Block &body = region.front();
    if (body.getOperations().size() != 2)
      return false;
    Operation &op = body.front();
    if (op.getNumOperands() != 2 || op.getOperand(0) == op.getOperand(1))
      return false;
    return isa<arith::AddFOp, arith::MulFOp, arith::MaximumFOp, arith::MinimumFOp, arith::AddIOp, arith::MulIOp,
               arith::AndIOp, arith::OrIOp, arith::XOrIOp, arith::MaxSIOp, arith::MinSIOp, arith::MaxUIOp,
               arith::MinUIOp>(op);
  }

private:
  Emitter &e;
  Region &region;
};

} // namespace

// A balanced tree, so that the chain is short and rounding errors of sums stay small.
static std::optional<Partial> tree(Combiner &combine, ArrayRef<std::optional<Partial>> parts) {
  if (parts.empty())
    return std::nullopt;
  if (parts.size() == 1)
    return parts.front();
  size_t half = parts.size() / 2;
  std::optional<Partial> left = tree(combine, parts.take_front(half));
  return combine(left, tree(combine, parts.drop_front(half)));
}

// The bits of an input dim that move along `axis`.
static int32_t bitsAlong(const LinearLayout &layout, const char *in, int axis) {
  int32_t bits = 0;
  for (int bit = 0; bit < layout.inBits(in); ++bit)
    if (layout.basis(in, bit)[axis])
      bits |= 1 << bit;
  return bits;
}

// The bits of `id` at the set bits of mask, in order, as the low ones of a number.
static Value extract(Emitter &e, Value id, int32_t mask) {
  OpBuilder &b = e.builder;
  Value index;
  int position = 0;
  for (int bit = 0; mask >> bit; ++bit)
    if (mask >> bit & 1) {
      Value moved = arith::AndIOp::create(b, e.loc, id, e.i32(1 << bit));
      if (bit > position)
        moved = arith::ShRUIOp::create(b, e.loc, moved, e.i32(bit - position));
      index = index ? arith::OrIOp::create(b, e.loc, index, moved).getResult() : moved;
      ++position;
    }
  return index;
}

// The number of which extract() gives `value`.
static int32_t deposit(int value, int32_t mask) {
  int32_t placed = 0;
  for (int bit = 0; mask >> bit; ++bit)
    if (mask >> bit & 1)
      placed |= (value & 1) << bit, value >>= 1;
  return placed;
}

// Over the warps that differ in `bits` of their numbers: those of a block through its shared memory; or, once these
// have the same results, over the blocks of a cluster, through that of all. What a warp or block computed lies at
// [result's element][its bits].
static void reduceWarps(Emitter &e, tile::ReduceOp reduce, Combiner &combine, const LinearLayout &result, int32_t bits,
                        bool amongBlocks, std::vector<std::optional<Partial>> &partials) {
  OpBuilder &b = e.builder;
  const int count = 1 << llvm::popcount(unsigned(bits)), results = int(partials.size());
  const int32_t ofBlock = e.blockWarps() - 1;
  LinearLayout places = result; // of what a warp computed, to one coordinate
  int64_t elements = int64_t(1) << result.totalOutBits();
  std::vector<int32_t> flat{int32_t(elements)};
  places = places.reshapeOuts(flat);
  bool hasValidity = llvm::any_of(partials, [](const std::optional<Partial> &partial) { return bool(partial->valid); });

  Value index = extract(e, e.warpId(), bits);
  // One writer an element and warp, or block: a lane without free bits; warp bits that hold other replicas are 0.
  Value writer;
  if (int32_t free = result.freeBits(lane))
    writer = e.compare(arith::AndIOp::create(b, e.loc, e.laneId(), e.i32(free)), "eq", e.i32(0));
  if (int32_t free = result.freeBits(warp) & ofBlock & ~bits)
    writer = e.both(writer, e.compare(arith::AndIOp::create(b, e.loc, e.warpId(), e.i32(free)), "eq", e.i32(0)));

  SmallVector<Type> types;
  for (Value operand : reduce.getSources())
    types.push_back(tile::elementOf(operand.getType()));
  if (hasValidity)
    types.push_back(b.getI1Type());
  SmallVector<int64_t> starts;
  int64_t bytes = 0;
  for (Type element : types) {
    starts.push_back(bytes);
    bytes += llvm::alignTo(std::max(1u, element.getIntOrFloatBitWidth() / 8) * elements * count, 16);
  }
  Value base = amongBlocks ? e.clusterScratch(bytes) : e.blockScratch(bytes);
  SmallVector<Value> arrays;
  for (int64_t start : starts)
    arrays.push_back(e.sharedAddress(base, e.i32(start), b.getI8Type()));
  SmallVector<Value> place;
  for (int i = 0; i < results; ++i) {
    Value at = e.coordinate(places, 0, i);
    place.push_back(count == 1 ? at : arith::MulIOp::create(b, e.loc, at, e.i32(count)).getResult());
  }
  auto store = [&](Value address, Value value) {
    if (!amongBlocks)
      return e.sharedStore(address, value);
    const int32_t ranks = bits / e.blockWarps();
    Value others = arith::AndIOp::create(b, e.loc, e.clusterRank(), e.i32(~ranks));
    for (int peer = 0; peer < count; ++peer)
      e.clusterStore(address, arith::OrIOp::create(b, e.loc, others, e.i32(deposit(peer, ranks))), value);
  };
  e.when(writer, [&] {
    for (int i = 0; i < results; ++i) {
      Value at = arith::AddIOp::create(b, e.loc, place[i], index);
      Registers values = partials[i]->values;
      if (hasValidity)
        values.push_back(partials[i]->valid ? partials[i]->valid : e.truth(true));
      for (auto [array, value, element] : llvm::zip(arrays, values, types))
        store(e.sharedAddress(array, at, element), value);
    }
  });
  amongBlocks ? e.meetCluster() : e.barrier();
  for (int i = 0; i < results; ++i) {
    SmallVector<std::optional<Partial>> parts;
    for (int w = 0; w < count; ++w) {
      Value at = arith::AddIOp::create(b, e.loc, place[i], e.i32(w));
      Partial part;
      for (auto [array, element] : llvm::zip(arrays, types))
        part.values.push_back(e.sharedLoad(e.sharedAddress(array, at, element), element));
      if (hasValidity)
        part.valid = part.values.pop_back_val();
      parts.push_back(part);
    }
    partials[i] = tree(combine, parts);
  }
}

LogicalResult nvptx::lower(Emitter &e, tile::ReduceOp reduce) {
  OpBuilder &b = e.builder;
  int axis = reduce.getAxis();
  auto type = cast<RankedTensorType>(reduce.getSources()[0].getType());
  const LinearLayout &source = e.layout(type);
  if (!isReducible(source, axis))
    return reduce.emitOpError() << "expected a source whose layout can be reduced along " << axis;
  LinearLayout result = reducedLayout(source, axis);
  Combiner combine(e, reduce.getCombiner());
  int64_t extent = type.getDimSize(axis);
  const std::vector<LinearLayout::Vector> &own = e.registerCoordinates(source);

  // Registers: those along the axis are combined, the others number the results (as removeFreeBits does in `result`).
  int32_t along = bitsAlong(source, reg, axis), kept = 0;
  for (int bit = 0; bit < source.inBits(reg); ++bit)
    if (!(along >> bit & 1) && !(source.freeBits(reg) >> bit & 1))
      kept |= 1 << bit;
  int results = 1 << llvm::popcount(unsigned(kept));
  int32_t threadBits = e.threadBits(source, axis);
  std::vector<std::optional<Partial>> partials(results);
  for (int i = 0; i < results; ++i) {
    SmallVector<std::optional<Partial>> parts;
    for (int j = 0; j < 1 << llvm::popcount(unsigned(along)); ++j) {
      int r = deposit(i, kept) | deposit(j, along);
      Partial part;
      if (e.isDead(source, type.getShape(), r)) {
        parts.push_back(std::nullopt);
        continue;
      }
      for (Value operand : reduce.getSources())
        part.values.push_back(e.get(operand)[r]);
      if (!e.isInside(own[r][axis], threadBits, extent))
        part.valid = e.compare(e.coordinate(source, axis, r), "slt", e.i32(extent));
      parts.push_back(part);
    }
    partials[i] = tree(combine, parts);
    if (!partials[i]) { // all padding along another dim: any value will do
      partials[i] = Partial{};
      for (Value operand : reduce.getSources())
        partials[i]->values.push_back(e.zero(tile::elementOf(operand.getType())));
    }
  }

  // Lanes.
  bool ordered = !combine.isCommutative();
  int32_t laneBits = bitsAlong(source, lane, axis);
  for (int bit = 0; bit < source.inBits(lane); ++bit) {
    if (!(laneBits >> bit & 1))
      continue;
    Value isRight =
        ordered ? e.compare(arith::AndIOp::create(b, e.loc, e.laneId(), e.i32(1 << bit)), "ne", e.i32(0)) : Value();
    for (std::optional<Partial> &partial : partials) {
      Partial mine = *partial, other;
      for (Value value : mine.values)
        other.values.push_back(e.shuffleXor(value, 1 << bit));
      if (mine.valid)
        other.valid = e.shuffleXor(mine.valid, 1 << bit);
      if (ordered) {
        auto order = [&](Value &left, Value &right) {
          Value first = e.select(isRight, right, left), second = e.select(isRight, left, right);
          left = first, right = second;
        };
        for (auto [left, right] : llvm::zip(mine.values, other.values))
          order(left, right);
        if (mine.valid)
          order(mine.valid, other.valid);
      }
      partial = combine(mine, other);
    }
  }

  // Warps, those of a block first.
  int32_t warpBits = bitsAlong(source, warp, axis), ofBlock = e.blockWarps() - 1;
  for (auto [bits, amongBlocks] : {std::pair(warpBits & ofBlock, false), std::pair(warpBits & ~ofBlock, true)})
    if (bits)
      reduceWarps(e, reduce, combine, result, bits, amongBlocks, partials);

  for (auto [k, value] : llvm::enumerate(reduce.getResults())) {
    Registers registers;
    for (const std::optional<Partial> &partial : partials)
      registers.push_back(partial->values[k]);
    e.put(value, registers);
  }
  return success();
}
