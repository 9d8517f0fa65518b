#include "bitloom/lowering/codegen/Aot.h"

#include "bitloom/lib/dtype/DType.h"
#include "bitloom/lib/support/Error.h"
#include "bitloom/lowering/Pipeline.h"
#include "bitloom/lowering/dialect/Tile.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/BuiltinOps.h"

#include <cctype>
#include <filesystem>
#include <fstream>
#include <set>

namespace bitloom {

// The two files of the run-time, as text.
static constexpr const char *runtimeHeader =
#include "lowering/codegen/aot/bitloom_rt.h.inc"
    ;
static constexpr const char *runtimeSource =
#include "lowering/codegen/aot/bitloom_rt.c.inc"
    ;
// They know dtypes by these numbers.
static_assert(int(DType::b1) == 0 && int(DType::i8) == 1 && int(DType::u64) == 8 && int(DType::f16) == 9 &&
              int(DType::f64) == 12 && int(DType::f8e4m3) == 13 && int(DType::f8e5m2) == 14);

static bool isIdentifier(const std::string &name) {
  auto legal = [](unsigned char letter) { return std::isalnum(letter) || letter == '_'; };
  return !name.empty() && !std::isdigit((unsigned char)name[0]) && std::all_of(name.begin(), name.end(), legal);
}

static mlir::func::FuncOp kernelOf(const Program &program) {
  for (auto function : program.module().getOps<mlir::func::FuncOp>())
    if (function->hasAttr(tile::kernelAttr))
      return function;
  throw UserError("expected a func.func with the attribute tile.kernel, got none");
}

namespace {
struct CType {
  std::string name; // in C
  std::string note; // what the C type does not say
};

struct Parameter {
  std::string name;
  CType element;
  int64_t rank = 0; // of a view
  bool isView = false, isWritten = false, isStrided = false;
  int64_t align = 0; // bytes; 0 where it does not matter
};
} // namespace

// Signed where it does not say: integers of tile IR carry no sign.
static CType cTypeOf(mlir::Type type) {
  if (type.isF32())
    return {"float", ""};
  if (type.isF64())
    return {"double", ""};
  if (type.isF16())
    return {"uint16_t", "bits of IEEE binary16"};
  if (type.isBF16())
    return {"uint16_t", "bits of bfloat16"};
  if (mlir::isa<mlir::Float8E4M3FNType>(type))
    return {"uint8_t", "bits of an 8-bit float, e4m3"};
  if (mlir::isa<mlir::Float8E5M2Type>(type))
    return {"uint8_t", "bits of an 8-bit float, e5m2"};
  if (type.isInteger(1))
    return {"uint8_t", "0 or 1"};
  if (type.isInteger(8) || type.isInteger(16) || type.isInteger(32) || type.isInteger(64))
    return {"int" + std::to_string(type.getIntOrFloatBitWidth()) + "_t", ""};
  std::string text;
  llvm::raw_string_ostream(text) << type;
  throw UserError("expected parameters of a type that C has, got " + text);
}

static std::vector<Parameter> parametersOf(mlir::func::FuncOp kernel) {
  std::vector<Parameter> parameters;
  std::set<std::string> taken = {"grid", "restrict", "threads", "words"}; // ours, and a keyword of C alone
  for (mlir::BlockArgument argument : kernel.getArguments()) {
    const unsigned index = argument.getArgNumber();
    Parameter parameter;
    auto name = kernel.getArgAttrOfType<mlir::StringAttr>(index, tile::nameAttr);
    parameter.name = name ? name.str() : "argument" + std::to_string(index);
    if (!isIdentifier(parameter.name))
      throw UserError("expected parameters named by C identifiers, got '" + parameter.name + "'");
    while (!taken.insert(parameter.name).second)
      parameter.name += "_";
    if (auto view = mlir::dyn_cast<tile::ViewType>(argument.getType())) {
      parameter.isView = true;
      parameter.rank = view.getRank();
      parameter.isStrided = view.getStrided();
      parameter.element = cTypeOf(view.getElementType());
      parameter.isWritten = llvm::any_of(argument.getUsers(), [](mlir::Operation *user) {
        return mlir::isa<tile::StoreOp, tile::ScatterOp, tile::AtomicOp>(user);
      });
      if (auto align = kernel.getArgAttrOfType<mlir::IntegerAttr>(index, tile::alignAttr))
        parameter.align = align.getInt();
    } else {
      parameter.element = cTypeOf(argument.getType());
    }
    parameters.push_back(std::move(parameter));
  }
  return parameters;
}

static std::string describe(const Parameter &parameter) {
  std::string note = parameter.element.note.empty() ? "" : " (" + parameter.element.note + ")";
  if (!parameter.isView)
    return " * " + parameter.name + ": a number" + note + ".\n";
  std::string text = " * " + parameter.name + ": " + (parameter.isWritten ? "written" : "read") + note;
  if (parameter.rank) {
    std::string dims = std::to_string(parameter.rank);
    text += "; its " + dims + " extents and " + dims + " strides, in elements, strides NULL for C order";
    if (!parameter.isStrided)
      text += "; the last stride is 1";
  }
  if (parameter.align > 1)
    text += "; the pointer and the other strides are multiples of " + std::to_string(parameter.align) + " bytes";
  return text + ".\n";
}

// "aarch64+dotprod" as part of a name of C.
static std::string suffixOf(const Target &target) {
  std::string text = "_" + target.name;
  for (char &letter : text)
    if (!std::isalnum((unsigned char)letter))
      letter = '_';
  return text;
}

std::string aotDispatcher(const std::string &name, std::span<const Target> targets) {
  std::string declarations, table;
  for (const Target &target : targets) {
    const std::string function = name + suffixOf(target) + "_programs";
    declarations += "bitloom_kernel " + function + ";\n";
    table += "    {\"" + target.name + "\", " + function + "},\n";
  }
  return "/* Generated by bitloom: chooses the code of " + name + " for the processor, once. */\n#include \"" + name +
         ".h\"\n\n#include <stdatomic.h>\n\n" + declarations +
         "\nstatic const struct bitloom_rt_variant variants[] = {\n" + table +
         "};\n\nstatic const struct bitloom_rt_variant *chosen(void) {\n"
         "  static _Atomic(const struct bitloom_rt_variant *) known;\n"
         "  const struct bitloom_rt_variant *variant = atomic_load_explicit(&known, memory_order_acquire);\n"
         "  if (!variant) {\n    variant = bitloom_rt_choose(\"" +
         name +
         "\", variants, (int)(sizeof variants / sizeof variants[0]));\n"
         "    atomic_store_explicit(&known, variant, memory_order_release);\n  }\n  return variant;\n}\n\n"
         "const char *" +
         name + "_target(void) { return chosen()->target; }\n\nvoid " + name +
         "_programs(const int64_t *words, const int64_t grid[3], int64_t begin, int64_t end) {\n"
         "  chosen()->kernel(words, grid, begin, end);\n}\n";
}

std::string aotHeader(const Program &program, const std::string &name, std::span<const Target> targets,
                      const std::string &declarations) {
  std::string names;
  for (const Target &target : targets)
    names += (names.empty() ? "" : ", ") + target.name;
  const std::vector<Parameter> parameters = parametersOf(kernelOf(program));
  std::string guard = "BITLOOM_KERNEL_" + name + "_H", signature, packing, documentation;
  size_t words = 0;
  for (const Parameter &parameter : parameters) {
    const std::string rank = std::to_string(parameter.rank), &id = parameter.name;
    documentation += describe(parameter);
    if (!parameter.isView) {
      signature += parameter.element.name + " " + id + ", ";
      packing += "  memcpy(&words[" + std::to_string(words++) + "], &" + id + ", sizeof " + id + ");\n";
      continue;
    }
    signature += (parameter.isWritten ? "" : "const ") + parameter.element.name + " *" + id + ", ";
    packing += "  words[" + std::to_string(words) + "] = (int64_t)(intptr_t)" + id + ";\n";
    if (parameter.rank) {
      signature += "const int64_t " + id + "_extents[" + rank + "], const int64_t " + id + "_strides[" + rank + "], ";
      packing += "  bitloom_rt_pack_view(&words[" + std::to_string(words + 1) + "], " + rank + ", " + id +
                 "_extents, " + id + "_strides);\n";
    }
    words += 1 + 2 * size_t(parameter.rank);
  }
  std::string count = std::to_string(std::max<size_t>(words, 1));
  return "/* Generated by bitloom: " + name + " for " + names + ".\n" + documentation +
         " * grid: how many programs run along x, y and z.\n"
         " * threads: 1 runs them on this thread, more on that many, 0 on one for each processor.\n */\n"
         "#ifndef " +
         guard + "\n#define " + guard +
         "\n\n#include \"bitloom_rt.h\"\n\n#include <stdint.h>\n#include <string.h>\n\n"
         "#ifdef __cplusplus\nextern \"C\" {\n#endif\n\n" +
         (targets.size() > 1 ? "/* Of the targets above, the one whose code this processor runs. */\nconst char *" +
                                   name + "_target(void);\n\n"
                             : std::string()) +
         "/* The code in " + name + (targets.size() > 1 ? ".c" : ".o") +
         ": runs some programs of the grid; see bitloom_kernel for the words. */\nvoid " + name +
         "_programs(const int64_t *words, const int64_t grid[3], int64_t begin, int64_t end);\n\n"
         "static inline void " +
         name + "(" + signature + "const int64_t grid[3], int threads) {\n  int64_t words[" + count + "] = {0};\n" +
         packing + "  bitloom_rt_run(" + name + "_programs, words, grid, threads);\n}\n\n" +
         (declarations.empty() ? "" : declarations + "\n") + "#ifdef __cplusplus\n}\n#endif\n#endif\n";
}

static void writeFile(const std::filesystem::path &path, std::string_view text, std::vector<std::string> &written) {
  std::ofstream stream(path, std::ios::binary);
  stream << text;
  if (!stream.flush())
    throw UserError("expected a file that can be written, got '" + path.string() + "'");
  written.push_back(path.string());
}

std::vector<std::string> writeAot(std::span<const AotKernel> kernels, std::span<const Target> targets,
                                  const std::string &directory) {
  for (const Target &target : targets) {
    if (!isCpu(target.family))
      throw UserError("expected a CPU target, got " + target.name);
    if (target.family != targets[0].family)
      throw UserError("expected targets of one processor family, got " + targets[0].name + " and " + target.name);
    if (llvm::count(targets, target) > 1)
      throw UserError("expected different targets, got " + target.name + " twice");
  }
  std::vector<std::string> names;
  for (const AotKernel &kernel : kernels) {
    std::string name = kernel.name.empty() ? kernel.program->kernelName() : kernel.name;
    if (!isIdentifier(name))
      throw UserError("expected a name that is a C identifier, got '" + name + "'");
    if (llvm::is_contained(names, name))
      throw UserError("expected kernels of different names, got '" + name + "' twice");
    names.push_back(std::move(name));
  }

  std::error_code ignored; // writing says what is wrong
  std::filesystem::create_directories(directory, ignored);
  const std::filesystem::path folder = directory;
  std::vector<std::string> written;
  for (auto [kernel, name] : llvm::zip(kernels, names)) {
    writeFile(folder / (name + ".h"), aotHeader(*kernel.program, name, targets, kernel.declarations), written);
    for (const Target &target : targets) {
      const std::string own = targets.size() > 1 ? name + suffixOf(target) : name;
      Program renamed = kernel.program->clone();
      kernelOf(renamed).setName(own + "_programs");
      writeFile(folder / (own + ".o"), compile(renamed, target).image, written);
    }
    if (targets.size() > 1)
      writeFile(folder / (name + ".c"), aotDispatcher(name, targets), written);
  }
  writeFile(folder / "bitloom_rt.h", runtimeHeader, written);
  writeFile(folder / "bitloom_rt.c", runtimeSource, written);
  return written;
}

} // namespace bitloom
