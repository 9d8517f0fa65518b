// Staged control flow: loops and branches of the kernel, as against those of C++, which run while tracing. Variables
// that a body assigns are found by themselves; they keep their shape.
#pragma once

#include "bitloom/dsl/Tile.h"

#include <exception>
#include <utility>

namespace bitloom {

// How a kernel may be run best, for targets that can; what it computes stays the same. 0: as the compiler sees fit.
struct Hints {
  int warps = 0;               // that compute a program on a GPU: a power of two up to 32
  int stages = 0;              // tiles on their way from memory, at most
  bool warp_specialize = true; // whether warps may be given roles: one group loads, the others compute
  int split = 0;               // thread blocks that share a program's accumulating loop, each taking every split-th k
  bool stream_k = false;       // whether blocks share the steps of all such loops evenly; not with a split
  int multicast = 1;           // thread blocks with neighbouring programs that load together what these have in common
  int cluster = 1; // thread blocks, 1, 2, 4 or 8, that hold a program's tiles together: what is too large for
                   // one's registers; elements of theirs meet in reductions alone
};
// Once in a kernel's body.
void hints(const Hints &hints, SourceLocation at = std::source_location::current());

// for (auto k : range(0, n, step)) traces its body once, as one loop of the kernel, with k = 0, step, 2·step, … < n.
// step is positive. Leaving the body by break, return or continue is not possible: use when.
class range {
public:
  range(const Scalar<i64> &end, SourceLocation at = std::source_location::current()) : range(0, end, 1, at) {}
  range(const Scalar<i64> &begin, const Scalar<i64> &end, const Scalar<i64> &step = 1,
        SourceLocation at = std::source_location::current())
      : first(begin.node()), last(end.node()), step(step.node()), where(at) {}
  range(const range &) = delete;
  ~range() noexcept(false) {
    if (!open)
      return;
    trace::abandonScopes(depth);
    if (std::uncaught_exceptions() == exceptions)
      throw UserError(where, "expected the body of range to run to its end, got break or return: use when");
  }

  class Iterator {
  public:
    explicit Iterator(range *loop) : loop(loop) {}
    Scalar<i64> operator*() const { return Scalar<i64>(loop->induction); }
    bool operator!=(const Iterator &) const { return !done; }
    Iterator &operator++() {
      trace::endFor();
      loop->open = false;
      done = true;
      return *this;
    }

  private:
    range *loop;
    bool done = false;
  };
  Iterator begin() {
    depth = trace::scopeDepth();
    exceptions = std::uncaught_exceptions();
    induction = trace::beginFor(first, last, step, where);
    open = true;
    return Iterator(this);
  }
  Iterator end() { return Iterator(this); }

private:
  trace::Node first, last, step, induction;
  SourceLocation where;
  size_t depth = 0;
  int exceptions = 0;
  bool open = false;
};

// Runs `yes` when the condition holds when the kernel runs, else `no`; both are traced. Variables that either assigns
// have, after it, the value of the branch that ran.
template <class Yes, class No>
void when(const Scalar<bool> &condition, Yes &&yes, No &&no, SourceLocation at = std::source_location::current()) {
  trace::branch(condition.node(), std::forward<Yes>(yes), std::forward<No>(no), at);
}
template <class Yes>
void when(const Scalar<bool> &condition, Yes &&yes, SourceLocation at = std::source_location::current()) {
  trace::branch(condition.node(), std::forward<Yes>(yes), [] {}, at);
}

// Repeats the body while the condition, a callable that gives a Scalar<bool>, holds.
template <class Condition, class Body>
void while_(Condition &&condition, Body &&body, SourceLocation at = std::source_location::current()) {
  trace::loopWhile([&] { return Scalar<bool>(condition()).node(); }, std::forward<Body>(body), at);
}

} // namespace bitloom
