// Products on the tensor cores of sm_90a in loops of any kind, against the interpreter: the rings between producer and
// consumers, persistent blocks, and how warps and blocks share the work. The PTX runs in an emulator, which finds
// races, reads before arrival and waits without end. Values are small integers, so that every sum is exact and results
// are compared bit by bit.
#include "bitloom/tests/unit/lowering/Ways.h"

using namespace bitloom;

namespace {

// A kernel around `body`, with the views %a, %b and %d of bf16 and %c of f32, blocks of 64 rows and columns, and names
// for what most bodies need.
std::string around(const std::string &body, const std::string &attributes = "", const std::string &parameters = "") {
  const std::string half = "!tile.view<?x?xbf16> {tile.align = 16 : i32}";
  return replaced(replaced("func.func @kernel(%a: " + half + ", %b: " + half + ", %d: " + half +
                               ", %c: !tile.view<?x?xf32> {tile.align = 16 : i32}" + parameters +
                               ") attributes {tile.kernel" + attributes + R"(} {
  %i = tile.program_id 0
  %j = tile.program_id 1
  %z = arith.constant 0 : i64
  %one = arith.constant 1 : i64
  %s = arith.constant 64 : i64
  %two = arith.constant 128 : i64
  %rows = arith.muli %i, %s : i64
  %columns = arith.muli %j, %s : i64
  %depth = tile.extent %a, 1 : !tile.view<?x?xbf16>
  %none = arith.constant dense<0.0> : ACC
)" + body + R"(
  tile.store %out, %c[%rows, %columns] dims [0, 1] : ACC, !tile.view<?x?xf32>
  return
})",
                           "ACC", "tensor<64x64xf32>"),
                  "HALF", "tensor<64x64xbf16>");
}

std::string loadOf(const std::string &tile, const std::string &view, const std::string &at) {
  return "%" + tile + " = tile.load %" + view + "[" + at + "] dims [0, 1] : !tile.view<?x?xbf16> -> HALF\n";
}
std::string dotOf(const std::string &result, const std::string &operands) {
  return "%" + result + " = tile.dot " + operands + " : HALF, HALF, ACC\n";
}

void agreesAround(const std::string &body, Way way = Way::Copied, const std::string &attributes = "",
                  const std::string &parameters = "", std::vector<Argument> more = {}, int64_t depth = 200) {
  Aligned<bf16> a({100, depth}), b({depth, 100}, 2), d({depth, 100}, 5);
  Aligned<float> c({100, 100}, 3);
  std::vector<Argument> arguments = {a, b, d, c};
  arguments.insert(arguments.end(), more.begin(), more.end());
  tookWay(*agrees(around(body, attributes, parameters), arguments,
                  {.grid = {2, 2, 1}, .tolerance = 0, .warps = {0, 8}, .blocks = {1, 3}}),
          way);
}

const std::string loopHead = "%r = scf.for %at = %z to %depth step %s iter_args(%acc = %none) -> ACC : i64 {\n";
const std::string loopBody = loopHead + loadOf("x", "a", "%rows, %at") + loadOf("y", "b", "%at, %columns") +
                             dotOf("sum", "%x, %y, %acc") + "scf.yield %sum : ACC\n}\n";

} // namespace

TEST(NvptxRing, TakesHints) {
  for (int stages : {1, 2, 3, 100})
    agreesAround(replaced(loopBody, "%r =", "%out ="), Way::Copied,
                 ", tile.stages = " + std::to_string(stages) + " : i32");
  agreesAround(replaced(loopBody, "%r =", "%out ="), Way::Exchanged, ", tile.warp_specialize = false");
}

// Rings take what shared memory is left beside the operands that threads put there.
TEST(NvptxRing, RingsLeaveRoomForTheRest) {
  std::string body =
      R"(%r:2 = scf.for %at = %z to %depth step %s iter_args(%acc = %none, %bcc = %none) -> (ACC, ACC) : i64 {
)" + loadOf("x", "a", "%rows, %at") +
      loadOf("y", "b", "%at, %columns") + loadOf("w", "d", "%at, %columns") +
      "%m = arith.negf %y : HALF\n%n = math.absf %w : HALF\n" + dotOf("p", "%x, %m, %acc") +
      dotOf("q", "%x, %n, %bcc") + "scf.yield %p, %q : ACC, ACC\n}\n%out = arith.mulf %r#0, %r#1 : ACC\n";
  std::string text =
      replaced(replaced(around(body), "64x64x", "128x128x"), "%s = arith.constant 64", "%s = arith.constant 128");
  Aligned<bf16> a({100, 130}), b({130, 100}, 2), d({130, 100}, 5);
  Aligned<float> c({100, 100}, 3);
  tookWay(*agrees(text, {a, b, d, c}, {.tolerance = 0, .warps = {0}}), Way::Copied);
}

