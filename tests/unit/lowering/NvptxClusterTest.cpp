// Blocks of a cluster that hold a program's tiles together, in the emulator: what comes out, that nothing races, what
// is refused, and that mistakes in it would be found.
#include "bitloom/tests/unit/lowering/Emulated.h"

#include <regex>

using namespace bitloom;

namespace {

std::string hint(int blocks) { return ", tile.cluster = " + std::to_string(blocks) + " : i32"; }

std::string combiner(const char *operation, const char *type = "f32") {
  return std::string(" {\n^bb0(%l: ") + type + ", %r: " + type + "):\n  %s = " + operation + " %l, %r : " + type +
         "\n  tile.yield %s : " + type + "\n}\n";
}

// Softmax of a row a program; grid = {rows of x, copies}: of copy c, the row times c + 1.
std::string softmax(int64_t block, int cluster) {
  std::string text = R"(
func.func @k(%x: !tile.view<?x?xf32>, %o: !tile.view<?x?x?xf32>) attributes {tile.kernel)" +
                     hint(cluster) + R"(} {
  %row = tile.program_id 0
  %copy = tile.program_id 1
  %copies = tile.num_programs 1
  %z = arith.constant 0 : i64
  %lowest = arith.constant 0xFF800000 : f32
  %given = tile.load %x[%row, %z] dims [1] else %lowest : !tile.view<?x?xf32> -> TILE
  %one = arith.constant 1 : i64
  %times = arith.addi %copy, %one : i64
  %factor = arith.sitofp %times : i64 to f32
  %factors = tensor.splat %factor : TILE
  %v = arith.mulf %given, %factors : TILE
  %m = tile.reduce %v axis 0 : TILE -> f32)" +
                     combiner("arith.maximumf") + R"(
  %ms = tensor.splat %m : TILE
  %d = arith.subf %v, %ms : TILE
  %e = math.exp %d : TILE
  %t = tile.reduce %e axis 0 : TILE -> f32)" +
                     combiner("arith.addf") + R"(
  %ts = tensor.splat %t : TILE
  %q = arith.divf %e, %ts : TILE
  tile.store %q, %o[%copy, %row, %z] dims [2] : TILE, !tile.view<?x?x?xf32>
  return
})";
  return replaced(text, "TILE", tileType({block}, "f32"));
}

std::unique_ptr<EmulatedKernel> softmaxAgrees(int64_t block, int cluster, int64_t rows, int64_t cols,
                                              std::vector<int> warps) {
  SCOPED_TRACE(std::to_string(cluster) + " blocks, " + std::to_string(rows) + " x " + std::to_string(cols) + " by " +
               std::to_string(block));
  Data<f32> x({rows, cols}), out({2, rows, cols}, 2);
  auto kernel = agrees(softmax(block, cluster), {x, out}, {.grid = {rows, 2, 1}, .warps = warps});
  EXPECT_EQ(kernel->cluster, cluster);
  return kernel;
}

} // namespace

// Ragged rows, rows that leave a block nothing, tiles smaller than the threads are, tiles that are no power of two.
TEST(NvptxCluster, HoldsARow) {
  for (int cluster : {2, 4, 8})
    for (auto [block, cols] :
         {std::pair(1024, 1024), std::pair(1024, 199), std::pair(1024, 1), std::pair(64, 17), std::pair(1000, 997)})
      softmaxAgrees(block, cluster, 3, cols, {1, 4});
  softmaxAgrees(8192, 4, 1, 8191, {0, 8});
  softmaxAgrees(8192, 2, 1, 8191, {16, 32}); // partial results are lanes'
  softmaxAgrees(512, 1, 2, 300, {2});
}

// Rows of both ends, so that blocks differ in what is kept, in what is reduced, or in both.
TEST(NvptxCluster, ReducesAnyAxis) {
  for (int cluster : {2, 8})
    for (auto [shape, axis] : std::vector<std::pair<Shape, int>>{
             {{8, 256}, 1}, {{8, 256}, 0}, {{64, 4}, 0}, {{64, 4}, 1}, {{3, 17}, 1}, {{33, 130}, 0}, {{2, 4, 64}, 1}}) {
      Shape kept = shape;
      kept.erase(kept.begin() + axis);
      std::string zeros, ofKept, dims, dimsOfKept;
      for (size_t d = 0; d < shape.size(); ++d) {
        zeros += d ? ", %z" : "%z", dims += (d ? ", " : "") + std::to_string(d);
        if (d)
          ofKept += d > 1 ? ", %z" : "%z", dimsOfKept += (d > 1 ? ", " : "") + std::to_string(d - 1);
      }
      Data<f32> x(shape), out(kept, 2), twice(shape, 3);
      const std::string view = viewType(shape.size(), "f32"), keptView = viewType(kept.size(), "f32");
      const std::string tile = tileType(shape, "f32"), keptTile = tileType(kept, "f32");
      agrees("func.func @k(%x: " + view + ", %o: " + keptView + ", %t: " + view + ") attributes {tile.kernel" +
                 hint(cluster) + "} {\n%z = arith.constant 0 : i64\n%a = tile.load %x[" + zeros + "] dims [" + dims +
                 "] : " + view + " -> " + tile + "\n%m = tile.reduce %a axis " + std::to_string(axis) + " : " + tile +
                 " -> " + keptTile + combiner("arith.addf") + "tile.store %m, %o[" + ofKept + "] dims [" + dimsOfKept +
                 "] : " + keptTile + ", " + keptView + "\n%b = arith.addf %a, %a : " + tile + "\ntile.store %b, %t[" +
                 zeros + "] dims [" + dims + "] : " + tile + ", " + view + "\nreturn\n}",
             {x, out, twice}, {.tolerance = 1e-4, .warps = {1, 4}});
    }
}

