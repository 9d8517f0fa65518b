#include "bitloom/lowering/interpreter/Compiler.h"

#include "bitloom/lowering/Diagnostics.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"

#include <algorithm>
#include <cstring>

using namespace mlir;

namespace bitloom::interpreter {

static const Handlers &handlers() {
  static const Handlers all = [] {
    Handlers table;
    addArithmetic(table);
    addMath(table);
    addMemory(table);
    addShapes(table);
    addCombining(table);
    addPacked(table);
    addControl(table);
    addPeople(table);
    return table;
  }();
  return all;
}

static std::string textOf(Type type) {
  std::string text;
  llvm::raw_string_ostream(text) << type;
  return text;
}

Compiler::Compiler(func::FuncOp kernel) : line(sourceOf(kernel.getLoc())) {
  for (BlockArgument argument : kernel.getArguments()) {
    firstWord[argument] = wordCount;
    if (auto view = dyn_cast<tile::ViewType>(argument.getType())) {
      wordCount += 1 + 2 * view.getRank();
      continue;
    }
    Slot slot = reserve(cellsOf(argument.getType()));
    scalarArguments.push_back({slot, wordCount++, numberOf(argument.getType())});
    alias(argument, slot);
  }
  compileBlock(kernel.getBody().front(), kernelCode);
}

std::unique_ptr<Frame> Compiler::makeFrame(std::span<const int64_t> words, std::array<int64_t, 3> grid) const {
  if (int64_t(words.size()) != wordCount)
    throw UserError("expected " + std::to_string(wordCount) + " words of kernel arguments, got " +
                    std::to_string(words.size()));
  auto frame = std::make_unique<Frame>();
  frame->cells.resize(size);
  frame->words = words;
  frame->grid = grid;
  for (const Constant &constant : constants)
    std::copy(constant.cells.begin(), constant.cells.end(), frame->at(constant.slot));
  for (const ScalarArgument &argument : scalarArguments) {
    Cell *cell = frame->at(argument.slot);
    cell->bits = std::uint64_t(words[argument.word]) & argument.type.mask();
    if (argument.type.isFloat())
      cell->number = decode(cell->bits, argument.type.kind);
  }
  return frame;
}

//===- Types ------------------------------------------------------------------------------------------------------===//

Number Compiler::numberOf(Type type) const {
  Type element = getElementTypeOrSelf(type);
  if (element.isIndex())
    return {Number::Kind::Int, 64};
  if (auto integer = dyn_cast<IntegerType>(element); integer && integer.getWidth() >= 1 && integer.getWidth() <= 64)
    return {Number::Kind::Int, int(integer.getWidth())};
  if (element.isF16())
    return {Number::Kind::F16, 16};
  if (element.isBF16())
    return {Number::Kind::BF16, 16};
  if (element.isF32())
    return {Number::Kind::F32, 32};
  if (element.isF64())
    return {Number::Kind::F64, 64};
  if (isa<Float8E4M3FNType>(element))
    return {Number::Kind::F8E4M3, 8};
  if (isa<Float8E5M2Type>(element))
    return {Number::Kind::F8E5M2, 8};
  throw UserError(line,
                  "expected integers of 1 to 64 bits, f16, bf16, f32, f64, f8E4M3FN or f8E5M2, got " + textOf(element));
}

Number Compiler::inMemory(Type type) const {
  Number number = numberOf(type);
  if (number.width != 8 && number.width != 16 && number.width != 32 && number.width != 64)
    throw UserError(line,
                    "expected elements of 8, 16, 32 or 64 bits in memory, got " + textOf(getElementTypeOrSelf(type)));
  return number;
}

Number::Kind Compiler::roundingOf(Value value) const {
  return wide ? Number::Kind::F64 : numberOf(value.getType()).kind;
}

int64_t Compiler::cellsOf(Type type) const {
  if (auto tensor = dyn_cast<RankedTensorType>(type); tensor && tensor.hasStaticShape())
    return tensor.getNumElements();
  if (type.isIntOrIndexOrFloat())
    return 1;
  throw UserError(line, "expected a scalar or a tensor of static shape, got " + textOf(type));
}

Count Compiler::countOf(Value value) const { return {cellsOf(value.getType()), laneRegion != nullptr}; }

//===- Slots ------------------------------------------------------------------------------------------------------===//

Slot Compiler::reserve(int64_t cells) {
  Slot slot = size;
  size += cells;
  return slot;
}

Slot Compiler::allocate(int64_t cells) {
  if (auto free = freed.find(cells); free != freed.end() && !free->second.empty()) {
    Slot slot = free->second.back();
    free->second.pop_back();
    return slot;
  }
  return reserve(cells);
}

void Compiler::release(Value value) {
  auto found = slots.find(value);
  if (found == slots.end() || isa<BlockArgument>(value) || permanent.contains(value))
    return;
  freed[cellsOf(value.getType())].push_back(found->second);
}

Slot Compiler::define(Value value) {
  Slot slot = laneRegion ? reserve(laneLimit) : allocate(cellsOf(value.getType()));
  alias(value, slot);
  return slot;
}

Slot Compiler::slotOf(Value value) {
  auto found = slots.find(value);
  if (found == slots.end())
    throw InternalError("expected a value that the interpreter has defined, got one of type " +
                        textOf(value.getType()));
  if (!laneRegion || value.getParentRegion() == laneRegion)
    return found->second;
  // A combiner of many lanes has a copy of what it takes from outside in each.
  Slot from = found->second, lanes = reserve(laneLimit);
  add([from, lanes](Frame &frame) { std::fill_n(frame.at(lanes), frame.lanes, *frame.at(from)); });
  return lanes;
}

void Compiler::setConstant(Value value, std::vector<Cell> cells) {
  if (laneRegion)
    cells.assign(laneLimit, cells.front());
  Slot slot = reserve(cells.size());
  alias(value, slot);
  permanent.insert(value);
  constants.push_back({slot, std::move(cells)});
}

Step Compiler::copies(std::vector<Slot> from, std::vector<Slot> to, TypeRange types) {
  struct Copy {
    Slot from, to;
    size_t bytes;
  };
  std::vector<Copy> direct, saved, restored; // what another copy overwrites is saved first
  for (size_t i = 0; i < from.size(); ++i) {
    if (from[i] == to[i])
      continue;
    size_t cells = cellsOf(types[i]), bytes = cells * sizeof(Cell);
    if (std::find(to.begin(), to.end(), from[i]) == to.end()) {
      direct.push_back({from[i], to[i], bytes});
      continue;
    }
    Slot aside = reserve(cells);
    saved.push_back({from[i], aside, bytes});
    restored.push_back({aside, to[i], bytes});
  }
  saved.insert(saved.end(), direct.begin(), direct.end());
  saved.insert(saved.end(), restored.begin(), restored.end());
  return [all = std::move(saved)](Frame &frame) {
    for (const Copy &copy : all)
      std::memcpy(frame.at(copy.to), frame.at(copy.from), copy.bytes);
  };
}

//===- Blocks -----------------------------------------------------------------------------------------------------===//

void Compiler::compile(Operation &op) {
  line = sourceOf(op.getLoc());
  auto handler = handlers().find(op.getName().getStringRef());
  if (handler == handlers().end())
    throw UserError(line, "expected an operation of tile IR, got " + op.getName().getStringRef().str());
  handler->second(*this, op);
}

// The operation of the block after which a value is not read again.
static Operation *lastUse(Value value, Block &block) {
  Operation *last = value.getDefiningOp();
  for (Operation *user : value.getUsers())
    if (Operation *here = block.findAncestorOpInBlock(*user); here && last->isBeforeInBlock(here))
      last = here;
  return last;
}

void Compiler::compileBlock(Block &block, Code &into) {
  Code *outer = std::exchange(current, &into);
  llvm::DenseMap<Operation *, SmallVector<Value>> dying;
  for (Operation &op : block)
    for (Value result : op.getResults())
      dying[lastUse(result, block)].push_back(result);
  for (Operation &op : block) {
    compile(op);
    if (!laneRegion)
      for (Value value : dying.lookup(&op))
        release(value);
  }
  current = outer;
}

// Many pairs at once, unless the region does more than arithmetic on scalars.
Combiner Compiler::compileCombiner(Region &region) {
  bool arithmetic = llvm::all_of(region.front(), [](Operation &op) {
    return isa<tile::YieldOp>(op) ||
           (isa<arith::ArithDialect, math::MathDialect>(op.getDialect()) &&
            llvm::all_of(op.getOperandTypes(), [](Type type) { return type.isIntOrFloat(); }));
  });
  Combiner combiner;
  combiner.lanes = arithmetic ? 1024 : 1;
  auto outerRegion = std::exchange(laneRegion, arithmetic ? &region : nullptr);
  auto outerLimit = std::exchange(laneLimit, combiner.lanes);
  auto outerWide = std::exchange(wide, true);
  for (BlockArgument argument : region.getArguments()) {
    bool isLeft = argument.getArgNumber() < region.getNumArguments() / 2;
    Slot slot = reserve(combiner.lanes);
    alias(argument, slot);
    (isLeft ? combiner.left : combiner.right).push_back(slot);
  }
  compileBlock(region.front(), combiner.code);
  Code *outer = std::exchange(current, &combiner.code);
  for (Value value : region.front().getTerminator()->getOperands())
    combiner.yielded.push_back(slotOf(value));
  current = outer;
  laneRegion = outerRegion;
  laneLimit = outerLimit;
  wide = outerWide;
  return combiner;
}

} // namespace bitloom::interpreter
