// What every lowering needs of a thread: its coordinates in a layout, shared memory, shuffles, constants.
#include "bitloom/lowering/targets/nvptx/Emitter.h"

#include "bitloom/lib/support/Error.h"
#include "bitloom/lowering/targets/nvptx/Mma.h"
#include "bitloom/lowering/targets/nvptx/Rewrites.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/LLVMIR/NVVMDialect.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "llvm/ADT/StringSwitch.h"
#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace bitloom;
using namespace bitloom::nvptx;

static constexpr int64_t onceLimit = 16 << 10; // bytes of shared memory that may go to regions used only once

static LLVM::LLVMPointerType pointerTo(MLIRContext *context, unsigned space) {
  return LLVM::LLVMPointerType::get(context, space);
}

//===- Scalars ----------------------------------------------------------------------------------------------------===//

void Emitter::put(Value tile, Registers registers) { tiles[tile] = std::move(registers); }

void Emitter::putLazily(Value tile, std::function<Registers()> unpack) {
  tiles[tile] = {};
  lazyTiles[tile] = {std::move(unpack)};
}

const Registers &Emitter::get(Value tile) {
  if (auto lazy = lazyTiles.find(tile); lazy != lazyTiles.end() && lazy->second.done != builder.getInsertionBlock()) {
    lazy->second.done = builder.getInsertionBlock();
    tiles[tile] = lazy->second.unpack();
  }
  return tiles.at(tile);
}

Value Emitter::i32(int64_t value) {
  return arith::ConstantOp::create(builder, loc, builder.getI32IntegerAttr(int32_t(value)));
}
Value Emitter::i64(int64_t value) { return arith::ConstantOp::create(builder, loc, builder.getI64IntegerAttr(value)); }
Value Emitter::zero(Type type) {
  return arith::ConstantOp::create(builder, loc, builder.getZeroAttr(registerType(type)));
}
Value Emitter::truth(bool value) { return arith::ConstantOp::create(builder, loc, builder.getBoolAttr(value)); }

Value Emitter::both(Value a, Value b) {
  if (!a || !b)
    return a ? a : b;
  return arith::AndIOp::create(builder, loc, a, b);
}

Value Emitter::select(Value condition, Value yes, Value no) {
  if (!condition)
    return yes;
  return arith::SelectOp::create(builder, loc, condition, yes, no);
}

Value Emitter::compare(Value a, const char *predicate, Value b) {
  return arith::CmpIOp::create(builder, loc, *arith::symbolizeCmpIPredicate(predicate), a, b);
}

Value Emitter::toBits(Value value) {
  Type type = value.getType();
  if (type.isInteger(1))
    return arith::ExtUIOp::create(builder, loc, builder.getI8Type(), value);
  if (isa<IntegerType>(type))
    return value;
  return LLVM::BitcastOp::create(builder, loc, builder.getIntegerType(type.getIntOrFloatBitWidth()), value);
}

Value Emitter::fromBits(Value bits, Type type) {
  type = registerType(type);
  if (type == bits.getType())
    return bits;
  if (type.isInteger(1))
    return compare(bits, "ne", zero(bits.getType()));
  return LLVM::BitcastOp::create(builder, loc, type, bits);
}

Value Emitter::ptx(StringRef text, StringRef constraints, Type result, ValueRange operands, bool hasSideEffects) {
  auto op =
      LLVM::InlineAsmOp::create(builder, loc, result ? TypeRange(result) : TypeRange(), operands, text, constraints,
                                hasSideEffects, /*is_align_stack=*/false, LLVM::TailCallKind::None,
                                LLVM::AsmDialectAttr::get(builder.getContext(), LLVM::AsmDialect::AD_ATT), ArrayAttr());
  return result ? op.getRes() : Value();
}

void Emitter::when(Value condition, llvm::function_ref<void()> body) {
  if (!condition)
    return body();
  auto branch = scf::IfOp::create(builder, loc, condition, /*withElseRegion=*/false);
  OpBuilder::InsertionGuard guard(builder);
  builder.setInsertionPointToStart(&branch.getThenRegion().front());
  body();
}

