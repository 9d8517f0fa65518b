// The words of a command line: what a subcommand takes, and what it was given.
#pragma once

#include "bitloom/lib/support/Error.h"

#include <map>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace bitloom::tools {

// What the command line says is wrong: exit code 2.
class UsageError : public std::runtime_error {
public:
  using std::runtime_error::runtime_error;
};

// Runs `work`; what the library says of a name that came from the command line is an error of usage.
template <class Work> decltype(auto) asUsage(Work work) {
  try {
    return work();
  } catch (const UserError &error) {
    throw UsageError(error.what());
  }
}

// "--set NAME=NUMBER": `value` is what the help calls the value; empty for a flag, which takes none.
struct Option {
  std::string name;
  std::string value;
  std::string help;
  // May be given again, and takes the following words too while they read NAME=NUMBER.
  bool assignments = false;
};

class Arguments;

// A subcommand. Its help page is made from this.
struct Command {
  std::string name;
  std::string operands = {}; // as the usage line shows them: "KERNEL"
  size_t leastOperands = 0, mostOperands = 0;
  std::string summary;          // one line
  std::string description = {}; // paragraphs, each line at most 100 columns
  std::vector<Option> options = {};
  int (*run)(const Arguments &); // gives the exit code
};

class Arguments {
public:
  // Throws UsageError, with a suggestion, for an option that the command has not, a missing or surplus value, and too
  // few or too many operands. "--" ends the options.
  Arguments(const Command &command, std::span<const std::string> words);

  const std::vector<std::string> &operands() const { return words; }
  bool has(std::string_view option) const { return given.contains(std::string(option)); }
  // The last value given, or `otherwise`.
  std::string value(std::string_view option, std::string_view otherwise = "") const;
  std::vector<std::string> values(std::string_view option) const;
  // A whole number in [least, most]; UsageError for anything else.
  int64_t number(std::string_view option, int64_t otherwise, int64_t least, int64_t most) const;
  // "a=1 b=2" of every time the option was given; values may be separated by commas too. Later ones win.
  std::map<std::string, std::string> assignments(std::string_view option) const;

private:
  std::vector<std::string> words;
  std::map<std::string, std::vector<std::string>> given;
};

// The page that --help prints.
std::string helpOf(const Command &command);

// "a=1 b=2,c=3" as names and values. UsageError for a piece that is no assignment.
std::map<std::string, std::string> parseAssignments(std::string_view text);

} // namespace bitloom::tools
