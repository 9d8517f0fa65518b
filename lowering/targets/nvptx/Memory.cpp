// Loads and stores of rectangular tiles.
//
// An access is coalesced by its layout. Runs of registers that are contiguous in memory are moved by one instruction of
// up to 16 bytes, predicated by whether the run is in bounds; that is legal when the run's alignment is known and no
// run straddles an edge. Both are the same for the whole block and are decided at run time, by one branch on the
// offset's and the edges' low bits: otherwise every element is moved by itself. What passes the branch are memory
// words, not elements, so that loads are issued together and waited for at their first use.
//
// Runs of 16 bytes in rows that start anywhere are loaded as the two aligned pieces that they lie in, and shifted: the
// second piece is the next lane's first, which the first-level cache has. Results in such rows are stored by whole
// lines of 128 bytes (storeLines).
#include "bitloom/lowering/targets/nvptx/TileAccess.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "llvm/Support/MathExtras.h"

using namespace mlir;
using namespace bitloom;
using namespace bitloom::nvptx;

//===- Words: what one instruction moves --------------------------------------------------------------------------===//

SmallVector<Value> nvptx::packWords(Emitter &e, ValueRange elements) {
  OpBuilder &b = e.builder;
  int64_t bytes = bytesOf(elements[0].getType()), perWord = std::min<int64_t>(4 / bytes, elements.size());
  SmallVector<Value> words;
  if (bytes == 8) {
    for (Value element : elements) {
      Value bits = e.toBits(element);
      words.push_back(arith::TruncIOp::create(b, e.loc, b.getI32Type(), bits));
      words.push_back(
          arith::TruncIOp::create(b, e.loc, b.getI32Type(), arith::ShRUIOp::create(b, e.loc, bits, e.i64(32))));
    }
    return words;
  }
  for (size_t first = 0; first < elements.size(); first += perWord) {
    if (perWord == 1) {
      words.push_back(e.toBits(elements[first]));
      continue;
    }
    Type part = e.toBits(elements[first]).getType();
    Value vector = LLVM::PoisonOp::create(b, e.loc, VectorType::get({perWord}, part));
    for (int64_t i = 0; i < perWord; ++i)
      vector = LLVM::InsertElementOp::create(b, e.loc, vector, e.toBits(elements[first + i]), e.i32(i));
    words.push_back(LLVM::BitcastOp::create(b, e.loc, b.getIntegerType(8 * bytes * perWord), vector));
  }
  return words;
}

Registers nvptx::unpackWords(Emitter &e, ValueRange words, Type element, int64_t count) {
  OpBuilder &b = e.builder;
  int64_t bytes = bytesOf(element), perWord = std::min<int64_t>(4 / bytes, count);
  Registers elements;
  if (bytes == 8) {
    for (size_t i = 0; i < words.size(); i += 2) {
      Value low = arith::ExtUIOp::create(b, e.loc, b.getI64Type(), words[i]);
      Value high = arith::ExtUIOp::create(b, e.loc, b.getI64Type(), words[i + 1]);
      high = arith::ShLIOp::create(b, e.loc, high, e.i64(32));
      elements.push_back(e.fromBits(arith::OrIOp::create(b, e.loc, low, high), element));
    }
    return elements;
  }
  Type part = element.isInteger(1) ? b.getI8Type() : registerType(element);
  for (Value word : words) {
    if (perWord == 1) {
      elements.push_back(e.fromBits(word, element));
      continue;
    }
    Value vector = LLVM::BitcastOp::create(b, e.loc, VectorType::get({perWord}, part), word);
    for (int64_t i = 0; i < perWord; ++i)
      elements.push_back(e.fromBits(LLVM::ExtractElementOp::create(b, e.loc, vector, e.i32(i)), element));
  }
  return elements;
}

// "v4.b32" and the like for `words` words of `bits` bits; "u8" moves through a 16-bit register.
static std::string widthSuffix(size_t words, unsigned bits) {
  std::string type = bits == 8 ? "u8" : "b" + std::to_string(bits);
  return words == 1 ? "." + type : ".v" + std::to_string(words) + "." + type;
}

