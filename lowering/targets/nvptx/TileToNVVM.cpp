// Dispatches each operation of a kernel to its lowering, and lowers control flow, constants and elementwise operations.
// The result holds llvm, nvvm, arith and scf operations on scalars.
#include "bitloom/lib/support/Error.h"
#include "bitloom/lowering/Passes.h"
#include "bitloom/lowering/targets/nvptx/Emitter.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/LLVMIR/NVVMDialect.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/IRMapping.h"
#include "llvm/ADT/TypeSwitch.h"

namespace bitloom {
#define GEN_PASS_DEF_TILETONVVM
#include "lowering/Passes.h.inc"
} // namespace bitloom

using namespace mlir;
using namespace bitloom;
using namespace bitloom::nvptx;

//===- Control flow -----------------------------------------------------------------------------------------------===//

Registers Emitter::expand(ValueRange values) {
  Registers all;
  for (Value value : values)
    llvm::append_range(all, get(value));
  return all;
}

SmallVector<Type> Emitter::expandedTypes(TypeRange types) {
  SmallVector<Type> all;
  for (Type type : types)
    all.append(registersOf(type), registerType(tile::elementOf(type)));
  return all;
}

void Emitter::bind(ValueRange owners, ValueRange values) {
  for (Value owner : owners) {
    int count = registersOf(owner.getType());
    put(owner, Registers(values.take_front(count)));
    values = values.drop_front(count);
  }
}

// How many words a tile of narrow elements fills; 0 where its registers are carried as they are.
static int64_t wordsOf(Type type, int registers) {
  Type element = tile::elementOf(type);
  unsigned bits = isa<RankedTensorType>(type) ? element.getIntOrFloatBitWidth() : 0;
  return (bits == 8 || bits == 16) && registers * bits % 32 == 0 ? registers * bits / 32 : 0;
}

Registers Emitter::carried(ValueRange values) {
  Registers all;
  for (Value value : values)
    if (wordsOf(value.getType(), registersOf(value.getType())))
      llvm::append_range(all, packWords(*this, get(value)));
    else
      llvm::append_range(all, get(value));
  return all;
}

void Emitter::bindCarried(ValueRange owners, ValueRange values) {
  for (Value owner : owners) {
    int count = registersOf(owner.getType());
    int64_t words = wordsOf(owner.getType(), count);
    ValueRange own = values.take_front(words ? words : count);
    put(owner, words ? unpackWords(*this, own, tile::elementOf(owner.getType()), count) : Registers(own));
    values = values.drop_front(own.size());
  }
}

LogicalResult Emitter::emitFor(Operation *op) {
  auto loop = cast<scf::ForOp>(op);
  // Where its first iteration frees no slot, LLVM would peel it off if it knew which that is, and zeros would be put in
  // accumulators while dots are under way.
  Value start = scalar(loop.getLowerBound());
  if (sharesSteps && !loop.getBody()->getOps<tile::FrontOp>().empty())
    start = ptx("mov.b64 $0, $1;", "=l,l", start.getType(), {start}, /*hasSideEffects=*/false);
  auto lowered = scf::ForOp::create(builder, loc, start, scalar(loop.getUpperBound()), scalar(loop.getStep()),
                                    carried(loop.getInitArgs()), {}, loop.getUnsignedCmp());
  {
    OpBuilder::InsertionGuard guard(builder);
    Block &body = *lowered.getBody();
    if (!body.empty())
      body.back().erase(); // the implicit yield of a loop that carries nothing
    builder.setInsertionPointToEnd(&body);
    put(loop.getInductionVar(), {lowered.getInductionVar()});
    bindCarried(loop.getRegionIterArgs(), lowered.getRegionIterArgs());
    ++loopDepth;
    if (failed(emitBlock(*loop.getBody())))
      return failure();
    --loopDepth;
    scf::YieldOp::create(builder, loc, carried(loop.getYieldedValues()));
  }
  bindCarried(loop.getResults(), lowered.getResults());
  // A loop around would fill the ring anew while some threads are still at its last slots.
  if (!isSpecialized && loopDepth && !loop.getBody()->getOps<tile::FrontOp>().empty())
    barrier();
  return success();
}

