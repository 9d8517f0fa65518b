// NVIDIA's assembler, run as a program: PTX text to a cubin, with what the code takes of the device.
#pragma once

#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace bitloom {

// What `ptxas -v` reports of one entry.
struct KernelResources {
  std::string name;
  int registers = 0;       // per thread
  int stackBytes = 0;      // per thread
  int spillStoreBytes = 0; // per thread, code that stores rather than memory
  int spillLoadBytes = 0;
  int sharedBytes = 0; // per block, static
  int barriers = 0;
  int spillBytes() const { return spillStoreBytes + spillLoadBytes; }
  bool operator==(const KernelResources &) const = default;
};

struct Cubin {
  std::string bytes;
  std::vector<KernelResources> kernels; // in the order of ptxas's report
  std::string log;                      // the report itself, warnings included
  const KernelResources *find(std::string_view kernel) const;
};

struct PtxasOptions {
  std::string cpu = "sm_90a"; // LLVM's name of the target, Target::cpu
  int optimization = 3;       // 0 to 3
  int maxRegisters = 0;       // per thread; 0 leaves it to ptxas
  int registerUsage = -1;     // 0 (few registers) to 10 (many); -1 leaves it to ptxas
  bool fewerPasses = false;   // ptxas's --Ofast-compile=min, in place of `optimization`
  bool lineInfo = false;      // for profilers and debuggers
};

// ptxas refused the text; what() holds all it said.
class PtxasError : public std::runtime_error {
public:
  using std::runtime_error::runtime_error;
};

// The program: $BITLOOM_PTXAS, else the first on $PATH, else /usr/local/cuda/bin/ptxas; empty when there is none.
// UserError: BITLOOM_PTXAS names no program.
std::string findPtxas();

// "13.0" of `ptxas --version`; part of the key under which a cubin is cached. Empty when there is no ptxas.
std::string ptxasVersion();

// The program's path, size and time of change: differs where ptxasVersion() may, and is known without running it. Empty
// when there is no ptxas.
std::string ptxasStamp();

// The cubin of the text; none when there is no ptxas, and then the driver takes the PTX itself (cuda::Module does).
// PtxasError: the text was refused, or ptxas could not be run.
std::optional<Cubin> assemblePtx(const std::string &ptx, const PtxasOptions &options);

// The entries in a report of `ptxas -v`.
std::vector<KernelResources> parsePtxasReport(std::string_view report);

} // namespace bitloom
