// Dots on the tensor cores of sm_90a (wgmma), and the way of their results back to memory.
#include "bitloom/lib/support/Error.h"
#include "bitloom/lowering/targets/nvptx/Emitter.h"
#include "bitloom/lowering/targets/nvptx/Mma.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/IR/IRMapping.h"
#include "mlir/IR/Matchers.h"
#include "mlir/Interfaces/SideEffectInterfaces.h"
#include "llvm/ADT/SetVector.h"
#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace bitloom;
using namespace bitloom::nvptx;

//===- Operands in shared memory ----------------------------------------------------------------------------------===//

namespace {

// An operand as wgmma's matrix descriptors see it ("Matrix descriptor format" of the PTX manual): rows are those of m
// or n, depth is k.
class SharedOperand {
public:
  SharedOperand(Emitter &e, Value tile, int depthDim);
  // Of the part that starts at the row and the depth; `moved`: i32 bytes to add, or null.
  Value descriptor(int64_t row, int64_t depth);
  void moveBy(Value bytes);
  // Sums with it stay sums: as a disjoint or, each is two instructions on its halves.
  void hideBase() { base = e.ptx("mov.b64 $0, $1;", "=l,l", base.getType(), {base}, /*hasSideEffects=*/false); }
  int64_t offsetOf(int64_t row, int64_t depth) const; // in bytes
  bool isDepthMajor() const { return form.contiguous == depthDim; }

private:
  Emitter &e;
  SharedForm form;
  LinearLayout inverse;
  int depthDim;
  int64_t elementBytes;
  Value base; // i64: the descriptor of the tile's start
};

} // namespace

SharedOperand::SharedOperand(Emitter &e, Value tile, int depthDim) : e(e), depthDim(depthDim) {
  auto type = cast<RankedTensorType>(tile.getType());
  elementBytes = bytesOf(type.getElementType());
  form = *sharedFormOf(e.layout(type), type.getShape(), int(elementBytes));
  inverse = form.layout.invert();
  // Eight lines make a pattern of the swizzle. Depth-major, the next eight rows are a stride away; else the next eight
  // of depth are, and the rows of the next box the leading offset.
  int64_t stride = 8 * form.swizzle, leading = isDepthMajor() ? 16 : form.lines * form.swizzle;
  uint64_t mode = form.swizzle == 128 ? 1 : form.swizzle == 64 ? 2 : 3;
  uint64_t constant = mode << 62 | uint64_t(stride >> 4) << 32 | uint64_t(leading >> 4) << 16;
  OpBuilder &b = e.builder;
  Value address = arith::ShRUIOp::create(b, e.loc, e.sharedTile(tile), e.i32(4));
  base = arith::OrIOp::create(b, e.loc, arith::ExtUIOp::create(b, e.loc, b.getI64Type(), address),
                              e.i64(int64_t(constant)));
}

int64_t SharedOperand::offsetOf(int64_t row, int64_t depth) const {
  std::vector<std::pair<std::string_view, int32_t>> at = {{dimName(depthDim), int32_t(depth)},
                                                          {dimName(1 - depthDim), int32_t(row)}};
  std::string names[2] = {dimName(depthDim), dimName(1 - depthDim)};
  at[0].first = names[0], at[1].first = names[1];
  return inverse.apply(at)[0] * elementBytes;
}

void SharedOperand::moveBy(Value bytes) {
  OpBuilder &b = e.builder;
  Value pieces = arith::ShRUIOp::create(b, e.loc, bytes, e.i32(4));
  base = arith::AddIOp::create(b, e.loc, base, arith::ExtUIOp::create(b, e.loc, b.getI64Type(), pieces));
}

Value SharedOperand::descriptor(int64_t row, int64_t depth) {
  return arith::AddIOp::create(e.builder, e.loc, base, e.i64(offsetOf(row, depth) >> 4));
}

