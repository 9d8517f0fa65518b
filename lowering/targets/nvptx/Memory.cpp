// Loads and stores of rectangular tiles.
//
// An access is coalesced by its layout. Runs of registers that are contiguous in memory are moved by one instruction of
// up to 16 bytes, predicated by whether the run is in bounds; that is legal when the run's alignment is known and no
// run straddles an edge. Both are the same for the whole block and are decided at run time, by one branch on the
// offset's and the edges' low bits: otherwise every element is moved by itself. What passes the branch are memory
// words, not elements, so that loads are issued together and waited for at their first use.
#include "bitloom/lowering/targets/nvptx/Emitter.h"
#include "bitloom/lowering/targets/nvptx/Rewrites.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "llvm/Support/MathExtras.h"

#include <map>

using namespace mlir;
using namespace bitloom;
using namespace bitloom::nvptx;

//===- Words: what one instruction moves --------------------------------------------------------------------------===//

SmallVector<Value> nvptx::packWords(Emitter &e, ValueRange elements) {
  OpBuilder &b = e.builder;
  int64_t bytes = bytesOf(elements[0].getType()), perWord = std::min<int64_t>(4 / bytes, elements.size());
  SmallVector<Value> words;
  if (bytes == 8) {
    for (Value element : elements) {
      Value bits = e.toBits(element);
      words.push_back(arith::TruncIOp::create(b, e.loc, b.getI32Type(), bits));
      words.push_back(
          arith::TruncIOp::create(b, e.loc, b.getI32Type(), arith::ShRUIOp::create(b, e.loc, bits, e.i64(32))));
    }
    return words;
  }
  for (size_t first = 0; first < elements.size(); first += perWord) {
    if (perWord == 1) {
      words.push_back(e.toBits(elements[first]));
      continue;
    }
    Type part = e.toBits(elements[first]).getType();
    Value vector = LLVM::PoisonOp::create(b, e.loc, VectorType::get({perWord}, part));
    for (int64_t i = 0; i < perWord; ++i)
      vector = LLVM::InsertElementOp::create(b, e.loc, vector, e.toBits(elements[first + i]), e.i32(i));
    words.push_back(LLVM::BitcastOp::create(b, e.loc, b.getIntegerType(8 * bytes * perWord), vector));
  }
  return words;
}

Registers nvptx::unpackWords(Emitter &e, ValueRange words, Type element, int64_t count) {
  OpBuilder &b = e.builder;
  int64_t bytes = bytesOf(element), perWord = std::min<int64_t>(4 / bytes, count);
  Registers elements;
  if (bytes == 8) {
    for (size_t i = 0; i < words.size(); i += 2) {
      Value low = arith::ExtUIOp::create(b, e.loc, b.getI64Type(), words[i]);
      Value high = arith::ExtUIOp::create(b, e.loc, b.getI64Type(), words[i + 1]);
      high = arith::ShLIOp::create(b, e.loc, high, e.i64(32));
      elements.push_back(e.fromBits(arith::OrIOp::create(b, e.loc, low, high), element));
    }
    return elements;
  }
  Type part = element.isInteger(1) ? b.getI8Type() : registerType(element);
  for (Value word : words) {
    if (perWord == 1) {
      elements.push_back(e.fromBits(word, element));
      continue;
    }
    Value vector = LLVM::BitcastOp::create(b, e.loc, VectorType::get({perWord}, part), word);
    for (int64_t i = 0; i < perWord; ++i)
      elements.push_back(e.fromBits(LLVM::ExtractElementOp::create(b, e.loc, vector, e.i32(i)), element));
  }
  return elements;
}

// "v4.b32" and the like for `words` words of `bits` bits; "u8" moves through a 16-bit register.
static std::string widthSuffix(size_t words, unsigned bits) {
  std::string type = bits == 8 ? "u8" : "b" + std::to_string(bits);
  return words == 1 ? "." + type : ".v" + std::to_string(words) + "." + type;
}

