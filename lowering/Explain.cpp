#include "bitloom/lowering/Explain.h"

#include "bitloom/lowering/Backend.h"
#include "bitloom/lowering/Diagnostics.h"

#include "mlir/IR/BuiltinOps.h"
#include "llvm/ADT/STLExtras.h"

#include <map>

namespace bitloom {

void explainChoice(mlir::Operation *op, llvm::function_ref<std::string()> choice) {
  explainChoice(op, op->getLoc(), choice);
}

void explainChoice(mlir::Operation *op, mlir::Location where, llvm::function_ref<std::string()> choice) {
  auto module = op->getParentOfType<mlir::ModuleOp>();
  if (module && module->hasAttr(explainAttr))
    mlir::emitRemark(where) << choice();
}

// The width of what it works on, where the name does not say.
static std::string widthOf(Family family, llvm::StringRef operands) {
  if (family == Family::Cpu_x86)
    for (const char *width : {"zmm", "ymm", "xmm"})
      if (operands.contains(width))
        return std::string(" ") + width;
  if (family == Family::Cpu_aarch64 && operands.starts_with("z"))
    return " sve";
  return "";
}

std::vector<std::pair<std::string, int>> tellingInstructions(llvm::StringRef assembly, Family family) {
  const std::vector<std::string_view> beginnings = backendOf(family).tellingInstructions();
  auto isTelling = [&](llvm::StringRef name) {
    return llvm::any_of(beginnings, [&](std::string_view start) { return name.starts_with(start); });
  };
  std::map<std::string, int> counts;
  while (!assembly.empty()) {
    auto [line, rest] = assembly.split('\n');
    assembly = rest;
    line = line.ltrim(" \t{");
    if (line.starts_with("@")) // a predicate of PTX
      line = line.drop_until([](char c) { return c == ' ' || c == '\t'; }).ltrim();
    const llvm::StringRef name = line.take_until([](char c) { return c == ' ' || c == '\t' || c == ';'; });
    if (isTelling(name))
      ++counts[name.str() + widthOf(family, line.drop_front(name.size()).ltrim())];
  }
  std::vector<std::pair<std::string, int>> all(counts.begin(), counts.end());
  llvm::sort(all, [](const auto &one, const auto &other) {
    return one.second != other.second ? one.second > other.second : one.first < other.first;
  });
  return all;
}

} // namespace bitloom
