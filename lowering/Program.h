// A kernel as tile IR: what tracing makes, the interpreter runs and the pipeline lowers. No MLIR header needed.
#pragma once

#include <memory>
#include <string>
#include <string_view>

namespace mlir {
class MLIRContext;
class ModuleOp;
} // namespace mlir

namespace bitloom {

// Owns its module and the context that it lives in. The module holds one func.func with `tile.kernel`.
// Not to be used by two threads at once.
class Program {
public:
  // Parses the text of a module of tile IR, or any later stage of it. Throws UserError with the parser's diagnostics,
  // in which the text is called `name`.
  static Program parse(std::string_view text, std::string_view name = "<program>");

  // An empty module in a context with every dialect loaded that tracing and lowering use.
  Program();
  ~Program();
  Program(Program &&) noexcept;
  Program &operator=(Program &&) noexcept;
  Program clone() const; // in the same context, whose lifetime they share

  mlir::ModuleOp module() const;
  mlir::MLIRContext *context() const;
  std::string kernelName() const; // of the function with tile.kernel
  // Throws InternalError with the verifier's diagnostics.
  void verify() const;
  // The module's text; with `locations`, where in the user's source each operation comes from.
  std::string print(bool locations = false) const;

private:
  struct Impl;
  explicit Program(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl;
};

} // namespace bitloom
