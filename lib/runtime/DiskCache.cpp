#include "bitloom/lib/runtime/DiskCache.h"

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace bitloom {

// What an entry begins with. Numbers are in the order of this machine's bytes: elsewhere the magic reads differently.
struct EntryHeader {
  std::uint64_t magic = 0x0045'4843'4143'4c42; // "BLCACHE\0" on little-endian machines
  std::uint32_t version = 1;
  std::uint32_t headerBytes = sizeof(EntryHeader);
  std::uint64_t payloadBytes = 0;
  Digest key{};
  Digest payloadDigest{};
};
static_assert(sizeof(EntryHeader) == 88);

static EntryHeader headerFor(const Digest &key, std::string_view bytes) {
  EntryHeader header;
  header.payloadBytes = bytes.size();
  header.key = key;
  header.payloadDigest = sha256(bytes);
  return header;
}

// The whole file; none when it cannot be read.
static std::optional<std::string> readFile(const std::string &path) {
  int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0)
    return std::nullopt;
  struct stat facts;
  bool whole = fstat(file, &facts) == 0 && S_ISREG(facts.st_mode);
  std::string bytes(whole ? size_t(facts.st_size) : 0, '\0');
  for (size_t done = 0; whole && done < bytes.size();) {
    ssize_t got = read(file, bytes.data() + done, bytes.size() - done);
    if (got < 0 && errno == EINTR)
      continue;
    if (got <= 0)
      whole = false;
    else
      done += size_t(got);
  }
  close(file);
  return whole ? std::optional(std::move(bytes)) : std::nullopt;
}

static bool writeAll(int file, std::string_view bytes) {
  while (!bytes.empty()) {
    ssize_t written = write(file, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR)
      continue;
    if (written <= 0)
      return false;
    bytes.remove_prefix(size_t(written));
  }
  return true;
}

// Makes the directory and those above it, for this user alone.
static void makeDirectories(const std::string &path) {
  for (size_t slash = path.find('/', 1);; slash = path.find('/', slash + 1)) {
    mkdir(path.substr(0, slash).c_str(), 0700);
    if (slash == path.npos)
      return;
  }
}

std::string DiskCache::fileOf(const Digest &key) const {
  std::string hex = hexOf(key);
  return root + "/" + hex.substr(0, 2) + "/" + hex.substr(2);
}

std::optional<std::string> DiskCache::get(const Digest &key) const {
  if (root.empty())
    return std::nullopt;
  const std::string path = fileOf(key);
  std::optional<std::string> file = readFile(path);
  if (!file)
    return std::nullopt;
  if (file->size() >= sizeof(EntryHeader)) {
    std::string_view payload = std::string_view(*file).substr(sizeof(EntryHeader));
    EntryHeader expected = headerFor(key, payload);
    if (std::memcmp(file->data(), &expected, sizeof expected) == 0)
      return std::string(payload);
  }
  unlink(path.c_str());
  return std::nullopt;
}

bool DiskCache::put(const Digest &key, std::string_view bytes) const {
  if (root.empty())
    return false;
  static std::atomic<unsigned> count{0};
  const std::string path = fileOf(key);
  const std::string temporary = path + "." + std::to_string(getpid()) + "." + std::to_string(count++) + ".tmp";
  auto create = [&] { return open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600); };
  int file = create();
  if (file < 0 && errno == ENOENT) {
    makeDirectories(path.substr(0, path.rfind('/')));
    file = create();
  }
  if (file < 0 && errno == EEXIST) { // left by a process of the same number that died
    unlink(temporary.c_str());
    file = create();
  }
  if (file < 0)
    return false;
  EntryHeader header = headerFor(key, bytes);
  bool written = writeAll(file, {reinterpret_cast<const char *>(&header), sizeof header}) && writeAll(file, bytes);
  written = close(file) == 0 && written;
  if (written && rename(temporary.c_str(), path.c_str()) == 0)
    return true;
  unlink(temporary.c_str());
  return false;
}

std::string DiskCache::directoryFromEnvironment() {
  auto variable = [](const char *name) {
    const char *value = std::getenv(name);
    return std::string(value ? value : "");
  };
  if (variable("BITLOOM_CACHE") == "0")
    return "";
  if (std::string directory = variable("BITLOOM_CACHE_DIR"); !directory.empty())
    return directory;
  if (std::string base = variable("XDG_CACHE_HOME"); !base.empty())
    return base + "/bitloom";
  if (std::string home = variable("HOME"); !home.empty())
    return home + "/.cache/bitloom";
  return "";
}

const DiskCache &diskCache() {
  static const DiskCache cache(DiskCache::directoryFromEnvironment());
  return cache;
}

} // namespace bitloom
