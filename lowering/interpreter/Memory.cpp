// Views: rectangular and computed accesses, and atomics.
#include "bitloom/lowering/interpreter/Compiler.h"

#include "llvm/ADT/SmallVector.h"

#include <algorithm>
#include <cmath>

using namespace mlir;

namespace bitloom::interpreter {

// A view among the arguments: pointer, extents, strides.
struct View {
  int word;
  int rank;
  bool strided;
  Number element;

  View(Compiler &compiler, Value value) : word(compiler.wordOf(value)) {
    auto type = cast<tile::ViewType>(value.getType());
    rank = int(type.getRank());
    strided = type.getStrided();
    element = compiler.inMemory(type.getElementType());
  }
  char *data(const Frame &frame) const { return reinterpret_cast<char *>(std::intptr_t(frame.words[word])); }
  int64_t extent(const Frame &frame, int dim) const { return frame.words[word + 1 + dim]; }
  // In bytes; the last dimension's is the element's unless the type says otherwise.
  int64_t stride(const Frame &frame, int dim) const {
    int64_t elements = dim == rank - 1 && !strided ? 1 : frame.words[word + 1 + rank + dim];
    return elements * (element.width / 8);
  }
  bool contains(const Frame &frame, int dim, __int128 coordinate) const {
    return coordinate >= 0 && coordinate < extent(frame, dim);
  }
};

static void compileExtent(Compiler &compiler, Operation &op) {
  auto extent = cast<tile::ExtentOp>(op);
  View view(compiler, extent.getView());
  Slot out = compiler.define(extent);
  compiler.add(
      [=, dim = int(extent.getDim())](Frame &frame) { frame.at(out)->bits = std::uint64_t(view.extent(frame, dim)); });
}

//===- Rectangles -------------------------------------------------------------------------------------------------===//

// The rows of a load or store: runs of elements along the tile's last dimension.
struct Rectangle {
  View view;
  SmallVector<Slot> offsets;
  SmallVector<int> dims;      // of the view, one a dimension of the tile
  SmallVector<int64_t> shape; // of the tile

  Rectangle(Compiler &compiler, Value viewValue, OperandRange offsetValues, ArrayRef<int32_t> viewDims, Type tile)
      : view(compiler, viewValue), dims(viewDims.begin(), viewDims.end()), shape(tile::shapeOf(tile)) {
    for (Value offset : offsetValues)
      offsets.push_back(compiler.slotOf(offset));
  }

  // fn(cell, count, pointer, stride) for each row that has elements inside: the first one's cell and how many there
  // are, where it lies, and how many bytes after it the next.
  template <class Fn> void forEachRow(Frame &frame, Fn fn) const {
    auto offset = [&](int dim) { return int64_t(frame.at(offsets[dim])->bits); };
    int last = dims.empty() ? -1 : dims.back();
    int64_t length = dims.empty() ? 1 : shape.back(), rows = 1;
    for (int64_t k = 0; k + 1 < int64_t(shape.size()); ++k)
      rows *= shape[k];
    // The part of a row inside the extent of its dimension.
    int64_t begin = 0, end = length;
    if (last >= 0) {
      int64_t from = offset(last), extent = view.extent(frame, last);
      begin = from >= 0 ? 0 : from <= -length ? length : -from;
      end = from >= extent ? 0 : std::min<__int128>(length, __int128(extent) - from);
    }
    auto where = std::uint64_t(reinterpret_cast<std::uintptr_t>(view.data(frame))); // unsigned: wraps where outside
    bool inside = begin < end;
    for (int dim = 0; dim < view.rank; ++dim) {
      bool along = std::find(dims.begin(), dims.end(), dim) != dims.end();
      inside &= along || view.contains(frame, dim, offset(dim));
      where += std::uint64_t(offset(dim)) * std::uint64_t(view.stride(frame, dim));
    }
    int64_t stride = last >= 0 ? view.stride(frame, last) : 0;
    for (int64_t row = 0; row < rows; ++row) {
      bool rowInside = inside;
      std::uint64_t at = where + std::uint64_t(begin) * std::uint64_t(stride);
      int64_t rest = row;
      for (int64_t k = int64_t(shape.size()) - 2; k >= 0; --k) {
        int64_t i = rest % shape[k];
        rest /= shape[k];
        rowInside &= view.contains(frame, dims[k], __int128(offset(dims[k])) + i);
        at += std::uint64_t(i) * std::uint64_t(view.stride(frame, dims[k]));
      }
      if (rowInside)
        fn(row * length + begin, end - begin, reinterpret_cast<char *>(std::uintptr_t(at)), stride);
    }
  }
};

static Step fillStep(Compiler &compiler, Value other, Slot out, int64_t count) {
  if (!other)
    return [=](Frame &frame) { std::fill_n(frame.at(out), count, Cell{}); }; // all bits zero: 0 and 0.0
  return [=, from = compiler.slotOf(other)](Frame &frame) { std::fill_n(frame.at(out), count, *frame.at(from)); };
}

static void compileLoad(Compiler &compiler, Operation &op) {
  auto load = cast<tile::LoadOp>(op);
  Rectangle rectangle(compiler, load.getView(), load.getOffsets(), load.getDims(), load.getType());
  Slot out = compiler.define(load);
  compiler.add(fillStep(compiler, load.getOther(), out, compiler.countOf(load).elements));
  compiler.add([=](Frame &frame) {
    rectangle.forEachRow(frame, [&](int64_t cell, int64_t count, const char *from, int64_t stride) {
      read(rectangle.view.element, from, stride, count, frame.at(out) + cell);
    });
  });
}

static void compileStore(Compiler &compiler, Operation &op) {
  auto store = cast<tile::StoreOp>(op);
  Rectangle rectangle(compiler, store.getView(), store.getOffsets(), store.getDims(), store.getValue().getType());
  Slot value = compiler.slotOf(store.getValue());
  compiler.add([=](Frame &frame) {
    rectangle.forEachRow(frame, [&](int64_t cell, int64_t count, char *to, int64_t stride) {
      write(rectangle.view.element, frame.at(value) + cell, to, stride, count);
    });
  });
}

//===- Computed coordinates ---------------------------------------------------------------------------------------===//

struct Coordinates {
  struct Index {
    Slot slot;
    int width;
    bool perElement;
  };
  View view;
  SmallVector<Index> indices;
  std::optional<Slot> mask;
  int64_t count; // elements

