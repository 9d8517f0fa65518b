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

  // Whether combine(a, b) and combine(b, a) are the same bits, so that the order need not be made the same everywhere:
  // each value by an operation of its own, of that value of both.
  bool isCommutative() const {
    Block &body = region.front();
    const size_t values = body.getNumArguments() / 2;
    if (body.getOperations().size() != values + 1)
      return false;
    for (auto [i, result] : llvm::enumerate(body.getTerminator()->getOperands())) {
      Operation *op = result.getDefiningOp();
      const Value left = body.getArgument(unsigned(i)), right = body.getArgument(unsigned(values + i));
      if (!op || op->getNumOperands() != 2 ||
          !((op->getOperand(0) == left && op->getOperand(1) == right) ||
            (op->getOperand(0) == right && op->getOperand(1) == left)) ||
          !isa<arith::AddFOp, arith::MulFOp, arith::MaximumFOp, arith::MinimumFOp, arith::AddIOp, arith::MulIOp,
               arith::AndIOp, arith::OrIOp, arith::XOrIOp, arith::MaxSIOp, arith::MinSIOp, arith::MaxUIOp,
               arith::MinUIOp>(op))
        return false;
    }
    return true;
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

// The same in the thread's program.
static Value depositValue(Emitter &e, Value index, int32_t mask) {
  OpBuilder &b = e.builder;
  Value placed;
  for (int bit = 0, position = 0; mask >> bit; ++bit)
    if (mask >> bit & 1) {
      Value moved = arith::AndIOp::create(b, e.loc, index, e.i32(1 << position));
      if (bit > position)
        moved = arith::ShLIOp::create(b, e.loc, moved, e.i32(bit - position));
      placed = placed ? arith::OrIOp::create(b, e.loc, placed, moved).getResult() : moved;
      ++position;
    }
  return placed;
}

// What the lane that differs in a bit has.
static Partial shuffled(Emitter &e, const Partial &mine, int bit) {
  Partial other;
  for (Value value : mine.values)
    other.values.push_back(e.shuffleXor(value, bit));
  if (mine.valid)
    other.valid = e.shuffleXor(mine.valid, bit);
  return other;
}

// The lowest `count` set bits of the mask.
static int32_t lowestBits(int32_t mask, int count) {
  int32_t lowest = 0;
  for (; count && mask; --count, mask &= mask - 1)
    lowest |= mask & -mask;
  return lowest;
}

namespace {

// Where warps, or blocks, that differ in `bits` of their warps' numbers leave what they have for each other: at
// [result's element][those bits], an array an operand.
class Meeting {
public:
  Meeting(Emitter &e, const LinearLayout &result, int32_t bits, TypeRange types, int results)
      : e(e), result(result), bits(bits), count(1 << llvm::popcount(unsigned(bits))), types(types) {
    LinearLayout places = result; // of what a warp computed, to one coordinate
    elements = int64_t(1) << result.totalOutBits();
    std::vector<int32_t> flat{int32_t(elements)};
    places = places.reshapeOuts(flat);
    for (int i = 0; i < results; ++i) {
      Value at = e.coordinate(places, 0, i);
      place.push_back(count == 1 ? at : arith::MulIOp::create(e.builder, e.loc, at, e.i32(count)).getResult());
    }
  }

  // Of the lanes and the block's warps that hold the same, one writes: those of these bits 0.
  Value isWriter(int32_t lanes, int32_t warps) const {
    Value writer;
    for (auto [id, free] : {std::pair(e.laneId(), lanes), std::pair(e.warpId(), warps)})
      if (free)
        writer = e.both(writer, e.compare(arith::AndIOp::create(e.builder, e.loc, id, e.i32(free)), "eq", e.i32(0)));
    return writer;
  }

  // Between the warps of a block, through its shared memory.
  void inBlock(MutableArrayRef<std::optional<Partial>> partials, Combiner &combine) {
    Value base = e.alternatingScratch(layOut(0));
    e.when(isWriter(result.freeBits(lane), result.freeBits(warp) & (e.blockWarps() - 1) & ~bits),
           [&] { forEach(partials, base, [&](Value address, Value value) { e.sharedStore(address, value); }); });
    e.barrier();
    combineAll(partials, base, combine);
  }

  // Between blocks, of which all warps have the same, through the shared memory of each. What lanes hold alike, some of
  // them send, each to another block.
  void amongBlocks(MutableArrayRef<std::optional<Partial>> partials, Combiner &combine, bool haveMet) {
    OpBuilder &b = e.builder;
    const int32_t ofBlock = e.blockWarps() - 1, ranks = bits / e.blockWarps(), free = result.freeBits(lane);
    const int32_t senders = lowestBits(free, llvm::popcount(unsigned(ranks)));
    const int32_t ofSenders = lowestBits(ranks, llvm::popcount(unsigned(senders))), rest = ranks & ~ofSenders;
    const int32_t freeWarps = result.freeBits(warp) & ofBlock;
    const int64_t bytes = layOut(4);
    // What a block sends to each.
    int64_t sent = 0;
    for (int64_t width : widths)
      sent += width << (result.inBits(lane) - llvm::popcount(unsigned(free)) + llvm::Log2_32(ofBlock + 1) -
                        llvm::popcount(unsigned(freeWarps)));
    Emitter::ClusterExchange exchange = e.beginExchange(ranks, bytes, sent * int64_t(partials.size()) * count, haveMet);
    Value own = e.clusterRank(), peer = arith::AndIOp::create(b, e.loc, own, e.i32(~ranks));
    if (senders)
      peer = arith::OrIOp::create(b, e.loc, peer, depositValue(e, extract(e, e.laneId(), senders), ofSenders));
    Value writer = isWriter(free & ~senders, freeWarps);
    for (int other = 0; other < 1 << llvm::popcount(unsigned(rest)); ++other) {
      Value rank = arith::OrIOp::create(b, e.loc, peer, e.i32(deposit(other, rest)));
      forEach(partials, exchange.base, [&](Value address, Value value) {
        Value sent = e.toBits(value);
        if (sent.getType().getIntOrFloatBitWidth() < 32)
          sent = arith::ExtUIOp::create(b, e.loc, b.getI32Type(), sent);
        e.clusterStore(exchange, address, rank, sent, writer);
      });
    }
    e.awaitExchange(exchange);
    combineAll(partials, exchange.base, combine);
  }

private:
  // Each array's place and its elements' bytes, these at least `least`; the bytes of all.
  int64_t layOut(int64_t least) {
    int64_t total = 0;
    for (Type type : types) {
      widths.push_back(std::max<int64_t>(std::max(1u, type.getIntOrFloatBitWidth() / 8), least));
      starts.push_back(total);
      total += llvm::alignTo(widths.back() * elements * count, 16);
    }
    return total;
  }

  // visit(where its value belongs, the value) for each operand of each result, and whether it holds an element.
  template <class Visit> void forEach(ArrayRef<std::optional<Partial>> partials, Value base, Visit visit) {
    Value index = extract(e, e.warpId(), bits);
    for (auto [i, partial] : llvm::enumerate(partials)) {
      Value at = arith::AddIOp::create(e.builder, e.loc, place[i], index);
      Registers values = partial->values;
      if (values.size() < types.size())
        values.push_back(partial->valid ? partial->valid : e.truth(true));
      for (auto [k, value] : llvm::enumerate(values))
        visit(addressOf(base, k, at), value);
    }
  }

  void combineAll(MutableArrayRef<std::optional<Partial>> partials, Value base, Combiner &combine) {
    OpBuilder &b = e.builder;
    for (auto [i, partial] : llvm::enumerate(partials)) {
      const bool hasValidity = partial->values.size() < types.size();
      auto partAt = [&](Value w) {
        Value at = arith::AddIOp::create(b, e.loc, place[i], w);
        Partial part;
        for (auto [k, type] : llvm::enumerate(types))
          part.values.push_back(load(addressOf(base, k, at), type, widths[k]));
        if (hasValidity)
          part.valid = part.values.pop_back_val();
        return part;
      };
      // Many are a lane's each, then combined by butterflies: fewer instructions for each of many warps.
      constexpr int many = 16;
      const int32_t free = lowestBits(result.freeBits(lane), llvm::Log2_32(count));
      if (count >= many && combine.isCommutative() && llvm::popcount(unsigned(free)) == int(llvm::Log2_32(count))) {
        partial = partAt(extract(e, e.laneId(), free));
        for (int bit = 0; free >> bit; ++bit)
          if (free >> bit & 1)
            partial = combine(partial, shuffled(e, *partial, 1 << bit));
        continue;
      }
      SmallVector<std::optional<Partial>> parts;
      for (int w = 0; w < count; ++w)
        parts.push_back(partAt(e.i32(w)));
      partial = tree(combine, parts);
    }
  }

  Value addressOf(Value base, size_t array, Value at) {
    Value start = e.sharedAddress(base, e.i32(starts[array]), e.builder.getI8Type());
    const bool isWidened = 8 * widths[array] > std::max(8u, types[array].getIntOrFloatBitWidth());
    return e.sharedAddress(start, at, isWidened ? Type(e.builder.getI32Type()) : types[array]);
  }

  Value load(Value address, Type type, int64_t width) {
    const unsigned bits = std::max(8u, type.getIntOrFloatBitWidth());
    if (8 * width == bits)
      return e.sharedLoad(address, type);
    Value word = e.sharedLoad(address, e.builder.getIntegerType(unsigned(8 * width)));
    return e.fromBits(arith::TruncIOp::create(e.builder, e.loc, e.builder.getIntegerType(bits), word), type);
  }

  Emitter &e;
  const LinearLayout &result;
  int32_t bits;
  int count;
  TypeRange types;
  int64_t elements;
  SmallVector<Value> place; // a result
  SmallVector<int64_t> starts, widths;
};

} // namespace

// Over the warps that differ in `bits` of their numbers: those of a block first, and once these have the same results,
// the blocks of a cluster.
static void reduceWarps(Emitter &e, tile::ReduceOp reduce, Combiner &combine, const LinearLayout &result, int32_t bits,
                        MutableArrayRef<std::optional<Partial>> partials) {
  const int32_t inBlock = bits & (e.blockWarps() - 1), amongBlocks = bits & ~inBlock;
  SmallVector<Type> types;
  for (Value operand : reduce.getSources())
    types.push_back(tile::elementOf(operand.getType()));
  if (llvm::any_of(partials, [](const std::optional<Partial> &partial) { return bool(partial->valid); }))
    types.push_back(e.builder.getI1Type());
  if (inBlock)
    Meeting(e, result, inBlock, types, int(partials.size())).inBlock(partials, combine);
  if (amongBlocks)
    Meeting(e, result, amongBlocks, types, int(partials.size())).amongBlocks(partials, combine, inBlock);
}

bool nvptx::meetsAll(Emitter &e, tile::ReduceOp reduce) {
  const LinearLayout &source = e.layout(reduce.getSources()[0].getType());
  if (!isReducible(source, reduce.getAxis()))
    return false;
  const int32_t bits = bitsAlong(source, warp, reduce.getAxis()), ofBlock = e.blockWarps() - 1;
  return e.spansCluster() ? (bits & ~ofBlock) == e.warps() - e.blockWarps() : bits != 0;
}

// Elements are there when they can be stored.
static void awaitGathers(Emitter &e, tile::ReduceOp reduce) {
  for (tile::GatherOp gather : e.gathersBefore(reduce)) {
    e.loc = gather.getLoc();
    const Registers &values = e.get(gather);
    const int64_t bytes = std::max(1u, tile::elementOf(gather.getType()).getIntOrFloatBitWidth() / 8);
    Value base = LLVM::IntToPtrOp::create(e.builder, e.loc, LLVM::LLVMPointerType::get(e.builder.getContext(), 3),
                                          e.sharedAt(e.reserve(bytes * lanes * e.blockWarps(), 16, {})));
    Value thread = arith::AndIOp::create(e.builder, e.loc, e.linearThreadId(), e.i32(lanes * e.blockWarps() - 1));
    for (Value value : values)
      e.sharedStore(e.sharedAddress(base, thread, tile::elementOf(gather.getType())), value);
  }
  e.loc = reduce.getLoc();
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
      Partial mine = *partial, other = shuffled(e, mine, 1 << bit);
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

  if (e.spansCluster())
    awaitGathers(e, reduce);
  if (int32_t warpBits = bitsAlong(source, warp, axis))
    reduceWarps(e, reduce, combine, result, warpBits, partials);

  for (auto [k, value] : llvm::enumerate(reduce.getResults())) {
    Registers registers;
    for (const std::optional<Partial> &partial : partials)
      registers.push_back(partial->values[k]);
    e.put(value, registers);
  }
  return success();
}
