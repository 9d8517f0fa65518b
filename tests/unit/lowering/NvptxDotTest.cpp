// Products on the tensor cores of sm_90a, against the interpreter: the operands' way through shared memory, and what is
// done with the sums. The PTX runs in an emulator, which finds races, reads before arrival and waits without end.
// Values are small integers, so that every sum is exact and results are compared bit by bit.
#include "bitloom/tests/unit/lowering/Ways.h"

using namespace bitloom;

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
