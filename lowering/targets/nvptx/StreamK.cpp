// Programs whose steps the blocks share evenly (tile.share, tile.share_sum).
//
// The programs that would be left over for an incomplete wave come first: their steps, all in a row, are cut into as
// many even ranges as there are blocks. What a block has of a program it adds up, and leaves it in its part of the
// workspace unless it has the program's first step: who has that adds up what the others left, in the order of the
// steps, so that the sum is the same in each run. Each range ends with the start of a program, so what is waited for
// was left long before. Whole programs follow, as many for each block, and all blocks end together.
//
// Ranges go to the blocks backwards: a block waits for none but blocks of a lower number, which are scheduled no later,
// and these for nothing before they have left their sum. So blocks need not all be there at once.
#include "bitloom/lib/runtime/Workspace.h"
#include "bitloom/lowering/targets/nvptx/Emitter.h"
#include "bitloom/lowering/targets/nvptx/Mma.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace bitloom;
using namespace bitloom::nvptx;

namespace {

// Unsigned arithmetic on i32: what is counted is below 2^31.
struct Words {
  Emitter &e;
  Value add(Value x, Value y) { return arith::AddIOp::create(e.builder, e.loc, x, y); }
  Value sub(Value x, Value y) { return arith::SubIOp::create(e.builder, e.loc, x, y); }
  Value mul(Value x, Value y) { return arith::MulIOp::create(e.builder, e.loc, x, y); }
  Value div(Value x, Value y) { return arith::DivUIOp::create(e.builder, e.loc, x, y); }
  Value min(Value x, Value y) { return arith::MinUIOp::create(e.builder, e.loc, x, y); }
  Value both(Value x, Value y) { return arith::AndIOp::create(e.builder, e.loc, x, y); }
  Value lessOr0(Value x, Value y) { return e.select(e.compare(x, "ult", y), e.i32(0), sub(x, y)); } // max(x - y, 0)
};

} // namespace

// The first step, of those in a row, of the block at a position.
static Value beginOf(Emitter &e, Value position) {
  const Emitter::Stream &stream = e.stream();
  Words w{e};
  position = w.min(position, stream.sharing);
  return w.add(w.mul(position, stream.perBlock), w.min(position, stream.rest));
}

void Emitter::prepareStream(Value steps, Value programs, Value block, Value blocks) {
  // A range's bounds are below 2 · blocks · steps, and there are counters for 1024 blocks.
  constexpr int64_t mostSteps = 1 << 20;
  Words w{*this};
  Stream &s = streamValues;
  Type word = builder.getI32Type();
  s.workspace = function.getArgument(wordCount + 3);
  s.programs = programs, s.blocks = blocks;
  s.position = w.sub(w.sub(blocks, i32(1)), block);
  Value fits = w.both(compare(steps, "sge", i64(1)), compare(steps, "sle", i64(mostSteps)));
  Value isShared = w.both(fits, compare(s.workspace, "ne", i64(0)));
  s.steps = arith::TruncIOp::create(builder, loc, word, steps);
  // A last wave that is less than half full would cut programs into many parts: it takes a full one with it.
  Value waves = w.div(programs, blocks), left = w.sub(programs, w.mul(waves, blocks));
  Value isWide = compare(w.add(left, left), "uge", blocks);
  Value isOnly = compare(waves, "eq", i32(0));
  Value count = select(arith::OrIOp::create(builder, loc, isOnly, isWide), left, w.add(left, blocks));
  s.streamed = select(w.both(isShared, compare(left, "ne", i32(0))), count, i32(0));
  Value total = w.mul(s.streamed, s.steps);
  // Parts are added up one after the other.
  constexpr int64_t mostParts = 4; // of a program, give or take one
  s.sharing = w.min(blocks, select(compare(s.streamed, "ult", blocks), w.mul(s.streamed, i32(mostParts)), blocks));
  Value divisor = select(compare(s.sharing, "eq", i32(0)), i32(1), s.sharing);
  s.perBlock = w.div(total, divisor);
  s.rest = w.sub(total, w.mul(s.perBlock, divisor));
  s.begin = beginOf(*this, s.position);
  s.end = beginOf(*this, w.add(s.position, i32(1)));
  Value isAny = compare(s.begin, "ult", s.end);
  Value each = select(isAny, s.steps, i32(1));
  s.firstProgram = w.div(s.begin, each);
  Value last = w.div(w.sub(s.end, i32(1)), each);
  s.parts = select(isAny, w.add(w.sub(last, s.firstProgram), i32(1)), i32(0));
}

