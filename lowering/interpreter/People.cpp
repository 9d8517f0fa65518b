// What a kernel tells people: prints and assertions.
#include "bitloom/lowering/Diagnostics.h"
#include "bitloom/lowering/interpreter/Compiler.h"

#include <charconv>
#include <cstdio>

using namespace mlir;

namespace bitloom::interpreter {

// The shortest text that reads back as the same number of its type.
static std::string textOf(Cell cell, Number type, bool isUnsigned) {
  char buffer[32];
  std::to_chars_result end{};
  if (type.kind == Number::Kind::F64)
    end = std::to_chars(buffer, buffer + sizeof buffer, cell.number);
  else if (type.isFloat())
    end = std::to_chars(buffer, buffer + sizeof buffer, float(cell.number));
  else if (isUnsigned || type.width == 1)
    end = std::to_chars(buffer, buffer + sizeof buffer, cell.bits);
  else
    end = std::to_chars(buffer, buffer + sizeof buffer, signExtend(cell.bits, type.width));
  return std::string(buffer, end.ptr);
}

static std::string textOf(const Cell *&cell, ArrayRef<int64_t> shape, Number type, bool isUnsigned) {
  if (shape.empty())
    return textOf(*cell++, type, isUnsigned);
  std::string text = "[";
  for (int64_t i = 0; i < shape.front(); ++i)
    text += (i ? ", " : "") + textOf(cell, shape.drop_front(), type, isUnsigned);
  return text + "]";
}

static void compilePrint(Compiler &compiler, Operation &op) {
  auto print = cast<tile::PrintOp>(op);
  Slot value = compiler.slotOf(print.getValue());
  SmallVector<int64_t> shape(tile::shapeOf(print.getValue().getType()));
  compiler.makeSequential(); // in the order of the programs
  compiler.add([=, type = compiler.numberOf(print.getValue().getType()), label = print.getLabel().str(),
                isUnsigned = print.getIsUnsigned()](Frame &frame) {
    const Cell *cell = frame.at(value);
    std::string text = textOf(cell, shape, type, isUnsigned);
    auto [x, y, z] = frame.programId;
    std::printf("(%lld, %lld, %lld) %s = %s\n", (long long)x, (long long)y, (long long)z, label.c_str(), text.c_str());
    std::fflush(stdout);
  });
}

static void compileAssert(Compiler &compiler, Operation &op) {
  auto assertion = cast<tile::AssertOp>(op);
  Slot condition = compiler.slotOf(assertion.getCondition());
  compiler.add([=, count = compiler.countOf(assertion.getCondition()).elements, message = assertion.getMessage().str(),
                where = sourceOf(op.getLoc())](Frame &frame) {
    for (int64_t i = 0; i < count; ++i)
      if (!frame.at(condition)[i].bits)
        throw UserError(where, message);
  });
}

void addPeople(Handlers &handlers) {
  handlers[tile::PrintOp::getOperationName()] = compilePrint;
  handlers[tile::AssertOp::getOperationName()] = compileAssert;
}

} // namespace bitloom::interpreter
