// Warps with roles, and the rings between them.
//
// A block stays while programs are left, and each role goes through them by itself: blocks take every n-th program of
// an order in which those that run together share rows and columns of tiles, and so find each other's reads in the L2
// cache. A ring is a number of slots with two mbarriers each: `full`, on which the copy engine counts the bytes that
// arrived, and `empty`, at which each consuming warp arrives. Position and phase of a ring are variables of the thread.
//
// In a block without roles all threads fill the ring (PrefetchLoads.cpp): each waits for its own copies, then all for
// each other.
#include "bitloom/lib/support/Error.h"
#include "bitloom/lowering/dialect/Multicast.h"
#include "bitloom/lowering/targets/nvptx/Emitter.h"
#include "bitloom/lowering/targets/nvptx/Mma.h"
#include "bitloom/lowering/targets/nvptx/Multicast.h"
#include "bitloom/lowering/targets/nvptx/Rewrites.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/LLVMIR/NVVMDialect.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace bitloom;
using namespace bitloom::nvptx;

//===- Tensor maps ------------------------------------------------------------------------------------------------===//

static int64_t tileBytes(Type tile) {
  return ShapedType::getNumElements(tile::shapeOf(tile)) * bytesOf(tile::elementOf(tile));
}

static DType storageOf(Type element) {
  if (element.isF16())
    return DType::f16;
  if (element.isBF16())
    return DType::bf16;
  if (element.isF32())
    return DType::f32;
  switch (element.getIntOrFloatBitWidth()) {
  case 8:
    return DType::u8;
  case 16:
    return DType::u16;
  default:
    return DType::i32;
  }
}

void Emitter::collectTensorMaps() {
  DenseMap<Value, int> wordOf;
  int word = 0;
  for (BlockArgument argument : kernel.getArguments()) {
    wordOf[argument] = word;
    auto view = dyn_cast<tile::ViewType>(argument.getType());
    word += view ? 1 + 2 * int(view.getRank()) : 1;
  }
  auto request = [&](Operation *op, Value view, ArrayRef<int32_t> dims, int64_t inner, int64_t lines, int swizzle) {
    auto type = cast<tile::ViewType>(view.getType());
    int rank = int(type.getRank());
    TensorMapRequest wanted{wordOf.at(view), rank, storageOf(type.getElementType()), std::vector<int32_t>(rank, 1),
                            swizzle};
    wanted.box[rank - 1 - dims[0]] = int32_t(lines);
    wanted.box[0] = int32_t(inner);
    auto found = llvm::find(requests, wanted);
    mapOf[op] = int(found - requests.begin());
    if (found == requests.end())
      requests.push_back(wanted);
  };
  kernel.walk([&](Operation *op) {
    if (auto load = dyn_cast<tile::LoadOp>(op); load && isShared(load.getType())) {
      ArrayRef<int64_t> shape = tile::shapeOf(load.getType());
      auto form = sharedFormOf(layout(load.getType()), shape, int(bytesOf(tile::elementOf(load.getType()))));
      const int64_t lines = partOf(load, *form, clusterSize).lines;
      request(op, load.getView(), load.getDims(), form->inner, std::min<int64_t>(lines, mostLines), form->swizzle);
    } else if (auto store = dyn_cast<tile::StoreOp>(op)) {
      if (auto boxes = staged(store))
        request(op, store.getView(), store.getDims(), boxes->columns, boxes->rows, 128);
    }
  });
}

void Emitter::describeTensorMaps() {
  MLIRContext *context = builder.getContext();
  SmallVector<Attribute> described;
  int first = int(function.getNumArguments() - requests.size());
  for (auto [i, wanted] : llvm::enumerate(requests)) {
    auto number = [&](StringRef name, int value) {
      return builder.getNamedAttr(name, builder.getI32IntegerAttr(value));
    };
    described.push_back(builder.getDictionaryAttr(
        {number("word", wanted.word), number("rank", wanted.rank), number("dtype", int(wanted.dtype)),
         number("swizzle", wanted.swizzle), builder.getNamedAttr("box", builder.getDenseI32ArrayAttr(wanted.box))}));
    int at = first + int(i);
    auto bytes = LLVM::LLVMArrayType::get(builder.getI8Type(), unsigned(tensorMapBytes));
    function.setArgAttr(at, LLVM::LLVMDialect::getByValAttrName(), TypeAttr::get(bytes));
    function.setArgAttr(at, LLVM::LLVMDialect::getAlignAttrName(), builder.getI64IntegerAttr(64));
    function.setArgAttr(at, NVVM::NVVMDialect::getGridConstantAttrName(), UnitAttr::get(context));
  }
  if (!described.empty())
    function->setAttr(tile::tensorMapsAttr, builder.getArrayAttr(described));
  if (isSpecialized)
    function->setAttr(tile::persistentAttr, builder.getUnitAttr());
}

Value Emitter::tensorMap(Operation *access) {
  return function.getArgument(unsigned(function.getNumArguments() - requests.size()) + mapOf.at(access));
}