  Coordinates(Compiler &compiler, Value viewValue, OperandRange indexValues, Value maskValue, Value tile)
      : view(compiler, viewValue), count(compiler.countOf(tile).elements) {
    for (Value index : indexValues)
      indices.push_back(
          {compiler.slotOf(index), compiler.numberOf(index.getType()).width, isa<RankedTensorType>(index.getType())});
    if (maskValue)
      mask = compiler.slotOf(maskValue);
  }

  // Where element e lies; null where it is masked or out of bounds.
  char *at(Frame &frame, int64_t e) const {
    if (mask && !frame.at(*mask)[e].bits)
      return nullptr;
    char *pointer = view.data(frame);
    for (auto [dim, index] : llvm::enumerate(indices)) {
      int64_t coordinate = signExtend(frame.at(index.slot)[index.perElement ? e : 0].bits, index.width);
      if (!view.contains(frame, int(dim), coordinate))
        return nullptr;
      pointer += coordinate * view.stride(frame, int(dim));
    }
    return pointer;
  }
};

static void compileGather(Compiler &compiler, Operation &op) {
  auto gather = cast<tile::GatherOp>(op);
  Coordinates coordinates(compiler, gather.getView(), gather.getIndices(), gather.getMask(), gather);
  Slot out = compiler.define(gather);
  compiler.add(fillStep(compiler, gather.getOther(), out, coordinates.count));
  compiler.add([=](Frame &frame) {
    for (int64_t e = 0; e < coordinates.count; ++e)
      if (const char *from = coordinates.at(frame, e))
        read(coordinates.view.element, from, 0, 1, frame.at(out) + e);
  });
}

static void compileScatter(Compiler &compiler, Operation &op) {
  auto scatter = cast<tile::ScatterOp>(op);
  Coordinates coordinates(compiler, scatter.getView(), scatter.getIndices(), scatter.getMask(), scatter.getValue());
  Slot value = compiler.slotOf(scatter.getValue());
  compiler.add([=](Frame &frame) {
    for (int64_t e = 0; e < coordinates.count; ++e)
      if (char *to = coordinates.at(frame, e))
        write(coordinates.view.element, frame.at(value) + e, to, 0, 1);
  });
}

static Cell combined(tile::Atomic kind, Number type, Cell old, Cell value) {
  using tile::Atomic;
  if (kind == Atomic::Exchange)
    return value;
  Cell result{};
  if (type.isFloat()) {
    double x = old.number, y = value.number; // max and min prefer a number to a NaN
    result.number = kind == Atomic::Add   ? rounded(x + y, type.kind)
                    : kind == Atomic::Max ? std::fmax(x, y)
                                          : std::fmin(x, y);
    return result;
  }
  int64_t x = signExtend(old.bits, type.width), y = signExtend(value.bits, type.width);
  switch (kind) {
  case Atomic::Add:
    result.bits = old.bits + value.bits;
    break;
  case Atomic::Max:
    result.bits = std::uint64_t(std::max(x, y));
    break;
  case Atomic::Min:
    result.bits = std::uint64_t(std::min(x, y));
    break;
  case Atomic::MaxU:
    result.bits = std::max(old.bits, value.bits);
    break;
  case Atomic::MinU:
    result.bits = std::min(old.bits, value.bits);
    break;
  case Atomic::And:
    result.bits = old.bits & value.bits;
    break;
  case Atomic::Or:
    result.bits = old.bits | value.bits;
    break;
  case Atomic::Xor:
    result.bits = old.bits ^ value.bits;
    break;
  case Atomic::Exchange:
    break;
  }
  result.bits &= type.mask();
  return result;
}

static void compileAtomic(Compiler &compiler, Operation &op) {
  auto atomic = cast<tile::AtomicOp>(op);
  Coordinates coordinates(compiler, atomic.getView(), atomic.getIndices(), atomic.getMask(), atomic.getValue());
  Slot value = compiler.slotOf(atomic.getValue()), out = compiler.define(atomic);
  compiler.makeSequential(); // so nothing here needs to be atomic
  compiler.add([=, kind = atomic.getKind()](Frame &frame) {
    Number type = coordinates.view.element;
    for (int64_t e = 0; e < coordinates.count; ++e) {
      Cell *old = frame.at(out) + e;
      *old = {};
      if (char *where = coordinates.at(frame, e)) {
        read(type, where, 0, 1, old);
        Cell updated = combined(kind, type, *old, frame.at(value)[e]);
        write(type, &updated, where, 0, 1);
      }
    }
  });
}

void addMemory(Handlers &handlers) {
  handlers[tile::ExtentOp::getOperationName()] = compileExtent;
  handlers[tile::LoadOp::getOperationName()] = compileLoad;
  handlers[tile::StoreOp::getOperationName()] = compileStore;
  handlers[tile::GatherOp::getOperationName()] = compileGather;
  handlers[tile::ScatterOp::getOperationName()] = compileScatter;
  handlers[tile::AtomicOp::getOperationName()] = compileAtomic;
}

} // namespace bitloom::interpreter
