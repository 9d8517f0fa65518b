// PTX text as instructions: registers numbered, branches resolved, shared memory laid out.
#pragma once

#include "bitloom/tests/emulator/PtxEmulator.h"
#include "bitloom/tests/emulator/PtxNumbers.h"

#include <array>
#include <map>
#include <unordered_map>
#include <vector>

namespace bitloom::ptx {

[[noreturn]] inline void fail(const std::string &message) { throw PtxError(message); }

struct Operand {
  enum Kind { Register, Immediate, Symbol, Vector, Special } kind = Immediate;
  int index = 0;              // of the register, or which special
  uint64_t value = 0;         // the immediate, or what is added to a register or symbol in an address
  bool isNegated = false;     // !p
  bool isAddress = false;     // [a]
  std::string name;           // of the symbol
  std::vector<Operand> parts; // of a vector, or the coordinates that follow an address
};

// The registers that a machine knows by name, in the order of Operand::index.
enum Special {
  tidX,
  tidY,
  tidZ,
  ntidX,
  ntidY,
  ntidZ,
  ctaidX,
  ctaidY,
  ctaidZ,
  nctaidX,
  nctaidY,
  nctaidZ,
  laneId,
  warpId,
  laneMaskEq,
  laneMaskLt,
  laneMaskLe,
  laneMaskGt,
  laneMaskGe,
  clusterRank,
  clusterBlocks,
  inClusterX,
  inClusterY,
  inClusterZ,
  clusterShapeX,
  clusterShapeY,
  clusterShapeZ,
  clusterIdX,
  clusterIdY,
  clusterIdZ,
  clustersX,
  clustersY,
  clustersZ,
  sharedSize,
  clock32,
  clock64
};

// Who must be at an instruction before it runs.
enum class Meets { None, Mask, Warp, Warpgroup };

struct Instruction {
  std::string op;                // the first word: add, ld, …
  std::vector<std::string> mods; // the others
  std::vector<Type> types;       // those of mods that are types
  int guard = -1;                // register of the predicate
  bool guardNegated = false;
  bool hasPair = false;  // operands 0 and 1 are d|p
  bool isShared = false; // .shared, .shared::cta, .shared::cluster
  Meets meets = Meets::None;
  std::vector<Operand> operands;
  int target = -1; // of a branch
  std::string text;
  bool has(const char *mod) const {
    for (const auto &m : mods)
      if (m == mod)
        return true;
    return false;
  }
};

struct Module {
  std::vector<Instruction> code;
  std::vector<Type> registers;           // their types
  std::map<std::string, int> parameters; // to the word; a tensor map's is ~ its number
  int wordCount = 0, mapCount = 0;
  std::map<std::string, std::vector<uint8_t>> globals;
  std::map<std::string, uint64_t> sharedSymbols; // to addresses
  bool overlapsPrevious = false;                 // reads and writes memory after griddepcontrol.wait only
  uint64_t staticBytes = 0;                      // of shared memory, before the dynamic part
  int threads = 1;
  std::array<int64_t, 3> clusterShape{1, 1, 1}; // blocks
  // Shared memory starts at an odd multiple of what the code says it is aligned to, so that it cannot rely on more.
  uint64_t sharedBase = 0;

  explicit Module(const std::string &ptx);

private:
  struct Scope {
    int parent = -1;
    std::unordered_map<std::string, int> registers, labels;
    std::map<std::string, Type> families; // %r of ".reg .b32 %r<9>"
  };
  std::vector<Scope> scopes{1};
  int scope = 0;
  std::vector<std::pair<size_t, std::string>> branches; // instruction and label
  std::vector<int> branchScopes;

  void parseHead(const std::string &head);
  void parseParameters(const std::string &list);
  void parseBody(const std::string &body);
  void parseStatement(std::string text);
  void parseRegisters(const std::string &text);
  void parseGlobal(const std::string &text);
  void parseShared(const std::string &text);
  void parseInstruction(std::string text);
  void classify(Instruction &i);
  Operand parseOperand(std::string text);
  int registerNamed(const std::string &name);
};

} // namespace bitloom::ptx
