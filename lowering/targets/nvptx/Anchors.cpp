// Step 0 of the assignment: what layouts the dots need, and where the copy engine or the threads bring their operands.
#include "bitloom/lowering/Explain.h"
#include "bitloom/lowering/targets/nvptx/Assignment.h"
#include "bitloom/lowering/targets/nvptx/Rewrites.h"

#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"

using namespace mlir;
using namespace bitloom;
using namespace bitloom::nvptx;

// Whether only dots by wgmma read the tile, past transposes.
bool Assignment::onlyWgmmaReads(Value tile) {
  return llvm::all_of(tile.getUsers(), [&](Operation *user) {
    if (auto dot = dyn_cast<tile::DotOp>(user))
      return planWgmma(dot, target, warps).has_value();
    return isa<tile::TransposeOp>(user) && onlyWgmmaReads(user->getResult(0));
  });
}

static bool isWritten(Value view) {
  return llvm::any_of(view.getUsers(),
                      [](Operation *user) { return isa<tile::StoreOp, tile::ScatterOp, tile::AtomicOp>(user); });
}

// Whether the producer, which is ahead of the others, can compute it: from nothing that the kernel writes.
static bool isKnownAhead(Value value, DenseSet<Value> &seen) {
  if (!seen.insert(value).second)
    return true;
  auto all = [&](ValueRange values) {
    return llvm::all_of(values, [&](Value other) { return isKnownAhead(other, seen); });
  };
  auto ofLoop = [&](scf::ForOp loop, unsigned index) {
    return all({loop.getInitArgs()[index], loop.getYieldedValues()[index]});
  };
  if (auto argument = dyn_cast<BlockArgument>(value)) {
    Operation *parent = argument.getOwner()->getParentOp();
    if (auto loop = dyn_cast<scf::ForOp>(parent))
      return all({loop.getLowerBound(), loop.getUpperBound(), loop.getStep()}) &&
             (argument.getArgNumber() == 0 || ofLoop(loop, argument.getArgNumber() - 1));
    return isa<func::FuncOp>(parent);
  }
  Operation *op = value.getDefiningOp();
  unsigned index = cast<OpResult>(value).getResultNumber();
  if (auto loop = dyn_cast<scf::ForOp>(op))
    return all({loop.getLowerBound(), loop.getUpperBound(), loop.getStep()}) && ofLoop(loop, index);
  if (auto branch = dyn_cast<scf::IfOp>(op))
    return all({branch.getCondition(), branch.thenYield().getOperand(index), branch.elseYield().getOperand(index)});
  if (auto load = dyn_cast<tile::LoadOp>(op))
    return !isWritten(load.getView()) && all(op->getOperands());
  if (auto gather = dyn_cast<tile::GatherOp>(op))
    return !isWritten(gather.getView()) && all(op->getOperands());
  return op->getNumRegions() == 0 && isMemoryEffectFree(op) && all(op->getOperands());
}

static bool isKnownAhead(tile::LoadOp load) {
  DenseSet<Value> seen;
  if (isWritten(load.getView()) ||
      !llvm::all_of(load.getOffsets(), [&](Value offset) { return isKnownAhead(offset, seen); }))
    return false;
  for (Operation *op = load->getParentOp(); !isa<func::FuncOp>(op); op = op->getParentOp()) {
    if (auto branch = dyn_cast<scf::IfOp>(op); branch && isKnownAhead(branch.getCondition(), seen))
      continue;
    if (auto loop = dyn_cast<scf::ForOp>(op); loop && isKnownAhead(loop.getInductionVar(), seen))
      continue;
    return false;
  }
  return true;
}

// Whether the copy engine may bring the load's tile to shared memory, by a warp of its own.
bool Assignment::isCopiedAhead(tile::LoadOp load) {
  auto hint = func->getAttrOfType<BoolAttr>(tile::warpSpecializeAttr);
  return !load.getOther() && isCopyable(load.getView(), load.getOffsets()) && (!hint || hint.getValue()) &&
         load.getDims().back() == cast<tile::ViewType>(load.getView().getType()).getRank() - 1 && isKnownAhead(load);
}

// The load that a dot's operand is, past transposes, and which dim of the operand its rows lie along.
static std::pair<tile::LoadOp, int> loadOf(OpOperand &operand) {
  Value value = operand.get();
  int contiguous = 1;
  while (auto transpose = value.getDefiningOp<tile::TransposeOp>()) {
    contiguous = 1 - contiguous;
    value = transpose.getSource();
  }
  return {value.getDefiningOp<tile::LoadOp>(), contiguous};
}

