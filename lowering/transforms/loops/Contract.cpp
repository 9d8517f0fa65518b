// Products with packed weights. A loop that only adds up products of tiles is turned inside out: a tile of the result
// that fits the registers goes through the whole loop, then the next one. What is carried from one iteration to the
// next is held in *fragments*, registers in the order of the sums of the instruction that multiplies
// (contract/Atoms.h), and the weight's bytes are taken apart once for all of the tile's rows (contract/Fields.h).
#include "bitloom/lowering/Explain.h"
#include "bitloom/lowering/transforms/loops/KernelLowering.h"

using namespace mlir;
using namespace bitloom::tile;

namespace bitloom::loops {

//===- Which loops ------------------------------------------------------------------------------------------------===//

UnpackOp KernelLowering::weightOf(DotOp dot) {
  auto transposed = dot.getB().getDefiningOp<TransposeOp>();
  auto unpack = transposed ? transposed.getSource().getDefiningOp<UnpackOp>() : UnpackOp();
  if (!unpack || Packing::parse(unpack.getPacking().getSpelling()).order != Packing::Order::Columns)
    return {};
  return unpack;
}

bool KernelLowering::readsInOrder(Value tile, scf::ForOp loop, bool elementwise, llvm::SetVector<LoadOp> &loads) {
  if (!isTile(tile))
    return true;
  Operation *op = tile.getDefiningOp();
  bool carried = !op ? tile.getParentBlock() == loop.getBody()
                     : op == loop || (isa<DotOp>(op) && op->getBlock() == loop.getBody());
  if (carried)
    return elementwise;
  if (!op || !isInline(op))
    return true; // in memory
  if (auto load = dyn_cast<LoadOp>(op))
    loads.insert(load);
  elementwise &= OpTrait::hasElementwiseMappableTraits(op);
  return llvm::all_of(op->getOperands(), [&](Value v) { return readsInOrder(v, loop, elementwise, loads); });
}

std::optional<KernelLowering::Contraction> KernelLowering::contractionOf(scf::ForOp op) {
  Contraction result;
  for (Operation &inner : op.getBody()->without_terminator()) {
    if (auto dot = dyn_cast<DotOp>(inner)) {
      result.dots.push_back(dot);
      continue;
    }
    bool isScalar = !inner.getNumRegions() && (isMemoryEffectFree(&inner) || isa<LoadOp, GatherOp>(inner)) &&
                    !llvm::any_of(inner.getOperands(), isTile) && !llvm::any_of(inner.getResults(), isTile);
    if (isScalar)
      result.scalars.push_back(&inner);
    else if (!isInline(&inner))
      return {};
  }
  if (result.dots.empty())
    return {};
  ArrayRef<int64_t> shape = shapeOf(result.dots[0].getType());
  llvm::SetVector<LoadOp> loads;
  for (DotOp dot : result.dots) {
    UnpackOp weight = weightOf(dot);
    if (!weight || shapeOf(dot.getType()) != shape || !readsInOrder(weight.getBytes(), op, false, loads) ||
        !readsInOrder(dot.getA(), op, false, loads) || !readsInOrder(dot.getAcc(), op, true, loads))
      return {};
  }
  for (auto [init, next] : llvm::zip(op.getInitArgs(), op.getYieldedValues()))
    if (!isTile(init) || shapeOf(init.getType()) != shape || !readsInOrder(next, op, true, loads))
      return {};
  result.loads = loads.takeVector();
  result.atom = atomOf(result.dots[0]);
  Packing packing = Packing::parse(weightOf(result.dots[0]).getPacking().getSpelling());
  for (DotOp dot : result.dots) {
    Packing other = Packing::parse(weightOf(dot).getPacking().getSpelling());
    Atom atom = atomOf(dot);
    if (other.rows != packing.rows || atom.lanes != result.atom.lanes || atom.rows != result.atom.rows)
      throw Unsupported{dot, "products of tiles packed in different ways in one loop"};
    if (dot.getUnsignedA())
      throw Unsupported{dot, "a product of unsigned activations with a packed weight"};
  }
  result.tile = tileShapeFor(target, result.atom, packing, planOf(result.dots[0]), shape[0]);
  result.panel = result.tile.columns;
  for (DotOp dot : result.dots)
    result.panel = std::max<int64_t>(result.panel, planOf(dot).unit.values * result.atom.lanes);
  // Short iterations, a few at once: about as many products as a long one.
  int64_t depth = 0;
  for (DotOp dot : result.dots)
    depth += shapeOf(dot.getA().getType())[1];
  while (result.atOnce < 4 && *result.atom.intrinsic && depth * result.atOnce * 2 <= 128)
    result.atOnce *= 2;
  result.segments = segmentsOf(result);
  findStore(op, result);
  return result;
}

// The store that the loop's results go to, element by element, if it is their only use and may be done for one tile
// after the other.
void KernelLowering::findStore(scf::ForOp op, Contraction &contraction) {
  StoreOp store;
  for (Value result : op.getResults())
    for (Operation *sink : fusion.sinks(result)) {
      if (store && sink != store)
        return;
      store = dyn_cast<StoreOp>(sink);
      if (!store || store->getBlock() != op->getBlock())
        return;
    }
  llvm::SetVector<LoadOp> loads;
  if (!store || shapeOf(store.getValue().getType()) != shapeOf(op.getResult(0).getType()) ||
      !readsInOrder(store.getValue(), op, true, loads))
    return;
  for (Operation *between = op->getNextNode(); between != store; between = between->getNextNode())
    if (!isInline(between) && (between->getNumRegions() || !isMemoryEffectFree(between)))
      return;
  if (llvm::any_of(store.getView().getUsers(), [](Operation *user) { return isa<LoadOp, GatherOp, AtomicOp>(user); }))
    return;
  contraction.store = store;
  contraction.storeLoads = loads.takeVector();
}

std::string KernelLowering::describe(DotOp dot, const Contraction &contraction) {
  const Atom atom = atomOf(dot);
  const FieldPlan plan = planOf(dot);
  ArrayRef<int64_t> shape = shapeOf(dot.getType());
  const char *method = plan.method == FieldPlan::Method::Ladder   ? "told apart by subtraction of sums"
                       : plan.method == FieldPlan::Method::Masked ? "multiplied where they stand"
                                                                  : "moved to the top of a byte";
  const std::string why = *atom.feature ? target.name + " has " + atom.feature
                                        : "no instruction of " + target.name + " takes this packing or these numbers";
  std::string longer;
  if (contraction.segments)
    longer = ", in vectors of any length where they have " + std::to_string(contraction.segments->fewest * 16) +
             " bytes or more";
  return "dot of " + std::to_string(shape[0]) + " x " + std::to_string(shape[1]) + " with a weight of " +
         std::to_string(plan.bits) + " bits: " + atom.name + ", " + std::to_string(contraction.tile.rows) + " x " +
         std::to_string(contraction.tile.columns) + " at once" + longer + ", values " + method + ", since " + why;
}

bool KernelLowering::lowerContraction(scf::ForOp op) {
  std::optional<Contraction> found = contractionOf(op);
  if (!found)
    return false;
  for (DotOp dot : found->dots)
    explainChoice(dot, [&] { return describe(dot, *found); });
  SmallVector<Buffer> results;
  if (found->store)
    done.insert(found->store);
  else
    results = buffersFor(op.getResultTypes());
  if (found->segments)
    contractByLength(op, *found, results);
  else
    contractTiles(op, *found, results);
  for (size_t i = 0; i < results.size(); ++i)
    scopes.back()->buffers[op.getResult(unsigned(i))] = results[i];
  return true;
}

void KernelLowering::contractTiles(scf::ForOp op, const Contraction &contraction, ArrayRef<Buffer> results) {
  ArrayRef<int64_t> shape = shapeOf(op.getResult(0).getType());
  const TileShape &tile = contraction.tile;
  auto contractColumns = [&](Coord column) {
    for (int64_t block = tile.rows, row = 0; row < shape[0];) {
      while (block > contraction.atom.rows && row + block > shape[0])
        block /= 2;
      int64_t end = row + std::max<int64_t>((shape[0] - row) / block, 1) * block;
      loop(row, end, block,
           [&](Coord at) { contractTile(op, contraction, {at, column, block, tile.columns}, results); });
      row = end;
    }
  };
  loop(0, shape[1], contraction.panel, [&](Coord first) {
    for (int64_t part = 0; part < contraction.panel; part += tile.columns)
      contractColumns(first + part);
  });
}

//===- A tile of the result ---------------------------------------------------------------------------------------===//

// A scalar of the loop's body for the iteration at `iv`; none where it is more than sums and products, of which it
// would not be known that they grow with it.
std::optional<Value> KernelLowering::scalarAt(Value original, scf::ForOp loop, Value iv) {
  if (original == loop.getInductionVar())
    return iv;
  Operation *op = original.getDefiningOp();
  if (!op || op->getBlock() != loop.getBody())
    return scalar(original);
  if (!isa<arith::AddIOp, arith::MulIOp>(op))
    return {};
  std::optional<Value> a = scalarAt(op->getOperand(0), loop, iv), b = scalarAt(op->getOperand(1), loop, iv);
  if (!a || !b)
    return {};
  return clone(op, {*a, *b}, 1)[0];
}

Value KernelLowering::allInside(ArrayRef<LoadOp> loads, scf::ForOp loop, Value iv) {
  SmallVector<Value> conditions;
  for (LoadOp load : loads) {
    const View &memory = view(load.getView(), load);
    for (auto [dim, offset] : llvm::enumerate(load.getOffsets())) {
      auto it = llvm::find(load.getDims(), int32_t(dim));
      int64_t extent = it == load.getDims().end() ? 1 : shapeOf(load.getType())[it - load.getDims().begin()];
      std::optional<Value> start = loop ? scalarAt(offset, loop, iv) : scalar(offset);
      if (!start || bitsOf(offset) >= 64) // perhaps negative, or less in a later iteration
        return i1(false);
      conditions.push_back(compare(arith::CmpIPredicate::sle, add(*start, i64(extent)), memory.extents[dim]));
    }
  }
  return allOf(conditions);
}

Value KernelLowering::allInside(StoreOp store, const RegisterTile &tile) {
  const View &memory = view(store.getView(), store);
  SmallVector<Value> conditions;
  for (auto [dim, offset] : llvm::enumerate(store.getOffsets())) {
    if (bitsOf(offset) >= 64)
      return i1(false);
    Value end = add(scalar(offset), i64(1));
    auto it = llvm::find(store.getDims(), int32_t(dim));
    if (it != store.getDims().end()) {
      bool isRow = it == store.getDims().begin();
      Coord past = isRow ? tile.row + tile.rows : tile.column + tile.columns;
      end = add(scalar(offset), valueOf(past));
    }
    conditions.push_back(compare(arith::CmpIPredicate::sle, end, memory.extents[dim]));
  }
  return allOf(conditions);
}

void KernelLowering::contractTile(scf::ForOp op, const Contraction &contraction, const RegisterTile &tile,
                                  ArrayRef<Buffer> results) {
  const Atom &atom = contraction.atom;
  SmallVector<Fragment> fragments;
  for (int64_t row = 0; row < tile.rows; row += atom.rows)
    for (int64_t column = 0; column < tile.columns; column += atom.lanes)
      fragments.push_back(
          {tile.row + row, tile.column + column, atom.rows, atom.lanes * atom.rows, int64_t(fragments.size())});
  Carried carried{.fragments = int64_t(fragments.size()), .lanes = fragments[0].lanes};
  FragmentValues nothing;
  for (Value init : op.getInitArgs())
    for (const Fragment &fragment : fragments)
      carried.values.push_back(evaluateFragment(init, fragment, nothing));
  // Together with the sums of products and the operands, what is carried may be too much for the registers. Then it is
  // in memory, a load and a store each for every iteration; a register allocator left alone moves twice as much.
  const int64_t tiles = op.getNumResults(), across = tile.columns / atom.lanes;
  constexpr int64_t others = 4; // operands and masks, besides the columns'
  int64_t sums = carried.fragments;
  for (DotOp dot : contraction.dots) {
    const FieldPlan plan = planOf(dot);
    if (plan.method == FieldPlan::Method::Ladder)
      sums = std::max(sums, carried.fragments / plan.unit.values * plan.operands() + plan.needsSum());
  }
  // Sums in vectors of any length have the other half of them.
  const int64_t registers = contraction.inSegments ? target.vectorRegisters / 2 : target.vectorRegisters;
  const int64_t besides = contraction.inSegments ? 0 : sums + across + others;
  if (*atom.intrinsic && besides + tiles * carried.fragments > registers) {
    carried.memory =
        allocate({tiles * carried.fragments * carried.lanes}, getElementTypeOrSelf(carried.values[0].getType()));
    moveCarried(carried, /*toMemory=*/true);
  }

  // Offsets grow from iteration to iteration: all are in bounds, or all but the last one, or it is not worth asking.
  Value lower = scalar(op.getLowerBound()), upper = scalar(op.getUpperBound()), step = scalar(op.getStep());
  Value count = divU(add(maxS(sub(upper, lower), i64(0)), sub(step, i64(1))), step);
  Value last = add(lower, mul(sub(count, i64(1)), step)), beforeLast = sub(last, step);
  Value none = lower;
  Value middle = select(allInside(contraction.loads, op, beforeLast), last, none);
  middle = select(allInside(contraction.loads, op, last), upper, middle);
  middle = maxS(middle, lower);
  if (contraction.atOnce > 1) {
    Value stride = mul(step, i64(contraction.atOnce));
    Value most = add(lower, mul(divU(sub(middle, lower), stride), stride)); // a shift, most often
    contractRange(op, contraction, tile, fragments, lower, most, step, carried, contraction.atOnce, /*inside=*/true);
    lower = most;
  }
  contractRange(op, contraction, tile, fragments, lower, middle, step, carried, 1, /*inside=*/true);
  contractRange(op, contraction, tile, fragments, middle, upper, step, carried, 1, /*inside=*/false);
  if (carried.memory)
    moveCarried(carried, /*toMemory=*/false);
  if (contraction.store)
    return storeFragments(contraction, op, tile, fragments, carried.values);
  for (size_t i = 0; i < results.size(); ++i)
    writeFragments(results[i], fragments, ArrayRef(carried.values).slice(i * fragments.size(), fragments.size()));
}

// What the loops hold in memory, before or after them.
void KernelLowering::moveCarried(Carried &carried, bool toMemory) {
  Value own = opaque(carried.memory->pointer)[0]; // near: far from the stack pointer, pairs would be moved one by one
  Type type = vectorOf(carried.memory->element, carried.lanes);
  for (size_t i = 0; i < carried.values.size(); ++i) {
    Value at = address(own, i64(int64_t(i) * carried.lanes), carried.memory->element);
    here();
    if (toMemory)
      LLVM::StoreOp::create(builder, loc, carried.values[i], at, 16);
    else
      carried.values[i] = LLVM::LoadOp::create(builder, loc, type, at, 16);
  }
}

// The loop from `from` to `to`, `times` iterations at once. Where something may be out of bounds, what is read is
// copied first, with zeros for the rest.
void KernelLowering::contractRange(scf::ForOp op, const Contraction &contraction, const RegisterTile &tile,
                                   ArrayRef<Fragment> fragments, Value from, Value to, Value step, Carried &carried,
                                   int64_t times, bool inside) {
  Value stride = times > 1 ? mul(step, i64(times)) : step;
  here();
  auto loop = scf::ForOp::create(builder, op.getLoc(), from, to, stride,
                                 carried.memory ? ValueRange() : ValueRange(carried.values));
  open(loop.getBody(), loop);
  int outerStatement = std::exchange(statement, depth()), outerFloor = std::exchange(memoryFloor, depth());
  int outerCodeFloor = std::exchange(codeFloor, inside ? codeFloor : depth());
  Block *outerBlock = std::exchange(statementBlock, op.getBody());
  Operation *outerOp = std::exchange(statementOp, op.getOperation());
  if (!carried.memory)
    carried.values.assign(loop.getRegionIterArgs().begin(), loop.getRegionIterArgs().end());
  if (!inside)
    for (LoadOp load : contraction.loads)
      hideOffsets(load.getOffsets(), op);
  if (carried.memory)
    carried.at = carried.memory->pointer;
  for (int64_t i = 0; i < times; ++i) {
    scopes.back()->values.clear(); // of the iteration before
    scopes.back()->bounds.clear();
    Value iv = loop.getInductionVar();
    bind(op.getInductionVar(), i ? add(iv, mul(step, i64(i))) : iv);
    for (Operation *inner : contraction.scalars)
      lowerScalar(inner);
    for (LoadOp load : contraction.loads)
      if (inside)
        this->inside.insert(load);
      else if (!bufferOf(load))
        materialise(load);
    contractIteration(op, contraction, tile, fragments, carried);
    this->inside.clear();
  }
  if (!carried.memory) {
    here();
    scf::YieldOp::create(builder, op.getLoc(), carried.values);
    carried.values.assign(loop.getResults().begin(), loop.getResults().end());
  }
  statement = outerStatement;
  memoryFloor = outerFloor;
  codeFloor = outerCodeFloor;
  statementBlock = outerBlock;
  statementOp = outerOp;
  close();
}

void KernelLowering::contractIteration(scf::ForOp op, const Contraction &contraction, const RegisterTile &tile,
                                       ArrayRef<Fragment> fragments, Carried &carried) {
  FragmentValues values;
  const size_t count = fragments.size(), tiles = op.getNumResults();
  auto know = [&](size_t tile, size_t fragment, Value value) {
    values.known[{op.getRegionIterArg(unsigned(tile)), int64_t(fragment)}] = value;
  };
  for (size_t i = 0; !carried.memory && i < tiles; ++i)
    for (size_t f = 0; f < count; ++f)
      know(i, f, carried.values[i * count + f]);
  SmallVector<ProductSums, 1> products;
  for (DotOp dot : contraction.dots)
    products.push_back(contraction.inSegments
                           ? productsInSegments(dot, contraction, tile)
                           : productsOf(dot, contraction, tile, /*together=*/carried.memory.has_value()));
  auto form = [&](ArrayRef<Fragment> some) {
    for (auto [dot, sums] : llvm::zip(contraction.dots, products))
      formSums(dot, sums, some, values);
  };
  // What is in memory comes a few fragments at a time: these sums, or what they are added to.
  auto adds = [](DotOp dot) { return !dot.getAcc().getDefiningOp<arith::ConstantOp>(); };
  const bool gradually = contraction.inSegments || (carried.memory && llvm::any_of(contraction.dots, adds));
  if (!gradually)
    form(fragments);
  if (!carried.memory) {
    for (size_t f = 0; f < count; ++f) {
      if (gradually)
        form(fragments[f]);
      for (size_t i = 0; i < tiles; ++i)
        carried.values[i * count + f] = evaluateFragment(op.getYieldedValues()[i], fragments[f], values);
    }
    return;
  }
  Value own = carried.at = opaque(carried.at)[0];
  const int64_t lanes = carried.lanes;
  const size_t together = count % 2 ? 1 : 2; // one instruction loads or stores two of NEON's registers
  auto placeOf = [&](size_t tile, size_t f) {
    return address(own, i64(int64_t(tile * count + f) * lanes), carried.memory->element);
  };
  for (size_t f = 0; f < count; f += together) {
    for (size_t i = 0; i < tiles; ++i) {
      Value from = placeOf(i, f);
      hoistRead(from);
      Type type = vectorOf(carried.memory->element, lanes * int64_t(together));
      Value both = LLVM::LoadOp::create(builder, loc, type, from, 16);
      for (size_t part = 0; part < together; ++part) {
        auto own = llvm::seq(int64_t(part) * lanes, int64_t(part + 1) * lanes);
        know(i, f + part, together == 1 ? both : shuffle(both, both, llvm::to_vector(own)));
      }
    }
    if (gradually)
      form(fragments.slice(f, together));
    for (size_t i = 0; i < tiles; ++i) {
      Value all = evaluateFragment(op.getYieldedValues()[i], fragments[f], values);
      if (together == 2) {
        Value second = evaluateFragment(op.getYieldedValues()[i], fragments[f + 1], values);
        all = shuffle(all, second, llvm::to_vector(llvm::seq<int64_t>(0, 2 * lanes)));
      }
      Value to = placeOf(i, f);
      here();
      LLVM::StoreOp::create(builder, loc, all, to, 16);
    }
  }
}

// In the present scope, LLVM does not know where the accesses' offsets come from: what follows from them for what may
// be out of bounds, which is seldom run, it computes here and not ahead of it.
void KernelLowering::hideOffsets(ValueRange offsets, Operation *loop) {
  for (Value offset : offsets) {
    const bool isOwn = loop && loop->isAncestor(offset.getParentBlock()->getParentOp());
    if (!isOwn && !matchPattern(offset, m_Constant()) && !scopes.back()->scalars.contains(offset))
      bind(offset, opaque(scalar(offset))[0]);
  }
}

// The same values, but all are there at once, and LLVM does not know where they come from. It neither moves what is in
// memory to registers, there are enough or not, nor begins to use some sums before others are complete, which takes
// more registers for what they still have to come from.
KernelLowering::Values KernelLowering::opaque(ValueRange values) {
  std::string out, in;
  for (auto [i, value] : llvm::enumerate(values)) {
    bool vector = isa<VectorType>(value.getType());
    const char *registers = !vector ? "=r" : target.family == Family::Cpu_aarch64 ? "=w" : "=v";
    out += (i ? "," : "") + std::string(registers);
    in += "," + std::to_string(i);
  }
  Type type = values[0].getType();
  if (values.size() > 1)
    type = LLVM::LLVMStructType::getLiteral(builder.getContext(), SmallVector<Type>(values.getTypes()));
  here();
  auto dialect = LLVM::AsmDialectAttr::get(builder.getContext(), LLVM::AsmDialect::AD_ATT);
  Value all =
      LLVM::InlineAsmOp::create(builder, loc, type, values, "", out + in, /*has_side_effects=*/true,
                                /*is_align_stack=*/false, LLVM::tailcallkind::TailCallKind::None, dialect, ArrayAttr())
          .getResult(0);
  if (values.size() == 1)
    return {all};
  Values results;
  for (size_t i = 0; i < values.size(); ++i)
    results.push_back(LLVM::ExtractValueOp::create(builder, loc, all, int64_t(i)));
  return results;
}

} // namespace bitloom::loops
