#include "bitloom/tools/Process.h"

#include "bitloom/lib/support/Error.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

namespace bitloom::tools {

namespace fs = std::filesystem;

std::string findProgram(const std::vector<std::string> &names, const std::vector<std::string> &folders) {
  std::vector<std::string> places;
  const char *path = std::getenv("PATH");
  std::stringstream list(path ? path : "");
  for (std::string folder; std::getline(list, folder, ':');)
    places.push_back(folder);
  places.insert(places.end(), folders.begin(), folders.end());
  for (const std::string &name : names)
    for (const std::string &place : places) {
      std::string candidate = place + "/" + name;
      if (access(candidate.c_str(), X_OK) == 0 && fs::is_regular_file(candidate))
        return candidate;
    }
  return "";
}

Finished runProgram(const std::vector<std::string> &words) {
  auto fail = [&](const char *step, int error) {
    throw InternalError("could not run " + words[0] + ": " + step + ": " + std::strerror(error));
  };
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0)
    fail("pipe", errno);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, ends[1], 1);
  posix_spawn_file_actions_adddup2(&actions, ends[1], 2);
  std::vector<char *> argv;
  for (const std::string &word : words)
    argv.push_back(const_cast<char *>(word.c_str()));
  argv.push_back(nullptr);
  pid_t child = 0;
  int error = posix_spawn(&child, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  close(ends[1]);
  if (error != 0) {
    close(ends[0]);
    fail("spawn", error);
  }
  Finished finished;
  char buffer[1 << 14];
  for (;;) {
    ssize_t got = read(ends[0], buffer, sizeof buffer);
    if (got < 0 && errno == EINTR)
      continue;
    if (got <= 0)
      break;
    finished.output.append(buffer, size_t(got));
  }
  close(ends[0]);
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  finished.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return finished;
}

TemporaryFolder::TemporaryFolder() {
  folder = (fs::temp_directory_path() / "bitloom-XXXXXX").string();
  if (!mkdtemp(folder.data()))
    throw UserError("could not make a folder in " + fs::temp_directory_path().string() + ": " + std::strerror(errno));
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  fs::remove_all(folder, ignored);
}

std::string readFile(const std::string &path) {
  std::ifstream file(path, std::ios::binary);
  if (!file)
    throw UserError("could not read '" + path + "': " + std::strerror(errno));
  std::string bytes{std::istreambuf_iterator<char>(file), {}};
  if (file.bad())
    throw UserError("could not read '" + path + "' to its end");
  return bytes;
}

void writeFile(const std::string &path, const std::string &bytes) {
  std::ofstream file(path, std::ios::binary);
  file.write(bytes.data(), std::streamsize(bytes.size()));
  file.close();
  if (!file)
    throw UserError("could not write '" + path + "': " + std::strerror(errno));
}

} // namespace bitloom::tools
