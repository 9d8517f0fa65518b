#include "bitloom/tools/Arguments.h"

#include "bitloom/lib/support/Expression.h"
#include "bitloom/lib/support/Suggest.h"

#include <algorithm>
#include <charconv>

namespace bitloom::tools {

static bool isAssignment(std::string_view word) {
  size_t equals = word.find('=');
  return equals != word.npos && isName(word.substr(0, equals));
}

Arguments::Arguments(const Command &command, std::span<const std::string> given) {
  bool options = true;
  for (size_t i = 0; i < given.size(); ++i) {
    const std::string &word = given[i];
    if (!options || word.size() < 2 || word[0] != '-') {
      words.push_back(word);
      continue;
    }
    if (word == "--") {
      options = false;
      continue;
    }
    size_t equals = word.find('=');
    std::string name = word.substr(0, equals);
    auto option = std::ranges::find(command.options, name, &Option::name);
    if (option == command.options.end()) {
      std::vector<std::string> names;
      for (const Option &known : command.options)
        names.push_back(known.name);
      throw UsageError("unknown option '" + name + "'" +
                       (names.empty() ? ": " + command.name + " takes none" : expectedOneOf(name, names)));
    }
    std::vector<std::string> &values = this->given[name];
    if (option->value.empty()) {
      if (equals != word.npos)
        throw UsageError("option " + name + ": expected no value, got '" + word.substr(equals + 1) + "'");
      continue;
    }
    if (equals != word.npos)
      values.push_back(word.substr(equals + 1));
    else if (i + 1 < given.size() && !given[i + 1].starts_with("--"))
      values.push_back(given[++i]);
    else
      throw UsageError("option " + name + ": expected " + option->value + ", got nothing");
    if (!option->assignments && values.size() > 1)
      throw UsageError("option " + name + ": expected it once, got '" + values[0] + "' and '" + values[1] + "'");
    while (option->assignments && i + 1 < given.size() && isAssignment(given[i + 1]))
      values.push_back(given[++i]);
  }
  if (words.size() < command.leastOperands)
    throw UsageError("expected " + command.operands + ", got " +
                     (words.empty() ? "nothing" : "'" + words.back() + "'"));
  if (words.size() > command.mostOperands)
    throw UsageError(command.mostOperands == 0
                         ? "expected options alone, got '" + words[0] + "'"
                         : "expected " + command.operands + " alone, got '" + words[command.mostOperands] + "' too");
}

std::vector<std::string> Arguments::values(std::string_view option) const {
  auto found = given.find(std::string(option));
  return found == given.end() ? std::vector<std::string>() : found->second;
}

std::string Arguments::value(std::string_view option, std::string_view otherwise) const {
  std::vector<std::string> all = values(option);
  return all.empty() ? std::string(otherwise) : all.back();
}

int64_t Arguments::number(std::string_view option, int64_t otherwise, int64_t least, int64_t most) const {
  if (!has(option))
    return otherwise;
  std::string text = value(option);
  int64_t number = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || number < least || number > most)
    throw UsageError("option " + std::string(option) + ": expected a number from " + std::to_string(least) + " to " +
                     std::to_string(most) + ", got '" + text + "'");
  return number;
}

std::map<std::string, std::string> parseAssignments(std::string_view text) {
  std::map<std::string, std::string> all;
  while (!text.empty()) {
    size_t end = std::min(text.find_first_of(" ,"), text.size());
    std::string_view piece = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (piece.empty())
      continue;
    if (!isAssignment(piece) || piece.back() == '=')
      throw UsageError("expected NAME=NUMBER, got '" + std::string(piece) + "'");
    size_t equals = piece.find('=');
    all[std::string(piece.substr(0, equals))] = piece.substr(equals + 1);
  }
  return all;
}

std::map<std::string, std::string> Arguments::assignments(std::string_view option) const {
  std::map<std::string, std::string> all;
  for (const std::string &text : values(option))
    for (auto &[name, value] : parseAssignments(text))
      all[name] = value;
  return all;
}

std::string helpOf(const Command &command) {
  std::string text = "usage: bitloom " + command.name;
  if (!command.operands.empty())
    text += " " + command.operands;
  if (!command.options.empty())
    text += " [OPTION...]";
  text += "\n\n" + command.summary + "\n";
  if (!command.description.empty())
    text += "\n" + command.description;
  if (command.options.empty())
    return text;
  std::vector<std::string> heads;
  size_t width = 0;
  for (const Option &option : command.options) {
    heads.push_back(option.name + (option.value.empty() ? "" : " " + option.value));
    width = std::max(width, heads.back().size());
  }
  text += "\nOptions:\n";
  for (size_t i = 0; i < heads.size(); ++i) {
    std::string indent(width + 4, ' ');
    text += "  " + heads[i] + std::string(width - heads[i].size() + 2, ' ');
    for (char c : command.options[i].help)
      text += c == '\n' ? "\n" + indent : std::string(1, c);
    text += "\n";
  }
  return text;
}

} // namespace bitloom::tools
