#include "bitloom/dsl/internal/Scopes.h"
#include "bitloom/lowering/Diagnostics.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"

namespace bitloom::trace {

static thread_local Session::Impl *current = nullptr;
static thread_local uint32_t serials = 0;

Session::Impl *currentSession() { return current; }
bool tracing() { return current != nullptr; }

Session::Impl &session(SourceLocation at) {
  if (!current)
    throw UserError(at, "expected this operation inside a kernel, got one where no kernel is traced");
  return *current;
}

Session::Session(const std::string &kernel, const std::vector<Argument> &arguments) {
  if (current)
    throw UserError("expected no kernel to be traced on this thread, got one within another");
  impl = std::make_unique<Impl>(++serials);
  current = impl.get();
  mlir::OpBuilder &builder = impl->builder;
  mlir::Location unknown = builder.getUnknownLoc();

  llvm::SmallVector<mlir::Type> types;
  for (const Argument &argument : arguments) {
    mlir::Type element = typeOf(argument.dtype);
    if (argument.dtype == DType::b1)
      element = builder.getI8Type(); // i1 is never in memory
    types.push_back(argument.rank ? tile::ViewType::get(builder.getContext(), argument.rank, element, argument.strided)
                                  : element);
  }
  builder.setInsertionPointToEnd(impl->program.module().getBody());
  auto function = mlir::func::FuncOp::create(builder, unknown, kernel, builder.getFunctionType(types, {}));
  function->setAttr(tile::kernelAttr, builder.getUnitAttr());
  for (auto [i, argument] : llvm::enumerate(arguments)) {
    function.setArgAttr(i, tile::nameAttr, builder.getStringAttr(argument.name));
    if (argument.align)
      function.setArgAttr(i, tile::alignAttr, builder.getI32IntegerAttr(argument.align));
  }
  impl->function = function;
  mlir::Block *entry = function.addEntryBlock();
  builder.setInsertionPointToEnd(entry);
  for (auto [i, argument] : llvm::enumerate(arguments))
    if (argument.transposed)
      impl->transposed.insert(entry->getArgument(i).getAsOpaquePointer());
  impl->push({Scope::Kind::Function, entry, {}, {}, {}});
}

Session::~Session() { current = nullptr; }

Node Session::argument(size_t index) const {
  return nodeOf(mlir::cast<mlir::func::FuncOp>(impl->function).getArgument(index));
}

Program Session::finish() {
  mlir::func::ReturnOp::create(impl->builder, impl->builder.getUnknownLoc());
  impl->program.verify();
  return impl->program.clone();
}

//===- Variables --------------------------------------------------------------------------------------------------===//

Variable::Variable(Node initial) : held(initial) {
  if (!current || initial.onHost())
    return;
  session = current->serial;
  id = current->nextVariable++;
  current->variables[id] = current->declared(initial);
}

Variable::~Variable() {
  if (id && current && current->serial == session)
    current->variables.erase(id);
}

Variable &Variable::operator=(const Variable &other) {
  if (this != &other)
    assign(other.read());
  return *this;
}

Node Variable::read() const {
  if (!id)
    return held;
  if (!current || current->serial != session)
    throw UserError("expected a value of the kernel being traced, got one of an earlier trace");
  return nodeOf(current->read(id, current->scopes.size() - 1));
}

void Variable::assign(Node value) {
  if (!current) {
    held = value;
    return;
  }
  if (value.onHost())
    throw InternalError("a variable assigned a number that is not in the trace");
  if (id && current && current->serial == session)
    return current->assign(id, mlir::Value::getFromOpaquePointer(value.value));
  held = value; // it was a number of the host, and becomes a variable of this trace
  session = current->serial;
  id = current->nextVariable++;
  current->variables[id] = current->declared(value);
}

void Session::Impl::push(Scope scope) {
  scope.serial = nextScope++;
  scopes.push_back(std::move(scope));
}

VariableState Session::Impl::declared(Node initial) {
  mlir::Value value = mlir::Value::getFromOpaquePointer(initial.value);
  return {scopes.size() - 1, scopes.back().serial, value, value.getLoc()};
}

mlir::Value Session::Impl::read(uint32_t variable, size_t depth) {
  const VariableState &state = variables.at(variable);
  if (state.depth >= scopes.size() || scopes[state.depth].serial != state.scope)
    throw UserError(sourceOf(state.place),
                    "expected this value to be used in its own block alone, got a use after the range, "
                    "when or while_ has ended: declare its variable before that");
  if (depth <= state.depth)
    return state.value;
  Scope &scope = scopes[depth];
  if (auto found = scope.values.find(variable); found != scope.values.end())
    return found->second;
  mlir::Value outer = read(variable, depth - 1);
  if (scope.kind != Scope::Kind::Loop)
    return outer;
  mlir::OpBuilder::InsertionGuard guard(builder);
  builder.setInsertionPointToStart(scope.block);
  auto placeholder = mlir::UnrealizedConversionCastOp::create(builder, outer.getLoc(), outer.getType(), outer);
  scope.placeholders[variable] = scope.values[variable] = placeholder.getResult(0);
  return placeholder.getResult(0);
}

void Session::Impl::assign(uint32_t variable, mlir::Value value) {
  VariableState &state = variables.at(variable);
  size_t depth = scopes.size() - 1;
  if (depth > state.depth) {
    mlir::Value before = read(variable, depth); // a loop needs what it starts from
    if (before.getType() != value.getType()) {
      throw UserError(sourceOf(value.getLoc()),
                      "expected a variable assigned inside a loop or branch to keep the shape " +
                          shapeText(tile::shapeOf(before.getType())) + ", got " +
                          shapeText(tile::shapeOf(value.getType())));
    }
    scopes[depth].values[variable] = value;
    for (size_t d = depth; d > state.depth; --d)
      scopes[d].assigned[variable] = true;
  } else
    state.value = value;
}

} // namespace bitloom::trace
