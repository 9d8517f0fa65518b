// Packed values as numbers of 16 bits, and products with them on the tensor cores, against the interpreter. The PTX
// runs in an emulator. Every bit of the results counts: conversions are exact for all code points.
#include "bitloom/lib/packing/PackingFor.h"
#include "bitloom/tests/unit/lowering/Products.h"

#include <regex>

using namespace bitloom;

namespace {

// Bytes of every value, in no order that a layout knows.
void fillWithAllBytes(std::vector<int8_t> &bytes) {
  uint64_t seed = 7;
  for (size_t i = 0; i < bytes.size(); ++i) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    bytes[i] = i < 256 ? int8_t(i) : int8_t(seed >> 40);
  }
}

template <Element T> void converts(int bits, const std::string &order, int block, bool isSigned, int together = 1) {
  const int64_t columns = std::max(block, 64) * 2, bytesPerRow = columns * bits / 8;
  std::string packing = "\"bits=" + std::to_string(bits) + ",order=" + order + ",block=" + std::to_string(block) +
                        (together > 1 ? ",rows=" + std::to_string(together) : "") + "\"";
  SCOPED_TRACE(packing + (isSigned ? " signed " : " ") + irType<T>());
  Data<int8_t> bytes({16 / together, bytesPerRow * together});
  fillWithAllBytes(bytes.values);
  Data<T> out({16, columns}, 2);
  std::string type = irType<T>(), packed = tileType(bytes.shape, "i8"), values = tileType(out.shape, "i8"),
              numbers = tileType(out.shape, type);
  agrees("func.func @k(%a: !tile.view<?x?xi8>" + aligned + ", %o: !tile.view<?x?x" + type + ">" + aligned +
             ") attributes {tile.kernel} {\n%z = arith.constant 0 : i64\n%b = tile.load %a[%z, %z] dims [0, 1] : "
             "!tile.view<?x?xi8> -> " +
             packed + "\n%u = tile.unpack %b " + (isSigned ? "signed " : "") + "<" + packing + "> : " + packed +
             " -> " + values + "\n%f = arith." + (isSigned ? "sitofp" : "uitofp") + " %u : " + values + " to " +
             numbers + "\ntile.store %f, %o[%z, %z] dims [0, 1] : " + numbers + ", !tile.view<?x?x" + type +
             ">\nreturn\n}",
         {bytes, out}, {.tolerance = 0, .warps = {4}});
}

} // namespace

TEST(NvptxPacked, BecomesHalvesExactly) {
  for (int bits = 1; bits <= 8; ++bits)
    for (bool isSigned : {false, true})
      for (auto [order, block] :
           {std::pair("fragments", 128), std::pair("planar", 128), std::pair("low", 8), std::pair("high", 8)}) {
        if (block == 8 && bits != 3 && bits != 4)
          continue;
        converts<f16>(bits, order, block, isSigned);
        converts<bf16>(bits, order, block, isSigned);
        if (order == std::string("fragments"))
          converts<f16>(bits, order, block, isSigned, 8);
      }
}

