// Executes tile IR, one program of the grid after another, exactly as the dialect's documentation says: the oracle that
// every target must agree with.
#pragma once

#include "bitloom/lowering/Program.h"

#include <array>
#include <cstdint>
#include <span>

namespace bitloom {

// Runs the kernel over the whole grid, on host memory. `words` are the arguments by the calling convention of
// lib/runtime/Launch.h. Every float operation is rounded once to its type; reductions, scans and dots of floats are
// accumulated in f64 and rounded once at the end. Throws UserError where tile.assert fails. tile.print goes to stdout.
void interpret(const Program &program, std::span<const int64_t> words, std::array<int64_t, 3> grid);

} // namespace bitloom
