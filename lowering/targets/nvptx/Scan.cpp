// Inclusive scans, by Sklansky's scheme over the bits of the coordinate along the axis, from the lowest up: when blocks
// of 2^k elements are scanned, an element in the upper half of a block of 2^(k+1) combines with the last of the lower
// half. A level whose bits are all in registers needs no communication; within a warp it is a shuffle, else shared
// memory. In reverse the halves, and "last" and "first", change places.
#include "bitloom/lowering/targets/nvptx/Emitter.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace bitloom;
using namespace bitloom::nvptx;

// The input dim and bit that moves by `value` along the axis; every such bit does nothing else (isReducible).
static std::pair<const char *, int> holderOf(const LinearLayout &layout, int axis, int32_t value) {
  for (const char *in : {reg, lane, warp})
    for (int bit = 0; bit < layout.inBits(in); ++bit)
      if (layout.basis(in, bit)[axis] == value)
        return {in, bit};
  llvm_unreachable("a tile's layout is surjective");
}

LogicalResult nvptx::lower(Emitter &e, tile::ScanOp scan) {
  OpBuilder &b = e.builder;
  int axis = scan.getAxis();
  auto type = cast<RankedTensorType>(scan.getSources()[0].getType());
  const LinearLayout &layout = e.layout(type);
  if (!isReducible(layout, axis))
    return scan.emitOpError() << "expected a source whose layout can be scanned along " << axis;
  bool isReverse = scan.getReverse();
  int64_t extent = type.getDimSize(axis);
  int count = layout.inSize(reg);
  const std::vector<LinearLayout::Vector> &own = e.registerCoordinates(layout);

  SmallVector<Registers> values; // [operand][register]
  SmallVector<Type> types;
  for (Value source : scan.getSources()) {
    values.push_back(e.get(source));
    types.push_back(tile::elementOf(source.getType()));
  }
  int32_t below[3] = {0, 0, 0}; // masks of the bits of register, lane and warp that hold lower bits of the coordinate
  auto slot = [](const char *in) { return in == reg ? 0 : in == lane ? 1 : 2; };

  for (int level = 0; level < layout.outBits(dimName(axis)); ++level) {
    auto [in, bit] = holderOf(layout, axis, 1 << level);
    int32_t at[3] = {0, 0, 0};
    at[slot(in)] = 1 << bit;
    // From the half that is done to the other: bit set -> clear and the lower bits all set; in reverse the opposite.
    auto partner = [&](int32_t index, int which) {
      return isReverse ? (index | at[which]) & ~below[which] : (index & ~at[which]) | below[which];
    };
    auto partnerValue = [&](Value id, int which) -> Value {
      int32_t set = isReverse ? at[which] : below[which], clear = isReverse ? below[which] : at[which];
      if (clear)
        id = arith::AndIOp::create(b, e.loc, id, e.i32(~clear));
      return set ? arith::OrIOp::create(b, e.loc, id, e.i32(set)).getResult() : id;
    };
    // Does this thread (register) take part: null always, a constant false by skipping.
    Value threadTakes;
    if (in != reg) {
      Value id = in == lane ? e.laneId() : e.warpId();
      threadTakes = e.compare(arith::AndIOp::create(b, e.loc, id, e.i32(1 << bit)), isReverse ? "eq" : "ne", e.i32(0));
    }
    auto registerTakes = [&](int r) {
      bool isUpper = r & at[0];
      return (in != reg || isUpper != isReverse) && !e.isDead(layout, type.getShape(), r) &&
             !(r & layout.freeBits(reg));
    };
    bool needsWarps = at[2] || below[2], needsLanes = at[1] || below[1];

    SmallVector<Registers> sent(types.size(), Registers(count)); // the partner's values, a register that takes part
    if (needsWarps) {
      // [other coordinates][block of 2^(level+1)], written by the element that the block's half ends with.
      SmallVector<int64_t> shape(layout.outs().size());
      for (size_t d = 0; d < shape.size(); ++d)
        shape[d] = layout.outs()[d].size;
      shape[axis] = std::max<int64_t>(1, shape[axis] >> (level + 1));
      auto blockOf = [&](int r) {
        SmallVector<Value> coordinates;
        for (int d = 0; d < int(shape.size()); ++d) {
          Value value = e.coordinate(layout, d, r);
          coordinates.push_back(d == axis ? arith::ShRUIOp::create(b, e.loc, value, e.i32(level + 1)).getResult()
                                          : value);
        }
        return flatIndex(e, coordinates, shape);
      };
      int64_t elements = ShapedType::getNumElements(shape);
      for (auto [k, element] : llvm::enumerate(types)) {
        Value base = e.scratch(elements * std::max(1u, element.getIntOrFloatBitWidth() / 8));
        int32_t low = (1 << level) - 1, mask = (2 << level) - 1, last = isReverse ? 1 << level : low;
        for (int r = 0; r < count; ++r) {
          if (r & layout.freeBits(reg) || e.isDead(layout, type.getShape(), r))
            continue;
          int32_t threadBits = e.threadBits(layout, axis) & mask;
          if ((own[r][axis] & mask & ~threadBits) != (last & ~threadBits))
            continue; // never the half's end
          Value masked = arith::AndIOp::create(b, e.loc, e.coordinate(layout, axis, r), e.i32(mask));
          Value isEnd = e.both(e.compare(masked, "eq", e.i32(last)), e.isFirstReplica(layout));
          Value place = blockOf(r);
          e.when(isEnd, [&] { e.sharedStore(e.sharedAddress(base, place, element), values[k][r]); });
        }
        e.barrier();
        for (int r = 0; r < count; ++r)
          if (registerTakes(r))
            sent[k][r] = e.sharedLoad(e.sharedAddress(base, blockOf(r), element), element);
      }
    } else {
      Value from = needsLanes ? partnerValue(e.laneId(), 1) : Value();
      for (size_t k = 0; k < types.size(); ++k) {
        DenseMap<int, Value> moved; // many registers share a partner
        for (int r = 0; r < count; ++r) {
          if (!registerTakes(r))
            continue;
          int source = partner(r, 0);
          Value &value = moved[source];
          if (!value)
            value = needsLanes ? e.shuffleFrom(values[k][source], from) : values[k][source];
          sent[k][r] = value;
        }
      }
    }

    SmallVector<Registers> next = values;
    for (int r = 0; r < count; ++r) {
      if (!registerTakes(r))
        continue;
      Registers mine, theirs;
      for (size_t k = 0; k < types.size(); ++k)
        mine.push_back(values[k][r]), theirs.push_back(sent[k][r]);
      Registers joined =
          isReverse ? e.combine(scan.getCombiner(), mine, theirs) : e.combine(scan.getCombiner(), theirs, mine);
      Value takes = threadTakes;
      if (isReverse) { // the upper half may be padding; going up, an element inside has only such before it
        Value first = arith::AndIOp::create(b, e.loc, e.coordinate(layout, axis, r), e.i32(~((2 << level) - 1)));
        first = arith::OrIOp::create(b, e.loc, first, e.i32(1 << level));
        takes = e.both(takes, e.compare(first, "ult", e.i32(extent)));
      }
      for (size_t k = 0; k < types.size(); ++k)
        next[k][r] = e.select(takes, joined[k], values[k][r]);
    }
    values = next;
    below[slot(in)] |= 1 << bit;
  }
  for (auto [result, registers] : llvm::zip(scan.getResults(), values)) {
    for (int r = 0; r < count; ++r) // replicas follow the register that they repeat
      if (int32_t free = r & layout.freeBits(reg))
        registers[r] = registers[r & ~free];
    e.put(result, registers);
  }
  return success();
}
