// print and assert, through the device run-time's vprintf and __assertfail.
#include "bitloom/lowering/targets/nvptx/Emitter.h"

#include "mlir/Dialect/Arith/IR/Arith.h"

using namespace mlir;
using namespace bitloom;
using namespace bitloom::nvptx;

// The value as C's variadic arguments pass it, and its conversion.
static std::pair<Value, const char *> promoted(Emitter &e, Value value, Type type, bool isUnsigned) {
  OpBuilder &b = e.builder;
  if (isFloat8(type))
    value = widenFloat8(e, {value}, type, b.getF32Type())[0];
  if (isa<FloatType>(type)) {
    if (!type.isF64())
      value = arith::ExtFOp::create(b, e.loc, b.getF64Type(), value);
    return {value, "%.9g"};
  }
  Type wide = b.getI64Type();
  if (type.getIntOrFloatBitWidth() < 64)
    value = isUnsigned || type.isInteger(1) ? arith::ExtUIOp::create(b, e.loc, wide, value).getResult()
                                            : arith::ExtSIOp::create(b, e.loc, wide, value).getResult();
  return {value, isUnsigned ? "%llu" : "%lld"};
}

static void callPrintf(Emitter &e, StringRef format, ValueRange values) {
  OpBuilder &b = e.builder;
  auto pointer = LLVM::LLVMPointerType::get(b.getContext());
  SmallVector<Type> types(values.getTypes());
  auto record = LLVM::LLVMStructType::getLiteral(b.getContext(), types);
  Value arguments = LLVM::AllocaOp::create(b, e.loc, pointer, record, e.i32(1), /*alignment=*/8);
  for (auto [i, value] : llvm::enumerate(values)) {
    Value field = LLVM::GEPOp::create(b, e.loc, pointer, record, arguments, ArrayRef<LLVM::GEPArg>{0, int32_t(i)});
    LLVM::StoreOp::create(b, e.loc, value, field);
  }
  LLVM::LLVMFuncOp vprintf = e.declare("vprintf", LLVM::LLVMFunctionType::get(b.getI32Type(), {pointer, pointer}));
  LLVM::CallOp::create(b, e.loc, vprintf, ValueRange{e.globalString(format), arguments});
}

// Every element by the one thread that has it: "label (x, y, z) [i, j] = value", x, y and z the program's coordinates.
LogicalResult nvptx::lower(Emitter &e, tile::PrintOp print) {
  Type type = print.getValue().getType();
  auto tensor = dyn_cast<RankedTensorType>(type);
  Value once = tensor ? e.isFirstReplica(e.layout(type)) : e.compare(e.linearThreadId(), "eq", e.i32(0));
  std::string label;
  for (char c : print.getLabel())
    label += c == '%' ? "%%" : std::string(1, c);
  for (auto [r, value] : llvm::enumerate(e.get(print.getValue()))) {
    Value condition = once;
    SmallVector<Value> at;
    if (tensor) {
      const LinearLayout &layout = e.layout(type);
      if (e.isDead(layout, tensor.getShape(), r) || r & layout.freeBits(reg))
        continue;
      for (auto [d, extent] : llvm::enumerate(tensor.getShape())) {
        at.push_back(e.coordinate(layout, d, r));
        if (!e.isInside(e.registerCoordinates(layout)[r][d], e.threadBits(layout, d), extent))
          condition = e.both(condition, e.compare(at.back(), "ult", e.i32(extent)));
      }
    }
    e.when(condition, [&] {
      SmallVector<Value> values;
      std::string format = label + " (%u, %u, %u)";
      for (int axis = 0; axis < 3; ++axis)
        values.push_back(e.programId(axis));
      for (size_t d = 0; d < at.size(); ++d)
        format += d ? ", %u" : " [%u";
      if (!at.empty())
        format += "]";
      values.append(at.begin(), at.end());
      auto [wide, conversion] = promoted(e, value, tile::elementOf(type), print.getIsUnsigned());
      values.push_back(wide);
      callPrintf(e, format + " = " + conversion + "\n", values);
    });
  }
  return success();
}

LogicalResult nvptx::lower(Emitter &e, tile::AssertOp assertion) {
  OpBuilder &b = e.builder;
  Type type = assertion.getCondition().getType();
  auto tensor = dyn_cast<RankedTensorType>(type);
  Value holds; // of all the thread's elements
  for (auto [r, value] : llvm::enumerate(e.get(assertion.getCondition()))) {
    Value mine = value;
    if (tensor) {
      const LinearLayout &layout = e.layout(type);
      if (e.isDead(layout, tensor.getShape(), r))
        continue;
      for (auto [d, extent] : llvm::enumerate(tensor.getShape()))
        if (!e.isInside(e.registerCoordinates(layout)[r][d], e.threadBits(layout, d), extent))
          mine = e.select(e.compare(e.coordinate(layout, d, r), "ult", e.i32(extent)), mine, e.truth(true));
    }
    holds = e.both(holds, mine);
  }
  if (!holds)
    return success();
  StringRef file = "<unknown>";
  unsigned line = 0;
  if (auto at = e.loc->findInstanceOf<FileLineColLoc>())
    file = at.getFilename().getValue(), line = at.getLine();
  auto pointer = LLVM::LLVMPointerType::get(b.getContext());
  Type word = b.getI32Type(), wide = b.getI64Type();
  auto voidType = LLVM::LLVMVoidType::get(b.getContext());
  Value fails = arith::XOrIOp::create(b, e.loc, holds, e.truth(true));
  e.when(fails, [&] {
    LLVM::LLVMFuncOp fail =
        e.declare("__assertfail", LLVM::LLVMFunctionType::get(voidType, {pointer, pointer, word, pointer, wide}));
    LLVM::CallOp::create(b, e.loc, fail,
                         ValueRange{e.globalString(assertion.getMessage()), e.globalString(file), e.i32(line),
                                    e.globalString(e.kernelName()), e.i64(1)});
  });
  return success();
}
