// Step 2 of the assignment: where a tile's layout is not what an operation needs, its producer is repeated or it is
// converted.
#include "bitloom/lowering/targets/nvptx/Assignment.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/Builders.h"
#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;
using namespace bitloom;
using namespace bitloom::nvptx;

// Elements of a row that the registers of a thread, and then lanes side by side, have one after the other.
static int64_t elementsTogether(const LinearLayout &layout) {
  int32_t run = 1;
  for (const char *name : {reg, lane})
    for (const auto &in : layout.ins())
      for (bool grows = in.name == name; grows;) {
        LinearLayout::Vector next(layout.outs().size(), 0);
        next.back() = run;
        grows = llvm::is_contained(in.bases, next);
        run *= grows ? 2 : 1;
      }
  return run;
}

// A tile whose rows would be written in parts of the L2 cache's sectors, as values that lie as tensor cores take them
// or that were turned round, is coalesced first. Accumulators of dots go their own way, and blocks of a cluster, which
// have parts of a tile each, exchange none.
std::optional<LinearLayout> Assignment::coalesced(tile::StoreOp store) {
  constexpr int64_t sector = 32;
  auto view = cast<tile::ViewType>(store.getView().getType());
  Value value = store.getValue();
  const bool isShared = func->getAttrOfType<IntegerAttr>(tile::numWarpsAttr).getInt() != warps;
  if (!isTensor(value) || hasDots || isShared || view.getStrided() || store.getDims().empty() ||
      store.getDims().back() != view.getRank() - 1)
    return std::nullopt;
  const LinearLayout &layout = chosen.at(value);
  const int64_t bytes = bytesOf(view.getElementType()), alignment = alignmentOf(store.getView());
  if (layout.inSize(reg) == 1 || elementsTogether(layout) * bytes >= std::min(sector, shapeOf(value).back() * bytes))
    return std::nullopt;
  return canonicalLayout(shapeOf(value), std::max<int64_t>(1, std::min<int64_t>(16, alignment & -alignment) / bytes),
                         warps);
}

// What the operation needs its operand's layout to be, its results having theirs; none: any layout will do.
std::optional<LinearLayout> Assignment::needed(Operation *op, OpOperand &operand) {
  Value value = operand.get();
  if (auto found = anchored.find(&operand); found != anchored.end())
    return found->second;
  if (isa<scf::YieldOp, scf::ConditionOp>(op)) {
    Operation *parent = op->getParentOp();
    unsigned index = operand.getOperandNumber();
    if (auto loop = dyn_cast<scf::ForOp>(parent))
      return chosen.at(loop.getRegionIterArg(index));
    if (isa<scf::IfOp>(parent))
      return chosen.at(parent->getResult(index));
    auto loop = cast<scf::WhileOp>(parent);
    if (isa<scf::YieldOp>(op))
      return chosen.at(loop.getBeforeArguments()[index]);
    return chosen.at(loop.getAfterArguments()[index - 1]); // after the condition itself
  }
  if (auto loop = dyn_cast<scf::ForOp>(op))
    return chosen.at(loop.getTiedLoopRegionIterArg(&operand));
  if (auto loop = dyn_cast<scf::WhileOp>(op))
    return chosen.at(loop.getBeforeArguments()[operand.getOperandNumber()]);
  SmallVector<Value> same = tied(op);
  if (llvm::is_contained(same, value) && !(isa<tile::LutOp>(op) && operand.getOperandNumber() == 0) &&
      !(isa<tile::DotOp>(op) && operand.getOperandNumber() != 2))
    return chosen.at(same.front());
  return llvm::TypeSwitch<Operation *, std::optional<LinearLayout>>(op)
      .Case([&](tile::ReduceOp reduce) {
        const LinearLayout &source = chosen.at(reduce.getSources()[0]);
        return isReducible(source, reduce.getAxis()) ? source : canonicalLayout(shapeOf(value), 4, warps);
      })
      .Case([&](tile::BroadcastOp broadcast) { return broadcastSourceLayout(chosen.at(broadcast), shapeOf(value)); })
      .Case(
          [&](tile::ReshapeOp reshape) { return reshapedLayout(chosen.at(reshape), shapeOf(reshape), shapeOf(value)); })
      .Case([&](tile::TransposeOp transpose) {
        return untransposedLayout(chosen.at(transpose), transpose.getPermutation());
      })
      .Case([&](tile::JoinOp join) { return halvedLayout(chosen.at(join)); })
      .Case([&](tile::StoreOp store) { return coalesced(store); })
      .Case([&](tile::SplitOp split) {
        // As it is, if a register tells the halves apart.
        const LinearLayout &source = chosen.at(value), &half = chosen.at(split.getLhs());
        bool inRegisters = halvedLayout(source) == half;
        for (const auto &in : source.ins())
          for (const auto &basis : in.bases)
            inRegisters &= in.name == reg || basis.back() == 0;
        return inRegisters ? source : joinedLayout(half);
      })
      .Case([&](tile::UnpackOp unpack) {
        return bytesLayout(chosen.at(unpack), Packing::parse(unpack.getPacking().getSpelling()));
      })
      .Case([&](tile::PackOp pack) {
        return valuesLayout(chosen.at(pack), Packing::parse(pack.getPacking().getSpelling()));
      })
      .Default([](Operation *) { return std::nullopt; });
}