//===- Coordinates ------------------------------------------------------------------------------------------------===//

int Emitter::registersOf(Type tile) { return isa<RankedTensorType>(tile) ? layout(tile).inSize(reg) : 1; }

const std::vector<LinearLayout::Vector> &Emitter::registerCoordinates(const LinearLayout &layout) {
  auto [entry, isNew] = coordinates.try_emplace(layout);
  if (isNew) {
    entry->second.assign(layout.inSize(reg), LinearLayout::Vector(layout.outs().size(), 0));
    for (size_t r = 1; r < entry->second.size(); ++r) { // linear: one basis more than a smaller register's
      entry->second[r] = entry->second[r & (r - 1)];
      const LinearLayout::Vector &basis = layout.basis(reg, llvm::countr_zero(r));
      for (size_t d = 0; d < basis.size(); ++d)
        entry->second[r][d] ^= basis[d];
    }
  }
  return entry->second;
}

Value Emitter::threadImage(const LinearLayout &layout, size_t out) {
  Value sum;
  for (auto [dim, id] : {std::pair(lane, laneValue), std::pair(warp, warpValue)}) {
    int bits = layout.inBits(dim);
    auto image = [&](int bit) { return layout.basis(dim, bit)[out]; };
    for (int low = 0, high; low < bits; low = high) {
      high = low + 1;
      if (!image(low))
        continue;
      Value term;
      if (llvm::isPowerOf2_32(image(low))) { // a run of bits that move together
        while (high < bits && image(high) == image(low) << (high - low))
          ++high;
        term = arith::AndIOp::create(builder, loc, id, i32(((1 << high) - 1) & ~((1 << low) - 1)));
        int shift = int(llvm::Log2_32(image(low))) - low;
        if (shift > 0)
          term = arith::ShLIOp::create(builder, loc, term, i32(shift));
        if (shift < 0)
          term = arith::ShRUIOp::create(builder, loc, term, i32(-shift));
      } else {
        Value bit = compare(arith::AndIOp::create(builder, loc, id, i32(1 << low)), "ne", i32(0));
        term = select(bit, i32(image(low)), i32(0));
      }
      sum = sum ? arith::XOrIOp::create(builder, loc, sum, term).getResult() : term;
    }
  }
  return sum;
}

Value Emitter::threadCoordinate(const LinearLayout &layout, int dim) {
  std::vector<Value> &values = threadCoordinates[layout];
  if (values.empty()) {
    OpBuilder::InsertionGuard guard(builder);
    builder.setInsertionPoint(prologueEnd);
    for (size_t d = 0; d < layout.outs().size(); ++d) {
      Value value = threadImage(layout, d);
      values.push_back(value ? value : i32(0));
    }
  }
  return values[dim];
}

int32_t Emitter::threadBits(const LinearLayout &layout, int dim) {
  int32_t bits = 0;
  for (const char *in : {lane, warp})
    for (int bit = 0; bit < layout.inBits(in); ++bit)
      bits |= layout.basis(in, bit)[dim];
  return bits;
}

Value Emitter::coordinate(const LinearLayout &layout, int dim, int registerIndex) {
  int32_t own = registerCoordinates(layout)[registerIndex][dim];
  Value thread = threadCoordinate(layout, dim);
  if (!own)
    return thread;
  if (own & threadBits(layout, dim))
    return arith::XOrIOp::create(builder, loc, thread, i32(own));
  return arith::AddIOp::create(builder, loc, thread, i32(own),
                               arith::IntegerOverflowFlags::nsw | arith::IntegerOverflowFlags::nuw);
}

bool Emitter::isDead(const LinearLayout &layout, ArrayRef<int64_t> shape, int registerIndex) {
  for (auto [d, extent] : llvm::enumerate(shape))
    if ((registerCoordinates(layout)[registerIndex][d] & ~threadBits(layout, d)) >= extent)
      return true;
  return false;
}