static std::string operandList(size_t first, size_t count) {
  std::string list;
  for (size_t i = 0; i < count; ++i)
    list += (i ? ", $" : "$") + std::to_string(first + i);
  return count == 1 ? list : "{" + list + "}";
}

// [address + bytes], where the predicate holds; elsewhere the words are `other`, or 0 where it is empty.
static SmallVector<Value> loadWords(Emitter &e, Value address, int64_t bytes, Value predicate, size_t count,
                                    unsigned bits, ValueRange other) {
  OpBuilder &b = e.builder;
  Type word = b.getIntegerType(std::max(bits, 16u)), given = b.getIntegerType(bits);
  std::string constraint = bits == 32 ? "r" : "h", text, constraints;
  std::string move = bits == 32 ? "mov.b32 $" : "mov.b16 $";
  SmallVector<Value> operands{address, predicate};
  for (size_t i = 0; i < count; ++i) {
    constraints += "=" + constraint + ",";
    text += move + std::to_string(i) + ", " + (other.empty() ? "0" : "$" + std::to_string(count + 2 + i)) + "; ";
  }
  constraints += "l,b";
  for (Value value : other) {
    constraints += "," + constraint;
    operands.push_back(word == given ? value : arith::ExtUIOp::create(b, e.loc, word, value).getResult());
  }
  text += "@$" + std::to_string(count + 1) + " ld.global" + widthSuffix(count, bits) + " " + operandList(0, count) +
          ", [$" + std::to_string(count) + " + " + std::to_string(bytes) + "];";
  Type result = count == 1 ? word : LLVM::LLVMStructType::getLiteral(b.getContext(), SmallVector<Type>(count, word));
  Value loaded = e.ptx(text, constraints, result, operands, /*hasSideEffects=*/true);
  SmallVector<Value> words;
  for (size_t i = 0; i < count; ++i) {
    Value value = count == 1 ? loaded : LLVM::ExtractValueOp::create(b, e.loc, loaded, int64_t(i)).getResult();
    words.push_back(word == given ? value : arith::TruncIOp::create(b, e.loc, given, value).getResult());
  }
  return words;
}

static void storeWords(Emitter &e, Value address, int64_t bytes, Value predicate, ValueRange words) {
  OpBuilder &b = e.builder;
  unsigned bits = words[0].getType().getIntOrFloatBitWidth();
  std::string constraints;
  SmallVector<Value> operands;
  for (Value word : words) {
    constraints += bits == 32 ? "r," : "h,";
    operands.push_back(bits == 8 ? arith::ExtUIOp::create(b, e.loc, b.getI16Type(), word).getResult() : word);
  }
  operands.append({address, predicate});
  std::string text = "@$" + std::to_string(words.size() + 1) + " st.global" + widthSuffix(words.size(), bits) + " [$" +
                     std::to_string(words.size()) + " + " + std::to_string(bytes) + "], " +
                     operandList(0, words.size()) + ";";
  e.ptx(text, constraints + "l,b", Type(), operands, /*hasSideEffects=*/true);
}

//===- The two operations -----------------------------------------------------------------------------------------===//

// The words of `count` registers from r on, loaded element by element.
static SmallVector<Value> loadSingles(Emitter &e, TileAccess &access, Type element, int r, int64_t count, Value other) {
  const int64_t bytes = bytesOf(element);
  SmallVector<Value> otherWords;
  if (other)
    otherWords = packWords(e, {other});
  Registers singles;
  for (int64_t i = 0; i < count; ++i) {
    auto [address, beyond] = access.place(r + int(i));
    SmallVector<Value> loaded =
        loadWords(e, address, beyond, access.inBounds(r + int(i)), size_t(std::max<int64_t>(1, bytes / 4)),
                  unsigned(std::min<int64_t>(4, bytes) * 8), otherWords);
    singles.append(unpackWords(e, loaded, element, 1));
  }
  return packWords(e, singles);
}