static bool isPutInShared(Operation *op) {
  auto convert = dyn_cast_or_null<tile::ConvertLayoutOp>(op);
  return convert && isShared(convert.getType());
}

// From registers to a tile of its own in shared memory, which the tensor cores may read afterwards.
void nvptx::putInShared(Emitter &e, tile::ConvertLayoutOp convert) {
  RankedTensorType type = convert.getType();
  Type element = type.getElementType();
  const LinearLayout &from = e.layout(convert.getSource().getType());
  LinearLayout inverse = e.layout(type).invert();
  bool isForWgmma = llvm::any_of(convert->getUsers(), [&](Operation *user) {
    auto dot = dyn_cast<tile::DotOp>(user);
    return dot && planWgmma(dot, e.target, e.warps());
  });
  int64_t bytes = type.getNumElements() * bytesOf(element);
  const Cost cost = {convert.getLoc(), bytes, describe(type)};
  int64_t offset =
      isForWgmma ? e.reserve(bytes, sharedAlignment, cost) : e.reserveWhileUsed(convert, bytes, sharedAlignment, cost);
  const Registers &values = e.get(convert.getSource());
  Value address = e.sharedAt(offset);
  if (!isPutInShared(convert->getPrevNode()))
    e.barrier(); // readers of what was there before
  // Where each element goes is linear in register, lane and warp: the thread's part xor the register's.
  LinearLayout places = from.compose(inverse);
  Value thread = e.threadImage(places, 0);
  Value once = e.isFirstReplica(from);
  int run = int(std::min<int64_t>(places.contiguousRegisters("offset"), 16 / bytesOf(element)));
  e.when(once, [&] {
    for (int r = 0; r < int(values.size()); r += run) {
      if (r & from.freeBits(reg))
        continue;
      Value place = e.i32(places.apply({{reg, r}})[0]);
      if (thread)
        place = arith::XOrIOp::create(e.builder, e.loc, thread, place);
      Value at = arith::AddIOp::create(e.builder, e.loc, address,
                                       arith::MulIOp::create(e.builder, e.loc, place, e.i32(bytesOf(element))));
      storeSharedWords(e, at, packWords(e, ArrayRef<Value>(values).slice(r, run)));
    }
  });
  if (isForWgmma)
    e.ptx("fence.proxy.async.shared::cta;", "~{memory}", Type(), {}, /*hasSideEffects=*/true);
  if (!isPutInShared(convert->getNextNode())) // the next one's barrier is this one's too
    e.barrier();
  e.putShared(convert, address);
}

void nvptx::storeSharedWords(Emitter &e, Value address, ValueRange words) {
  unsigned bits = words[0].getType().getIntOrFloatBitWidth();
  std::string list, constraints;
  SmallVector<Value> operands;
  for (auto [i, word] : llvm::enumerate(words)) {
    list += (i ? ", $" : "$") + std::to_string(i);
    constraints += bits == 32 ? "r," : "h,";
    operands.push_back(bits == 8 ? arith::ExtUIOp::create(e.builder, e.loc, e.builder.getI16Type(), word).getResult()
                                 : word);
  }
  std::string type = bits == 8 ? "u8" : "b" + std::to_string(bits);
  std::string width = words.size() == 1 ? "." + type : ".v" + std::to_string(words.size()) + "." + type;
  operands.push_back(address);
  e.ptx("st.shared" + width + " [$" + std::to_string(words.size()) + "], " +
            (words.size() == 1 ? list : "{" + list + "}") + ";",
        constraints + "r,~{memory}", Type(), operands, /*hasSideEffects=*/true);
}

//===- The instruction --------------------------------------------------------------------------------------------===//

std::string nvptx::braced(size_t first, size_t count) {
  std::string list = "{";
  for (size_t i = 0; i < count; ++i)
    list += (i ? ", $" : "$") + std::to_string(first + i);
  return list + "}";
}

