#include "bitloom/dsl/CHeader.h"

#include "bitloom/dsl/Example.h"
#include "bitloom/dsl/internal/Scopes.h"
#include "bitloom/lib/support/Expression.h"
#include "bitloom/lowering/Pipeline.h"

#include "mlir/Dialect/Arith/IR/Arith.h"

#include <algorithm>
#include <cctype>

namespace bitloom {

using Kind = Parameter::Kind;

static std::string cType(DType dtype) {
  switch (dtype) {
  case DType::b1:
    return "uint8_t";
  case DType::i8:
    return "int8_t";
  case DType::u8:
    return "uint8_t";
  case DType::i16:
    return "int16_t";
  case DType::u16:
    return "uint16_t";
  case DType::i32:
    return "int32_t";
  case DType::u32:
    return "uint32_t";
  case DType::i64:
    return "int64_t";
  case DType::u64:
    return "uint64_t";
  case DType::f16:
    return "uint16_t"; // C has no name for it that every compiler takes
  case DType::bf16:
    return "uint16_t";
  case DType::f8e4m3:
  case DType::f8e5m2:
    return "uint8_t";
  case DType::f32:
    return "float";
  case DType::f64:
    return "double";
  }
  throw InternalError("a dtype with no C type");
}

// An expression of names (lib/support/Expression.h) in C: functions get a prefix, extents are variables, all else is
// known and a number.
static std::string inC(const std::string &expression, const Call &call) {
  const std::vector<std::string> extents = extentNames(call.kernel());
  std::string text;
  for (size_t at = 0; at < expression.size();) {
    auto isWord = [&](size_t i) {
      return i < expression.size() &&
             (std::isalnum(static_cast<unsigned char>(expression[i])) || expression[i] == '_' || expression[i] == '.');
    };
    if (!isWord(at)) {
      text += expression[at++];
      continue;
    }
    std::string word;
    while (isWord(at))
      word += expression[at++];
    if (at < expression.size() && expression[at] == '(')
      text += "bitloom_" + word;
    else if (word.find('.') != word.npos)
      text += "0"; // a fact of a tensor: there are none, a call's flags are fixed
    else if (std::isdigit(static_cast<unsigned char>(word.front())) || std::ranges::count(extents, word))
      text += word;
    else
      text += std::to_string(call.named(word).value());
  }
  return text;
}

//===- The grid ---------------------------------------------------------------------------------------------------===//

namespace {

// Prints what grid() traced, from its results back to extents.
class GridPrinter {
public:
  explicit GridPrinter(const Call &call) : call(call) {
    for (const Parameter &parameter : call.variant().parameters)
      if (parameter.kind != Kind::Meta)
        arguments.push_back(&parameter);
  }

