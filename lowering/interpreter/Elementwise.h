// How an elementwise operation becomes a loop over cells.
#pragma once

#include "bitloom/lowering/interpreter/Compiler.h"

namespace bitloom::interpreter {

// fn(const Cell *x, ..., Cell *results, int64_t count) over all elements of the op's operands and its one result, then
// one rounding of floats to their type.
template <int operands, class Fn> void addLoop(Compiler &compiler, mlir::Operation &op, Fn fn) {
  std::array<Slot, operands> in;
  for (int i = 0; i < operands; ++i)
    in[i] = compiler.slotOf(op.getOperand(i));
  mlir::Value result = op.getResult(0);
  Slot out = compiler.define(result);
  compiler.add([=, count = compiler.countOf(result), rounding = compiler.roundingOf(result)](Frame &frame) {
    int64_t n = count.in(frame);
    Cell *to = frame.at(out);
    if constexpr (operands == 1)
      fn(frame.at(in[0]), to, n);
    else if constexpr (operands == 2)
      fn(frame.at(in[0]), frame.at(in[1]), to, n);
    else
      fn(frame.at(in[0]), frame.at(in[1]), frame.at(in[2]), to, n);
    roundAll(to, n, rounding);
  });
}

// The handlers of floats to floats.
template <class Op, class Fn> void addFloat1(Handlers &handlers, Fn fn) {
  handlers[Op::getOperationName()] = [fn](Compiler &compiler, mlir::Operation &op) {
    addLoop<1>(compiler, op, [fn](const Cell *x, Cell *to, int64_t n) {
      for (int64_t i = 0; i < n; ++i)
        to[i].number = fn(x[i].number);
    });
  };
}
template <class Op, class Fn> void addFloat2(Handlers &handlers, Fn fn) {
  handlers[Op::getOperationName()] = [fn](Compiler &compiler, mlir::Operation &op) {
    addLoop<2>(compiler, op, [fn](const Cell *x, const Cell *y, Cell *to, int64_t n) {
      for (int64_t i = 0; i < n; ++i)
        to[i].number = fn(x[i].number, y[i].number);
    });
  };
}

// Integers to integers of the same width; unsigned ones see zeros above it, signed ones the sign.
template <class Op, class Fn> void addUnsigned2(Handlers &handlers, Fn fn) {
  handlers[Op::getOperationName()] = [fn](Compiler &compiler, mlir::Operation &op) {
    Number type = compiler.numberOf(op.getResult(0).getType());
    addLoop<2>(compiler, op, [fn, type](const Cell *x, const Cell *y, Cell *to, int64_t n) {
      for (int64_t i = 0; i < n; ++i)
        to[i].bits = std::uint64_t(fn(x[i].bits, y[i].bits, type.width)) & type.mask();
    });
  };
}
template <class Op, class Fn> void addSigned2(Handlers &handlers, Fn fn) {
  addUnsigned2<Op>(handlers, [fn](std::uint64_t x, std::uint64_t y, int width) {
    return fn(signExtend(x, width), signExtend(y, width));
  });
}
template <class Op, class Fn> void addUnsigned1(Handlers &handlers, Fn fn) {
  handlers[Op::getOperationName()] = [fn](Compiler &compiler, mlir::Operation &op) {
    Number type = compiler.numberOf(op.getResult(0).getType());
    addLoop<1>(compiler, op, [fn, type](const Cell *x, Cell *to, int64_t n) {
      for (int64_t i = 0; i < n; ++i)
        to[i].bits = std::uint64_t(fn(x[i].bits, type.width)) & type.mask();
    });
  };
}

} // namespace bitloom::interpreter
