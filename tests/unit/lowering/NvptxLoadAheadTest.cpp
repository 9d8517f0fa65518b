// Loops that load rows ahead of their steps, in the emulator: what comes out, what is left alone, and that mistakes in
// it would be found.
#include "bitloom/tests/unit/lowering/Emulated.h"

#include <regex>

using namespace bitloom;

namespace {

const std::string sum = R"( {
^bb0(%l: f32, %r: f32):
  %s = arith.addf %l, %r : f32
  tile.yield %s : f32
}
)";

// Of each row: itself, the first row of y, and its product with y times a factor of its own; and the sums of the
// columns. Every second program takes every second row.
std::string rowByRow(int64_t block, const std::string &element, int cluster = 1) {
  std::string text = R"(
func.func @k(%x: !tile.view<?x?xTYPE> {tile.align = 16 : i32}, %y: !tile.view<?x?xTYPE> {tile.align = 16 : i32},
             %factors: !tile.view<?xf32>, %o: !tile.view<?x?xTYPE> {tile.align = 16 : i32}, %sums: !tile.view<?x?xf32>)
    attributes {tile.kernel, tile.cluster = CLUSTER : i32} {
  %z = arith.constant 0 : i64
  %first = tile.program_id 0
  %step = tile.num_programs 0
  %rows = tile.extent %x, 0 : !tile.view<?x?xTYPE>
  %none = arith.constant dense<0.0> : tensor<BLOCKxf32>
  %sum = scf.for %row = %first to %rows step %step iter_args(%acc = %none) -> (tensor<BLOCKxf32>) : i64 {
    %a = tile.load %x[%row, %z] dims [1] : !tile.view<?x?xTYPE> -> tensor<BLOCKxTYPE>
    %b = tile.load %y[%row, %z] dims [1] : !tile.view<?x?xTYPE> -> tensor<BLOCKxTYPE>
    %f = tile.load %factors[%row] dims [0] : !tile.view<?xf32> -> tensor<1xf32>
    %k = tile.load %y[%z, %z] dims [1] : !tile.view<?x?xTYPE> -> tensor<BLOCKxTYPE>
    %u = WIDEN %a
    %t = WIDEN %k
    %v = WIDEN %b
    %p = arith.mulf %u, %v : tensor<BLOCKxf32>
    %m = tile.reduce %p axis 0 : tensor<BLOCKxf32> -> f32)" +
                     sum + R"(
    %ms = tensor.splat %m : tensor<BLOCKxf32>
    %fs = tile.broadcast %f : tensor<1xf32> -> tensor<BLOCKxf32>
    %q = arith.mulf %ms, %fs : tensor<BLOCKxf32>
    %wt = arith.addf %q, %u : tensor<BLOCKxf32>
    %w = arith.addf %wt, %t : tensor<BLOCKxf32>
    %n = NARROW %w
    tile.store %n, %o[%row, %z] dims [1] : tensor<BLOCKxTYPE>, !tile.view<?x?xTYPE>
    %next = arith.addf %acc, %w : tensor<BLOCKxf32>
    scf.yield %next : tensor<BLOCKxf32>
  }
  tile.store %sum, %sums[%first, %z] dims [1] : tensor<BLOCKxf32>, !tile.view<?x?xf32>
  return
})";
  if (element == "f32") {
    text =
        std::regex_replace(text, std::regex("(%[uvt]) = WIDEN (%[abk])"), "$1 = arith.addf $2, $2 : tensor<BLOCKxf32>");
    text = replaced(text, "%n = NARROW %w", "%n = arith.negf %w : tensor<BLOCKxf32>");
  } else {
    text = std::regex_replace(text, std::regex("WIDEN (%[abk])"),
                              "arith.extf $1 : tensor<BLOCKxTYPE> to tensor<BLOCKxf32>");
    text = replaced(text, "NARROW %w", "arith.truncf %w : tensor<BLOCKxf32> to tensor<BLOCKxTYPE>");
  }
  return replaced(replaced(replaced(text, "BLOCK", std::to_string(block)), "TYPE", element), "CLUSTER",
                  std::to_string(cluster));
}

// Rows that start at multiples of 16 bytes.
template <Element T> struct Rows {
  int64_t rows, cols, stride;
  std::vector<T> values;
  Rows(int64_t rows, int64_t cols, uint64_t seed)
      : rows(rows), cols(cols), stride((cols + 7) / 8 * 8), values(some<T>(size_t(rows * stride), seed)) {}
  operator Argument() const { return matrix(values, rows, cols, stride); }
};

size_t count(const std::string &text, const std::string &what) {
  size_t found = 0;
  for (size_t at = 0; (at = text.find(what, at)) != text.npos; at += what.size())
    ++found;
  return found;
}

