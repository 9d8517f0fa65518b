// Configurations that were measured (dsl/Tune.h), and that calls take in place of their defaults.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

namespace bitloom {

// What a configuration is for: a call takes it where all of this is its own.
struct TunedKey {
  std::string kernel, variant;          // a row's name, and that of a variant (nameOf)
  std::string target;                   // the canonical name
  int multiprocessors = 0;              // of the GPU; 0: a CPU
  std::map<std::string, int64_t> sizes; // names of extents, and Meta parameters that are not tuned
  auto operator<=>(const TunedKey &) const = default;
};

struct TunedConfiguration {
  std::map<std::string, int64_t> metas;           // all that are tuned
  double milliseconds = 0, usualMilliseconds = 0; // of a call, so and by default
  bool operator==(const TunedConfiguration &) const = default;
};

class TunedTable {
public:
  // The inverse of text(): JSON, a row a line. Throws UserError for anything else, and for a table of another version.
  static TunedTable parse(std::string_view text);
  std::string text() const;

  const TunedConfiguration *find(const TunedKey &key) const;
  void put(TunedKey key, TunedConfiguration configuration) { rows[std::move(key)] = std::move(configuration); }
  void putAll(const TunedTable &newer);
  size_t size() const { return rows.size(); }

private:
  std::map<TunedKey, TunedConfiguration> rows;
};

// Of this process: the table of the file $BITLOOM_TUNED, and before it the user's own, tuned.json in the directory of
// the cache (lib/runtime/DiskCache.h). Both are read once, at the first question. A damaged table of the user is none;
// UserError for one that $BITLOOM_TUNED names and that cannot be read.
bool anythingTuned();
std::optional<TunedConfiguration> tunedFor(const TunedKey &key);

// Where rows are kept that no file is named for; empty where nothing is cached.
std::string usersTunedTable();
// Adds the rows to those of a file, which is replaced at once, and to this process's. UserError: it is no such table,
// or cannot be written.
void keepTuned(const TunedTable &rows, const std::string &file);

} // namespace bitloom
