// Gather, scatter and atomics: an address an element.
#include "bitloom/lowering/targets/nvptx/Emitter.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/SCF/IR/SCF.h"

using namespace mlir;
using namespace bitloom;
using namespace bitloom::nvptx;

static Value asI64(Emitter &e, Value index) {
  unsigned width = index.getType().getIntOrFloatBitWidth();
  if (width == 64)
    return index;
  return arith::ExtSIOp::create(e.builder, e.loc, e.builder.getI64Type(), index);
}

namespace {
struct Place {
  Value address; // !llvm.ptr<1>
  Value inside;  // i1: in bounds, in the tile's shape, and not masked
};
} // namespace

// Place r of a tile of type `tile` at the view's coordinates `indices`.
static Place locate(Emitter &e, Value viewValue, OperandRange indices, Value mask, Type tile, int r) {
  OpBuilder &b = e.builder;
  const ViewWords &view = e.view(viewValue);
  Value inside, place;
  for (auto [d, indexTile] : llvm::enumerate(indices)) {
    const Registers &registers = e.get(indexTile);
    Value index = asI64(e, registers[isa<RankedTensorType>(indexTile.getType()) ? r : 0]);
    inside = e.both(inside, e.compare(index, "ult", view.extents[d])); // a negative index is a large one
    Value term = view.strides[d] ? arith::MulIOp::create(b, e.loc, index, view.strides[d]).getResult() : index;
    place = place ? arith::AddIOp::create(b, e.loc, place, term).getResult() : term;
  }
  if (mask)
    inside = e.both(inside, e.get(mask)[isa<RankedTensorType>(mask.getType()) ? r : 0]);
  if (auto tensor = dyn_cast<RankedTensorType>(tile)) {
    const LinearLayout &layout = e.layout(tensor);
    for (auto [d, extent] : llvm::enumerate(tensor.getShape()))
      if (!e.isInside(e.registerCoordinates(layout)[r][d], e.threadBits(layout, d), extent))
        inside = e.both(inside, e.compare(e.coordinate(layout, d, r), "ult", e.i32(extent)));
  }
  Type stored = view.element.isInteger(1) ? b.getI8Type() : view.element;
  Value address =
      LLVM::GEPOp::create(b, e.loc, view.pointer.getType(), stored, view.pointer, ArrayRef<LLVM::GEPArg>{place});
  return {address, inside};
}

static bool isDead(Emitter &e, Type tile, int r) {
  auto tensor = dyn_cast<RankedTensorType>(tile);
  return tensor && e.isDead(e.layout(tensor), tensor.getShape(), r);
}

// Of all threads that hold an element, one; a scalar is held by all.
static Value oneHolder(Emitter &e, Type tile) {
  if (isa<RankedTensorType>(tile))
    return e.isFirstReplica(e.layout(tile));
  return e.compare(e.linearThreadId(), "eq", e.i32(0));
}

static bool isReplica(Emitter &e, Type tile, int r) {
  return isa<RankedTensorType>(tile) && (r & e.layout(tile).freeBits(reg));
}

LogicalResult nvptx::lower(Emitter &e, tile::GatherOp gather) {
  OpBuilder &b = e.builder;
  Type type = gather.getType(), element = tile::elementOf(type);
  unsigned bits = std::max(8u, element.getIntOrFloatBitWidth());
  // One predicated instruction; what is not read keeps `other`.
  const char *constraint = bits == 64 ? "l" : bits == 32 ? "r" : "h";
  Type word = b.getIntegerType(std::max(16u, bits));
  std::string suffix = bits == 8 ? "u8" : "b" + std::to_string(bits), moved = std::to_string(std::max(16u, bits));
  std::string text = "mov.b" + moved + " $0, $3; @$2 ld.global." + suffix + " $0, [$1];";
  std::string constraints = std::string("=") + constraint + ",l,b," + constraint;
  Value other = e.toBits(gather.getOther() ? e.scalar(gather.getOther()) : e.zero(element));
  if (bits == 8)
    other = arith::ExtUIOp::create(b, e.loc, word, other);
  Registers registers;
  for (int r = 0; r < e.registersOf(type); ++r) {
    if (isDead(e, type, r)) {
      registers.push_back(e.zero(element));
      continue;
    }
    Place at = locate(e, gather.getView(), gather.getIndices(), gather.getMask(), type, r);
    Value address = LLVM::PtrToIntOp::create(b, e.loc, b.getI64Type(), at.address);
    Value loaded = e.ptx(text, constraints, word, {address, at.inside, other}, /*hasSideEffects=*/true);
    if (bits == 8)
      loaded = arith::TruncIOp::create(b, e.loc, b.getI8Type(), loaded);
    registers.push_back(e.fromBits(loaded, element));
  }
  e.put(gather, registers);
  return success();
}