// Pairs by a combiner whose operands may not change places unless all threads do it alike, of types of every width;
// scalars are written once.
TEST(NvptxCluster, ReducesPairsInOrder) {
  for (std::string type : {"i8", "i16", "i32", "i64"})
    for (int64_t cols : {1000, 700, 3}) {
      Data<f32> x({cols});
      for (size_t i = 0; i < x.values.size(); ++i) // ties
        x.values[i] = float(i * 7919 % 100);
      std::vector<float> largest(1);
      std::vector<int32_t> place(1), count(1);
      std::string text = R"(
func.func @k(%x: !tile.view<?xf32>, %o: !tile.view<?xf32>, %p: !tile.view<?xi32>, %n: !tile.view<?xi32>)
    attributes {tile.kernel)" +
                         hint(4) +
                         R"(} {
  %z = arith.constant 0 : i64
  %lowest = arith.constant 0xFF800000 : f32
  %a = tile.load %x[%z] dims [0] else %lowest : !tile.view<?xf32> -> tensor<1000xf32>
  %all = tile.iota : tensor<1000xi32>
  %mask = arith.constant dense<63> : tensor<1000xi32>
  %low = arith.andi %all, %mask : tensor<1000xi32>
  %i = NARROW
  %v, %w = tile.reduce %a, %i axis 0 : tensor<1000xf32>, tensor<1000xINT> -> f32, INT {
  ^bb0(%l: f32, %i1: INT, %r: f32, %i2: INT):
    %gt = arith.cmpf ogt, %r, %l : f32
    %eq = arith.cmpf oeq, %r, %l : f32
    %lt = arith.cmpi slt, %i2, %i1 : INT
    %tie = arith.andi %eq, %lt : i1
    %p1 = arith.ori %gt, %tie : i1
    %b = arith.select %p1, %r, %l : f32
    %k = arith.select %p1, %i2, %i1 : INT
    tile.yield %b, %k : f32, INT
  }
  tile.store %v, %o[%z] dims [] : f32, !tile.view<?xf32>
  %u = WIDEN
  tile.store %u, %p[%z] dims [] : i32, !tile.view<?xi32>
  %one = arith.constant 1 : i32
  %old = tile.atomic add %one, %n[%z] : i32, !tile.view<?xi32>, i64
  return
})";
      const std::string to = type == "i32" ? "arith.addi" : type == "i64" ? "arith.extsi" : "arith.trunci";
      const std::string back = type == "i32"   ? "arith.addi %w, %w : i32"
                               : type == "i64" ? "arith.trunci %w : i64 to i32"
                                               : "arith.extsi %w : " + type + " to i32";
      text = replaced(
          text, "NARROW",
          to + (type == "i32" ? " %low, %low : tensor<1000xi32>" : " %low : tensor<1000xi32> to tensor<1000xINT>"));
      agrees(replaced(replaced(text, "WIDEN", back), "INT", type), {x, largest, place, count}, {.warps = {1, 2}});
    }
}

