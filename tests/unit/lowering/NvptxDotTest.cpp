// Products on the tensor cores of sm_90a, against the interpreter: the operands' way through shared memory, the rings
// between producer and consumers, persistent blocks, and what is done with the sums. The PTX runs in an emulator, which
// finds races, reads before arrival and waits without end. Values are small integers, so that every sum is exact and
// results are compared bit by bit.
#include "bitloom/tests/unit/lowering/Products.h"

using namespace bitloom;

namespace {

enum class Way { Copied, Exchanged, Cores }; // the copy engine feeds wgmma; threads do; no tensor core

void tookWay(const EmulatedKernel &kernel, Way way) {
  EXPECT_EQ(kernel.isPersistent, way == Way::Copied);
  EXPECT_EQ(kernel.ptx.find("wgmma.mma_async") != std::string::npos, way != Way::Cores);
}

template <Element In, Element Sum = float, Element Out = Sum>
void multiplies(Product product, int64_t m, int64_t n, int64_t k, Way way = Way::Copied, std::vector<int> warps = {0},
                std::vector<int> blocks = {2}) {
  SCOPED_TRACE(std::to_string(m) + " x " + std::to_string(n) + " x " + std::to_string(k));
  product.operand = irType<In>(), product.sum = irType<Sum>(), product.result = irType<Out>();
  Operands<In, Out> data(product, m, n, k);
  tookWay(*agrees(product.text(), {data.a, data.b, data.c},
                  {.grid = product.grid(m, n), .tolerance = 0, .warps = warps, .blocks = blocks}),
          way);
}

} // namespace

//===- Operands ---------------------------------------------------------------------------------------------------===//

TEST(NvptxDot, MultipliesOperandsOfEveryTypeEitherWayRound) {
  for (bool aByColumns : {false, true})
    for (bool bByColumns : {false, true}) {
      Product product{.block = {64, 64, 64}, .aByColumns = aByColumns, .bByColumns = bByColumns};
      multiplies<bf16>(product, 100, 72, 136);
      multiplies<f16>(product, 100, 72, 136);
      multiplies<int8_t, int32_t>(product, 100, 72, 136, aByColumns && !bByColumns ? Way::Exchanged : Way::Copied);
      product.dotAttributes = " {precision = 1 : i32}";
      multiplies<f32>(product, 100, 72, 136, aByColumns && !bByColumns ? Way::Exchanged : Way::Copied);
    }
}

TEST(NvptxDot, TakesBytesWithAndWithoutSign) {
  for (std::string signs : {"", " {unsignedA}", " {unsignedB}", " {unsignedA, unsignedB}"})
    for (int64_t m : {64, 16}) { // the short one has its operands swapped
      Product product{.block = {m, 64, 64},
                      .operand = "i8",
                      .sum = "i32",
                      .result = "i32",
                      .bByColumns = true,
                      .dotAttributes = signs};
      Operands<int8_t, int32_t> data(product, 70, 64, 64);
      for (auto *values : {&data.a.values, &data.b.values})
        for (size_t i = 0; i < values->size(); ++i)
          (*values)[i] = int8_t(i * 37);
      tookWay(*agrees(product.text(), {data.a, data.b, data.c},
                      {.grid = product.grid(70, 64), .warps = {0}, .blocks = {2}}),
              Way::Copied);
    }
}

// f32 operands are rounded only where the kernel allows it.
TEST(NvptxDot, KeepsAllBitsWithoutTf32) { multiplies<f32>({.block = {64, 64, 32}}, 70, 33, 40, Way::Cores); }

//===- Shapes -----------------------------------------------------------------------------------------------------===//

TEST(NvptxDot, MultipliesBlocksOfManyShapes) {
  for (auto [m, n, k] : std::vector<std::array<int64_t, 3>>{{128, 128, 64},
                                                            {128, 256, 64},
                                                            {256, 128, 32},
                                                            {64, 256, 16},
                                                            {64, 32, 128},
                                                            {128, 16, 256},
                                                            {512, 16, 16},
                                                            {64, 8, 64}})
    multiplies<bf16>({.block = {m, n, k}}, 200, 264, 72);
  multiplies<bf16>({.block = {128, 256, 64}}, 200, 520, 328, Way::Copied, {0}, {1, 2, 3});
}