LogicalResult Emitter::emitWhile(Operation *op) {
  auto loop = cast<scf::WhileOp>(op);
  auto lowered = scf::WhileOp::create(builder, loc, expandedTypes(loop.getResultTypes()), expand(loop.getInits()));
  {
    OpBuilder::InsertionGuard guard(builder);
    auto start = [&](Region &region, ValueRange owners) {
      SmallVector<Type> types = expandedTypes(owners.getTypes());
      Block *block = builder.createBlock(&region, {}, types, SmallVector<Location>(types.size(), loc));
      bind(owners, block->getArguments());
    };
    ++loopDepth;
    start(lowered.getBefore(), loop.getBeforeArguments());
    if (failed(emitBlock(*loop.getBeforeBody())))
      return failure();
    scf::ConditionOp::create(builder, loc, scalar(loop.getConditionOp().getCondition()),
                             expand(loop.getConditionOp().getArgs()));
    start(lowered.getAfter(), loop.getAfterArguments());
    if (failed(emitBlock(*loop.getAfterBody())))
      return failure();
    scf::YieldOp::create(builder, loc, expand(loop.getYieldOp().getOperands()));
    --loopDepth;
  }
  bind(loop.getResults(), lowered.getResults());
  return success();
}

LogicalResult Emitter::emitIf(Operation *op) {
  auto branch = cast<scf::IfOp>(op);
  bool hasElse = !branch.getElseRegion().empty();
  auto lowered = scf::IfOp::create(builder, loc, expandedTypes(branch.getResultTypes()), scalar(branch.getCondition()),
                                   /*addThenBlock=*/true, /*addElseBlock=*/hasElse);
  auto fill = [&](Region &from, Region &to) -> LogicalResult {
    OpBuilder::InsertionGuard guard(builder);
    Block &body = to.front();
    if (!body.empty())
      body.back().erase();
    builder.setInsertionPointToEnd(&body);
    if (failed(emitBlock(from.front())))
      return failure();
    scf::YieldOp::create(builder, loc, expand(from.front().getTerminator()->getOperands()));
    return success();
  };
  if (failed(fill(branch.getThenRegion(), lowered.getThenRegion())))
    return failure();
  if (hasElse && failed(fill(branch.getElseRegion(), lowered.getElseRegion())))
    return failure();
  bind(branch.getResults(), lowered.getResults());
  // A group a step, of whose copies there may be none: so that waiting for all but the last few works to the end.
  if (!isSpecialized && !branch.thenBlock()->getOps<tile::FillOp>().empty())
    ptx("cp.async.commit_group;", "~{memory}", Type(), {}, /*hasSideEffects=*/true);
  return success();
}

//===- Elementwise ------------------------------------------------------------------------------------------------===//

LogicalResult Emitter::emitConstant(Operation *op) {
  auto constant = cast<arith::ConstantOp>(op);
  auto tensor = dyn_cast<RankedTensorType>(constant.getType());
  auto scalarOf = [&](TypedAttr value) -> Value {
    if (isFloat8(value.getType()))
      value = builder.getI8IntegerAttr(int8_t(cast<FloatAttr>(value).getValue().bitcastToAPInt().getZExtValue()));
    return arith::ConstantOp::create(builder, loc, value);
  };
  if (!tensor) {
    put(constant, {scalarOf(constant.getValue())});
    return success();
  }
  auto values = dyn_cast<DenseElementsAttr>(constant.getValue());
  if (!values)
    return constant.emitOpError() << "expected dense elements on NVIDIA targets";
  Type element = tensor.getElementType();
  int count = registersOf(tensor);
  if (values.isSplat()) {
    put(constant, Registers(count, scalarOf(values.getSplatValue<TypedAttr>())));
    return success();
  }
  const LinearLayout &held = layout(tensor);
  Value base = globalConstant(values);
  Registers registers;
  for (int r = 0; r < count; ++r) {
    if (isDead(held, tensor.getShape(), r)) {
      registers.push_back(zero(element));
      continue;
    }
    SmallVector<Value> at;
    for (auto [d, extent] : llvm::enumerate(tensor.getShape())) {
      Value index = coordinate(held, d, r);
      if (!isInside(registerCoordinates(held)[r][d], threadBits(held, d), extent)) // padding reads the last element
        index = arith::MinUIOp::create(builder, loc, index, i32(extent - 1));
      at.push_back(index);
    }
    registers.push_back(sharedLoad(sharedAddress(base, flatIndex(*this, at, tensor.getShape()), element), element));
  }
  put(constant, registers);
  return success();
}

