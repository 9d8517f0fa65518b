// Blocks of a cluster that load together what their programs have in common, in the emulator: what comes out, what may
// be shared, and that mistakes in it would be found.
#include "bitloom/tests/unit/lowering/Products.h"

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
  for (int cluster : {2, 4, 8})
    for (auto [m, n] : {std::array{300, 130}, std::array{64, 64}, std::array{1, 199}, std::array{512, 64}})
      for (int64_t k : {0, 17, 600})
        multiplies({.block = {64, 64, 64}}, cluster, m, n, k, {1, 3});
}

TEST(NvptxMulticast, SharesOperandsOfEveryTypeEitherWayRound) {
  for (bool aByColumns : {false, true})
    for (bool bByColumns : {false, true}) {
      Product product{.block = {64, 128, 64}, .aByColumns = aByColumns, .bByColumns = bByColumns};
      multiplies(product, 2, 200, 199, 136);
      product.block = {128, 64, 64};
      multiplies<f16, float, f16>(product, 4, 300, 300, 72);
    }
  multiplies<int8_t, int32_t>({.block = {64, 64, 128}, .bByColumns = true}, 2, 100, 70, 300);
  multiplies<f32>({.block = {64, 64, 32}, .bByColumns = true, .dotAttributes = " {precision = 1 : i32}"}, 2, 100, 70,
                  99);
}

// One group of warps, two that share a tile, two that take programs in turn, and operands swapped for a short m.
TEST(NvptxMulticast, SharesTilesOfGroupsOfWarps) {
  multiplies({.block = {128, 256, 64}, .bByColumns = true}, 2, 400, 300, 200);
  multiplies({.block = {128, 128, 64}, .bByColumns = true}, 2, 400, 300, 400, {1, 2, 3});
  multiplies({.block = {128, 128, 64}}, 4, 130, 300, 1);
  multiplies({.block = {256, 128, 32}}, 4, 300, 600, 100);
  multiplies({.block = {16, 64, 32}, .epilogue = "  %out = arith.negf %sum : tensor<16x64xf32>"}, 2, 40, 70, 200);
  multiplies({.block = {64, 64, 64}, .attributes = ", tile.stages = 1 : i32"}, 2, 200, 100, 300);
}

// The larger operand is the one in common: of 64 x 128 tiles that of b, by two blocks one above the other, each with
// half of its lines, or of its boxes where n is contiguous.
TEST(NvptxMulticast, SharesTheLargerOperand) {
  auto boxes = [](std::array<int64_t, 3> block, bool byColumns) {
    auto kernel = multiplies({.block = block, .aByColumns = byColumns, .bByColumns = byColumns}, 2, 200, 300, 100);
    std::vector<std::vector<int32_t>> found;
    for (const TensorMapRequest &request : kernel->requests)
      if (request.dtype == DType::bf16)
        found.push_back(request.box);
    return found;
  };
  using Boxes = std::vector<std::vector<int32_t>>;
  EXPECT_EQ(boxes({64, 128, 64}, true), (Boxes{{64, 64}}));  // a's and half of b's
  EXPECT_EQ(boxes({128, 64, 64}, false), (Boxes{{64, 64}})); // half of a's and b's
  EXPECT_EQ(boxes({64, 256, 64}, true), (Boxes{{64, 64}, {64, 128}}));
  EXPECT_EQ(boxes({64, 256, 64}, false), (Boxes{{64, 64}}));
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
  Operands<bf16, float> data(product, 330, 130, 100); // 6 x 3 programs: two of a cluster are missing
  auto kernel = agrees(product.text(), {data.a, data.b, data.c, count},
                       {.grid = product.grid(330, 130), .tolerance = 0, .warps = {0}, .blocks = {1, 2}});
  EXPECT_TRUE(sharesLoads(*kernel));
}

TEST(NvptxMulticast, SharesNothingWhereBlocksWouldNotStepTogether) {
  const Product plain{.block = {64, 64, 64}, .attributes = hint(2)};
  auto loadsForItself = [](const Product &product, const std::string &text) {
    Operands<bf16, float> data(product, 200, 130, 200);
    auto kernel = agrees(text, {data.a, data.b, data.c},
                         {.grid = product.grid(200, 130), .tolerance = 0, .warps = {0}, .blocks = {2}});
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
  Operands<bf16, float> data(rowwise, 200, 130, 200);
  auto kernel = agrees(replaced(text, "%z to %depth", "%z to %rows"), {data.a, data.b, data.c},
                       {.grid = rowwise.grid(200, 130), .tolerance = 0, .warps = {0}, .blocks = {2}});
  EXPECT_TRUE(sharesLoads(*kernel));
}

//===- Mistakes ---------------------------------------------------------------------------------------------------===//

namespace {

// What the emulator says of code in which `what` is `by`.
std::string complaint(const std::string &what, const std::string &by) {
  Product product{.block = {64, 64, 64}, .bByColumns = true, .attributes = hint(2)};
  Operands<bf16, float> data(product, 200, 130, 900);
  const EmulatedKernel kernel(Program::parse(product.text(), "kernel.mlir"));
  std::string ptx = replaced(kernel.ptx, what, by);
  EXPECT_TRUE(what.empty() || ptx != kernel.ptx) << what << " in\n" << ptx;
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
  for (int64_t extent : product.grid(200, 130))
    words.push_back(extent);
  try {
    emulator.launch(words, {4, 1, 1}, kernel.sharedBytes, maps);
  } catch (const PtxError &error) {
    return error.what();
  }
  return "";
}

void finds(const std::string &mistake, const std::string &what, const std::string &by) {
  std::string found = complaint(what, by);
  EXPECT_NE(found.find(mistake), std::string::npos) << what << " → " << by << ": " << found;
}

} // namespace

TEST(NvptxMulticast, MistakesAreFound) {
  EXPECT_EQ(complaint("", ""), "");
  // A slot is filled when its own block has read it; or waits for more than there are.
  finds("more arrivals than the mbarrier expects", ", 8;\n\t// end inline asm", ", 4;\n\t// end inline asm");
  finds("deadlock", ", 8;\n\t// end inline asm", ", 9;\n\t// end inline asm");
  // Consumers tell their own block only.
  finds("deadlock", "mapa.shared::cluster.u32 there, ", "mov.u32 there, ");
  // Half of the tile is waited for, or comes to one block.
  finds("race on shared memory: wgmma", ", 16384;", ", 12288;");
}
