// Turns a kernel into steps over one flat array of cells, once, so that running it looks nothing up.
#pragma once

#include "bitloom/lib/support/Error.h"
#include "bitloom/lowering/dialect/Tile.h"
#include "bitloom/lowering/interpreter/Number.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "llvm/ADT/DenseMap.h"
#include "llvm/ADT/DenseSet.h"
#include "llvm/ADT/StringMap.h"

#include <array>
#include <functional>
#include <map>
#include <span>
#include <vector>

namespace bitloom::interpreter {

// What one program of the grid works on. Each SSA value has its own cells, as many as its elements, in row-major order.
struct Frame {
  std::vector<Cell> cells;
  std::span<const int64_t> words; // the kernel's arguments
  std::array<int64_t, 3> grid{};
  std::array<int64_t, 3> programId{};
  int64_t lanes = 1; // of the combiner that runs

  Cell *at(size_t slot) { return cells.data() + slot; }
};

using Slot = size_t; // of a value's first cell
using Step = std::function<void(Frame &)>;
struct Code {
  std::vector<Step> steps;
  void run(Frame &frame) const {
    for (const Step &step : steps)
      step(frame);
  }
};

// How many elements an operation works on: a number, or in a combiner as many as lanes run at once.
struct Count {
  int64_t elements;
  bool lanes;
  int64_t in(const Frame &frame) const { return lanes ? frame.lanes : elements; }
};

// The combiner of a reduce or scan, compiled: it combines up to `lanes` pairs of tuples at once. Floats are f64 in it.
struct Combiner {
  Code code;
  std::vector<Slot> left, right, yielded;
  int64_t lanes;
};

class Compiler {
public:
  // Throws UserError for an operation that is none of tile IR, with its line.
  explicit Compiler(mlir::func::FuncOp kernel);

  // A frame for this kernel, its constants and scalar arguments in place. UserError: not as many words as it takes.
  std::unique_ptr<Frame> makeFrame(std::span<const int64_t> words, std::array<int64_t, 3> grid) const;
  const Code &code() const { return kernelCode; }
  // Whether programs have an order: they print, or read what others may have written.
  bool sequential() const { return isSequential; }

  // For the handlers of operations: what they read and define, and the step that they become.
  Slot slotOf(mlir::Value value);
  Slot define(mlir::Value value);
  Slot reserve(int64_t cells); // never released
  void alias(mlir::Value value, Slot slot) { slots[value] = slot; }
  void add(Step step) { current->steps.push_back(std::move(step)); }
  Count countOf(mlir::Value value) const;
  Number numberOf(mlir::Type type) const;           // of a tile's elements
  Number inMemory(mlir::Type type) const;           // UserError: an element that no memory holds
  Number::Kind roundingOf(mlir::Value value) const; // of the results of float operations
  int wordOf(mlir::Value view) const { return firstWord.lookup(view); }
  void setConstant(mlir::Value value, std::vector<Cell> cells); // instead of define and add
  void makeSequential() { isSequential = true; }
  void compileBlock(mlir::Block &block, Code &into);
  // Copies of whole values as if all at once.
  Step copies(std::vector<Slot> from, std::vector<Slot> to, mlir::TypeRange types);
  Combiner compileCombiner(mlir::Region &region);

private:
  void compile(mlir::Operation &op);
  Slot allocate(int64_t cells);
  void release(mlir::Value value);
  int64_t cellsOf(mlir::Type type) const;

  SourceLocation line; // of the operation that is being compiled
  Code kernelCode;
  Code *current = nullptr;
  size_t size = 0; // of a frame
  llvm::DenseMap<mlir::Value, Slot> slots;
  std::map<int64_t, std::vector<Slot>> freed; // by number of cells
  struct Constant {
    Slot slot;
    std::vector<Cell> cells;
  };
  std::vector<Constant> constants;
  llvm::DenseSet<mlir::Value> permanent; // filled once a frame, so never released
  struct ScalarArgument {
    Slot slot;
    int word;
    Number type;
  };
  std::vector<ScalarArgument> scalarArguments;
  llvm::DenseMap<mlir::Value, int> firstWord; // of a view
  int wordCount = 0;
  bool isSequential = false;
  mlir::Region *laneRegion = nullptr; // the combiner that is compiled for several lanes
  int64_t laneLimit = 1;
  bool wide = false; // floats are f64: in a combiner
};

// What compiles an operation, by its name. Each file of operations adds its own.
using Handlers = llvm::StringMap<std::function<void(Compiler &, mlir::Operation &)>>;
void addArithmetic(Handlers &handlers);
void addMath(Handlers &handlers);
void addMemory(Handlers &handlers);
void addShapes(Handlers &handlers);
void addCombining(Handlers &handlers);
void addPacked(Handlers &handlers);
void addControl(Handlers &handlers);
void addPeople(Handlers &handlers);

} // namespace bitloom::interpreter