// Four words from `shift` bytes on in eight of them.
static SmallVector<Value> shiftedWords(Emitter &e, ArrayRef<Value> pieces, Value shift, int64_t alignment) {
  OpBuilder &b = e.builder;
  SmallVector<Value> words(pieces);
  for (int64_t by : {2, 1}) { // words
    Value isFar = e.compare(arith::AndIOp::create(b, e.loc, shift, e.i32(4 * by)), "ne", e.i32(0));
    for (size_t i = 0; i < size_t(4 + by); ++i)
      words[i] = e.select(isFar, words[i + size_t(by)], words[i]);
  }
  if (alignment < 4) {
    Value bits = arith::MulIOp::create(b, e.loc, arith::AndIOp::create(b, e.loc, shift, e.i32(3)), e.i32(8));
    for (size_t i = 0; i < 4; ++i)
      words[i] = e.ptx("shf.r.wrap.b32 $0, $1, $2, $3;", "=r,r,r,r", b.getI32Type(), {words[i], words[i + 1], bits},
                       /*hasSideEffects=*/false);
  }
  words.truncate(4);
  return words;
}

// A tile whose rows start anywhere, by runs of 16 bytes.
static void loadShifted(Emitter &e, tile::LoadOp load, TileAccess &access, Value other) {
  OpBuilder &b = e.builder;
  const Type element = tile::elementOf(load.getType());
  const int64_t run = access.shiftedRun();
  const SmallVector<Type> types(4, b.getI32Type());
  struct Run {
    int first; // register
    SmallVector<Value> words;
    Value shift;
  };
  SmallVector<Run> runs;
  for (int r = 0; r < access.count; r += int(run))
    if (!access.isDead(r))
      access.place(r), access.pieces(r); // what branches use too
  for (int r = 0; r < access.count; r += int(run)) {
    if (access.isDead(r))
      continue;
    const auto [first, shift, mayRead] = access.pieces(r);
    // At an edge of the tensor, or of the tile's part of it.
    Value isEdge = e.both(access.touchesRun(r), e.compare(mayRead, "eq", e.truth(false)));
    auto branch = scf::IfOp::create(b, e.loc, types, isEdge, /*addThenBlock=*/true, /*addElseBlock=*/true);
    {
      OpBuilder::InsertionGuard guard(b);
      auto saved = access.computed();
      b.setInsertionPointToStart(&branch.getThenRegion().front());
      scf::YieldOp::create(b, e.loc, loadSingles(e, access, element, r, run, other));
      access.computed() = saved;
      b.setInsertionPointToStart(&branch.getElseRegion().front());
      scf::YieldOp::create(b, e.loc, packWords(e, SmallVector<Value>(size_t(run), other ? other : e.zero(element))));
    }
    Value isShifted = e.compare(shift, "ne", e.i32(0));
    Run &own = runs.emplace_back(Run{r, {}, e.select(mayRead, shift, e.i32(0))});
    own.words = loadWords(e, first.address, first.bytes, mayRead, 4, 32, branch.getResults());
    llvm::append_range(own.words, loadWords(e, first.address, first.bytes + 16, e.both(mayRead, isShifted), 4, 32, {}));
  }
  e.putLazily(load, [&e, runs, element, run, count = access.count, alignment = access.alignment()] {
    Registers registers(count, Value());
    for (const Run &own : runs)
      llvm::copy(unpackWords(e, shiftedWords(e, own.words, own.shift, alignment), element, run),
                 registers.begin() + own.first);
    for (Value &value : registers)
      if (!value)
        value = e.zero(element);
    return registers;
  });
}