namespace {

// out^T = scale · (weight · x^T), block by block, as kernels/low_bit_linear computes it.
struct How {
  std::string attributes = "", packing = ""; // "": that of GPUs
  int warps = 0;
  bool isAligned = true;            // x, the scales and the result
  bool isShifted = false;           // the weight by numbers of its rows
  bool isTabled = false;            // the values are places in a table, of 4 bits
  int groups = 1;                   // of a block, whose values are multiplied by their scales before the dot
  bool isScaledAfter = groups == 1; // its sums instead
  int atOnce = 1;                   // blocks of the depth in a step
};

template <Element T>
std::unique_ptr<EmulatedKernel> multiplies(int bits, int64_t blockN, int64_t blockM, std::array<int64_t, 3> extents,
                                           const How &how = {}) {
  auto [m, n, k] = extents;
  SCOPED_TRACE(std::to_string(bits) + " bits, " + irType<T>() + ", " + std::to_string(m) + " x " + std::to_string(n));
  const Packing packing = how.packing.empty() ? packingFor(parseTarget("sm_90a"), bits)
                                              : Packing::parse("bits=" + std::to_string(bits) + "," + how.packing);
  const int64_t together = packing.rows;
  const int64_t blocks = (k + 127) / 128, panels = (n + together - 1) / together, perBlock = 16 * bits * together;
  std::string text = R"(
func.func @k(%x: !tile.view<?x?xELEMENT>EVEN, %w: !tile.view<?x?xi8>ALIGNED, %s: !tile.view<?x?xELEMENT>EVEN, %t16: !tile.view<?xELEMENT>,
             %o: !tile.view<?x?xELEMENT>EVEN) attributes {tile.kernelMORE} {
  %i = tile.program_id 0
  %j = tile.program_id 1
  %bn = arith.constant BLOCKN : i64
  %bm = arith.constant BLOCKM : i64
  %cols = arith.muli %i, %bn : i64
  %bp = arith.constant PANELS : i64
  %panels = arith.muli %i, %bp : i64
  %rows = arith.muli %j, %bm : i64
  %perRow = arith.constant GROUPS : i64
  %numbers = arith.muli %cols, %perRow : i64
  %z = arith.constant 0 : i64
  %one = arith.constant 1 : i64
  %c128 = arith.constant 128 : i64
  %c127 = arith.constant ROUNDING : i64
  %cDepth = arith.constant DEPTH : i64
  %atOnce = arith.constant ATONCE : i64
  %bytes = arith.constant BYTES : i64
  %k = tile.extent %x, 1 : !tile.view<?x?xELEMENT>
  %more = arith.addi %k, %c127 : i64
  %steps = arith.divui %more, %cDepth : i64
  %none = arith.constant dense<0.0> : tensor<BLOCKNxBLOCKMxf32>
  %entries = tile.load %t16[%z] dims [0] : !tile.view<?xELEMENT> -> tensor<16xELEMENT>
  %sum = scf.for %step = %z to %steps step %one iter_args(%acc = %none) -> tensor<BLOCKNxBLOCKMxf32> : i64 {
    %first = arith.muli %step, %atOnce : i64
    PARTS
    scf.yield %nextLAST : tensor<BLOCKNxBLOCKMxf32>
  }
  %out = arith.truncf %sum : tensor<BLOCKNxBLOCKMxf32> to tensor<BLOCKNxBLOCKMxELEMENT>
  %turned = tile.transpose %out [1, 0] : tensor<BLOCKNxBLOCKMxELEMENT> -> tensor<BLOCKMxBLOCKNxELEMENT>
  tile.store %turned, %o[%rows, %cols] dims [0, 1] : tensor<BLOCKMxBLOCKNxELEMENT>, !tile.view<?x?xELEMENT>
  return
})";
  const std::string part = R"(%iPART = arith.constant PART : i64
    %b = arith.addi %first, %iPART : i64
    %at = arith.muli %b, %bytes : i64
    %p = tile.load %w[%panels, %at] dims [0, 1] : !tile.view<?x?xi8> -> tensor<PANELSxBYTESxi8>
    %u = tile.unpack %p SIGNED<"PACKING"> : tensor<PANELSxBYTESxi8> -> tensor<BLOCKNx128xi8>
    %g = NUMBERED
    %from = arith.muli %b, %c128 : i64
    %v = tile.load %x[%rows, %from] dims [0, 1] : !tile.view<?x?xELEMENT> -> tensor<BLOCKMx128xELEMENT>
    %t = tile.transpose %v [1, 0] : tensor<BLOCKMx128xELEMENT> -> tensor<128xBLOCKMxELEMENT>
    SCALED)";
  // The sums of a block by its scale, or the values by those of their groups.
  const std::string one =
      R"(%q = tile.load %s[%b, %numbers] dims [1] : !tile.view<?x?xELEMENT> -> tensor<BLOCKNxELEMENT>
    SHIFTED
    %d = tile.dot VALUES, %t, %none : tensor<BLOCKNx128xELEMENT>, tensor<128xBLOCKMxELEMENT>, tensor<BLOCKNxBLOCKMxf32>
    %e = arith.extf %q : tensor<BLOCKNxELEMENT> to tensor<BLOCKNxf32>
    %c = tile.reshape %e : tensor<BLOCKNxf32> -> tensor<BLOCKNx1xf32>
    %wide = tile.broadcast %c : tensor<BLOCKNx1xf32> -> tensor<BLOCKNxBLOCKMxf32>
    %scaled = arith.mulf %d, %wide : tensor<BLOCKNxBLOCKMxf32>
    %next = arith.addf %acc, %scaled : tensor<BLOCKNxBLOCKMxf32>)";
  const std::string each =
      R"(%q = tile.load %s[%b, %numbers] dims [1] : !tile.view<?x?xELEMENT> -> tensor<NUMBERSxELEMENT>
    %l = tile.reshape %q : tensor<NUMBERSxELEMENT> -> tensor<BLOCKNxGROUPSxELEMENT>
    %r = tile.reshape %l : tensor<BLOCKNxGROUPSxELEMENT> -> tensor<BLOCKNxGROUPSx1xELEMENT>
    %y = tile.broadcast %r : tensor<BLOCKNxGROUPSx1xELEMENT> -> tensor<BLOCKNxGROUPSxWIDTHxELEMENT>
    %h = tile.reshape %y : tensor<BLOCKNxGROUPSxWIDTHxELEMENT> -> tensor<BLOCKNx128xELEMENT>
    SHIFTED
    %n = arith.mulf VALUES, %h : tensor<BLOCKNx128xELEMENT>
    %next = tile.dot %n, %t, %acc : tensor<BLOCKNx128xELEMENT>, tensor<128xBLOCKMxELEMENT>, tensor<BLOCKNxBLOCKMxf32>)";
  const std::string lookUp =
      "tile.lut %entries, %u : tensor<16xELEMENT>, tensor<BLOCKNx128xi8> -> tensor<BLOCKNx128xELEMENT>";
  const std::string number = "arith.sitofp %u : tensor<BLOCKNx128xi8> to tensor<BLOCKNx128xELEMENT>";
  const std::string shift = how.isScaledAfter
                                ? R"(%sr = tile.reshape %q : tensor<BLOCKNxELEMENT> -> tensor<BLOCKNx1xELEMENT>
    %sy = tile.broadcast %sr : tensor<BLOCKNx1xELEMENT> -> tensor<BLOCKNx128xELEMENT>
    %f = arith.subf %g, %sy : tensor<BLOCKNx128xELEMENT>)"
                                : "%f = arith.subf %g, %h : tensor<BLOCKNx128xELEMENT>";
  const std::regex ofPart("%(at|b|p|u|g|from|v|t|q|d|e|c|wide|scaled|next|l|r|y|h|n|f|sr|sy)\\b");
  std::string parts;
  for (int i = 0; i < how.atOnce; ++i) {
    std::string own = part;
    for (auto &[name, value] : {std::pair("SCALED", how.isScaledAfter ? one : each),
                                std::pair("SHIFTED", how.isShifted ? shift : std::string()),
                                std::pair("VALUES", std::string(how.isShifted ? "%f" : "%g")),
                                std::pair("NUMBERED", how.isTabled ? lookUp : number)})
      own = replaced(own, name, value);
    own = std::regex_replace(own, ofPart, "%$1_PART");
    own = replaced(own, "%acc", i ? "%next_" + std::to_string(i - 1) : "%acc");
    parts += replaced(own, "PART", std::to_string(i)) + "\n    ";
  }
  for (auto &[name, value] :
       std::vector<std::pair<std::string, std::string>>{{"ALIGNED", aligned},
                                                        {"EVEN", how.isAligned ? aligned : ""},
                                                        {"PARTS", parts},
                                                        {"LAST", "_" + std::to_string(how.atOnce - 1)},
                                                        {"ROUNDING", std::to_string(128 * how.atOnce - 1)},
                                                        {"DEPTH", std::to_string(128 * how.atOnce)},
                                                        {"ATONCE", std::to_string(how.atOnce)},
                                                        {"SIGNED", how.isTabled ? "" : "signed "},
                                                        {"NUMBERS", std::to_string(blockN * how.groups)},
                                                        {"GROUPS", std::to_string(how.groups)},
                                                        {"WIDTH", std::to_string(128 / how.groups)},
                                                        {"MORE", how.attributes},
                                                        {"ELEMENT", irType<T>()},
                                                        {"PANELS", std::to_string(blockN / together)},
                                                        {"BLOCKN", std::to_string(blockN)},
                                                        {"BLOCKM", std::to_string(blockM)},
                                                        {"BYTES", std::to_string(perBlock)},
                                                        {"PACKING", packing.toString()}})
    text = replaced(text, name, value);
  Aligned<T> x({m, k}), scales({blocks, n * how.groups}, 2), table({16}, 5), out({m, n}, 3);
  if (!how.isAligned)
    x = Aligned<T>({m, k}, {k, 1}, 1), scales = Aligned<T>({blocks, n * how.groups}, {n * how.groups, 1}, 2),
    out = Aligned<T>({m, n}, {n, 1}, 3);
  Aligned<int8_t> weight({panels, blocks * perBlock}, 4);
  fillWithAllBytes(weight.values);
  auto kernel = agrees(text, {x, weight, scales, table, out},
                       {.grid = {(n + blockN - 1) / blockN, (m + blockM - 1) / blockM, 1},
                        .tolerance = 0,
                        .warps = {how.warps},
                        .blocks = {2}});
  EXPECT_NE(kernel->ptx.find("wgmma.mma_async"), std::string::npos);
  EXPECT_TRUE(kernel->isPersistent);
  EXPECT_FALSE(std::regex_search(kernel->ptx, std::regex("cvt.rn.[a-z]*[0-9]*.[us]")))
      << "two at a time, without conversions";
  return kernel;
}

} // namespace