static std::string operandList(size_t first, size_t count) {
  std::string list;
  for (size_t i = 0; i < count; ++i)
    list += (i ? ", $" : "$") + std::to_string(first + i);
  return count == 1 ? list : "{" + list + "}";
}

// [address + bytes], where the predicate holds; elsewhere the words are `other`, or 0 where it is empty.
static SmallVector<Value> loadWords(Emitter &e, Value address, int64_t bytes, Value predicate, size_t count,
                                    unsigned bits, ValueRange other) {
  OpBuilder &b = e.builder;
  Type word = b.getIntegerType(std::max(bits, 16u)), given = b.getIntegerType(bits);
  std::string constraint = bits == 32 ? "r" : "h", text, constraints;
  std::string move = bits == 32 ? "mov.b32 $" : "mov.b16 $";
  SmallVector<Value> operands{address, predicate};
  for (size_t i = 0; i < count; ++i) {
    constraints += "=" + constraint + ",";
    text += move + std::to_string(i) + ", " + (other.empty() ? "0" : "$" + std::to_string(count + 2 + i)) + "; ";
  }
  constraints += "l,b";
  for (Value value : other) {
    constraints += "," + constraint;
    operands.push_back(word == given ? value : arith::ExtUIOp::create(b, e.loc, word, value).getResult());
  }
  text += "@$" + std::to_string(count + 1) + " ld.global" + widthSuffix(count, bits) + " " + operandList(0, count) +
          ", [$" + std::to_string(count) + " + " + std::to_string(bytes) + "];";
  Type result = count == 1 ? word : LLVM::LLVMStructType::getLiteral(b.getContext(), SmallVector<Type>(count, word));
  Value loaded = e.ptx(text, constraints, result, operands, /*hasSideEffects=*/true);
  SmallVector<Value> words;
  for (size_t i = 0; i < count; ++i) {
    Value value = count == 1 ? loaded : LLVM::ExtractValueOp::create(b, e.loc, loaded, int64_t(i)).getResult();
    words.push_back(word == given ? value : arith::TruncIOp::create(b, e.loc, given, value).getResult());
  }
  return words;
}

static void storeWords(Emitter &e, Value address, int64_t bytes, Value predicate, ValueRange words) {
  OpBuilder &b = e.builder;
  unsigned bits = words[0].getType().getIntOrFloatBitWidth();
  std::string constraints;
  SmallVector<Value> operands;
  for (Value word : words) {
    constraints += bits == 32 ? "r," : "h,";
    operands.push_back(bits == 8 ? arith::ExtUIOp::create(b, e.loc, b.getI16Type(), word).getResult() : word);
  }
  operands.append({address, predicate});
  std::string text = "@$" + std::to_string(words.size() + 1) + " st.global" + widthSuffix(words.size(), bits) + " [$" +
                     std::to_string(words.size()) + " + " + std::to_string(bytes) + "], " +
                     operandList(0, words.size()) + ";";
  e.ptx(text, constraints + "l,b", Type(), operands, /*hasSideEffects=*/true);
}

//===- Where each register's element is ---------------------------------------------------------------------------===//

namespace {

class TileAccess {
public:
  TileAccess(Emitter &e, Value view, ValueRange offsets, ArrayRef<int32_t> dims, Type tile);

  struct Place {
    Value address; // i64
    int64_t bytes; // beyond it
  };
  Place place(int registerIndex);
  Value inBounds(int registerIndex);
  bool isDead(int registerIndex) { return layout && e.isDead(*layout, shape, registerIndex); }
  bool isReplica(int registerIndex) { return layout && registerIndex & layout->freeBits(reg); } // of a lower register
  int64_t run() const { return runLength; } // registers that one instruction may move
  Value runsAreWhole();                     // i1: no run straddles an edge, and all are aligned
  Value touchesRun(int registerIndex);      // i1: an element of the run that starts here may be in bounds
  // i32: how many of the `most` elements from this one on are in bounds, where the first is or none is.
  Value countInBounds(int registerIndex, int64_t most);
  Value isWhole(); // i1: all of the tile is in bounds
  // As place(), from the addresses of registers before it by one addition each: fewer instructions in a loop than the
  // induction variables that LLVM would make of them, and fewer registers.
  Place placeBySteps(int registerIndex);