void nvptx::throughAccumulators(Emitter &e, MutableArrayRef<Value> sums, const std::string &text,
                                const std::string &moreConstraints, ValueRange more, bool startsThem) {
  OpBuilder &b = e.builder;
  Type type = sums[0].getType();
  std::string letter = isa<FloatType>(type) ? "f" : "r", outs, ins;
  for (size_t i = 0; i < sums.size(); ++i) {
    outs += (i ? ",=" : "=") + letter;
    if (!startsThem)
      ins += "," + std::to_string(i);
  }
  SmallVector<Value> operands;
  if (!startsThem)
    llvm::append_range(operands, sums);
  llvm::append_range(operands, more);
  Type result =
      sums.size() == 1 ? type : LLVM::LLVMStructType::getLiteral(b.getContext(), SmallVector<Type>(sums.size(), type));
  Value after = e.ptx(text, outs + ins + moreConstraints, result, operands, /*hasSideEffects=*/true);
  for (auto [i, sum] : llvm::enumerate(sums))
    sum = sums.size() == 1 ? after : LLVM::ExtractValueOp::create(b, e.loc, after, int64_t(i)).getResult();
}

// All but the last `inFlight`. The tensor cores read `operands` until then: named here, they are not overwritten.
static void waitForDots(Emitter &e, MutableArrayRef<Value> sums, int inFlight, ValueRange operands) {
  std::string constraints;
  for (size_t i = 0; i < operands.size(); ++i)
    constraints += ",r";
  throughAccumulators(e, sums, "wgmma.wait_group.sync.aligned " + std::to_string(inFlight) + ";",
                      constraints + ",~{memory}", operands);
}

// The assembler sees no reason to compute them before a wait. Here it has one: an instruction that stays in its place
// among waits, and whose predicate, next to never true, is made of them.
static void computeFirst(Emitter &e, ValueRange tiles) {
  Value bits;
  for (Value tile : tiles)
    for (Value value : e.get(tile)) {
      Value own = e.toBits(value);
      bits = bits ? arith::XOrIOp::create(e.builder, e.loc, bits, own).getResult() : own;
    }
  if (bits)
    e.ptx("@$0 nanosleep.u32 0;", "b,~{memory}", Type(), {e.compare(bits, "eq", e.i32(0x7fc0beef))},
          /*hasSideEffects=*/true);
}

LogicalResult nvptx::lower(Emitter &e, tile::DotWaitOp wait) {
  computeFirst(e, wait.getAfter());
  Registers sums = e.get(wait.getSource());
  SmallVector<Value> operands;
  if (Value operand = wait.getOperand(); operand && !isShared(operand.getType()))
    operands = packWords(e, e.get(operand));
  waitForDots(e, sums, int(wait.getInFlight()), operands);
  e.put(wait, sums);
  return success();
}

// Whether the values, past what is done to each, are fields of bytes.
static bool isUnpacked(Value value) {
  Operation *producer = value.getDefiningOp();
  return producer && (isa<tile::UnpackOp>(producer) || (producer->hasTrait<OpTrait::Elementwise>() &&
                                                        llvm::any_of(producer->getOperands(), isUnpacked)));
}

// Whether the value is a word as a load gave it.
static bool isLoadedWord(Value value) {
  if (!value.getType().isInteger(32))
    return false;
  if (auto extract = value.getDefiningOp<LLVM::ExtractElementOp>())
    value = extract.getVector();
  return value.getDefiningOp<LLVM::LoadOp>() != nullptr;
}

// What the values are computed from, by operations of this block that may be repeated, into `slice` in order; the words
// loaded into `words`.
static void collectSlice(Value value, Block *block, llvm::SetVector<Operation *> &slice,
                         llvm::SetVector<Value> &words) {
  if (isLoadedWord(value)) {
    words.insert(value);
    return;
  }
  Operation *op = value.getDefiningOp();
  if (!op || op->getBlock() != block || op->getNumRegions() || !isMemoryEffectFree(op) || slice.contains(op))
    return;
  for (Value operand : op->getOperands())
    collectSlice(operand, block, slice, words);
  slice.insert(op);
}

