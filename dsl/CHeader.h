// C functions that call a kernel compiled ahead of time on contiguous tensors, by the names of its extents.
#pragma once

#include "bitloom/dsl/Call.h"

#include <string>
#include <vector>

namespace bitloom {

struct MachineCode;

// Of both: `call` is resolved and its views are bound (bindWithoutMemory will do). The functions work out the tensors'
// extents and the grid; they refuse extents for which a Meta parameter's default is another than the call's, save those
// in `fixed`, which the user chose. UserError: a grid that is not whole-number arithmetic on extents.

// What the header that writeAot makes for `name` ends with (AotKernel::declarations):
//   int NAME_contiguous(pointers and scalars in call order, extents, int threads)
std::string cContiguousCall(const Call &call, const std::string &name, const std::vector<std::string> &fixed);

// The header of a kernel for a GPU: what cuLaunchKernel wants to know, and
//   int NAME_plan(int64_t words[NAME_WORDS], int64_t grid[3], pointers and scalars in call order, extents)
std::string cLaunchPlan(const Call &call, const MachineCode &code, const std::string &target, const std::string &name,
                        const std::vector<std::string> &fixed);

// What these functions take of the kernel, in order: "const float *x", "float eps", "int64_t rows".
std::vector<std::string> cParameters(const Call &call);

} // namespace bitloom
