#include "bitloom/lowering/Executable.h"

#include "bitloom/lib/runtime/DiskCache.h"
#include "bitloom/lib/support/Error.h"
#include "bitloom/tests/unit/lowering/Kernels.h"
#include "bitloom/tests/unit/lowering/ScopedDirectory.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>

#include <atomic>
#include <fstream>
#include <iterator>
#include <optional>
#include <thread>

#include <sys/wait.h>
#include <unistd.h>

using namespace bitloom;

namespace {

const std::string twice = "%y = arith.addf %x, %x : vector<16xf32>";

// The cache of the process reads its directory once.
struct CacheDirectory : testing::Environment {
  void SetUp() override { directory.emplace("BITLOOM_CACHE_DIR"); }
  void TearDown() override { directory.reset(); }
  std::optional<ScopedDirectory> directory;
};
auto *cache = static_cast<CacheDirectory *>(testing::AddGlobalTestEnvironment(new CacheDirectory));

std::vector<std::filesystem::path> entries() {
  std::vector<std::filesystem::path> files;
  for (auto &entry : std::filesystem::recursive_directory_iterator(cache->directory->path))
    if (entry.is_regular_file())
      files.push_back(entry.path());
  return files;
}

std::string contentOf(const std::filesystem::path &file) {
  std::ifstream stream(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

Digest keyOf(const std::filesystem::path &file) {
  std::string hex = file.parent_path().filename().string() + file.filename().string();
  Digest key;
  for (size_t i = 0; i < key.size(); ++i)
    key[i] = std::uint8_t(std::stoi(hex.substr(2 * i, 2), nullptr, 16));
  return key;
}

// x -> constant * x
Program times(int constant) {
  return Program::parse(elementwise("%c = arith.constant dense<" + std::to_string(constant) +
                                    ".0> : vector<16xf32>\n%y = arith.mulf %x, %c : vector<16xf32>"));
}

// The entry that another process leaves for the program.
std::filesystem::path builtElsewhere(const Program &program) {
  size_t before = entries().size();
  pid_t child = fork();
  if (!child) {
    build(program, hostTarget());
    _exit(0);
  }
  int status = -1;
  waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  std::vector<std::filesystem::path> files = entries();
  EXPECT_EQ(files.size(), before + 1);
  return *std::max_element(files.begin(), files.end(), [](auto &a, auto &b) {
    return std::filesystem::last_write_time(a) < std::filesystem::last_write_time(b);
  });
}

} // namespace

TEST(Executable, IsTakenFromTheDiskCache) {
  Program program = times(3);
  std::filesystem::path file = builtElsewhere(program);
  // Code that multiplies by 5, under the key of the program that multiplies by 3: what runs is what was cached.
  DiskCache(cache->directory->path).put(keyOf(file), compile(times(5), hostTarget()).serialize());
  EXPECT_EQ(run(*build(program, hostTarget()), std::vector<float>{2}), std::vector<float>{10});
  EXPECT_EQ(build(program, hostTarget()), build(times(3), hostTarget())); // the second from memory
  EXPECT_NE(build(program, hostTarget()), build(times(4), hostTarget()));
}

TEST(Executable, RebuildsWhatIsWrongInTheDiskCache) {
  MachineCode foreign = compile(times(1), hostTarget());
  foreign.image = "not an object file";
  struct {
    const char *what;
    std::function<void(const std::filesystem::path &)> spoil;
  } cases[] = {
      {"truncated", [](auto &file) { std::filesystem::resize_file(file, 100); }},
      {"empty", [](auto &file) { std::filesystem::resize_file(file, 0); }},
      {"changed", [](auto &file) { std::fstream(file, std::ios::in | std::ios::out).seekp(200).put('?').put('!'); }},
      {"another entry",
       [](auto &file) { std::ofstream(file, std::ios::binary) << contentOf(builtElsewhere(times(99))); }},
      {"of another format", [](auto &file) { DiskCache(cache->directory->path).put(keyOf(file), "0123456789"); }},
      {"no code", [&](auto &file) { DiskCache(cache->directory->path).put(keyOf(file), foreign.serialize()); }},
  };
  int constant = 10;
  for (auto &[what, spoil] : cases) {
    Program program = times(++constant);
    std::filesystem::path file = builtElsewhere(program);
    std::string good = contentOf(file);
    spoil(file);
    ASSERT_NE(contentOf(file), good) << what;
    EXPECT_EQ(run(*build(program, hostTarget()), std::vector<float>{2})[0], float(2 * constant)) << what;
    EXPECT_EQ(contentOf(file), good) << what;
  }
}

TEST(Executable, ManyThreadsBuildAtOnce) {
  std::vector<std::thread> threads;
  std::atomic<int> right{0};
  for (int i = 0; i < 8; ++i)
    threads.emplace_back([&, i] {
      // Two threads for each program: of the same one, all get one executable that works.
      std::vector<float> y = run(*build(times(1000 + i / 2), hostTarget()), std::vector<float>(199, 2.0f));
      right += y == std::vector<float>(199, 2.0f * float(1000 + i / 2));
    });
  for (std::thread &thread : threads)
    thread.join();
  EXPECT_EQ(right, 8);
}

TEST(MachineCode, SurvivesItsSerialization) {
  MachineCode code;
  code.entry = "kernel";
  code.image = std::string("\0\1\2", 3);
  code.threadsPerProgram = 256;
  code.sharedBytes = 4096;
  code.resources = KernelResources{.name = "kernel", .registers = 40, .spillLoadBytes = 8};
  std::string bytes = code.serialize();
  std::optional<MachineCode> back = MachineCode::deserialize(bytes);
  ASSERT_TRUE(back);
  EXPECT_EQ(back->entry, code.entry);
  EXPECT_EQ(back->image, code.image);
  EXPECT_EQ(back->threadsPerProgram, 256);
  EXPECT_EQ(back->sharedBytes, 4096);
  EXPECT_EQ(back->resources, code.resources);
  for (size_t size = 0; size < bytes.size(); ++size)
    EXPECT_FALSE(MachineCode::deserialize(bytes.substr(0, size))) << size;
  EXPECT_FALSE(MachineCode::deserialize(bytes + "x"));
}

TEST(Executable, LoadsOnlyWhatThisMachineRuns) {
  Target other = parseTarget(hostTarget().family == Family::Cpu_x86 ? "aarch64" : "x86-64");
  MachineCode code = compile(Program::parse(elementwise(twice)), other);
  EXPECT_THROW(Executable::load(code, other), UserError);
  code.image = "no object file";
  EXPECT_THROW(Executable::load(code, hostTarget()), InternalError);
}

TEST(Executable, NamesUnknownSymbols) {
  std::string text = "llvm.func @no_such_symbol_anywhere()\n" +
                     elementwise("llvm.call @no_such_symbol_anywhere() : () -> ()\n" + twice);
  try {
    compiled(text);
    FAIL() << "expected an InternalError";
  } catch (const InternalError &error) {
    EXPECT_TRUE(contains(error.what(), "no_such_symbol_anywhere"));
  }
}
