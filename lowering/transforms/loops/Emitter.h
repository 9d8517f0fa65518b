// Writes loop IR: each operation is placed in the outermost loop in which its operands are known.
#pragma once

#include "bitloom/lowering/transforms/Float8.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/IR/Builders.h"

#include <map>
#include <optional>

namespace bitloom::loops {

using mlir::Block;
using mlir::Location;
using mlir::Operation;
using mlir::Type;
using mlir::Value;
using mlir::ValueRange;

// A coordinate of a tile: dyn + cst.
struct Coord {
  Value dyn = {}; // i64; none for a constant
  int64_t cst = 0;
  int64_t multiple = 1; // a power of two that divides dyn

  bool isConstant() const { return !dyn; }
  bool alignedTo(int64_t power) const { return (!dyn || multiple % power == 0) && cst % power == 0; }
  Coord operator+(int64_t by) const { return {dyn, cst + by, multiple}; }
  bool operator==(const Coord &other) const { return dyn == other.dyn && cst == other.cst; }
};

// Where in a tile: a coordinate a dimension; with `vec` >= 0, the `width` elements from there on along that dimension.
struct Place {
  llvm::SmallVector<Coord, 4> at;
  int vec = -1;
  int64_t width = 1;

  bool operator==(const Place &other) const { return at == other.at && vec == other.vec && width == other.width; }
};

// Memory of the kernel's own, row-major; i1 takes a byte.
struct Buffer {
  Value pointer;
  llvm::SmallVector<int64_t, 4> shape;
  Type element;
};

using Key = llvm::SmallVector<int64_t, 16>;

// Elements below lo or from end on, along the vectorised dimension, are out of bounds. i64, 0 <= lo, end <= extent. All
// are unless the other dimensions' coordinates are `inside`, an i1.
struct Bounds {
  Value lo, end, inside;
};

// Of a vector whose length the processor decides: so many for each 16 bytes of it.
inline mlir::VectorType scalableOf(mlir::Type element, int64_t lanes) {
  return mlir::VectorType::get({lanes}, element, {true});
}

class Emitter {
public:
  // A block that is being written, and what is known in it.
  struct Scope {
    Block *block;
    Operation *child = nullptr;      // the region operation now being filled: code goes before it
    Operation *outerChild = nullptr; // the enclosing scope's child when this one was opened
    std::map<Key, Value> values;
    std::map<Key, Bounds> bounds;
    llvm::DenseMap<Value, Buffer> buffers, tables; // tables: those of lut, padded
    llvm::DenseMap<Value, Value> scalars;
  };

  explicit Emitter(mlir::MLIRContext *context) : builder(context), loc(mlir::UnknownLoc::get(context)) {}

  mlir::OpBuilder builder;
  Location loc;
  llvm::SmallVector<std::unique_ptr<Scope>> scopes; // outermost first
  // Memory is read in this scope or deeper: above it the contents may differ, or the address be out of bounds.
  int memoryFloor = 0;
  // What is written is written in this scope or deeper: above it nobody may want it.
  int codeFloor = 0;

  int depth() const { return int(scopes.size()) - 1; }
  int depthOf(Value value) const;
  int depthOf(ValueRange values) const;
  // Sets the insertion point.
  void at(int depth);
  void here() { at(depth()); }
  void hoist(ValueRange operands) { at(std::max(depthOf(operands), codeFloor)); }
  void hoistRead(ValueRange operands) { at(std::max({depthOf(operands), memoryFloor, codeFloor})); }

  // Opens a scope in `block` of `parent`, an operation just created at the innermost scope; close() ends it.
  void open(Block *block, Operation *parent);
  void close();

  // An operation whose position follows from `operands`.
  template <class Op, class... Args> Value pure(ValueRange operands, Args &&...args) {
    hoist(operands);
    return builder.createOrFold<Op>(loc, std::forward<Args>(args)...);
  }

  // The same for a binary operation on i64, which is not written twice.
  template <class Op> Value index(Value a, Value b) {
    Key key = {int64_t(mlir::TypeID::get<Op>().getAsOpaquePointer()), int64_t(a.getAsOpaquePointer()),
               int64_t(b.getAsOpaquePointer())};
    if (Value known = find(key))
      return known;
    return remember(key, pure<Op>({a, b}, a, b));
  }
  Value find(const Key &key) const;
  Value remember(const Key &key, Value value);

  Value i64(int64_t value);
  Value i1(bool value);
  Value literal(mlir::TypedAttr value); // known from the function's beginning
  // A scalar or a vector of `lanes` copies.
  Value constant(mlir::TypedAttr scalar, int64_t lanes = 1);
  Value splatLike(Value vector, mlir::TypedAttr scalar); // as many copies as the vector has lanes
  Value zero(Type element, int64_t lanes = 1);
  Value add(Value a, Value b) { return index<mlir::arith::AddIOp>(a, b); }
  Value sub(Value a, Value b) { return index<mlir::arith::SubIOp>(a, b); }
  Value mul(Value a, Value b) { return index<mlir::arith::MulIOp>(a, b); }
  Value divU(Value a, Value b) { return index<mlir::arith::DivUIOp>(a, b); }
  Value remU(Value a, Value b) { return index<mlir::arith::RemUIOp>(a, b); }
  Value andI(Value a, Value b) { return pure<mlir::arith::AndIOp>({a, b}, a, b); }
  Value minS(Value a, Value b) { return index<mlir::arith::MinSIOp>(a, b); }
  Value maxS(Value a, Value b) { return index<mlir::arith::MaxSIOp>(a, b); }
  Value select(Value c, Value a, Value b) { return pure<mlir::arith::SelectOp>({c, a, b}, c, a, b); }
  Value compare(mlir::arith::CmpIPredicate predicate, Value a, Value b) {
    return pure<mlir::arith::CmpIOp>({a, b}, predicate, a, b);
  }
  // Of a coordinate, as i64.
  Value valueOf(const Coord &coord);
  Coord plus(const Coord &a, const Coord &b);
  Coord times(const Coord &a, int64_t factor);
  Coord dividedBy(const Coord &a, int64_t divisor); // coordinates are not negative
  Coord modulo(const Coord &a, int64_t divisor);
  // Σ terms, the outermost first, so that partial sums leave the inner loops.
  Value sum(llvm::SmallVector<Value> terms);
  // Integers to i64.
  Value extend(Value value);

  Type vectorOf(Type element, int64_t lanes);
  int64_t lanesOf(Value value);
  Value broadcast(Value value, int64_t lanes);                    // a vector of that many lanes stays
  Value shuffle(Value a, Value b, llvm::ArrayRef<int64_t> lanes); // one lane gives a scalar
  Value lane(Value vector, int64_t index);
  Value lanes(llvm::ArrayRef<Value> scalars); // one gives itself
  Value iota(int64_t lanes, Type element);
  // The same operation on scalars or vectors; scalars among vectors are broadcast.
  llvm::SmallVector<Value> clone(Operation *op, llvm::ArrayRef<Value> operands, int64_t lanes);

  // Bytes in memory.
  Type stored(Type element);
  int64_t bytesOf(Type element);
  Value fromStored(Value value, Type element);
  Value toStored(Value value);
  Value address(Value pointer, Value index, Type element);        // index: i64 or a vector of them
  Value address(Value pointer, const Coord &index, Type element); // the constant last, for LLVM to fold into accesses

private:
  Value safeDivisor(Operation *op, Value dividend, Value divisor);

  llvm::DenseMap<mlir::Attribute, Value> literals;
};

} // namespace bitloom::loops