TEST(NvptxRing, LoopsTakeTurnsWithARing) {
  agreesAround(loopBody + replaced(replaced(replaced(loopBody, "%r =", "%out ="), "%none", "%r"), "%b[", "%d["));
  // Of other tiles: a ring each.
  agreesAround(loopBody +
               replaced(replaced(replaced(loopBody, "%r =", "%out ="), "%none", "%r"), "%s iter", "%two iter"));
}

TEST(NvptxRing, DotsShareTilesAndLoops) {
  // Two sums, one operand in common.
  agreesAround(R"(%r:2 = scf.for %at = %z to %depth step %s iter_args(%acc = %none, %bcc = %none) -> (ACC, ACC) : i64 {
)" + loadOf("x", "a", "%rows, %at") +
               loadOf("y", "b", "%at, %columns") + loadOf("w", "d", "%at, %columns") + dotOf("p", "%x, %y, %acc") +
               dotOf("q", "%x, %w, %bcc") + R"(scf.yield %p, %q : ACC, ACC
}
%out = arith.mulf %r#0, %r#1 : ACC
)");
  // The second dot's sum is looked at in the loop.
  agreesAround(R"(%r:2 = scf.for %at = %z to %depth step %s iter_args(%acc = %none, %bcc = %none) -> (ACC, ACC) : i64 {
)" + loadOf("x", "a", "%rows, %at") +
               loadOf("y", "b", "%at, %columns") + loadOf("w", "d", "%at, %columns") + dotOf("p", "%x, %y, %acc") +
               dotOf("q", "%x, %w, %none") + R"(%m = arith.maximumf %q, %bcc : ACC
scf.yield %p, %m : ACC, ACC
}
%out = arith.subf %r#0, %r#1 : ACC
)");
  // One tile as both operands, one of them transposed.
  agreesAround(loopHead + loadOf("x", "b", "%at, %columns") + "%t = tile.transpose %x [1, 0] : HALF -> HALF\n" +
               dotOf("sum", "%t, %x, %acc") + "scf.yield %sum : ACC\n}\n%out = arith.addf %r, %none : ACC\n");
  // The loaded tile is used by the threads, too.
  agreesAround(loopHead + loadOf("x", "a", "%rows, %at") + loadOf("y", "b", "%at, %columns") +
               dotOf("p", "%x, %y, %acc") + R"(%e = arith.extf %y : HALF to ACC
%sum = arith.addf %p, %e : ACC
scf.yield %sum : ACC
}
%out = arith.addf %r, %none : ACC
)");
}

TEST(NvptxRing, ConvertsOperandsOnTheWay) {
  // What the threads compute goes to shared memory as b, and stays in registers as a.
  for (std::string operands : {"%x, %n, %acc", "%n, %y, %acc", "%n, %o, %acc"})
    agreesAround(loopHead + loadOf("x", "a", "%rows, %at") + loadOf("y", "b", "%at, %columns") +
                     loadOf("w", "d", "%at, %columns") + "%n = arith.negf %w : HALF\n%o = math.absf %w : HALF\n" +
                     dotOf("sum", operands) + "scf.yield %sum : ACC\n}\n%out = arith.addf %r, %none : ACC\n",
                 operands == "%n, %o, %acc" ? Way::Exchanged : Way::Copied);
}