// Whether the copy engine can load it straight to shared memory, and the tile is of use to dots alone.
bool Assignment::isDirect(OpOperand &operand, int depthDim, const MmaAtom &atom) {
  auto [load, contiguous] = loadOf(operand);
  return load && onlyWgmmaReads(load) && isCopiedAhead(load) && (contiguous == depthDim || atom.mnMajor) &&
         sharedForm(shapeOf(operand.get()), contiguous, atom.bits / 8);
}

// Whether threads can copy it to shared memory ahead of its use.
bool Assignment::canThreadsCopy(OpOperand &operand, int depthDim, const MmaAtom &atom) {
  auto [load, contiguous] = loadOf(operand);
  return load && load->getBlock() == operand.getOwner()->getBlock() && (contiguous == depthDim || atom.mnMajor) &&
         sharedForm(shapeOf(operand.get()), contiguous, atom.bits / 8) &&
         planCopies(
             load,
             withLayout(cast<RankedTensorType>(load.getType()), sharedForm(shapeOf(load), 1, atom.bits / 8)->layout),
             warps);
}

// A load straight to shared memory, or by way of the threads: then its rows stay rows if wgmma takes them so.
void Assignment::anchorOperand(OpOperand &operand, int depthDim, const MmaAtom &atom, bool direct) {
  auto [load, contiguous] = loadOf(operand);
  if (!direct && !canThreadsCopy(operand, depthDim, atom))
    contiguous = depthDim;
  LinearLayout layout = sharedForm(shapeOf(operand.get()), contiguous, atom.bits / 8)->layout;
  anchored.insert({&operand, layout});
  for (Value at = operand.get(); direct;) {
    chosen.insert({at, layout});
    auto transpose = at.getDefiningOp<tile::TransposeOp>();
    if (!transpose)
      return;
    layout = untransposedLayout(layout, transpose.getPermutation());
    at = transpose.getSource();
  }
}

// Whether the results' elements are made of the operands' one by one, or of a table's.
static bool isElementwise(Operation *op) {
  return op->hasTrait<OpTrait::Elementwise>() || isa<tile::TransposeOp, tile::LutOp>(op);
}

// The tile of bytes that is unpacked, as it was loaded: before the rows of its blocks became rows of their own.
static Value loadedBytes(tile::UnpackOp unpack) {
  auto reshape = unpack.getBytes().getDefiningOp<tile::ReshapeOp>();
  return reshape && reshape->hasOneUse() ? reshape.getSource() : unpack.getBytes();
}

// The bytes that a dot's operand in registers is unpacked from wait in shared memory, where the copy engine can bring
// them there, and are read from it as the fragments need them.
void Assignment::anchorBytes(Value value) {
  Operation *producer = value.getDefiningOp();
  if (!producer)
    return;
  auto unpack = dyn_cast<tile::UnpackOp>(producer);
  if (!unpack) {
    if (isElementwise(producer))
      for (Value operand : producer->getOperands())
        anchorBytes(operand);
    return;
  }
  Value bytes = loadedBytes(unpack);
  auto load = bytes.getDefiningOp<tile::LoadOp>();
  if (!load || !llvm::all_of(bytes.getUsers(), llvm::IsaPred<tile::UnpackOp, tile::ReshapeOp>) || !isCopiedAhead(load))
    return;
  if (std::optional<SharedForm> form = sharedForm(shapeOf(bytes), 1, 1))
    set(bytes, form->layout);
}

// What scales the products of a step, where the copy engine brings the bytes that they are unpacked from: it comes
// along with them.
void Assignment::placeScales(tile::DotOp dot) {
  Block *block = dot->getBlock();
  if (!planWgmma(dot, target, warps) || unpackedDots(func).empty() || dot != *block->getOps<tile::DotOp>().begin())
    return;
  auto isCopied = [](tile::UnpackOp unpack) {
    auto convert = loadedBytes(unpack).getDefiningOp<tile::ConvertLayoutOp>();
    return convert && isShared(convert.getSource().getType());
  };
  if (!llvm::any_of(block->getOps<tile::UnpackOp>(), isCopied))
    return;
  for (auto load : llvm::make_early_inc_range(block->getOps<tile::LoadOp>())) {
    auto type = dyn_cast<RankedTensorType>(load.getType());
    if (!type || type.getRank() != 1 || !isCopiedAhead(load))
      continue;
    std::optional<SharedForm> form = sharedLine(type.getDimSize(0), int(bytesOf(type.getElementType())));
    if (!form)
      continue;
    load.getResult().setType(withLayout(type, form->layout));
    OpBuilder builder(dot); // after the loads, which one slot holds
    builder.setInsertionPointAfter(load);
    auto own = tile::ConvertLayoutOp::create(builder, load.getLoc(), type, load.getResult());
    load.getResult().replaceAllUsesExcept(own, own);
  }
}