// The bytes, x and the scales come by the copy engine; the weight goes to the tensor cores from registers.
TEST(NvptxPacked, MultipliesFromRegisters) {
  for (int bits = 1; bits <= 8; ++bits) {
    auto kernel = multiplies<f16>(bits, 64, 8, {3, 70, 200});
    const size_t lines = bits > 1 && bits % 2 ? 2 : 1; // of 128 bytes, and of 64 for one bit beside others
    EXPECT_EQ(kernel->requests.size(), lines + 2) << "tensor maps: of the planes, of x and the scales";
    EXPECT_EQ(kernel->ptx.find("ld.global"), std::string::npos);
    EXPECT_EQ(kernel->ptx.find("prmt"), std::string::npos) << "the two values of a word lie as they are wanted";
    multiplies<bf16>(bits, 64, 8, {1, 70, 200});
  }
}

TEST(NvptxPacked, TakesEveryOrderApart) {
  for (int bits = 1; bits <= 8; ++bits)
    for (std::string packing : {"order=planar,block=128", "order=low,block=8", "order=high,block=8"}) {
      if (!packing.starts_with("order=planar") && bits % 4)
        continue; // there threads differ in where in a byte their values start
      multiplies<f16>(bits, 64, 8, {8, 64, 128}, {.packing = packing});
      multiplies<bf16>(bits, 64, 8, {8, 64, 128}, {.packing = packing});
    }
}