LogicalResult nvptx::lower(Emitter &e, tile::LoadOp load) {
  OpBuilder &b = e.builder;
  Type element = tile::elementOf(load.getType());
  TileAccess access(e, load.getView(), load.getOffsets(), load.getDims(), load.getType());
  Value other = load.getOther() ? e.scalar(load.getOther()) : Value();
  if (access.shiftedRun() > 1) {
    loadShifted(e, load, access, other);
    return success();
  }
  int64_t run = access.run(), bytes = bytesOf(element);
  unsigned wordBits = unsigned(std::min<int64_t>(4, run * bytes) * 8);

  // The words of the run that starts at register r, by one instruction or one for each element.
  auto loadRun = [&](int r, int64_t step) {
    if (step < run)
      return loadSingles(e, access, element, r, run, other);
    SmallVector<Value> otherWords;
    if (other)
      otherWords = packWords(e, SmallVector<Value>(size_t(run), other));
    auto [address, beyond] = access.place(r);
    return loadWords(e, address, beyond, access.inBounds(r), size_t(std::max<int64_t>(1, run * bytes / 4)), wordBits,
                     otherWords);
  };
  SmallVector<int> runs;
  for (int r = 0; r < access.count; r += int(run))
    if (!access.isDead(r)) {
      runs.push_back(r);
      access.place(r), access.inBounds(r); // computed here, so that both branches may use it
    }
  SmallVector<Value> words;
  SmallVector<Type> runTypes(std::max<int64_t>(1, run * bytes / 4), b.getIntegerType(wordBits));
  auto loadAll = [&](int64_t step) {
    SmallVector<Value> all;
    for (int r : runs) {
      if (step == run) {
        llvm::append_range(all, loadRun(r, step));
        continue;
      }
      // A branch a run: no run's elements are loaded ahead of another's, which would take many registers.
      auto branch =
          scf::IfOp::create(b, e.loc, runTypes, access.touchesRun(r), /*addThenBlock=*/true, /*addElseBlock=*/true);
      OpBuilder::InsertionGuard guard(b);
      auto saved = access.computed(); // what one branch computes is not there outside
      b.setInsertionPointToStart(&branch.getThenRegion().front());
      scf::YieldOp::create(b, e.loc, loadRun(r, step));
      access.computed() = saved;
      b.setInsertionPointToStart(&branch.getElseRegion().front());
      scf::YieldOp::create(b, e.loc, packWords(e, SmallVector<Value>(run, other ? other : e.zero(element))));
      llvm::append_range(all, branch.getResults());
    }
    return all;
  };
  if (run == 1 || runs.empty()) {
    words = loadAll(run);
  } else {
    SmallVector<Type> types;
    for (size_t i = 0; i < runs.size(); ++i)
      llvm::append_range(types, runTypes);
    auto branch =
        scf::IfOp::create(b, e.loc, types, access.runsAreWhole(), /*addThenBlock=*/true, /*addElseBlock=*/true);
    for (auto [region, step] :
         {std::pair(&branch.getThenRegion(), run), std::pair(&branch.getElseRegion(), int64_t(1))}) {
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(&region->front());
      auto saved = access.computed();
      scf::YieldOp::create(b, e.loc, loadAll(step));
      access.computed() = saved;
    }
    words.assign(branch.getResults().begin(), branch.getResults().end());
  }

  // The words wait for their use as they are: taking them apart here would wait for the memory.
  auto unpack = [&e, runs, words, element, run, count = access.count] {
    Registers registers(count, Value());
    size_t wordsPerRun = runs.empty() ? 0 : words.size() / runs.size();
    for (auto [i, r] : llvm::enumerate(runs)) {
      Registers elements = unpackWords(e, ArrayRef<Value>(words).slice(i * wordsPerRun, wordsPerRun), element, run);
      llvm::copy(elements, registers.begin() + r);
    }
    for (Value &value : registers)
      if (!value)
        value = e.zero(element);
    return registers;
  };
  if (isa<RankedTensorType>(load.getType()))
    e.putLazily(load, unpack);
  else
    e.put(load, unpack());
  return success();
}

// The tile with its registers in another order, those next to each other along its rows first, up to `wanted` elements.
// `values` and `type` become those of the new layout; they stay where nothing is gained.
static void sortRegisters(Emitter &e, Registers &values, RankedTensorType &type, int64_t wanted) {
  const LinearLayout layout = e.layout(type);
  const SmallVector<size_t> order = runFirst(layout, dimName(int(type.getRank()) - 1), wanted);
  if (llvm::is_sorted(order))
    return;
  const Registers before = values;
  for (size_t r = 0; r < values.size(); ++r)
    values[r] = before[registerBefore(r, order)];
  type = withLayout(type, withRegisterBits(layout, order));
}

