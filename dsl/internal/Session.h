// One tracing of one kernel on this thread: opens a function, hands out its parameters, gives the finished program.
#pragma once

#include "bitloom/dsl/Trace.h"
#include "bitloom/lowering/Program.h"

#include <memory>
#include <vector>

namespace bitloom::trace {

// A parameter of the function under construction.
struct Argument {
  std::string name;
  DType dtype;
  int rank = 0;         // of a view; 0: a scalar
  bool strided = false; // the view's last stride may differ from 1
  int align = 0;        // bytes that divide the pointer and the outer strides; 0: unknown
  // The last two dimensions are swapped in memory: the function's parameter is the view as it lies there, and every
  // access of the kernel is turned round.
  bool transposed = false;
};

class Session {
public:
  // Throws UserError when this thread is tracing already.
  Session(const std::string &kernel, const std::vector<Argument> &arguments);
  ~Session();
  Session(const Session &) = delete;

  Node argument(size_t index) const;
  // Ends the function; canonical for nothing yet. Throws InternalError when what was traced does not verify.
  Program finish();

  struct Impl;

private:
  std::unique_ptr<Impl> impl;
};

} // namespace bitloom::trace
