#include "bitloom/lowering/transforms/loops/KernelLowering.h"

#include "bitloom/lib/dtype/DType.h"

#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;
using namespace bitloom::tile;

namespace bitloom::loops {

KernelLowering::KernelLowering(func::FuncOp kernel, const Target &target)
    : Emitter(kernel.getContext()), kernel(kernel), target(target), fusion(kernel) {}

void KernelLowering::run() {
  loc = kernel.getLoc();
  MLIRContext *context = builder.getContext();
  Type pointer = LLVM::LLVMPointerType::get(context), word = builder.getI64Type();
  auto type = LLVM::LLVMFunctionType::get(LLVM::LLVMVoidType::get(context), {pointer, pointer, word, word});
  builder.setInsertionPoint(kernel);
  std::string name = kernel.getSymName().str();
  function = LLVM::LLVMFuncOp::create(builder, loc, name, type);
  for (int i : {0, 1}) {
    function.setArgAttr(i, LLVM::LLVMDialect::getNoAliasAttrName(), builder.getUnitAttr());
    function.setArgAttr(i, LLVM::LLVMDialect::getReadonlyAttrName(), builder.getUnitAttr());
  }
  function->setAttr(kernelAttr, builder.getUnitAttr());
  Block *entry = function.addEntryBlock(builder);
  arguments = entry->getArgument(0);
  grid = entry->getArgument(1);
  try {
    open(entry, function);
    unpackArguments();
    Value counts[3];
    for (int axis = 0; axis < 3; ++axis) {
      at(0);
      counts[axis] = programCounts[axis] = LLVM::LoadOp::create(builder, loc, word, address(grid, i64(axis), word), 8);
      counts[axis] =
          maxS(counts[axis], i64(1)); // with an empty grid there is no program, but a division by its extents
    }
    Value begin = entry->getArgument(2), end = entry->getArgument(3);
    Value rest = divU(begin, counts[0]);
    SmallVector<Value> first = {remU(begin, counts[0]), remU(rest, counts[1]), divU(rest, counts[1])};
    here();
    auto programs = scf::ForOp::create(builder, loc, begin, end, i64(1), first);
    open(programs.getBody(), programs);
    for (int axis = 0; axis < 3; ++axis)
      programIds[axis] = programs.getRegionIterArg(axis);

    lowerBlock(kernel.getBody().front());
    while (depth() > 1) // the programs that hold what was asserted
      close();

    SmallVector<Value> next;
    Value carry = i64(1);
    for (int axis = 0; axis < 3; ++axis) {
      Value id = add(programIds[axis], carry);
      Value wraps = compare(arith::CmpIPredicate::eq, id, counts[axis]);
      next.push_back(axis == 2 ? id : select(wraps, i64(0), id));
      carry = pure<arith::ExtUIOp>(wraps, word, wraps);
    }
    here();
    scf::YieldOp::create(builder, loc, next);
    close();
    here();
    if (streams) // they are not ordered with the stores by which a thread says that it is done
      LLVM::FenceOp::create(builder, loc, LLVM::AtomicOrdering::seq_cst);
    LLVM::ReturnOp::create(builder, loc, ValueRange{});
    placeBuffers(programs);
  } catch (...) {
    function.erase();
    throw;
  }
}

void KernelLowering::unpackArguments() {
  int64_t word = 0;
  Type i64Type = builder.getI64Type(), pointerType = LLVM::LLVMPointerType::get(builder.getContext());
  auto load = [&](Type type) {
    Value at = address(arguments, i64(word++), i64Type);
    here();
    return LLVM::LoadOp::create(builder, loc, type, at, 8).getResult();
  };
  for (BlockArgument argument : kernel.getArguments()) {
    auto type = dyn_cast<ViewType>(argument.getType());
    if (!type) {
      Type element = argument.getType();
      if (!element.isIntOrFloat())
        throw Unsupported{kernel, "an argument of this type"};
      bind(argument, fromStored(load(stored(element)), element));
      continue;
    }
    View view;
    view.pointer = load(pointerType);
    for (int64_t i = 0; i < type.getRank(); ++i)
      view.extents.push_back(load(i64Type));
    for (int64_t i = 0; i < type.getRank(); ++i)
      view.strides.push_back(load(i64Type));
    views[argument] = view;
  }
  // Not on the stack: LLVM would make branches of loads that choose between memory there and elsewhere.
  spare = globalOf(DenseElementsAttr::get(RankedTensorType::get({1}, i64Type), int64_t{0}), i64Type);
}

const KernelLowering::View &KernelLowering::view(Value original, Operation *op) {
  auto it = views.find(original);
  if (it == views.end())
    throw Unsupported{op, "a view that is no argument of the kernel"};
  return it->second;
}

Value KernelLowering::scalar(Value original) {
  for (const auto &scope : llvm::reverse(scopes))
    if (auto it = scope->scalars.find(original); it != scope->scalars.end())
      return it->second;
  Operation *op = original.getDefiningOp(); // later in the text, but wanted now
  if (!op || !isMemoryEffectFree(op))
    throw Unsupported{op ? op : kernel, "a scalar from here"};
  lowerScalar(op);
  return scalar(original);
}

//===- Memory -----------------------------------------------------------------------------------------------------===//

// More than this in all goes to the heap, the largest first: threads of a pool may have small stacks.
constexpr int64_t stackBytes = 64 * 1024;

Buffer KernelLowering::allocate(ArrayRef<int64_t> shape, Type element) {
  at(0);
  int64_t count = ShapedType::getNumElements(shape);
  Type pointer = LLVM::LLVMPointerType::get(builder.getContext());
  // Its elements are said to be bytes, so that LLVM sees the accesses' types, not the buffer's.
  int64_t bytes = llvm::alignTo(count * bytesOf(element), 8);
  Value memory =
      LLVM::AllocaOp::create(builder, loc, pointer, LLVM::LLVMArrayType::get(builder.getI8Type(), bytes), i64(1), 64);
  allocations.emplace_back(memory, bytes);
  return Buffer{memory, SmallVector<int64_t, 4>(shape), element};
}

void KernelLowering::placeBuffers(scf::ForOp programs) {
  int64_t total = 0;
  for (auto [memory, bytes] : allocations)
    total += bytes;
  if (total <= stackBytes)
    return;
  SmallVector<size_t> largestFirst = llvm::to_vector(llvm::seq<size_t>(0, allocations.size()));
  llvm::sort(largestFirst, [&](size_t a, size_t b) {
    return std::pair(-allocations[a].second, a) < std::pair(-allocations[b].second, b);
  });
  Type pointer = LLVM::LLVMPointerType::get(builder.getContext()), word = builder.getI64Type();
  Block &entry = function.getBody().front();
  builder.setInsertionPointToStart(&entry);
  int64_t heap = 0;
  SmallVector<std::pair<Value, int64_t>> moved;
  for (size_t i : largestFirst) {
    auto [memory, bytes] = allocations[i];
    if (total <= stackBytes)
      break;
    total -= bytes;
    moved.emplace_back(memory, heap);
    heap += llvm::alignTo(bytes, 64);
  }
  auto number = [&](int64_t value) {
    return arith::ConstantOp::create(builder, loc, builder.getI64IntegerAttr(value)).getResult();
  };
  LLVM::LLVMFuncOp allocator = runtimeFunction("aligned_alloc", {word, word}, pointer);
  allocator.setResultAttr(0, LLVM::LLVMDialect::getNoAliasAttrName(), builder.getUnitAttr());
  Value block = LLVM::CallOp::create(builder, loc, allocator, ValueRange{number(64), number(heap)}).getResult();
  for (auto [memory, offset] : moved) {
    Value part = LLVM::GEPOp::create(builder, loc, pointer, builder.getI8Type(), block, ValueRange{number(offset)});
    memory.replaceAllUsesWith(part);
    memory.getDefiningOp()->erase();
  }
  // Without memory no program runs.
  Value none = LLVM::ZeroOp::create(builder, loc, pointer);
  Value failed = LLVM::ICmpOp::create(builder, loc, LLVM::ICmpPredicate::eq, block, none);
  Value text = cString("out of memory for the tiles of " + kernel.getSymName().str());
  text.getDefiningOp()->moveAfter(failed.getDefiningOp());
  builder.setInsertionPointAfterValue(text);
  LLVM::LLVMFuncOp fail = runtimeFunction("bitloom_rt_assert", {pointer});
  auto branch = scf::IfOp::create(builder, loc, failed, /*withElseRegion=*/false);
  builder.setInsertionPointToStart(branch.thenBlock());
  LLVM::CallOp::create(builder, loc, fail, ValueRange{text});
  builder.setInsertionPoint(programs);
  Value end = arith::SelectOp::create(builder, loc, failed, programs.getLowerBound(), programs.getUpperBound());
  programs.setUpperBound(end);
  builder.setInsertionPoint(entry.getTerminator());
  LLVM::CallOp::create(builder, loc, runtimeFunction("free", {pointer}), ValueRange{block});
}

LLVM::LLVMFuncOp KernelLowering::runtimeFunction(StringRef name, ArrayRef<Type> parameters, Type result) {
  auto module = kernel->getParentOfType<ModuleOp>();
  if (auto known = module.lookupSymbol<LLVM::LLVMFuncOp>(name))
    return known;
  OpBuilder::InsertionGuard guard(builder);
  builder.setInsertionPointToStart(module.getBody());
  if (!result)
    result = LLVM::LLVMVoidType::get(builder.getContext());
  return LLVM::LLVMFuncOp::create(builder, module.getLoc(), name, LLVM::LLVMFunctionType::get(result, parameters));
}

Value KernelLowering::cString(StringRef text) {
  OpBuilder::InsertionGuard guard(builder);
  std::string name = (kernel.getSymName() + "_text" + Twine(names++)).str(), data = text.str();
  data.push_back('\0');
  builder.setInsertionPoint(function);
  auto type = LLVM::LLVMArrayType::get(builder.getI8Type(), data.size());
  auto global = LLVM::GlobalOp::create(builder, loc, type, /*isConstant=*/true, LLVM::Linkage::Internal, name,
                                       builder.getStringAttr(data));
  at(0);
  return LLVM::AddressOfOp::create(builder, loc, global);
}

Value KernelLowering::globalOf(DenseElementsAttr data, Type element) {
  OpBuilder::InsertionGuard guard(builder);
  std::string name = (kernel.getSymName() + "_data" + Twine(names++)).str();
  builder.setInsertionPoint(function);
  if (element.isInteger(1)) {
    SmallVector<int8_t> bytes;
    for (bool bit : data.getValues<bool>())
      bytes.push_back(bit);
    data = DenseElementsAttr::get(RankedTensorType::get({int64_t(bytes.size())}, builder.getI8Type()),
                                  ArrayRef<int8_t>(bytes));
  } else {
    data = data.reshape(RankedTensorType::get({data.getNumElements()}, element)).bitcast(stored(element));
  }
  auto type = LLVM::LLVMArrayType::get(stored(element), data.getNumElements());
  auto global =
      LLVM::GlobalOp::create(builder, loc, type, /*isConstant=*/true, LLVM::Linkage::Internal, name, data, 64);
  at(0);
  return LLVM::AddressOfOp::create(builder, loc, global);
}

//===- Operations one after another -------------------------------------------------------------------------------===//

void KernelLowering::lowerBlock(Block &block) {
  for (Operation &op : block.without_terminator()) {
    int outerStatement = statement, outerFloor = memoryFloor;
    Block *outerBlock = statementBlock;
    statement = memoryFloor = depth();
    statementBlock = &block;
    Operation *outerOp = std::exchange(statementOp, &op);
    loc = op.getLoc();
    for (Value tile : fusion.neededBefore(&op))
      if (!bufferOf(tile))
        materialise(tile);
    if (!isInline(&op))
      lowerOp(&op);
    statement = outerStatement;
    memoryFloor = outerFloor;
    statementBlock = outerBlock;
    statementOp = outerOp;
  }
}

void KernelLowering::lowerOp(Operation *op) {
  llvm::TypeSwitch<Operation *>(op)
      .Case([&](StoreOp op) { lowerStore(op); })
      .Case([&](ScatterOp op) { lowerScatter(op); })
      .Case([&](AtomicOp op) { lowerAtomic(op); })
      .Case([&](ReduceOp op) { lowerReduce(op); })
      .Case([&](ScanOp op) { lowerScan(op); })
      .Case([&](DotOp op) { lowerDot(op); })
      .Case([&](AssertOp op) { lowerAssert(op); })
      .Case([&](PrintOp op) { lowerPrint(op); })
      .Case([&](scf::ForOp op) { lowerFor(op); })
      .Case([&](scf::IfOp op) { lowerIf(op); })
      .Case([&](scf::WhileOp op) { lowerWhile(op); })
      .Default([&](Operation *op) { lowerScalar(op); });
}

void KernelLowering::lowerScalar(Operation *op) {
  if (auto id = dyn_cast<ProgramIdOp>(op))
    return bind(id, programIds[id.getAxis()]);
  if (auto count = dyn_cast<NumProgramsOp>(op))
    return bind(count, programCounts[count.getAxis()]);
  if (auto extent = dyn_cast<ExtentOp>(op))
    return bind(extent, view(extent.getView(), op).extents[extent.getDim()]);
  if (auto load = dyn_cast<LoadOp>(op))
    return bind(load, evaluateLoad(load, Place()));
  if (auto gather = dyn_cast<GatherOp>(op))
    return bind(gather, evaluateGather(gather, Place()));
  if (auto extract = dyn_cast<tensor::ExtractOp>(op)) {
    Place place;
    for (Value index : extract.getIndices()) {
      Value value = scalar(index);
      place.at.push_back({pure<arith::IndexCastOp>(value, builder.getI64Type(), value)});
    }
    return bind(extract, evaluate(extract.getTensor(), place));
  }
  if (op->getNumRegions() || llvm::any_of(op->getOperands(), isTile) || llvm::any_of(op->getResults(), isTile) ||
      isa<TileDialect>(op->getDialect()))
    throw Unsupported{op, "this operation"};
  SmallVector<Value> operands;
  for (Value operand : op->getOperands())
    operands.push_back(scalar(operand));
  if (!isMemoryEffectFree(op)) {
    here();
    IRMapping mapping;
    mapping.map(op->getOperands(), operands);
    Operation *copy = builder.clone(*op, mapping);
    for (auto [from, to] : llvm::zip(op->getResults(), copy->getResults()))
      bind(from, to);
    return;
  }
  SmallVector<Value> results = clone(op, operands, 1);
  for (auto [from, to] : llvm::zip(op->getResults(), results))
    bind(from, to);
}

//===- For people -------------------------------------------------------------------------------------------------===//

static FileLineColLoc lineOf(Location loc) {
  FileLineColLoc found;
  loc->walk([&](Location part) {
    found = dyn_cast<FileLineColLoc>(part);
    return found ? WalkResult::interrupt() : WalkResult::advance();
  });
  return found;
}

void KernelLowering::lowerAssert(AssertOp op) {
  Value holds;
  if (!isTile(op.getCondition())) {
    holds = scalar(op.getCondition());
  } else {
    ArrayRef<int64_t> shape = shapeOf(op.getCondition().getType());
    Buffer all = allocate({1}, builder.getI1Type());
    Place only{{Coord()}};
    write(all, only, i1(true));
    int dim = vectorDim(shape);
    int64_t width = dim < 0 ? 1 : lanesFor(op.getCondition(), shape[dim]);
    nest(
        shape, width, 1, [&](const Place &place) -> Values { return {evaluate(op.getCondition(), place)}; },
        [&](const Place &, ValueRange values) {
          Value every = values[0];
          here();
          if (lanesOf(every) > 1)
            every = vector::ReductionOp::create(builder, loc, vector::CombiningKind::AND, every);
          Value before = LLVM::LoadOp::create(builder, loc, builder.getI8Type(), all.pointer, 1);
          write(all, only, andI(fromStored(before, builder.getI1Type()), every));
        });
    here();
    holds = fromStored(LLVM::LoadOp::create(builder, loc, builder.getI8Type(), all.pointer, 1), builder.getI1Type());
  }
  std::string message = op.getMessage().str();
  if (FileLineColLoc line = lineOf(op.getLoc()))
    message = (line.getFilename().getValue() + ":" + Twine(line.getLine()) + ": " + message).str();
  Value text = cString(message);
  LLVM::LLVMFuncOp fail = runtimeFunction("bitloom_rt_assert", {LLVM::LLVMPointerType::get(builder.getContext())});
  Value fails = pure<arith::XOrIOp>(holds, holds, i1(true));
  here();
  bool outermost = op->getParentOp() == kernel;
  auto branch = scf::IfOp::create(builder, loc, fails, /*withElseRegion=*/outermost);
  builder.setInsertionPointToStart(branch.thenBlock());
  LLVM::CallOp::create(builder, loc, fail, ValueRange{text});
  if (outermost) // what follows is not run; inside a loop it is, which harms nobody, since every access is checked
    open(branch.elseBlock(), branch);
}

static std::optional<DType> dtypeOf(Type type, bool isUnsigned) {
  if (type.isF16())
    return DType::f16;
  if (type.isBF16())
    return DType::bf16;
  if (type.isF32())
    return DType::f32;
  if (type.isF64())
    return DType::f64;
  if (isa<Float8E4M3FNType>(type))
    return DType::f8e4m3;
  if (isa<Float8E5M2Type>(type))
    return DType::f8e5m2;
  if (type.isInteger(1))
    return DType::b1;
  if (type.isInteger(8))
    return isUnsigned ? DType::u8 : DType::i8;
  if (type.isInteger(16))
    return isUnsigned ? DType::u16 : DType::i16;
  if (type.isInteger(32))
    return isUnsigned ? DType::u32 : DType::i32;
  if (type.isInteger(64))
    return isUnsigned ? DType::u64 : DType::i64;
  return {};
}

void KernelLowering::lowerPrint(PrintOp op) {
  Value value = op.getValue();
  Type element = elementOf(value.getType());
  std::optional<DType> dtype = dtypeOf(element, op.getIsUnsigned());
  if (!dtype)
    throw Unsupported{op, "printing elements of this type"};
  Buffer data;
  if (isTile(value)) {
    data = bufferOf(value) ? *bufferOf(value) : materialise(value);
  } else {
    data = allocate({}, element);
    write(data, Place(), scalar(value));
  }
  Type pointer = LLVM::LLVMPointerType::get(builder.getContext()), i32 = builder.getI32Type(),
       i64Type = builder.getI64Type();
  SmallVector<int64_t> extents(data.shape.begin(), data.shape.end());
  if (extents.empty())
    extents.push_back(1);
  Value shape = globalOf(
      DenseElementsAttr::get(RankedTensorType::get({int64_t(extents.size())}, i64Type), ArrayRef<int64_t>(extents)),
      i64Type);
  LLVM::LLVMFuncOp print = runtimeFunction("bitloom_rt_print", {pointer, i32, pointer, i64Type, pointer});
  Value kind = constant(builder.getI32IntegerAttr(int32_t(*dtype)));
  Value label = cString(op.getLabel()), rank = i64(data.shape.size());
  here();
  LLVM::CallOp::create(builder, loc, print, ValueRange{label, kind, data.pointer, rank, shape});
}

} // namespace bitloom::loops
