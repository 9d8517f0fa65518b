#include "bitloom/lib/runtime/DiskCache.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>

#include <sys/wait.h>
#include <unistd.h>

using namespace bitloom;
namespace fs = std::filesystem;

namespace {
class DiskCacheTest : public testing::Test {
protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "bitloom-cache-XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    scratch = pattern;
  }
  void TearDown() override {
    fs::permissions(scratch, fs::perms::owner_all);
    fs::remove_all(scratch);
  }

  size_t filesIn(const fs::path &directory) {
    size_t count = 0;
    for (auto &entry : fs::recursive_directory_iterator(directory))
      count += entry.is_regular_file();
    return count;
  }

  fs::path scratch;
  Digest key = contentKey({"module", "x86-64-v3"}), other = contentKey({"module", "x86-64-v4"});
};
} // namespace

static std::string read(const std::string &path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}
static void write(const std::string &path, const std::string &bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

TEST_F(DiskCacheTest, GivesBackWhatWasPut) {
  DiskCache cache((scratch / "not/yet/there").string());
  EXPECT_EQ(cache.get(key), std::nullopt);
  for (size_t size : {0, 1, 17, 4097, 1 << 20}) {
    std::string bytes(size, '\0');
    for (size_t i = 0; i < size; ++i)
      bytes[i] = char(i * 31 >> 3);
    EXPECT_TRUE(cache.put(key, bytes));
    EXPECT_EQ(cache.get(key), bytes);
  }
  EXPECT_EQ(cache.get(other), std::nullopt);
  EXPECT_EQ(filesIn(scratch), 1u); // replaced, and nothing temporary left
}

TEST_F(DiskCacheTest, DamagedEntriesAreMissesAndRemoved) {
  DiskCache cache(scratch.string());
  ASSERT_TRUE(cache.put(key, "machine code"));
  const std::string path = cache.fileOf(key), good = read(path);
  ASSERT_EQ(cache.get(key), "machine code");

  auto expectMiss = [&](const std::string &what, const std::string &bytes) {
    write(path, bytes);
    EXPECT_EQ(cache.get(key), std::nullopt) << what;
    EXPECT_FALSE(fs::exists(path)) << what;
    EXPECT_TRUE(cache.put(key, "machine code")) << what;
    EXPECT_EQ(cache.get(key), "machine code") << what;
  };
  for (size_t at = 0; at < good.size(); ++at) {
    std::string bytes = good;
    bytes[at] ^= 1;
    expectMiss("bit flipped in byte " + std::to_string(at), bytes);
    expectMiss("cut to " + std::to_string(at) + " bytes", good.substr(0, at));
  }
  expectMiss("one byte more", good + "x");
  expectMiss("foreign", "#!/bin/sh\nexit 0\n" + std::string(200, '\n'));
  expectMiss("zeros, as after a crash", std::string(good.size(), '\0'));
}

TEST_F(DiskCacheTest, AnEntryOfAnotherKeyIsAMiss) {
  DiskCache cache(scratch.string());
  ASSERT_TRUE(cache.put(key, "for v3"));
  ASSERT_TRUE(cache.put(other, "for v4"));
  fs::copy_file(cache.fileOf(other), cache.fileOf(key), fs::copy_options::overwrite_existing);
  EXPECT_EQ(cache.get(key), std::nullopt);
  EXPECT_EQ(cache.get(other), "for v4");
}

TEST_F(DiskCacheTest, UnusableDirectoriesKeepNothing) {
  write((scratch / "file").string(), "in the way");
  for (std::string directory :
       {(scratch / "file").string(), (scratch / "file/below").string(), std::string("/proc/none"), std::string()}) {
    DiskCache cache(directory);
    EXPECT_FALSE(cache.put(key, "bytes")) << directory;
    EXPECT_EQ(cache.get(key), std::nullopt) << directory;
  }
  if (geteuid() != 0) { // root writes everywhere
    fs::permissions(scratch, fs::perms::owner_read | fs::perms::owner_exec);
    EXPECT_FALSE(DiskCache(scratch.string()).put(key, "bytes"));
  }
  DiskCache cache(scratch.string());
  fs::permissions(scratch, fs::perms::owner_all);
  fs::create_directories(cache.fileOf(key)); // a directory in an entry's place
  EXPECT_EQ(cache.get(key), std::nullopt);
  EXPECT_FALSE(cache.put(key, "bytes"));
}

// Writers of different contents under one key, readers beside them: only whole entries are ever seen.
TEST_F(DiskCacheTest, ManyProcessesShareIt) {
  DiskCache cache(scratch.string());
  std::vector<pid_t> children;
  for (int child = 0; child < 4; ++child) {
    pid_t pid = fork();
    if (pid == 0) {
      int wrong = 0;
      for (int i = 0; i < 200; ++i) {
        wrong += !cache.put(key, std::string(1000 + 500 * child, char('a' + child)));
        std::optional<std::string> got = cache.get(key);
        wrong += !got || got->size() != size_t(1000 + 500 * ((*got)[0] - 'a')) ||
                 got->find_first_not_of((*got)[0]) != std::string::npos;
      }
      _exit(wrong ? 1 : 0);
    }
    children.push_back(pid);
  }
  for (pid_t child : children) {
    int status = -1;
    waitpid(child, &status, 0);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  }
  EXPECT_EQ(filesIn(scratch), 1u);
}

TEST_F(DiskCacheTest, TheEnvironmentNamesTheDirectory) {
  auto with = [](const char *name, const char *value) { value ? setenv(name, value, 1) : unsetenv(name); };
  auto saved = [](const char *name) {
    const char *value = std::getenv(name);
    return value ? std::optional<std::string>(value) : std::nullopt;
  };
  const char *names[] = {"BITLOOM_CACHE", "BITLOOM_CACHE_DIR", "XDG_CACHE_HOME", "HOME"};
  std::vector<std::optional<std::string>> before;
  for (const char *name : names)
    before.push_back(saved(name));

  with("BITLOOM_CACHE", nullptr), with("BITLOOM_CACHE_DIR", "/a"), with("XDG_CACHE_HOME", "/b"), with("HOME", "/c");
  EXPECT_EQ(DiskCache::directoryFromEnvironment(), "/a");
  with("BITLOOM_CACHE_DIR", nullptr);
  EXPECT_EQ(DiskCache::directoryFromEnvironment(), "/b/bitloom");
  with("XDG_CACHE_HOME", "");
  EXPECT_EQ(DiskCache::directoryFromEnvironment(), "/c/.cache/bitloom");
  with("BITLOOM_CACHE", "0");
  EXPECT_EQ(DiskCache::directoryFromEnvironment(), "");
  with("BITLOOM_CACHE", "1"), with("HOME", nullptr);
  EXPECT_EQ(DiskCache::directoryFromEnvironment(), "");

  for (size_t i = 0; i < before.size(); ++i)
    with(names[i], before[i] ? before[i]->c_str() : nullptr);
}
