// Products with a packed weight in vectors of any length: SVE's, whose instructions for bytes do in each segment of 16
// bytes what NEON's do. A vector has as many neighbouring units of a panel as there are segments, or bytes of units,
// the left operand is repeated in each, and the same code is right for every length. The sums are written to memory,
// where they lie in one order whatever the length; what they stand for is formed from there.
//
// Where vectors have 16 bytes, NEON's instructions are fewer, which load up to four of them and add immediate offsets:
// the processor's length decides between the two, once a program (segmentShapeFor).
#include "bitloom/lowering/transforms/loops/KernelLowering.h"

using namespace mlir;
using namespace bitloom::tile;

namespace bitloom::loops {

constexpr int64_t segment = 16; // bytes

std::optional<SegmentShape> KernelLowering::segmentsOf(const Contraction &contraction) {
  if (contraction.dots.size() != 1)
    return {};
  DotOp dot = contraction.dots[0];
  UnpackOp weight = weightOf(dot);
  auto load = weight.getBytes().getDefiningOp<LoadOp>();
  if (!load || cast<ViewType>(load.getView().getType()).getStrided() ||
      load.getDims().back() != int32_t(load.getOffsets().size()) - 1)
    return {};
  const int64_t rows = shapeOf(dot.getType())[0], depth = shapeOf(dot.getA().getType())[1];
  if (depth % segment)
    return {};
  const Packing packing = Packing::parse(weight.getPacking().getSpelling());
  return segmentShapeFor(target, contraction.atom, packing, planOf(dot), rows);
}

void KernelLowering::forEitherLength(llvm::function_ref<void()> longer, llvm::function_ref<void()> asNeon,
                                     int64_t fewest) {
  Value isLonger = compare(arith::CmpIPredicate::uge, pure<LLVM::vscale>({}, builder.getI64Type()), i64(fewest));
  here();
  auto branch = scf::IfOp::create(builder, loc, TypeRange(), isLonger, /*addThenBlock=*/true, /*addElseBlock=*/true);
  for (bool known : {true, false}) {
    open(known ? branch.thenBlock() : branch.elseBlock(), branch);
    int outerFloor = std::exchange(memoryFloor, depth());
    known ? longer() : asNeon();
    here();
    scf::YieldOp::create(builder, loc);
    memoryFloor = outerFloor;
    close();
  }
}

void KernelLowering::contractByLength(scf::ForOp op, const Contraction &contraction, ArrayRef<Buffer> results) {
  Contraction longer = contraction;
  longer.inSegments = true;
  longer.tile = contraction.segments->tile;
  longer.panel = longer.tile.columns;
  longer.atOnce = 1;
  forEitherLength([&] { contractTiles(op, longer, results); }, [&] { contractTiles(op, contraction, results); },
                  contraction.segments->fewest);
}

Value KernelLowering::pointerTo(Value bytes, const Place &place) {
  if (const Buffer *buffer = bufferOf(bytes))
    return address(buffer->pointer, linearIndex(buffer->shape, place), buffer->element);
  auto load = bytes.getDefiningOp<LoadOp>();
  Access from = access(load, load.getView(), load.getOffsets(), load.getDims(), shapeOf(load.getType()), place);
  return address(from.pointer, place.at[place.vec], builder.getI8Type());
}

Value KernelLowering::inEachSegment(Value vector) {
  Type any = scalableOf(builder.getI8Type(), segment);
  Value first = pure<LLVM::vector_insert>(vector, pure<LLVM::PoisonOp>({}, any), vector, 0);
  return callIntrinsic("llvm.aarch64.sve.dupq.lane.nxv16i8", any, {first, i64(0)});
}

// A constant that LLVM neither makes an immediate nor forms anew, outside of the loop that reads memory.
Value KernelLowering::inRegister(Value constant) {
  Key key = {6, int64_t(constant.getAsOpaquePointer())};
  if (Value known = find(key))
    return known;
  at(memoryFloor - 1);
  auto dialect = LLVM::AsmDialectAttr::get(builder.getContext(), LLVM::AsmDialect::AD_ATT);
  return remember(key, LLVM::InlineAsmOp::create(builder, loc, constant.getType(), constant, "", "=w,0",
                                                 /*has_side_effects=*/false, /*is_align_stack=*/false,
                                                 LLVM::tailcallkind::TailCallKind::None, dialect, ArrayAttr())
                           .getResult(0));
}

KernelLowering::ProductSums KernelLowering::productsInSegments(DotOp dot, const Contraction &contraction,
                                                               const RegisterTile &tile) {
  UnpackOp weight = weightOf(dot);
  const Packing packing = Packing::parse(weight.getPacking().getSpelling());
  const Atom &atom = contraction.atom;
  const FieldPlan plan = planOf(dot);
  const SegmentShape &shape = *contraction.segments;
  const bool byElement = atom.left == Atom::Left::Element;
  const int64_t perUnit = plan.unit.values, units = tile.columns / (perUnit * atom.lanes);
  const int64_t segments = units * shape.perUnit, bytes = segments * segment;
  const int64_t apart = plan.unit.bytes / shape.perUnit; // neighbouring segments, in segments
  const int64_t blocks = tile.rows / atom.rows, steps = shapeOf(dot.getA().getType())[1] / atom.block;
  const int64_t together = byElement ? segment / atom.block : 2 - steps % 2; // steps
  const int64_t chains = std::min<int64_t>(shape.tile.chains, together);
  Type word = builder.getI32Type(), byte = builder.getI8Type();
  Type bytesType = scalableOf(byte, segment), sumType = scalableOf(word, segment / 4);
  ProductSums result{.atom = atom,
                     .plan = plan,
                     .across = units * perUnit,
                     .firstValue = 0,
                     .perBlock = units * plan.operands(),
                     .byLanes = byElement,
                     .segments = shape.perUnit,
                     .sums = Values(size_t(blocks * units * plan.operands())),
                     .ofLeft = Values(size_t(plan.needsSum() ? blocks : 0))};
  result.memory = allocate({int64_t(result.sums.size() + result.ofLeft.size()) * segment / 4}, word);
  Coord inPanel = dividedBy(modulo(tile.column, packing.rows), perUnit * atom.lanes);
  Value weights =
      pointerTo(weight.getBytes(),
                Place{{dividedBy(tile.column, packing.rows), times(inPanel, plan.unit.bytes * segment)}, 1, segment});
  Value length = mul(pure<LLVM::vscale>({}, builder.getI64Type()), i64(segment));

  // What lies apart is gathered, eight bytes each, from addresses that a vector holds; a byte of a unit is a distance
  // that the instruction adds.
  Type addressesType = scalableOf(builder.getI64Type(), segment / 8);
  auto all = [&](int64_t number) {
    return literal(
        DenseElementsAttr::get(cast<ShapedType>(addressesType), Attribute(builder.getI64IntegerAttr(number))));
  };
  Value stepOfAddresses = apart == 1 ? Value() : inRegister(all(packing.bytesPerBlock()));
  auto addressesFrom = [&](Value start) {
    Value lane = pure<LLVM::StepVectorOp>({}, addressesType);
    Value half = index<arith::AndIOp>(lane, all(1)), before = index<arith::SubIOp>(lane, half);
    Value own =
        added(index<arith::MulIOp>(half, all(segment / 2)), index<arith::MulIOp>(before, all(apart * segment / 2)));
    Value number = pure<LLVM::PtrToIntOp>(start, builder.getI64Type(), start);
    return added(pure<vector::BroadcastOp>(number, addressesType, number), own);
  };

  auto doPass = [&](int64_t pass, Value from, ArrayRef<Value> at, ArrayRef<Value> masks) {
    Value noBytes = literal(cast<TypedAttr>(builder.getZeroAttr(bytesType)));
    const bool addsLeft = plan.needsSum() && pass == 0;
    const int64_t first = pass * shape.operands, perChain = blocks * shape.vectors * shape.operands;
    llvm::SmallBitVector wanted(unsigned(plan.operands()));
    wanted.set(unsigned(first), unsigned(first + shape.operands));
    // By [chain][row block][vector][operand], then those of the left operand by row block, then addresses by vector.
    Values sums(size_t(chains * perChain), literal(cast<TypedAttr>(builder.getZeroAttr(sumType))));
    sums.append(size_t(addsLeft ? blocks : 0), zero(word, segment / 4));
    const size_t addresses = sums.size();
    for (int64_t vector = 0; apart > 1 && vector < shape.vectors; ++vector)
      sums.push_back(addressesFrom(address(from, mul(at[size_t(vector)], i64(apart)), byte)));
    Value end = i64(steps), stride = i64(together), none = i64(0);
    here();
    auto loop = scf::ForOp::create(builder, loc, none, end, stride, sums);
    open(loop.getBody(), loop);
    sums.assign(loop.getRegionIterArgs().begin(), loop.getRegionIterArgs().end());
    auto readContiguous = [&](Coord step, size_t vector) -> Value {
      Value start = address(address(from, times(step, packing.bytesPerBlock()), byte), at[vector], byte);
      hoistRead(start);
      return LLVM::MaskedLoadOp::create(builder, loc, bytesType, start, masks[vector], noBytes, /*alignment=*/1);
    };
    auto gather = [&](size_t vector, int number) -> Value {
      Values operands = {masks[vector], sums[addresses + vector], i64(number * segment)};
      hoistRead(operands);
      Value words = LLVM::CallIntrinsicOp::create(
                        builder, loc, addressesType,
                        builder.getStringAttr("llvm.aarch64.sve.ld1.gather.scalar.offset.nxv2i64.nxv2i64"), operands)
                        .getResult(0);
      return pure<LLVM::BitcastOp>(words, bytesType, words);
    };
    for (int64_t i = 0; i < together; ++i) {
      Coord step{loop.getInductionVar(), i, together}, column = times(step, atom.block);
      Values rights; // by [vector][operand]
      for (int64_t vector = 0; vector < shape.vectors; ++vector) {
        Values all = takeApart(plan, wanted, [&](int number) {
          return apart == 1 ? readContiguous(step, size_t(vector)) : gather(size_t(vector), number);
        });
        rights.append(all.begin() + first, all.begin() + first + shape.operands);
        if (apart > 1)
          sums[addresses + size_t(vector)] = added(sums[addresses + size_t(vector)], stepOfAddresses);
      }
      for (int64_t block = 0; block < blocks; ++block) {
        Coord row = tile.row + block * atom.rows;
        // Of a vector that several steps share, an element each.
        Value left =
            byElement ? evaluate(dot.getA(), Place{{row, times(Coord{step.dyn, 0, together}, atom.block)}, 1, segment})
                      : leftOperand(dot, atom, row, column, 0);
        Value everywhere = inEachSegment(left);
        for (auto [number, right] : llvm::enumerate(rights)) {
          Value &sum = sums[size_t((i % chains) * perChain + block * int64_t(rights.size())) + number];
          sum =
              callIntrinsic(atom.scalable, sumType,
                            byElement ? Values{sum, right, everywhere, constant(builder.getI32IntegerAttr(int32_t(i)))}
                                      : Values{sum, everywhere, right});
        }
        if (addsLeft && (!byElement || i == 0)) {
          Value &sum = sums[size_t(chains * perChain + block)];
          Value first =
              pure<LLVM::vector_extract>(everywhere, left.getType(), everywhere, 0); // so that it is read once
          sum = sumOfLeft(atom, first, sum);
        }
      }
    }
    here();
    scf::YieldOp::create(builder, loc, sums);
    close();
    return Values(loop.getResults().take_front(addresses));
  };

  // All vectors of the tile, so many at a time; those behind its end are empty.
  Value end = i64(bytes), stride = mul(length, i64(shape.vectors)), none = i64(0);
  here();
  auto parts = scf::ForOp::create(builder, loc, none, end, stride);
  open(parts.getBody(), parts);
  int outerFloor = std::exchange(memoryFloor, depth());
  Values at, readMasks, wordMasks; // of what a vector reads, bytes or gathered words of eight, and of its sums
  for (int64_t vector = 0; vector < shape.vectors; ++vector) {
    Value own = add(parts.getInductionVar(), mul(length, i64(vector)));
    auto maskOf = [&](Value from, Value end, int64_t lanes) {
      return pure<LLVM::GetActiveLaneMaskOp>({from, end}, scalableOf(builder.getI1Type(), lanes), from, end);
    };
    at.push_back(own);
    readMasks.push_back(apart == 1 ? maskOf(own, i64(bytes), segment)
                                   : maskOf(divU(own, i64(8)), i64(bytes / 8), segment / 8));
    wordMasks.push_back(maskOf(divU(own, i64(4)), i64(bytes / 4), segment / 4));
  }
  Value from = opaque(weights)[0]; // not known to be the same in each part, or all that is read would stay in registers
  Value to = result.memory->pointer;
  for (int64_t pass = 0; pass < shape.ofASegment / shape.operands; ++pass) {
    Values sums = doPass(pass, from, at, readMasks);
    const int64_t perBlock = shape.vectors * shape.operands, perChain = blocks * perBlock;
    for (int64_t width = chains / 2; width; width /= 2)
      for (int64_t i = 0; i < width * perChain; ++i)
        sums[size_t(i)] = added(sums[size_t(i)], sums[size_t(i + width * perChain)]);
    for (int64_t i = 0; i < perChain; ++i) {
      const int64_t vector = i % perBlock / shape.operands, operand = pass * shape.operands + i % shape.operands;
      Value there = address(address(to, i64((i / perBlock * shape.ofASegment + operand) * bytes), byte),
                            at[size_t(vector)], byte);
      here();
      LLVM::MaskedStoreOp::create(builder, loc, sums[size_t(i)], there, wordMasks[size_t(vector)], 4);
    }
    for (auto [block, sum] : llvm::enumerate(ArrayRef(sums).drop_front(size_t(chains * perChain)))) {
      Value there = address(to, i64(int64_t(result.sums.size() + block) * segment), byte);
      here();
      LLVM::StoreOp::create(builder, loc, sum, there, segment);
    }
  }
  memoryFloor = outerFloor;
  close();
  return result;
}

Value KernelLowering::sumAt(ProductSums &products, int64_t number) {
  Value &known = products.sums[size_t(number)];
  if (known)
    return known;
  const int64_t ofASegment = products.plan.operands() / products.segments, segments = products.perBlock / ofASegment;
  const int64_t inBlock = number % products.perBlock; // by unit, of that segment by segment
  const int64_t at = (number / products.perBlock * ofASegment + inBlock % ofASegment) * segments + inBlock / ofASegment;
  constexpr int64_t lanes = segment / 4;
  return known = read(*products.memory, Place{{Coord{{}, at * lanes}}, 0, lanes});
}

Value KernelLowering::ofLeft(ProductSums &products, int64_t block) {
  Value &known = products.ofLeft[size_t(block)];
  constexpr int64_t lanes = segment / 4;
  const Coord at{{}, (int64_t(products.sums.size()) + block) * lanes};
  return known ? known : known = read(*products.memory, Place{{at}, 0, lanes});
}

} // namespace bitloom::loops
