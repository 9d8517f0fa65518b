// Executes tile IR exactly as the dialect's documentation says: the oracle that every target must agree with.
#pragma once

#include "bitloom/lowering/Program.h"

#include <array>
#include <cstdint>
#include <span>

namespace bitloom {

// Runs the kernel over the whole grid, on host memory, and returns when all is done. `words` are the arguments by the
// calling convention of lib/runtime/Launch.h.
//
// Every float operation is rounded once to its type, to the nearest, ties to even; reductions, scans and dots of floats
// are accumulated in f64 and rounded once at the end. Where arith leaves a result open: a conversion to integers
// saturates (a NaN is 0), a shift by the width or more leaves no bit but the sign's, and a division by zero throws.
//
// Programs run in the order of the grid, x fastest, when the kernel prints or has atomics, otherwise on the thread
// pool. tile.print writes "(x, y, z) label = [[1, 2], [3, 4]]" to stdout, of program (x, y, z), floats in the fewest
// digits that read back the same.
//
// Throws UserError where tile.assert fails, with its message and line, and for an operation that is no part of tile IR.
void interpret(const Program &program, std::span<const int64_t> words, std::array<int64_t, 3> grid);

} // namespace bitloom
