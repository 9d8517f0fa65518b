// What MLIR reports, as bitloom's errors.
#pragma once

#include "bitloom/lib/support/Error.h"

#include "mlir/IR/Diagnostics.h"
#include "mlir/IR/Location.h"

#include <string>
#include <vector>

namespace bitloom {

// The file and line that a location stands for: of an inlined or fused one, the innermost that is known. The file's
// name lives as long as the process.
SourceLocation sourceOf(mlir::Location location);

// On a module: lowerings say what they choose, as remarks (Explain.h).
inline constexpr llvm::StringLiteral explainAttr = "tile.explain";

// Collects the diagnostics of a context while it lives, instead of printing them.
class Diagnostics {
public:
  explicit Diagnostics(mlir::MLIRContext *context);

  // One "file:line:col: error: message" a line, notes after what they belong to.
  std::string text() const;
  // Located at the first error; `fallback` is the message where none was reported.
  UserError userError(const std::string &fallback) const;
  InternalError internalError(const std::string &fallback) const;
  // What lowerings said they chose, "file:line: …" each; part of nothing above.
  const std::vector<std::string> &choices() const { return remarks; }

private:
  struct Entry {
    mlir::DiagnosticSeverity severity;
    SourceLocation where;
    std::string text;    // with its position and notes
    std::string message; // of the diagnostic alone
    std::string notes;
  };
  std::vector<Entry> entries;
  std::vector<std::string> remarks;
  mlir::ScopedDiagnosticHandler handler;
};

} // namespace bitloom