template <Element T> void agreesRowByRow(int64_t block, int64_t rows, int64_t cols, int cluster, double tolerance) {
  SCOPED_TRACE(std::to_string(rows) + " x " + std::to_string(cols) + " by " + std::to_string(block) + ", " +
               std::to_string(cluster) + " blocks");
  Rows<T> x(rows, cols, 1), y(rows, cols, 2), out(rows, cols, 3);
  Data<f32> factors({rows}, 4), sums({2, cols}, 5);
  auto kernel = agrees(rowByRow(block, irType<T>(), cluster), {x, y, factors, out, sums},
                       {.grid = {2, 1, 1}, .tolerance = tolerance, .warps = {1, 4}});
  EXPECT_NE(kernel->ptx.find("cp.async.cg"), std::string::npos);
  EXPECT_NE(kernel->ptx.find("cp.async.ca"), std::string::npos); // the row's factor
}

} // namespace

// No rows, fewer than slots, more; ragged columns, within a copy too.
TEST(NvptxLoadAhead, LoadsRowsAhead) {
  for (int64_t rows : {0, 1, 3, 7, 11})
    for (int64_t cols : {1024, 997, 17}) {
      agreesRowByRow<bf16>(1024, rows, cols, 1, 2e-2);
      agreesRowByRow<f32>(1024, rows, cols, 1, 1e-4);
    }
  for (int cluster : {2, 4})
    for (int64_t cols : {2048, 1999})
      agreesRowByRow<bf16>(2048, 9, cols, cluster, 2e-2);
}

// Too many elements a thread to keep a row while it is reduced: they are read from the slot again.
TEST(NvptxLoadAhead, ReadsRowsAgain) {
  for (int64_t cols : {16384, 16001}) {
    Rows<bf16> x(5, cols, 1), y(5, cols, 2), out(5, cols, 3);
    Data<f32> factors({5}, 4), sums({2, cols}, 5);
    auto kernel = agrees(rowByRow(16384, "bf16"), {x, y, factors, out, sums},
                         {.grid = {2, 1, 1}, .tolerance = 5e-2, .warps = {16}});
    const size_t reduced = kernel->ptx.find("shfl.sync.bfly");
    ASSERT_NE(reduced, std::string::npos);
    // 32 elements in chunks of 8, x and y before, x and the first row of y after.
    EXPECT_EQ(count(kernel->ptx.substr(0, reduced), "ld.shared.v4.b32"), 8u);
    EXPECT_EQ(count(kernel->ptx.substr(reduced), "ld.shared.v4.b32"), 8u);
  }
}

// Two sums of a row, neither of which needs the other, between the same two barriers.
TEST(NvptxLoadAhead, MergesReductions) {
  std::string twice = rowByRow(1024, "bf16");
  twice = replaced(twice, "    %ms =",
                   "    %m2 = tile.reduce %u axis 0 : tensor<1024xf32> -> f32" + sum +
                       "    %m3 = arith.addf %m, %m2 : f32\n    %ms =");
  twice = replaced(twice, "tensor.splat %m :", "tensor.splat %m3 :");
  Rows<bf16> x(5, 997, 1), y(5, 997, 2), out(5, 997, 3);
  Data<f32> factors({5}, 4), sums({2, 997}, 5);
  auto both = agrees(twice, {x, y, factors, out, sums}, {.grid = {2, 1, 1}, .tolerance = 2e-2, .warps = {4}});
  auto one =
      agrees(rowByRow(1024, "bf16"), {x, y, factors, out, sums}, {.grid = {2, 1, 1}, .tolerance = 2e-2, .warps = {4}});
  EXPECT_EQ(count(both->ptx, "bar.sync"), count(one->ptx, "bar.sync"));
  EXPECT_EQ(count(both->ptx, "shfl.sync.bfly"), 2 * count(one->ptx, "shfl.sync.bfly"));
}