//===- Barriers in shared memory ----------------------------------------------------------------------------------===//

Value Emitter::localWord() {
  OpBuilder::InsertionGuard guard(builder);
  builder.setInsertionPoint(prologueEnd);
  Value word = LLVM::AllocaOp::create(builder, loc, LLVM::LLVMPointerType::get(builder.getContext()),
                                      builder.getI32Type(), i32(1));
  LLVM::StoreOp::create(builder, loc, i32(0), word);
  return word;
}

static Value readWord(Emitter &e, Value word) {
  return LLVM::LoadOp::create(e.builder, e.loc, e.builder.getI32Type(), word);
}

// To the ring's next slot, or the `by`-th from here; the phase, where there is one, turns at its end.
static void advance(Emitter &e, Value slotWord, Value phaseWord, int stages, int by = 1) {
  Value next = arith::AddIOp::create(e.builder, e.loc, readWord(e, slotWord), e.i32(by));
  Value wraps = e.compare(next, by == 1 ? "eq" : "uge", e.i32(stages));
  Value start = by == 1 ? e.i32(0) : arith::SubIOp::create(e.builder, e.loc, next, e.i32(stages)).getResult();
  LLVM::StoreOp::create(e.builder, e.loc, e.select(wraps, start, next), slotWord);
  if (!phaseWord)
    return;
  Value phase = readWord(e, phaseWord);
  Value turned = arith::XOrIOp::create(e.builder, e.loc, phase, e.i32(1));
  LLVM::StoreOp::create(e.builder, e.loc, e.select(wraps, turned, phase), phaseWord);
}

// first + slot · stride
static Value slotAddress(Emitter &e, int64_t first, Value slot, int64_t stride) {
  Value beyond = arith::MulIOp::create(e.builder, e.loc, slot, e.i32(stride));
  return arith::AddIOp::create(e.builder, e.loc, e.sharedAt(first), beyond);
}

void Emitter::waitFor(Value barrier, Value parity) {
  ptx("{\n\t.reg .pred done;\n\tWAIT:\n\tmbarrier.try_wait.parity.shared::cta.b64 done, [$0], $1;\n\t"
      "@done bra DONE;\n\tbra WAIT;\n\tDONE:\n\t}",
      "r,r,~{memory}", Type(), {barrier, parity}, /*hasSideEffects=*/true);
}

void Emitter::initialiseBarrier(Value barrier, int arrivals) {
  ptx("mbarrier.init.shared::cta.b64 [$0], " + std::to_string(arrivals) + ";", "r,~{memory}", Type(), {barrier},
      /*hasSideEffects=*/true);
}

// All slots before all barriers: between slots these would each take up a slot's alignment.
void Emitter::allocateRings() {
  kernel.walk([&](tile::RingOp op) {
    Ring &ring = rings[op.getRing()];
    ring.stages = int(op.getStages());
    ring.slotBytes = ring.copiedBytes = 0;
    for (Type type : op.getRing().getType().getTiles()) {
      int64_t bytes = isShared(type) ? tileBytes(type) : ownSlotBytes(*this, type);
      ring.tileOffsets.push_back(ring.slotBytes);
      ring.slotBytes += llvm::alignTo(bytes, sharedAlignment);
      ring.copiedBytes += bytes;
    }
    SmallVector<Cost> costs; // each tile's at the line that loads it
    auto fill = llvm::find_if(op->getUsers(), [](Operation *user) { return isa<tile::FillOp>(user); });
    for (auto [i, type] : llvm::enumerate(op.getRing().getType().getTiles())) {
      int64_t end = i + 1 < ring.tileOffsets.size() ? ring.tileOffsets[i + 1] : ring.slotBytes;
      Location where = fill == op->user_end()
                           ? op.getLoc()
                           : cast<tile::FillOp>(*fill).getBody().front().getTerminator()->getOperand(i).getLoc();
      costs.push_back(
          {where, (end - ring.tileOffsets[i]) * ring.stages, std::to_string(ring.stages) + " of " + describe(type)});
    }
    ring.slots = reserve(ring.slotBytes * ring.stages, sharedAlignment, costs);
  });
  int64_t inTurn = 0; // boxes of a store, or of all its pieces
  kernel.walk([&](tile::StoreOp store) {
    std::optional<StagedStore> boxes = staged(store);
    if (!boxes)
      return;
    if (!isLaterPiece(store)) {
      stagedEvenly &= inTurn % 2 == 0;
      inTurn = 0;
    }
    inTurn += boxes->boxes;
    if (staging < 0) {
      int64_t bytes = storeStagingBytes(kernel);
      staging = reserve(bytes, sharedAlignment, Cost{store.getLoc(), bytes, "what is stored on its way"});
      stagedBox = bytes / (consumers * warpCount / warpsPerGroup * 2);
    }
  });
  stagedEvenly &= inTurn % 2 == 0;
  if (!isSpecialized)
    return;
  kernel.walk([&](tile::RingOp op) {
    Ring &ring = rings[op.getRing()];
    ring.full = reserve(8 * ring.stages, 8, {});
    ring.empty = reserve(8 * ring.stages, 8, {});
  });
}