// Fragments in registers of every width, also of the transposed product.
TEST(NvptxRing, HoldsOperandsOfEveryTypeInRegisters) {
  auto run = [](auto operand, const std::string &sum, const std::string &negate, int64_t m) {
    using In = decltype(operand);
    Product product{.block = {m, 64, 64},
                    .operand = irType<In>(),
                    .sum = sum,
                    .result = sum,
                    .bByColumns = true,
                    .dotAttributes = irType<In>() == "f32" ? " {precision = 1 : i32}" : ""};
    std::string text = product.text(), type = tileType(m < 64 ? Shape{64, 64} : Shape{m, 64}, irType<In>());
    text = replaced(replaced(text, "%d = tile.dot", negate + "\n    %d = tile.dot"), "TYPE", type);
    text = m < 64 ? replaced(replaced(text, "FROM", "%y"), "%x, %y, %acc", "%x, %n, %acc")
                  : replaced(replaced(text, "FROM", "%x"), "%x, %y, %acc", "%n, %y, %acc");
    Operands<In, float> floats(product, 70, 64, 72);
    Operands<In, int32_t> integers(product, 70, 64, 72);
    tookWay(*agrees(text, {floats.a, floats.b, sum == "f32" ? Argument(floats.c) : Argument(integers.c)},
                    {.grid = product.grid(70, 64), .tolerance = 0, .warps = {0, 8}, .blocks = {1, 2}}),
            Way::Copied);
  };
  for (int64_t m : {128, 16}) {
    for (std::string op : {"arith.negf", "math.absf"}) {
      run(bf16(), "f32", "%n = " + op + " FROM : TYPE", m);
      run(f32(), "f32", "%n = " + op + " FROM : TYPE", m);
    }
    run(f16(), "f32", "%n = arith.negf FROM : TYPE", m);
    run(int8_t(), "i32", "%n = arith.muli FROM, FROM : TYPE", m);
  }
}

// Weights of four bits: bytes are loaded by the threads, unpacked and put where the tensor cores look.
TEST(NvptxRing, MultipliesUnpackedWeights) {
  for (int64_t m : {64, 16}) {
    std::string text = replaced(R"(
func.func @k(%a: !tile.view<?x?xbf16> {tile.align = 16 : i32}, %b: !tile.view<?x?xi8> {tile.align = 16 : i32},
             %c: !tile.view<?x?xf32> {tile.align = 16 : i32}) attributes {tile.kernel} {
  %i = tile.program_id 0
  %sm = arith.constant ROWS : i64
  %rows = arith.muli %i, %sm : i64
  %z = arith.constant 0 : i64
  %s = arith.constant 64 : i64
  %two = arith.constant 2 : i64
  %depth = tile.extent %a, 1 : !tile.view<?x?xbf16>
  %none = arith.constant dense<0.0> : tensor<ROWSx64xf32>
  %sum = scf.for %at = %z to %depth step %s iter_args(%acc = %none) -> tensor<ROWSx64xf32> : i64 {
    %x = tile.load %a[%rows, %at] dims [0, 1] : !tile.view<?x?xbf16> -> tensor<ROWSx64xbf16>
    %half = arith.divui %at, %two : i64
    %w = tile.load %b[%z, %half] dims [0, 1] : !tile.view<?x?xi8> -> tensor<64x32xi8>
    %u = tile.unpack %w signed <"bits=4,order=low,block=8"> : tensor<64x32xi8> -> tensor<64x64xi8>
    %f = arith.sitofp %u : tensor<64x64xi8> to tensor<64x64xbf16>
    %y = tile.transpose %f [1, 0] : tensor<64x64xbf16> -> tensor<64x64xbf16>
    %d = tile.dot %x, %y, %acc : tensor<ROWSx64xbf16>, tensor<64x64xbf16>, tensor<ROWSx64xf32>
    scf.yield %d : tensor<ROWSx64xf32>
  }
  tile.store %sum, %c[%rows, %z] dims [0, 1] : tensor<ROWSx64xf32>, !tile.view<?x?xf32>
  return
})",
                                "ROWS", std::to_string(m));
    Aligned<bf16> a({70, 192});
    Aligned<int8_t> b({64, 96}, 2);
    for (size_t i = 0; i < b.values.size(); ++i)
      b.values[i] = int8_t(i * 37);
    Aligned<float> c({70, 64}, 3);
    tookWay(*agrees(text, {a, b, c}, {.grid = {(70 + m - 1) / m, 1, 1}, .tolerance = 0, .warps = {0, 8}}), Way::Copied);
  }
}

