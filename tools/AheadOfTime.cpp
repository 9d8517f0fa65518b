#include "bitloom/tools/AheadOfTime.h"

#include "bitloom/dsl/CHeader.h"
#include "bitloom/dsl/Example.h"
#include "bitloom/lowering/Pipeline.h"
#include "bitloom/lowering/codegen/Aot.h"

#include <algorithm>
#include <cstring>
#include <filesystem>

namespace bitloom::tools {

static bool isElf(const MachineCode &code) {
  return code.image.starts_with("\x7f"
                                "ELF");
}

// The same call, of tensors of which only the extents are known.
static Call withoutMemory(const Call &call) {
  Call described(call.kernel());
  for (size_t v = 0; v < call.kernel().variants.size(); ++v)
    if (&call.kernel().variants[v] == &call.variant())
      described.chooseVariant(v);
  described.setSizes(call.names());
  described.resolve();
  bindWithoutMemory(described, /*aligned=*/false);
  return described;
}

std::vector<std::string> buildAheadOfTime(const std::vector<NamedCall> &calls, const std::vector<Target> &targets,
                                          const std::string &folder, const std::vector<std::string> &fixed) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error)
    throw UserError("could not make the folder '" + folder + "': " + error.message());
  std::vector<Program> programs;
  std::vector<AotKernel> kernels;
  std::vector<std::string> files;
  for (const NamedCall &named : calls) {
    const Call call = withoutMemory(named.call);
    programs.push_back(call.trace());
    const Target &target = targets[0];
    if (isCpu(target.family)) {
      kernels.push_back({nullptr, named.name, cContiguousCall(call, named.name, fixed)});
      continue;
    }
    MachineCode code = compile(programs.back(), target);
    const std::string base = folder + "/" + named.name, image = base + (isElf(code) ? ".cubin" : ".ptx");
    writeFile(image, code.image);
    writeFile(base + ".h", cLaunchPlan(call, code, target.name, named.name, fixed));
    files.insert(files.end(), {image, base + ".h"});
  }
  for (size_t i = 0; i < kernels.size(); ++i)
    kernels[i].program = &programs[i];
  return kernels.empty() ? files : writeAot(kernels, targets, folder);
}

static std::string crossCompiler() { return findProgram({"aarch64-linux-gnu-gcc"}); }
static std::string emulator() { return findProgram({"qemu-aarch64", "qemu-aarch64-static"}); }

std::string whyNotEmulated(const Target &target) {
  if (target.family != Family::Cpu_aarch64)
    return "this machine does not run " + target.name;
  if (crossCompiler().empty())
    return "no aarch64-linux-gnu-gcc to link with";
  if (emulator().empty())
    return "no qemu-aarch64 to run it";
  return "";
}

// A C program that reads the tensors from its first argument, calls the kernel once and writes the outputs to its
// second.
static std::string driverOf(const Call &call, const std::string &name) {
  std::string reads, writes, arguments;
  const std::vector<Parameter> &parameters = call.variant().parameters;
  auto add = [&](const std::string &argument) { arguments += (arguments.empty() ? "" : ", ") + argument; };
  const std::vector<int64_t> words = call.words();
  size_t word = 0;
  for (size_t i = 0; i < parameters.size(); ++i) {
    const Parameter &parameter = parameters[i];
    const std::string id = std::to_string(i);
    if (parameter.kind == Parameter::Kind::View) {
      const std::string bytes = std::to_string(call.tensors()[i]->byteSize());
      reads += "  void *t" + id + " = take(in, " + bytes + ");\n";
      if (parameter.output)
        writes += "  fwrite(t" + id + ", 1, " + bytes + ", out);\n";
      add("t" + id);
      word += 1 + 2 * size_t(parameter.rank);
    } else if (parameter.kind == Parameter::Kind::Scalar) {
      std::string type = cParameters(
          call)[size_t(std::count_if(parameters.begin(), parameters.begin() + ptrdiff_t(i),
                                     [](const Parameter &before) { return before.kind != Parameter::Kind::Meta; }))];
      reads += "  " + type.substr(0, type.rfind(' ')) + " s" + id + ";\n  int64_t b" + id + " = " +
               std::to_string(words[word++]) + ";\n  memcpy(&s" + id + ", &b" + id + ", sizeof s" + id + ");\n";
      add("s" + id);
    }
  }
  for (const std::string &extent : extentNames(call.kernel()))
    add(std::to_string(call.names().at(extent)));
  add("3"); // threads
  return "#include <stdio.h>\n#include <stdlib.h>\n#include \"" + name +
         ".h\"\n\nstatic void *take(FILE *in, size_t bytes) {\n  void *memory = malloc(bytes + 64);\n"
         "  if (!memory || fread(memory, 1, bytes, in) != bytes) exit(3);\n  return memory;\n}\n\n"
         "int main(int argc, char **argv) {\n  FILE *in = fopen(argv[1], \"rb\"), *out;\n  if (!in) return 3;\n" +
         reads + "  if (" + name + "_contiguous(" + arguments +
         ")) return 4;\n  out = fopen(argv[2], \"wb\");\n  if (!out) return 3;\n" + writes +
         "  return fclose(out) ? 3 : 0;\n}\n";
}

// Those that processors have, and the longest that there may be.
std::vector<int> EmulatedProgram::vectorLengths(const Target &target) {
  return target.scalableVectors ? std::vector<int>{16, 32, 64, 256} : std::vector<int>{0};
}

EmulatedProgram::EmulatedProgram(const Call &call, const Target &target) : call(call) {
  const std::string name = "kernel";
  std::vector<std::string> fixed; // whatever the sizes say, these are the values that the call has
  for (const Parameter &parameter : call.variant().parameters)
    if (parameter.kind == Parameter::Kind::Meta)
      fixed.push_back(parameter.name);
  std::vector<std::string> files = buildAheadOfTime({{call, name}}, {target}, folder.path(), fixed);
  writeFile(path("main.c"), driverOf(call, name));
  std::string inputs;
  for (const auto &tensor : call.tensors())
    if (tensor)
      inputs.append(static_cast<const char *>(tensor->data), size_t(tensor->byteSize()));
  writeFile(path("in"), inputs);

  std::vector<std::string> link = {
      crossCompiler(),         "-static", "-O1",        "-pthread",    "-Wall", "-Wextra", "-Werror",
      "-Wno-unused-parameter", "-o",      path("main"), path("main.c")};
  for (const std::string &file : files)
    if (!file.ends_with(".h"))
      link.push_back(file);
  link.push_back("-lm");
  if (Finished linked = runProgram(link); linked.status != 0)
    throw UserError("could not link for " + target.name + ":\n" + linked.output);
}

void EmulatedProgram::run(int vectorBytes) const {
  std::string processor = "max";
  if (vectorBytes)
    processor += ",sve-default-vector-length=" + std::to_string(vectorBytes);
  Finished ran = runProgram({emulator(), "-cpu", processor, path("main"), path("in"), path("out")});
  if (ran.status != 0)
    throw UserError(ran.status == 4 ? "the header refused the extents that it was made for"
                                    : "the program under " + emulator() + " ended with status " +
                                          std::to_string(ran.status) + "\n" + ran.output);
  const std::string outputs = readFile(path("out"));
  size_t at = 0;
  for (size_t i = 0; i < call.tensors().size(); ++i)
    if (const auto &tensor = call.tensors()[i]; tensor && call.variant().parameters[i].output) {
      std::memcpy(tensor->data, outputs.data() + at, size_t(tensor->byteSize()));
      at += size_t(tensor->byteSize());
    }
}

} // namespace bitloom::tools