// The bytes of a slot that each warp of the producer asks for, a thread of it: one warp, or of a product with unpacked
// values, whose slots are small boxes, up to four in turn. One thread takes some 100 cycles for a box.
static SmallVector<int64_t> fillingWarps(Emitter &e, tile::FillOp fill) {
  auto func = fill->getParentOfType<func::FuncOp>();
  if (unpackedDots(func).empty() || clusterAxis(fill))
    return {e.ring(fill.getRing()).copiedBytes};
  SmallVector<int64_t> bytes;
  int next = 0;
  for (Value tile : cast<tile::YieldOp>(fill.getBody().front().getTerminator()).getValues()) {
    auto load = tile.getDefiningOp<tile::LoadOp>();
    const int64_t each = bytesOf(tile::elementOf(load.getType()));
    const SharedForm form = *sharedFormOf(e.layout(load.getType()), tile::shapeOf(load.getType()), int(each));
    const CopyPart part = partOf(load, form, e.clusterBlocks());
    for (int64_t box = 0; box < part.boxes; ++box)
      for (int64_t line = 0; line < part.lines; line += mostLines, ++next) {
        if (next < warpsPerGroup)
          bytes.push_back(0);
        bytes[next % warpsPerGroup] += std::min(mostLines, part.lines - line) * form.inner * each;
      }
  }
  return bytes;
}

LogicalResult nvptx::lower(Emitter &e, tile::RingOp op) {
  Emitter::Ring &ring = e.ring(op.getRing());
  for (Value *word : {&ring.fillSlot, &ring.fillPhase, &ring.frontSlot, &ring.frontPhase, &ring.popSlot})
    *word = e.localWord();
  if (e.stepGroups() > 1)
    ring.startSlot = e.localWord(), ring.startPhase = e.localWord();
  if (!e.hasRoles())
    return success();
  const int readers = e.warps() * (clusterAxis(op) ? e.clusterBlocks() : 1);
  auto fill = cast<tile::FillOp>(*llvm::find_if(op->getUsers(), llvm::IsaPred<tile::FillOp>));
  const int writers = int(fillingWarps(e, fill).size());
  // By one thread of a warp each, and of another than what describes the copies.
  for (auto [thread, first, arrivals] : {std::tuple(0, ring.full, writers), std::tuple(2 * lanes, ring.empty, readers)})
    e.when(e.compare(e.linearThreadId(), "eq", e.i32(thread)), [&] {
      for (int stage = 0; stage < ring.stages; ++stage)
        e.initialiseBarrier(e.sharedAt(first + 8 * stage), arrivals);
    });
  return success();
}

//===- The producer -----------------------------------------------------------------------------------------------===//

// One box from global memory to shared memory; `coordinates` innermost first. To the same place in all blocks of the
// cluster, and signalling the barrier at the same place in each, or to this one's only.
static void copyBox(Emitter &e, Value map, ValueRange coordinates, Value address, Value barrier,
                    bool isForAll = false) {
  std::string text = "cp.async.bulk.tensor." + std::to_string(coordinates.size()) +
                     "d.shared::cluster.global.tile.mbarrier::complete_tx::bytes" +
                     (isForAll ? ".multicast::cluster" : "") + " [$0], [$1, {";
  std::string constraints = "r,l,r";
  SmallVector<Value> operands{address, map, barrier};
  for (auto [i, coordinate] : llvm::enumerate(coordinates)) {
    text += (i ? ", $" : "$") + std::to_string(3 + i);
    constraints += ",r";
    operands.push_back(coordinate);
  }
  text += "}], [$2]";
  if (isForAll) {
    text += ", $" + std::to_string(operands.size());
    constraints += ",h";
    const int blocks = (1 << e.clusterBlocks()) - 1; // a bit each
    operands.push_back(arith::ConstantOp::create(e.builder, e.loc, e.builder.getI16IntegerAttr(int16_t(blocks))));
  }
  e.ptx(text + ";", constraints + ",~{memory}", Type(), operands, /*hasSideEffects=*/true);
}

// In 32 bits. What lies beyond them lies outside of every view, whose extents are below 2^31, and becomes one place
// before all of them; so does all of a view without elements, whose tensor map has an extent of 1.
SmallVector<Value> nvptx::copyCoordinates(Emitter &e, Value view, ValueRange offsets) {
  OpBuilder &b = e.builder;
  SmallVector<Value> coordinates(offsets.size());
  const Type word = b.getI32Type();
  constexpr int64_t before = -(int64_t{1} << 30);
  for (auto [d, offset] : llvm::enumerate(offsets)) {
    Value hasElements = e.compare(e.view(view).extents[d], "ne", e.i64(0)), whole = e.scalar(offset);
    Value low = arith::TruncIOp::create(b, e.loc, word, whole);
    Value high = arith::TruncIOp::create(b, e.loc, word, arith::ShRSIOp::create(b, e.loc, whole, e.i64(32)));
    Value fits = e.compare(high, "eq", arith::ShRSIOp::create(b, e.loc, low, e.i32(31)));
    Value isInside = arith::AndIOp::create(b, e.loc, fits, hasElements);
    coordinates[offsets.size() - 1 - d] = e.select(isInside, low, e.i32(before));
  }
  return coordinates;
}

