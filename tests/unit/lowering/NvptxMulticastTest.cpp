// Blocks of a cluster that load together what their programs have in common, in the emulator: what comes out, what may
// be shared, and that mistakes in it would be found.
#include "bitloom/tests/unit/lowering/Products.h"

#include <regex>

using namespace bitloom;

namespace {

std::string hint(int blocks) { return ", tile.multicast = " + std::to_string(blocks) + " : i32"; }

bool sharesLoads(const EmulatedKernel &kernel) { return kernel.ptx.find(".multicast::cluster") != std::string::npos; }

// Whether the kernel's result is right, in as many blocks a cluster as the hint says.
template <Element In = bf16, Element Sum = float, Element Out = Sum>
std::unique_ptr<EmulatedKernel> multiplies(Product product, int cluster, int64_t m, int64_t n, int64_t k,
                                           std::vector<int> blocks = {1, 2}) {
  SCOPED_TRACE(std::to_string(cluster) + " blocks, " + std::to_string(m) + " x " + std::to_string(n) + " x " +
               std::to_string(k));
  product.operand = irType<In>(), product.sum = irType<Sum>(), product.result = irType<Out>();
  product.attributes += hint(cluster);
  Operands<In, Out> data(product, m, n, k);
  auto kernel = agrees(product.text(), {data.a, data.b, data.c},
                       {.grid = product.grid(m, n), .tolerance = 0, .warps = {0}, .blocks = blocks});
  EXPECT_EQ(kernel->cluster, cluster);
  EXPECT_TRUE(sharesLoads(*kernel));
  return kernel;
}

} // namespace

// Grids whose extent is and is no multiple of the cluster's, and smaller than it; no steps, one, and more than slots.
TEST(NvptxMulticast, SharesTilesOfNeighbours) {
  const Product product{.block = {64, 64, 32}, .attributes = ", tile.stages = 3 : i32"};
  for (int cluster : {2, 4})
    for (auto [m, n] : {std::array{300, 132}, std::array{64, 64}, std::array{1, 200}})
      for (int64_t k : {0, 17, 150})
        multiplies(product, cluster, m, n, k, {1, 3});
  multiplies(product, 8, 580, 64, 150, {1, 5}); // more clusters than there is work for
}

TEST(NvptxMulticast, SharesOperandsOfEveryTypeEitherWayRound) {
  for (bool aByColumns : {false, true})
    for (bool bByColumns : {false, true}) {
      Product product{.block = {64, 128, 32}, .aByColumns = aByColumns, .bByColumns = bByColumns};
      multiplies(product, 2, 200, 196, 72, {2});
      product.block = {128, 64, 32};
      multiplies<f16>(product, 4, 300, 200, 72, {1});
    }
  multiplies<int8_t, int32_t>({.block = {64, 64, 64}, .bByColumns = true}, 2, 100, 68, 150, {2});
  multiplies<f32>({.block = {64, 64, 32}, .bByColumns = true, .dotAttributes = " {precision = 1 : i32}"}, 2, 100, 68,
                  99, {2});
}

// One group of warps, two that share a tile, two that take programs in turn, and operands swapped for a short m.
TEST(NvptxMulticast, SharesTilesOfGroupsOfWarps) {
  multiplies({.block = {128, 256, 64}, .bByColumns = true}, 2, 200, 300, 100, {2});
  multiplies({.block = {128, 128, 32}, .bByColumns = true, .attributes = ", tile.stages = 3 : i32"}, 2, 400, 300, 200,
             {1, 2, 3});
  multiplies({.block = {128, 128, 64}}, 4, 130, 300, 1, {2});
  multiplies({.block = {256, 128, 32}}, 2, 300, 132, 100, {1});
  multiplies({.block = {16, 64, 32}, .epilogue = "  %out = arith.negf %sum : tensor<16x64xf32>"}, 2, 40, 68, 200);
  multiplies({.block = {64, 64, 64}, .attributes = ", tile.stages = 1 : i32"}, 2, 200, 100, 200);
}

