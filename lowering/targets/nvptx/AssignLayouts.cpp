// Layouts flow from the anchors, then from the largest tiles to the smaller ones.
//
// 0. Anchor: a dot that the tensor cores can compute has its accumulator in their fragments. Its operands lie in shared
//    memory, whither the copy engine loads them for wgmma if it can, but for a computed `a`, which stays in registers:
//    of what that is unpacked from, the bytes lie in shared memory.
// 1. Seed: the largest tile that has no layout yet takes the coalesced one of its shape (canonicalLayout), and what it
//    implies for the tiles tied to it by an operation (the same for elementwise operations and loop-carried values; a
//    slice of it for what is broadcast to it or reduced from it; the bytes its values are unpacked from, …) spreads
//    until nothing changes. Then the next seed. So a small tile is loaded where its user wants it, and chains of
//    elementwise operations of any types never convert.
// 2. Commit: every type takes its layout. Where an operand's differs from what its operation needs, the producer is
//    repeated in the needed layout if that is free (constants, splats, iota), else a tile.convert_layout is inserted.
#include "bitloom/lib/support/Error.h"
#include "bitloom/lowering/Explain.h"
#include "bitloom/lowering/Passes.h"
#include "bitloom/lowering/targets/nvptx/Layouts.h"
#include "bitloom/lowering/targets/nvptx/Mma.h"
#include "bitloom/lowering/targets/nvptx/Rewrites.h"
#include "bitloom/lowering/targets/nvptx/Warps.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/Builders.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"
#include "llvm/ADT/TypeSwitch.h"
#include "llvm/Support/MathExtras.h"

#include <deque>

namespace bitloom {
#define GEN_PASS_DEF_ASSIGNLAYOUTS
#include "lowering/Passes.h.inc"
} // namespace bitloom

using namespace mlir;
using namespace bitloom;
using namespace bitloom::nvptx;

static bool isTensor(Value value) { return isa<RankedTensorType>(value.getType()); }
static ArrayRef<int64_t> shapeOf(Value value) { return tile::shapeOf(value.getType()); }

// The tiles whose element at each place an operation combines: they share one layout.
static SmallVector<Value> tied(Operation *op) {
  SmallVector<Value> values;
  auto add = [&](ValueRange more) {
    for (Value value : more)
      if (value && isTensor(value))
        values.push_back(value);
  };
  if (auto lut = dyn_cast<tile::LutOp>(op)) {
    add({lut.getResult(), lut.getIndices()});
  } else if (auto dot = dyn_cast<tile::DotOp>(op)) {
    add({dot.getResult(), dot.getAcc()});
  } else if (op->hasTrait<OpTrait::Elementwise>() ||
             isa<tile::GatherOp, tile::ScatterOp, tile::AtomicOp, tile::ScanOp>(op)) {
    add(op->getResults());
    add(op->getOperands());
  }
  return values;
}

namespace {

class Assignment {
public:
  Assignment(func::FuncOp func, const Target &target, int warps) : func(func), target(target), warps(warps) {}
  LogicalResult run();

private:
  void collectAccesses();
  void anchor(tile::DotOp dot);
  void anchorMma(tile::DotOp dot, const MmaPlan &plan);
  bool onlyWgmmaReads(Value tile);
  bool isDirect(OpOperand &operand, int depthDim, const MmaAtom &atom);
  bool canThreadsCopy(OpOperand &operand, int depthDim, const MmaAtom &atom);
  void anchorOperand(OpOperand &operand, int depthDim, const MmaAtom &atom, bool direct);
  void anchorBytes(Value unpacked);
  void placeScales(tile::DotOp dot);
  bool isCopiedAhead(tile::LoadOp load);
  void propagate();
  void seed(Value value);
  void seedFragments();
  void set(Value value, const LinearLayout &layout);
  void unify(ValueRange values);
  void visit(Operation *op);
  void visitShape(Operation *op);
  void unifyControlFlow(Operation *op);
  void settle(Operation *op);
  std::optional<LinearLayout> needed(Operation *op, OpOperand &operand);
  Operation *outermostLoopWithout(tile::DotOp dot, Value value);
  void require(OpOperand &operand, const LinearLayout &layout);
  void force(Value result, const LinearLayout &actual);