LogicalResult nvptx::lower(Emitter &e, tile::ScatterOp scatter) {
  Type type = scatter.getValue().getType();
  Value once = oneHolder(e, type);
  for (int r = 0; r < e.registersOf(type); ++r) {
    if (isDead(e, type, r) || isReplica(e, type, r))
      continue;
    Place at = locate(e, scatter.getView(), scatter.getIndices(), scatter.getMask(), type, r);
    Value bits = e.toBits(e.get(scatter.getValue())[r]);
    e.when(e.both(at.inside, once), [&] { LLVM::StoreOp::create(e.builder, e.loc, bits, at.address); });
  }
  return success();
}

static LLVM::AtomicBinOp operationOf(tile::Atomic kind, bool isFloat) {
  using Op = LLVM::AtomicBinOp;
  switch (kind) {
  case tile::Atomic::Add:
    return isFloat ? Op::fadd : Op::add;
  case tile::Atomic::Max:
    return isFloat ? Op::fmax : Op::max;
  case tile::Atomic::Min:
    return isFloat ? Op::fmin : Op::min;
  case tile::Atomic::MaxU:
    return Op::umax;
  case tile::Atomic::MinU:
    return Op::umin;
  case tile::Atomic::And:
    return Op::_and;
  case tile::Atomic::Or:
    return Op::_or;
  case tile::Atomic::Xor:
    return Op::_xor;
  case tile::Atomic::Exchange:
    return Op::xchg;
  }
  llvm_unreachable("every kind has an operation");
}

LogicalResult nvptx::lower(Emitter &e, tile::AtomicOp atomic) {
  OpBuilder &b = e.builder;
  Type type = atomic.getType(), element = tile::elementOf(type);
  if (element.isInteger(1))
    return atomic.emitOpError() << "expected elements of 8 bits or more on NVIDIA targets, got i1";
  bool isExchange = atomic.getKind() == tile::Atomic::Exchange;
  Value once = oneHolder(e, type);
  bool isUsed = !atomic.getResult().use_empty();
  Registers registers;
  for (int r = 0; r < e.registersOf(type); ++r) {
    if (isDead(e, type, r) || isReplica(e, type, r)) {
      registers.push_back(e.zero(element));
      continue;
    }
    Place at = locate(e, atomic.getView(), atomic.getIndices(), atomic.getMask(), type, r);
    Value given = e.get(atomic.getValue())[r];
    if (isExchange)
      given = e.toBits(given);
    auto update = [&]() -> Value {
      Value old = LLVM::AtomicRMWOp::create(b, e.loc, operationOf(atomic.getKind(), isa<FloatType>(element)),
                                            at.address, given, LLVM::AtomicOrdering::monotonic, "device");
      return isExchange ? e.fromBits(old, element) : old;
    };
    Value condition = e.both(at.inside, once);
    if (!isUsed) {
      e.when(condition, [&] { update(); });
      registers.push_back(e.zero(element));
      continue;
    }
    auto branch = scf::IfOp::create(b, e.loc, element, condition, /*addThenBlock=*/true, /*addElseBlock=*/true);
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(&branch.getThenRegion().front());
    scf::YieldOp::create(b, e.loc, update());
    b.setInsertionPointToStart(&branch.getElseRegion().front());
    scf::YieldOp::create(b, e.loc, e.zero(element));
    registers.push_back(branch.getResult(0));
  }
  if (isUsed && once) { // the others learn what the one got
    auto tensor = dyn_cast<RankedTensorType>(type);
    if (!tensor) {
      Value base = e.scratch(8);
      e.when(once, [&] { e.sharedStore(base, registers[0]); });
      e.barrier();
      registers[0] = e.sharedLoad(base, element);
    } else {
      const LinearLayout &layout = e.layout(tensor);
      Value base = e.scratch(tensor.getNumElements() * std::max(1u, element.getIntOrFloatBitWidth() / 8));
      storeShared(e, registers, layout, tensor.getShape(), base);
      e.barrier();
      for (int r = 0; r < int(registers.size()); ++r) {
        if (isDead(e, type, r))
          continue;
        SmallVector<Value> at;
        for (auto [d, extent] : llvm::enumerate(tensor.getShape())) {
          Value coordinate = e.coordinate(layout, d, r);
          if (!e.isInside(e.registerCoordinates(layout)[r][d], e.threadBits(layout, d), extent))
            coordinate = arith::MinUIOp::create(b, e.loc, coordinate, e.i32(extent - 1));
          at.push_back(coordinate);
        }
        registers[r] = e.sharedLoad(e.sharedAddress(base, flatIndex(e, at, tensor.getShape()), element), element);
      }
    }
  }
  e.put(atomic, registers);
  return success();
}
