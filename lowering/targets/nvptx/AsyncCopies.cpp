// Copies from global to shared memory that threads do not wait for (cp.async): of tiles that the block shares, and of
// a thread's own elements.
#include "bitloom/lowering/targets/nvptx/Rewrites.h"
#include "bitloom/lowering/targets/nvptx/TileAccess.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/SCF/IR/SCF.h"

using namespace mlir;
using namespace bitloom;
using namespace bitloom::nvptx;

// `size` bytes, 4, 8 or 16, to [to + offset]. Where `condition` holds, i1; or with zeros after the first `given` ones,
// i32. One of them is null, or both.
static void copyChunk(Emitter &e, Value to, int64_t offset, TileAccess::Place from, int64_t size, Value condition,
                      Value given) {
  SmallVector<Value> operands{to, from.address};
  if (Value last = condition ? condition : given)
    operands.push_back(last);
  const char *constraints = condition ? "r,l,b,~{memory}" : given ? "r,l,r,~{memory}" : "r,l,~{memory}";
  e.ptx(std::string(condition ? "@$2 " : "") + "cp.async." + (size == 16 ? "cg" : "ca") + ".shared.global [$0 + " +
            std::to_string(offset) + "], [$1 + " + std::to_string(from.bytes) + "], " + std::to_string(size) +
            (given ? ", $2;" : ";"),
        constraints, Type(), operands, /*hasSideEffects=*/true);
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
      const TileAccess::Place from = access.placeBySteps(r);
      Value given;
      if (!whole)
        given = arith::MulIOp::create(b, e.loc, access.countInBounds(r, plan.chunk), e.i32(bytes));
      copyChunk(e, to, (offset - own) * bytes, from, size, Value(), given);
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
static int64_t chunkStride(Emitter &e, int64_t chunk) { return chunk * lanes * e.blockWarps(); }

int64_t nvptx::ownSlotBytes(Emitter &e, Type tile) {
  return e.registersOf(tile) * bytesOf(tile::elementOf(tile)) * lanes * e.blockWarps();
}

static Value ownPlace(Emitter &e, Value address, int64_t chunk) {
  OpBuilder &b = e.builder;
  Value thread = arith::AndIOp::create(b, e.loc, e.linearThreadId(), e.i32(lanes * e.blockWarps() - 1));
  return arith::AddIOp::create(b, e.loc, address, arith::MulIOp::create(b, e.loc, thread, e.i32(chunk)));
}

// Of an instruction for 1, 2 or 4 words: its ".v2", their list in the template, their constraints.
static std::tuple<std::string, std::string, std::string> wordsForm(size_t count, const std::string &constraint) {
  std::string list = "$0", constraints = constraint;
  for (size_t i = 1; i < count; ++i) {
    list += ", $" + std::to_string(i);
    constraints += "," + constraint;
  }
  if (count == 1)
    return {"", list, constraints};
  return {".v" + std::to_string(count), "{" + list + "}", constraints};
}

// Of a tile that reaches past an edge, and has something other than 0 there, chunks come asynchronously, too, or are
// that and nothing else; those at the edge itself come by way of registers.
void nvptx::copyToOwnPlaces(Emitter &e, tile::LoadOp load, Value address) {
  OpBuilder &b = e.builder;
  e.loc = load.getLoc();
  auto type = cast<RankedTensorType>(load.getType());
  const int64_t bytes = bytesOf(type.getElementType()), size = ownChunk(type, e.layout(type)), chunk = size / bytes,
                stride = chunkStride(e, size);
  TileAccess access(e, load.getView(), load.getOffsets(), load.getDims(), type);
  const Value to = ownPlace(e, address, size);
  auto forChunks = [&](auto body) {
    for (int r = 0; r < access.count; r += int(chunk))
      if (!access.isDead(r))
        body(r, r / chunk * stride);
  };
  auto store = [&](ValueRange elements, int64_t offset, Value condition) {
    SmallVector<Value> operands = packWords(e, elements);
    const size_t count = operands.size();
    const auto [vector, words, constraints] = wordsForm(count, "r");
    operands.append({to, condition});
    e.ptx("@$" + std::to_string(count + 1) + " st.shared" + vector + ".b32 [$" + std::to_string(count) + " + " +
              std::to_string(offset) + "], " + words + ";",
          constraints + ",r,b,~{memory}", Type(), operands, /*hasSideEffects=*/true);
  };
  auto copyWhole = [&] {
    forChunks([&](int r, int64_t offset) { copyChunk(e, to, offset, access.placeBySteps(r), size, Value(), Value()); });
  };
  auto copyInBounds = [&] {
    forChunks([&](int r, int64_t offset) {
      const TileAccess::Place from = access.placeBySteps(r);
      Value given = arith::MulIOp::create(b, e.loc, access.countInBounds(r, chunk), e.i32(bytes));
      copyChunk(e, to, offset, from, size, Value(), given);
    });
  };
  auto copyBesideOther = [&] {
    const SmallVector<Value> others(size_t(chunk), e.scalar(load.getOther()));
    SmallVector<std::pair<Value, int64_t>> atEdge; // whether a chunk is, and its place
    Value anyAtEdge;
    forChunks([&](int r, int64_t offset) {
      const TileAccess::Place from = access.placeBySteps(r);
      Value count = access.countInBounds(r, chunk), isWhole = e.compare(count, "eq", e.i32(chunk));
      copyChunk(e, to, offset, from, size, isWhole, Value());
      Value isNone = e.compare(count, "sle", e.i32(0));
      store(others, offset, isNone);
      if (chunk == 1)
        return;
      Value isPart = arith::XOrIOp::create(b, e.loc, arith::OrIOp::create(b, e.loc, isWhole, isNone), e.truth(true));
      atEdge.push_back({isPart, offset});
      anyAtEdge = anyAtEdge ? arith::OrIOp::create(b, e.loc, anyAtEdge, isPart).getResult() : isPart;
    });
    if (!anyAtEdge)
      return;
    e.when(anyAtEdge, [&] {
      (void)lower(e, load);
      const Registers values = e.get(load);
      auto part = atEdge.begin();
      forChunks([&](int r, int64_t) {
        store(ArrayRef<Value>(values).slice(size_t(r), size_t(chunk)), part->second, part->first);
        ++part;
      });
    });
  };
  auto branch = scf::IfOp::create(b, e.loc, access.isWhole(), /*withElseRegion=*/true);
  for (auto [region, whole] : {std::pair(&branch.getThenRegion(), true), std::pair(&branch.getElseRegion(), false)}) {
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(&region->front());
    auto saved = access.computed();
    whole ? copyWhole() : load.getOther() ? copyBesideOther() : copyInBounds();
    access.computed() = saved;
  }
}

Registers nvptx::readOwnPlaces(Emitter &e, RankedTensorType type, Value address) {
  OpBuilder &b = e.builder;
  const Type element = type.getElementType(), word = b.getI32Type();
  const int64_t size = ownChunk(type, e.layout(type)), chunk = size / bytesOf(element), stride = chunkStride(e, size),
                count = size / 4;
  const auto [vector, places, constraints] = wordsForm(size_t(count), "=r");
  const LinearLayout &layout = e.layout(type);
  const Value from = ownPlace(e, address, size);
  Registers registers;
  for (int r = 0; r < layout.inSize(reg); r += int(chunk)) {
    if (e.isDead(layout, type.getShape(), r)) {
      registers.append(size_t(chunk), e.zero(element));
      continue;
    }
    Type result = word;
    if (count > 1)
      result = LLVM::LLVMStructType::getLiteral(b.getContext(), SmallVector<Type>(size_t(count), word));
    Value loaded = e.ptx("ld.shared" + vector + ".b32 " + places + ", [$" + std::to_string(count) + " + " +
                             std::to_string(r / chunk * stride) + "];",
                         constraints + ",r,~{memory}", result, {from}, /*hasSideEffects=*/true);
    SmallVector<Value> words;
    for (int64_t i = 0; i < count; ++i)
      words.push_back(count > 1 ? LLVM::ExtractValueOp::create(b, e.loc, loaded, i) : loaded);
    llvm::append_range(registers, unpackWords(e, words, element, chunk));
  }
  return registers;
}
