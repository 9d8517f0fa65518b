// What the traced types are made of: values of the IR under construction, and the C++ variables that hold them. Kernel
// authors need Kernel.h; this header is for those types' own definitions. It names no MLIR type.
#pragma once

#include "bitloom/lib/dtype/DType.h"
#include "bitloom/lib/support/Error.h"

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace bitloom::trace {

using Shape = std::vector<int64_t>;

// An SSA value of the kernel being traced on this thread or, with `value` null, a number known on the host. Host
// numbers become constants where a traced operation uses them; between host numbers, integer arithmetic is done at
// once, so that a kernel's grid() is the same code whether it is traced or called.
struct Node {
  void *value = nullptr; // mlir::Value::getAsOpaquePointer
  int64_t hostInt = 0;
  double hostFloat = 0;

  static Node host(int64_t number) { return {nullptr, number, double(number)}; }
  static Node host(double number) { return {nullptr, int64_t(number), number}; }
  bool onHost() const { return value == nullptr; }
};

Shape shapeOf(Node node); // empty for a scalar
bool tracing();           // whether a kernel is being traced on this thread

// A C++ variable that holds a Node. Reading and assigning one inside `range`, `when` and `while_` is how values that a
// loop carries are found: SSA is built on the fly, as in Braun et al., "Simple and Efficient Construction of Static
// Single Assignment Form" (2013), with C++ scopes as the structured control flow.
class Variable {
public:
  explicit Variable(Node initial);
  Variable(const Variable &other) : Variable(other.read()) {}
  Variable &operator=(const Variable &other);
  ~Variable();

  Node read() const;
  void assign(Node value);

private:
  uint32_t id = 0; // 0 outside a trace: `held` is then the value
  uint32_t session = 0;
  Node held;
};

enum class Unary {
  Negate,
  Not,
  Abs,
  Exp,
  Exp2,
  Expm1,
  Log,
  Log2,
  ApproxLog2,
  Log1p,
  ApproxReciprocal,
  Sqrt,
  Rsqrt,
  Sin,
  Cos,
  Tanh,
  Erf,
  Floor,
  Ceil,
  Round,
};
enum class Binary {
  Add,
  Sub,
  Mul,
  Div,
  Rem,
  Min,
  Max,
  And,
  Or,
  Xor,
  ShiftLeft,
  ShiftRight,
  Pow,
  MulHigh,
  CeilDiv,
  Equal,
  NotEqual,
  Less,
  LessEqual,
  Greater,
  GreaterEqual,
};
enum class Atomic { Add, Max, Min, And, Or, Xor, Exchange };

// A number as it is held by a variable: a constant of the trace, or itself outside any.
Node literal(DType dtype, Node number);

// Elementwise. Operands of different shapes are broadcast: a scalar to any shape, an extent of 1 to any other.
// `dtype` is the operands' (signedness is not in the IR's types). UserError at `at` when shapes do not fit.
Node unary(Unary op, DType dtype, Node a, SourceLocation at);
Node binary(Binary op, DType dtype, Node a, Node b, SourceLocation at);
Node fma(DType dtype, Node a, Node b, Node c, SourceLocation at);
Node select(DType dtype, Node condition, Node yes, Node no, SourceLocation at);
Node cast(DType from, DType to, Node a, SourceLocation at);
Node bitcast(DType from, DType to, Node a, SourceLocation at);

Node splat(DType dtype, Node scalar, const Shape &shape, SourceLocation at);
Node iota(DType dtype, int64_t extent, SourceLocation at);
Node reshape(Node a, const Shape &shape, SourceLocation at);
Node transpose(Node a, const std::vector<int> &permutation, SourceLocation at);
Node broadcast(Node a, const Shape &shape, SourceLocation at);
Node join(Node a, Node b, SourceLocation at);
std::pair<Node, Node> split(Node a, SourceLocation at);
Node slice(Node a, const Shape &offsets, const Shape &extents, SourceLocation at);

Node programId(int axis, SourceLocation at);
Node numPrograms(int axis, SourceLocation at);
Node extent(Node view, int dim, SourceLocation at);

// offsets: one i64 scalar a dimension of the view; dims, extents: the view's dimensions that the tile spans.
Node load(Node view, DType dtype, const std::vector<Node> &offsets, const std::vector<int> &dims, const Shape &extents,
          std::optional<Node> other, SourceLocation at);
void store(Node value, Node view, DType dtype, const std::vector<Node> &offsets, const std::vector<int> &dims,
           const Shape &extents, SourceLocation at);
Node gather(Node view, DType dtype, const std::vector<Node> &indices, std::optional<Node> mask,
            std::optional<Node> other, SourceLocation at);
void scatter(Node value, Node view, DType dtype, const std::vector<Node> &indices, std::optional<Node> mask,
             SourceLocation at);
Node atomic(Atomic op, Node value, Node view, DType dtype, const std::vector<Node> &indices, std::optional<Node> mask,
            SourceLocation at);

// combine: from the left and the right partial results, one scalar an operand, to the combined ones.
using Combine = std::function<std::vector<Node>(const std::vector<Node> &left, const std::vector<Node> &right)>;
std::vector<Node> reduce(const std::vector<Node> &sources, int axis, const Combine &combine, SourceLocation at);
std::vector<Node> scan(const std::vector<Node> &sources, int axis, bool reverse, const Combine &combine,
                       SourceLocation at);
Node dot(Node a, DType aType, Node b, DType bType, Node acc, DType accType, bool tf32, SourceLocation at);

// packing: as bitloom::Packing prints it.
Node unpack(Node bytes, std::string_view packing, bool isSigned, SourceLocation at);
Node pack(Node values, std::string_view packing, SourceLocation at);
Node lut(Node table, Node indices, SourceLocation at);

void print(std::string_view label, DType dtype, Node value, SourceLocation at);
void assert_(Node condition, std::string_view message, SourceLocation at);

// Staged control flow: each opens a scope that the next of its calls closes.
Node beginFor(Node lower, Node upper, Node step, SourceLocation at); // gives the induction variable
void endFor();
void abandonScopes(size_t depth); // after an exception: forget the scopes above `depth`
size_t scopeDepth();
void branch(Node condition, const std::function<void()> &yes, const std::function<void()> &no, SourceLocation at);
void loopWhile(const std::function<Node()> &condition, const std::function<void()> &body, SourceLocation at);

} // namespace bitloom::trace
