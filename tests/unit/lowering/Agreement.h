// Kernels as text, compiled for every CPU target that runs here and compared with the interpreter.
#pragma once

#include "bitloom/lib/dtype/DType.h"
#include "bitloom/lib/runtime/Launch.h"
#include "bitloom/lowering/Executable.h"
#include "bitloom/lowering/Interpreter.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

namespace bitloom {

inline std::string replaced(std::string text, const std::string &what, const std::string &by) {
  for (size_t at = 0; (at = text.find(what, at)) != text.npos; at += by.size())
    text.replace(at, what.size(), by);
  return text;
}

// Memory for one view: as many elements as its extents and strides reach.
struct Array {
  DType dtype;
  Dims extents, strides;
  std::vector<std::uint8_t> bytes;
  int limit; // integers are in [0, limit)

  Array(DType dtype, Dims extents, int limit = 100) : Array(dtype, extents, contiguousStrides(extents), limit) {}
  Array(DType dtype, Dims extents, Dims strides, int limit = 100)
      : dtype(dtype), extents(extents), strides(strides), limit(limit) {
    int64_t last = 0;
    for (int i = 0; i < extents.size(); ++i)
      last += (extents[i] - 1) * strides[i];
    bytes.resize(size_t(last + 1) * bytesOf(dtype));
  }
  TensorRef ref() { return TensorRef(bytes.data(), dtype, extents, strides); }

  double at(size_t i) const {
    const void *p = bytes.data() + i * bytesOf(dtype);
    switch (dtype) {
#define BITLOOM_DTYPE(name, type, bits, kind)                                                                          \
  case DType::name: {                                                                                                  \
    type value;                                                                                                        \
    std::memcpy(&value, p, sizeof value);                                                                              \
    return double(value);                                                                                              \
  }
#include "bitloom/lib/dtype/DType.def"
#undef BITLOOM_DTYPE
    }
    return 0;
  }
  void set(size_t i, double number) {
    void *p = bytes.data() + i * bytesOf(dtype);
    switch (dtype) {
#define BITLOOM_DTYPE(name, type, bits, kind)                                                                          \
  case DType::name: {                                                                                                  \
    type value = type(number);                                                                                         \
    std::memcpy(p, &value, sizeof value);                                                                              \
    break;                                                                                                             \
  }
#include "bitloom/lib/dtype/DType.def"
#undef BITLOOM_DTYPE
    }
  }
  size_t size() const { return bytes.size() / bytesOf(dtype); }
  bool isFloat() const { return factsOf(dtype).kind == DTypeKind::Float; }
  void fill(std::uint64_t seed) {
    for (size_t i = 0; i < size(); ++i) {
      seed = seed * 6364136223846793005u + 1442695040888963407u;
      std::uint64_t random = seed >> 33;
      if (isFloat())
        set(i, double(random % 4096) / 1024 - 2);
      else if (dtype == DType::b1)
        set(i, random & 1);
      else
        set(i, double(random % std::uint64_t(limit)));
    }
  }
};

inline std::vector<Target> targets() {
  std::vector<Target> all;
  for (const char *name : {"x86-64", "x86-64-v3", "aarch64", "host"})
    if (Target target = parseTarget(name); runsOnHost(target))
      all.push_back(target);
  return all;
}

using Arrays = std::vector<Array>;

// Runs `text` on the arrays as views in order, then the scalars, and compares all memory afterwards. Arrays may be
// `aliased`: parameter i is the memory of parameter alias[i].
inline void agree(const std::string &text, Arrays arrays, std::array<int64_t, 3> grid = {1, 1, 1},
                  double tolerance = 1e-5, std::vector<int64_t> scalars = {}, std::vector<int> alias = {}) {
  for (size_t i = 0; i < arrays.size(); ++i)
    arrays[i].fill(i + 1);
  auto wordsOf = [&](Arrays &memory) {
    LaunchArguments words;
    for (size_t i = 0; i < memory.size(); ++i)
      words.addView(memory[i < alias.size() ? alias[i] : i].ref());
    for (int64_t scalar : scalars)
      words.addWord(scalar);
    return words;
  };
  Arrays expected = arrays;
  Program program = Program::parse(text, "kernel.mlir");
  interpret(program, wordsOf(expected).words(), grid);
  for (const Target &target : targets()) {
    Arrays got = arrays;
    Executable::load(compile(program, target), target)->launch(wordsOf(got).words(), grid);
    for (size_t i = 0; i < arrays.size(); ++i)
      for (size_t e = 0; e < arrays[i].size(); ++e) {
        double want = expected[i].at(e), have = got[i].at(e);
        bool same = want == have || (std::isnan(want) && std::isnan(have)) ||
                    (arrays[i].isFloat() && std::abs(want - have) <= tolerance * (1 + std::abs(want)));
        ASSERT_TRUE(same) << target.name << ": argument " << i << ", element " << e << ": expected " << want << ", got "
                          << have << "\n"
                          << text;
      }
  }
}

inline std::string irOf(DType dtype) {
  std::string name(nameOf(dtype));
  return dtype == DType::b1 ? "i1" : name[0] == 'u' ? "i" + name.substr(1) : name;
}

// A kernel of views named %a, %b, … with these types, each with an offset of zero.
inline std::string kernel(const Arrays &arrays, const std::string &body, const std::string &more = "") {
  std::string parameters;
  for (size_t i = 0; i < arrays.size(); ++i) {
    std::string view = "!tile.view<";
    for (int d = 0; d < arrays[i].extents.size(); ++d)
      view += "?x";
    bool strided = arrays[i].strides[arrays[i].extents.size() - 1] != 1;
    parameters += (i ? ", %" : "%") + std::string(1, char('a' + i)) + ": " + view + irOf(arrays[i].dtype) +
                  (strided ? ", strided>" : ">");
  }
  return "func.func @kernel(" + parameters + more + ") attributes {tile.kernel} {\n%zero = arith.constant 0 : i64\n" +
         body + "\nreturn\n}";
}

inline const std::string sum =
    "{\n^bb0(%l: f32, %r: f32):\n%both = arith.addf %l, %r : f32\ntile.yield %both : f32\n}\n";
inline const std::string largest =
    "{\n^bb0(%l: f32, %r: f32):\n%both = arith.maximumf %l, %r : f32\ntile.yield %both : f32\n}\n";

} // namespace bitloom