// iota < count of i32, with the register's share of the index on the scalar's side: a scalar costs no thread a
// register, while indices, needed again for every mask, would each stay in one.
bool Emitter::emitRangeTest(Operation *op) {
  auto compare = dyn_cast<arith::CmpIOp>(op);
  auto iota = compare ? compare.getLhs().getDefiningOp<tile::IotaOp>() : nullptr;
  auto count = compare ? compare.getRhs().getDefiningOp<tensor::SplatOp>() : nullptr;
  if (!iota || !count || !tile::elementOf(iota.getType()).isInteger(32) ||
      (compare.getPredicate() != arith::CmpIPredicate::slt && compare.getPredicate() != arith::CmpIPredicate::sge))
    return false;
  const LinearLayout &held = layout(iota.getType());
  Value positive =
      arith::MaxSIOp::create(builder, loc, scalar(count.getInput()), i32(0)); // so that nothing wraps below
  Registers registers;
  for (const LinearLayout::Vector &own : registerCoordinates(held)) {
    if (own[0] & threadBits(held, 0))
      return false;
    Value left = arith::SubIOp::create(builder, loc, positive, i32(own[0]));
    registers.push_back(compare.getPredicate() == arith::CmpIPredicate::slt
                            ? this->compare(threadCoordinate(held, 0), "slt", left)
                            : this->compare(threadCoordinate(held, 0), "sge", left));
  }
  put(compare, registers);
  return true;
}

// The dim of a tile along which it counts up from 0; nothing where it does not.
static std::optional<int> countsAlong(Value tile) {
  if (tile.getDefiningOp<tile::IotaOp>())
    return 0;
  if (auto broadcast = tile.getDefiningOp<tile::BroadcastOp>())
    return countsAlong(broadcast.getSource());
  auto reshape = tile.getDefiningOp<tile::ReshapeOp>();
  if (!reshape || !countsAlong(reshape.getSource()))
    return std::nullopt;
  ArrayRef<int64_t> from = tile::shapeOf(reshape.getSource().getType()), to = tile::shapeOf(reshape.getType());
  auto extent = [](ArrayRef<int64_t> shape) { return llvm::find_if(shape, [](int64_t n) { return n > 1; }); };
  const auto one = extent(from), other = extent(to);
  if (one == from.end() || other == to.end() || *one != *other || ShapedType::getNumElements(from) != *one)
    return std::nullopt;
  return int(other - to.begin());
}

// Indices that are compared with one number: what that is past the thread's first index is compared with each
// register's share, which is a constant.
bool Emitter::emitIndexTest(Operation *op) {
  auto compare = dyn_cast<arith::CmpIOp>(op);
  const std::optional<int> dim = compare ? countsAlong(compare.getLhs()) : std::nullopt;
  if (!dim || !tile::elementOf(compare.getLhs().getType()).isInteger(32) ||
      (compare.getPredicate() != arith::CmpIPredicate::eq && compare.getPredicate() != arith::CmpIPredicate::ne))
    return false;
  const Registers &numbers = get(compare.getRhs());
  const LinearLayout &held = layout(compare.getLhs().getType());
  const std::vector<LinearLayout::Vector> &own = registerCoordinates(held);
  if (!llvm::all_equal(numbers) ||
      llvm::any_of(own, [&](const LinearLayout::Vector &at) { return at[size_t(*dim)] & threadBits(held, *dim); }))
    return false;
  Value past = arith::SubIOp::create(builder, loc, numbers.front(), threadCoordinate(held, *dim));
  Registers registers;
  for (const LinearLayout::Vector &at : own)
    registers.push_back(
        arith::CmpIOp::create(builder, loc, compare.getPredicate(), past, i32(at[size_t(*dim)])).getResult());
  put(compare, registers);
  return true;
}