Value Emitter::streamedParts() {
  Words w{*this};
  const Stream &s = streamValues;
  Value left = w.lessOr0(s.programs, w.add(s.streamed, s.position));
  return w.add(s.parts, w.div(w.add(left, w.sub(s.blocks, i32(1))), s.blocks));
}

Value Emitter::beginShare(Value n) {
  Words w{*this};
  const Stream &s = streamValues;
  auto part = [&](Value n) {
    Share share;
    share.isStreamed = compare(n, "ult", s.parts);
    Value whole = w.add(w.add(s.streamed, s.position), w.mul(w.sub(n, s.parts), s.blocks));
    share.program = select(share.isStreamed, w.add(s.firstProgram, n), whole);
    Value start = w.mul(share.program, s.steps);
    share.first = select(share.isStreamed, w.lessOr0(s.begin, start), i32(0));
    share.end = select(share.isStreamed, w.min(w.sub(s.end, start), s.steps), s.steps);
    return share;
  };
  Share before = part(w.sub(n, i32(1)));
  shareValues = part(n);
  shareValues.before = w.sub(before.end, before.first);
  return shareValues.program;
}

LogicalResult nvptx::lower(Emitter &e, tile::ShareOp share) {
  auto wide = [&](Value word) -> Value {
    return arith::ExtUIOp::create(e.builder, e.loc, e.builder.getI64Type(), word);
  };
  e.put(share.getFirst(), {wide(e.share().first)});
  e.put(share.getEnd(), {wide(e.share().end)});
  e.put(share.getBefore(), {wide(e.share().before)});
  return success();
}

//===- Sums -------------------------------------------------------------------------------------------------------===//

namespace {

// What the block at each position leaves in the workspace: a counter, which is 1 when it is there, and the registers of
// its threads, four at a time.
class Parts {
public:
  Parts(Emitter &e, Type type, size_t registers)
      : e(e), b(e.builder), type(type), letter(isa<FloatType>(type) ? "f" : "r"), threads(lanes * e.warps()),
        bytes(int64_t(registers) * 4 * threads),
        thread(arith::AddIOp::create(b, e.loc, arith::MulIOp::create(b, e.loc, e.warpId(), e.i32(lanes)).getResult(),
                                     e.laneId())) {}

  void leave(Value position, ValueRange values) {
    Value to = placeOf(position);
    for (size_t r = 0; r < values.size(); r += 4)
      e.ptx("st.global.v4.b32 [$4 + " + offset(r) + "], {$0, $1, $2, $3};", repeated(letter) + ",l,~{memory}", Type(),
            {values[r], values[r + 1], values[r + 2], values[r + 3], to}, /*hasSideEffects=*/true);
    barrier();
    e.when(isFirst(), [&] {
      e.ptx("st.release.gpu.global.b32 [$0], $1;", "l,r,~{memory}", Type(), {counterOf(position), e.i32(1)},
            /*hasSideEffects=*/true);
    });
  }