// A block with fewer rows than the instruction has: it computes the transposed product.
TEST(NvptxDot, SwapsOperandsOfShortBlocks) {
  for (int64_t m : {8, 16, 32})
    for (bool aByColumns : {false, true})
      for (bool bByColumns : {false, true}) {
        Product product{.block = {m, 128, 64}, .aByColumns = aByColumns, .bByColumns = bByColumns};
        multiplies<bf16>(product, m + 1, 200, 136);
      }
  multiplies<int8_t, int32_t>({.block = {16, 64, 128}, .bByColumns = true}, 17, 130, 200);
  multiplies<bf16, float, bf16>({.block = {16, 256, 32},
                                 .epilogue = "  %out = arith.truncf %sum : tensor<16x256xf32> to "
                                             "tensor<16x256xbf16>"},
                                40, 264, 40);
}

TEST(NvptxDot, MultipliesRaggedExtents) {
  for (int64_t m : {1, 17, 65})
    for (int64_t n : {1, 17, 65})
      for (int64_t k : {0, 1, 17, 129})
        multiplies<bf16>({.block = {64, 64, 64}}, m, n, k);
}

// Any number of warps that has groups: side by side along n where there are more than 64 rows for.
TEST(NvptxDot, SharesTheBlockAmongAnyNumberOfWarps) {
  for (auto [m, n] : {std::pair(64, 128), std::pair(128, 128), std::pair(16, 128), std::pair(256, 32)}) {
    Product product{.block = {m, n, 32}};
    multiplies<bf16>(product, 150, 136, 72, Way::Copied, {4, 8, 16});
    product.epilogue = "  %out = arith.truncf %sum : " + tileType({m, n}, "f32") + " to " + tileType({m, n}, "bf16");
    multiplies<bf16, float, bf16>(product, 150, 136, 72, Way::Copied, {4, 8, 16});
  }
}

//===- Views ------------------------------------------------------------------------------------------------------===//

// Rows that start anywhere, and elements that are apart.
TEST(NvptxDot, MultipliesUnalignedAndStridedViews) {
  Product product{.block = {64, 64, 32}, .viewAttributes = ""};
  for (auto [m, n, k] : {std::array<int64_t, 3>{65, 33, 47}, {1, 3, 5}, {64, 64, 64}}) {
    std::vector<bf16> a = Aligned<bf16>({m * k}).values, b = Aligned<bf16>({k * n}, 2).values;
    std::vector<float> c(m * n, 7);
    tookWay(*agrees(product.text(), {matrix(a, m, k), matrix(b, k, n), matrix(c, m, n)},
                    {.grid = product.grid(m, n), .tolerance = 0, .warps = {0}}),
            Way::Exchanged);
  }
  // Columns apart, and a view of every other row.
  std::string strided = replaced(product.text(), "!tile.view<?x?xbf16>", "!tile.view<?x?xbf16, strided>");
  Aligned<bf16> a({40, 50}, {1, 47}, 1), b({50, 70}, {150, 2}, 2);
  Aligned<float> c({40, 70}, {200, 1}, 3);
  tookWay(*agrees(strided, {a, b, c}, {.grid = product.grid(40, 70), .tolerance = 0, .warps = {0, 8}}), Way::Exchanged);
  product.viewAttributes = aligned;
  Operands<bf16, float> data(product, 40, 70, 50);
  data.a.strides[0] *= 3;
  data.a.values.resize(data.a.values.size() * 3, 5);
  data.c.strides[0] *= 2;
  data.c.values.resize(data.c.values.size() * 2, 5);
  tookWay(
      *agrees(product.text(), {data.a, data.b, data.c}, {.grid = product.grid(40, 70), .tolerance = 0, .warps = {0}}),
      Way::Copied);
}

