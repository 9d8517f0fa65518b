// Kernels written by hand for tests of the emulator. ptxas reads each as well where there is one: what the emulator is
// tested with is PTX.
#pragma once

#include "bitloom/lib/runtime/Ptxas.h"
#include "bitloom/lib/runtime/TensorMap.h"
#include "bitloom/tests/emulator/PtxEmulator.h"

#include <gtest/gtest.h>

#include <vector>

namespace bitloom {

struct Kernel {
  std::string body;
  int threads = 32, words = 1, maps = 0;
  std::string directives = "";
  std::vector<std::pair<void *, size_t>> memory = {}; // that it may touch: see give()
  std::pair<void *, size_t> watched = {};             // by which blocks pass each other values

  // The words are in %w0, %w1, …, the address of dynamic shared memory in %mem, the thread's number in %tid.
  std::string text() const {
    std::string parameters, loads;
    for (int k = 0; k < words; ++k) {
      std::string name = "k_param_" + std::to_string(k);
      parameters += (k ? ",\n.param .u64 " : ".param .u64 ") + name;
      loads += "ld.param.b64 %w" + std::to_string(k) + ", [" + name + "];\n";
    }
    for (int k = 0; k < maps; ++k)
      parameters +=
          std::string(words + k ? "," : "") + "\n.param .align 64 .b8 k_param_" + std::to_string(words + k) + "[128]";
    return ".version 8.4\n.target sm_90a\n.address_size 64\n.extern .shared .align 1024 .b8 memory[];\n"
           ".visible .entry k(\n" +
           parameters + "\n)\n.reqntid " + std::to_string(threads) + "\n" + directives +
           "\n{\n.reg .pred %p<32>;\n.reg .b16 %h<32>;\n.reg .b32 %r<512>, %mem, %thread;\n.reg .b64 %rd<64>, %w<8>;\n"
           ".reg .f32 %f<512>;\n" +
           loads + "mov.b32 %mem, memory;\nmov.u32 %thread, %tid.x;\n" + body + "\nret;\n}\n";
  }

  void run(const std::vector<int64_t> &values, int sharedBytes, std::span<const TensorMap> tensorMaps = {},
           std::array<int64_t, 3> grid = {1, 1, 1}) const {
    PtxEmulator emulator(text());
    for (auto [data, bytes] : memory)
      emulator.allow(data, bytes);
    emulator.watch(watched.first, watched.second);
    emulator.launch(values, grid, sharedBytes, tensorMaps);
  }
  void assembles() const { EXPECT_NO_THROW(assemblePtx(text(), {})) << text(); }

  // What it throws, or nothing.
  std::string complaint(const std::vector<int64_t> &values, int sharedBytes, std::span<const TensorMap> tensorMaps = {},
                        std::array<int64_t, 3> grid = {1, 1, 1}) const {
    try {
      run(values, sharedBytes, tensorMaps, grid);
    } catch (const PtxError &error) {
      return error.what();
    }
    return "";
  }

  template <class T> int64_t give(std::vector<T> &data) {
    memory.emplace_back(data.data(), data.size() * sizeof(T));
    return int64_t(data.data());
  }
};

inline std::string replaced(std::string text, const std::string &what, const std::string &by) {
  for (size_t at = 0; (at = text.find(what, at)) != std::string::npos; at += by.size())
    text.replace(at, what.size(), by);
  return text;
}

} // namespace bitloom