// The larger operand is the one in common. A block copies half of its lines, or of its boxes where it has several.
TEST(NvptxMulticast, SharesTheLargerOperand) {
  struct Copies {
    std::vector<int32_t> boxA, boxB;
    size_t shared; // copies a step
    bool operator==(const Copies &) const = default;
  };
  auto copies = [](std::array<int64_t, 3> block, bool byColumns) {
    auto kernel = multiplies({.block = block, .aByColumns = byColumns, .bByColumns = byColumns}, 2, 100, 260, 72, {1});
    Copies found{kernel->requests.at(0).box, kernel->requests.at(1).box, 0};
    for (size_t at = 0; (at = kernel->ptx.find(".multicast::cluster", at)) != std::string::npos; ++at)
      ++found.shared;
    return found;
  };
  // Of a [m, k] and b [k, n] in memory, then of a [k, m] and b [n, k].
  EXPECT_EQ(copies({64, 256, 64}, false), (Copies{{64, 64}, {64, 64}, 2}));
  EXPECT_EQ(copies({256, 64, 64}, false), (Copies{{64, 128}, {64, 64}, 1}));
  EXPECT_EQ(copies({64, 256, 64}, true), (Copies{{64, 64}, {64, 128}, 1}));
  EXPECT_EQ(copies({256, 64, 64}, true), (Copies{{64, 64}, {64, 64}, 2}));
}

// A program of the cluster that does not exist loads for the others, and does nothing else.
TEST(NvptxMulticast, ProgramsBeyondTheGridWriteNothing) {
  Product product{.block = {64, 64, 64},
                  .attributes = hint(4),
                  .parameters = ", %n: !tile.view<?xi32>",
                  .epilogue = "%q = arith.constant 1 : i32\n"
                              "%old = tile.atomic add %q, %n[%z] : i32, !tile.view<?xi32>, i64\n"
                              "%was = tile.load %c[%rows, %columns] dims [0, 1] : !tile.view<?x?xf32> -> "
                              "tensor<64x64xf32>\n%out = arith.addf %was, %sum : tensor<64x64xf32>"};
  std::vector<int32_t> count = {0};
  Operands<bf16, float> data(product, 330, 132, 100); // 6 x 3 programs: two of a cluster are missing
  auto kernel = agrees(product.text(), {data.a, data.b, data.c, count},
                       {.grid = product.grid(330, 132), .tolerance = 0, .warps = {0}, .blocks = {1, 2}});
  EXPECT_TRUE(sharesLoads(*kernel));
}

TEST(NvptxMulticast, SharesNothingWhereBlocksWouldNotStepTogether) {
  const Product plain{.block = {64, 64, 64}, .attributes = hint(2)};
  auto loadsForItself = [](const Product &product, const std::string &text) {
    Operands<bf16, float> data(product, 200, 132, 200);
    auto kernel = agrees(text, {data.a, data.b, data.c},
                         {.grid = product.grid(200, 132), .tolerance = 0, .warps = {0}, .blocks = {2}});
    EXPECT_FALSE(sharesLoads(*kernel)) << text;
    EXPECT_TRUE(kernel->isPersistent);
  };
  Product other = plain;
  other.attributes += ", tile.split = 2 : i32";
  loadsForItself(other, other.text());
  other.attributes = plain.attributes + ", tile.stream_k";
  loadsForItself(other, other.text());
  // As many steps as both coordinates say, or tiles that lie where both say.
  const std::string text = plain.text();
  loadsForItself(plain, replaced(replaced(text, "%z to %depth", "%z to %both"),
                                 "%none =", "%both = arith.addi %rows, %columns : i64\n%none ="));
  loadsForItself(plain,
                 replaced(replaced(replaced(text, "%a[%rows, %at]", "%a[%rows, %all]"), "%b[%at,", "%b[%all,"),
                          "    %x =", "%both = arith.addi %i, %j : i64\n%all = arith.addi %at, %both : i64\n%x ="));
  // Something written before the loop, which a program that does not exist would write, too.
  loadsForItself(plain, replaced(text, "%sum = scf.for",
                                 "tile.store %none, %c[%rows, %columns] dims [0, 1] : tensor<64x64xf32>, "
                                 "!tile.view<?x?xf32>\n%sum = scf.for"));
  // A loop as long as the row says is of as many steps in programs of a row.
  Product rowwise = plain;
  rowwise.block = {64, 64, 64};
  Operands<bf16, float> data(rowwise, 200, 132, 200);
  auto kernel = agrees(replaced(text, "%z to %depth", "%z to %rows"), {data.a, data.b, data.c},
                       {.grid = rowwise.grid(200, 132), .tolerance = 0, .warps = {0}, .blocks = {2}});
  EXPECT_TRUE(sharesLoads(*kernel));
}

