// The grid, structured control flow, and what ends a block.
#include "bitloom/lowering/Diagnostics.h"
#include "bitloom/lowering/interpreter/Compiler.h"

#include "mlir/Dialect/SCF/IR/SCF.h"

using namespace mlir;

namespace bitloom::interpreter {

static std::vector<Slot> slotsOf(Compiler &compiler, ValueRange values) {
  std::vector<Slot> slots;
  for (Value value : values)
    slots.push_back(compiler.slotOf(value));
  return slots;
}

static std::vector<Slot> defineAll(Compiler &compiler, ValueRange values) {
  std::vector<Slot> slots;
  for (Value value : values)
    slots.push_back(compiler.define(value));
  return slots;
}

static void compileFor(Compiler &compiler, Operation &op) {
  auto loop = cast<scf::ForOp>(op);
  Slot lower = compiler.slotOf(loop.getLowerBound()), upper = compiler.slotOf(loop.getUpperBound()),
       step = compiler.slotOf(loop.getStep());
  // The carried values live where the results will be found.
  std::vector<Slot> inits = slotsOf(compiler, loop.getInits()), carried = defineAll(compiler, loop.getResults());
  for (auto [argument, slot] : llvm::zip(loop.getRegionIterArgs(), carried))
    compiler.alias(argument, slot);
  Slot induction = compiler.define(loop.getInductionVar());
  Step begin = compiler.copies(inits, carried, loop.getResultTypes());
  auto body = std::make_shared<Code>();
  compiler.compileBlock(*loop.getBody(), *body);
  body->steps.push_back(compiler.copies(slotsOf(compiler, loop.getYieldedValues()), carried, loop.getResultTypes()));
  Number type = compiler.numberOf(loop.getInductionVar().getType());
  compiler.add([=, isUnsigned = loop.getUnsignedCmp(), where = sourceOf(op.getLoc())](Frame &frame) {
    begin(frame);
    auto valueOf = [&](Slot slot) {
      std::uint64_t bits = frame.at(slot)->bits;
      return isUnsigned ? __int128(bits) : __int128(signExtend(bits, type.width));
    };
    __int128 end = valueOf(upper), by = valueOf(step);
    if (by <= 0)
      throw UserError(where, "expected a loop's step of 1 or more, got " + std::to_string(int64_t(by)));
    for (__int128 i = valueOf(lower); i < end; i += by) {
      frame.at(induction)->bits = std::uint64_t(i) & type.mask();
      body->run(frame);
    }
  });
}

static void compileIf(Compiler &compiler, Operation &op) {
  auto branch = cast<scf::IfOp>(op);
  Slot condition = compiler.slotOf(branch.getCondition());
  std::vector<Slot> results = defineAll(compiler, branch.getResults());
  auto compileRegion = [&](Region &region) {
    auto code = std::make_shared<Code>();
    if (region.empty())
      return code;
    compiler.compileBlock(region.front(), *code);
    code->steps.push_back(compiler.copies(slotsOf(compiler, region.front().getTerminator()->getOperands()), results,
                                          branch.getResultTypes()));
    return code;
  };
  compiler.add([condition, onTrue = compileRegion(branch.getThenRegion()),
                onFalse = compileRegion(branch.getElseRegion())](Frame &frame) {
    (frame.at(condition)->bits ? onTrue : onFalse)->run(frame);
  });
}

static void compileWhile(Compiler &compiler, Operation &op) {
  auto loop = cast<scf::WhileOp>(op);
  std::vector<Slot> inits = slotsOf(compiler, loop.getInits()), before = defineAll(compiler, loop.getBeforeArguments()),
                    after = defineAll(compiler, loop.getResults());
  for (auto [argument, slot] : llvm::zip(loop.getAfterArguments(), after))
    compiler.alias(argument, slot);
  Step begin = compiler.copies(inits, before, loop.getInits().getTypes());
  auto test = std::make_shared<Code>(), body = std::make_shared<Code>();
  compiler.compileBlock(*loop.getBeforeBody(), *test);
  scf::ConditionOp ending = loop.getConditionOp();
  Slot condition = compiler.slotOf(ending.getCondition());
  test->steps.push_back(compiler.copies(slotsOf(compiler, ending.getArgs()), after, loop.getResultTypes()));
  compiler.compileBlock(*loop.getAfterBody(), *body);
  body->steps.push_back(
      compiler.copies(slotsOf(compiler, loop.getYieldOp().getOperands()), before, loop.getInits().getTypes()));
  compiler.add([=](Frame &frame) {
    begin(frame);
    for (test->run(frame); frame.at(condition)->bits; test->run(frame))
      body->run(frame);
  });
}

template <class Op> static void addGridOp(Handlers &handlers, std::array<int64_t, 3> Frame::*coordinates) {
  handlers[Op::getOperationName()] = [coordinates](Compiler &compiler, Operation &op) {
    Slot result = compiler.define(op.getResult(0));
    compiler.add([=, axis = cast<Op>(op).getAxis()](Frame &frame) {
      frame.at(result)->bits = std::uint64_t((frame.*coordinates)[axis]);
    });
  };
}

void addControl(Handlers &handlers) {
  addGridOp<tile::ProgramIdOp>(handlers, &Frame::programId);
  addGridOp<tile::NumProgramsOp>(handlers, &Frame::grid);
  handlers[scf::ForOp::getOperationName()] = compileFor;
  handlers[scf::IfOp::getOperationName()] = compileIf;
  handlers[scf::WhileOp::getOperationName()] = compileWhile;
  auto ends = [](Compiler &, Operation &) {}; // its parent reads its operands
  handlers[scf::YieldOp::getOperationName()] = ends;
  handlers[scf::ConditionOp::getOperationName()] = ends;
  handlers[tile::YieldOp::getOperationName()] = ends;
  handlers[func::ReturnOp::getOperationName()] = ends;
}

} // namespace bitloom::interpreter
