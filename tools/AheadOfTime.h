// Kernels compiled for programs that carry no compiler.
#pragma once

#include "bitloom/tools/KernelChoice.h"

#include <map>

namespace bitloom::tools {

// A resolved call under a name of C.
struct NamedCall {
  Call call;
  std::string name;
};

// Writes into `folder`, made when absent: for CPUs, what writeAot writes of each call; for a GPU, of which one may be
// given, NAME.cubin (NAME.ptx where there is no ptxas) and NAME.h. Views are taken to be contiguous and no better
// aligned than their elements. `fixed`: the Meta parameters that the user chose. Gives the paths of the files.
std::vector<std::string> buildAheadOfTime(const std::vector<NamedCall> &calls, const std::vector<Target> &targets,
                                          const std::string &folder, const std::vector<std::string> &fixed);

// Whether this machine can run the target's code through buildAheadOfTime, a cross compiler and an emulator; if not,
// why not.
std::string whyNotEmulated(const Target &target);

// Builds the call with its own tensors, which are on the host, and runs it in the emulator; its outputs are written
// back. UserError: the program could not be built, or it failed.
void runEmulated(const Call &call, const Target &target);

} // namespace bitloom::tools