TEST(NvptxPacked, MultipliesBlocksOfManyShapes) {
  multiplies<f16>(4, 128, 16, {17, 136, 264});
  multiplies<bf16>(4, 256, 8, {1, 520, 136}, {.warps = 16});
  multiplies<f16>(3, 128, 64, {65, 130, 136});
  multiplies<f16>(4, 128, 128, {130, 136, 264});
  multiplies<f16>(7, 64, 8, {3, 200, 1700}); // the rings go round
}

TEST(NvptxPacked, MultipliesWhatIsUnalignedOrHasZeroPoints) {
  for (int bits : {3, 4}) {
    multiplies<f16>(bits, 64, 8, {3, 71, 397}, {.isAligned = false});
    multiplies<bf16>(bits, 64, 8, {3, 70, 300}, {.isShifted = true});
  }
}

// Two values at a time are multiplied by the scales of their groups, which come in one piece.
TEST(NvptxPacked, MultipliesGroupsByTheirScales) {
  for (int groups : {2, 4, 8, 16}) {
    auto kernel = multiplies<f16>(4, 64, 8, {3, 70, 397}, {.groups = groups});
    EXPECT_EQ(kernel->ptx.find("mul.rn.f16 "), std::string::npos);
    multiplies<bf16>(3, 64, 8, {1, 71, 200}, {.isShifted = true, .groups = groups});
  }
  multiplies<f16>(8, 128, 64, {65, 130, 264}, {.isShifted = true, .groups = 4});
  multiplies<bf16>(4, 128, 256, {257, 130, 136}, {.groups = 2});
  multiplies<f16>(2, 64, 16, {17, 71, 270}, {.isAligned = false, .groups = 4});
}

// In registers, four places at a time.
TEST(NvptxPacked, LooksUpInTables) {
  for (int groups : {1, 4}) {
    auto kernel = multiplies<f16>(4, 64, 8, {3, 70, 397}, {.isTabled = true, .groups = groups});
    EXPECT_NE(kernel->ptx.find("prmt"), std::string::npos);
    EXPECT_EQ(kernel->ptx.find("st.shared.b16"), std::string::npos);
    multiplies<bf16>(4, 128, 16, {17, 136, 264}, {.isTabled = true, .groups = groups});
  }
  multiplies<f16>(4, 64, 8, {3, 71, 300}, {.isAligned = false, .isTabled = true});
}

