// Reductions and scans. Their regions run on many lanes at once, in f64, and the results are rounded once.
#include "bitloom/lowering/interpreter/Compiler.h"

#include <algorithm>
#include <cstring>

using namespace mlir;

namespace bitloom::interpreter {

// A tile as [outer, extent, inner] around the axis.
struct Axis {
  int64_t outer = 1, extent = 1, inner = 1;

  Axis(ArrayRef<int64_t> shape, int64_t axis) : extent(shape[axis]) {
    for (int64_t k = 0; k < int64_t(shape.size()); ++k)
      (k < axis ? outer : inner) *= k == axis ? 1 : shape[k];
  }
  int64_t lines() const { return outer * inner; } // elements of a cross section
  // The cell of element i of line l.
  int64_t cell(int64_t line, int64_t i) const { return (line / inner * extent + i) * inner + line % inner; }
};

static std::vector<Slot> slotsOf(Compiler &compiler, ValueRange values, bool results) {
  std::vector<Slot> slots;
  for (Value value : values)
    slots.push_back(results ? compiler.define(value) : compiler.slotOf(value));
  return slots;
}

static std::vector<Number::Kind> kindsOf(Compiler &compiler, ValueRange values) {
  std::vector<Number::Kind> kinds;
  for (Value value : values)
    kinds.push_back(compiler.roundingOf(value));
  return kinds;
}

// Combines neighbours, 0 with 1, 2 with 3, …, until one is left of each line: as deep as the logarithm of the extent,
// so rounding errors stay small too.
static void compileReduce(Compiler &compiler, Operation &op) {
  auto reduce = cast<tile::ReduceOp>(op);
  Axis full(tile::shapeOf(reduce.getSources().front().getType()), reduce.getAxis());
  std::vector<Slot> sources = slotsOf(compiler, reduce.getSources(), false),
                    results = slotsOf(compiler, reduce.getResults(), true), partial;
  for (size_t v = 0; v < sources.size(); ++v)
    partial.push_back(compiler.reserve(full.lines() * full.extent));
  std::vector<Number::Kind> kinds = kindsOf(compiler, reduce.getResults());
  auto combiner = std::make_shared<Combiner>(compiler.compileCombiner(reduce.getCombiner()));
  compiler.add([=](Frame &frame) {
    size_t values = sources.size();
    for (size_t v = 0; v < values; ++v)
      std::copy_n(frame.at(sources[v]), full.lines() * full.extent, frame.at(partial[v]));
    Axis from = full;
    while (from.extent > 1) {
      Axis to = from;
      to.extent = (from.extent + 1) / 2;
      // In the order of the cells written, each at or before those read by its pair: so it is safe in place.
      int64_t total = to.lines() * to.extent;
      std::array<int64_t, 1024> written;
      for (int64_t cell = 0; cell < total;) {
        int64_t lanes = 0;
        for (; cell < total && lanes < combiner->lanes; ++cell) {
          int64_t i = cell / to.inner % to.extent;
          int64_t left = (cell / to.inner / to.extent * from.extent + 2 * i) * to.inner + cell % to.inner;
          bool single = 2 * i + 1 == from.extent;
          for (size_t v = 0; v < values; ++v) {
            Cell *cells = frame.at(partial[v]);
            if (single) {
              cells[cell] = cells[left];
              continue;
            }
            frame.at(combiner->left[v])[lanes] = cells[left];
            frame.at(combiner->right[v])[lanes] = cells[left + to.inner];
          }
          if (!single)
            written[lanes++] = cell;
        }
        frame.lanes = lanes;
        combiner->code.run(frame);
        for (size_t v = 0; v < values; ++v)
          for (int64_t lane = 0; lane < lanes; ++lane)
            frame.at(partial[v])[written[lane]] = frame.at(combiner->yielded[v])[lane];
      }
      from = to;
    }
    for (size_t v = 0; v < values; ++v) {
      std::copy_n(frame.at(partial[v]), full.lines(), frame.at(results[v]));
      roundAll(frame.at(results[v]), full.lines(), kinds[v]);
    }
  });
}

// From one end to the other, as many lines at once as there are lanes.
static void compileScan(Compiler &compiler, Operation &op) {
  auto scan = cast<tile::ScanOp>(op);
  Axis axis(tile::shapeOf(scan.getSources().front().getType()), scan.getAxis());
  std::vector<Slot> sources = slotsOf(compiler, scan.getSources(), false),
                    results = slotsOf(compiler, scan.getResults(), true), running;
  std::vector<Number::Kind> kinds = kindsOf(compiler, scan.getResults());
  auto combiner = std::make_shared<Combiner>(compiler.compileCombiner(scan.getCombiner()));
  for (size_t v = 0; v < sources.size(); ++v)
    running.push_back(compiler.reserve(combiner->lanes));
  compiler.add([=, reverse = scan.getReverse()](Frame &frame) {
    size_t values = sources.size();
    // In reverse the running value stands right of the element that joins it.
    const std::vector<Slot> &before = reverse ? combiner->right : combiner->left,
                            &joining = reverse ? combiner->left : combiner->right;
    for (int64_t first = 0; first < axis.lines(); first += combiner->lanes) {
      int64_t lanes = std::min(combiner->lanes, axis.lines() - first);
      for (int64_t step = 0; step < axis.extent; ++step) {
        int64_t i = reverse ? axis.extent - 1 - step : step;
        for (size_t v = 0; v < values; ++v) {
          Cell *joined = frame.at(step ? joining[v] : running[v]);
          for (int64_t lane = 0; lane < lanes; ++lane)
            joined[lane] = frame.at(sources[v])[axis.cell(first + lane, i)];
          std::copy_n(frame.at(running[v]), lanes, frame.at(before[v]));
        }
        if (step) {
          frame.lanes = lanes;
          combiner->code.run(frame);
          for (size_t v = 0; v < values; ++v)
            std::copy_n(frame.at(combiner->yielded[v]), lanes, frame.at(running[v]));
        }
        for (size_t v = 0; v < values; ++v)
          for (int64_t lane = 0; lane < lanes; ++lane)
            frame.at(results[v])[axis.cell(first + lane, i)] = frame.at(running[v])[lane];
      }
    }
    for (size_t v = 0; v < values; ++v)
      roundAll(frame.at(results[v]), axis.lines() * axis.extent, kinds[v]);
  });
}

void addCombining(Handlers &handlers) {
  handlers[tile::ReduceOp::getOperationName()] = compileReduce;
  handlers[tile::ScanOp::getOperationName()] = compileScan;
}

} // namespace bitloom::interpreter
