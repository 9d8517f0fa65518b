// Many configurations at a time, for whoever chooses among them.
#pragma once

#include "bitloom/dsl/Call.h"

#include <exception>
#include <memory>
#include <vector>

namespace bitloom {

struct MachineCode; // lowering/Pipeline.h

struct CompiledCall {
  std::shared_ptr<const MachineCode> code; // null where compiling failed, and then
  std::exception_ptr error;                // says why: a UserError for a configuration that cannot fit, say
};

// The machine code of each call, resolved and with every view bound, for `target`, which need not be here: from the
// disk cache, or compiled and put there, where Call::executable then finds it. `threads` at a time; 0: as many as this
// machine has processors.
std::vector<CompiledCall> compileAll(const std::vector<Call> &calls, const Target &target, int threads = 0);

} // namespace bitloom