// Whether registers 2i and 2i + 1 hold the halves of one word: numbers that were packed values.
static bool liesInWords(Value tile) {
  Operation *producer = tile.getDefiningOp();
  if (isa_and_present<arith::UIToFPOp, arith::SIToFPOp>(producer))
    return tile::elementOf(producer->getOperand(0).getType()).isInteger(8);
  if (auto lut = dyn_cast_or_null<tile::LutOp>(producer))
    return isLookupByWords(lut);
  return isa_and_present<arith::AddFOp, arith::SubFOp, arith::MulFOp>(producer) &&
         llvm::any_of(producer->getOperands(), liesInWords);
}

// Sums and products of 16-bit numbers a word at a time.
static bool lowerInWords(Emitter &e, Operation *op) {
  auto type = dyn_cast<RankedTensorType>(op->getResult(0).getType());
  if (!type || !isa<arith::AddFOp, arith::SubFOp, arith::MulFOp>(op) || bytesOf(type.getElementType()) != 2 ||
      e.registersOf(type) % 2 || !llvm::any_of(op->getOperands(), liesInWords))
    return false;
  OpBuilder &b = e.builder;
  auto pair = VectorType::get({2}, type.getElementType());
  SmallVector<Value> words[2];
  for (int i : {0, 1})
    for (Value word : packWords(e, e.get(op->getOperand(i))))
      words[i].push_back(LLVM::BitcastOp::create(b, e.loc, pair, word));
  SmallVector<Value> results;
  for (auto [left, right] : llvm::zip(words[0], words[1])) {
    Operation *copy = b.create(e.loc, op->getName().getIdentifier(), {left, right}, TypeRange(pair));
    results.push_back(LLVM::BitcastOp::create(b, e.loc, b.getI32Type(), copy->getResult(0)));
  }
  e.put(op->getResult(0), unpackWords(e, results, type.getElementType(), e.registersOf(type)));
  return true;
}

LogicalResult Emitter::emitElementwise(Operation *op) {
  auto division = dyn_cast<arith::DivFOp>(op);
  if (emitRangeTest(op) || emitIndexTest(op) || (division && lowerDivision(*this, division)) ||
      lowerPackedCast(*this, op) || lowerInWords(*this, op))
    return success();
  if (isa<arith::ExtFOp, arith::TruncFOp, arith::SIToFPOp, arith::UIToFPOp>(op))
    if (FailureOr<bool> done = lowerFloat8Cast(*this, op); failed(done) || *done)
      return success(succeeded(done));
  Type type = op->getResult(0).getType();
  SmallVector<Registers> results(op->getNumResults());
  for (int r = 0, count = registersOf(type); r < count; ++r) {
    if (auto tensor = dyn_cast<RankedTensorType>(type); tensor && isDead(layout(tensor), tensor.getShape(), r)) {
      for (auto [result, registers] : llvm::zip(op->getResults(), results))
        registers.push_back(zero(tile::elementOf(result.getType())));
      continue;
    }
    SmallVector<Value> operands;
    for (Value operand : op->getOperands())
      operands.push_back(get(operand)[isa<RankedTensorType>(operand.getType()) ? r : 0]);
    if (op->getNumResults() == 1) {
      FailureOr<Value> special = lowerMath(*this, op, operands);
      if (failed(special))
        return failure();
      if (*special) {
        results[0].push_back(*special);
        continue;
      }
    }
    IRMapping mapping;
    mapping.map(op->getOperands(), operands);
    Operation *copy = builder.clone(*op, mapping);
    for (auto [result, registers] : llvm::zip(copy->getResults(), results)) {
      result.setType(registerType(tile::elementOf(result.getType())));
      registers.push_back(result);
    }
  }
  for (auto [result, registers] : llvm::zip(op->getResults(), results))
    put(result, registers);
  return success();
}

Registers Emitter::combine(Region &combiner, ValueRange left, ValueRange right) {
  Block &body = combiner.front();
  for (auto [argument, value] : llvm::zip(body.getArguments().take_front(left.size()), left))
    put(argument, {value});
  for (auto [argument, value] : llvm::zip(body.getArguments().drop_front(left.size()), right))
    put(argument, {value});
  if (failed(emitBlock(body)))
    throw InternalError("a combiner that cannot be lowered");
  Registers results;
  for (Value value : body.getTerminator()->getOperands())
    results.push_back(scalar(value));
  return results;
}