//===- Mistakes ---------------------------------------------------------------------------------------------------===//

namespace {

const Product wrongly{.block = {64, 64, 32}, .bByColumns = true, .attributes = ", tile.stages = 3 : i32" + hint(2)};

// What the emulator says of this code instead of the kernel's.
std::string complaint(const EmulatedKernel &kernel, const std::string &ptx) {
  Operands<bf16, float> data(wrongly, 200, 132, 300);
  PtxEmulator emulator(ptx);
  LaunchArguments arguments;
  for (const Argument &argument : std::vector<Argument>{data.a, data.b, data.c}) {
    arguments.addView(argument.tensor);
    emulator.allow(memoryOf(argument.tensor).data(), memoryOf(argument.tensor).size());
  }
  std::vector<int64_t> words(arguments.words().begin(), arguments.words().end());
  std::vector<TensorMap> maps;
  for (const TensorMapRequest &request : kernel.requests)
    maps.push_back(request.of(words));
  for (int64_t extent : wrongly.grid(200, 132))
    words.push_back(extent);
  try {
    emulator.launch(words, {4, 1, 1}, kernel.sharedBytes, maps);
  } catch (const PtxError &error) {
    return error.what();
  }
  return "";
}

} // namespace

TEST(NvptxMulticast, MistakesAreFound) {
  const EmulatedKernel kernel(Program::parse(wrongly.text(), "kernel.mlir"));
  const std::string &right = kernel.ptx;
  EXPECT_EQ(complaint(kernel, right), "");
  auto finds = [&](const std::string &mistake, const std::string &wrong) {
    EXPECT_NE(wrong, right);
    std::string found = complaint(kernel, wrong);
    EXPECT_NE(found.find(mistake), std::string::npos) << found;
  };
  auto rewritten = [&](const char *what, const char *by) { return std::regex_replace(right, std::regex(what), by); };
  const std::string tooEarly = "race on shared memory: cp.async.bulk.tensor";
  // A slot is filled when half of its readers are done with it, or waits for more than there are.
  finds(tooEarly, replaced(right, "], 8;", "], 4;"));
  finds("deadlock", replaced(right, "], 8;", "], 9;"));
  // Consumers tell their own block, twice; or only the first one.
  const char *const arrival = R"(@(%p\d+) mapa\.shared::cluster\.u32 there, (%r\d+), (%r\d+);\s*@%p\d+ )";
  finds(tooEarly, rewritten(arrival, "mov.u32 there, $2; @$1 "));
  finds("deadlock", rewritten(arrival, ".reg .pred own; setp.eq.u32 own, $3, 0;\n"
                                       "@own mapa.shared::cluster.u32 there, $2, $3;\n@own "));
  // A part comes to the first block only; half of the bytes are waited for.
  finds("deadlock", rewritten(R"((mov\.b16\s+%rs\d+), 3;)", "$1, 1;"));
  finds("race on shared memory: wgmma", replaced(right, "], 8192;", "], 4096;"));
  // Blocks begin, or leave, without the others.
  auto without = [&](const std::string &order) {
    return replaced(right, "barrier.cluster.arrive." + order + ";\n\tbarrier.cluster.wait.acquire;", "bar.sync 0;");
  };
  finds("race between an mbarrier's initialisation and its use: cp.async", without("relaxed"));
  finds("a block ends while others of its cluster may be at its shared memory", without("release"));
}