TEST(NvptxRing, LoadsUnderAnyControlFlow) {
  // No loop; a start that is not zero; loops in loops; branches.
  agreesAround(loadOf("x", "a", "%rows, %z") + loadOf("y", "b", "%z, %columns") + dotOf("out", "%x, %y, %none"));
  agreesAround(replaced(replaced(loopBody, "%r =", "%out ="), "%z to", "%s to"));
  agreesAround("%out = scf.for %t = %z to %two step %s iter_args(%outer = %none) -> ACC : i64 {\n" +
               replaced(replaced(loopBody, "%none", "%outer"), "%z to", "%t to") + "scf.yield %r : ACC\n}\n");
  agreesAround("%p = arith.cmpi eq, %i, %j : i64\n%out = scf.if %p -> (ACC) {\n" + loopBody +
               "scf.yield %r : ACC\n} else {\n" + replaced(loopBody, "%b[", "%d[") + "scf.yield %r : ACC\n}\n");
  agreesAround(loopHead + "%p = arith.cmpi ne, %at, %s : i64\n%sum = scf.if %p -> (ACC) {\n" +
               loadOf("x", "a", "%rows, %at") + loadOf("y", "b", "%at, %columns") + dotOf("q", "%x, %y, %acc") +
               "scf.yield %q : ACC\n} else {\nscf.yield %acc : ACC\n}\nscf.yield %sum : ACC\n}\n"
               "%out = arith.addf %r, %none : ACC\n");
  // A coordinate that the loop carries, and one that memory holds.
  agreesAround("%r:2 = scf.for %t = %z to %depth step %s iter_args(%acc = %none, %at = %z) -> (ACC, i64) : i64 {\n" +
               loadOf("x", "a", "%rows, %at") + loadOf("y", "b", "%at, %columns") + dotOf("sum", "%x, %y, %acc") +
               "%next = arith.addi %at, %s : i64\nscf.yield %sum, %next : ACC, i64\n}\n"
               "%out = arith.addf %r#0, %none : ACC\n");
  std::vector<int32_t> pages = {2, 0, 3, 1};
  agreesAround("%four = arith.constant 4 : i64\n"
               "%r = scf.for %t = %z to %four step %one iter_args(%acc = %none) -> ACC : i64 {\n"
               "%page = tile.load %pages[%t] dims [] : !tile.view<?xi32> -> i32\n"
               "%p = arith.extsi %page : i32 to i64\n%at = arith.muli %p, %s : i64\n" +
                   loadOf("x", "a", "%rows, %at") + loadOf("y", "b", "%at, %columns") + dotOf("sum", "%x, %y, %acc") +
                   "scf.yield %sum : ACC\n}\n%out = arith.addf %r, %none : ACC\n",
               Way::Copied, "", ", %pages: !tile.view<?xi32>", {pages});
}

TEST(NvptxRing, CarriesTilesAcrossIterations) {
  // The next operand is loaded in one iteration and used in the next one.
  agreesAround(
      loadOf("first", "a", "%rows, %z") +
      "%r:2 = scf.for %at = %z to %depth step %s iter_args(%acc = %none, %x = %first) -> (ACC, HALF) : i64 {\n" +
      loadOf("y", "b", "%at, %columns") + dotOf("sum", "%x, %y, %acc") + "%n = arith.addi %at, %s : i64\n" +
      loadOf("next", "a", "%rows, %n") + "scf.yield %sum, %next : ACC, HALF\n}\n" +
      "%out = arith.addf %r#0, %none : ACC\n");
}