// The tile with longer runs of registers along its rows, up to `wanted` elements: a quad of lanes that hold the next
// words of a row, as the fragments of tensor cores do, give each other whole runs, a shuffle a word. `values` and
// `type` become those of the new layout; they stay where nothing is gained.
static void lengthenRuns(Emitter &e, Registers &values, RankedTensorType &type, int64_t wanted) {
  OpBuilder &b = e.builder;
  const LinearLayout layout = e.layout(type);
  size_t last = size_t(type.getRank()) - 1;
  int64_t run = layout.contiguousRegisters(dimName(int(last)));
  if (run * bytesOf(type.getElementType()) != 4)
    return;
  std::vector<LinearLayout::InDim> ins = layout.ins();
  auto basesOf = [&](const char *name) -> std::vector<LinearLayout::Vector> & {
    return llvm::find_if(ins, [&](const LinearLayout::InDim &in) { return in.name == name; })->bases;
  };
  std::vector<LinearLayout::Vector> &registers = basesOf(reg), &lanesOf = basesOf(lane);
  auto alongRow = [&](const LinearLayout::Vector &basis) {
    int32_t sum = 0;
    for (size_t d = 0; d < last; ++d)
      sum |= basis[d];
    return sum ? 0 : basis[last];
  };
  SmallVector<Value> words = packWords(e, values);
  const size_t inWord = size_t(llvm::Log2_64(run)); // register bits
  size_t next = inWord;                             // the register bit that gets the lane's place
  for (int64_t place = run; place < wanted; place *= 2, ++next) {
    auto from = llvm::find_if(lanesOf, [&](const auto &basis) { return alongRow(basis) == place; });
    // Best a place further along the row, so that the quad goes on where the lane ends; else another row's.
    const auto rest = registers.begin() + long(std::min(next, registers.size()));
    auto to = std::find_if(rest, registers.end(), [&](const auto &basis) { return alongRow(basis) > place; });
    if (to == registers.end())
      to = std::find_if(rest, registers.end(),
                        [&](const auto &basis) { return llvm::any_of(basis, [](int32_t x) { return x != 0; }); });
    if (from == lanesOf.end() || to == registers.end())
      break;
    const size_t bit = size_t{1} << (size_t(to - registers.begin()) - inWord), first = size_t{1} << (next - inWord);
    const int mask = 1 << (from - lanesOf.begin());
    Value isUpper = e.compare(arith::AndIOp::create(b, e.loc, e.laneId(), e.i32(mask)), "ne", e.i32(0));
    SmallVector<Value> moved(words.size());
    for (size_t w = 0; w < words.size(); ++w) {
      if (w & bit)
        continue;
      Value low = words[w], high = words[w | bit];
      Value other = e.shuffleXor(e.select(isUpper, low, high), mask);
      // Where the register's bit moves to `first`, and those between one up.
      auto placed = [&](size_t index) {
        size_t between = index & (bit - 1) & ~(first - 1);
        return (index & (first - 1)) | (index & bit ? first : 0) | between << 1 | (index & ~(2 * bit - 1));
      };
      moved[placed(w)] = e.select(isUpper, other, low);
      moved[placed(w | bit)] = e.select(isUpper, high, other);
    }
    words = std::move(moved);
    std::swap(*from, *to);
    std::rotate(registers.begin() + long(next), to, to + 1);
  }
  if (next == inWord)
    return;
  values = unpackWords(e, words, type.getElementType(), int64_t(values.size()));
  type = withLayout(type, LinearLayout(ins, layout.outs()));
}