  // What was computed so far, to be reset where control flow ends its scope.
  struct Computed {
    std::map<LinearLayout::Vector, Value> addresses, steps;
    std::map<std::pair<int, int32_t>, Value> bounds; // by tile dim and the register's coordinate
  };
  Computed &computed() { return cache; }

  int count; // registers

private:
  bool isFlat() const { return shape.empty(); }
  Value stepTo(LinearLayout::Vector own);

  Emitter &e;
  const ViewWords &view;
  ArrayRef<int32_t> dims;
  ArrayRef<int64_t> shape;
  const LinearLayout *layout = nullptr;
  int64_t bytes, runLength = 1;
  bool contiguous;
  Value origin;                     // i64 address of the thread's element in register 0
  SmallVector<Value> stride;        // i64, in bytes, a tile dim
  SmallVector<Value> low, span;     // i32, a tile dim: coordinates in [low, low + span) are in bounds
  Value lastHigh;                   // i32: low + span of the last dim
  SmallVector<Value> threadFromLow; // i32, a tile dim
  Value lowBits;                    // i32: of the last dim's offset and edges
  Value always;                     // i1, of a scalar: in bounds
  Computed cache;
};

} // namespace

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
  while (runLength > 1 && (runLength * bytes > aligned || shape.back() % runLength))
    runLength /= 2;
}

Value TileAccess::runsAreWhole() {
  return e.compare(arith::AndIOp::create(e.builder, e.loc, lowBits, e.i32(runLength - 1)), "eq", e.i32(0));
}