// Rows that start at 4 or 8 bytes, and the copy engine can only take one operand: the threads copy both ahead.
TEST(NvptxDot, CopiesByThreadsWhatTheCopyEngineCannot) {
  auto multiplies = [](auto element, Product product, int alignmentOfA, int alignmentOfB, int64_t m, int64_t n,
                       int64_t k) {
    using In = decltype(element);
    using Sum = std::conditional_t<std::is_integral_v<In>, int32_t, float>;
    SCOPED_TRACE(irType<In>() + " at " + std::to_string(alignmentOfA) + " and " + std::to_string(alignmentOfB) +
                 " bytes, " + std::to_string(m) + " x " + std::to_string(n) + " x " + std::to_string(k));
    product.operand = irType<In>(), product.sum = product.result = irType<Sum>();
    auto attribute = [](int bytes) { return " {tile.align = " + std::to_string(bytes) + " : i32}"; };
    std::string text = product.text();
    for (auto [name, alignment] : {std::pair("%a: ", alignmentOfA), std::pair("%b: ", alignmentOfB)}) {
      const std::string view = name + viewType(2, product.operand);
      text = replaced(text, view + aligned, view + attribute(alignment));
    }
    auto operand = [](Shape shape, int alignment, uint64_t seed) {
      const int64_t each = alignment / int64_t(sizeof(In));
      const int64_t stride = ((shape[1] + each - 1) / each + (alignment < 16 ? each : 0) | 1) * each;
      return Aligned<In>(shape, {stride, 1}, seed);
    };
    Aligned<In> a = operand(product.aByColumns ? Shape{k, m} : Shape{m, k}, alignmentOfA, 1);
    Aligned<In> b = operand(product.bByColumns ? Shape{n, k} : Shape{k, n}, alignmentOfB, 2);
    auto kernel =
        agrees(text, {a, b, Aligned<Sum>({m, n}, 3)}, {.grid = product.grid(m, n), .tolerance = 0, .warps = {0}});
    tookWay(*kernel, Way::Exchanged);
    for (int alignment : {alignmentOfA, alignmentOfB})
      EXPECT_NE(kernel->ptx.find("], " + std::to_string(alignment)), std::string::npos);
    EXPECT_EQ(kernel->ptx.find("ld.global"), std::string::npos);
  };
  for (bool aByColumns : {false, true})
    for (bool bByColumns : {false, true}) {
      Product product{.block = {64, 64, 64}, .aByColumns = aByColumns, .bByColumns = bByColumns};
      multiplies(bf16(), product, 8, 16, 70, 90, 199);
      multiplies(f16(), product, 4, 4, 65, 33, 130);
    }
  multiplies(bf16(), {.block = {128, 128, 64}, .bByColumns = true}, 8, 8, 130, 131, 500);
  multiplies(bf16(), {.block = {16, 128, 64}, .bByColumns = true}, 16, 4, 17, 131, 200);
  multiplies(bf16(), {.block = {64, 64, 64}, .bByColumns = true}, 8, 4, 3, 1, 1);
  multiplies(int8_t(), {.block = {64, 64, 64}, .bByColumns = true}, 8, 4, 70, 90, 199);
  Product tf32{.block = {64, 64, 32}, .bByColumns = true, .dotAttributes = " {precision = 1 : i32}"};
  multiplies(f32(), tf32, 4, 8, 70, 90, 99);
}

