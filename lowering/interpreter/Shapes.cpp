// Operations that move elements, and the matrix product.
#include "bitloom/lowering/interpreter/Compiler.h"

#include "mlir/Dialect/Tensor/IR/Tensor.h"

#include <algorithm>
#include <numeric>

using namespace mlir;

namespace bitloom::interpreter {

static SmallVector<int64_t> stridesOf(ArrayRef<int64_t> shape) {
  SmallVector<int64_t> strides(shape.size(), 1);
  for (int64_t k = int64_t(shape.size()) - 2; k >= 0; --k)
    strides[k] = strides[k + 1] * shape[k + 1];
  return strides;
}

// Element i of the result is element start + Σ i[k] · strides[k] of the source: what transpose, broadcast, slice,
// reshape and split have in common.
static void addStrided(Compiler &compiler, Slot from, Value result, SmallVector<int64_t> strides, int64_t start) {
  SmallVector<int64_t> shape(tile::shapeOf(result.getType()));
  int64_t count = compiler.countOf(result).elements;
  Slot out = compiler.define(result);
  compiler.add([=](Frame &frame) {
    if (count == 0)
      return;
    const Cell *source = frame.at(from);
    Cell *to = frame.at(out);
    int64_t length = shape.back(), stride = strides.back();
    SmallVector<int64_t> index(shape.size());
    for (int64_t at = start, done = 0;;) {
      for (int64_t j = 0; j < length; ++j)
        *to++ = source[at + j * stride];
      if ((done += length) == count)
        return;
      for (size_t k = shape.size() - 2;; --k) { // the next row
        at += strides[k];
        if (++index[k] < shape[k])
          break;
        at -= strides[k] * shape[k];
        index[k] = 0;
      }
    }
  });
}

static void compileReshape(Compiler &compiler, Operation &op) {
  addStrided(compiler, compiler.slotOf(op.getOperand(0)), op.getResult(0),
             stridesOf(tile::shapeOf(op.getResult(0).getType())), 0);
}

static void compileTranspose(Compiler &compiler, Operation &op) {
  auto transpose = cast<tile::TransposeOp>(op);
  SmallVector<int64_t> from = stridesOf(tile::shapeOf(transpose.getSource().getType())), strides;
  for (int32_t dim : transpose.getPermutation())
    strides.push_back(from[dim]);
  addStrided(compiler, compiler.slotOf(transpose.getSource()), transpose, strides, 0);
}

static void compileBroadcast(Compiler &compiler, Operation &op) {
  ArrayRef<int64_t> shape = tile::shapeOf(op.getOperand(0).getType());
  SmallVector<int64_t> strides = stridesOf(shape);
  for (auto [stride, extent] : llvm::zip(strides, shape))
    if (extent == 1)
      stride = 0;
  addStrided(compiler, compiler.slotOf(op.getOperand(0)), op.getResult(0), strides, 0);
}

static void compileSlice(Compiler &compiler, Operation &op) {
  auto slice = cast<tile::SliceOp>(op);
  SmallVector<int64_t> strides = stridesOf(tile::shapeOf(slice.getSource().getType()));
  int64_t start = std::inner_product(strides.begin(), strides.end(), slice.getOffsets().begin(), int64_t{0});
  addStrided(compiler, compiler.slotOf(slice.getSource()), slice, strides, start);
}

static void compileSplit(Compiler &compiler, Operation &op) {
  SmallVector<int64_t> strides = stridesOf(tile::shapeOf(op.getOperand(0).getType()));
  strides.pop_back();
  Slot from = compiler.slotOf(op.getOperand(0));
  for (int64_t half : {0, 1})
    addStrided(compiler, from, op.getResult(half), strides, half);
}

static void compileJoin(Compiler &compiler, Operation &op) {
  Slot lhs = compiler.slotOf(op.getOperand(0)), rhs = compiler.slotOf(op.getOperand(1));
  Slot out = compiler.define(op.getResult(0));
  compiler.add([=, count = compiler.countOf(op.getOperand(0)).elements](Frame &frame) {
    for (int64_t i = 0; i < count; ++i) {
      frame.at(out)[2 * i] = frame.at(lhs)[i];
      frame.at(out)[2 * i + 1] = frame.at(rhs)[i];
    }
  });
}

static void compileIota(Compiler &compiler, Operation &op) {
  Value result = op.getResult(0);
  std::uint64_t mask = compiler.numberOf(result.getType()).mask();
  std::vector<Cell> cells(compiler.countOf(result).elements);
  for (size_t i = 0; i < cells.size(); ++i)
    cells[i].bits = i & mask;
  compiler.setConstant(result, std::move(cells));
}

static void compileSplat(Compiler &compiler, Operation &op) {
  Slot from = compiler.slotOf(op.getOperand(0)), out = compiler.define(op.getResult(0));
  compiler.add([=, count = compiler.countOf(op.getResult(0)).elements](Frame &frame) {
    std::fill_n(frame.at(out), count, *frame.at(from));
  });
}

// Of floats the sum is formed in f64 and rounded once; of integers modulo 2^64, of which the accumulator keeps its
// bits.
static void compileDot(Compiler &compiler, Operation &op) {
  auto dot = cast<tile::DotOp>(op);
  ArrayRef<int64_t> left = tile::shapeOf(dot.getA().getType()), right = tile::shapeOf(dot.getB().getType());
  int64_t m = left[0], inner = left[1], n = right[1];
  Number aType = compiler.numberOf(dot.getA().getType()), bType = compiler.numberOf(dot.getB().getType()),
         type = compiler.numberOf(dot.getType());
  Slot a = compiler.slotOf(dot.getA()), b = compiler.slotOf(dot.getB()), acc = compiler.slotOf(dot.getAcc());
  Slot out = compiler.define(dot);
  bool unsignedA = dot.getUnsignedA(), unsignedB = dot.getUnsignedB();
  compiler.add([=](Frame &frame) {
    Cell *to = frame.at(out);
    std::copy_n(frame.at(acc), m * n, to);
    for (int64_t i = 0; i < m; ++i, to += n)
      for (int64_t k = 0; k < inner; ++k) {
        Cell x = frame.at(a)[i * inner + k];
        const Cell *row = frame.at(b) + k * n;
        if (type.isFloat()) {
          for (int64_t j = 0; j < n; ++j)
            to[j].number += x.number * row[j].number;
          continue;
        }
        std::uint64_t factor = unsignedA ? x.bits : std::uint64_t(signExtend(x.bits, aType.width));
        for (int64_t j = 0; j < n; ++j)
          to[j].bits += factor * (unsignedB ? row[j].bits : std::uint64_t(signExtend(row[j].bits, bType.width)));
      }
    to = frame.at(out);
    if (type.isFloat())
      return roundAll(to, m * n, type.kind);
    for (int64_t i = 0; i < m * n; ++i)
      to[i].bits &= type.mask();
  });
}

void addShapes(Handlers &handlers) {
  handlers[tile::IotaOp::getOperationName()] = compileIota;
  handlers[tensor::SplatOp::getOperationName()] = compileSplat;
  handlers[tile::ReshapeOp::getOperationName()] = compileReshape;
  handlers[tile::ConvertLayoutOp::getOperationName()] = compileReshape;
  handlers[tile::TransposeOp::getOperationName()] = compileTranspose;
  handlers[tile::BroadcastOp::getOperationName()] = compileBroadcast;
  handlers[tile::SliceOp::getOperationName()] = compileSlice;
  handlers[tile::SplitOp::getOperationName()] = compileSplit;
  handlers[tile::JoinOp::getOperationName()] = compileJoin;
  handlers[tile::DotOp::getOperationName()] = compileDot;
}

} // namespace bitloom::interpreter
