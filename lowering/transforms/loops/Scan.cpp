// Running combinations: over the innermost dimension chunk after chunk, each by doubling steps; over another, row by
// row.
#include "bitloom/lowering/transforms/loops/KernelLowering.h"

using namespace mlir;
using namespace bitloom::tile;

namespace bitloom::loops {

void KernelLowering::lowerScan(ScanOp op) {
  ArrayRef<int64_t> shape = shapeOf(op.getSources()[0].getType());
  SmallVector<Buffer> results;
  for (Value result : op.getResults())
    results.push_back(allocate(shape, elementOf(result.getType())));
  if (ShapedType::getNumElements(shape.drop_front(op.getAxis() + 1)) == 1)
    scanInner(op, results);
  else
    scanOuter(op, results);
  for (auto [result, buffer] : llvm::zip(op.getResults(), results))
    scopes.back()->buffers[result] = buffer;
}

// The chunk's running values, given that of all before it (none for the first chunk); gives that of all up to its end.
// After the step s, a lane holds the combination of the 2s lanes up to it (Hillis and Steele, 1986).
KernelLowering::Values KernelLowering::scanChunk(ScanOp op, const Place &place, ValueRange carried,
                                                 ArrayRef<Buffer> results) {
  bool reverse = op.getReverse();
  int64_t lanes = place.width;
  Values values;
  for (Value source : op.getSources())
    values.push_back(evaluate(source, place));
  for (int64_t step = 1; step < lanes; step *= 2) {
    SmallVector<int64_t> from;
    SmallVector<Attribute> reaches;
    for (int64_t i = 0; i < lanes; ++i) {
      int64_t other = reverse ? i + step : i - step;
      bool inside = other >= 0 && other < lanes;
      from.push_back(inside ? other : i);
      reaches.push_back(builder.getBoolAttr(inside));
    }
    Values others;
    for (Value value : values)
      others.push_back(shuffle(value, value, from));
    Values both = reverse ? combine(op.getCombiner(), values, others) : combine(op.getCombiner(), others, values);
    Value mask = literal(DenseElementsAttr::get(VectorType::get({lanes}, builder.getI1Type()), reaches));
    for (auto [value, combined] : llvm::zip(values, both))
      value = select(mask, combined, value);
  }
  if (!carried.empty()) {
    Values before;
    for (Value value : carried)
      before.push_back(broadcast(value, lanes));
    values = reverse ? combine(op.getCombiner(), values, before) : combine(op.getCombiner(), before, values);
  }
  Values last;
  for (auto [buffer, value] : llvm::zip(results, values)) {
    write(buffer, place, value);
    last.push_back(lane(value, reverse ? 0 : lanes - 1));
  }
  return last;
}

void KernelLowering::scanInner(ScanOp op, ArrayRef<Buffer> results) {
  ArrayRef<int64_t> shape = shapeOf(op.getSources()[0].getType());
  int axis = op.getAxis();
  int64_t extent = shape[axis], width = lanesFor(op.getSources(), extent), chunks = extent / width;
  bool reverse = op.getReverse();
  SmallVector<std::pair<int64_t, int64_t>> tail; // start and lanes
  for (int64_t at = chunks * width, lanes = width; at < extent; at += lanes) {
    while (at + lanes > extent)
      lanes /= 2;
    tail.emplace_back(at, lanes);
  }
  auto row = [&](Place place) {
    Values carried;
    auto visit = [&](Coord start, int64_t lanes, ValueRange before) {
      place.at[axis] = start;
      place.vec = axis;
      place.width = lanes;
      return scanChunk(op, normal(shape, place), before, results);
    };
    auto visitTail = [&] {
      for (auto [start, lanes] : tail)
        carried = visit({{}, start}, lanes, carried);
    };
    if (reverse) {
      std::reverse(tail.begin(), tail.end());
      visitTail();
      std::reverse(tail.begin(), tail.end());
    }
    int64_t done = 0;
    if (carried.empty()) {
      carried = visit({{}, reverse ? (chunks - 1) * width : 0}, width, {});
      done = 1;
    }
    if (done < chunks) {
      Value from = i64(done), to = i64(chunks), one = i64(1);
      here();
      auto loop = scf::ForOp::create(builder, loc, from, to, one, carried);
      open(loop.getBody(), loop);
      Value index = loop.getInductionVar();
      if (reverse)
        index = sub(i64(chunks - 1), index);
      Values next = visit({mul(index, i64(width)), 0, width}, width, loop.getRegionIterArgs());
      here();
      scf::YieldOp::create(builder, loc, next);
      close();
      carried.assign(loop.getResults().begin(), loop.getResults().end());
    }
    if (!reverse)
      visitTail();
  };
  Place start;
  start.at.resize(shape.size());
  std::function<void(int, Place)> walk = [&](int dim, Place place) {
    if (dim == axis)
      return row(place);
    loop(0, shape[dim], 1, [&](Coord at) {
      place.at[dim] = at;
      walk(dim + 1, place);
    });
  };
  walk(0, start);
}

void KernelLowering::scanOuter(ScanOp op, ArrayRef<Buffer> results) {
  ArrayRef<int64_t> shape = shapeOf(op.getSources()[0].getType());
  int axis = op.getAxis();
  int64_t extent = shape[axis], width = lanesFor(op.getSources(), shape[vectorDim(shape)]);
  bool reverse = op.getReverse();
  auto rowAt = [&](Fixed fixed, Coord at, bool first) {
    fixed[axis] = at;
    auto compute = [&](const Place &place) {
      Values values;
      for (Value source : op.getSources())
        values.push_back(evaluate(source, place));
      if (first)
        return values;
      Place before = place;
      before.at[axis] = before.at[axis] + (reverse ? 1 : -1);
      Values running;
      for (const Buffer &buffer : results)
        running.push_back(readNow(buffer, before));
      return reverse ? combine(op.getCombiner(), values, running) : combine(op.getCombiner(), running, values);
    };
    nest(
        shape, width, 2, compute,
        [&](const Place &place, ValueRange values) {
          for (auto [buffer, value] : llvm::zip(results, values))
            write(buffer, place, value);
        },
        fixed);
  };
  beginNest(shape);
  std::function<void(int, Fixed)> walk = [&](int dim, Fixed fixed) {
    if (dim < axis)
      return loop(0, shape[dim], 1, [&](Coord at) {
        fixed[dim] = at;
        walk(dim + 1, fixed);
      });
    rowAt(fixed, {{}, reverse ? extent - 1 : 0}, /*first=*/true);
    loop(1, extent, 1, [&](Coord at) {
      if (reverse)
        at = at.dyn ? Coord{sub(i64(extent - 1), at.dyn)} : Coord{{}, extent - 1 - at.cst};
      rowAt(fixed, at, /*first=*/false);
    });
  };
  walk(0, Fixed(shape.size()));
  endNest();
}

} // namespace bitloom::loops