// Of the loops around a dot by mma.sync, the outermost that `value` does not change in: once in shared memory, it
// stays.
Operation *Assignment::outermostLoopWithout(tile::DotOp dot, Value value) {
  Operation *outermost = nullptr;
  if (!planWgmma(dot, target, warps))
    for (Operation *op = dot->getParentOp();
         isa<scf::ForOp, scf::WhileOp>(op) && !op->isAncestor(value.getParentRegion()->getParentOp());
         op = op->getParentOp())
      outermost = op;
  return outermost;
}

void Assignment::require(OpOperand &operand, const LinearLayout &layout) {
  Value value = operand.get();
  RankedTensorType type = withLayout(cast<RankedTensorType>(value.getType()), layout);
  if (type == value.getType())
    return;
  OpBuilder builder(operand.getOwner());
  Operation *producer = value.getDefiningOp();
  if (isSharedLayout(layout) && isa<tile::DotOp>(operand.getOwner()))
    if (Operation *loop = outermostLoopWithout(cast<tile::DotOp>(operand.getOwner()), value))
      builder.setInsertionPoint(loop);
  if (producer && isa<tensor::SplatOp, tile::IotaOp, arith::ConstantOp>(producer) && !isSharedLayout(layout)) {
    builder.setInsertionPoint(producer);
    Operation *copy = builder.clone(*producer);
    copy->getResult(0).setType(type);
    if (auto constant = dyn_cast<arith::ConstantOp>(copy))
      constant.setValueAttr(cast<DenseElementsAttr>(constant.getValue()).reshape(type));
    operand.set(copy->getResult(0));
    return;
  }
  operand.set(tile::ConvertLayoutOp::create(builder, operand.getOwner()->getLoc(), type, value));
}

// The operation can give its result in `actual` alone: its users get the chosen layout by conversion.
void Assignment::force(Value result, const LinearLayout &actual) {
  auto wanted = cast<RankedTensorType>(result.getType()), type = withLayout(wanted, actual);
  if (type == wanted)
    return;
  OpBuilder builder(result.getContext());
  builder.setInsertionPointAfter(result.getDefiningOp());
  result.setType(type);
  auto converted = tile::ConvertLayoutOp::create(builder, result.getLoc(), wanted, result);
  result.replaceAllUsesExcept(converted, converted);
}

void Assignment::settle(Operation *op) {
  for (OpOperand &operand : op->getOpOperands())
    if (isTensor(operand.get()))
      if (std::optional<LinearLayout> layout = needed(op, operand))
        require(operand, *layout);
  if (auto reduce = dyn_cast<tile::ReduceOp>(op); reduce && isTensor(reduce.getResult(0))) {
    Layouts layouts;
    LinearLayout actual = reducedLayout(layouts.of(reduce.getSources()[0].getType()), reduce.getAxis());
    for (Value result : reduce.getResults())
      force(result, actual);
  }
  if (auto constant = dyn_cast<arith::ConstantOp>(op); constant && isTensor(constant))
    constant.setValueAttr(cast<DenseElementsAttr>(constant.getValue()).reshape(cast<ShapedType>(constant.getType())));
}
