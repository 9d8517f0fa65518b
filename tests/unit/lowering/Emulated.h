// Kernels as text, compiled for an NVIDIA target, run in the emulator of PTX and compared with the interpreter. Needs
// no GPU.
#pragma once

#include "bitloom/lib/runtime/TensorMap.h"
#include "bitloom/lib/runtime/Workspace.h"
#include "bitloom/lowering/Passes.h"
#include "bitloom/lowering/Pipeline.h"
#include "bitloom/lowering/dialect/Tile.h"
#include "bitloom/tests/emulator/PtxEmulator.h"
#include "bitloom/tests/unit/lowering/Interpreted.h"

#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/Pass/PassManager.h"

#include <algorithm>

namespace bitloom {

// What a launch needs to know beside the PTX is read from the attributes that tile-to-nvvm leaves: compile() would tell
// it too, but runs ptxas, which takes longer than all the rest.
class EmulatedKernel {
public:
  explicit EmulatedKernel(const Program &program, const std::string &targetName = "sm_90a") {
    const Target target = parseTarget(targetName);
    Program layouts = Program::parse(emit(program, target, Stage::Layout), "layouts.mlir"), threads = layouts.clone();
    ptx = emit(layouts, target, Stage::Assembly);
    mlir::PassManager passes(threads.context());
    passes.addPass(createTileToNVVM({target.name}));
    if (failed(passes.run(threads.module())))
      throw InternalError("expected the kernel to lower to threads");
    threads.module()->walk([&](mlir::LLVM::LLVMFuncOp function) {
      if (!function->hasAttr(tile::numWarpsAttr))
        return;
      warps = number(function->getDiscardableAttrDictionary(), tile::numWarpsAttr);
      sharedBytes = number(function->getDiscardableAttrDictionary(), tile::sharedBytesAttr);
      isPersistent = function->hasAttr(tile::persistentAttr);
      if (function->hasAttr(tile::workspaceAttr))
        workspaceBytes = number(function->getDiscardableAttrDictionary(), tile::workspaceAttr);
      if (function->hasAttr(tile::clusterAttr))
        cluster = number(function->getDiscardableAttrDictionary(), tile::clusterAttr);
      if (auto maps = function->getAttrOfType<mlir::ArrayAttr>(tile::tensorMapsAttr))
        for (auto map : maps.getAsRange<mlir::DictionaryAttr>()) {
          auto box = map.getAs<mlir::DenseI32ArrayAttr>("box").asArrayRef();
          requests.push_back({number(map, "word"),
                              number(map, "rank"),
                              DType(number(map, "dtype")),
                              {box.begin(), box.end()},
                              number(map, "swizzle")});
        }
    });
    emulator = std::make_unique<PtxEmulator>(ptx);
  }

  void allow(const void *memory, size_t bytes) { emulator->allow(memory, bytes); }
  // As CudaExecutable does on a device where `blocks` blocks, or clusters, of a persistent kernel run at once.
  // Where blocks have a workspace in common: all of them at a time, or one after the other in the order of their
  // numbers, as a device with room for one would do; a kernel must do without, too.
  enum class Workspace { Together, InTurn, None };
  void launch(std::span<const int64_t> words, std::array<int64_t, 3> grid, int64_t blocks = 1,
              Workspace how = Workspace::Together) const {
    std::vector<TensorMap> maps;
    for (const TensorMapRequest &request : requests)
      maps.push_back(request.of(words));
    std::vector<int64_t> all(words.begin(), words.end());
    if (isPersistent) {
      all.insert(all.end(), grid.begin(), grid.end());
      grid = {std::min(blocks, grid[0] * grid[1] * grid[2]) * cluster, 1, 1};
    } else {
      grid[0] *= cluster;
    }
    if (!workspaceBytes)
      return emulator->launch(all, grid, sharedBytes, maps);
    struct alignas(256) Line {
      std::array<uint64_t, 32> words;
    };
    constexpr size_t counterLines = cuda::workspaceCounterBytes / sizeof(Line);
    std::vector<Line> workspace;
    emulator->watch(nullptr, 0);
    if (how != Workspace::None) {
      Line garbage;
      garbage.words.fill(~uint64_t{0}); // NaN
      workspace.assign(counterLines + size_t(blocks * workspaceBytes) / sizeof(Line) + 1, garbage);
      std::fill_n(workspace.begin(), counterLines, Line{});
      const size_t bytes = workspace.size() * sizeof(Line);
      how == Workspace::Together ? emulator->watch(workspace.data(), bytes) : emulator->allow(workspace.data(), bytes);
      grid = {blocks, 1, 1};
    }
    all.push_back(int64_t(reinterpret_cast<uintptr_t>(workspace.data())));
    emulator->launch(all, grid, sharedBytes, maps);
    for (size_t line = 0; line < std::min(counterLines, workspace.size()); ++line)
      for (uint64_t word : workspace[line].words)
        EXPECT_EQ(word, 0u) << "counters end as they began";
  }
  int threads() const { return emulator->threads(); }
  void countBanks() { emulator->countBanks(); }
  int64_t wavefronts() const { return emulator->wavefronts(); } // of what was launched since then
  int64_t leastWavefronts() const { return emulator->leastWavefronts(); }