// The producer runs ahead, so it may not read what the program writes, nor wait for it: the threads load instead.
TEST(NvptxRing, LoadsInOrderWithWrites) {
  // One block of each column, so that no two programs write the same.
  const std::string loads = loadOf("x", "a", "%rows, %z") + loadOf("y", "b", "%z, %columns");
  Aligned<bf16> a({64, 64}), b({64, 100}, 2), d({64, 100}, 5);
  Aligned<float> c({64, 100}, 3);
  std::string text = around(loadOf("w", "d", "%z, %columns") + "%n = arith.negf %w : HALF\n" +
                            "tile.store %n, %b[%z, %columns] dims [0, 1] : HALF, !tile.view<?x?xbf16>\n" + loads +
                            dotOf("out", "%x, %y, %none"));
  agrees(text, {a, b, d, c}, {.grid = {1, 2, 1}, .tolerance = 0, .warps = {0, 8}});
  // Where it loads from is what an atomic returned.
  std::vector<int32_t> most = {64};
  agreesAround("%q = arith.constant 0 : i32\n"
               "%old = tile.atomic max %q, %n[%z] : i32, !tile.view<?xi32>, i64\n"
               "%at = arith.extsi %old : i32 to i64\n" +
                   loadOf("x", "a", "%rows, %at") + loadOf("y", "b", "%at, %columns") + dotOf("out", "%x, %y, %none"),
               Way::Exchanged, "", ", %n: !tile.view<?xi32>", {most});
}

// Boxes of the copy engine start at multiples of 16 bytes; where a tile may start elsewhere, the threads bring it.
TEST(NvptxRing, CopiesBoxesThatStartAtMultiplesOf16Bytes) {
  auto fromColumn = [](const std::string &start, Way way) {
    agreesAround("%start = arith.constant " + start + " : i64\n%by = arith.constant 24 : i64\n" +
                     "%out = scf.for %at = %start to %depth step %by iter_args(%acc = %none) -> ACC : i64 {\n" +
                     loadOf("x", "a", "%rows, %at") + loadOf("y", "b", "%at, %columns") + dotOf("sum", "%x, %y, %acc") +
                     "scf.yield %sum : ACC\n}\n",
                 way);
  };
  fromColumn("8", Way::Copied);
  fromColumn("4", Way::Exchanged);
}

TEST(NvptxRing, LoadsInLoopsThatEndAnyTime) {
  agreesAround(R"(%r:2 = scf.while (%acc = %none, %at = %z) : (ACC, i64) -> (ACC, i64) {
  %p = arith.cmpi slt, %at, %depth : i64
  scf.condition(%p) %acc, %at : ACC, i64
} do {
^bb0(%acc: ACC, %at: i64):
)" + loadOf("x", "a", "%rows, %at") +
                   loadOf("y", "b", "%at, %columns") + dotOf("sum", "%x, %y, %acc") + R"(
  %next = arith.addi %at, %s : i64
  scf.yield %sum, %next : ACC, i64
}
%out = arith.addf %r#0, %none : ACC
)",
               Way::Exchanged);
}