// One matrix a program along z, or one a head, whose rows lie between those of the others.
TEST(NvptxDot, MultipliesBatches) {
  Product product{.block = {64, 64, 32}};
  auto batched = [&](const std::string &coordinates, const std::string &dims, const std::string &extents,
                     const std::string &at) {
    std::string text = product.text();
    text = replaced(text, "!tile.view<?x?x", "!tile.view<" + extents);
    text = replaced(text, "dims [0, 1]", "dims " + dims);
    text = replaced(text, "%a, 1 :", "%a, " + dims.substr(dims.size() - 2, 1) + " :");
    for (std::string pair : {"%rows, %at", "%at, %columns", "%rows, %columns"}) {
      size_t comma = pair.find(", ");
      text = replaced(text, "[" + pair + "]",
                      "[" + replaced(replaced(at, "R", pair.substr(0, comma)), "C", pair.substr(comma + 2)) + "]");
    }
    return replaced(text, "  %i = ", coordinates + "  %i = ");
  };
  Aligned<bf16> a3({3, 70, 50}), b3({3, 50, 33}, 2);
  Aligned<float> c3({3, 70, 33}, 3);
  tookWay(*agrees(batched("  %batch = tile.program_id 2\n", "[1, 2]", "?x?x?x", "%batch, R, C"), {a3, b3, c3},
                  {.grid = {2, 1, 3}, .tolerance = 0, .warps = {0}}),
          Way::Copied);
  std::string heads = "  %z3 = tile.program_id 2\n  %three = arith.constant 3 : i64\n"
                      "  %batch = arith.divui %z3, %three : i64\n  %head = arith.remui %z3, %three : i64\n";
  Aligned<bf16> a4({2, 70, 3, 50}), b4({2, 50, 3, 33}, 2);
  Aligned<float> c4({2, 70, 3, 33}, 3);
  tookWay(*agrees(batched(heads, "[1, 3]", "?x?x?x?x", "%batch, R, %head, C"), {a4, b4, c4},
                  {.grid = {2, 1, 6}, .tolerance = 0, .warps = {0}}),
          Way::Copied);
  Aligned<bf16> a5({2, 3, 70, 50}), b5({2, 3, 50, 33}, 2);
  Aligned<float> c5({2, 3, 70, 33}, 3);
  tookWay(*agrees(batched(heads, "[2, 3]", "?x?x?x?x", "%batch, %head, R, C"), {a5, b5, c5},
                  {.grid = {2, 1, 6}, .tolerance = 0, .warps = {0}}),
          Way::Copied);
}

//===- What becomes of the sums -----------------------------------------------------------------------------------===//

TEST(NvptxDot, GoesOnWithTheSums) {
  const std::string bias = ", %bias: !tile.view<?xf32>", addBias = R"(
  %row = tile.load %bias[%columns] dims [0] : !tile.view<?xf32> -> tensor<64xf32>
  %row2 = tile.reshape %row : tensor<64xf32> -> tensor<1x64xf32>
  %rowed = tile.broadcast %row2 : tensor<1x64xf32> -> tensor<128x64xf32>
  %biased = arith.addf %sum, %rowed : tensor<128x64xf32>
  %relu = arith.maximumf %biased, %none : tensor<128x64xf32>
)";
  {
    Product product{.block = {128, 64, 32}, .parameters = bias, .epilogue = addBias + R"(
  %out = arith.addf %relu, %sum : tensor<128x64xf32>)"};
    Operands<bf16, float> data(product, 150, 100, 72);
    agrees(product.text(), {data.a, data.b, data.c, Aligned<float>({100}, 4)},
           {.grid = product.grid(150, 100), .tolerance = 0, .warps = {0, 4}});
  }
  for (std::string result : {"bf16", "f16"}) {
    Product product{.block = {128, 64, 32}, .result = result, .parameters = bias, .epilogue = addBias + R"(
  %out = arith.truncf %relu : tensor<128x64xf32> to tensor<128x64x)" + result + ">"};
    Operands<bf16, bf16> data(product, 150, 100, 72);
    Operands<bf16, f16> other(product, 150, 100, 72);
    agrees(product.text(),
           {data.a, data.b, result == "bf16" ? Argument(data.c) : Argument(other.c), Aligned<float>({100}, 4)},
           {.grid = product.grid(150, 100), .tolerance = 0, .warps = {0}});
  }
  {
    Product product{.block = {128, 64, 32}, .parameters = ", %largest: !tile.view<?xf32>", .epilogue = R"(
  %most = tile.reduce %sum axis 1 : tensor<128x64xf32> -> tensor<128xf32> {
  ^bb0(%l: f32, %r: f32):
    %m = arith.maximumf %l, %r : f32
    tile.yield %m : f32
  }
  tile.store %most, %largest[%rows] dims [0] : tensor<128xf32>, !tile.view<?xf32>
  %column = tile.reshape %most : tensor<128xf32> -> tensor<128x1xf32>
  %wide = tile.broadcast %column : tensor<128x1xf32> -> tensor<128x64xf32>
  %out = arith.subf %sum, %wide : tensor<128x64xf32>)"};
    Operands<bf16, float> data(product, 150, 50, 72);
    agrees(product.text(), {data.a, data.b, data.c, Aligned<float>({150}, 4)},
           {.grid = product.grid(150, 50), .tolerance = 0, .warps = {0, 4}});
  }
}