  std::string print(mlir::Value value) const {
    using namespace mlir;
    if (auto argument = dyn_cast<BlockArgument>(value))
      return "(int64_t)" + arguments[argument.getArgNumber()]->name;
    Operation *op = value.getDefiningOp();
    if (auto constant = dyn_cast<arith::ConstantOp>(op))
      if (auto number = dyn_cast<IntegerAttr>(constant.getValue()))
        return std::to_string(number.getInt());
    if (auto extent = dyn_cast<tile::ExtentOp>(op)) {
      unsigned argument = cast<BlockArgument>(extent.getView()).getArgNumber();
      return "(" + inC(arguments[argument]->shape.at(extent.getDim()), call) + ")";
    }
    if (isa<arith::ExtSIOp, arith::ExtUIOp, arith::TruncIOp>(op))
      return print(op->getOperand(0));
    auto infix = [&](const char *symbol) {
      return "(" + print(op->getOperand(0)) + " " + symbol + " " + print(op->getOperand(1)) + ")";
    };
    if (isa<arith::AddIOp>(op))
      return infix("+");
    if (isa<arith::SubIOp>(op))
      return infix("-");
    if (isa<arith::MulIOp>(op))
      return infix("*");
    if (isa<arith::DivSIOp>(op))
      return infix("/");
    if (isa<arith::RemSIOp>(op))
      return infix("%");
    if (isa<arith::MinSIOp, arith::MaxSIOp>(op))
      return (isa<arith::MinSIOp>(op) ? "bitloom_min(" : "bitloom_max(") + print(op->getOperand(0)) + ", " +
             print(op->getOperand(1)) + ")";
    throw UserError(call.kernel().name + ": expected a grid of whole-number arithmetic on extents, got " +
                    op->getName().getStringRef().str());
  }

private:
  const Call &call;
  std::vector<const Parameter *> arguments;
};

} // namespace

static std::vector<std::string> gridInC(const Call &call) {
  const std::vector<Parameter> &parameters = call.variant().parameters;
  std::vector<trace::Argument> arguments;
  for (const Parameter &parameter : parameters)
    if (parameter.kind != Kind::Meta)
      arguments.push_back({parameter.name, parameter.dtype, parameter.kind == Kind::View ? parameter.rank : 0});
  trace::Session session("grid", arguments);
  std::vector<Slot> slots(parameters.size());
  size_t next = 0;
  for (size_t i = 0; i < parameters.size(); ++i)
    if (parameters[i].kind == Kind::Meta)
      slots[i].number = call.names().at(parameters[i].name);
    else
      slots[i].node = session.argument(next++);
  std::vector<std::string> text(3);
  std::ranges::transform(call.variant().grid(slots), text.begin(), [&](const trace::Node &node) {
    return node.onHost() ? std::to_string(node.hostInt)
                         : GridPrinter(call).print(mlir::Value::getFromOpaquePointer(node.value));
  });
  return text;
}

//===- The header -------------------------------------------------------------------------------------------------===//

std::vector<std::string> cParameters(const Call &call) {
  std::vector<std::string> all;
  for (const Parameter &parameter : call.variant().parameters)
    if (parameter.kind == Kind::View)
      all.push_back((parameter.output ? "" : "const ") + cType(parameter.dtype) + " *" + parameter.name);
    else if (parameter.kind == Kind::Scalar)
      all.push_back(cType(parameter.dtype) + " " + parameter.name);
  for (const std::string &name : extentNames(call.kernel()))
    all.push_back("int64_t " + name);
  return all;
}

// "a, b, c" after `head`, in lines of at most 100 columns; those after the first begin where `indent` ends.
static std::string wrapped(const std::string &head, const std::vector<std::string> &parts, size_t indent) {
  std::string text = head;
  size_t column = head.size();
  for (size_t i = 0; i < parts.size(); ++i) {
    std::string part = parts[i] + (i + 1 < parts.size() ? "," : "");
    if (i && column + 1 + part.size() > 100) {
      text += "\n" + std::string(indent, ' ');
      column = indent;
    } else if (i) {
      text += " ";
      ++column;
    }
    text += part;
    column += part.size();
  }
  return text;
}

static constexpr const char *helpers = R"(#ifndef BITLOOM_EXPRESSIONS
#define BITLOOM_EXPRESSIONS
static inline int64_t bitloom_min(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t bitloom_max(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t bitloom_ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static inline int64_t bitloom_round_up(int64_t a, int64_t b) { return (a + b - 1) / b * b; }
static inline int64_t bitloom_next_pow2(int64_t a) {
  int64_t power = 1;
  while (power < a) power *= 2;
  return power;
}
#endif
)";

// A view's extents as it lies in memory.
static std::vector<std::string> shapeInMemory(const Call &call, size_t parameter) {
  std::vector<std::string> shape = call.variant().parameters[parameter].shape;
  if (call.isTransposed(parameter))
    std::swap(shape[shape.size() - 2], shape[shape.size() - 1]);
  return shape;
}

static std::string paragraph(const Call &call) {
  std::string metas, text;
  for (size_t i = 0; i < call.variant().parameters.size(); ++i) {
    const Parameter &parameter = call.variant().parameters[i];
    if (parameter.kind == Kind::Meta)
      metas += (metas.empty() ? "" : ", ") + parameter.name + " = " + std::to_string(call.names().at(parameter.name));
    else if (parameter.kind == Kind::View) {
      std::string shape;
      for (const std::string &extent : shapeInMemory(call, i))
        shape += (shape.empty() ? "" : ", ") + extent;
      text += " *   " + parameter.name + ": " + std::string(nameOf(parameter.dtype)) + "[" + shape + "]" +
              (call.isTransposed(i) ? ", the transposed of what the kernel speaks of" : "") + "\n";
    }
  }
  return (metas.empty() ? "" : " * Compiled with " + metas + ".\n") +
         " * Tensors are contiguous, in C order; their extents, in elements:\n" + text +
         " * Gives 0, or 1 for extents that the code was not compiled for.\n";
}

// Statements that leave with 1 for extents that the code is not for.
static std::string refusals(const Call &call, const std::vector<std::string> &fixed) {
  std::string negative, text;
  for (const std::string &extent : extentNames(call.kernel()))
    negative += (negative.empty() ? "" : " || ") + extent + " < 0";
  if (!negative.empty())
    text = "  if (" + negative + ")\n    return 1;\n";
  for (const std::string &condition : call.kernel().conditions)
    text += "  if (!(" + inC(condition, call) + "))\n    return 1;\n";
  for (const Parameter &parameter : call.variant().parameters)
    if (parameter.kind == Kind::Meta && !parameter.expression.empty() &&
        std::ranges::find(fixed, parameter.name) == fixed.end())
      text += "  if ((" + inC(parameter.expression, call) + ") != " + std::to_string(call.names().at(parameter.name)) +
              ")\n    return 1;\n";
  return text;
}

static std::vector<std::string> extentsInC(size_t view, const Call &call) {
  std::vector<std::string> extents;
  for (const std::string &extent : shapeInMemory(call, view))
    extents.push_back(isName(extent) ? inC(extent, call) : "(" + inC(extent, call) + ")");
  return extents;
}

std::string cContiguousCall(const Call &call, const std::string &name, const std::vector<std::string> &fixed) {
  std::vector<std::string> parameters = cParameters(call), passed;
  parameters.push_back("int threads");
  std::string locals;
  for (size_t i = 0; i < call.variant().parameters.size(); ++i) {
    const Parameter &parameter = call.variant().parameters[i];
    if (parameter.kind == Kind::Scalar)
      passed.push_back(parameter.name);
    if (parameter.kind != Kind::View)
      continue;
    std::string type = cType(parameter.dtype); // the kernel's own function knows no signs
    if (!isFloat(parameter.dtype) && parameter.dtype != DType::b1 && type[0] == 'u')
      type = type.substr(1);
    passed.push_back((parameter.output ? "(" : "(const ") + type + " *)" + parameter.name);
    passed.push_back("extents_of_" + parameter.name);
    passed.push_back("NULL");
    locals += wrapped("  const int64_t extents_of_" + parameter.name + "[" + std::to_string(parameter.rank) + "] = {",
                      extentsInC(i, call), 6) +
              "};\n";
  }
  passed.insert(passed.end(), {"grid", "threads"});
  const std::string head = "static inline int " + name + "_contiguous(", run = "  " + name + "(";
  std::string text = std::string("#include <stddef.h>\n\n") + helpers;
  text += "\n/* " + call.kernel().name + ": " + call.kernel().summary + ".\n" + paragraph(call) + " */\n";
  text += wrapped(head, parameters, head.size()) + ") {\n" + refusals(call, fixed) + locals;
  text += wrapped("  const int64_t grid[3] = {", gridInC(call), 6) + "};\n";
  return text + wrapped(run, passed, run.size()) + ");\n  return 0;\n}\n";
}

std::string cLaunchPlan(const Call &call, const MachineCode &code, const std::string &target, const std::string &name,
                        const std::vector<std::string> &fixed) {
  std::string upper = name, scalars;
  std::ranges::transform(upper, upper.begin(), [](unsigned char c) { return char(std::toupper(c)); });
  std::vector<std::string> words; // by the calling convention of lib/runtime/Launch.h
  for (size_t i = 0; i < call.variant().parameters.size(); ++i) {
    const Parameter &parameter = call.variant().parameters[i];
    if (parameter.kind == Kind::Scalar) {
      scalars += "  int64_t " + parameter.name + "_bits = 0;\n  memcpy(&" + parameter.name + "_bits, &" +
                 parameter.name + ", sizeof " + parameter.name + ");\n";
      words.push_back(parameter.name + "_bits");
    }
    if (parameter.kind != Kind::View)
      continue;
    words.push_back("(int64_t)(intptr_t)" + parameter.name);
    const std::vector<std::string> extents = extentsInC(i, call);
    words.insert(words.end(), extents.begin(), extents.end());
    for (size_t d = 0; d < extents.size(); ++d) {
      std::string stride;
      for (size_t inner = d + 1; inner < extents.size(); ++inner)
        stride += (stride.empty() ? "" : " * ") + extents[inner];
      words.push_back(stride.empty() ? "1" : stride);
    }
  }
  std::vector<std::string> parameters = {"int64_t words[" + upper + "_WORDS]", "int64_t grid[3]"},
                           own = cParameters(call);
  parameters.insert(parameters.end(), own.begin(), own.end());
  const std::string guard = "BITLOOM_KERNEL_" + upper + "_H", head = "static inline int " + name + "_plan(";
  std::string text = "/* Generated by bitloom: " + name + " for " + target + ". " + call.kernel().summary + ".\n";
  text += " * Get " + upper + "_ENTRY of the module; launch it on the planned grid, with " + upper +
          "_THREADS along x and\n * " + upper +
          "_SHARED_BYTES; kernelParams are the addresses of the words. Pointers " + "are the device's.\n */\n";
  text += "#ifndef " + guard + "\n#define " + guard + "\n\n#include <stdint.h>\n#include <string.h>\n\n";
  auto define = [&](const char *what, const std::string &value) {
    text += "#define " + upper + "_" + what + " " + value + "\n";
  };
  define("ENTRY", "\"" + code.entry + "\"");
  define("THREADS", std::to_string(code.threadsPerProgram));
  define("SHARED_BYTES", std::to_string(code.sharedBytes));
  define("WORDS", std::to_string(words.size()));
  text +=
      "\n#ifdef __cplusplus\nextern \"C\" {\n#endif\n\n" + std::string(helpers) + "\n/*\n" + paragraph(call) + " */\n";
  text += wrapped(head, parameters, head.size()) + ") {\n" + refusals(call, fixed) + scalars;
  text += wrapped("  const int64_t all[" + upper + "_WORDS] = {", words, 6) + "};\n";
  text += wrapped("  const int64_t programs[3] = {", gridInC(call), 6) + "};\n";
  return text + "  memcpy(words, all, sizeof all);\n  memcpy(grid, programs, sizeof programs);\n  return 0;\n}\n\n"
                "#ifdef __cplusplus\n}\n#endif\n#endif\n";
}

} // namespace bitloom