// A tile; where blocks share it, this block's part. `isOwn`: of each box, whether it is to be copied here.
static void copyTile(Emitter &e, tile::LoadOp load, const SharedForm &form, Value address, Value barrier,
                     llvm::function_ref<bool()> isOwn) {
  OpBuilder &b = e.builder;
  const int64_t bytes = bytesOf(tile::elementOf(load.getType()));
  SmallVector<Value> coordinates = copyCoordinates(e, load.getView(), load.getOffsets());
  int lineDim = int(coordinates.size()) - 1 - load.getDims()[0];
  const CopyPart part = partOf(load, form, e.clusterBlocks());
  const bool isInParts = load->hasAttr(tile::inPartsAttr);
  if (isInParts) {
    Value block = e.clusterRank();
    auto beyond = [&](Value from, int64_t each) -> Value {
      return arith::AddIOp::create(b, e.loc, from, arith::MulIOp::create(b, e.loc, block, e.i32(each)));
    };
    const bool isOfBoxes = part.boxes < form.boxes;
    Value &from = coordinates[isOfBoxes ? 0 : lineDim];
    from = beyond(from, isOfBoxes ? part.boxes * form.inner : part.lines);
    address = beyond(address, (isOfBoxes ? part.boxes * form.lines : part.lines) * form.swizzle);
  }
  for (int64_t box = 0; box < part.boxes; ++box)
    for (int64_t line = 0; line < part.lines; line += mostLines) {
      if (!isOwn())
        continue;
      SmallVector<Value> at(coordinates);
      if (box)
        at[0] = arith::AddIOp::create(b, e.loc, at[0], e.i32(box * form.inner));
      if (line)
        at[lineDim] = arith::AddIOp::create(b, e.loc, at[lineDim], e.i32(line));
      Value to = arith::AddIOp::create(b, e.loc, address, e.i32((box * form.lines + line) * form.inner * bytes));
      copyBox(e, e.tensorMap(load), at, to, barrier, isInParts);
    }
}

LogicalResult nvptx::lower(Emitter &e, tile::FillOp fill) {
  OpBuilder &b = e.builder;
  Emitter::Ring &ring = e.ring(fill.getRing());
  Value slot = readWord(e, ring.fillSlot);
  if (!e.hasRoles()) {
    auto yield = cast<tile::YieldOp>(fill.getBody().front().getTerminator());
    for (auto [tile, tileOffset] : llvm::zip(yield.getValues(), ring.tileOffsets))
      (isShared(tile.getType()) ? copyToShared : copyToOwnPlaces)(
          e, tile.getDefiningOp<tile::LoadOp>(), slotAddress(e, ring.slots + tileOffset, slot, ring.slotBytes));
    advance(e, ring.fillSlot, Value(), ring.stages);
    return success();
  }
  const SmallVector<int64_t> shares = fillingWarps(e, fill);
  if (e.fillingWarp() >= int(shares.size()))
    return success();
  Value other = arith::XOrIOp::create(b, e.loc, readWord(e, ring.fillPhase), e.i32(1));
  e.waitFor(slotAddress(e, ring.empty, slot, 8), other);
  Value full = slotAddress(e, ring.full, slot, 8);
  int next = 0;
  auto isOwn = [&] { return next++ % int(shares.size()) == e.fillingWarp(); };
  auto yield = cast<tile::YieldOp>(fill.getBody().front().getTerminator());
  e.ptx("mbarrier.arrive.expect_tx.shared::cta.b64 _, [$0], " + std::to_string(shares[size_t(e.fillingWarp())]) + ";",
        "r,~{memory}", Type(), {full}, /*hasSideEffects=*/true);
  for (auto [tile, tileOffset] : llvm::zip(yield.getValues(), ring.tileOffsets)) {
    auto load = tile.getDefiningOp<tile::LoadOp>();
    e.loc = load.getLoc();
    int64_t bytes = bytesOf(tile::elementOf(load.getType()));
    SharedForm form = *sharedFormOf(e.layout(load.getType()), tile::shapeOf(load.getType()), int(bytes));
    Value address = slotAddress(e, ring.slots + tileOffset, slot, ring.slotBytes);
    copyTile(e, load, form, address, full, isOwn);
  }
  advance(e, ring.fillSlot, ring.fillPhase, ring.stages);
  return success();
}

//===- The consumers ----------------------------------------------------------------------------------------------===//