// Waits for all dots but the last `inFlight`, and makes the fragments after that: the tensor cores read from the same
// registers until then. What they are made of passes through the wait, so that nothing moves before it; else they are
// copied after it.
static void makeAfterDots(Emitter &e, MutableArrayRef<Value> fragments, int inFlight) {
  OpBuilder &b = e.builder;
  llvm::SetVector<Operation *> slice;
  llvm::SetVector<Value> words;
  bool areFromWords = true;
  for (Value fragment : fragments) {
    llvm::SetVector<Operation *> own;
    llvm::SetVector<Value> from;
    collectSlice(fragment, b.getBlock(), own, from);
    areFromWords &= !from.empty();
    words.insert_range(from);
    collectSlice(fragment, b.getBlock(), slice, from);
  }
  const std::string wait = "wgmma.wait_group.sync.aligned " + std::to_string(inFlight) + ";";
  if (areFromWords) {
    SmallVector<Value> passed(words.begin(), words.end());
    throughAccumulators(e, passed, wait, ",~{memory}", {});
    IRMapping mapping;
    for (auto [word, after] : llvm::zip(words, passed))
      mapping.map(word, after);
    for (Operation *op : slice)
      b.clone(*op, mapping);
    for (Value &fragment : fragments)
      fragment = mapping.lookupOrDefault(fragment);
    return;
  }
  std::string copies, constraints;
  for (size_t i = 0; i < fragments.size(); ++i) {
    copies += "\n\tmov.b32 $" + std::to_string(i) + ", $" + std::to_string(fragments.size() + i) + ";";
    constraints += ",r";
  }
  SmallVector<Value> from(fragments);
  std::string outs;
  for (size_t i = 0; i < fragments.size(); ++i)
    outs += (i ? ",=&r" : "=&r");
  Value copied = e.ptx(wait + copies, outs + constraints + ",~{memory}",
                       LLVM::LLVMStructType::getLiteral(b.getContext(), SmallVector<Type>(from.size(), b.getI32Type())),
                       from, /*hasSideEffects=*/true);
  for (auto [i, fragment] : llvm::enumerate(fragments))
    fragment = LLVM::ExtractValueOp::create(b, e.loc, copied, int64_t(i));
}

