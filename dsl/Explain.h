// Which code a call runs and why, for people.
#pragma once

#include "bitloom/dsl/Call.h"

#include <string>

namespace bitloom {

// Some lines of "word   text": the kernel, the target and its features, sizes, Meta parameters and where their values
// come from, what the code assumes of each view, the grid, what the lowerings chose and why, and the instructions that
// came of it. `call` is resolved and its views are bound (bindWithoutMemory will do); it is lowered, not run. Throws as
// compiling does.
std::string explain(const Call &call, const Target &target);

} // namespace bitloom