// The tensor cores are at a block while the next one's values are made, part by part of the same registers.
TEST(NvptxPacked, UnpacksUnderTheProductBefore) {
  for (int bits = 1; bits <= 8; ++bits) {
    auto kernel = multiplies<f16>(bits, 128, 64, {65, 136, 900}, {.isShifted = bits == 5, .isScaledAfter = false});
    EXPECT_NE(kernel->ptx.find("wgmma.wait_group.sync.aligned 3;"), std::string::npos);
    multiplies<bf16>(bits, 64, 32, {33, 70, 1700}, {.groups = bits == 3 ? 4 : 1, .isScaledAfter = false});
  }
  multiplies<f16>(4, 128, 16, {17, 136, 1030}, {.packing = "order=low,block=8", .isScaledAfter = false});
}

// More warps than have rows: groups of them take the steps in turn, whose number is no multiple of theirs, and go on
// with the next program where the last one's ended.
TEST(NvptxPacked, SharesTheStepsAmongGroups) {
  for (int64_t blockN : {64, 128})
    for (std::string attributes : {"", ", tile.split = 2 : i32"}) {
      auto kernel = multiplies<f16>(4, blockN, 8, {3, 264, 1156}, {.attributes = attributes, .warps = 16});
      EXPECT_EQ(kernel->warps, 16 + 4);
      multiplies<bf16>(2, blockN, 16, {17, 264, 130}, {.attributes = attributes, .warps = 16});
      multiplies<f16>(3, blockN, 32, {33, 136, 900}, {.attributes = attributes, .warps = 16, .isScaledAfter = false});
    }
  multiplies<f16>(4, 64, 8, {3, 71, 397}, {.attributes = ", tile.num_warps = 16 : i32", .isAligned = false});
  // The rings go round several times; of these slots an odd number would fit, which the groups cannot share.
  for (auto [bits, atOnce] : {std::pair(8, 2), std::pair(4, 2), std::pair(4, 4)})
    multiplies<f16>(bits, 128, 8, {3, 136, 5000},
                    {.attributes = ", tile.split = 2 : i32", .warps = 16, .atOnce = atOnce});
}

// With one slot each, groups cannot keep a product under way: it would hold the slot that the next one waits for.
TEST(NvptxPacked, SharesFewSlotsAmongGroups) {
  for (int stages : {2, 3, 4, 5}) // one alone is not shared
    for (bool isScaledAfter : {false, true})
      multiplies<f16>(4, 128, 8, {3, 136, 1700},
                      {.attributes = ", tile.stages = " + std::to_string(stages) + " : i32",
                       .warps = 16,
                       .isScaledAfter = isScaledAfter});
}

// A step of several blocks is a slot of the ring, and what lies past the last block adds nothing.
TEST(NvptxPacked, MultipliesSeveralBlocksAStep) {
  for (int atOnce : {2, 4}) {
    auto kernel = multiplies<f16>(4, 128, 8, {3, 264, 1156}, {.warps = 16, .atOnce = atOnce});
    EXPECT_EQ(kernel->warps, 16 + 4) << "groups take the steps in turn";
    EXPECT_EQ(kernel->requests.size(), 3u);
    auto split = multiplies<bf16>(3, 64, 16, {17, 136, 1700},
                                  {.attributes = ", tile.split = 2 : i32", .isShifted = true, .atOnce = atOnce});
    EXPECT_EQ(split->cluster, 2);
    multiplies<f16>(2, 64, 8, {1, 71, 70}, {.groups = 4, .atOnce = atOnce});
  }
  multiplies<f16>(8, 128, 64, {65, 130, 900}, {.isScaledAfter = false, .atOnce = 2});
  multiplies<f16>(4, 64, 8, {3, 71, 397}, {.isAligned = false, .atOnce = 2});
}

// Blocks of a cluster add up what each has multiplied by its scales.
TEST(NvptxPacked, SharesTheSumAmongBlocks) {
  for (int groups : {1, 4})
    for (int split : {2, 3}) {
      auto kernel =
          multiplies<f16>(4, 64, 8, {5, 136, 900},
                          {.attributes = ", tile.split = " + std::to_string(split) + " : i32", .groups = groups});
      EXPECT_EQ(kernel->cluster, split);
    }
}
