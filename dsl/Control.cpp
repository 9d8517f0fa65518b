// Staged control flow becomes scf.for, scf.if and scf.while; the variables that bodies assign become their results.
#include "bitloom/dsl/Control.h"
#include "bitloom/dsl/internal/Scopes.h"
#include "bitloom/lowering/dialect/Multicast.h"

#include "mlir/Dialect/SCF/IR/SCF.h"

using namespace mlir;

namespace bitloom::trace {

size_t scopeDepth() { return currentSession() ? currentSession()->scopes.size() : 0; }

void abandonScopes(size_t depth) {
  if (Session::Impl *state = currentSession())
    state->scopes.resize(std::min(depth, state->scopes.size()));
}

// Ends a loop's scope: what its placeholders stand for is now known.
static void replacePlaceholders(Scope &scope, llvm::function_ref<Value(uint32_t)> carried) {
  for (auto [variable, placeholder] : scope.placeholders) {
    Operation *op = placeholder.getDefiningOp();
    Value argument = carried(variable);
    placeholder.replaceAllUsesWith(argument ? argument : op->getOperand(0));
    op->erase();
  }
}

static Scope popScope(Session::Impl &state) {
  Scope scope = std::move(state.scopes.back());
  state.scopes.pop_back();
  return scope;
}

Node beginFor(Node lower, Node upper, Node step, SourceLocation at) {
  Session::Impl &state = session(at);
  auto loop = scf::ForOp::create(state.builder, locationOf(at), valueOf(lower, DType::i64, at),
                                 valueOf(upper, DType::i64, at), valueOf(step, DType::i64, at));
  state.push({Scope::Kind::Loop, loop.getBody(), {}, {}, {}, loop});
  state.builder.setInsertionPoint(loop.getBody()->getTerminator());
  return nodeOf(loop.getInductionVar());
}

void endFor() {
  Session::Impl &state = session();
  Scope scope = popScope(state);
  auto old = cast<scf::ForOp>(scope.loop);
  SmallVector<uint32_t> carried;
  SmallVector<Value> inits, yields;
  for (auto [variable, assigned] : scope.assigned) {
    carried.push_back(variable);
    inits.push_back(scope.placeholders.at(variable).getDefiningOp()->getOperand(0));
    yields.push_back(scope.values.at(variable));
  }
  state.builder.setInsertionPoint(old);
  auto loop =
      scf::ForOp::create(state.builder, old.getLoc(), old.getLowerBound(), old.getUpperBound(), old.getStep(), inits);
  if (carried.empty())
    loop.getBody()->getTerminator()->erase();
  old.getBody()->getTerminator()->erase();
  loop.getBody()->getOperations().splice(loop.getBody()->end(), old.getBody()->getOperations());
  old.getInductionVar().replaceAllUsesWith(loop.getInductionVar());
  state.builder.setInsertionPointToEnd(loop.getBody());
  scf::YieldOp::create(state.builder, old.getLoc(), yields);
  replacePlaceholders(scope, [&](uint32_t variable) -> Value {
    auto found = llvm::find(carried, variable);
    return found == carried.end() ? Value() : loop.getRegionIterArg(found - carried.begin());
  });
  old.erase();
  state.builder.setInsertionPointAfter(loop);
  for (auto [variable, result] : llvm::zip(carried, loop.getResults()))
    state.assign(variable, result);
}

void branch(Node condition, const std::function<void()> &yes, const std::function<void()> &no, SourceLocation at) {
  Session::Impl &state = session(at);
  Location where = locationOf(at);
  Value test = valueOf(condition, DType::b1, at);
  auto old = scf::IfOp::create(state.builder, where, TypeRange{}, test, /*addThenBlock=*/true, /*addElseBlock=*/true);
  auto traceBranch = [&](Block *block, const std::function<void()> &body) {
    state.push({Scope::Kind::Branch, block, {}, {}, {}});
    state.builder.setInsertionPointToEnd(block);
    body();
    return popScope(state);
  };
  Scope then = traceBranch(old.thenBlock(), yes), otherwise = traceBranch(old.elseBlock(), no);

  std::map<uint32_t, bool> assigned = then.assigned;
  assigned.insert(otherwise.assigned.begin(), otherwise.assigned.end());
  state.builder.setInsertionPoint(old);
  SmallVector<Type> types;
  SmallVector<Value> yields[2];
  for (auto [variable, _] : assigned) {
    Value before = state.read(variable, state.scopes.size() - 1);
    types.push_back(before.getType());
    for (auto [scope, values] : {std::pair(&then, &yields[0]), std::pair(&otherwise, &yields[1])}) {
      auto found = scope->values.find(variable);
      values->push_back(found == scope->values.end() ? before : found->second);
    }
  }
  auto op = scf::IfOp::create(state.builder, where, types, test, true, true);
  for (auto [from, to, values] : {std::tuple(old.thenBlock(), op.thenBlock(), &yields[0]),
                                  std::tuple(old.elseBlock(), op.elseBlock(), &yields[1])}) {
    to->clear();
    to->getOperations().splice(to->end(), from->getOperations());
    state.builder.setInsertionPointToEnd(to);
    scf::YieldOp::create(state.builder, where, *values);
  }
  old.erase();
  state.builder.setInsertionPointAfter(op);
  size_t i = 0;
  for (auto [variable, _] : assigned)
    state.assign(variable, op.getResult(i++));
}

void loopWhile(const std::function<Node()> &condition, const std::function<void()> &body, SourceLocation at) {
  Session::Impl &state = session(at);
  Location where = locationOf(at);
  auto old = scf::WhileOp::create(state.builder, where, TypeRange{}, ValueRange{});
  Block *before = state.builder.createBlock(&old.getBefore());
  Block *after = state.builder.createBlock(&old.getAfter());

  state.push({Scope::Kind::Loop, before, {}, {}, {}});
  state.builder.setInsertionPointToEnd(before);
  Value test = valueOf(condition(), DType::b1, at);
  Scope tested = popScope(state);
  state.push({Scope::Kind::Loop, after, {}, {}, {}});
  state.builder.setInsertionPointToEnd(after);
  body();
  Scope done = popScope(state);

  std::map<uint32_t, bool> assigned = tested.assigned;
  assigned.insert(done.assigned.begin(), done.assigned.end());
  SmallVector<uint32_t> carried;
  SmallVector<Value> inits;
  state.builder.setInsertionPoint(old);
  for (auto [variable, _] : assigned) {
    carried.push_back(variable);
    inits.push_back(state.read(variable, state.scopes.size() - 1));
  }
  SmallVector<Type> types(ValueRange(inits).getTypes());
  auto loop = scf::WhileOp::create(state.builder, where, types, inits);
  SmallVector<Location> places(types.size(), where);
  for (auto [region, scope, from] :
       {std::tuple(&loop.getBefore(), &tested, before), std::tuple(&loop.getAfter(), &done, after)}) {
    Block *to = state.builder.createBlock(region, {}, types, places);
    to->getOperations().splice(to->end(), from->getOperations());
    state.builder.setInsertionPointToEnd(to);
    SmallVector<Value> values;
    for (auto [i, variable] : llvm::enumerate(carried)) {
      auto found = scope->values.find(variable);
      values.push_back(found == scope->values.end() ? Value(to->getArgument(i)) : found->second);
    }
    if (region == &loop.getBefore())
      scf::ConditionOp::create(state.builder, where, test, values);
    else
      scf::YieldOp::create(state.builder, where, values);
    replacePlaceholders(*scope, [&, to = to](uint32_t variable) -> Value {
      auto found = llvm::find(carried, variable);
      return found == carried.end() ? Value() : to->getArgument(found - carried.begin());
    });
  }
  old.erase();
  state.builder.setInsertionPointAfter(loop);
  for (auto [variable, result] : llvm::zip(carried, loop.getResults()))
    state.assign(variable, result);
}

} // namespace bitloom::trace

namespace bitloom {

void hints(const Hints &hints, SourceLocation at) {
  Operation *function = trace::session(at).function;
  OpBuilder builder(function->getContext());
  for (auto [name, value, least, most] :
       {std::tuple(tile::numWarpsAttr, hints.warps, 0, 32), std::tuple(tile::stagesAttr, hints.stages, 0, 64),
        std::tuple(tile::splitAttr, hints.split, 0, 8), std::tuple(tile::multicastAttr, hints.multicast, 1, 8),
        std::tuple(tile::clusterAttr, hints.cluster, 1, 8)}) {
    if (value < least || value > most)
      throw UserError(at, name.drop_front(5).str() + ": expected " + std::to_string(least) + " to " +
                              std::to_string(most) + ", got " + std::to_string(value));
    if (value > least)
      function->setAttr(name, builder.getI32IntegerAttr(value));
  }
  if (hints.stream_k)
    function->setAttr(tile::streamKAttr, builder.getUnitAttr());
  if (!hints.warp_specialize)
    function->setAttr(tile::warpSpecializeAttr, builder.getBoolAttr(false));
}

} // namespace bitloom