//===- Dispatch ---------------------------------------------------------------------------------------------------===//

Value Emitter::programId(int axis) {
  if (!programIds.empty())
    return programIds[axis];
  Type word = builder.getI32Type();
  if (axis == 0)
    return NVVM::BlockIdXOp::create(builder, loc, word);
  if (axis == 1)
    return NVVM::BlockIdYOp::create(builder, loc, word);
  return NVVM::BlockIdZOp::create(builder, loc, word);
}

Value Emitter::gridExtent(int axis) {
  if (!gridExtents.empty())
    return gridExtents[axis];
  Type word = builder.getI32Type();
  if (axis == 0)
    return NVVM::GridDimXOp::create(builder, loc, word);
  if (axis == 1)
    return NVVM::GridDimYOp::create(builder, loc, word);
  return NVVM::GridDimZOp::create(builder, loc, word);
}

static LogicalResult emitIota(Emitter &emitter, tile::IotaOp iota) {
  const LinearLayout &layout = emitter.layout(iota.getType());
  Type element = tile::elementOf(iota.getType());
  unsigned width = element.getIntOrFloatBitWidth();
  Registers registers;
  for (int r = 0; r < emitter.registersOf(iota.getType()); ++r) {
    Value index = emitter.coordinate(layout, 0, r);
    if (width > 32)
      index = arith::ExtUIOp::create(emitter.builder, emitter.loc, element, index);
    if (width < 32)
      index = arith::TruncIOp::create(emitter.builder, emitter.loc, element, index);
    registers.push_back(index);
  }
  emitter.put(iota, registers);
  return success();
}

LogicalResult Emitter::emit(Operation *op) {
  for (Type type : op->getResultTypes()) {
    if (isa<RankedTensorType>(type) && !hasLayout(type))
      return op->emitOpError() << "expected a result with a layout (run tile-assign-layouts first), got " << type;
    if (isa<FloatType>(tile::elementOf(type)) && !type.isIndex())
      if (Type element = tile::elementOf(type);
          !element.isF16() && !element.isBF16() && !element.isF32() && !element.isF64() && !isFloat8(element))
        return op->emitOpError() << "expected f16, bf16, f32, f64, f8E4M3FN or f8E5M2 on NVIDIA targets, got "
                                 << element;
  }
  bool computes = isa<arith::ArithDialect, math::MathDialect>(op->getDialect()) &&
                  !isa<arith::ExtFOp, arith::TruncFOp, arith::BitcastOp, arith::SelectOp, arith::ConstantOp>(op);
  if (computes || isa<tile::AtomicOp>(op))
    for (Value operand : op->getOperands())
      if (Type element = getElementTypeOrSelf(operand.getType()); isFloat8(element))
        return op->emitOpError() << "expected elements to compute with, got " << element << "; cast them first";
  loc = op->getLoc();
  auto widen = [&](Value word) -> Value { return arith::ExtUIOp::create(builder, loc, builder.getI64Type(), word); };
  return llvm::TypeSwitch<Operation *, LogicalResult>(op)
      .Case<tile::LoadOp, tile::StoreOp, tile::GatherOp, tile::ScatterOp, tile::AtomicOp, tile::ReduceOp, tile::ScanOp,
            tile::ConvertLayoutOp, tile::ReshapeOp, tile::TransposeOp, tile::BroadcastOp, tile::JoinOp, tile::SplitOp,
            tile::SliceOp, tile::UnpackOp, tile::PackOp, tile::LutOp, tile::DotOp, tile::DotWaitOp, tile::ClusterRankOp,
            tile::ClusterSumOp, tile::ShareOp, tile::ShareSumOp, tile::TakeTurnOp, tile::PassTurnOp, tile::AwaitGroupOp,
            tile::AdmitGroupOp, tile::RingOp, tile::FillOp, tile::FrontOp, tile::PopOp, tile::PrintOp, tile::AssertOp>(
          [&](auto known) { return lower(*this, known); })
      .Case([&](tile::ProgramIdOp id) { return put(id, {widen(programId(id.getAxis()))}), success(); })
      .Case([&](tile::NumProgramsOp count) { return put(count, {widen(gridExtent(count.getAxis()))}), success(); })
      .Case([&](tile::ExtentOp extent) {
        return put(extent, {view(extent.getView()).extents[extent.getDim()]}), success();
      })
      .Case([&](tile::SpecializeOp specialize) { return emitSpecialize(specialize); })
      .Case([&](tile::IotaOp iota) { return emitIota(*this, iota); })
      .Case([&](tensor::SplatOp splat) {
        return put(splat, Registers(registersOf(splat.getType()), scalar(splat.getInput()))), success();
      })
      .Case([&](arith::ConstantOp constant) { return emitConstant(constant); })
      .Case([&](scf::ForOp loop) { return emitFor(loop); })
      .Case([&](scf::WhileOp loop) { return emitWhile(loop); })
      .Case([&](scf::IfOp branch) { return emitIf(branch); })
      .Default([&](Operation *other) -> LogicalResult {
        if (other->getNumResults() && isa<arith::ArithDialect, math::MathDialect>(other->getDialect()))
          return emitElementwise(other);
        return other->emitOpError() << "is not supported on NVIDIA targets";
      });
}