LogicalResult nvptx::lowerWgmma(Emitter &e, tile::DotOp dot) {
  OpBuilder &builder = e.builder;
  RankedTensorType accType = dot.getType();
  int groups = e.warps() / warpsPerGroup;
  AccumulatorForm form = *accumulatorForm(e.layout(accType), accType.getShape(), e.warps());
  // As the instruction sees it: a is what has its rows.
  auto [a, b, unsignedA, unsignedB, depthOfA] =
      form.swapped ? std::tuple(dot.getB(), dot.getA(), dot.getUnsignedB(), dot.getUnsignedA(), 0)
                   : std::tuple(dot.getA(), dot.getB(), dot.getUnsignedA(), dot.getUnsignedB(), 1);
  const MmaAtom &atom = *atomFor(a.getType().getElementType(), unsignedA, dot.getPrecision());
  const MmaAtom &right = *atomFor(b.getType().getElementType(), unsignedB, dot.getPrecision());
  int64_t m = accType.getDimSize(form.swapped), n = accType.getDimSize(!form.swapped);
  int64_t depth = a.getType().getDimSize(depthOfA);
  int64_t along = form.groupsAlongN, groupsAlongM = groups / along, columns = n / along;
  int64_t step = std::min<int64_t>(columns, wgmmaMostColumns);
  bool aInShared = isShared(a.getType());

  SharedOperand rhs(e, b, 1 - depthOfA);
  std::optional<SharedOperand> lhs;
  if (aInShared)
    lhs.emplace(e, a, depthOfA);
  if (groups > 1) {
    Value group = e.warpGroup();
    if (aInShared && groupsAlongM > 1) {
      Value row =
          along == 1 ? group : arith::AndIOp::create(builder, e.loc, group, e.i32(groupsAlongM - 1)).getResult();
      lhs->moveBy(arith::MulIOp::create(builder, e.loc, row, e.i32(lhs->offsetOf(wgmmaRows, 0))));
    }
    if (along > 1) {
      Value column = arith::ShRUIOp::create(builder, e.loc, group, e.i32(llvm::Log2_64(groupsAlongM)));
      for (int64_t bit = 1; bit < along; bit *= 2) { // parts of a line lie elsewhere than whole lines
        Value shifted = arith::ShRUIOp::create(builder, e.loc, column, e.i32(llvm::Log2_64(bit)));
        Value isSet = arith::AndIOp::create(builder, e.loc, shifted, e.i32(1));
        rhs.moveBy(arith::MulIOp::create(builder, e.loc, isSet, e.i32(rhs.offsetOf(columns * bit, 0))));
      }
    }
  }

  if (isUnpacked(a)) // whose threads have no instructions to spare
    rhs.hideBase();

  Registers sums = e.get(dot.getAcc());
  bool startsSums = matchPattern(dot.getAcc(), m_Zero()) || matchPattern(dot.getAcc(), m_AnyZeroFloat());
  int64_t perAtom = columns / 2, perStep = step / 2, atoms = m / (wgmmaRows * groupsAlongM);
  Registers fragments;
  if (!aInShared) // four words a quarter of the depth of an atom's rows
    fragments = packWords(e, e.get(a));

  std::string name = "wgmma.mma_async.sync.aligned.m64n" + std::to_string(step) + "k" + std::to_string(atom.k) + "." +
                     std::string(atom.accumulator) + "." + std::string(atom.operand) + "." + std::string(right.operand);
  // Unpacked values are converted for a part of the depth while the tensor cores are at the part before it.
  const int64_t part = !aInShared && isUnpacked(a) ? std::min<int64_t>(2 * atom.k, depth) : depth;
  // Where a dot goes on under the next one, each part of its operand gives way to that one's when it has been read.
  const bool givesWay = !aInShared && isUnpacked(a) && dot.getInFlight();
  const int64_t parts = depth / part;
  auto wordsOf = [&](int64_t i, int64_t k) {
    return MutableArrayRef<Value>(fragments).slice(i * (depth / atom.k) * 4 + k / atom.k * 4, part / atom.k * 4);
  };
  for (int64_t k = 0; k < depth; k += atom.k) {
    if (k % part == 0) {
      for (int64_t i = 0; givesWay && i < atoms; ++i)
        makeAfterDots(e, wordsOf(i, k), int(parts - 1));
      e.ptx("wgmma.fence.sync.aligned;", "~{memory}", Type(), {}, /*hasSideEffects=*/true);
    }
    for (int64_t i = 0; i < atoms; ++i)
      for (int64_t c = 0; c < columns; c += step) {
        bool isFirst = startsSums && k == 0;
        size_t first = isFirst ? perStep : 2 * perStep; // of the operands after the accumulators
        SmallVector<Value> operands;
        std::string rows;
        if (aInShared) {
          operands.push_back(lhs->descriptor(i * groupsAlongM * wgmmaRows, k));
          rows = "$" + std::to_string(first);
        } else {
          int64_t word = i * (depth / atom.k) * 4 + k / atom.k * 4;
          operands.append(fragments.begin() + word, fragments.begin() + word + 4);
          rows = braced(first, 4);
        }
        std::string constraints = aInShared ? ",l" : ",r,r,r,r";
        std::string bText = "$" + std::to_string(first + operands.size());
        operands.push_back(rhs.descriptor(c, k));
        constraints += ",l";
        std::string text = "{\n\t.reg .pred add;\n\tsetp." + std::string(isFirst ? "ne" : "eq") +
                           ".u32 add, 0, 0;\n\t" + name + " " + braced(0, perStep) + ", " + rows + ", " + bText +
                           ", add";
        if (atom.accumulator == "f32")
          text += ", 1, 1";
        if (atom.mnMajor) {
          if (aInShared)
            text += lhs->isDepthMajor() ? ", 0" : ", 1";
          text += rhs.isDepthMajor() ? ", 0" : ", 1";
        }
        throughAccumulators(e, MutableArrayRef<Value>(sums).slice(i * perAtom + c / 2, perStep), text + ";\n\t}",
                            constraints, operands, isFirst);
      }
    if (givesWay ? (k + atom.k) % part == 0 : k + atom.k == depth)
      e.ptx("wgmma.commit_group.sync.aligned;", "~{memory}", Type(), {}, /*hasSideEffects=*/true);
  }
  if (givesWay) {
    // Of what is under way, all is this dot's: the wait before its last part saw to that.
  } else if (dot.getInFlight())
    e.ptx("wgmma.wait_group.sync.aligned " + std::to_string(dot.getInFlight()) + ";", "~{memory}", Type(), {},
          /*hasSideEffects=*/true);
  else {
    waitForDots(e, sums, 0, {});
  }
  e.put(dot, sums);
  return success();
}

