// Ahead of time: kernels as object files for programs that carry no compiler, with a C header each.
#pragma once

#include "bitloom/lib/target/Target.h"
#include "bitloom/lowering/Program.h"

#include <span>
#include <string>
#include <vector>

namespace bitloom {

struct AotKernel {
  const Program *program = nullptr; // tile IR: the header is made from its kernel's parameters
  std::string name;                 // of the C function and its files, a C identifier; empty: the kernel's own name
  std::string declarations = "";    // C text that the header ends with
};

// Writes for each kernel `name.o` and `name.h`, and once `bitloom_rt.h` and `bitloom_rt.c`, which the program compiles
// and links with them, into `directory`, made when absent. Gives the paths written.
//
// name.h declares
//   void name(<parameters>, const int64_t grid[3], int threads);      runs the whole grid
//   void name_programs(const int64_t *words, const int64_t grid[3], int64_t begin, int64_t end);    the code itself
// where a view is a pointer, its extents and its strides (null: C order), and parameters have their names in the
// source. UserError: a target that is no CPU, a name that is no C identifier or given twice, or a file that cannot be
// written.
std::vector<std::string> writeAot(std::span<const AotKernel> kernels, const Target &target,
                                  const std::string &directory);

// The text of name.h, which ends with `declarations`.
std::string aotHeader(const Program &program, const std::string &name, const Target &target,
                      const std::string &declarations = "");

} // namespace bitloom