Value TileAccess::touchesRun(int r) {
  int last = int(shape.size()) - 1;
  Value first = e.coordinate(*layout, last, r);
  Value end = arith::AddIOp::create(e.builder, e.loc, first, e.i32(runLength));
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

//===- The two operations -----------------------------------------------------------------------------------------===//

LogicalResult nvptx::lower(Emitter &e, tile::LoadOp load) {
  OpBuilder &b = e.builder;
  Type element = tile::elementOf(load.getType());
  TileAccess access(e, load.getView(), load.getOffsets(), load.getDims(), load.getType());
  Value other = load.getOther() ? e.scalar(load.getOther()) : Value();
  int64_t run = access.run(), bytes = bytesOf(element);
  unsigned wordBits = unsigned(std::min<int64_t>(4, run * bytes) * 8);

  // The words of the run that starts at register r, by instructions that move `step` elements each.
  auto loadRun = [&](int r, int64_t step) {
    Registers singles;
    for (int64_t i = 0; i < run; i += step) {
      SmallVector<Value> otherWords;
      if (other)
        otherWords = packWords(e, SmallVector<Value>(step, other));
      auto [address, beyond] = access.place(r + i);
      size_t count = std::max<int64_t>(1, step * bytes / 4);
      SmallVector<Value> loaded = loadWords(e, address, beyond, access.inBounds(r + i), count,
                                            unsigned(std::min<int64_t>(4, step * bytes) * 8), otherWords);
      if (step == run)
        return loaded;
      singles.append(unpackWords(e, loaded, element, step));
    }
    return packWords(e, singles);
  };
  SmallVector<int> runs;
  for (int r = 0; r < access.count; r += int(run))
    if (!access.isDead(r)) {
      runs.push_back(r);
      access.place(r), access.inBounds(r); // computed here, so that both branches may use it
    }
  SmallVector<Value> words;
  SmallVector<Type> runTypes(std::max<int64_t>(1, run * bytes / 4), b.getIntegerType(wordBits));
  auto loadAll = [&](int64_t step) {
    SmallVector<Value> all;
    for (int r : runs) {
      if (step == run) {
        llvm::append_range(all, loadRun(r, step));
        continue;
      }
      // A branch a run: no run's elements are loaded ahead of another's, which would take many registers.
      auto branch =
          scf::IfOp::create(b, e.loc, runTypes, access.touchesRun(r), /*addThenBlock=*/true, /*addElseBlock=*/true);
      OpBuilder::InsertionGuard guard(b);
      auto saved = access.computed(); // what one branch computes is not there outside
      b.setInsertionPointToStart(&branch.getThenRegion().front());
      scf::YieldOp::create(b, e.loc, loadRun(r, step));
      access.computed() = saved;
      b.setInsertionPointToStart(&branch.getElseRegion().front());
      scf::YieldOp::create(b, e.loc, packWords(e, SmallVector<Value>(run, other ? other : e.zero(element))));
      llvm::append_range(all, branch.getResults());
    }
    return all;
  };
  if (run == 1 || runs.empty()) {
    words = loadAll(run);
  } else {
    SmallVector<Type> types;
    for (size_t i = 0; i < runs.size(); ++i)
      llvm::append_range(types, runTypes);
    auto branch =
        scf::IfOp::create(b, e.loc, types, access.runsAreWhole(), /*addThenBlock=*/true, /*addElseBlock=*/true);
    for (auto [region, step] :
         {std::pair(&branch.getThenRegion(), run), std::pair(&branch.getElseRegion(), int64_t(1))}) {
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(&region->front());
      auto saved = access.computed();
      scf::YieldOp::create(b, e.loc, loadAll(step));
      access.computed() = saved;
    }
    words.assign(branch.getResults().begin(), branch.getResults().end());
  }

  // The words wait for their use as they are: taking them apart here would wait for the memory.
  auto unpack = [&e, runs, words, element, run, count = access.count] {
    Registers registers(count, Value());
    size_t wordsPerRun = runs.empty() ? 0 : words.size() / runs.size();
    for (auto [i, r] : llvm::enumerate(runs)) {
      Registers elements = unpackWords(e, ArrayRef<Value>(words).slice(i * wordsPerRun, wordsPerRun), element, run);
      llvm::copy(elements, registers.begin() + r);
    }
    for (Value &value : registers)
      if (!value)
        value = e.zero(element);
    return registers;
  };
  if (isa<RankedTensorType>(load.getType()))
    e.putLazily(load, unpack);
  else
    e.put(load, unpack());
  return success();
}

// What lies outside the view is filled with zeros: a copy reads only as many bytes as it is told, and where that is
// none, no address. Offsets along the rows are multiples of a copy's size, so that no copy straddles a row's start.
void nvptx::copyToShared(Emitter &e, tile::LoadOp load, Value address) {
  OpBuilder &b = e.builder;
  e.loc = load.getLoc();
  auto shared = cast<RankedTensorType>(load.getType());
  CopyPlan plan = *planCopies(load, shared, e.warps());
  RankedTensorType type = withLayout(shared, plan.layout);
  const LinearLayout &layout = e.layout(type);
  TileAccess access(e, load.getView(), load.getOffsets(), load.getDims(), type);
  int64_t bytes = bytesOf(shared.getElementType()), size = plan.chunk * bytes;
  LinearLayout places = layout.compose(e.layout(shared).invert()); // in elements
  Value thread = e.threadImage(places, 0);
  int32_t threadBits = e.threadBits(places, 0);
  auto copyAll = [&](bool whole) {
    std::map<int32_t, Value> starts; // by the bits of an offset that the thread sets too
    for (int r = 0; r < access.count; r += int(plan.chunk)) {
      if (access.isReplica(r))
        continue;
      int32_t offset = places.apply({{reg, r}})[0], own = offset & threadBits;
      Value &to = starts[own];
      if (!to) {
        Value place = thread ? arith::XOrIOp::create(b, e.loc, thread, e.i32(own)).getResult() : e.i32(own);
        to = arith::AddIOp::create(b, e.loc, address, arith::MulIOp::create(b, e.loc, place, e.i32(bytes)));
      }
      auto [from, beyond] = access.placeBySteps(r);
      SmallVector<Value> operands{to, from};
      if (!whole)
        operands.push_back(arith::MulIOp::create(b, e.loc, access.countInBounds(r, plan.chunk), e.i32(bytes)));
      e.ptx(std::string("cp.async.") + (size == 16 ? "cg" : "ca") + ".shared.global [$0 + " +
                std::to_string((offset - own) * bytes) + "], [$1 + " + std::to_string(beyond) + "], " +
                std::to_string(size) + (whole ? ";" : ", $2;"),
            whole ? "r,l,~{memory}" : "r,l,r,~{memory}", Type(), operands, /*hasSideEffects=*/true);
    }
  };
  e.when(e.isFirstReplica(layout), [&] {
    auto branch = scf::IfOp::create(b, e.loc, access.isWhole(), /*withElseRegion=*/true);
    for (auto [region, whole] : {std::pair(&branch.getThenRegion(), true), std::pair(&branch.getElseRegion(), false)}) {
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(&region->front());
      auto saved = access.computed();
      copyAll(whole);
      access.computed() = saved;
    }
  });
}

// A thread's chunks of a tile lie each at [chunk][thread], so that a warp's are contiguous.
static int64_t chunkStride(Emitter &e) { return ownChunk * lanes * e.blockWarps(); }

int64_t nvptx::ownSlotBytes(Emitter &e, Type tile) {
  return e.registersOf(tile) * bytesOf(tile::elementOf(tile)) * lanes * e.blockWarps();
}

static Value ownPlace(Emitter &e, Value address) {
  OpBuilder &b = e.builder;
  Value thread = arith::AndIOp::create(b, e.loc, e.linearThreadId(), e.i32(lanes * e.blockWarps() - 1));
  return arith::AddIOp::create(b, e.loc, address, arith::MulIOp::create(b, e.loc, thread, e.i32(ownChunk)));
}

// A tile that reaches past an edge, and has something other than 0 there, comes by way of registers.
void nvptx::copyToOwnPlaces(Emitter &e, tile::LoadOp load, Value address) {
  OpBuilder &b = e.builder;
  e.loc = load.getLoc();
  auto type = cast<RankedTensorType>(load.getType());
  const int64_t bytes = bytesOf(type.getElementType()), chunk = ownChunk / bytes, stride = chunkStride(e);
  TileAccess access(e, load.getView(), load.getOffsets(), load.getDims(), type);
  const Value to = ownPlace(e, address);
  auto forChunks = [&](auto body) {
    for (int r = 0; r < access.count; r += int(chunk))
      if (!access.isDead(r))
        body(r, std::to_string(r / chunk * stride));
  };
  auto copyAll = [&](bool whole) {
    forChunks([&](int r, const std::string &offset) {
      auto [from, beyond] = access.placeBySteps(r);
      SmallVector<Value> operands{to, from};
      if (!whole)
        operands.push_back(arith::MulIOp::create(b, e.loc, access.countInBounds(r, chunk), e.i32(bytes)));
      e.ptx("cp.async.cg.shared.global [$0 + " + offset + "], [$1 + " + std::to_string(beyond) + "], 16" +
                (whole ? ";" : ", $2;"),
            whole ? "r,l,~{memory}" : "r,l,r,~{memory}", Type(), operands, /*hasSideEffects=*/true);
    });
  };
  auto branch = scf::IfOp::create(b, e.loc, access.isWhole(), /*withElseRegion=*/true);
  for (auto [region, whole] : {std::pair(&branch.getThenRegion(), true), std::pair(&branch.getElseRegion(), false)}) {
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(&region->front());
    auto saved = access.computed();
    if (whole || !load.getOther()) {
      copyAll(whole);
    } else {
      (void)lower(e, load);
      const Registers &values = e.get(load);
      forChunks([&](int r, const std::string &offset) {
        SmallVector<Value> operands = packWords(e, ArrayRef<Value>(values).slice(size_t(r), size_t(chunk)));
        operands.push_back(to);
        e.ptx("st.shared.v4.b32 [$4 + " + offset + "], {$0, $1, $2, $3};", "r,r,r,r,r,~{memory}", Type(), operands,
              /*hasSideEffects=*/true);
      });
    }
    access.computed() = saved;
  }
}

Registers nvptx::readOwnPlaces(Emitter &e, RankedTensorType type, Value address) {
  OpBuilder &b = e.builder;
  const Type element = type.getElementType(), word = b.getI32Type();
  const int64_t bytes = bytesOf(element), chunk = ownChunk / bytes, stride = chunkStride(e);
  const LinearLayout &layout = e.layout(type);
  const Value from = ownPlace(e, address);
  Registers registers;
  for (int r = 0; r < layout.inSize(reg); r += int(chunk)) {
    if (e.isDead(layout, type.getShape(), r)) {
      registers.append(size_t(chunk), e.zero(element));
      continue;
    }
    Value loaded = e.ptx("ld.shared.v4.b32 {$0, $1, $2, $3}, [$4 + " + std::to_string(r / chunk * stride) + "];",
                         "=r,=r,=r,=r,r,~{memory}",
                         LLVM::LLVMStructType::getLiteral(b.getContext(), SmallVector<Type>(4, word)), {from},
                         /*hasSideEffects=*/true);
    SmallVector<Value> words;
    for (int64_t i = 0; i < 4; ++i)
      words.push_back(LLVM::ExtractValueOp::create(b, e.loc, loaded, i));
    llvm::append_range(registers, unpackWords(e, words, element, chunk));
  }
  return registers;
}

// The tile with its registers in another order, those next to each other along its rows first, up to `wanted` elements.
// `values` and `type` become those of the new layout; they stay where nothing is gained.
static void sortRegisters(Emitter &e, Registers &values, RankedTensorType &type, int64_t wanted) {
  const LinearLayout layout = e.layout(type);
  const SmallVector<size_t> order = runFirst(layout, dimName(int(type.getRank()) - 1), wanted);
  if (llvm::is_sorted(order))
    return;
  const Registers before = values;
  for (size_t r = 0; r < values.size(); ++r)
    values[r] = before[registerBefore(r, order)];
  type = withLayout(type, withRegisterBits(layout, order));
}

// The tile with longer runs of registers along its rows, up to `wanted` elements: a quad of lanes that hold the next
// words of a row, as the fragments of tensor cores do, give each other whole runs, a shuffle a word. `values` and
// `type` become those of the new layout; they stay where nothing is gained.
static void lengthenRuns(Emitter &e, Registers &values, RankedTensorType &type, int64_t wanted) {
  OpBuilder &b = e.builder;
  const LinearLayout layout = e.layout(type);
  size_t last = size_t(type.getRank()) - 1;
  int64_t run = layout.contiguousRegisters(dimName(int(last)));
  if (run * bytesOf(type.getElementType()) != 4)
    return;
  std::vector<LinearLayout::InDim> ins = layout.ins();
  auto basesOf = [&](const char *name) -> std::vector<LinearLayout::Vector> & {
    return llvm::find_if(ins, [&](const LinearLayout::InDim &in) { return in.name == name; })->bases;
  };
  std::vector<LinearLayout::Vector> &registers = basesOf(reg), &lanesOf = basesOf(lane);
  auto alongRow = [&](const LinearLayout::Vector &basis) {
    int32_t sum = 0;
    for (size_t d = 0; d < last; ++d)
      sum |= basis[d];
    return sum ? 0 : basis[last];
  };
  SmallVector<Value> words = packWords(e, values);
  const size_t inWord = size_t(llvm::Log2_64(run)); // register bits
  size_t next = inWord;                             // the register bit that gets the lane's place
  for (int64_t place = run; place < wanted; place *= 2, ++next) {
    auto from = llvm::find_if(lanesOf, [&](const auto &basis) { return alongRow(basis) == place; });
    // Best a place further along the row, so that the quad goes on where the lane ends; else another row's.
    const auto rest = registers.begin() + long(std::min(next, registers.size()));
    auto to = std::find_if(rest, registers.end(), [&](const auto &basis) { return alongRow(basis) > place; });
    if (to == registers.end())
      to = std::find_if(rest, registers.end(),
                        [&](const auto &basis) { return llvm::any_of(basis, [](int32_t x) { return x != 0; }); });
    if (from == lanesOf.end() || to == registers.end())
      break;
    const size_t bit = size_t{1} << (size_t(to - registers.begin()) - inWord), first = size_t{1} << (next - inWord);
    const int mask = 1 << (from - lanesOf.begin());
    Value isUpper = e.compare(arith::AndIOp::create(b, e.loc, e.laneId(), e.i32(mask)), "ne", e.i32(0));
    SmallVector<Value> moved(words.size());
    for (size_t w = 0; w < words.size(); ++w) {
      if (w & bit)
        continue;
      Value low = words[w], high = words[w | bit];
      Value other = e.shuffleXor(e.select(isUpper, low, high), mask);
      // Where the register's bit moves to `first`, and those between one up.
      auto placed = [&](size_t index) {
        size_t between = index & (bit - 1) & ~(first - 1);
        return (index & (first - 1)) | (index & bit ? first : 0) | between << 1 | (index & ~(2 * bit - 1));
      };
      moved[placed(w)] = e.select(isUpper, other, low);
      moved[placed(w | bit)] = e.select(isUpper, high, other);
    }
    words = std::move(moved);
    std::swap(*from, *to);
    std::rotate(registers.begin() + long(next), to, to + 1);
  }
  if (next == inWord)
    return;
  values = unpackWords(e, words, type.getElementType(), int64_t(values.size()));
  type = withLayout(type, LinearLayout(ins, layout.outs()));
}

LogicalResult nvptx::lower(Emitter &e, tile::StoreOp store) {
  if (lowerStaged(e, store))
    return success();
  OpBuilder &b = e.builder;
  Type type = store.getValue().getType();
  Registers values = e.get(store.getValue());
  auto viewType = cast<tile::ViewType>(store.getView().getType());
  if (auto tile = dyn_cast<RankedTensorType>(type);
      tile && !viewType.getStrided() && store.getDims().back() == viewType.getRank() - 1) {
    int64_t alignment = alignmentOf(store.getView());
    const int64_t wanted = std::min<int64_t>(16, alignment & -alignment) / bytesOf(tile.getElementType());
    sortRegisters(e, values, tile, wanted);
    lengthenRuns(e, values, tile, wanted);
    type = tile;
  }
  TileAccess access(e, store.getView(), store.getOffsets(), store.getDims(), type);
  Value once =
      isa<RankedTensorType>(type) ? e.isFirstReplica(e.layout(type)) : e.compare(e.linearThreadId(), "eq", e.i32(0));
  int64_t run = access.run();
  SmallVector<int> runs;
  SmallVector<SmallVector<Value>> words;
  for (int r = 0; r < access.count; r += int(run))
    if (!access.isDead(r) && !access.isReplica(r)) {
      runs.push_back(r);
      access.place(r), access.inBounds(r);
      words.push_back(packWords(e, ArrayRef<Value>(values).slice(r, run)));
    }
  auto storeAll = [&](int64_t step) {
    for (auto [i, r] : llvm::enumerate(runs)) {
      auto saved = access.computed();
      e.when(step == run ? Value() : access.touchesRun(r), [&] {
        Registers singles = step == run ? Registers() : unpackWords(e, words[i], values[r].getType(), run);
        for (int64_t s = 0; s < run; s += step) {
          auto [address, beyond] = access.place(r + s);
          Value predicate = e.both(access.inBounds(r + s), once);
          storeWords(e, address, beyond, predicate, step == run ? words[i] : packWords(e, singles[s]));
        }
      });
      access.computed() = saved;
    }
  };
  if (run == 1 || runs.empty()) {
    storeAll(run);
    return success();
  }
  auto branch = scf::IfOp::create(b, e.loc, access.runsAreWhole(), /*withElseRegion=*/true);
  for (auto [region, step] :
       {std::pair(&branch.getThenRegion(), run), std::pair(&branch.getElseRegion(), int64_t(1))}) {
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(&region->front());
    auto saved = access.computed();
    storeAll(step);
    access.computed() = saved;
  }
  return success();
}