// Past transposes.
static bool isReadByWgmma(Emitter &e, Value tile) {
  return llvm::any_of(tile.getUsers(), [&](Operation *user) {
    if (auto dot = dyn_cast<tile::DotOp>(user))
      return planWgmma(dot, e.target, e.warps()).has_value();
    return isa<tile::TransposeOp>(user) && isReadByWgmma(e, user->getResult(0));
  });
}

static void awaitFront(Emitter &e, tile::FrontOp front, Emitter::Ring &ring) {
  ring.front = readWord(e, ring.frontSlot);
  if (e.hasRoles()) {
    e.waitFor(slotAddress(e, ring.full, ring.front, 8), readWord(e, ring.frontPhase));
  } else {
    if (ring.stages > 1) // else what it waits for is among the copies of another's first step
      e.ptx("cp.async.wait_group " + std::to_string(ring.stages - 2) + ";", "~{memory}", Type(), {}, true);
    if (llvm::any_of(front.getTiles(), [&](Value tile) { return isReadByWgmma(e, tile); }))
      e.ptx("fence.proxy.async.shared::cta;", "~{memory}", Type(), {}, /*hasSideEffects=*/true);
    if (llvm::any_of(front.getTiles(), [](Value tile) { return isShared(tile.getType()); }))
      e.barrier();
  }
  advance(e, ring.frontSlot, e.hasRoles() ? ring.frontPhase : Value(), ring.stages, e.stepGroups());
}

LogicalResult nvptx::lower(Emitter &e, tile::FrontOp front) {
  Emitter::Ring &ring = e.ring(front.getRing());
  if (!front->hasAttr(againAttr))
    awaitFront(e, front, ring);
  for (auto [tile, tileOffset] : llvm::zip(front.getTiles(), ring.tileOffsets)) {
    Value address = slotAddress(e, ring.slots + tileOffset, ring.front, ring.slotBytes);
    if (isShared(tile.getType()))
      e.putShared(tile, address);
    else if (!tile.use_empty())
      e.put(tile, readOwnPlaces(e, cast<RankedTensorType>(tile.getType()), address));
  }
  return success();
}

// Whether threads read tiles of the ring themselves, beside what the tensor cores do.
static bool isReadByThreads(Value ring) {
  return llvm::any_of(ring.getUsers(), [](Operation *user) {
    return isa<tile::FrontOp>(user) && llvm::any_of(user->getUsers(), llvm::IsaPred<tile::ConvertLayoutOp>);
  });
}

// Whether each slot of the ring is given back in the iteration that has it, so that the first one there is is the next
// one to give back.
static bool isPoppedAtOnce(Value ring) {
  return llvm::all_of(ring.getUsers(), [&](Operation *user) {
    auto pop = dyn_cast<tile::PopOp>(user);
    if (!pop)
      return true;
    auto fronts = llvm::make_filter_range(pop->getBlock()->getOps<tile::FrontOp>(),
                                          [&](tile::FrontOp front) { return front.getRing() == ring; });
    return !pop.getCondition() && llvm::hasSingleElement(fronts) && (*fronts.begin())->isBeforeInBlock(pop);
  });
}

LogicalResult nvptx::lower(Emitter &e, tile::PopOp pop) {
  Emitter::Ring &ring = e.ring(pop.getRing());
  e.when(pop.getCondition() ? e.scalar(pop.getCondition()) : Value(), [&] {
    const bool isAtOnce = isPoppedAtOnce(pop.getRing());
    Value barrier = slotAddress(e, ring.empty, isAtOnce ? ring.front : readWord(e, ring.popSlot), 8);
    const bool isForAll = clusterAxis(pop).has_value();
    // The rest of the warp has passed the same wait. Of slots that blocks fill for each other, a lane tells each block.
    // It has read the slot, and written nothing that others read: a release for the cluster would wait for all stores.
    Value arrives =
        isForAll ? e.compare(e.laneId(), "ult", e.i32(e.clusterBlocks())) : e.compare(e.laneId(), "eq", e.i32(0));
    if (isReadByThreads(pop.getRing()))
      e.ptx("bar.warp.sync -1;", "~{memory}", Type(), {}, /*hasSideEffects=*/true);
    if (isForAll)
      e.ptx("{\n\t.reg .b32 there;\n\t@$1 mapa.shared::cluster.u32 there, $0, $2;\n\t"
            "@$1 mbarrier.arrive.shared::cluster.b64 _, [there];\n\t}",
            "r,b,r,~{memory}", Type(), {barrier, arrives, e.laneId()}, /*hasSideEffects=*/true);
    else
      e.ptx("@$1 mbarrier.arrive.shared::cta.b64 _, [$0];", "r,b,~{memory}", Type(), {barrier, arrives}, true);
    if (!isAtOnce)
      advance(e, ring.popSlot, Value(), ring.stages, e.stepGroups());
  });
  return success();
}

//===- The roles --------------------------------------------------------------------------------------------------===//

