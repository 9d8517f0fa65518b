// Machine code kept on disk by the digest of all that determines it. Nothing in it is needed: any entry may vanish.
#pragma once

#include "bitloom/lib/support/Sha256.h"

#include <optional>
#include <string>
#include <string_view>

namespace bitloom {

// One file an entry, written beside its place and renamed into it: a reader, in any process, sees a whole entry or
// none.
class DiskCache {
public:
  // Entries lie in `directory`, made when first written to; with an empty one nothing is kept.
  explicit DiskCache(std::string directory) : root(std::move(directory)) {}

  // The bytes put under `key`. An entry that is damaged, of another format, or of another key is removed, and none.
  std::optional<std::string> get(const Digest &key) const;

  // Whether the bytes were kept; false, with no harm, where the directory cannot be written or the disk is full.
  bool put(const Digest &key, std::string_view bytes) const;

  const std::string &directory() const { return root; }
  std::string fileOf(const Digest &key) const; // directory/ab/cdef…: two digits, the other 62

  // $BITLOOM_CACHE_DIR, else $XDG_CACHE_HOME/bitloom, else ~/.cache/bitloom; empty with BITLOOM_CACHE=0 or no home.
  static std::string directoryFromEnvironment();

private:
  std::string root;
};

// The cache of the process; reads the environment at the first call.
const DiskCache &diskCache();

} // namespace bitloom