// The tile with a warp's lanes side by side along its rows, which start anywhere: where lanes hold several rows, as the
// fragments of tensor cores do, and registers are parts of a row, they change places, a shuffle for two words. What a
// warp writes at once is then a line of one row, for several parts of sectors.
static void alignLanes(Emitter &e, Registers &values, RankedTensorType &type) {
  OpBuilder &b = e.builder;
  const LinearLayout layout = e.layout(type);
  const size_t last = size_t(type.getRank()) - 1;
  const int64_t perWord = std::max<int64_t>(1, 4 / bytesOf(type.getElementType()));
  if (last == 0 || bytesOf(type.getElementType()) > 4 || layout.contiguousRegisters(dimName(int(last))) < perWord)
    return;
  std::vector<LinearLayout::InDim> ins = layout.ins();
  auto basesOf = [&](const char *name) -> std::vector<LinearLayout::Vector> & {
    return llvm::find_if(ins, [&](const LinearLayout::InDim &in) { return in.name == name; })->bases;
  };
  std::vector<LinearLayout::Vector> &registers = basesOf(reg), &lanesOf = basesOf(lane);
  auto alongRow = [&](const LinearLayout::Vector &basis) {
    return std::all_of(basis.begin(), basis.begin() + long(last), [](int32_t x) { return x == 0; }) ? basis[last] : 0;
  };
  const size_t inWord = size_t(llvm::Log2_64(uint64_t(perWord))); // register bits
  SmallVector<Value> words = packWords(e, values);
  bool changes = false;
  for (size_t l = 0; l < lanesOf.size(); ++l) {
    if (alongRow(lanesOf[l]) || llvm::all_of(lanesOf[l], [](int32_t x) { return x == 0; }))
      continue;
    auto best = registers.end();
    for (auto at = registers.begin() + long(inWord); at != registers.end(); ++at)
      if (alongRow(*at) && (best == registers.end() || alongRow(*at) < alongRow(*best)))
        best = at;
    if (best == registers.end())
      break;
    const size_t bit = size_t{1} << (size_t(best - registers.begin()) - inWord);
    Value isUpper = e.compare(arith::AndIOp::create(b, e.loc, e.laneId(), e.i32(1 << l)), "ne", e.i32(0));
    for (size_t w = 0; w < words.size(); ++w)
      if (!(w & bit)) {
        Value low = words[w], high = words[w | bit];
        Value other = e.shuffleXor(e.select(isUpper, low, high), 1 << l);
        words[w] = e.select(isUpper, other, low);
        words[w | bit] = e.select(isUpper, high, other);
      }
    std::swap(*best, lanesOf[l]);
    changes = true;
  }
  if (!changes)
    return;
  values = unpackWords(e, words, type.getElementType(), int64_t(values.size()));
  type = withLayout(type, LinearLayout(ins, layout.outs()));
}

// Where each lane has a word of every 128 bytes of a row: the registers that hold the row's words, row by row; none in
// other layouts, and of elements other than of 2 bytes.
static SmallVector<SmallVector<int>> registersOfRows(Emitter &e, RankedTensorType type) {
  const LinearLayout &layout = e.layout(type);
  const size_t last = size_t(type.getRank()) - 1;
  if (last == 0 || bytesOf(type.getElementType()) != 2 || layout.freeBits(reg) || layout.freeBits(lane) ||
      layout.outSize(dimName(int(last))) != type.getShape()[last])
    return {};
  for (const LinearLayout::InDim &in : layout.ins())
    for (const LinearLayout::Vector &basis : in.bases)
      if (basis[last] && llvm::any_of(ArrayRef(basis).drop_back(), [](int32_t x) { return x != 0; }))
        return {};
  for (int l = 0; 1 << l < lanes; ++l)
    if (layout.apply({{lane, 1 << l}})[last] != 2 << l)
      return {};
  if (layout.inSize(reg) < 2 || layout.apply({{reg, 1}})[last] != 1)
    return {};
  std::map<LinearLayout::Vector, std::map<int32_t, int>> rows; // by the coordinates but the last, then by that one
  for (int r = 0; r < layout.inSize(reg); r += 2) {
    LinearLayout::Vector place = layout.apply({{reg, r}});
    const int32_t column = std::exchange(place.back(), 0);
    rows[place][column] = r;
  }
  SmallVector<SmallVector<int>> result;
  for (const auto &[row, registers] : rows) {
    SmallVector<int> &words = result.emplace_back();
    for (auto [column, r] : registers) {
      if (column != 64 * int32_t(words.size()) || column & e.threadBits(layout, int(last)))
        return {};
      words.push_back(r);
    }
  }
  return result;
}