//===- Groups that take turns with the tensor cores ---------------------------------------------------------------===//

// Barriers 8 and up: a group's turn, at which it meets the group that admits it.
static void groupTurn(Emitter &e, const char *how, Value group) {
  Value id = arith::AddIOp::create(e.builder, e.loc, group, e.i32(8));
  e.ptx("bar." + std::string(how) + " $0, " + std::to_string(2 * lanes * warpsPerGroup) + ";", "r,~{memory}", Type(),
        {id}, /*hasSideEffects=*/true);
}

void nvptx::admitFirstGroup(Emitter &e) {
  Value isLast = e.compare(e.warpGroup(), "eq", e.i32(e.warps() / warpsPerGroup - 1));
  e.when(isLast, [&] { groupTurn(e, "arrive", e.i32(0)); });
}

LogicalResult nvptx::lower(Emitter &e, tile::AwaitGroupOp) {
  groupTurn(e, "sync", e.warpGroup());
  return success();
}

LogicalResult nvptx::lower(Emitter &e, tile::AdmitGroupOp) {
  Value next = arith::AddIOp::create(e.builder, e.loc, e.warpGroup(), e.i32(1));
  Value isLast = e.compare(next, "eq", e.i32(e.warps() / warpsPerGroup));
  groupTurn(e, "arrive", e.select(isLast, e.i32(0), next));
  return success();
}

//===- Stores of accumulators -------------------------------------------------------------------------------------===//

static void groupBarrier(Emitter &e) {
  Value id = arith::AddIOp::create(e.builder, e.loc, e.blockGroup(), e.i32(2)); // 0 and 1 are the block's
  e.ptx("bar.sync $0, " + std::to_string(lanes * warpsPerGroup) + ";", "r,~{memory}", Type(), {id},
        /*hasSideEffects=*/true);
}

// Two or four 8x8 matrices of 16-bit elements, each transposed or not; the address is that of row `lane % 8` of matrix
// `lane / 8` as it lies in memory.
static void storeMatrices(Emitter &e, Value address, ValueRange words, bool transposed) {
  SmallVector<Value> operands{address};
  llvm::append_range(operands, words);
  std::string constraints = "r";
  for (size_t i = 0; i < words.size(); ++i)
    constraints += ",r";
  e.ptx("stmatrix.sync.aligned.m8n8.x" + std::to_string(words.size()) + (transposed ? ".trans" : "") +
            ".shared.b16 [$0], " + braced(1, words.size()) + ";",
        constraints + ",~{memory}", Type(), operands, /*hasSideEffects=*/true);
}