// The accumulators become an operand where they are, in registers.
// A tile that is loaded and added comes in pieces, each on its way out before the one after the next is there.
TEST(NvptxDot, AddsLoadedTilesPieceByPiece) {
  auto adds = [](auto element, std::array<int64_t, 2> block, size_t pieces) {
    using Out = decltype(element);
    const std::string type = irType<Out>(), tile = tileType({block[0], block[1]}, type), view = viewType(2, type);
    const std::string sum = tileType({block[0], block[1]}, "f32");
    Product product{.block = {block[0], block[1], 64}, .result = type, .parameters = ", %e: " + view + aligned};
    product.epilogue = "  %l = tile.load %e[%rows, %columns] dims [0, 1] : " + view + " -> " + tile + "\n";
    product.epilogue += type == "f32" ? "  %out = arith.addf %sum, %l : " + sum
                                      : "  %w = arith.extf %l : " + tile + " to " + sum + "\n  %s = arith.addf %sum, " +
                                            "%w : " + sum + "\n  %out = arith.truncf %s : " + sum + " to " + tile;
    for (auto [m, n, k] : {std::array<int64_t, 3>{270, 136, 72}, {17, 40, 8}}) {
      SCOPED_TRACE(tile + ", " + std::to_string(m) + " x " + std::to_string(n));
      Operands<bf16, Out> data(product, m, n, k);
      Aligned<Out> more({m, n}, 4);
      auto kernel = agrees(product.text(), {data.a, data.b, data.c, more},
                           {.grid = product.grid(m, n), .tolerance = 0, .warps = {0}});
      tookWay(*kernel, Way::Copied);
      size_t stores = 0;
      for (size_t at = 0; (at = kernel->ptx.find("cp.async.bulk.tensor.2d.global", at)) != std::string::npos; ++at)
        ++stores;
      EXPECT_EQ(stores, pieces);
    }
  };
  adds(0.0f, {128, 128}, 8);
  adds(0.0f, {256, 128}, 8);
  adds(0.0f, {64, 32}, 1);
  adds(bf16(0.0f), {128, 128}, 4);
  adds(bf16(0.0f), {128, 256}, 4);
  adds(bf16(0.0f), {64, 256}, 4);
}

// A part of each row's sum and its largest, from each block of columns, with and without the sums themselves.
TEST(NvptxDot, ReducesRowsOfTheSums) {
  for (auto [rows, columns] : {std::pair(128, 128), std::pair(256, 64), std::pair(64, 128), std::pair(16, 128)})
    for (bool stores : {true, false}) {
      SCOPED_TRACE(std::to_string(rows) + " x " + std::to_string(columns));
      const std::string sum = tileType({rows, columns}, "f32"), row = tileType({rows}, "f32");
      Product product{.block = {rows, columns, 64}, .result = "bf16"};
      product.parameters = ", %totals: !tile.view<?x?xf32>, %tops: !tile.view<?x?xf32>";
      for (auto [name, op] : {std::pair("total", "addf"), std::pair("top", "maximumf")})
        product.epilogue += "  %" + std::string(name) + " = tile.reduce %sum axis 1 : " + sum + " -> " + row +
                            " {\n  ^bb0(%l: f32, %r: f32):\n    %both = arith." + op +
                            " %l, %r : f32\n    tile.yield %both : f32\n  }\n  tile.store %" + name + ", %" + name +
                            "s[%j, %rows] dims [1] : " + row + ", !tile.view<?x?xf32>\n";
      product.epilogue += "  %out = arith.truncf %sum : " + sum + " to " + tileType({rows, columns}, "bf16");
      std::string text = product.text();
      if (!stores)
        text.erase(text.find("  tile.store %out"), text.find("  return") - text.find("  tile.store %out"));
      const int64_t m = 270, n = 200, parts = (n + columns - 1) / columns;
      Operands<bf16, bf16> data(product, m, n, 72);
      Aligned<float> totals({parts, m}, 4), tops({parts, m}, 5);
      auto kernel = agrees(text, {data.a, data.b, data.c, totals, tops},
                           {.grid = product.grid(m, n), .tolerance = 0, .warps = {0}, .blocks = {3}});
      tookWay(*kernel, Way::Copied);
    }
}