namespace {

// A row in tiles, twice: its largest number, then what is left below it; rows one after the other.
std::string tileByTile(int64_t block) {
  return replaced(R"(
func.func @k(%x: !tile.view<?x?xbf16> {tile.align = 16 : i32},
             %o: !tile.view<?x?xf32> {tile.align = 16 : i32}) attributes {tile.kernel} {
  %z = arith.constant 0 : i64
  %one = arith.constant 1 : i64
  %step = arith.constant BLOCK : i64
  %rows = tile.extent %x, 0 : !tile.view<?x?xbf16>
  %cols = tile.extent %x, 1 : !tile.view<?x?xbf16>
  %lowest = arith.constant -7.0 : bf16
  %none = arith.constant dense<-100.0> : tensor<BLOCKxf32>
  scf.for %row = %z to %rows step %one : i64 {
    %top = scf.for %c = %z to %cols step %step iter_args(%acc = %none) -> (tensor<BLOCKxf32>) : i64 {
      %a = tile.load %x[%row, %c] dims [1] else %lowest : !tile.view<?x?xbf16> -> tensor<BLOCKxbf16>
      %u = arith.extf %a : tensor<BLOCKxbf16> to tensor<BLOCKxf32>
      %next = arith.maximumf %acc, %u : tensor<BLOCKxf32>
      scf.yield %next : tensor<BLOCKxf32>
    }
    %m = tile.reduce %top axis 0 : tensor<BLOCKxf32> -> f32 {
    ^bb0(%l: f32, %r: f32):
      %s = arith.minimumf %l, %r : f32
      tile.yield %s : f32
    }
    %ms = tensor.splat %m : tensor<BLOCKxf32>
    scf.for %c = %z to %cols step %step : i64 {
      %a = tile.load %x[%row, %c] dims [1] : !tile.view<?x?xbf16> -> tensor<BLOCKxbf16>
      %u = arith.extf %a : tensor<BLOCKxbf16> to tensor<BLOCKxf32>
      %d = arith.subf %u, %ms : tensor<BLOCKxf32>
      tile.store %d, %o[%row, %c] dims [1] : tensor<BLOCKxf32>, !tile.view<?x?xf32>
    }
  }
  return
})",
                  "BLOCK", std::to_string(block));
}

} // namespace

// The least of all lanes' largest numbers shows what lies past the row. Both loops have one ring.
TEST(NvptxLoadAhead, LoadsTilesOfRowsAhead) {
  for (int64_t cols : {1, 17, 1024, 3000, 4097, 8192}) {
    Rows<bf16> x(3, cols, 1);
    Rows<f32> out(3, cols, 2);
    auto kernel = agrees(tileByTile(1024), {x, out}, {.warps = {1, 4}});
    EXPECT_NE(kernel->ptx.find("cp.async.cg"), std::string::npos);
    EXPECT_LE(kernel->sharedBytes, 4 * 2048 + 1024);
  }
}

TEST(NvptxLoadAhead, LeavesOtherLoopsAlone) {
  auto copies = [](const std::string &text) {
    return count(emit(Program::parse(text), parseTarget("sm_90a"), Stage::Assembly), "cp.async");
  };
  const std::string text = tileByTile(1024);
  EXPECT_GT(copies(text), 0u);
  EXPECT_EQ(copies(replaced(text, "tile.align = 16", "tile.align = 8")), 0u); // a copy might straddle a row's start
  EXPECT_EQ(copies(replaced(text, "[%row, %c]", "[%row, %row]")), 0u);        // the same in each step
  EXPECT_EQ(copies(replaced(text, "%z to %cols", "%one to %cols")), 0u);      // tiles start within a copy
  EXPECT_EQ(copies(tileByTile(512)), 0u);                                     // steps too short
  const std::string inPlace =
      replaced(replaced(text, "tile.store %d, %o",
                        "%n = arith.truncf %d : tensor<1024xf32> to "
                        "tensor<1024xbf16>\ntile.store %n, %x"),
               "tensor<1024xf32>, !tile.view<?x?xf32>", "tensor<1024xbf16>, !tile.view<?x?xbf16>");
  EXPECT_EQ(copies(inPlace), 0u); // what it reads may be what it wrote
}

TEST(NvptxLoadAhead, MistakesAreFound) {
  Rows<bf16> x(9, 1000, 1), y(9, 1000, 2), out(9, 1000, 3);
  Data<f32> factors({9}, 4), sums({1, 1000}, 5);
  const EmulatedKernel kernel(Program::parse(withWarps(rowByRow(1024, "bf16"), 4), "kernel.mlir"));
  auto complaint = [&](const std::string &ptx) -> std::string {
    PtxEmulator emulator(ptx);
    LaunchArguments arguments;
    for (const Argument &argument : std::vector<Argument>{x, y, factors, out, sums}) {
      arguments.addView(argument.tensor);
      emulator.allow(memoryOf(argument.tensor).data(), memoryOf(argument.tensor).size());
    }
    try {
      emulator.launch(arguments.words(), {1, 1, 1}, kernel.sharedBytes, {});
    } catch (const PtxError &error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(complaint(kernel.ptx), "");
  const std::string wait = "cp.async.wait_group 2;";
  ASSERT_NE(kernel.ptx.find(wait), std::string::npos);
  EXPECT_NE(complaint(replaced(kernel.ptx, wait, "cp.async.wait_group 3;")), "");
}