Value Emitter::isFirstReplica(const LinearLayout &layout) {
  Value first;
  for (auto [dim, id] : {std::pair(lane, laneValue), std::pair(warp, warpValue)})
    if (int32_t free = layout.freeBits(dim))
      first = both(first, compare(arith::AndIOp::create(builder, loc, id, i32(free)), "eq", i32(0)));
  return first;
}

//===- The block --------------------------------------------------------------------------------------------------===//

// Among the consumers alone where there is a producer: it never comes.
void Emitter::barrier() {
  if (inRole && consumers > 1)
    throw InternalError("an exchange between warps where groups of them take turns");
  if (inRole)
    ptx("bar.sync 1, " + std::to_string(lanes * warpCount) + ";", "~{memory}", Type(), {}, /*hasSideEffects=*/true);
  else
    NVVM::Barrier0Op::create(builder, loc);
}

SmallVector<Cost> Emitter::sharedCosts() const {
  SmallVector<Cost> costs = keptCosts;
  if (turnCost)
    costs.push_back(*turnCost);
  sortCosts(costs);
  return costs;
}

void Emitter::checkShared() {
  const int64_t bytes = reservedBytes + onceBytes + turnBytes;
  if (bytes <= target.maxSharedPerBlock)
    return;
  SmallVector<Cost> costs = sharedCosts();
  loc = costs.front().where; // where the error is reported
  throw UserError("shared memory: expected at most " + std::to_string(target.maxSharedPerBlock) + " bytes a block on " +
                  target.name + ", got " + std::to_string(bytes) + " or more (" + listOf(costs) +
                  "); use smaller blocks");
}

int64_t Emitter::reserve(int64_t bytes, int64_t alignment, ArrayRef<Cost> costs) {
  int64_t offset = llvm::alignTo(reservedBytes, alignment);
  reservedBytes = llvm::alignTo(offset + bytes, 16);
  llvm::append_range(keptCosts, costs);
  checkShared();
  return offset;
}

// Whether no use of the result comes at or after `now`, which follows `op` in the order of the program.
static bool isOver(Operation *op, Operation *now) {
  Operation *here = op->getBlock()->findAncestorOpInBlock(*now);
  return !here || llvm::all_of(op->getUsers(), [&](Operation *user) {
    return op->getBlock()->findAncestorOpInBlock(*user)->isBeforeInBlock(here);
  });
}

int64_t Emitter::reserveWhileUsed(Operation *op, int64_t bytes, int64_t alignment, const Cost &cost) {
  Slot *best = nullptr;
  for (Slot &slot : slots)
    if (slot.bytes >= bytes && slot.offset % alignment == 0 && isOver(slot.user, op) &&
        (!best || slot.bytes < best->bytes))
      best = &slot;
  if (!best)
    best = &slots.emplace_back(Slot{reserve(bytes, alignment, cost), bytes, nullptr});
  best->user = op;
  return best->offset;
}

Value Emitter::sharedAt(int64_t offset) {
  Value base = LLVM::AddressOfOp::create(builder, loc, sharedMemory);
  Value address = LLVM::PtrToIntOp::create(builder, loc, builder.getI32Type(), base);
  return arith::AddIOp::create(builder, loc, address, i32(offset));
}

Value Emitter::scratch(int64_t bytes) {
  if (spansCluster())
    throw UserError("cluster: expected no operations but reductions to exchange elements between the blocks of " +
                    std::to_string(clusterSize) + " that hold a tile together; use cluster = 1");
  return blockScratch(bytes);
}