TEST(NvptxDot, MultipliesWhatItComputed) {
  Product product{.block = {64, 64, 32}, .parameters = ", %v: !tile.view<?x?xbf16>" + aligned, .epilogue = R"(
  %p = arith.truncf %sum : tensor<64x64xf32> to tensor<64x64xbf16>
  %w = tile.load %v[%columns, %z] dims [0, 1] : !tile.view<?x?xbf16> -> tensor<64x64xbf16>
  %out = tile.dot %p, %w, %none : tensor<64x64xbf16>, tensor<64x64xbf16>, tensor<64x64xf32>)"};
  Operands<bf16, float> data(product, 70, 64, 40);
  agrees(product.text(), {data.a, data.b, data.c, Aligned<bf16>({64, 50}, 4)},
         {.grid = product.grid(70, 64), .tolerance = 0, .warps = {0, 4, 8}});
}

// Attention: both dots in the loop, each waits for its own operands, and the running sum is rescaled.
TEST(NvptxDot, Attends) {
  for (auto [rows, queries, keys] : {std::array<int64_t, 3>{128, 150, 200}, {64, 64, 64}, {64, 1, 17}})
    agrees(attention(rows),
           {Aligned<bf16>({queries, 60}), Aligned<bf16>({keys, 60}, 2), Aligned<bf16>({keys, 60}, 3),
            Aligned<bf16>({queries, 60}, 4)},
           {.grid = {(queries + rows - 1) / rows, 1, 1}, .tolerance = 0.02, .warps = {0, 4}});
}

//===- Loops and rings --------------------------------------------------------------------------------------------===//

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

TEST(NvptxDot, TakesHints) {
  for (int stages : {1, 2, 3, 100})
    agreesAround(replaced(loopBody, "%r =", "%out ="), Way::Copied,
                 ", tile.stages = " + std::to_string(stages) + " : i32");
  agreesAround(replaced(loopBody, "%r =", "%out ="), Way::Exchanged, ", tile.warp_specialize = false");
}

