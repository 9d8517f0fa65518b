// Moving a tile's elements between threads and registers. What stays in its thread is a renaming of registers; what
// stays in its warp may go by shuffles; the rest goes through shared memory, in an order without bank conflicts where
// the places of the elements are linear (lib/layout/Exchange.h), by rows otherwise.
#include "bitloom/lib/layout/Exchange.h"
#include "bitloom/lowering/Explain.h"
#include "bitloom/lowering/targets/nvptx/Emitter.h"

#include "mlir/Dialect/Arith/IR/Arith.h"

#include <map>

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

//===- By rows ----------------------------------------------------------------------------------------------------===//

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

Registers nvptx::loadShared(Emitter &e, Type element, const LinearLayout &to, ArrayRef<int64_t> shape,
                            const LinearLayout::Vector &start, Value base) {
  const int64_t last = ShapedType::getNumElements(shape) - 1;
  SmallVector<int64_t> resultShape;
  for (auto [out, extent, first] : llvm::zip(to.outs(), shape, start))
    resultShape.push_back(std::min<int64_t>(out.size, extent - first));
  Registers result;
  for (int r = 0; r < to.inSize(reg); ++r) {
    if (e.isDead(to, resultShape, r)) {
      result.push_back(e.zero(element));
      continue;
    }
    SmallVector<Value> at;
    bool isInside = true;
    for (auto [d, extent] : llvm::enumerate(resultShape)) {
      at.push_back(e.coordinate(to, int(d), r));
      if (start[d])
        at.back() = arith::AddIOp::create(e.builder, e.loc, at.back(), e.i32(start[d]));
      isInside &= e.isInside(e.registerCoordinates(to)[r][d], e.threadBits(to, int(d)), extent);
    }
    Value index = flatIndex(e, at, shape);
    if (!isInside)
      index = arith::MinUIOp::create(e.builder, e.loc, index, e.i32(last)); // padding reads anything in reach
    result.push_back(e.sharedLoad(e.sharedAddress(base, index, element), element));
  }
  return result;
}

//===- In the order of a layout -----------------------------------------------------------------------------------===//

// The accesses by which a thread reaches a tile in shared memory, so many neighbours at a time. places: from (register,
// lane, warp) to the offset of an element, to which `start` is added. `body` gets the registers of each neighbour, more
// than one where they hold replicas, and the address.
static void forEachAccess(Emitter &e, const LinearLayout &places, int32_t start, int32_t vector, Type element,
                          Value base,
                          llvm::function_ref<void(ArrayRef<SmallVector<int, 1>> neighbours, Value address)> body) {
  using Neighbours = SmallVector<SmallVector<int, 1>>;
  std::map<int32_t, Neighbours> accesses; // by the first offset
  for (int r = 0; r < places.inSize(reg); ++r) {
    const int32_t offset = places.apply({{reg, r}})[0] ^ start, first = offset / vector * vector;
    accesses.try_emplace(first, Neighbours(size_t(vector))).first->second[size_t(offset - first)].push_back(r);
  }
  const Value thread = e.threadImage(places, 0);
  const int32_t threadBits = e.threadBits(places, 0);
  std::map<int32_t, Value> origins; // by the bits of an offset that the thread sets too; the others are added
  for (auto &[first, neighbours] : accesses) {
    Value &origin = origins[first & threadBits];
    if (!origin) {
      Value own = e.i32(first & threadBits);
      origin = e.sharedAddress(base, thread ? arith::XOrIOp::create(e.builder, e.loc, thread, own).getResult() : own,
                               element);
    }
    body(neighbours, e.sharedAddress(origin, e.i32(first & ~threadBits), element));
  }
}