  func::FuncOp func;
  const Target &target;
  int warps;
  bool stacked = false;                         // mma.sync's accumulators, for a row's sake
  DenseMap<OpOperand *, LinearLayout> anchored; // operands of dots
  DenseMap<int64_t, int64_t> elementsPerThread; // by the tile's number of elements: of the widest access of that size
  DenseMap<Value, LinearLayout> chosen;
  std::deque<Value> changed;
};

} // namespace

void Assignment::collectAccesses() {
  // Stores of rows that start anywhere: lanes side by side write whole sectors of the L2 cache, which parts of them, as
  // lanes further apart write, would cost as much. Loads find the rest in the first-level cache.
  DenseMap<int64_t, int64_t> narrowest;
  func.walk([&](Operation *op) {
    Value view, value;
    ArrayRef<int32_t> dims;
    if (auto load = dyn_cast<tile::LoadOp>(op)) {
      view = load.getView(), value = load.getResult(), dims = load.getDims();
    } else if (auto store = dyn_cast<tile::StoreOp>(op)) {
      view = store.getView(), value = store.getValue(), dims = store.getDims();
    }
    if (!value || !isTensor(value))
      return;
    auto type = cast<tile::ViewType>(view.getType());
    const bool isAlongRows = !type.getStrided() && !dims.empty() && dims.back() == type.getRank() - 1;
    const int64_t bytes = bytesOf(type.getElementType()), elements = ShapedType::getNumElements(shapeOf(value));
    int64_t run = 1;
    if (isAlongRows)
      run = std::max<int64_t>(1, std::min<int64_t>(16, alignmentOf(view) & -alignmentOf(view)) / bytes);
    int64_t &widest = elementsPerThread[elements];
    widest = std::max(widest, run);
    if (isa<tile::StoreOp>(op) && isAlongRows && run * bytes < 16) {
      int64_t &least = narrowest.try_emplace(elements, run).first->second;
      least = std::min(least, run);
    }
  });
  for (auto [elements, run] : narrowest)
    elementsPerThread[elements] = std::min(elementsPerThread[elements], run);
}

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

