// Step 1 of the assignment: seeds, and what each operation makes of the layouts of the tiles that it ties together.
#include "bitloom/lowering/targets/nvptx/Assignment.h"

#include "mlir/Dialect/SCF/IR/SCF.h"
#include "llvm/ADT/TypeSwitch.h"
#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace bitloom;
using namespace bitloom::nvptx;

SmallVector<Value> nvptx::tied(Operation *op) {
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

void Assignment::collectAccesses() {
  // Where all stores are of rows that start anywhere: lanes side by side write whole sectors of the L2 cache, which
  // parts of them, as lanes further apart write, would cost as much. Loads find the rest in the first-level cache.
  DenseMap<int64_t, int64_t> narrowest;
  DenseSet<int64_t> storedWhole;
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
    if (!isa<tile::StoreOp>(op) || !isAlongRows)
      return;
    if (run * bytes >= 16)
      storedWhole.insert(elements);
    int64_t &least = narrowest.try_emplace(elements, run).first->second;
    least = std::min(least, run);
  });
  for (auto [elements, run] : narrowest)
    if (!storedWhole.contains(elements))
      elementsPerThread[elements] = std::min(elementsPerThread[elements], run);
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