namespace {

// A staged store under way. Boxes are rows of 128 bytes whose 16-byte pieces are swizzled by the row.
class BoxStore {
public:
  BoxStore(Emitter &e, tile::StoreOp store, const StagedStore &staged);
  void run();

private:
  Value add(Value x, Value y) { return arith::AddIOp::create(b, e.loc, x, y); }
  Value times(Value x, int64_t y) { return arith::MulIOp::create(b, e.loc, x, e.i32(y)); }
  Value bits(Value x, int low, int count) { // of x, moved down
    Value shifted = low ? arith::ShRUIOp::create(b, e.loc, x, e.i32(low)).getResult() : x;
    return arith::AndIOp::create(b, e.loc, shifted, e.i32((1 << count) - 1));
  }
  Value at(Value row, Value piece) { // address in the buffer in turn
    Value swizzled = arith::XOrIOp::create(b, e.loc, piece, bits(row, 0, 3));
    return add(add(buffers, e.i32(turn * e.stagedBytes())), add(times(row, 128), times(swizzled, 16)));
  }
  void fill(ArrayRef<Value> values, bool isFirstBox);
  void copy(int64_t row, int64_t column);

  Emitter &e;
  OpBuilder &b;
  tile::StoreOp store;
  StagedStore staged;
  ArrayRef<int64_t> shape;
  int64_t bytes;
  Value buffers, isFirst, lane, warp;
  SmallVector<Value> origin; // i32, of the group's part, innermost dim first
  int lineDim, turn = 0;
};

} // namespace

BoxStore::BoxStore(Emitter &e, tile::StoreOp store, const StagedStore &staged)
    : e(e), b(e.builder), store(store), staged(staged), shape(tile::shapeOf(store.getValue().getType())),
      bytes(bytesOf(tile::elementOf(store.getValue().getType()))), lane(e.laneId()) {
  warp = bits(e.warpId(), 0, 2);
  buffers = add(e.sharedAt(e.stagingOffset()), times(e.blockGroup(), 2 * e.stagedBytes()));
  isFirst = e.compare(bits(e.linearThreadId(), 0, 7), "eq", e.i32(0));
  int rank = int(store.getOffsets().size());
  lineDim = rank - 1 - store.getDims()[0];
  origin = copyCoordinates(e, store.getView(), store.getOffsets());
  // Groups stack along the instruction's rows first.
  int64_t along = staged.form.groupsAlongN, groupsAlongM = e.warps() / warpsPerGroup / along;
  int rowDim = staged.form.swapped ? 0 : lineDim, columnDim = staged.form.swapped ? lineDim : 0;
  origin[rowDim] = add(origin[rowDim], times(bits(e.warpGroup(), 0, int(llvm::Log2_64(groupsAlongM))), wgmmaRows));
  Value groupColumn = arith::ShRUIOp::create(b, e.loc, e.warpGroup(), e.i32(llvm::Log2_64(groupsAlongM)));
  origin[columnDim] = add(origin[columnDim], times(groupColumn, shape[!staged.form.swapped] / along));
}