static void storeElements(Emitter &e, const Registers &source, Type element, const LinearLayout &from,
                          const LinearLayout &order, Value base) {
  OpBuilder &b = e.builder;
  const int32_t vector = sharedAccess(from, order, bytesOf(element)).vector;
  e.when(e.isFirstReplica(from), [&] {
    forEachAccess(e, from.compose(order.invert()), 0, vector, element, base, [&](auto neighbours, Value address) {
      Registers values;
      for (const auto &registers : neighbours)
        values.push_back(source[size_t(registers[0])]);
      const SmallVector<Value> words = packWords(e, values);
      Value stored = words[0];
      if (words.size() > 1) {
        stored = LLVM::PoisonOp::create(b, e.loc, VectorType::get({int64_t(words.size())}, stored.getType()));
        for (auto [i, word] : llvm::enumerate(words))
          stored = LLVM::InsertElementOp::create(b, e.loc, stored, word, e.i32(int64_t(i)));
      }
      LLVM::StoreOp::create(b, e.loc, stored, address, unsigned(vector * bytesOf(element)));
    });
  });
}

// start: what is added to the coordinates.
static Registers loadElements(Emitter &e, Type element, const LinearLayout &to, const LinearLayout &order, Value base,
                              const LinearLayout::Vector &start) {
  OpBuilder &b = e.builder;
  const int32_t vector = sharedAccess(to, order, bytesOf(element)).vector;
  const int64_t bytes = vector * bytesOf(element), words = std::max<int64_t>(1, bytes / 4);
  const Type word = b.getIntegerType(unsigned(std::min<int64_t>(bytes, 4) * 8));
  const LinearLayout offsetOf = order.invert();
  std::vector<std::pair<std::string_view, int32_t>> at;
  for (auto [out, coordinate] : llvm::zip(order.outs(), start))
    at.push_back({out.name, coordinate});
  Registers result(size_t(to.inSize(reg)));
  forEachAccess(
      e, to.compose(offsetOf), offsetOf.apply(at)[0], vector, element, base, [&](auto neighbours, Value address) {
        Value loaded = LLVM::LoadOp::create(b, e.loc, words == 1 ? word : Type(VectorType::get({words}, word)), address,
                                            unsigned(bytes));
        SmallVector<Value> parts;
        for (int64_t w = 0; w < words; ++w)
          parts.push_back(words == 1 ? loaded : LLVM::ExtractElementOp::create(b, e.loc, loaded, e.i32(w)).getResult());
        for (auto [registers, value] : llvm::zip(neighbours, unpackWords(e, parts, element, vector)))
          for (int r : registers)
            result[size_t(r)] = value;
      });
  return result;
}

Registers nvptx::loadConverted(Emitter &e, tile::ConvertLayoutOp convert) {
  RankedTensorType from = convert.getSource().getType();
  Value base = LLVM::IntToPtrOp::create(e.builder, e.loc, LLVM::LLVMPointerType::get(e.builder.getContext(), 3),
                                        e.sharedTile(convert.getSource()));
  return loadElements(e, from.getElementType(), e.layout(convert.getType()), e.layout(from), base,
                      LinearLayout::Vector(size_t(from.getRank()), 0));
}

//===- By shuffles ------------------------------------------------------------------------------------------------===//

// Index i gets what i ^ flip has, in the threads that a selection names. Null words stay so.
static Registers arrange(Emitter &e, Registers words, ArrayRef<Selection> selections) {
  OpBuilder &b = e.builder;
  for (const Selection &selection : selections) {
    Value bits;
    for (auto [mask, id] : {std::pair(selection.lanes, e.laneId()), std::pair(selection.warps << 5, e.warpId())}) {
      if (!mask)
        continue;
      if (id == e.warpId())
        id = arith::ShLIOp::create(b, e.loc, id, e.i32(5));
      Value own = arith::AndIOp::create(b, e.loc, id, e.i32(mask));
      bits = bits ? arith::OrIOp::create(b, e.loc, bits, own).getResult() : own;
    }
    if (!llvm::isPowerOf2_32(uint32_t(selection.lanes | selection.warps << 5)))
      bits = arith::AndIOp::create(b, e.loc, LLVM::CtPopOp::create(b, e.loc, bits), e.i32(1));
    Value isOdd = e.compare(bits, "ne", e.i32(0));
    const Registers before = words;
    for (auto [i, word] : llvm::enumerate(words))
      if (word)
        word = e.select(isOdd, before[i ^ size_t(selection.flip)], word);
  }
  return words;
}

