#include "bitloom/lib/runtime/Ptxas.h"

#include "bitloom/lib/support/Error.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <mutex>
#include <regex>

#include <fcntl.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

namespace bitloom {

namespace fs = std::filesystem;

namespace {
// A folder of its own under the system's one for temporary files, gone at the end of the scope.
class ScratchFolder {
public:
  ScratchFolder() {
    std::string pattern = (fs::temp_directory_path() / "bitloom-XXXXXX").string();
    if (!mkdtemp(pattern.data()))
      throw PtxasError("no folder for temporary files: " + pattern + ": " + std::strerror(errno));
    path = pattern;
  }
  ~ScratchFolder() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
  std::string file(const char *name) const { return (path / name).string(); }

private:
  fs::path path;
};

struct Outcome {
  int status; // exit status, or 128 + signal
  std::string output;
};
} // namespace

static std::string readFile(const std::string &path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// Runs the program, both its outputs into `log`, and waits for it.
static Outcome run(const std::vector<std::string> &command, const std::string &log) {
  std::vector<char *> arguments;
  for (const std::string &word : command)
    arguments.push_back(const_cast<char *>(word.c_str()));
  arguments.push_back(nullptr);

  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&files, 1, log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  posix_spawn_file_actions_adddup2(&files, 1, 2);
  pid_t child = 0;
  int error = posix_spawn(&child, arguments[0], &files, nullptr, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&files);
  if (error)
    throw PtxasError(command[0] + " could not be run: " + std::strerror(error));

  int status = 0;
  while (waitpid(child, &status, 0) < 0)
    if (errno != EINTR)
      throw PtxasError(command[0] + " could not be waited for: " + std::strerror(errno));
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), readFile(log)};
}

static bool isProgram(const std::string &path) {
  std::error_code ignored;
  return fs::is_regular_file(path, ignored) && access(path.c_str(), X_OK) == 0;
}

std::string findPtxas() {
  if (const char *chosen = std::getenv("BITLOOM_PTXAS"); chosen && *chosen) {
    if (!isProgram(chosen))
      throw UserError("BITLOOM_PTXAS: expected the path of a program, got '" + std::string(chosen) + "'");
    return chosen;
  }
  const char *variable = std::getenv("PATH");
  std::string path = variable ? variable : "";
  for (size_t at = 0; at < path.size();) {
    size_t colon = std::min(path.find(':', at), path.size());
    std::string candidate = path.substr(at, colon - at) + "/ptxas";
    if (colon > at && isProgram(candidate))
      return candidate;
    at = colon + 1;
  }
  const std::string usual = "/usr/local/cuda/bin/ptxas";
  return isProgram(usual) ? usual : "";
}

std::string ptxasStamp() {
  const std::string program = findPtxas();
  struct stat facts{};
  if (program.empty() || stat(program.c_str(), &facts) != 0)
    return "";
  return program + " " + std::to_string(facts.st_size) + " " + std::to_string(facts.st_mtim.tv_sec) + " " +
         std::to_string(facts.st_mtim.tv_nsec);
}

std::string ptxasVersion() {
  const std::string stamp = ptxasStamp();
  if (stamp.empty())
    return "";
  static std::mutex mutex;
  static auto &known = *new std::map<std::string, std::string>; // by stamp: running it takes longer than loading code
  std::lock_guard lock(mutex);
  auto [entry, fresh] = known.try_emplace(stamp);
  if (fresh) {
    ScratchFolder scratch;
    const std::string text = run({findPtxas(), "--version"}, scratch.file("log")).output;
    std::smatch match; // "Cuda compilation tools, release 13.0, V13.0.88"
    entry->second = std::regex_search(text, match, std::regex("release [0-9.]+, V([0-9.]+)")) ? match[1].str() : text;
  }
  return entry->second;
}

const KernelResources *Cubin::find(std::string_view kernel) const {
  for (const KernelResources &resources : kernels)
    if (resources.name == kernel)
      return &resources;
  return nullptr;
}

// The report, shortened:
//   ptxas info    : Compiling entry function 'add' for 'sm_90a'
//   ptxas info    : Function properties for add
//       8 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads
//   ptxas info    : Used 12 registers, used 1 barriers, 8 bytes cumulative stack size, 16 bytes smem
std::vector<KernelResources> parsePtxasReport(std::string_view report) {
  std::vector<KernelResources> kernels;
  auto numberBefore = [](const std::string &line, const char *words, int &number) {
    std::smatch match;
    if (std::regex_search(line, match, std::regex("([0-9]+) " + std::string(words))))
      number = std::stoi(match[1]);
  };
  bool ofEntry = false; // device functions have properties too
  for (size_t at = 0; at < report.size();) {
    size_t end = std::min(report.find('\n', at), report.size());
    const std::string line(report.substr(at, end - at));
    at = end + 1;
    std::smatch match;
    if (std::regex_search(line, match, std::regex("Compiling entry function '([^']*)'"))) {
      kernels.push_back({.name = match[1]});
    } else if (kernels.empty()) {
      continue;
    } else if (std::regex_search(line, match, std::regex("Function properties for (\\S+)"))) {
      ofEntry = match[1] == kernels.back().name;
    } else if (line.find("bytes stack frame") != line.npos && ofEntry) {
      numberBefore(line, "bytes stack frame", kernels.back().stackBytes);
      numberBefore(line, "bytes spill stores", kernels.back().spillStoreBytes);
      numberBefore(line, "bytes spill loads", kernels.back().spillLoadBytes);
    } else if (line.find(": Used ") != line.npos) {
      numberBefore(line, "registers", kernels.back().registers);
      numberBefore(line, "barriers", kernels.back().barriers);
      numberBefore(line, "bytes smem", kernels.back().sharedBytes);
    }
  }
  return kernels;
}

std::optional<Cubin> assemblePtx(const std::string &ptx, const PtxasOptions &options) {
  const std::string program = findPtxas();
  if (program.empty())
    return std::nullopt;
  ScratchFolder scratch;
  const std::string input = scratch.file("kernel.ptx"), output = scratch.file("kernel.cubin");
  std::ofstream text(input, std::ios::binary);
  text << ptx;
  text.close();
  if (!text)
    throw PtxasError("temporary file could not be written: " + input);

  std::vector<std::string> command = {program, "-v", "-arch=" + options.cpu};
  if (options.fewerPasses) // says by itself how much to optimise
    command.push_back("--Ofast-compile=min");
  else
    command.push_back("-O" + std::to_string(options.optimization));
  if (options.maxRegisters > 0)
    command.push_back("-maxrregcount=" + std::to_string(options.maxRegisters));
  if (options.registerUsage >= 0)
    command.push_back("--register-usage-level=" + std::to_string(options.registerUsage));
  if (options.lineInfo)
    command.push_back("-lineinfo");
  command.insert(command.end(), {input, "-o", output});

  Outcome outcome = run(command, scratch.file("log"));
  // Temporary paths mean nothing to a reader, and would make two reports of the same text differ.
  for (size_t at; (at = outcome.output.find(input)) != std::string::npos;)
    outcome.output.replace(at, input.size(), "kernel.ptx");
  if (outcome.status != 0)
    throw PtxasError("ptxas -arch=" + options.cpu + " failed with status " + std::to_string(outcome.status) + ":\n" +
                     outcome.output);
  Cubin cubin{.bytes = readFile(output), .kernels = parsePtxasReport(outcome.output), .log = outcome.output};
  if (cubin.bytes.empty())
    throw PtxasError("ptxas -arch=" + options.cpu + " wrote nothing:\n" + outcome.output);
  return cubin;
}

} // namespace bitloom