// Rows one after the other, with one exchange a step, in branches and in a loop that ends by what it finds.
TEST(NvptxCluster, ReducesInLoops) {
  for (int cluster : {2, 4})
    for (int64_t rows : {0, 1, 2, 7}) {
      Data<f32> x({rows, 300}), out({rows, 300}, 2);
      std::vector<float> total(1);
      agrees(R"(
func.func @k(%x: !tile.view<?x?xf32>, %o: !tile.view<?x?xf32>, %t: !tile.view<?xf32>) attributes {tile.kernel)" +
                 hint(cluster) + R"(} {
  %z = arith.constant 0 : i64
  %one = arith.constant 1 : i64
  %n = tile.extent %x, 0 : !tile.view<?x?xf32>
  %none = arith.constant dense<0.0> : tensor<512xf32>
  %nothing = arith.constant 0.0 : f32
  %sum = scf.for %row = %z to %n step %one iter_args(%acc = %none) -> (tensor<512xf32>) : i64 {
    %v = tile.load %x[%row, %z] dims [1] : !tile.view<?x?xf32> -> tensor<512xf32>
    %m = tile.reduce %v axis 0 : tensor<512xf32> -> f32)" +
                 combiner("arith.addf") + R"(
    %ms = tensor.splat %m : tensor<512xf32>
    %p = arith.cmpf ogt, %m, %nothing : f32
    %d = scf.if %p -> (tensor<512xf32>) {
      %w = tile.reduce %v axis 0 : tensor<512xf32> -> f32)" +
                 combiner("arith.maximumf") + R"(
      %ws = tensor.splat %w : tensor<512xf32>
      %u = arith.addf %v, %ws : tensor<512xf32>
      scf.yield %u : tensor<512xf32>
    } else {
      %u = arith.addf %v, %ms : tensor<512xf32>
      scf.yield %u : tensor<512xf32>
    }
    tile.store %d, %o[%row, %z] dims [1] : tensor<512xf32>, !tile.view<?x?xf32>
    %next = arith.addf %acc, %d : tensor<512xf32>
    scf.yield %next : tensor<512xf32>
  }
  %limit = arith.constant 100.0 : f32
  %grown = scf.while (%a = %sum) : (tensor<512xf32>) -> tensor<512xf32> {
    %m = tile.reduce %a axis 0 : tensor<512xf32> -> f32)" +
                 combiner("arith.maximumf") + R"(
    %p = arith.cmpf olt, %m, %limit : f32
    scf.condition(%p) %a : tensor<512xf32>
  } do {
  ^bb0(%a: tensor<512xf32>):
    %ten = arith.constant dense<40.0> : tensor<512xf32>
    %d = arith.addf %a, %ten : tensor<512xf32>
    scf.yield %d : tensor<512xf32>
  }
  %all = tile.reduce %grown axis 0 : tensor<512xf32> -> f32)" +
                 combiner("arith.maximumf") + R"(
  tile.store %all, %t[%z] dims [] : f32, !tile.view<?xf32>
  return
})",
             {x, out, total}, {.tolerance = 1e-4, .warps = {1, 4}});
    }
}

// What is gathered is read by all blocks before any overwrites it: at a reduction over all of them that comes between;
// at a meeting where that is none, over the rows' own blocks alone, say.
TEST(NvptxCluster, ReadsBeforeItOverwrites) {
  auto inPlace = [](int axis) {
    const std::string kept = axis == 1 ? "tensor<2xf32>" : "tensor<512xf32>";
    return std::string(R"(
func.func @k(%x: !tile.view<?x?xf32>, %at: !tile.view<?xi64>, %o: !tile.view<?xf32>) attributes {tile.kernel)") +
           hint(4) + R"(} {
  %z = arith.constant 0 : i64
  %a = tile.load %x[%z, %z] dims [0, 1] : !tile.view<?x?xf32> -> tensor<2x512xf32>
  %rows = tile.iota : tensor<2xi64>
  %cols = tile.load %at[%z] dims [0] : !tile.view<?xi64> -> tensor<2xi64>
  %g = tile.gather %x[%rows, %cols] : !tile.view<?x?xf32>, tensor<2xi64>, tensor<2xi64> -> tensor<2xf32>
  %m = tile.reduce %a axis )" +
           std::to_string(axis) + " : tensor<2x512xf32> -> " + kept + combiner("arith.addf") + R"(
  %s = tile.reshape %m : )" +
           kept + " -> " + (axis == 1 ? "tensor<2x1xf32>" : "tensor<1x512xf32>") + R"(
  %b = tile.broadcast %s : )" +
           (axis == 1 ? "tensor<2x1xf32>" : "tensor<1x512xf32>") + R"( -> tensor<2x512xf32>
  %c = arith.addf %a, %b : tensor<2x512xf32>
  tile.store %c, %x[%z, %z] dims [0, 1] : tensor<2x512xf32>, !tile.view<?x?xf32>
  tile.store %g, %o[%z] dims [0] : tensor<2xf32>, !tile.view<?xf32>
  return
})";
  };
  for (int axis : {0, 1}) {
    Data<f32> x({2, 511}), out({2}, 2);
    std::vector<int64_t> at{510, 3};
    auto kernel = agrees(inPlace(axis), {x, at, out}, {.tolerance = 1e-4, .warps = {4}});
    EXPECT_EQ(kernel->ptx.find("barrier.cluster.arrive.release") == std::string::npos, axis == 1);
  }
}

