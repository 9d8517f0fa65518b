// bitloom: kernels from a shell. Each subcommand is a file of its own; this one holds their table.
#include "bitloom/lib/support/Suggest.h"
#include "bitloom/tools/Commands.h"

#include <cstdio>
#include <functional>

namespace bitloom::tools {

static const std::vector<std::reference_wrapper<const Command>> &commands() {
  static const std::vector<std::reference_wrapper<const Command>> table = {
      listCommand,  inspectCommand, checkCommand,   benchCommand,  tuneCommand,
      buildCommand, packCommand,    packingCommand, replayCommand,
  };
  return table;
}

static std::string overview() {
  std::string text = "usage: bitloom COMMAND [ARGUMENT...]\n\n";
  for (const Command &command : commands())
    text += "  " + command.name + std::string(10 - command.name.size(), ' ') + command.summary + "\n";
  return text +
         "\nbitloom COMMAND --help is the page of a command. Exit codes: 0 success, 1 failure, 2 a mistake in the "
         "command line.\n";
}

static const Command &commandNamed(const std::string &name) {
  std::vector<std::string> names;
  for (const Command &command : commands()) {
    if (command.name == name)
      return command;
    names.push_back(command.name);
  }
  throw UsageError("unknown command '" + name + "'" + expectedOneOf(name, names));
}

static int run(const std::vector<std::string> &words) {
  if (words.empty()) {
    std::fputs(overview().c_str(), stderr);
    return 2;
  }
  const std::string &first = words[0];
  if (first == "--version") {
    std::puts("bitloom " BITLOOM_VERSION);
    return 0;
  }
  if (first == "--help" || first == "-h" || first == "help") {
    std::fputs((words.size() > 1 ? helpOf(commandNamed(words[1])) : overview()).c_str(), stdout);
    return 0;
  }
  const Command &command = commandNamed(first);
  std::vector<std::string> rest(words.begin() + 1, words.end());
  for (const std::string &word : rest)
    if (word == "--help" || word == "-h") {
      std::fputs(helpOf(command).c_str(), stdout);
      return 0;
    }
  return command.run(Arguments(command, rest));
}

} // namespace bitloom::tools

int main(int argc, char **argv) {
  try {
    return bitloom::tools::run({argv + 1, argv + argc});
  } catch (const bitloom::tools::UsageError &error) {
    std::fprintf(stderr, "bitloom: %s\n", error.what());
    return 2;
  } catch (const bitloom::UserError &error) {
    // "file:line: error: …" is for editors to parse: nothing goes before it
    std::fprintf(stderr, error.location().known() ? "%s\n" : "bitloom: %s\n", error.what());
    return 1;
  } catch (const std::exception &error) {
    std::fprintf(stderr, "bitloom: %s\n", error.what());
    return 1;
  }
}