// A warp's part of each row, which may start anywhere, by the aligned lines of 128 bytes that it lies in: each lane
// gets the word that is its own of a line, from where the row's start puts it. What remains of the first and of the
// last line is one instruction, since neither has a word where the other does; and halves of words at both ends of the
// row another. A store of 2 bytes a lane would pass each part of a sector twice to the L2 cache, each a partial write.
static void storeLines(Emitter &e, TileAccess &access, ArrayRef<SmallVector<int>> rows, const Registers &values,
                       Value once) {
  OpBuilder &b = e.builder;
  const Location loc = e.loc;
  const Type word = b.getI32Type(), wide = b.getI64Type();
  auto plus = [&](Value x, Value y) -> Value { return arith::AddIOp::create(b, loc, x, y); };
  auto minus = [&](Value x, Value y) -> Value { return arith::SubIOp::create(b, loc, x, y); };
  auto bits = [&](Value x, int32_t mask) -> Value { return arith::AndIOp::create(b, loc, x, e.i32(mask)); };
  const Value laneBefore = minus(e.laneId(), e.i32(1)), isFirst = e.compare(e.laneId(), "eq", e.i32(0));
  const Value isEnd = arith::OrIOp::create(b, loc, isFirst, e.compare(e.laneId(), "eq", e.i32(lanes - 1)));
  const Value laneBytes = arith::MulIOp::create(b, loc, e.laneId(), e.i32(4));
  for (const SmallVector<int> &row : rows) {
    const size_t lines = row.size();
    const auto [address, beyond] = access.place(row[0]);
    const Value own = plus(address, e.i64(beyond)), isInside = e.both(access.inBounds(row[0]), once);
    const Value start = minus(arith::TruncIOp::create(b, loc, word, own), laneBytes); // its low bits
    const Value inLine = bits(start, 127), isHalved = e.compare(bits(start, 2), "ne", e.i32(0));
    const Value before = arith::ShRUIOp::create(b, loc, inLine, e.i32(2)); // words of the line before the row
    const Value isPast = e.compare(e.laneId(), "uge", before), from = minus(e.laneId(), before);
    const Value choice = e.select(isHalved, e.i32(0x5432), e.i32(0x7654));

    SmallVector<Value> given, moved;
    for (int r : row)
      given.append(packWords(e, ArrayRef<Value>(values).slice(size_t(r), 2)));
    Value previous;
    for (Value held : given) {
      const Value shuffled = e.shuffleFrom(held, laneBefore);
      const Value earlier = previous ? e.select(isFirst, previous, shuffled) : shuffled;
      const Value joined =
          e.ptx("prmt.b32 $0, $1, $2, $3;", "=r,r,r,r", word, {earlier, held, choice}, /*hasSideEffects=*/false);
      moved.push_back(e.shuffleFrom(joined, from));
      previous = shuffled;
    }
    auto extended = [&](Value x) -> Value { return arith::ExtSIOp::create(b, loc, wide, x); };
    const Value line = minus(own, extended(inLine));
    for (size_t i = 1; i < lines; ++i)
      storeWords(e, line, int64_t(128 * i), isInside, e.select(isPast, moved[i], moved[i - 1]));
    // The row's first word has no first half, where its start is one.
    const Value isWord =
        e.compare(from, "ne", e.select(isHalved, e.i32(0), e.i32(-lanes))); // no lane is so far from any
    storeWords(e, plus(line, extended(e.select(isPast, e.i32(0), e.i32(int32_t(128 * lines))))), 0,
               e.both(isInside, isWord), e.select(isPast, moved.front(), moved.back()));
    const Value tail = arith::ShRUIOp::create(b, loc, given.back(), e.i32(16));
    const Value half = arith::TruncIOp::create(b, loc, b.getI16Type(), e.select(isFirst, given.front(), tail));
    const Value toTail = e.select(isFirst, e.i64(0), e.i64(int64_t(128 * (lines - 1) + 2)));
    storeWords(e, plus(own, toTail), 0, e.both(isInside, e.both(isHalved, isEnd)), half);
  }
}

