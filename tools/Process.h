// Programs that the tools call: qemu, the cross compiler, disassemblers.
#pragma once

#include <string>
#include <vector>

namespace bitloom::tools {

// The program's path: the first of `names` on $PATH or in `folders`; empty when there is none.
std::string findProgram(const std::vector<std::string> &names, const std::vector<std::string> &folders = {});

struct Finished {
  int status = 0;     // the exit code, or 128 + the signal that ended it
  std::string output; // of stdout and stderr together
};
// Runs a program to its end, its standard input empty. words[0] is its path. InternalError: it cannot be started.
Finished runProgram(const std::vector<std::string> &words);

// A new folder under that of temporary files, removed at the end of the scope with all that is in it.
class TemporaryFolder {
public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder &) = delete;
  TemporaryFolder &operator=(const TemporaryFolder &) = delete;
  const std::string &path() const { return folder; }

private:
  std::string folder;
};

// UserError: the file cannot be read or written.
std::string readFile(const std::string &path);
void writeFile(const std::string &path, const std::string &bytes);

} // namespace bitloom::tools