// Whether it is made of unpacked values, element by element.
static bool comesFromUnpack(Value value) {
  Operation *producer = value.getDefiningOp();
  if (!producer || isa<tile::UnpackOp>(producer))
    return producer;
  return isElementwise(producer) && llvm::any_of(producer->getOperands(), comesFromUnpack);
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
  if (!planWgmma(dot, target, warps) || !llvm::hasSingleElement(block->getOps<tile::DotOp>()))
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

// Whether it is computed, element by element, from what a dot gave.
static bool comesFromDot(Value value) {
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

void Assignment::seed(Value value) {
  int64_t elements = ShapedType::getNumElements(shapeOf(value));
  auto found = elementsPerThread.find(elements);
  int64_t run = found != elementsPerThread.end() ? found->second : 16 / bytesOf(tile::elementOf(value.getType()));
  // A tile too small to give every lane a vector is better spread over the lanes.
  run = std::min(run, std::max<int64_t>(1, paddedElements(value.getType()) / lanes));
  set(value, canonicalLayout(shapeOf(value), run, warps));
  propagate();
}

// Values that are packed for fragments, where no dot takes them as such, go with their bytes, which a thread loads in
// one piece: so they are converted two at a time.
void Assignment::seedFragments() {
  SmallVector<std::pair<tile::UnpackOp, Packing>> unpacks;
  func.walk([&](tile::UnpackOp unpack) {
    Packing packing = Packing::parse(unpack.getPacking().getSpelling());
    if (packing.order == Packing::Order::Fragments)
      unpacks.push_back({unpack, packing});
  });
  llvm::sort(unpacks, [](const auto &a, const auto &b) { return a.second.bits > b.second.bits; });
  for (auto &[unpack, packing] : unpacks) {
    Value bytes = unpack.getBytes();
    if (chosen.contains(unpack.getResult()) || chosen.contains(bytes))
      continue;
    int64_t run = std::clamp<int64_t>(paddedElements(bytes.getType()) / (lanes * warps), 1, 16);
    LinearLayout layout = canonicalLayout(shapeOf(bytes), run, warps);
    set(bytes, layout);
    set(unpack, withNeighboursFirst(valuesLayout(layout, packing)));
    propagate();
  }
}

void Assignment::propagate() {
  while (!changed.empty()) {
    Value next = changed.front();
    changed.pop_front();
    if (Operation *op = next.getDefiningOp())
      visit(op);
    else
      visit(cast<BlockArgument>(next).getOwner()->getParentOp());
    for (Operation *user : next.getUsers())
      visit(user);
  }
}

void Assignment::set(Value value, const LinearLayout &layout) {
  if (chosen.try_emplace(value, layout).second)
    changed.push_back(value);
}

// The first value with a layout gives it to the rest.
void Assignment::unify(ValueRange values) {
  for (Value leader : values) {
    auto found = chosen.find(leader);
    if (found == chosen.end())
      continue;
    LinearLayout layout = found->second;
    for (Value value : values)
      set(value, layout);
    return;
  }
}

void Assignment::unifyControlFlow(Operation *op) {
  auto group = [&](std::initializer_list<Value> values) {
    if (isTensor(*values.begin()))
      unify(SmallVector<Value>(values));
  };
  if (auto loop = dyn_cast<scf::ForOp>(op)) {
    for (auto [init, arg, next, result] :
         llvm::zip(loop.getInitArgs(), loop.getRegionIterArgs(), loop.getYieldedValues(), loop.getResults()))
      group({arg, init, next, result});
  } else if (auto loop = dyn_cast<scf::WhileOp>(op)) {
    for (auto [init, arg, next] :
         llvm::zip(loop.getInits(), loop.getBeforeArguments(), loop.getYieldOp().getOperands()))
      group({arg, init, next});
    for (auto [passed, arg, result] :
         llvm::zip(loop.getConditionOp().getArgs(), loop.getAfterArguments(), loop.getResults()))
      group({arg, passed, result});
  } else if (auto branch = dyn_cast<scf::IfOp>(op); branch && branch.getNumResults()) {
    for (auto [result, yes, no] :
         llvm::zip(branch.getResults(), branch.thenYield().getOperands(), branch.elseYield().getOperands()))
      group({result, yes, no});
  }
}

void Assignment::visit(Operation *op) {
  if (isa<scf::YieldOp, scf::ConditionOp>(op))
    op = op->getParentOp();
  unifyControlFlow(op);
  unify(tied(op));
  visitShape(op);
}

void Assignment::visitShape(Operation *op) {
  auto layout = [&](Value value) -> const LinearLayout * {
    auto found = chosen.find(value);
    return found == chosen.end() ? nullptr : &found->second;
  };
  // set() may move the map's values, so each rule reads one layout and is done with it before it sets.
  llvm::TypeSwitch<Operation *>(op)
      .Case([&](tile::ReduceOp reduce) {
        unify(SmallVector<Value>(reduce.getSources()));
        if (auto *source = layout(reduce.getSources()[0]); source && isTensor(reduce.getResult(0))) {
          LinearLayout result = reducedLayout(*source, reduce.getAxis());
          for (Value value : reduce.getResults())
            set(value, result);
        }
      })
      .Case([&](tile::BroadcastOp broadcast) {
        if (auto *result = layout(broadcast))
          set(broadcast.getSource(), broadcastSourceLayout(*result, shapeOf(broadcast.getSource())));
      })
      .Case([&](tile::ReshapeOp reshape) {
        ArrayRef<int64_t> from = shapeOf(reshape.getSource()), to = shapeOf(reshape);
        if (auto *source = layout(reshape.getSource()); source && !isSharedLayout(*source)) {
          if (auto result = reshapedLayout(*source, from, to))
            set(reshape, *result);
        } else if (auto *result = layout(reshape)) {
          if (auto source = reshapedLayout(*result, to, from))
            set(reshape.getSource(), *source);
        }
      })
      .Case([&](tile::TransposeOp transpose) {
        if (auto *source = layout(transpose.getSource()))
          set(transpose, transposedLayout(*source, transpose.getPermutation()));
        else if (auto *result = layout(transpose))
          set(transpose.getSource(), untransposedLayout(*result, transpose.getPermutation()));
      })
      .Case([&](tile::JoinOp join) {
        unify({join.getLhs(), join.getRhs()});
        if (auto *pair = layout(join)) {
          LinearLayout half = halvedLayout(*pair);
          set(join.getLhs(), half);
          set(join.getRhs(), half);
        } else if (auto *half = layout(join.getLhs())) {
          set(join, joinedLayout(*half));
        }
      })
      .Case([&](tile::SplitOp split) {
        unify({split.getLhs(), split.getRhs()});
        if (auto *pair = layout(split.getSource())) {
          LinearLayout half = halvedLayout(*pair);
          set(split.getLhs(), half);
          set(split.getRhs(), half);
        } else if (auto *half = layout(split.getLhs())) {
          set(split.getSource(), joinedLayout(*half));
        }
      })
      .Case([&](tile::SliceOp slice) {
        if (auto *source = layout(slice.getSource()))
          if (auto result = slicedLayout(*source, slice.getOffsets(), shapeOf(slice)))
            set(slice, *result);
      })
      .Case([&](tile::UnpackOp unpack) {
        Packing packing = Packing::parse(unpack.getPacking().getSpelling());
        if (auto *values = layout(unpack))
          set(unpack.getBytes(), bytesLayout(*values, packing));
      })
      .Case([&](tile::PackOp pack) {
        Packing packing = Packing::parse(pack.getPacking().getSpelling());
        if (auto *bytes = layout(pack))
          set(pack.getValues(), valuesLayout(*bytes, packing));
      });
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

LogicalResult Assignment::run() {
  collectAccesses();
  SmallVector<Value> values, packed;
  SmallVector<Operation *> ops;
  func.walk<WalkOrder::PreOrder>([&](Operation *op) {
    if (op != func)
      ops.push_back(op);
    for (Value result : op->getResults())
      if (isTensor(result))
        (isa<tile::PackOp>(op) ? packed : values).push_back(result);
    for (Region &region : op->getRegions())
      for (Block &block : region)
        for (Value argument : block.getArguments())
          if (isTensor(argument))
            values.push_back(argument);
  });
  DenseMap<Value, size_t> position;
  for (auto [i, value] : llvm::enumerate(values))
    position[value] = i;
  llvm::sort(values, [&](Value a, Value b) {
    int64_t left = paddedElements(a.getType()), right = paddedElements(b.getType());
    return left != right ? left > right : position.at(a) < position.at(b);
  });
  func.walk([&](tile::LutOp lut) {
    if (isLookupByWords(lut)) // every thread has the whole table
      set(lut.getTable(), canonicalLayout(shapeOf(lut.getTable()), shapeOf(lut.getTable())[0], warps));
  });
  func.walk([&](tile::DotOp dot) { stacked |= comesFromDot(dot.getA()) || comesFromDot(dot.getB()); });
  func.walk([&](tile::DotOp dot) { anchor(dot); });
  propagate();
  seedFragments();
  // The bytes first: their values go with them, while the reverse would leave a byte's values in several threads.
  for (ArrayRef<Value> list : {ArrayRef<Value>(packed), ArrayRef<Value>(values)})
    for (Value value : list)
      if (!chosen.contains(value))
        seed(value);

  // What must agree exactly follows its leader, even where different seeds met.
  for (Operation *op : ops) {
    auto follow = [&](Value value, Value leader) {
      if (isTensor(value))
        chosen[value] = LinearLayout(chosen.at(leader));
    };
    if (auto loop = dyn_cast<scf::ForOp>(op)) {
      for (auto [result, arg] : llvm::zip(loop.getResults(), loop.getRegionIterArgs()))
        follow(result, arg);
    } else if (auto loop = dyn_cast<scf::WhileOp>(op)) {
      for (auto [result, arg] : llvm::zip(loop.getResults(), loop.getAfterArguments()))
        follow(result, arg);
    } else if (!tied(op).empty() || isa<tile::SplitOp>(op)) {
      for (Value result : op->getResults())
        follow(result, op->getResult(0));
    }
  }
  for (auto &[value, layout] : chosen) {
    Value typed = value;
    typed.setType(withLayout(cast<RankedTensorType>(typed.getType()), layout));
  }
  for (Operation *op : ops)
    settle(op);
  func.walk([&](tile::DotOp dot) { placeScales(dot); });
  return success();
}

// The warps that have the rows of a product with unpacked values among them, 16 each; 0 where there is none.
static int warpsOfRows(func::FuncOp func) {
  SmallVector<tile::DotOp> dots;
  func.walk([&](tile::DotOp dot) { dots.push_back(dot); });
  if (dots.size() != 1 || !comesFromUnpack(dots.front().getA()))
    return 0;
  const int warps = int(dots.front().getType().getDimSize(0) / mmaRows);
  return warps >= warpsPerGroup && llvm::isPowerOf2_32(uint32_t(warps)) ? warps : 0;
}

namespace {

struct AssignLayouts : bitloom::impl::AssignLayoutsBase<AssignLayouts> {
  using AssignLayoutsBase::AssignLayoutsBase;

  // Fields that cross rows are placed for the instructions of CPUs.
  LogicalResult checkPackings(func::FuncOp func) {
    auto check = [&](Operation *op, tile::PackingAttr packing) -> WalkResult {
      if (Packing::parse(packing.getSpelling()).order != Packing::Order::Columns)
        return WalkResult::advance();
      return op->emitError() << "expected a packing in the order low, high, planar or fragments on " << target
                             << ", got " << packing.getSpelling() << ": the order columns is that of CPUs";
    };
    WalkResult result = func.walk([&](Operation *op) {
      if (auto unpack = dyn_cast<tile::UnpackOp>(op))
        return check(op, unpack.getPacking());
      if (auto pack = dyn_cast<tile::PackOp>(op))
        return check(op, pack.getPacking());
      return WalkResult::advance();
    });
    return failure(result.wasInterrupted());
  }

  void runOnOperation() override {
    func::FuncOp func = getOperation();
    if (!func->hasAttr(tile::kernelAttr))
      return;
    if (failed(checkPackings(func)))
      return signalPassFailure();
    auto warps = func->getAttrOfType<IntegerAttr>(tile::numWarpsAttr);
    if (warps && (warps.getInt() < 1 || warps.getInt() > 32 || !llvm::isPowerOf2_64(warps.getInt()))) {
      func.emitError() << tile::numWarpsAttr << ": expected a power of two from 1 to 32, got " << warps.getInt();
      return signalPassFailure();
    }
    const Target facts = parseTarget(target);
    int blocks = 1;
    try {
      blocks = clusterFor(func, facts);
    } catch (const UserError &error) {
      func.emitError() << error.what();
      return signalPassFailure();
    }
    int count = warps ? int(warps.getInt()) : warpsFor(func, facts, blocks);
    if (int ofRows = warps ? warpsOfRows(func) : 0; ofRows && count > ofRows) {
      if (facts.computeCapability == 90) {
        func->setAttr(tile::consumersAttr, Builder(func).getI32IntegerAttr(count / ofRows));
        func->setAttr(stepGroupsAttr, Builder(func).getUnitAttr());
      }
      func->setAttr(tile::numWarpsAttr, Builder(func).getI32IntegerAttr(ofRows));
      count = ofRows;
    }
    if (!warps && takesTurns(func, facts)) {
      count = warpsPerGroup;
      func->setAttr(tile::consumersAttr, Builder(func).getI32IntegerAttr(2));
    }
    if (!warps)
      func->setAttr(tile::numWarpsAttr, Builder(func).getI32IntegerAttr(count));
    explainChoice(func, [&] {
      return std::to_string(count) + " warps a " +
             (blocks > 1 ? "block of " + std::to_string(blocks) + " that hold the tiles together, " : "program, ") +
             (warps ? "as the kernel asks" : "for the size of its tiles") +
             (func->hasAttr(stepGroupsAttr)        ? "; groups of them take the steps in turn"
              : func->hasAttr(tile::consumersAttr) ? "; two groups take programs in turn, one stores while one computes"
                                                   : "");
    });
    narrowIndices(func);
    try {
      if (failed(Assignment(func, facts, count * blocks).run()))
        signalPassFailure();
    } catch (const std::exception &error) {
      func.emitError() << "layout assignment: " << error.what();
      signalPassFailure();
    }
  }
};

} // namespace