// What is gathered is read by other threads than write it, and two views of one type may be the same: none writes
// before all have read. (Elements of loads and stores are each one thread's.) A reduction between, in which all meet,
// is as good as a barrier; between blocks, if the elements are there by then.
void Emitter::orderGathers(Block &block) {
  SmallVector<tile::GatherOp> pending;
  tile::ReduceOp meeting; // the last one since all of these
  for (Operation &op : block.without_terminator()) {
    if (auto reduce = dyn_cast<tile::ReduceOp>(op); reduce && meetsAll(*this, reduce))
      meeting = reduce;
    bool overwrites = false, gathers = false;
    op.walk([&](Operation *inner) {
      auto isPending = [&](Type view) {
        return llvm::any_of(pending, [&](tile::GatherOp gather) { return gather.getView().getType() == view; });
      };
      if (auto store = dyn_cast<tile::StoreOp>(inner))
        overwrites |= isPending(store.getView().getType());
      if (auto scatter = dyn_cast<tile::ScatterOp>(inner))
        overwrites |= isPending(scatter.getView().getType());
    });
    if (overwrites) {
      if (meeting && llvm::all_of(pending, [&](tile::GatherOp gather) { return gather->getBlock() == &block; }))
        readBefore[meeting] = pending;
      else
        waitsForGathers.insert(&op);
      pending.clear();
    }
    op.walk([&](tile::GatherOp gather) {
      pending.push_back(gather);
      gathers = true;
    });
    if (gathers)
      meeting = nullptr;
  }
}

LogicalResult Emitter::emitBlock(Block &block) {
  if (!isSpecialized)
    orderGathers(block);
  for (Operation &op : block.without_terminator()) {
    if (waitsForGathers.contains(&op)) {
      loc = op.getLoc();
      if (spansCluster()) {
        awaitClusterStart();
        meetCluster();
      } else {
        barrier();
      }
    }
    if (failed(emit(&op)))
      return failure();
  }
  loc = block.getTerminator()->getLoc();
  return success();
}

namespace {

struct TileToNVVM : bitloom::impl::TileToNVVMBase<TileToNVVM> {
  using TileToNVVMBase::TileToNVVMBase;

  void runOnOperation() override {
    ModuleOp module = getOperation();
    for (auto func : llvm::make_early_inc_range(module.getOps<func::FuncOp>())) {
      if (!func->hasAttr(tile::kernelAttr))
        continue;
      // A UserError of a lowering (too much shared memory, say) is reported at the operation being lowered.
      try {
        Emitter emitter(func, parseTarget(target));
        try {
          if (failed(emitter.run()))
            return signalPassFailure();
        } catch (const std::exception &error) {
          emitError(emitter.loc) << error.what();
          return signalPassFailure();
        }
      } catch (const std::exception &error) {
        func.emitError() << error.what();
        return signalPassFailure();
      }
    }
  }
};

} // namespace