Value Emitter::blockScratch(int64_t bytes) {
  bytes = llvm::alignTo(std::max<int64_t>(bytes, 1), 16);
  bool isOnce = !loopDepth && onceBytes + bytes <= onceLimit;
  const Cost cost = {loc, bytes, "what threads exchange here"};
  Value base = LLVM::AddressOfOp::create(builder, loc, sharedMemory);
  // Offsets are known at the end: reserved memory comes first, then what is used once, then what exchanges share.
  auto at = LLVM::ConstantOp::create(builder, loc, builder.getI32Type(), builder.getI32IntegerAttr(0));
  if (isOnce) {
    onceOffsets.push_back({at, onceBytes});
    onceBytes += bytes;
    keptCosts.push_back(cost);
  } else {
    barrier();
    if (bytes > turnBytes) {
      turnBytes = bytes;
      turnCost = cost;
    }
    turnOffsets.push_back(at);
  }
  checkShared();
  return LLVM::GEPOp::create(builder, loc, base.getType(), builder.getI8Type(), base,
                             ArrayRef<LLVM::GEPArg>{at.getRes()});
}

Value Emitter::alternatingScratch(int64_t bytes) {
  constexpr int64_t most = 2 << 10;
  bytes = llvm::alignTo(std::max<int64_t>(bytes, 1), 16);
  if (!loopDepth || bytes > most)
    return blockScratch(bytes);
  Value address = sharedAt(reserve(2 * bytes, 16, Cost{loc, 2 * bytes, "what threads exchange here"}));
  address = arith::AddIOp::create(builder, loc, address, turnOf(bytes));
  return LLVM::IntToPtrOp::create(builder, loc, pointerTo(builder.getContext(), 3), address);
}

Value Emitter::sharedAddress(Value base, Value index, Type element) {
  Type stored = element.isInteger(1) ? builder.getI8Type() : registerType(element);
  return LLVM::GEPOp::create(builder, loc, base.getType(), stored, base, ArrayRef<LLVM::GEPArg>{index});
}

void Emitter::sharedStore(Value address, Value value) { LLVM::StoreOp::create(builder, loc, toBits(value), address); }

Value Emitter::sharedLoad(Value address, Type type) {
  Type bits = builder.getIntegerType(std::max(8u, type.getIntOrFloatBitWidth()));
  return fromBits(LLVM::LoadOp::create(builder, loc, bits, address), type);
}

Value Emitter::shuffle(Value value, Value offset, bool isXor) {
  Type type = value.getType(), word = builder.getI32Type();
  unsigned width = type.getIntOrFloatBitWidth();
  auto one = [&](Value bits) -> Value {
    return NVVM::ShflOp::create(builder, loc, word, i32(-1), bits, offset, i32(lanes - 1),
                                isXor ? NVVM::ShflKind::bfly : NVVM::ShflKind::idx, UnitAttr());
  };
  if (width == 64) {
    Value bits = toBits(value);
    Value low = one(arith::TruncIOp::create(builder, loc, word, bits));
    Value high = one(arith::TruncIOp::create(builder, loc, word, arith::ShRUIOp::create(builder, loc, bits, i64(32))));
    Type wide = builder.getI64Type();
    Value lowWide = arith::ExtUIOp::create(builder, loc, wide, low),
          highWide = arith::ExtUIOp::create(builder, loc, wide, high);
    Value joined = arith::OrIOp::create(builder, loc, lowWide, arith::ShLIOp::create(builder, loc, highWide, i64(32)));
    return fromBits(joined, type);
  }
  Value bits = toBits(value);
  if (width == 32)
    return fromBits(one(bits), type);
  Value moved = one(arith::ExtUIOp::create(builder, loc, word, bits));
  return fromBits(arith::TruncIOp::create(builder, loc, bits.getType(), moved), type);
}

Value Emitter::shuffleXor(Value value, int mask) { return shuffle(value, i32(mask), true); }
Value Emitter::shuffleFrom(Value value, Value from) { return shuffle(value, from, false); }

//===- Globals ----------------------------------------------------------------------------------------------------===//