// The buffer in turn, from the warpgroup's registers of a box.
void BoxStore::fill(ArrayRef<Value> values, bool isFirstBox) {
  // The copy engine has read what was there: it may still be at the last box, which lies in the other buffer.
  const char *underWay = isFirstBox && !e.areStagedEvenly() ? "0" : "1";
  e.when(isFirst, [&] {
    e.ptx("cp.async.bulk.wait_group.read " + std::string(underWay) + ";", "~{memory}", Type(), {},
          /*hasSideEffects=*/true);
  });
  groupBarrier(e);
  if (staged.form.swapped) {
    // Columns of the instruction are rows here: matrices (rows, columns) 0-7, 0-7; 8-15, 0-7; 0-7, 8-15; 8-15, 8-15.
    Value piece = add(times(warp, 2), bits(lane, 3, 1));
    for (int64_t row = 0; row < staged.rows; row += 16) {
      SmallVector<Value> words = packWords(e, values.slice(row / 2, std::min<int64_t>(8, values.size() - row / 2)));
      Value within = add(bits(lane, 0, 3), times(bits(lane, 4, 1), 8));
      storeMatrices(e, at(add(within, e.i32(row)), piece), words, /*transposed=*/true);
    }
  } else if (bytes == 2) {
    Value row = add(times(warp, 16), bits(lane, 0, 4));
    for (int64_t piece = 0; piece < 8; piece += 2)
      storeMatrices(e, at(row, add(bits(lane, 4, 1), e.i32(piece))), packWords(e, values.slice(piece * 4, 8)), false);
  } else {
    Value row = add(times(warp, 16), bits(lane, 2, 3)), within = times(bits(lane, 0, 1), 8);
    for (int64_t eight = 0; eight < staged.columns / 8; ++eight) {
      Value address = add(at(row, add(bits(lane, 1, 1), e.i32(2 * eight))), within);
      storeSharedWords(e, address, packWords(e, values.slice(eight * 4, 2)));
      storeSharedWords(e, add(address, e.i32(8 * 128)), packWords(e, values.slice(eight * 4 + 2, 2)));
    }
  }
  e.ptx("fence.proxy.async.shared::cta;", "~{memory}", Type(), {}, /*hasSideEffects=*/true);
  groupBarrier(e);
}

// From the buffer in turn to the view; `row` and `column` beyond the origin.
void BoxStore::copy(int64_t row, int64_t column) {
  e.when(isFirst, [&] {
    int rank = int(origin.size());
    std::string text = "cp.async.bulk.tensor." + std::to_string(rank) + "d.global.shared::cta.bulk_group [$0, {";
    std::string constraints = "l,r";
    SmallVector<Value> operands{e.tensorMap(store), add(buffers, e.i32(turn * e.stagedBytes()))};
    for (int d = 0; d < rank; ++d) {
      text += (d ? ", $" : "$") + std::to_string(2 + d);
      constraints += ",r";
      int64_t beyond = d == 0 ? column : d == lineDim ? row : 0;
      operands.push_back(beyond ? add(origin[d], e.i32(beyond)) : origin[d]);
    }
    e.ptx(text + "}], [$1];\n\tcp.async.bulk.commit_group;", constraints + ",~{memory}", Type(), operands,
          /*hasSideEffects=*/true);
  });
  turn ^= 1;
}

void BoxStore::run() {
  const Registers values = e.get(store.getValue());
  int64_t m = shape[staged.form.swapped], n = shape[!staged.form.swapped];
  int64_t groupsAlongM = e.warps() / warpsPerGroup / staged.form.groupsAlongN, columns = n / staged.form.groupsAlongN;
  int64_t step = staged.form.swapped ? staged.rows : staged.columns; // along the instruction's columns
  bool goesOn = isLaterPiece(store);
  turn = goesOn ? e.stagedTurn() : 0;
  for (int64_t row = 0; row < m; row += groupsAlongM * wgmmaRows)
    for (int64_t column = 0; column < columns; column += step) {
      fill(ArrayRef<Value>(values).slice(row / (groupsAlongM * wgmmaRows) * columns / 2 + column / 2, step / 2),
           !goesOn && !row && !column);
      staged.form.swapped ? copy(column, row) : copy(row, column);
    }
  e.stagedTurn() = turn;
}

bool nvptx::lowerStaged(Emitter &e, tile::StoreOp store) {
  std::optional<StagedStore> staged = e.staged(store);
  if (staged)
    BoxStore(e, store, *staged).run();
  return staged.has_value();
}
