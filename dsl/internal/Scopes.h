// The state of a Session and its scopes, and values of the IR under construction: what the tracing's files share.
#pragma once

#include "bitloom/dsl/internal/Session.h"
#include "bitloom/lowering/dialect/Tile.h"

#include "mlir/IR/BuiltinOps.h"

#include "llvm/ADT/SmallPtrSet.h"

#include <map>
#include <unordered_map>

namespace bitloom::trace {

// A region under construction. A loop reads a variable of an outer scope through a placeholder at the start of its
// body, since only its end tells whether the body assigns it.
struct Scope {
  enum class Kind { Function, Loop, Branch, Combiner } kind;
  mlir::Block *block;
  std::unordered_map<uint32_t, mlir::Value> values; // what variables of outer scopes hold here
  std::map<uint32_t, mlir::Value> placeholders;     // Loop: by variable, ordered so that IR is deterministic
  std::map<uint32_t, bool> assigned;                // variables of outer scopes assigned in here
  mlir::Operation *loop = nullptr;                  // Loop: the scf.for under construction
  uint32_t serial = 0;                              // tells scopes of one depth apart
};

struct VariableState {
  size_t depth;             // of the scope that declares it
  uint32_t scope;           // its serial
  mlir::Value value;        // in that scope
  mlir::LocationAttr place; // where it was declared, for errors once the scope has ended
};

struct Session::Impl {
  Program program;
  mlir::OpBuilder builder;
  mlir::Operation *function = nullptr;
  std::vector<Scope> scopes;
  llvm::SmallPtrSet<void *, 4> transposed; // views whose last two dimensions are swapped in memory
  std::unordered_map<uint32_t, VariableState> variables;
  uint32_t nextVariable = 1;
  uint32_t nextScope = 1;
  uint32_t serial; // tells variables of an earlier session apart

  explicit Impl(uint32_t serial) : builder(program.context()), serial(serial) {}

  void push(Scope scope);
  VariableState declared(Node initial); // a variable of the innermost scope
  mlir::Value read(uint32_t variable, size_t depth);
  void assign(uint32_t variable, mlir::Value value);
};

// The session of this thread. Throws UserError at `at` when there is none.
Session::Impl &session(SourceLocation at = {});
Session::Impl *currentSession();

mlir::Location locationOf(SourceLocation at, mlir::Value like = {});
mlir::Type typeOf(DType dtype);
inline mlir::Value valueOf(Node node) { return mlir::Value::getFromOpaquePointer(node.value); }
mlir::Value valueOf(Node node, DType dtype, SourceLocation at); // a host number becomes a constant
mlir::Value constantOf(mlir::Type type, Node number, mlir::Location at);
mlir::Value splatTo(mlir::Value scalar, llvm::ArrayRef<int64_t> shape, mlir::Location at);
// Brings operands to one shape; UserError at `at` for extents that differ and are not 1.
Shape unify(llvm::MutableArrayRef<mlir::Value> values, SourceLocation at);
void checkComputes(DType dtype, SourceLocation at); // UserError for elements that are only stored
inline Node nodeOf(mlir::Value value) { return {value.getAsOpaquePointer()}; }
std::string shapeText(llvm::ArrayRef<int64_t> shape); // [16, 64]

} // namespace bitloom::trace
