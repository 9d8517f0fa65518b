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

// Writes for each kernel `name.h` and its code, and once `bitloom_rt.h` and `bitloom_rt.c`, which the program compiles
// and links with them, into `directory`, made when absent. Gives the paths written.
//
// For one target the code is `name.o`. For several of one family it is an object a target, `name_TARGET.o`, and
// `name.c`, which the program compiles: it runs the code of the last target of the list that the processor has all
// features of, and ends the process through bitloom_rt_assert where it runs none.
//
// name.h declares
//   void name(<parameters>, const int64_t grid[3], int threads);      runs the whole grid
//   void name_programs(const int64_t *words, const int64_t grid[3], int64_t begin, int64_t end);    the code itself
//   const char *name_target(void);                                    for several targets: the one whose code runs
// where a view is a pointer, its extents and its strides (null: C order), and parameters have their names in the
// source. UserError: a target that is no CPU, targets of two families or one given twice, a name that is no C
// identifier or given twice, or a file that cannot be written.
std::vector<std::string> writeAot(std::span<const AotKernel> kernels, std::span<const Target> targets,
                                  const std::string &directory);

// The text of name.h, which ends with `declarations`.
std::string aotHeader(const Program &program, const std::string &name, std::span<const Target> targets,
                      const std::string &declarations = "");

// The text of name.c, for several targets.
std::string aotDispatcher(const std::string &name, std::span<const Target> targets);

} // namespace bitloom
