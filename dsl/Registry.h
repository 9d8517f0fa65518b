// The kernels of this process: one row each, from which C++, Python, the command line, the tests and the benchmarks are
// driven. Rows are made by BITLOOM_REGISTER (Kernel.h).
#pragma once

#include "bitloom/dsl/Trace.h"
#include "bitloom/lib/runtime/Tensor.h"

#include <array>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace bitloom {

// A parameter, as declared in the kernel's struct.
struct Parameter {
  enum class Kind { View, Scalar, Meta } kind;
  std::string name;
  DType dtype;                        // of a view's elements, or the scalar's; i64 or b1 for a Meta
  int rank = 0;                       // of a view
  bool output = false;                // a view that the kernel writes
  std::vector<std::string> shape{};   // a view's extents: names, or expressions of names (lib/support/Expression.h)
  int64_t bits = 0;                   // a scalar's default, its bits in the low bytes; a Meta's default
  std::string expression{};           // a Meta's default where it depends on the extents, else empty
  std::vector<std::string> choices{}; // a Meta's values by name, where they have names: 0, 1, …
};

// What one parameter is given: a traced node while tracing, a tensor or a number when called.
struct Slot {
  trace::Node node{};
  const TensorRef *tensor = nullptr;
  int64_t number = 0; // a scalar's bits, or a Meta's value
};

// A kernel for one choice of element types.
struct Variant {
  std::vector<Parameter> parameters;
  std::function<void(const std::vector<Slot> &)> body; // traces, inside a session
  // The extents of the grid: numbers outside a session, inside one traced from its views.
  std::function<std::array<trace::Node, 3>(const std::vector<Slot> &)> grid;
};

// A Meta parameter that changes how fast a kernel is and not what it computes, and the values to try.
struct Tunable {
  std::string meta;
  std::vector<int64_t> values;
};

// A view that a call on a GPU may hand over as a copy, if its rows start anywhere and the condition holds.
struct Realignment {
  std::string view, condition; // of the names of the extents and the Meta parameters
};

struct KernelRow {
  std::string name;
  std::string summary;
  std::string source; // the file that registers it
  std::vector<Variant> variants;
  // Sizes to test and to measure with, separated by semicolons: "rows=3 cols=199; rows=17 cols=4097". They give values
  // to the names of the extents and, where wanted, to Meta parameters.
  std::vector<std::string> tests, benchmarks;
  // What random inputs lie between, where their dtype's own range will not do: "target=0..cols-1; scale=0.5..2", each
  // bound a decimal number or an expression of the names (dsl/Example.h); "starts=0..rows ascending" sorts them.
  std::string inputs{};
  // What must hold of the names of the extents and the Meta parameters: "heads % kv_heads == 0". A call that breaks one
  // is refused.
  std::vector<std::string> conditions{};
  bool onlyCpus = false;           // a call on a GPU is refused
  std::vector<Tunable> tunables{}; // what `bitloom tune` chooses
  // Views that are worth a copy with aligned rows (dsl/Realigned.h).
  std::vector<Realignment> realignments{};
  const void *code = nullptr; // an address in the program or library that traces the kernel; null: not known
};

// What tells a variant from its kernel's others: the dtypes in which they differ, as in "f32" or "f16/i8"; of a kernel
// with one variant, its first view's.
std::string nameOf(const KernelRow &kernel, size_t variant);

// Of "block_m=64,128; stages=2": InternalError for text of another form.
std::vector<Tunable> parseTunables(std::string_view text);

// Of "a: n >= 128; b: m >= 128": InternalError for text of another form.
std::vector<Realignment> parseRealignments(std::string_view text);

// Every registered kernel, by name. Pointers stay valid.
std::vector<const KernelRow *> allKernels();
// UserError, with a suggestion, when there is none of that name.
const KernelRow &kernelNamed(std::string_view name);
void registerKernel(KernelRow row);
// Loads a shared library of kernels (bitloom_add_kernels in CMake) and gives those that it registers.
std::vector<const KernelRow *> loadKernels(const std::string &path);

} // namespace bitloom