// Where a tile lies may be read from memory, and so may whether there is one: the producer reads that, too. Rows of a
// group start anywhere; those after them are another's.
TEST(NvptxRing, LoadsTilesWhosePlaceIsLoaded) {
  const std::string text = R"(
func.func @grouped(%x: !tile.view<?x?xbf16>ALIGN, %w: !tile.view<?x?x?xbf16> {tile.align = 16 : i32},
                   %starts: !tile.view<?xi32>, %c: !tile.view<?x?xf32> {tile.align = 16 : i32}) attributes {tile.kernel} {
  %group = tile.program_id 0
  %j = tile.program_id 1
  %z = arith.constant 0 : i64
  %one = arith.constant 1 : i64
  %s = arith.constant 64 : i64
  %columns = arith.muli %j, %s : i64
  %start32 = tile.load %starts[%group] dims [] : !tile.view<?xi32> -> i32
  %row = arith.extsi %start32 : i32 to i64
  %next = arith.addi %group, %one : i64
  %end32 = tile.load %starts[%next] dims [] : !tile.view<?xi32> -> i32
  %end = arith.extsi %end32 : i32 to i64
  %any = arith.cmpi slt, %row, %end : i64
  scf.if %any {
    %depth = tile.extent %x, 1 : !tile.view<?x?xbf16>
    %none = arith.constant dense<0.0> : tensor<64x64xf32>
    %sum = scf.for %at = %z to %depth step %s iter_args(%acc = %none) -> tensor<64x64xf32> : i64 {
      %a = tile.load %x[%row, %at] dims [0, 1] : !tile.view<?x?xbf16> -> tensor<64x64xbf16>
      %bt = tile.load %w[%group, %columns, %at] dims [1, 2] : !tile.view<?x?x?xbf16> -> tensor<64x64xbf16>
      %b = tile.transpose %bt [1, 0] : tensor<64x64xbf16> -> tensor<64x64xbf16>
      %d = tile.dot %a, %b, %acc : tensor<64x64xbf16>, tensor<64x64xbf16>, tensor<64x64xf32>
      scf.yield %d : tensor<64x64xf32>
    }
    %last = arith.addi %row, %s : i64
    %whole = arith.cmpi sle, %last, %end : i64
    scf.if %whole {
      tile.store %sum, %c[%row, %columns] dims [0, 1] : tensor<64x64xf32>, !tile.view<?x?xf32>
    } else {
      %iota = tile.iota : tensor<64xi64>
      %rowSplat = tensor.splat %row : tensor<64xi64>
      %endSplat = tensor.splat %end : tensor<64xi64>
      %columnSplat = tensor.splat %columns : tensor<64xi64>
      %rs = arith.addi %iota, %rowSplat : tensor<64xi64>
      %cs = arith.addi %iota, %columnSplat : tensor<64xi64>
      %own = arith.cmpi slt, %rs, %endSplat : tensor<64xi64>
      %rs2 = tile.reshape %rs : tensor<64xi64> -> tensor<64x1xi64>
      %cs2 = tile.reshape %cs : tensor<64xi64> -> tensor<1x64xi64>
      %own2 = tile.reshape %own : tensor<64xi1> -> tensor<64x1xi1>
      %rows = tile.broadcast %rs2 : tensor<64x1xi64> -> tensor<64x64xi64>
      %cols = tile.broadcast %cs2 : tensor<1x64xi64> -> tensor<64x64xi64>
      %mask = tile.broadcast %own2 : tensor<64x1xi1> -> tensor<64x64xi1>
      tile.scatter %sum, %c[%rows, %cols] mask %mask : tensor<64x64xf32>, !tile.view<?x?xf32>, tensor<64x64xi64>, tensor<64x64xi64>
    }
  }
  return
})";
  const std::vector<int32_t> starts = {0, 17, 17, 81, 150};
  Aligned<bf16> x({150, 136}), w({4, 70, 136}, 2), odd({150, 136}, {139, 1}, 1);
  Aligned<float> c({150, 70}, 3);
  for (const auto &[align, rows] : {std::pair(aligned, &x), std::pair(std::string(), &odd)}) {
    auto kernel = agrees(replaced(text, "ALIGN", align), {*rows, w, starts, c},
                         {.grid = {4, 2, 1}, .tolerance = 0, .warps = {0, 8}, .blocks = {1, 3}});
    if (rows == &x)
      tookWay(*kernel, Way::Copied);
  }
}

// As anywhere else, what is out of bounds is zero: also where 32 bits do not reach, and in a view with no elements.
TEST(NvptxRing, LoadsZerosOutOfBounds) {
  for (std::string far : {"4294967296", "-4294967296", "9223372036854775744", "-64", "64"})
    agreesAround("%far = arith.constant " + far + " : i64\n" + loadOf("x", "a", "%far, %z") +
                 loadOf("y", "b", "%z, %far") + loadOf("w", "b", "%z, %columns") + dotOf("p", "%x, %w, %none") +
                 loadOf("v", "a", "%rows, %z") + dotOf("out", "%v, %y, %p"));
  Aligned<bf16> a({100, 64}), empty({64, 0}, 2), none({0, 100}, 2), d({64, 100}, 5);
  Aligned<float> c({100, 100}, 3);
  const std::string text =
      around(loadOf("x", "a", "%rows, %z") + loadOf("y", "b", "%z, %columns") + dotOf("p", "%x, %y, %none") +
             loadOf("w", "d", "%z, %columns") + dotOf("out", "%x, %w, %p"));
  for (const Aligned<bf16> &b : {empty, none})
    agrees(text, {a, b, d, c}, {.grid = {2, 2, 1}, .tolerance = 0, .warps = {0}});
}

// Blocks take programs band by band: every one, and each once.
TEST(NvptxRing, GoesThroughEveryProgram) {
  Product product{.block = {64, 64, 16}};
  multiplies<bf16>(product, 19 * 64 - 5, 2 * 64 + 3, 16, Way::Copied, {0}, {1, 5, 57});
}