LogicalResult nvptx::lower(Emitter &e, tile::StoreOp store) {
  if (lowerStaged(e, store))
    return success();
  OpBuilder &b = e.builder;
  Type type = store.getValue().getType();
  Registers values = e.get(store.getValue());
  auto viewType = cast<tile::ViewType>(store.getView().getType());
  bool startsAnywhere = false; // each of its rows, elements side by side
  if (auto tile = dyn_cast<RankedTensorType>(type);
      tile && !viewType.getStrided() && store.getDims().back() == viewType.getRank() - 1) {
    int64_t alignment = alignmentOf(store.getView());
    const int64_t wanted = std::min<int64_t>(16, alignment & -alignment) / bytesOf(tile.getElementType());
    sortRegisters(e, values, tile, wanted);
    lengthenRuns(e, values, tile, wanted);
    startsAnywhere = alignment < 4;
    if (startsAnywhere)
      alignLanes(e, values, tile);
    type = tile;
  }
  TileAccess access(e, store.getView(), store.getOffsets(), store.getDims(), type);
  Value once =
      isa<RankedTensorType>(type) ? e.isFirstReplica(e.layout(type)) : e.compare(e.linearThreadId(), "eq", e.i32(0));
  int64_t run = access.run();
  SmallVector<SmallVector<int>> rows;
  if (startsAnywhere)
    rows = registersOfRows(e, cast<RankedTensorType>(type));
  SmallVector<int> runs;
  SmallVector<SmallVector<Value>> words;
  for (int r = 0; r < access.count; r += int(run))
    if (!access.isDead(r) && !access.isReplica(r)) {
      runs.push_back(r);
      if (rows.empty())
        access.place(r), access.inBounds(r); // computed here, so that both branches may use it
      words.push_back(packWords(e, ArrayRef<Value>(values).slice(r, run)));
    }
  auto storeAll = [&](int64_t step) {
    for (auto [i, r] : llvm::enumerate(runs)) {
      auto saved = access.computed();
      e.when(step == run ? Value() : access.touchesRun(r), [&] {
        Registers singles = step == run ? Registers() : unpackWords(e, words[i], values[r].getType(), run);
        for (int64_t s = 0; s < run; s += step) {
          auto [address, beyond] = access.place(r + s);
          Value predicate = e.both(access.inBounds(r + s), once);
          storeWords(e, address, beyond, predicate, step == run ? words[i] : packWords(e, singles[s]));
        }
      });
      access.computed() = saved;
    }
  };
  if (!rows.empty()) {
    auto branch = scf::IfOp::create(b, e.loc, access.rowsAreWhole(), /*withElseRegion=*/true);
    OpBuilder::InsertionGuard guard(b);
    auto saved = access.computed();
    b.setInsertionPointToStart(&branch.getThenRegion().front());
    storeLines(e, access, rows, values, once);
    access.computed() = saved;
    b.setInsertionPointToStart(&branch.getElseRegion().front());
    storeAll(run);
    access.computed() = saved;
    return success();
  }
  if (run == 1 || runs.empty()) {
    storeAll(run);
    return success();
  }
  auto branch = scf::IfOp::create(b, e.loc, access.runsAreWhole(), /*withElseRegion=*/true);
  for (auto [region, step] :
       {std::pair(&branch.getThenRegion(), run), std::pair(&branch.getElseRegion(), int64_t(1))}) {
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(&region->front());
    auto saved = access.computed();
    storeAll(step);
    access.computed() = saved;
  }
  return success();
}
