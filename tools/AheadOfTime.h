// Kernels compiled for programs that carry no compiler.
#pragma once

#include "bitloom/tools/KernelChoice.h"
#include "bitloom/tools/Process.h"

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

// A program that makes the call on its own tensors, which are on the host.
class EmulatedProgram {
public:
  // UserError: it could not be built.
  EmulatedProgram(const Call &call, const Target &target);
  // By the emulator, for vectors of so many bytes where they may have any length, which is 0 otherwise. The outputs are
  // written back. UserError: it failed.
  void run(int vectorBytes) const;
  // The lengths that say whether a target's code is right for all: 0 alone where it is for one.
  static std::vector<int> vectorLengths(const Target &target);

private:
  TemporaryFolder folder;
  Call call;
  std::string path(const std::string &file) const { return folder.path() + "/" + file; }
};

} // namespace bitloom::tools