// The blocks of a cluster share the loop; the first adds up and goes on.
// The copy engine would write c at a time of its own: threads do, where the program also reads it.
TEST(NvptxRing, StoresItselfWhatItAlsoReads) {
  for (bool reads : {false, true}) {
    Product product{.block = {64, 64, 32},
                    .epilogue = reads ? R"(
  %old = tile.load %c[%rows, %columns] dims [0, 1] : !tile.view<?x?xf32> -> tensor<64x64xf32>
  %out = arith.addf %sum, %old : tensor<64x64xf32>)"
                                      : ""};
    Operands<bf16, float> data(product, 100, 70, 72);
    auto kernel = agrees(product.text(), {data.a, data.b, data.c},
                         {.grid = product.grid(100, 70), .tolerance = 0, .warps = {0}, .blocks = {1, 2}});
    EXPECT_EQ(kernel->ptx.find("cp.async.bulk.tensor.2d.global.shared") == std::string::npos, reads);
  }
}

// One group stores while the other multiplies: each passes over the slots that the other's programs had.
TEST(NvptxRing, GroupsTakeProgramsInTurn) {
  Product product{.block = {128, 128, 64}, .bByColumns = true};
  for (auto [m, n, k] : {std::array{300, 400, 200}, std::array{128, 128, 64}, std::array{130, 300, 1}}) {
    SCOPED_TRACE(std::to_string(m) + " x " + std::to_string(n) + " x " + std::to_string(k));
    Operands<bf16, float> data(product, m, n, k);
    auto kernel = agrees(product.text(), {data.a, data.b, data.c},
                         {.grid = product.grid(m, n), .tolerance = 0, .warps = {0}, .blocks = {1, 2, 3}});
    EXPECT_NE(kernel->ptx.find("bar.arrive"), std::string::npos) << "expected turns";
  }
}

// Results in rows that start anywhere: aligned words of whole lines, and halves of words at the ends of a row.
TEST(NvptxRing, StoresRowsThatStartAnywhereByLines) {
  auto stores = [](std::array<int64_t, 3> block, int64_t m, int64_t n, int64_t start, int64_t stride) {
    SCOPED_TRACE("blocks of " + std::to_string(block[0]) + " x " + std::to_string(block[1]) + ", " + std::to_string(m) +
                 " x " + std::to_string(n) + ", " + std::to_string(stride) + " apart from " + std::to_string(start));
    const std::string tile = tileType({block[0], block[1]}, "f32"), half = tileType({block[0], block[1]}, "bf16");
    Product product{.block = block,
                    .result = "bf16",
                    .bByColumns = true,
                    .epilogue = "  %out = arith.truncf %sum : " + tile + " to " + half + "\n"};
    Operands<bf16, bf16> data(product, m, n, 40);
    Aligned<bf16> memory({(std::abs(stride) * m + start + n + 15) / 8 * 8}, 3);
    TensorRef out(memory.values.data() + start + (stride < 0 ? -stride * (m - 1) : 0), DType::bf16, {m, n},
                  {stride, 1});
    auto kernel =
        agrees(replaced(product.text(), "%c: " + viewType(2, "bf16") + aligned, "%c: " + viewType(2, "bf16")),
               {data.a, data.b, out}, {.grid = product.grid(m, n), .tolerance = 0, .warps = {0}, .blocks = {2}});
    EXPECT_NE(kernel->ptx.find("prmt.b32"), std::string::npos);
  };
  for (int64_t start : {0, 1, 2, 31, 62, 63})
    stores({64, 64, 32}, 70, 129, start, 129);
  for (int64_t stride : {257, 258, 259, 320, 333, -301})
    stores({128, 128, 32}, 131, 257, 1, stride);
  stores({128, 256, 32}, 200, 511, 3, 511);
  stores({128, 256, 32}, 100, 513, 0, 513);
  stores({256, 128, 32}, 257, 128, 5, 131);
  stores({64, 128, 32}, 3, 17, 1, 17);
}