static Value groupOf(Emitter &e, Value warp) {
  Value group = arith::ShRUIOp::create(e.builder, e.loc, warp, e.i32(llvm::Log2_32(warpsPerGroup)));
  return e.shuffleFrom(group, e.i32(0));
}

Value Emitter::warpGroup() {
  if (!warpGroupValue) {
    OpBuilder::InsertionGuard guard(builder);
    builder.setInsertionPoint(prologueEnd);
    warpGroupValue = groupOf(*this, warpValue);
  }
  return warpGroupValue;
}

Value Emitter::blockGroup() {
  if (consumers == 1)
    return warpGroup();
  if (!blockGroupValue) {
    OpBuilder::InsertionGuard guard(builder);
    builder.setInsertionPoint(prologueEnd);
    blockGroupValue = groupOf(*this, arith::ShRUIOp::create(builder, loc, threadValue, i32(llvm::Log2_32(lanes))));
  }
  return blockGroupValue;
}

// Barriers 8 and up: a group's turn, at which it meets the group that passes.
static void turnBarrier(Emitter &e, const char *how, Value group) {
  Value id = arith::AddIOp::create(e.builder, e.loc, group, e.i32(8));
  e.ptx("bar." + std::string(how) + " $0, " + std::to_string(2 * lanes * e.warps()) + ";", "r,~{memory}", Type(), {id},
        /*hasSideEffects=*/true);
}

// Where groups share a program's steps: each starts at the slot of its first one, and the next program after them all.
static LogicalResult startSteps(Emitter &e, tile::TakeTurnOp turn) {
  OpBuilder &b = e.builder;
  Emitter::Ring &ring = e.ring(turn.getRing());
  Value slot = readWord(e, ring.startSlot), phase = readWord(e, ring.startPhase), stages = e.i32(ring.stages);
  auto moveTo = [&](Value at, Value slotWord, Value phaseWord) {
    Value rounds = arith::DivUIOp::create(b, e.loc, at, stages),
          odd = arith::AndIOp::create(b, e.loc, rounds, e.i32(1));
    LLVM::StoreOp::create(b, e.loc, arith::RemUIOp::create(b, e.loc, at, stages), slotWord);
    if (phaseWord)
      LLVM::StoreOp::create(b, e.loc, arith::XOrIOp::create(b, e.loc, phase, odd), phaseWord);
  };
  Value own = arith::AddIOp::create(b, e.loc, slot, e.stepGroup());
  moveTo(own, ring.frontSlot, ring.frontPhase);
  moveTo(own, ring.popSlot, Value());
  Value steps = arith::TruncIOp::create(b, e.loc, b.getI32Type(), e.scalar(turn.getSlots()));
  moveTo(arith::AddIOp::create(b, e.loc, slot, steps), ring.startSlot, ring.startPhase);
  return success();
}

LogicalResult nvptx::lower(Emitter &e, tile::TakeTurnOp turn) {
  if (e.stepGroups() > 1)
    return startSteps(e, turn);
  OpBuilder &b = e.builder;
  Emitter::Ring &ring = e.ring(turn.getRing());
  turnBarrier(e, "sync", e.blockGroup());
  Value others = e.select(e.isFirstProgram(), e.blockGroup(), e.i32(e.consumerCount() - 1));
  Value slots = arith::TruncIOp::create(b, e.loc, b.getI32Type(), e.scalar(turn.getSlots()));
  Value passed = arith::MulIOp::create(b, e.loc, others, slots);
  for (auto [slotWord, phaseWord] : {std::pair(ring.frontSlot, ring.frontPhase), std::pair(ring.popSlot, Value())}) {
    Value at = arith::AddIOp::create(b, e.loc, readWord(e, slotWord), passed);
    LLVM::StoreOp::create(b, e.loc, arith::RemUIOp::create(b, e.loc, at, e.i32(ring.stages)), slotWord);
    if (!phaseWord)
      continue;
    Value rounds = arith::DivUIOp::create(b, e.loc, at, e.i32(ring.stages));
    Value turned = arith::AndIOp::create(b, e.loc, rounds, e.i32(1));
    LLVM::StoreOp::create(b, e.loc, arith::XOrIOp::create(b, e.loc, readWord(e, phaseWord), turned), phaseWord);
  }
  return success();
}

LogicalResult nvptx::lower(Emitter &e, tile::PassTurnOp) {
  Value next = arith::AddIOp::create(e.builder, e.loc, e.blockGroup(), e.i32(1));
  turnBarrier(e, "arrive", e.select(e.compare(next, "eq", e.i32(e.consumerCount())), e.i32(0), next));
  return success();
}