Value Emitter::globalConstant(DenseElementsAttr values) {
  OpBuilder top(function);
  Type element = values.getElementType();
  if (element.isInteger(1)) { // memory holds bytes
    SmallVector<int8_t> bytes;
    for (bool value : values.getValues<bool>())
      bytes.push_back(value);
    element = builder.getI8Type();
    values = DenseElementsAttr::get(RankedTensorType::get({int64_t(bytes.size())}, element), ArrayRef<int8_t>(bytes));
  } else {
    values = values.reshape(RankedTensorType::get({values.getNumElements()}, element));
    element = registerType(element);
    values = values.bitcast(element);
  }
  auto global =
      LLVM::GlobalOp::create(top, loc, LLVM::LLVMArrayType::get(element, values.getNumElements()), /*isConstant=*/true,
                             LLVM::Linkage::Internal, "constant_" + std::to_string(constants++), values,
                             /*alignment=*/16, /*addrSpace=*/1);
  return LLVM::AddressOfOp::create(builder, loc, global);
}

Value Emitter::globalString(StringRef text) {
  LLVM::GlobalOp &global = strings[text];
  if (!global) {
    OpBuilder top(function);
    std::string terminated = text.str() + '\0';
    global =
        LLVM::GlobalOp::create(top, loc, LLVM::LLVMArrayType::get(builder.getI8Type(), terminated.size()),
                               /*isConstant=*/true, LLVM::Linkage::Internal, "text_" + std::to_string(strings.size()),
                               builder.getStringAttr(terminated), /*alignment=*/1, /*addrSpace=*/1);
  }
  Value address = LLVM::AddressOfOp::create(builder, loc, global);
  return LLVM::AddrSpaceCastOp::create(builder, loc, pointerTo(builder.getContext(), 0), address);
}

LLVM::LLVMFuncOp Emitter::declare(StringRef name, LLVM::LLVMFunctionType type) {
  auto module = function->getParentOfType<ModuleOp>();
  if (auto found = module.lookupSymbol<LLVM::LLVMFuncOp>(name))
    return found;
  OpBuilder top(function);
  return LLVM::LLVMFuncOp::create(top, loc, name, type);
}

//===- The kernel -------------------------------------------------------------------------------------------------===//

Emitter::Emitter(func::FuncOp kernel, Target target)
    : builder(kernel.getContext()), loc(kernel.getLoc()), target(std::move(target)), kernel(kernel) {
  auto warps = kernel->getAttrOfType<IntegerAttr>(tile::numWarpsAttr);
  if (!warps)
    throw InternalError("expected a kernel with layouts (tile-assign-layouts)");
  warpCount = int(warps.getInt());
}

// Every parameter is one 64-bit word: a view's pointer, extents and strides, a scalar's bits in the low bytes.
void Emitter::mapArguments() {
  unsigned word = 0;
  auto take = [&]() -> Value { return function.getArgument(word++); };
  for (BlockArgument argument : kernel.getArguments()) {
    if (auto type = dyn_cast<tile::ViewType>(argument.getType())) {
      ViewWords words;
      words.element = type.getElementType();
      words.pointer = LLVM::IntToPtrOp::create(builder, loc, pointerTo(builder.getContext(), 1), take());
      for (int64_t d = 0; d < type.getRank(); ++d)
        words.extents.push_back(take());
      for (int64_t d = 0; d < type.getRank(); ++d)
        words.strides.push_back(take());
      if (!type.getStrided())
        words.strides.back() = Value();
      auto align = kernel.getArgAttrOfType<IntegerAttr>(argument.getArgNumber(), tile::alignAttr);
      words.alignment = align ? align.getInt() : 1;
      views[argument] = words;
      continue;
    }
    Type type = argument.getType();
    Value bits = take();
    unsigned width = type.getIntOrFloatBitWidth();
    if (width < 64)
      bits = arith::TruncIOp::create(builder, loc, builder.getIntegerType(width), bits);
    put(argument, {type.isInteger(1) ? bits : fromBits(bits, type)});
  }
}