// What would need another block's elements; blocks that no cluster has; targets and kernels that have one block.
TEST(NvptxCluster, RefusesOtherExchanges) {
  auto lowers = [](const std::string &text) {
    return emit(Program::parse(text), parseTarget("sm_90a"), Stage::Assembly);
  };
  const std::string head = "func.func @k(%x: !tile.view<?xf32>) attributes {tile.kernel" + hint(2) +
                           "} {\n%z = arith.constant 0 : i64\n"
                           "%a = tile.load %x[%z] dims [0] : !tile.view<?xf32> -> tensor<1024xf32>\n";
  const std::string tail = "tile.store %b, %x[%z] dims [0] : tensor<1024xf32>, !tile.view<?xf32>\nreturn\n}";
  auto refuses = [&](const std::string &text, const std::string &expected) {
    try {
      lowers(text);
      ADD_FAILURE() << "expected an error of\n" << text;
    } catch (const std::exception &error) {
      EXPECT_NE(std::string(error.what()).find(expected), std::string::npos) << error.what();
    }
  };
  const std::string only =
      "cluster: expected no operations but reductions to exchange elements between the blocks of 2 "
      "that hold a tile together; use cluster = 1";
  refuses(head + "%b = tile.scan %a axis 0 : tensor<1024xf32>" + combiner("arith.addf") + tail, only);
  refuses(head +
              "%m = tile.reshape %a : tensor<1024xf32> -> tensor<32x32xf32>\n"
              "%t = tile.transpose %m [1, 0] : tensor<32x32xf32> -> tensor<32x32xf32>\n"
              "%b = tile.reshape %t : tensor<32x32xf32> -> tensor<1024xf32>\n"
              "%c = arith.addf %a, %b : tensor<1024xf32>\n" +
              replaced(tail, "%b", "%c"),
          only);
  const std::string plain = head + "%b = arith.addf %a, %a : tensor<1024xf32>\n" + tail;
  refuses(replaced(plain, hint(2), hint(3)), "cluster: expected 1, 2, 4 or 8 blocks, got 3");
  refuses(replaced(plain, hint(2), hint(16)), "cluster: expected 1, 2, 4 or 8 blocks, got 16");
  // No exchange, no meeting.
  EXPECT_EQ(lowers(plain).find("barrier"), std::string::npos);
}

TEST(NvptxCluster, IsOneBlockWhereThereAreNoClusters) {
  Data<f32> x({3, 300}), out({2, 3, 300}, 2);
  auto kernel = agrees(softmax(512, 4), {x, out}, {.grid = {3, 2, 1}, .target = "sm_89"});
  EXPECT_EQ(kernel->cluster, 1);
}

//===- Mistakes ---------------------------------------------------------------------------------------------------===//

TEST(NvptxCluster, MistakesAreFound) {
  Data<f32> x({2, 300}), out({2, 2, 300}, 2);
  const EmulatedKernel kernel(Program::parse(withWarps(softmax(512, 4), 2), "kernel.mlir"));
  const std::string &right = kernel.ptx;
  auto complaint = [&](const std::string &ptx) -> std::string {
    PtxEmulator emulator(ptx);
    LaunchArguments arguments;
    for (const Argument &argument : std::vector<Argument>{x, out}) {
      arguments.addView(argument.tensor);
      emulator.allow(memoryOf(argument.tensor).data(), memoryOf(argument.tensor).size());
    }
    try {
      emulator.launch(arguments.words(), {2 * 4, 2, 1}, kernel.sharedBytes, {});
    } catch (const PtxError &error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(complaint(right), "");
  auto finds = [&](const std::string &mistake, const std::string &wrong) {
    EXPECT_NE(wrong, right);
    std::string found = complaint(wrong);
    EXPECT_NE(found.find(mistake), std::string::npos) << found;
  };
  // Nobody waits until the others have started, or is told of their barriers.
  const std::string start = "race between an mbarrier's initialisation and its use";
  finds(start, replaced(replaced(right, "barrier.cluster.arrive.relaxed.aligned;", ""),
                        "barrier.cluster.wait.acquire.aligned;", ""));
  finds(start, replaced(right, "fence.mbarrier_init.release.cluster;", ""));
  // What comes is not waited for; less of it, or more; the block's warps do not meet before.
  auto expecting = [&](const char *bytes) {
    return std::regex_replace(right, std::regex("(arrive.expect_tx.*), 16;"), std::string("$1, ") + bytes + ";");
  };
  finds("race on shared memory", replaced(right, "@done bra DONE;\n\tbra WAIT;", ""));
  finds("race on shared memory", expecting("4"));
  finds("lacks 0 arrivals and 4 bytes", expecting("20"));
  finds("race on shared memory", replaced(right, "bar.sync", "// bar.sync"));
}
