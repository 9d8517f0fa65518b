#include "bitloom/lowering/Reproducer.h"

#include "bitloom/lib/support/Error.h"
#include "bitloom/lib/support/Sha256.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

namespace bitloom {

static constexpr std::string_view firstLine = "// bitloom reproducer";
static constexpr std::string_view targetKey = "// target: ", stageKey = "// stage: ", messageKey = "// message: ";

static std::filesystem::path directory() {
  if (const char *named = std::getenv("BITLOOM_REPRODUCER_DIR"); named && *named)
    return named;
  std::error_code none;
  std::filesystem::path temporary = std::filesystem::temp_directory_path(none);
  return none ? "." : temporary;
}

std::string saveReproducer(const Program &program, const Target &target, std::string_view stage,
                           std::string_view message) {
  std::ostringstream out;
  out << firstLine << "\n" << targetKey << target.name << "\n" << stageKey << stage << "\n";
  std::istringstream lines{std::string(message)};
  for (std::string line; std::getline(lines, line);)
    out << messageKey << line << "\n";
  std::string body = program.print(/*locations=*/true);
  std::string name = "bitloom-" + hexOf(contentKey({target.name, stage, body})).substr(0, 16) + ".mlir";

  std::error_code failed;
  std::filesystem::create_directories(directory(), failed);
  std::filesystem::path file = directory() / name;
  out << "// replay: bitloom replay " << file.string() << "\n" << body;
  std::ofstream stream(file, std::ios::binary);
  stream << out.str();
  return stream.flush() ? file.string() : "";
}

Reproducer readReproducer(const std::string &file) {
  std::ifstream stream(file, std::ios::binary);
  if (!stream)
    throw UserError("expected a readable file, got '" + file + "'");
  std::string line;
  if (!std::getline(stream, line) || line != firstLine)
    throw UserError("expected a file that starts with '" + std::string(firstLine) + "', got '" + file + "'");
  std::string targetName;
  Reproducer found;
  std::ostringstream body;
  while (std::getline(stream, line)) {
    if (line.starts_with(targetKey))
      targetName = line.substr(targetKey.size());
    if (line.starts_with(stageKey))
      found.stage = line.substr(stageKey.size());
    body << line << "\n"; // the header is comments
  }
  found.target = parseTarget(targetName);
  found.text = body.str();
  return found;
}

} // namespace bitloom