// The linear id as coordinates: z slowest, and in each plane bands of `band` values of x, which y crosses.
static SmallVector<Value, 3> banded(Emitter &e, Value linear, ArrayRef<Value> extents, int64_t band) {
  OpBuilder &b = e.builder;
  auto times = [&](Value x, Value y) -> Value { return arith::MulIOp::create(b, e.loc, x, y); };
  auto minus = [&](Value x, Value y) -> Value { return arith::SubIOp::create(b, e.loc, x, y); };
  auto over = [&](Value x, Value y) -> Value { return arith::DivUIOp::create(b, e.loc, x, y); };
  Value plane = times(extents[0], extents[1]), z = over(linear, plane), within = minus(linear, times(z, plane));
  Value bandPrograms = times(e.i32(band), extents[1]), number = over(within, bandPrograms);
  Value first = times(number, e.i32(band)), rest = minus(within, times(number, bandPrograms));
  Value width = arith::MinUIOp::create(b, e.loc, minus(extents[0], first), e.i32(band));
  Value y = over(rest, width);
  Value x = arith::AddIOp::create(b, e.loc, first, minus(rest, times(y, width)));
  return {x, y, z};
}

LogicalResult Emitter::emitSpecialize(tile::SpecializeOp specialize) {
  // The multiprocessor's registers: each of the producer's threads gives up what it does not need.
  struct Share {
    int producer, consumer;
  };
  constexpr Share shares[] = {{0, 0}, {40, 232}, {32, 160}};
  int groups = consumers * warpCount / warpsPerGroup;
  const bool isAlone = !kernel->hasAttr(residentAttr); // else there are registers for all of them
  Share share = groups < 1 || groups > 3 || !isAlone ? Share{} : shares[groups - 1];

  Type word = builder.getI32Type();
  for (int axis = 0; axis < 3; ++axis)
    gridExtents.push_back(arith::TruncIOp::create(builder, loc, word, function.getArgument(wordCount + axis)));
  // Blocks of a cluster that share loads have as many programs side by side; the next ones are as many further on.
  const std::optional<int> axis = clusterAxis(kernel);
  SmallVector<Value, 3> extents = gridExtents;
  if (axis)
    extents[*axis] = arith::DivUIOp::create(
        builder, loc, arith::AddIOp::create(builder, loc, extents[*axis], i32(clusterSize - 1)), i32(clusterSize));
  Value programs = arith::MulIOp::create(builder, loc, extents[0], extents[1]);
  programs = arith::MulIOp::create(builder, loc, programs, extents[2]);
  const int64_t band = axis == 0 ? std::max<int64_t>(1, programBand / clusterSize) : programBand;
  Value first = NVVM::BlockIdXOp::create(builder, loc, word), blocks = NVVM::GridDimXOp::create(builder, loc, word);
  const Value gridBlocks = blocks;
  warpGroup(), blockGroup();
  if (clusterSize > 1) {
    first = arith::DivUIOp::create(builder, loc, first, i32(clusterSize));
    blocks = arith::DivUIOp::create(builder, loc, blocks, i32(clusterSize));
  }
  bool hasSum = false;
  specialize.walk([&](tile::ClusterSumOp sum) { hasSum = true, prepareClusterSum(sum); });
  if (sharesSteps)
    prepareStream(scalar(specialize.getSteps()), programs, first, blocks);
  // The first copies would wait for what describes them: it comes while others prepare the barriers.
  when(compare(linearThreadId(), "eq", i32(32)), [&] {
    for (size_t i = 0; i < requests.size(); ++i) {
      Value map = function.getArgument(unsigned(function.getNumArguments() - requests.size() + i));
      ptx("prefetch.tensormap [$0];", "l", Type(), {map}, /*hasSideEffects=*/true);
    }
  });
  // Divisions take long: with sums, blocks have few programs, and the first one's place is known before they may begin.
  SmallVector<Value, 3> firstIds;
  if (hasSum && !sharesSteps)
    for (Value id : banded(*this, first, extents, band))
      firstIds.push_back(ptx("mov.b32 $0, $1;", "=r,r", word, {id}, /*hasSideEffects=*/true));
  // All threads of the block, or of the cluster, whose rings others fill. To each other's sums blocks come late: only
  // then must the others have started. The fence has told of the barriers, so that arriving needs no other.
  auto say = [&](const char *text) { ptx(text, "~{memory}", Type(), {}, /*hasSideEffects=*/true); };
  const bool meetsLater = clusterSize > 1 && !clusterAxis(kernel);
  say("fence.mbarrier_init.release.cluster;");
  if (clusterSize > 1)
    say(meetsLater ? "barrier.cluster.arrive.relaxed;"
                   : "barrier.cluster.arrive.relaxed;\n\tbarrier.cluster.wait.acquire;");
  if (clusterSize == 1 || meetsLater)
    NVVM::Barrier0Op::create(builder, loc);

  auto role = [&](Region &region, int registers, const char *direction) -> LogicalResult {
    if (registers)
      ptx("setmaxnreg." + std::string(direction) + ".sync.aligned.u32 " + std::to_string(registers) + ";", "", Type(),
          {},
          /*hasSideEffects=*/true);
    const bool isConsumer = &region == &specialize.getConsumer();
    const bool inTurn = consumers > 1 && stepGroupCount == 1 && isConsumer;
    auto body = [&]() -> LogicalResult {
      // Every n-th program; of parts of programs, one after the other.
      Value start = sharesSteps ? i32(0) : first, step = sharesSteps ? i32(1) : blocks;
      Value end = sharesSteps ? streamedParts() : programs;
      if (inTurn) {
        start = arith::AddIOp::create(builder, loc, start, arith::MulIOp::create(builder, loc, blockGroup(), step));
        step = arith::MulIOp::create(builder, loc, step, i32(consumers));
        when(compare(blockGroup(), "eq", i32(consumers - 1)), [&] { turnBarrier(*this, "arrive", i32(0)); });
      }
      auto loop = scf::ForOp::create(builder, loc, start, end, step);
      OpBuilder::InsertionGuard guard(builder);
      builder.setInsertionPointToStart(loop.getBody());
      if (inTurn)
        isFirstProgramValue = compare(loop.getInductionVar(), "eq", start);
      Value program = sharesSteps ? beginShare(loop.getInductionVar()) : loop.getInductionVar();
      if (firstIds.empty() || inTurn) {
        programIds = banded(*this, program, extents, band);
      } else {
        auto ids = scf::IfOp::create(builder, loc, SmallVector<Type>(3, word), compare(program, "eq", start),
                                     /*addThenBlock=*/true, /*addElseBlock=*/true);
        OpBuilder::InsertionGuard guard(builder);
        builder.setInsertionPointToStart(&ids.getThenRegion().front());
        scf::YieldOp::create(builder, loc, firstIds);
        builder.setInsertionPointToStart(&ids.getElseRegion().front());
        scf::YieldOp::create(builder, loc, banded(*this, program, extents, band));
        programIds.assign(ids.result_begin(), ids.result_end());
      }
      if (axis) {
        Value first = arith::MulIOp::create(builder, loc, programIds[*axis], i32(clusterSize));
        programIds[*axis] = arith::AddIOp::create(builder, loc, first, clusterRank());
      }
      ++loopDepth;
      LogicalResult done = emitBlock(region.front());
      --loopDepth;
      return done;
    };
    if (isConsumer) {
      if (meetsLater)
        say("barrier.cluster.wait.acquire;");
      awaitPreviousLaunch();
      if (region.walk([](tile::AwaitGroupOp) { return WalkResult::interrupt(); }).wasInterrupted())
        admitFirstGroup(*this);
      if (failed(body()))
        return failure();
      if (staging >= 0) // what the copy engine still reads goes with the block; what it writes, it writes without it
        ptx("cp.async.bulk.wait_group.read 0;", "~{memory}", Type(), {}, /*hasSideEffects=*/true);
      return success();
    }
    // The assembler knows of an elected thread that it is alone, and asks for boxes without a loop over threads.
    Value isElected =
        ptx("{\n\t.reg .pred own;\n\telect.sync _|own, -1;\n\tselp.b32 $0, 1, 0, own;\n\t}", "=r", word, {},
            /*hasSideEffects=*/true);
    isElected = compare(isElected, "ne", i32(0));
    int warps = 1;
    region.walk([&](tile::FillOp fill) { warps = std::max(warps, int(fillingWarps(*this, fill).size())); });
    Value warp = arith::ShRUIOp::create(builder, loc, linearThreadId(), i32(llvm::Log2_32(lanes)));
    warp = arith::AndIOp::create(builder, loc, warp, i32(warpsPerGroup - 1));
    LogicalResult done = success();
    // A loop for each warp, with what is its own.
    for (fillingWarpNumber = 0; fillingWarpNumber < warps; ++fillingWarpNumber) {
      Value isOwn = arith::AndIOp::create(builder, loc, isElected, compare(warp, "eq", i32(fillingWarpNumber)));
      when(isOwn, [&] {
        // Blocks of which a multiprocessor has one leave each room for one of the next launch, while all are there.
        // Once some have ended, two would take their place.
        awaitPreviousLaunch();
        when(compare(gridBlocks, "ule", i32(target.multiprocessors)), [&] { admitNextLaunch(); });
        if (failed(body()))
          done = failure();
        admitNextLaunch(); // whose reads then follow these
      });
    }
    if (meetsLater)
      say("barrier.cluster.wait.acquire;");
    return done;
  };
  auto roles = scf::IfOp::create(builder, loc, compare(blockGroup(), "eq", i32(groups)), /*withElseRegion=*/true);
  {
    OpBuilder::InsertionGuard guard(builder);
    inRole = true;
    builder.setInsertionPointToStart(&roles.getThenRegion().front());
    if (failed(role(specialize.getProducer(), share.producer, "dec")))
      return failure();
    builder.setInsertionPointToStart(&roles.getElseRegion().front());
    if (failed(role(specialize.getConsumer(), share.consumer, "inc")))
      return failure();
    inRole = false;
  }
  // No block ends while others still arrive at its ring's barriers. What they do to those of a sum, it has waited for.
  if (clusterAxis(kernel))
    say("barrier.cluster.arrive.release;\n\tbarrier.cluster.wait.acquire;");
  return success();
}
