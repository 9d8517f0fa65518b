#include "bitloom/dsl/TunedTable.h"

#include "bitloom/lib/runtime/DiskCache.h"
#include "bitloom/lib/support/Error.h"

#include "llvm/Support/JSON.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <sstream>

#include <unistd.h>

namespace bitloom {

constexpr int64_t version = 1;

//===- As text ----------------------------------------------------------------------------------------------------===//

static llvm::json::Object objectOf(const std::map<std::string, int64_t> &numbers) {
  llvm::json::Object object;
  for (const auto &[name, number] : numbers)
    object[name] = number;
  return object;
}

std::string TunedTable::text() const {
  std::string text = "{\"bitloom_tuned\": " + std::to_string(version) + ", \"rows\": [";
  const char *separator = "\n";
  for (const auto &[key, found] : rows) {
    llvm::json::Value row = llvm::json::Object{{"kernel", key.kernel},         {"variant", key.variant},
                                               {"target", key.target},         {"multiprocessors", key.multiprocessors},
                                               {"sizes", objectOf(key.sizes)}, {"metas", objectOf(found.metas)},
                                               {"ms", found.milliseconds},     {"usual_ms", found.usualMilliseconds}};
    std::string line;
    llvm::raw_string_ostream(line) << row;
    text += separator + line;
    separator = ",\n";
  }
  return text + "\n]}\n";
}

static UserError malformed(const std::string &what) { return UserError("table of tuned configurations: " + what); }

static std::map<std::string, int64_t> numbersOf(const llvm::json::Object &row, llvm::StringRef name) {
  std::map<std::string, int64_t> numbers;
  const llvm::json::Object *object = row.getObject(name);
  if (!object)
    throw malformed("expected an object '" + name.str() + "' in each row");
  for (const auto &[key, value] : *object) {
    const auto number = value.getAsInteger();
    if (!number)
      throw malformed("expected whole numbers in '" + name.str() + "'");
    numbers[key.str()] = *number;
  }
  return numbers;
}

TunedTable TunedTable::parse(std::string_view text) {
  auto parsed = llvm::json::parse(text);
  if (!parsed)
    throw malformed("expected JSON, got " + llvm::toString(parsed.takeError()));
  const llvm::json::Object *file = parsed->getAsObject();
  const auto its = file ? file->getInteger("bitloom_tuned") : std::nullopt;
  if (!its)
    throw malformed("expected an object with 'bitloom_tuned'");
  if (*its != version)
    throw malformed("expected version " + std::to_string(version) + ", got " + std::to_string(*its));
  const llvm::json::Array *rows = file->getArray("rows");
  if (!rows)
    throw malformed("expected an array 'rows'");
  TunedTable table;
  for (const llvm::json::Value &value : *rows) {
    const llvm::json::Object *row = value.getAsObject();
    if (!row)
      throw malformed("expected objects as rows");
    auto word = [&](llvm::StringRef name) {
      const auto text = row->getString(name);
      if (!text)
        throw malformed("expected text '" + name.str() + "' in each row");
      return text->str();
    };
    TunedKey key{word("kernel"), word("variant"), word("target"), int(row->getInteger("multiprocessors").value_or(0)),
                 numbersOf(*row, "sizes")};
    table.put(std::move(key),
              {numbersOf(*row, "metas"), row->getNumber("ms").value_or(0), row->getNumber("usual_ms").value_or(0)});
  }
  return table;
}

const TunedConfiguration *TunedTable::find(const TunedKey &key) const {
  auto found = rows.find(key);
  return found == rows.end() ? nullptr : &found->second;
}

void TunedTable::putAll(const TunedTable &newer) {
  for (const auto &[key, configuration] : newer.rows)
    put(key, configuration);
}

//===- In files ---------------------------------------------------------------------------------------------------===//

static std::optional<std::string> contentsOf(const std::string &file) {
  std::ifstream stream(file, std::ios::binary);
  std::ostringstream text;
  if (!stream || !(text << stream.rdbuf()))
    return std::nullopt;
  return text.str();
}

std::string usersTunedTable() {
  const std::string directory = diskCache().directory();
  return directory.empty() ? "" : directory + "/tuned.json";
}

static std::mutex mutex;

// Under the mutex.
static TunedTable &own() {
  static TunedTable table = [] {
    TunedTable all;
    if (const char *file = std::getenv("BITLOOM_TUNED"); file && *file) {
      auto text = contentsOf(file);
      if (!text)
        throw UserError("$BITLOOM_TUNED: expected a file that can be read, got '" + std::string(file) + "'");
      all = TunedTable::parse(*text);
    }
    if (auto text = contentsOf(usersTunedTable()))
      try {
        all.putAll(TunedTable::parse(*text));
      } catch (const UserError &) { // as if it were not there
      }
    return all;
  }();
  return table;
}

bool anythingTuned() {
  std::lock_guard lock(mutex);
  return own().size() > 0;
}

std::optional<TunedConfiguration> tunedFor(const TunedKey &key) {
  std::lock_guard lock(mutex);
  const TunedConfiguration *found = own().find(key);
  return found ? std::optional(*found) : std::nullopt;
}

void keepTuned(const TunedTable &rows, const std::string &file) {
  namespace fs = std::filesystem;
  std::lock_guard lock(mutex);
  TunedTable all;
  if (auto text = contentsOf(file))
    try {
      all = TunedTable::parse(*text);
    } catch (const UserError &) {
      if (file != usersTunedTable())
        throw;
    }
  all.putAll(rows);
  std::error_code ignored;
  if (const fs::path folder = fs::path(file).parent_path(); !folder.empty())
    fs::create_directories(folder, ignored);
  const std::string beside = file + "." + std::to_string(getpid());
  std::error_code error;
  if (std::ofstream stream(beside, std::ios::binary); !(stream << all.text() << std::flush))
    error = std::make_error_code(std::errc::io_error);
  if (!error)
    fs::rename(beside, file, error);
  if (error) {
    fs::remove(beside, ignored);
    throw UserError("expected a file that can be written for tuned configurations, got '" + file + "'");
  }
  own().putAll(rows);
}

} // namespace bitloom