  std::string ptx;
  int warps = 0, sharedBytes = 0, cluster = 1, workspaceBytes = 0;
  bool isPersistent = false;
  std::vector<TensorMapRequest> requests;

private:
  static int number(mlir::DictionaryAttr of, llvm::StringRef name) {
    return int(of.getAs<mlir::IntegerAttr>(name).getInt());
  }
  std::unique_ptr<PtxEmulator> emulator;
};

// Bytes after each row of a view, up to a multiple of 16, that its stride leaves free. The copy engine of sm_90 writes
// them with the row; calls (dsl/Call.cpp) let it only where there are none.
inline int64_t gapOf(const TensorRef &view) {
  const int rank = view.rank();
  if (rank < 2 || view.strides[rank - 1] != 1)
    return 0;
  const int64_t size = bytesOf(view.dtype), row = view.extents[rank - 1] * size, whole = (row + 15) / 16 * 16;
  return whole <= view.strides[rank - 2] * size ? whole - row : 0;
}

// All the memory that a view's elements lie in, the gaps between them and the last row's too.
inline std::span<char> memoryOf(const TensorRef &view) {
  int64_t first = 0, last = 0;
  for (int d = 0; d < view.rank(); ++d) {
    if (view.extents[d] == 0)
      return {};
    int64_t reach = (view.extents[d] - 1) * view.strides[d];
    (reach < 0 ? first : last) += reach;
  }
  const int64_t size = bytesOf(view.dtype);
  return {static_cast<char *>(view.data) + first * size, size_t((last - first + 1) * size + gapOf(view))};
}

// Whether an offset into memoryOf lies in a gap.
inline bool isInGap(const TensorRef &view, size_t offset) {
  if (!gapOf(view))
    return false;
  const int64_t size = bytesOf(view.dtype), rank = view.rank(), pitch = view.strides[rank - 2] * size;
  const int64_t within = int64_t(offset) % pitch - view.extents[rank - 1] * size;
  return within >= 0 && within < gapOf(view);
}

inline double numberAt(DType dtype, const char *at) {
  auto as = [&]<class T>(T value) {
    std::memcpy(&value, at, sizeof value);
    return double(float(value));
  };
  switch (dtype) {
  case DType::f32:
    return as(f32());
  case DType::f16:
    return as(f16());
  case DType::bf16:
    return as(bf16());
  case DType::i8:
    return as(int8_t());
  case DType::u8:
    return as(uint8_t());
  case DType::i32: {
    int32_t value;
    std::memcpy(&value, at, sizeof value);
    return value;
  }
  default:
    throw InternalError("a type that these tests do not use");
  }
}

inline std::string withWarps(const std::string &text, int warps) {
  std::string attribute = "tile.kernel", all = text;
  return all.replace(all.find(attribute), attribute.size(),
                     attribute + ", tile.num_warps = " + std::to_string(warps) + " : i32");
}

struct Emulation {
  std::array<int64_t, 3> grid = {1, 1, 1};
  double tolerance = 1e-5;             // of floats, relative to the larger of the value and 1; integers are equal
  std::vector<int> warps = {1, 4};     // that compute, one lowering each; 0: as many as the pipeline likes
  std::vector<int> blocks = {1, 2, 3}; // or clusters, of a persistent kernel, that run at once
  std::string target = "sm_90a";
  bool countsBanks = false;
};

// Runs the kernel in both and compares the memory of every view; the arguments are afterwards what they were before.
// What was lowered last comes back.
inline std::unique_ptr<EmulatedKernel> agrees(const std::string &text, const std::vector<Argument> &arguments,
                                              const Emulation &how = {}) {
  LaunchArguments words;
  std::vector<const TensorRef *> views;
  for (const Argument &argument : arguments)
    if (argument.isScalar)
      words.addWord(argument.word);
    else
      words.addView(*views.emplace_back(&argument.tensor));
  std::vector<std::vector<char>> before, expected;
  auto restore = [&] {
    for (size_t v = 0; v < views.size(); ++v)
      std::ranges::copy(before[v], memoryOf(*views[v]).begin());
  };
  for (const TensorRef *view : views)
    before.emplace_back(memoryOf(*view).begin(), memoryOf(*view).end());
  interpret(Program::parse(text, "kernel.mlir"), words.words(), how.grid);
  for (const TensorRef *view : views)
    expected.emplace_back(memoryOf(*view).begin(), memoryOf(*view).end());
  restore();

  auto compare = [&](const std::string &which) {
    for (size_t v = 0; v < views.size(); ++v) {
      const DType dtype = views[v]->dtype;
      const char *got = memoryOf(*views[v]).data();
      if (std::equal(expected[v].begin(), expected[v].end(), got))
        continue;
      for (size_t at = 0; at < expected[v].size(); at += size_t(bytesOf(dtype))) {
        double x = numberAt(dtype, expected[v].data() + at), y = numberAt(dtype, got + at);
        if (x == y || (std::isnan(x) && std::isnan(y)) || isInGap(*views[v], at))
          continue;
        double allowed = isFloat(dtype) ? how.tolerance * std::max(1.0, std::fabs(x)) : 0;
        ASSERT_NEAR(x, y, allowed) << which << ", view " << v << ", element " << at / size_t(bytesOf(dtype)) << " of\n"
                                   << text;
      }
    }
  };
  std::unique_ptr<EmulatedKernel> kernel;
  for (int warps : how.warps) {
    kernel = std::make_unique<EmulatedKernel>(Program::parse(warps ? withWarps(text, warps) : text, "kernel.mlir"),
                                              how.target);
    EXPECT_EQ(kernel->threads(), 32 * kernel->warps);
    if (warps)
      EXPECT_EQ(kernel->warps, warps + (kernel->isPersistent ? 4 : 0)) << "a producer is a warpgroup more";
    if (how.countsBanks)
      kernel->countBanks();
    for (const TensorRef *view : views)
      kernel->allow(memoryOf(*view).data(), memoryOf(*view).size());
    const int64_t programs = how.grid[0] * how.grid[1] * how.grid[2];
    for (int blocks : kernel->isPersistent ? how.blocks : std::vector{1}) {
      if (blocks > 1 && blocks > programs && !kernel->workspaceBytes)
        continue;
      std::string which = std::to_string(warps) + " warps, " + std::to_string(blocks) + " blocks";
      using Workspace = EmulatedKernel::Workspace;
      for (Workspace workspace : {Workspace::Together, Workspace::InTurn, Workspace::None}) {
        try {
          kernel->launch(words.words(), how.grid, blocks, workspace);
        } catch (const PtxError &error) {
          ADD_FAILURE() << which << ": " << error.what() << " of\n" << text;
        }
        compare(which + ", workspace " + std::to_string(int(workspace)));
        restore();
        if (testing::Test::HasFailure())
          return kernel;
        if (!kernel->workspaceBytes)
          break;
      }
    }
  }
  return kernel;
}

//===- Kernels in pieces ------------------------------------------------------------------------------------------===//

using Shape = std::vector<int64_t>;

inline std::string tileType(const Shape &shape, const std::string &type) {
  std::string dims;
  for (int64_t extent : shape)
    dims += std::to_string(extent) + "x";
  return shape.empty() ? type : "tensor<" + dims + type + ">";
}
inline std::string viewType(size_t rank, const std::string &type) {
  std::string text = "!tile.view<";
  for (size_t d = 0; d < rank; ++d)
    text += "?x";
  return text + type + ">";
}

template <Element T> struct Data {
  Shape shape;
  std::vector<T> values;
  Data(Shape extents, uint64_t seed = 1) : shape(std::move(extents)) {
    size_t count = 1;
    for (int64_t extent : shape)
      count *= size_t(extent);
    values = some<T>(count, seed);
  }
  operator Argument() const {
    return TensorRef(const_cast<T *>(values.data()), dtypeOf<T>, Dims(std::span(shape.data(), shape.size())));
  }
};

} // namespace bitloom