  // Once they are there; nobody else reads them, so the counter is 0 again at once.
  void add(Value position, MutableArrayRef<Value> total) {
    e.when(isFirst(), [&] {
      e.ptx("{\n\t.reg .pred there;\n\t.reg .b32 count;\n\tWAIT:\n\tld.acquire.gpu.global.b32 count, [$0];\n\t"
            "setp.ne.b32 there, count, 0;\n\t@there bra DONE;\n\tbra WAIT;\n\tDONE:\n\t"
            "st.relaxed.gpu.global.b32 [$0], $1;\n\t}",
            "l,r,~{memory}", Type(), {counterOf(position), e.i32(0)}, /*hasSideEffects=*/true);
    });
    barrier();
    Value from = placeOf(position);
    for (size_t r = 0; r < total.size(); r += 4) {
      Value loaded = e.ptx("ld.global.cg.v4.b32 {$0, $1, $2, $3}, [$4 + " + offset(r) + "];",
                           repeated("=" + letter) + ",l,~{memory}",
                           LLVM::LLVMStructType::getLiteral(b.getContext(), SmallVector<Type>(4, type)), {from},
                           /*hasSideEffects=*/true);
      for (size_t i = 0; i < 4; ++i) {
        Value term = LLVM::ExtractValueOp::create(b, e.loc, loaded, int64_t(i)), &to = total[r + i];
        to = isa<FloatType>(type) ? arith::AddFOp::create(b, e.loc, to, term).getResult()
                                  : arith::AddIOp::create(b, e.loc, to, term).getResult();
      }
    }
  }

private:
  std::string offset(size_t r) { return std::to_string(int64_t(r / 4) * threads * 16); }
  static std::string repeated(const std::string &constraint) {
    return constraint + "," + constraint + "," + constraint + "," + constraint;
  }
  void barrier() { // among the warps that hold the tile
    if (e.consumerCount() == 1)
      return e.barrier();
    Value id = arith::AddIOp::create(b, e.loc, e.blockGroup(), e.i32(2)); // as in stores
    e.ptx("bar.sync $0, " + std::to_string(threads) + ";", "r,~{memory}", Type(), {id}, /*hasSideEffects=*/true);
  }
  Value isFirst() { return e.compare(thread, "eq", e.i32(0)); }
  Value beyond(Value base, Value word, int64_t scale) {
    Value wide = arith::ExtUIOp::create(b, e.loc, b.getI64Type(), word);
    return arith::AddIOp::create(b, e.loc, base, arith::MulIOp::create(b, e.loc, wide, e.i64(scale)));
  }
  Value counterOf(Value position) { return beyond(e.stream().workspace, position, 4); }
  Value placeOf(Value position) {
    Value first = arith::AddIOp::create(b, e.loc, e.stream().workspace, e.i64(cuda::workspaceCounterBytes));
    return beyond(beyond(first, position, bytes), thread, 16);
  }

  Emitter &e;
  OpBuilder &b;
  Type type;
  std::string letter;
  int threads;
  int64_t bytes;
  Value thread; // among those that hold the tile
};

} // namespace

LogicalResult nvptx::lower(Emitter &e, tile::ShareSumOp sum) {
  OpBuilder &b = e.builder;
  Words w{e};
  const Emitter::Stream &s = e.stream();
  const Emitter::Share share = e.share();
  const Registers values = e.get(sum.getSource());
  Parts parts(e, values[0].getType(), values.size());
  e.when(e.compare(share.first, "ne", e.i32(0)), [&] { parts.leave(s.position, values); });

  // From the block after this one on, while their ranges start in this program.
  Value isStart = w.both(share.isStreamed, e.compare(share.first, "eq", e.i32(0)));
  Value end = e.select(isStart, w.mul(w.add(share.program, e.i32(1)), s.steps), e.i32(0));
  SmallVector<Value> inits(values);
  inits.push_back(w.add(s.position, e.i32(1)));
  SmallVector<Type> types(ValueRange(inits).getTypes());
  auto loop = scf::WhileOp::create(b, e.loc, types, inits);
  {
    OpBuilder::InsertionGuard guard(b);
    SmallVector<Location> locations(types.size(), e.loc);
    Block *before = b.createBlock(&loop.getBefore(), {}, types, locations);
    Value isInside = e.compare(beginOf(e, before->getArguments().back()), "ult", end);
    scf::ConditionOp::create(b, e.loc, isInside, before->getArguments());
    Block *after = b.createBlock(&loop.getAfter(), {}, types, locations);
    SmallVector<Value> next(after->getArguments());
    Value position = next.pop_back_val();
    parts.add(position, next);
    next.push_back(w.add(position, e.i32(1)));
    scf::YieldOp::create(b, e.loc, next);
  }
  e.put(sum, Registers(loop.getResults().drop_back()));
  return success();
}