// Rings take what shared memory is left beside the operands that threads put there.
TEST(NvptxDot, RingsLeaveRoomForTheRest) {
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

TEST(NvptxDot, LoopsTakeTurnsWithARing) {
  agreesAround(loopBody + replaced(replaced(replaced(loopBody, "%r =", "%out ="), "%none", "%r"), "%b[", "%d["));
  // Of other tiles: a ring each.
  agreesAround(loopBody +
               replaced(replaced(replaced(loopBody, "%r =", "%out ="), "%none", "%r"), "%s iter", "%two iter"));
}

TEST(NvptxDot, DotsShareTilesAndLoops) {
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

TEST(NvptxDot, ConvertsOperandsOnTheWay) {
  // What the threads compute goes to shared memory as b, and stays in registers as a.
  for (std::string operands : {"%x, %n, %acc", "%n, %y, %acc", "%n, %o, %acc"})
    agreesAround(loopHead + loadOf("x", "a", "%rows, %at") + loadOf("y", "b", "%at, %columns") +
                     loadOf("w", "d", "%at, %columns") + "%n = arith.negf %w : HALF\n%o = math.absf %w : HALF\n" +
                     dotOf("sum", operands) + "scf.yield %sum : ACC\n}\n%out = arith.addf %r, %none : ACC\n",
                 operands == "%n, %o, %acc" ? Way::Exchanged : Way::Copied);
}

// Fragments in registers of every width, also of the transposed product.
TEST(NvptxDot, HoldsOperandsOfEveryTypeInRegisters) {
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
TEST(NvptxDot, MultipliesUnpackedWeights) {
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

TEST(NvptxDot, LoadsUnderAnyControlFlow) {
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

TEST(NvptxDot, CarriesTilesAcrossIterations) {
  // The next operand is loaded in one iteration and used in the next one.
  agreesAround(
      loadOf("first", "a", "%rows, %z") +
      "%r:2 = scf.for %at = %z to %depth step %s iter_args(%acc = %none, %x = %first) -> (ACC, HALF) : i64 {\n" +
      loadOf("y", "b", "%at, %columns") + dotOf("sum", "%x, %y, %acc") + "%n = arith.addi %at, %s : i64\n" +
      loadOf("next", "a", "%rows, %n") + "scf.yield %sum, %next : ACC, HALF\n}\n" +
      "%out = arith.addf %r#0, %none : ACC\n");
}

// The producer runs ahead, so it may not read what the program writes, nor wait for it: the threads load instead.
TEST(NvptxDot, LoadsInOrderWithWrites) {
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
TEST(NvptxDot, CopiesBoxesThatStartAtMultiplesOf16Bytes) {
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

TEST(NvptxDot, LoadsInLoopsThatEndAnyTime) {
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
TEST(NvptxDot, LoadsTilesWhosePlaceIsLoaded) {
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
TEST(NvptxDot, LoadsZerosOutOfBounds) {
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
TEST(NvptxDot, GoesThroughEveryProgram) {
  Product product{.block = {64, 64, 16}};
  multiplies<bf16>(product, 19 * 64 - 5, 2 * 64 + 3, 16, Way::Copied, {0}, {1, 5, 57});
}

// The blocks of a cluster share the loop; the first adds up and goes on.
// The copy engine would write c at a time of its own: threads do, where the program also reads it.
TEST(NvptxDot, StoresItselfWhatItAlsoReads) {
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
TEST(NvptxDot, GroupsTakeProgramsInTurn) {
  Product product{.block = {128, 128, 64}, .bByColumns = true};
  for (auto [m, n, k] : {std::array{300, 400, 200}, std::array{128, 128, 64}, std::array{130, 300, 1}}) {
    SCOPED_TRACE(std::to_string(m) + " x " + std::to_string(n) + " x " + std::to_string(k));
    Operands<bf16, float> data(product, m, n, k);
    auto kernel = agrees(product.text(), {data.a, data.b, data.c},
                         {.grid = product.grid(m, n), .tolerance = 0, .warps = {0}, .blocks = {1, 2, 3}});
    EXPECT_NE(kernel->ptx.find("bar.arrive"), std::string::npos) << "expected turns";
  }
}

// Blocks have even shares of all steps; a program that is cut is finished where it begins. One block or many, more than
// there are steps too, tiles held by one group of warps, by both and by groups in turn, and without a workspace.
TEST(NvptxDot, BlocksShareStepsEvenly) {
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

TEST(NvptxDot, SharesStepsOnlyOfSumsAlone) {
  for (std::string body :
       {replaced(replaced(loopBody, "%r =", "%out ="), "%none) ->", "%one_each) ->"), // not from zero
        replaced(replaced(loopBody, "%r =", "%out ="), "%z to", "%rows to"),          // longer in some programs
        loopHead + loadOf("x", "a", "%rows, %at") + loadOf("y", "b", "%at, %columns") + dotOf("p", "%x, %y, %acc") +
            "%sum = arith.negf %p : ACC\nscf.yield %sum : ACC\n}\n" + "%out = arith.addf %r, %none : ACC\n"})
    agreesAround("%one_each = arith.constant dense<1.0> : ACC\n" + body, Way::Copied, ", tile.stream_k");
}

TEST(NvptxDot, SplitsTheDepthAmongTheBlocksOfACluster) {
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
TEST(NvptxDot, WritesOnceThoughBlocksShareAProgram) {
  std::vector<int32_t> count = {0};
  const std::string counts = "%q = arith.constant 1 : i32\n"
                             "%old = tile.atomic add %q, %n[%z] : i32, !tile.view<?xi32>, i64\n";
  for (std::string body :
       {counts + replaced(loopBody, "%r =", "%out ="), replaced(loopBody, "%r =", "%out =") + counts})
    agreesAround(body, Way::Copied, ", tile.split = 2 : i32", ", %n: !tile.view<?xi32>", {count});
}
