#include "bitloom/lowering/Diagnostics.h"

#include "mlir/IR/BuiltinAttributes.h"
#include "llvm/Support/raw_ostream.h"

#include <mutex>
#include <set>

using namespace mlir;

namespace bitloom {

static const char *interned(StringRef name) {
  static std::mutex mutex;
  static auto &names = *new std::set<std::string>; // never destroyed: errors may outlive main
  std::lock_guard lock(mutex);
  return names.insert(name.str()).first->c_str();
}

static FileLineColLoc positionOf(Location location) {
  FileLineColLoc found;
  location->walk([&](Location inner) {
    if (!found)
      found = dyn_cast<FileLineColLoc>(inner);
    return found ? WalkResult::interrupt() : WalkResult::advance();
  });
  return found;
}

SourceLocation sourceOf(Location location) {
  SourceLocation where;
  if (FileLineColLoc position = positionOf(location)) {
    where.file = interned(position.getFilename());
    where.line = position.getLine();
  }
  return where;
}

static const char *nameOf(DiagnosticSeverity severity) {
  switch (severity) {
  case DiagnosticSeverity::Note:
    return "note";
  case DiagnosticSeverity::Warning:
    return "warning";
  case DiagnosticSeverity::Error:
    return "error";
  case DiagnosticSeverity::Remark:
    return "remark";
  }
  return "";
}

static std::string render(const Diagnostic &diagnostic) {
  std::string text;
  llvm::raw_string_ostream out(text);
  if (FileLineColLoc position = positionOf(diagnostic.getLocation()))
    out << position.getFilename().getValue() << ":" << position.getLine() << ":" << position.getColumn() << ": ";
  out << nameOf(diagnostic.getSeverity()) << ": " << diagnostic;
  return text;
}

// The file without its folders: what is said is for people.
static std::string choiceOf(const Diagnostic &diagnostic) {
  const SourceLocation where = sourceOf(diagnostic.getLocation());
  std::string text = diagnostic.str();
  if (!where.known())
    return text;
  StringRef file(where.file);
  return file.substr(file.rfind('/') + 1).str() + ":" + std::to_string(where.line) + ": " + text;
}

Diagnostics::Diagnostics(MLIRContext *context)
    : handler(context, [this](Diagnostic &diagnostic) {
        if (diagnostic.getSeverity() == DiagnosticSeverity::Remark) {
          remarks.push_back(choiceOf(diagnostic));
          return success();
        }
        std::string notes;
        for (const Diagnostic &note : diagnostic.getNotes())
          notes += "\n" + render(note);
        entries.push_back({diagnostic.getSeverity(), sourceOf(diagnostic.getLocation()), render(diagnostic),
                           diagnostic.str(), std::move(notes)});
        return success();
      }) {}

std::string Diagnostics::text() const {
  std::string all;
  for (const Entry &entry : entries)
    all += (all.empty() ? "" : "\n") + entry.text + entry.notes;
  return all;
}

UserError Diagnostics::userError(const std::string &fallback) const {
  for (size_t i = 0; i < entries.size(); ++i) {
    if (entries[i].severity != DiagnosticSeverity::Error)
      continue;
    std::string message = entries[i].message + entries[i].notes;
    for (size_t j = 0; j < entries.size(); ++j)
      if (j != i)
        message += "\n" + entries[j].text + entries[j].notes;
    return UserError(entries[i].where, message);
  }
  return UserError(fallback);
}

InternalError Diagnostics::internalError(const std::string &fallback) const {
  return InternalError(entries.empty() ? fallback : fallback + "\n" + text());
}

} // namespace bitloom
