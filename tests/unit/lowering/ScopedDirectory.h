// A fresh directory, named by an environment variable while it lives.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>

struct ScopedDirectory {
  explicit ScopedDirectory(const char *variable) : variable(variable) {
    std::string pattern = (std::filesystem::temp_directory_path() / "bitloom-test-XXXXXX").string();
    path = mkdtemp(pattern.data());
    setenv(variable, path.c_str(), 1);
  }
  ~ScopedDirectory() {
    unsetenv(variable);
    std::filesystem::remove_all(path);
  }
  ScopedDirectory(const ScopedDirectory &) = delete;
  const char *variable;
  std::filesystem::path path;
};