// Registers under other names, by the map of places: elements stay parts of the words that they were loaded in.
static Registers renamed(const Registers &source, const LinearLayout &places, const LinearLayout::Vector &start) {
  const std::vector<std::string> dims = places.outDims();
  const size_t out = size_t(llvm::find(dims, reg) - dims.begin());
  Registers result;
  for (int r = 0; r < places.inSize(reg); ++r)
    result.push_back(source[size_t(places.apply({{reg, r}})[out] ^ start[out])]);
  return result;
}

static Registers shuffleWords(Emitter &e, const Registers &source, Type element, const ShufflePlan &plan) {
  const int perWord = 1 << plan.packed.size();
  auto registersOf = [&](bool ofSource) { // of a word's elements, xor the word's index
    SmallVector<int> registers(size_t(perWord), 0);
    for (int i = 0; i < perWord; ++i)
      for (auto [bit, places] : llvm::enumerate(plan.packed))
        registers[size_t(i)] |= (i >> bit & 1) << (ofSource ? places.second : places.first);
    return registers;
  };
  const SmallVector<int> ofSource = registersOf(true), ofResult = registersOf(false);
  Registers words(source.size());
  for (int s = 0; s < int(source.size()); ++s) {
    if (s & ofSource.back())
      continue;
    Registers parts;
    for (int i : ofSource)
      parts.push_back(source[size_t(s | i)]);
    words[size_t(s)] = perWord == 1 ? parts[0] : packWords(e, parts)[0];
  }
  words = arrange(e, words, plan.before);

  const Value thread = e.threadImage(plan.places, 1);
  auto shuffled = [&](Value word, int32_t lane) -> Value {
    if (plan.isXor)
      return lane ? e.shuffleXor(word, lane) : word;
    Value own = e.i32(lane);
    return e.shuffleFrom(word, thread ? arith::XOrIOp::create(e.builder, e.loc, thread, own).getResult() : own);
  };
  std::map<LinearLayout::Vector, Value> sent; // by the word's index and the lane
  Registers got(size_t(plan.places.inSize(reg)));
  for (int r = 0; r < int(got.size()); ++r) {
    if (r & ofResult.back())
      continue;
    LinearLayout::Vector at = plan.places.apply({{reg, r}});
    at[0] ^= plan.start[0], at[1] ^= plan.start[1];
    Value &value = sent[at];
    if (!value)
      value = shuffled(words[size_t(at[0])], at[1]);
    got[size_t(r)] = value;
  }
  got = arrange(e, got, plan.after);

  Registers result(got.size());
  for (int r = 0; r < int(got.size()); ++r)
    if (got[size_t(r)]) {
      const Registers parts =
          perWord == 1 ? Registers{got[size_t(r)]} : unpackWords(e, got[size_t(r)], element, perWord);
      for (auto [i, part] : llvm::zip(ofResult, parts))
        result[size_t(r | i)] = part;
    }
  return result;
}

//===- The choice -------------------------------------------------------------------------------------------------===//

// What a warp waits for, in cycles. Shared memory and shuffles go by the same pipe, one wavefront or shuffle a cycle;
// two selections take as long. A block stands still at a barrier, for about as long as an access takes: an estimate.
static constexpr int64_t barrierCost = 32;
static int64_t costOf(const ShufflePlan &plan, int64_t elementBytes) {
  return (plan.shuffles() + plan.selects() / 2) * llvm::divideCeil(elementBytes, 4);
}
static int64_t costOf(const SharedAccess &write, const SharedAccess &read) {
  return write.wavefronts + read.wavefronts + barrierCost;
}