bool nvptx::comesFromDot(Value value) {
  Operation *producer = value.getDefiningOp();
  if (!producer || isa<tile::DotOp>(producer))
    return producer;
  return producer->hasTrait<OpTrait::Elementwise>() && llvm::any_of(producer->getOperands(), comesFromDot);
}

// Rows of operands in shared memory are contiguous as they are in the view, if ldmatrix can turn them round.
void Assignment::anchorMma(tile::DotOp dot, const MmaPlan &plan) {
  set(dot.getResult(), plan.accumulator);
  for (OpOperand *operand : {&plan.rows(dot), &plan.columns(dot)}) {
    if (operand == &plan.rows(dot) && plan.form.alongN == 1 && comesFromDot(operand->get())) {
      anchored.insert({operand, plan.rowFragments(dot, warps)});
      continue;
    }
    int depthDim = operand->getOperandNumber() == 0 ? 1 : 0, contiguous = 1;
    for (Value value = operand->get(); auto transpose = value.getDefiningOp<tile::TransposeOp>();
         value = transpose.getSource())
      contiguous = 1 - contiguous;
    ArrayRef<int64_t> shape = shapeOf(operand->get());
    int bytes = plan.atom->bits / 8;
    if (!plan.atom->mnMajor || !sharedForm(shape, contiguous, bytes))
      contiguous = depthDim;
    anchored.insert({operand, sharedForm(shape, contiguous, bytes)->layout});
  }
}

void Assignment::anchor(tile::DotOp dot) {
  std::optional<DotPlan> plan = planWgmma(dot, target, warps);
  std::optional<MmaPlan> mma = plan ? std::nullopt : planMma(dot, target, warps, stacked);
  explainChoice(dot, [&] {
    ArrayRef<int64_t> shape = dot.getType().getShape();
    std::string text = "dot of " + std::to_string(shape[0]) + " x " + std::to_string(shape[1]) + ": ";
    if (plan)
      return text + "wgmma on " + plan->atom->operand.data() + ", since " + target.name +
             " has it and the tile fills it";
    if (mma)
      return text + "mma.sync on " + mma->atom->operand.data() + ", since " +
             (target.computeCapability < 90 ? target.name + " has no wgmma" : "the tile is none that wgmma takes");
    return text + "on the general-purpose cores, since the tensor cores of " + target.name +
           " take no tile of this shape, these element types and this precision";
  });
  if (!plan) {
    if (mma)
      anchorMma(dot, *mma);
    return;
  }
  OpOperand &rows = plan->rows(dot), &columns = plan->columns(dot);
  Operation *producer = rows.get().getDefiningOp();
  bool isComputed = producer && !isa<tile::LoadOp, tile::TransposeOp>(producer);
  auto depthDim = [](OpOperand &operand) { return operand.getOperandNumber() == 0 ? 1 : 0; };
  // Where the threads have to copy one operand, they copy both: one ring, that all of them fill and read.
  const bool byThreads = llvm::any_of(std::array{&rows, &columns}, [&](OpOperand *operand) {
    auto load = loadOf(*operand).first;
    return load && !isCopyable(load.getView(), load.getOffsets()) &&
           canThreadsCopy(*operand, depthDim(*operand), *plan->atom);
  });
  auto anchorLoad = [&](OpOperand &operand) {
    const int dim = depthDim(operand);
    anchorOperand(operand, dim, *plan->atom, !byThreads && isDirect(operand, dim, *plan->atom));
  };
  bool isUnpacked = plan->atom->bits == 16 && comesFromUnpack(rows.get());
  if ((isComputed || isUnpacked) && plan->form.groupsAlongN == 1) {
    LinearLayout fragments = plan->rowFragments(dot, warps);
    anchored.insert({&rows, fragments});
    if (isUnpacked) {
      set(rows.get(), fragments);
      if (!byThreads)
        anchorBytes(rows.get());
    }
  } else {
    anchorLoad(rows);
  }
  anchorLoad(columns);
  set(dot.getResult(), plan->accumulator);
}
