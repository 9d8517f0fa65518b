#include "bitloom/lib/support/Error.h"

namespace bitloom {

static std::string locate(SourceLocation where, const std::string &message) {
  return where.known() ? std::string(where.file) + ":" + std::to_string(where.line) + ": error: " + message : message;
}

UserError::UserError(SourceLocation location, const std::string &message)
    : std::runtime_error(locate(location, message)), where(location), text(message) {}

static std::string bugReport(const std::string &message, const std::string &reproducer) {
  std::string text = "internal compiler error: " + message +
                     "\nthis is a bug in bitloom, please report it at https://github.com/bitloom/bitloom/issues";
  if (!reproducer.empty())
    text += "\nreproducer saved: bitloom replay " + reproducer;
  return text;
}

InternalError::InternalError(const std::string &message, const std::string &reproducer)
    : std::runtime_error(bugReport(message, reproducer)), file(reproducer) {}

} // namespace bitloom