// Where the element at a place of the tile is, as places.outs() has it.
static LinearLayout::Vector placeOf(const LinearLayout::Vector &element, const LinearLayout &from,
                                    const LinearLayout &places) {
  const LinearLayout inverse = from.pseudoinvert();
  std::vector<std::pair<std::string_view, int32_t>> named;
  for (auto [out, coordinate] : llvm::zip(from.outs(), element))
    named.push_back({out.name, coordinate});
  const LinearLayout::Vector found = inverse.apply(named);
  const std::vector<std::string> dims = inverse.outDims();
  LinearLayout::Vector place;
  for (const auto &out : places.outs())
    place.push_back(found[size_t(llvm::find(dims, out.name) - dims.begin())]);
  return place;
}

Registers nvptx::exchange(Emitter &e, const Registers &source, Type element, const LinearLayout &from,
                          ArrayRef<int64_t> shape, const LinearLayout &to, ArrayRef<int64_t> offsets) {
  // Where to read from is linear, plus the place of `offsets` when those touch no bit that `to` sets.
  const LinearLayout embedded(to.ins(), from.outs());
  LinearLayout::Vector start(shape.size(), 0);
  bool isAffine = true;
  for (size_t d = 0; d < offsets.size(); ++d) {
    start[d] = int32_t(offsets[d]);
    isAffine &= offsets[d] % to.outs()[d].size == 0;
  }
  const int64_t bytes = bytesOf(element);
  const bool isPadded = !llvm::all_of(shape, llvm::isPowerOf2_64);
  auto explain = [&](llvm::function_ref<std::string()> how) {
    explainChoice(e.builder.getInsertionBlock()->getParentOp(), e.loc,
                  [&] { return describe(RankedTensorType::get(shape, element)) + " changes threads " + how(); });
  };
  std::optional<LinearLayout> order; // in shared memory
  if (isAffine) {
    const LinearLayout places = embedded.invertAndCompose(from);
    std::optional<ShufflePlan> plan = planShuffles(places, placeOf(start, from, places), bytes);
    if (plan && !plan->shuffles() && !plan->selects())
      return renamed(source, places, placeOf(start, from, places));
    order = swizzledOrder(from, embedded, bytes);
    const int64_t throughShared = costOf(sharedAccess(from, *order, bytes), sharedAccess(embedded, *order, bytes));
    if (plan && (costOf(*plan, bytes) <= throughShared || e.consumerCount() > 1)) {
      explain([&] {
        return "by " + std::to_string(plan->shuffles()) + " shuffles and " + std::to_string(plan->selects()) +
               " selections: " + std::to_string(costOf(*plan, bytes)) +
               " cycles of a warp, where shared memory takes " + std::to_string(throughShared);
      });
      return shuffleWords(e, source, element, *plan);
    }
    if (isPadded)
      order.reset();
  }
  Value base = e.scratch(ShapedType::getNumElements(shape) * bytes);
  if (order) {
    explain([&] {
      const SharedAccess write = sharedAccess(from, *order, bytes), read = sharedAccess(embedded, *order, bytes);
      return "through shared memory: a warp stores " + std::to_string(write.vector) + " elements at a time in " +
             std::to_string(write.wavefronts) + " wavefronts and loads " + std::to_string(read.vector) + " in " +
             std::to_string(read.wavefronts) + ", " + std::to_string(write.least + read.least) + " being the least";
    });
    storeElements(e, source, element, from, *order, base);
    e.barrier();
    return loadElements(e, element, embedded, *order, base, start);
  }
  explain([&] { return std::string("through shared memory, by rows"); });
  storeShared(e, source, from, shape, base);
  e.barrier();
  return loadShared(e, element, to, shape, start, base);
}