// Blocks have even shares of all steps; a program that is cut is finished where it begins. One block or many, more than
// there are steps too, tiles held by one group of warps, by both and by groups in turn, and without a workspace.
TEST(NvptxRing, BlocksShareStepsEvenly) {
  auto shares = [](Product product, int64_t m, int64_t n, int64_t k, std::vector<int> blocks) {
    SCOPED_TRACE(std::to_string(m) + " x " + std::to_string(n) + " x " + std::to_string(k));
    product.attributes = ", tile.stream_k";
    Operands<bf16, float> data(product, m, n, k);
    auto kernel = agrees(product.text(), {data.a, data.b, data.c},
                         {.grid = product.grid(m, n), .tolerance = 0, .warps = {0}, .blocks = blocks});
    EXPECT_EQ(kernel->workspaceBytes, product.block[0] * product.block[1] * 4);
  };
  for (int64_t depth : {0, 16, 17, 200})
    shares({.block = {64, 64, 32}}, 100, 70, depth, {1, 2, 3, 5, 7, 13});
  shares({.block = {64, 64, 32}}, 300, 130, 136, {4, 7, 8, 14}); // 15 programs: a small last wave, and a large one
  shares({.block = {64, 64, 16}}, 60, 50, 200, {3, 9});          // one program, for so many blocks at most
  shares({.block = {16, 64, 32}}, 40, 70, 200, {4, 5});          // swapped
  shares({.block = {128, 128, 64}}, 130, 300, 200, {4, 5, 8});   // in turn
  shares({.block = {256, 128, 64}}, 200, 300, 200, {2, 5});      // two groups
  Product product{.block = {64, 64, 128}, .bByColumns = true, .attributes = ", tile.stream_k"};
  multiplies<int8_t, int32_t>(product, 100, 70, 300, Way::Copied, {0}, {3, 5});
}

TEST(NvptxRing, SharesStepsOnlyOfSumsAlone) {
  for (std::string body :
       {replaced(replaced(loopBody, "%r =", "%out ="), "%none) ->", "%one_each) ->"), // not from zero
        replaced(replaced(loopBody, "%r =", "%out ="), "%z to", "%rows to"),          // longer in some programs
        loopHead + loadOf("x", "a", "%rows, %at") + loadOf("y", "b", "%at, %columns") + dotOf("p", "%x, %y, %acc") +
            "%sum = arith.negf %p : ACC\nscf.yield %sum : ACC\n}\n" + "%out = arith.addf %r, %none : ACC\n"})
    agreesAround("%one_each = arith.constant dense<1.0> : ACC\n" + body, Way::Copied, ", tile.stream_k");
}

TEST(NvptxRing, SplitsTheDepthAmongTheBlocksOfACluster) {
  for (int split : {2, 3, 4, 8})
    for (int64_t depth : {0, 16, 200}) {
      Product product{.block = {64, 64, 32}, .attributes = ", tile.split = " + std::to_string(split) + " : i32"};
      Operands<bf16, float> data(product, 100, 70, depth);
      auto kernel = agrees(product.text(), {data.a, data.b, data.c},
                           {.grid = product.grid(100, 70), .tolerance = 0, .warps = {0}, .blocks = {1, 3}});
      EXPECT_EQ(kernel->cluster, split);
      product.block = {16, 64, 32};
      product.epilogue = "  %out = arith.truncf %sum : tensor<16x64xf32> to tensor<16x64xbf16>";
      multiplies<bf16, float, bf16>(product, 40, 70, depth);
    }
  for (std::string more : {", tile.stages = 1 : i32", ", tile.stages = 2 : i32, tile.num_warps = 8 : i32"}) {
    Product product{.block = {64, 64, 32}, .attributes = ", tile.split = 2 : i32" + more};
    multiplies<bf16>(product, 100, 70, 200);
    product.bByColumns = true;
    multiplies<int8_t, int32_t>(product, 100, 70, 200);
  }
}

// A program writes once, however many blocks run it.
TEST(NvptxRing, WritesOnceThoughBlocksShareAProgram) {
  std::vector<int32_t> count = {0};
  const std::string counts = "%q = arith.constant 1 : i32\n"
                             "%old = tile.atomic add %q, %n[%z] : i32, !tile.view<?xi32>, i64\n";
  for (std::string body :
       {counts + replaced(loopBody, "%r =", "%out ="), replaced(loopBody, "%r =", "%out =") + counts})
    agreesAround(body, Way::Copied, ", tile.split = 2 : i32", ", %n: !tile.view<?xi32>", {count});
}
