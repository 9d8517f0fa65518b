// The two kinds of failure: the user's (UserError, names the user's line) and ours (InternalError, asks for a report).
#pragma once

#include <cstdint>
#include <source_location>
#include <stdexcept>
#include <string>

namespace bitloom {

// A place in a kernel's source. `file` outlives the program (a string literal of the user's translation unit).
struct SourceLocation {
  const char *file = "";
  uint32_t line = 0;

  SourceLocation() = default;
  SourceLocation(std::source_location at) : file(at.file_name()), line(at.line()) {}
  bool known() const { return line != 0; }
};

// A mistake in what the user wrote or passed. what() reads "file:line: error: message" when the line is known,
// otherwise the bare message. Messages are lower case, say "expected …, got …", and end with no full stop.
class UserError : public std::runtime_error {
public:
  explicit UserError(const std::string &message) : UserError({}, message) {}
  UserError(SourceLocation location, const std::string &message);
  const SourceLocation &location() const { return where; }
  const std::string &message() const { return text; } // without the location

private:
  SourceLocation where;
  std::string text;
};

// A bug in bitloom. what() names the stage, says where to report it and, when one was saved, the reproducer that
// `bitloom replay FILE` runs.
class InternalError : public std::runtime_error {
public:
  explicit InternalError(const std::string &message, const std::string &reproducer = "");
  const std::string &reproducer() const { return file; } // path, empty when none was saved

private:
  std::string file;
};

} // namespace bitloom