// A configuration that no assembler can fit is refused before it is assembled.
void Emitter::checkRegisters(int blockWarps) {
  constexpr int most = 255, ofMultiprocessor = 64 << 10; // every multiprocessor since sm_80 has as many
  // Warps with roles share out the block's registers unevenly.
  const int limit = isSpecialized ? most : std::min(most, ofMultiprocessor / (lanes * blockWarps) / 8 * 8);
  SmallVector<Cost> carried = carriedTiles(kernel, layouts);
  if (sumOf(carried) <= limit)
    return;
  loc = carried.front().where;
  throw UserError("registers: expected at most " + std::to_string(limit) + " a thread of " +
                  std::to_string(lanes * blockWarps) + " on " + target.name + ", got " +
                  std::to_string(sumOf(carried)) + " or more for what a loop carries (" + listOf(carried) +
                  "); use smaller blocks");
}

void Emitter::awaitPreviousLaunch() {
  if (target.hasLaunchOverlap())
    ptx("griddepcontrol.wait;", "~{memory}", Type(), {}, /*hasSideEffects=*/true);
}

void Emitter::admitNextLaunch() {
  if (target.hasLaunchOverlap())
    ptx("griddepcontrol.launch_dependents;", "~{memory}", Type(), {}, /*hasSideEffects=*/true);
}

LogicalResult Emitter::run() {
  MLIRContext *context = builder.getContext();
  unsigned words = 0;
  for (Type type : kernel.getArgumentTypes()) {
    auto view = dyn_cast<tile::ViewType>(type);
    if (!view && !type.isIntOrFloat())
      return kernel.emitError() << "kernel argument: expected a view or a scalar, got " << type;
    words += view ? 1 + 2 * view.getRank() : 1;
  }
  OpBuilder top(kernel);
  sharedMemory = LLVM::GlobalOp::create(top, loc, LLVM::LLVMArrayType::get(builder.getI8Type(), 0),
                                        /*isConstant=*/false, LLVM::Linkage::External, "bitloom_shared", Attribute(),
                                        /*alignment=*/16, /*addrSpace=*/3);
  kernel.walk([&](tile::SpecializeOp specialize) {
    isSpecialized = true;
    sharesSteps = bool(specialize.getSteps());
  });
  if (auto cluster = kernel->getAttrOfType<IntegerAttr>(tile::clusterAttr))
    clusterSize = int(cluster.getInt());
  if (auto groups = kernel->getAttrOfType<IntegerAttr>(tile::consumersAttr); groups && isSpecialized)
    consumers = int(groups.getInt());
  if (kernel->hasAttr(stepGroupsAttr))
    stepGroupCount = consumers;
  wordCount = int(words);
  collectTensorMaps();
  // The grid's extents, and the workspace's address.
  SmallVector<Type> parameters(words + (isSpecialized ? 3 : 0) + (sharesSteps ? 1 : 0), builder.getI64Type());
  parameters.append(requests.size(), pointerTo(context, 0));
  auto type = LLVM::LLVMFunctionType::get(LLVM::LLVMVoidType::get(context), parameters);
  std::string name = kernel.getName().str();
  kernel.setName(name + "_tiles");
  function = LLVM::LLVMFuncOp::create(top, loc, name, type);
  function->setAttr(NVVM::NVVMDialect::getKernelFuncAttrName(), builder.getUnitAttr());
  const int blockWarps = warpCount * consumers + (isSpecialized ? warpsPerGroup : 0);
  if (spansCluster())
    warpCount *= clusterSize;
  function->setAttr(NVVM::NVVMDialect::getReqntidAttrName(), builder.getDenseI32ArrayAttr({lanes * blockWarps}));
  function->setAttr(tile::numWarpsAttr, builder.getI32IntegerAttr(blockWarps));
  if (clusterSize > 1) {
    function->setAttr(NVVM::NVVMDialect::getClusterDimAttrName(), builder.getDenseI32ArrayAttr({clusterSize, 1, 1}));
    function->setAttr(tile::clusterAttr, builder.getI32IntegerAttr(clusterSize));
  }
  describeTensorMaps();
  kernel.walk([&](tile::ShareSumOp sum) {
    int64_t bytes = int64_t(registersOf(sum.getType())) * 4 * lanes * warpCount;
    function->setAttr(tile::workspaceAttr, builder.getI32IntegerAttr(int32_t(bytes)));
  });

  builder.setInsertionPointToStart(function.addEntryBlock(builder));
  mapArguments();
  threadValue = NVVM::ThreadIdXOp::create(builder, loc, builder.getI32Type());
  enterCluster();
  laneValue = arith::AndIOp::create(builder, loc, threadValue, i32(lanes - 1));
  warpValue = warpCount == 1 ? i32(0) : arith::ShRUIOp::create(builder, loc, threadValue, i32(llvm::Log2_32(lanes)));
  if (consumers > 1) // within the group
    warpValue = arith::AndIOp::create(builder, loc, warpValue, i32(warpCount - 1));
  prologueEnd = LLVM::ReturnOp::create(builder, loc, ValueRange()); // erased below
  builder.setInsertionPointAfter(prologueEnd);
  // Else each role does, with what it can do before. The next launch is admitted as our blocks end: of blocks that took
  // places in any order as these fell free, a product was 8 us of 200 slower (docs/benchmarks/notes.md).
  if (!isSpecialized)
    awaitPreviousLaunch();

  pipelineLoads(kernel, target, warpCount);
  mergeReductions(kernel);
  loadAhead(kernel, target, lanes * blockWarps);
  prefetchLoads(kernel, target, warpCount);
  hoistLoads(kernel, lanes * warpCount);
  if (auto resident = kernel->getAttrOfType<IntegerAttr>(residentAttr))
    function->setAttr(NVVM::NVVMDialect::getMinctasmAttrName(), resident);
  const SmallVector<Cost> registerCosts = liveTiles(kernel, layouts);
  checkRegisters(blockWarps);
  allocateRings();
  if (!kernel.getBody().hasOneBlock())
    return kernel.emitError() << "expected a kernel of one block, got branches outside scf";
  if (failed(emitBlock(kernel.getBody().front())))
    return failure();
  LLVM::ReturnOp::create(builder, loc, ValueRange());
  prologueEnd->erase();

  for (auto [offset, bytes] : onceOffsets)
    offset.setValueAttr(builder.getI32IntegerAttr(int32_t(reservedBytes + bytes)));
  for (LLVM::ConstantOp offset : turnOffsets)
    offset.setValueAttr(builder.getI32IntegerAttr(int32_t(reservedBytes + onceBytes)));
  int64_t sharedBytes = reservedBytes + onceBytes + turnBytes;
  if (reservedBytes)
    sharedMemory.setAlignment(sharedAlignment);
  function->setAttr(tile::sharedBytesAttr, builder.getI32IntegerAttr(int32_t(sharedBytes)));
  if (!sharedBytes)
    sharedMemory.erase();
  auto describeCosts = [&](StringRef name, ArrayRef<Cost> costs) {
    SmallVector<Attribute> described;
    for (const Cost &cost : costs)
      described.push_back(builder.getDictionaryAttr(
          {builder.getNamedAttr("amount", builder.getI64IntegerAttr(cost.amount)),
           builder.getNamedAttr("what", builder.getStringAttr(cost.what)), builder.getNamedAttr("where", cost.where)}));
    function->setAttr(name, builder.getArrayAttr(described));
  };
  int ringStages = 0;
  for (auto &[value, ring] : rings)
    ringStages = std::max(ringStages, ring.stages);
  if (ringStages)
    function->setAttr(tile::ringStagesAttr, builder.getI32IntegerAttr(ringStages));
  if (Attribute hint = kernel->getAttr(tile::stagesAttr))
    function->setAttr(tile::stagesAttr, hint);
  describeCosts(tile::registerCostsAttr, registerCosts);
  describeCosts(tile::sharedCostsAttr, sharedCosts());
  kernel.erase();
  return expandMath(function);
}
