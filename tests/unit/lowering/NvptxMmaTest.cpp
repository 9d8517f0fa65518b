// Products by mma.sync, against the interpreter: on targets without wgmma, and of tiles too small for it. The PTX runs
// in an emulator, which finds races. Values are small integers, so that every sum is exact and results are compared bit
// by bit.
#include "bitloom/lib/runtime/Ptxas.h"
#include "bitloom/tests/unit/lowering/Products.h"

using namespace bitloom;

namespace {

// One of `target`, with mma.sync of this shape and these types and no other way to multiply.
void usesMma(const EmulatedKernel &kernel, const std::string &instruction) {
  EXPECT_FALSE(kernel.isPersistent);
  EXPECT_EQ(kernel.ptx.find("wgmma"), std::string::npos);
  EXPECT_EQ(kernel.ptx.find("fence.proxy"), std::string::npos);
  EXPECT_NE(kernel.ptx.find("mma.sync.aligned." + instruction), std::string::npos) << instruction;
}

template <Element In> std::string instructionFor() {
  if (std::same_as<In, f32>)
    return "m16n8k8.row.col.f32.tf32.tf32.f32";
  if (std::is_integral_v<In>)
    return "m16n8k32.row.col.s32.s8.s8.s32";
  if (sizeof(In) == 1)
    return std::same_as<In, f8e4m3> ? "m16n8k32.row.col.f32.e4m3.e4m3.f32" : "m16n8k32.row.col.f32.e5m2.e5m2.f32";
  return std::same_as<In, f16> ? "m16n8k16.row.col.f32.f16.f16.f32" : "m16n8k16.row.col.f32.bf16.bf16.f32";
}

template <Element In> void multiplies(Product product, std::array<int64_t, 3> extents, const Emulation &how) {
  auto [m, n, k] = extents;
  SCOPED_TRACE(how.target + ", " + std::to_string(m) + " x " + std::to_string(n) + " x " + std::to_string(k));
  using Sum = std::conditional_t<std::is_integral_v<In>, int32_t, float>;
  product.operand = irType<In>(), product.sum = product.result = irType<Sum>();
  if (std::same_as<In, f32>)
    product.dotAttributes = " {precision = 1 : i32}";
  Operands<In, Sum> data(product, m, n, k);
  Emulation exact = how;
  exact.grid = product.grid(m, n), exact.tolerance = 0;
  usesMma(*agrees(product.text(), {data.a, data.b, data.c}, exact), instructionFor<In>());
}

} // namespace

TEST(NvptxMma, MultipliesOperandsOfEveryTypeEitherWayRound) {
  for (bool aByColumns : {false, true})
    for (bool bByColumns : {false, true}) {
      Product product{.block = {32, 32, 64}, .aByColumns = aByColumns, .bByColumns = bByColumns};
      const std::array<int64_t, 3> extents = {49, 40, 136};
      for (std::string target : {"sm_80", "sm_90a"}) {
        multiplies<bf16>(product, extents, {.warps = {0}, .target = target});
        multiplies<f16>(product, extents, {.warps = {0}, .target = target});
        multiplies<f32>(product, extents, {.warps = {0}, .target = target});
        multiplies<int8_t>(product, extents, {.warps = {0}, .target = target});
      }
      for (std::string target : {"sm_89", "sm_90a", "sm_120"}) {
        multiplies<f8e4m3>(product, extents, {.warps = {0}, .target = target});
        multiplies<f8e5m2>(product, extents, {.warps = {0}, .target = target});
      }
    }
}

// sm_80 has no instruction for 8-bit floats, and none may round f32 without leave.
TEST(NvptxMma, LeavesTheRestToTheOtherCores) {
  auto runs = [](auto operand) {
    Product product{.block = {32, 32, 32}, .operand = irType<decltype(operand)>()};
    Operands<decltype(operand), float> data(product, 33, 17, 40);
    EXPECT_EQ(agrees(product.text(), {data.a, data.b, data.c},
                     {.grid = product.grid(33, 17), .tolerance = 0, .warps = {0}, .target = "sm_80"})
                  ->ptx.find("mma.sync"),
              std::string::npos);
  };
  runs(f32());
  runs(f8e4m3());
}

TEST(NvptxMma, TakesBytesWithAndWithoutSign) {
  for (int64_t m : {32, 8}) // the short one has its operands swapped
    for (auto [signs, types] :
         {std::pair("", "s8.s8"), std::pair(" {unsignedA}", m == 8 ? "s8.u8" : "u8.s8"),
          std::pair(" {unsignedB}", m == 8 ? "u8.s8" : "s8.u8"), std::pair(" {unsignedA, unsignedB}", "u8.u8")}) {
      Product product{.block = {m, 32, 64},
                      .operand = "i8",
                      .sum = "i32",
                      .result = "i32",
                      .bByColumns = true,
                      .dotAttributes = signs};
      Operands<int8_t, int32_t> data(product, 33, 31, 70);
      for (auto *values : {&data.a.values, &data.b.values})
        for (size_t i = 0; i < values->size(); ++i)
          (*values)[i] = int8_t(i * 37);
      usesMma(*agrees(product.text(), {data.a, data.b, data.c},
                      {.grid = product.grid(33, 31), .warps = {0}, .target = "sm_80"}),
              std::string("m16n8k32.row.col.s32.") + types + ".s32");
    }
}

TEST(NvptxMma, MultipliesBlocksOfManyShapesByAnyNumberOfWarps) {
  for (auto [m, n, k] : std::vector<std::array<int64_t, 3>>{{128, 128, 64},
                                                            {16, 16, 16},
                                                            {16, 8, 128},
                                                            {8, 16, 32},
                                                            {8, 64, 64},
                                                            {16, 128, 32},
                                                            {128, 16, 16},
                                                            {256, 32, 32},
                                                            {32, 256, 16}})
    multiplies<bf16>({.block = {m, n, k}, .bByColumns = m == n}, {m - 1, n - 3, k + 9},
                     {.warps = m * n > 1024 ? std::vector{0} : std::vector{0, 1, 2, 8}, .target = "sm_80"});
}

TEST(NvptxMma, MultipliesRaggedExtents) {
  for (int64_t m : {1, 17, 33})
    for (int64_t n : {1, 17, 33})
      for (int64_t k : {0, 1, 17, 199})
        multiplies<bf16>({.block = {32, 32, 32}}, {m, n, k}, {.warps = {0}, .target = "sm_80"});
}

TEST(NvptxMma, MultipliesUnalignedViews) {
  for (bool byColumns : {false, true}) {
    Product product{.block = {32, 64, 32}, .aByColumns = byColumns, .bByColumns = !byColumns, .viewAttributes = ""};
    for (auto [m, n, k] : {std::array<int64_t, 3>{65, 33, 47}, {1, 3, 5}}) {
      std::vector<bf16> a = Aligned<bf16>({m * k}).values, b = Aligned<bf16>({k * n}, 2).values;
      std::vector<float> c(m * n, 7);
      usesMma(*agrees(product.text(),
                      {byColumns ? matrix(a, k, m) : matrix(a, m, k), byColumns ? matrix(b, k, n) : matrix(b, n, k),
                       matrix(c, m, n)},
                      {.grid = product.grid(m, n), .tolerance = 0, .warps = {0}, .target = "sm_80"}),
              instructionFor<bf16>());
    }
  }
}

// The accumulators become an operand where they are, in registers, if each row is in one warp; else through memory.
TEST(NvptxMma, MultipliesWhatItComputed) {
  for (std::string type : {"bf16", "f32"}) {
    Product product{.block = {32, 64, 32}, .parameters = ", %v: !tile.view<?x?xTYPE>" + aligned};
    if (type == "f32")
      product.dotAttributes = " {precision = 1 : i32}";
    product.operand = type;
    product.epilogue =
        std::string(type == "bf16" ? "  %p = arith.truncf %sum : tensor<32x64xf32> to tensor<32x64xbf16>\n"
                                   : "  %p = arith.negf %sum : tensor<32x64xf32>\n") +
        R"(  %w = tile.load %v[%columns, %z] dims [0, 1] : !tile.view<?x?xTYPE> -> tensor<64x64xTYPE>
  %nones = arith.constant dense<0.0> : tensor<32x64xf32>
  %out = tile.dot %p, %w, %nones)" +
        product.dotAttributes + " : tensor<32x64xTYPE>, tensor<64x64xTYPE>, tensor<32x64xf32>";
    const std::string text = replaced(product.text(), "TYPE", type);
    Operands<bf16, float> halves(product, 49, 64, 40);
    Operands<float, float> words(product, 49, 64, 40);
    Aligned<bf16> half({64, 50}, 4);
    Aligned<float> word({64, 50}, 4);
    bool isHalf = type == "bf16";
    agrees(text,
           {isHalf ? Argument(halves.a) : Argument(words.a), isHalf ? Argument(halves.b) : Argument(words.b), halves.c,
            isHalf ? Argument(half) : Argument(word)},
           {.grid = product.grid(49, 64), .tolerance = 0, .warps = {0, 1, 2, 8}, .target = "sm_80"});
  }
}

// Queries go to shared memory once, before the loop; keys and values take turns there.
TEST(NvptxMma, Attends) {
  for (auto [rows, queries, keys] : {std::array<int64_t, 3>{64, 70, 130}, {16, 17, 199}, {16, 1, 1}}) {
    auto kernel =
        agrees(attention(rows),
               {Aligned<bf16>({queries, 60}), Aligned<bf16>({keys, 60}, 2), Aligned<bf16>({keys, 60}, 3),
                Aligned<bf16>({queries, 60}, 4)},
               {.grid = {(queries + rows - 1) / rows, 1, 1}, .tolerance = 0.02, .warps = {0, 4}, .target = "sm_80"});
    usesMma(*kernel, instructionFor<bf16>());
    EXPECT_LE(kernel->sharedBytes, (rows + 4 * 2 * 64) * 64 * 2 + 4096) << "at most four steps' keys and values";
  }
}

// A tile that no dot reads any more makes room for the next.
TEST(NvptxMma, TilesTakeTurnsInSharedMemory) {
  Product product{.block = {64, 64, 64},
                  .attributes = ", tile.stages = 1 : i32",
                  .parameters = ", %v: !tile.view<?x?xbf16>" + aligned};
  for (std::string i : {"0", "1", "2"})
    product.epilogue += replaced(replaced(R"(
  %fromI = arith.constant I : i64
  %wI = tile.load %v[%fromI, %z] dims [0, 1] : !tile.view<?x?xbf16> -> tensor<64x64xbf16>
  %dI = tile.dot %wI, %wI, LAST : tensor<64x64xbf16>, tensor<64x64xbf16>, tensor<64x64xf32>)",
                                          "LAST", i == "0" ? "%sum" : "%d" + std::to_string(std::stoi(i) - 1)),
                                 "I", i);
  product.epilogue += "\n  %out = arith.addf %d2, %none : tensor<64x64xf32>";
  Operands<bf16, float> data(product, 64, 64, 40);
  auto kernel = agrees(product.text(), {data.a, data.b, data.c, Aligned<bf16>({66, 50}, 4)},
                       {.tolerance = 0, .warps = {0}, .target = "sm_80"});
  EXPECT_LE(kernel->sharedBytes, 2 * 64 * 64 * 2);
}

//===- Copies that run ahead --------------------------------------------------------------------------------------===//

static size_t countOf(const std::string &part, const std::string &text) {
  size_t count = 0;
  for (size_t at = 0; (at = text.find(part, at)) != std::string::npos; at += part.size())
    ++count;
  return count;
}

static std::string alignedTo(int bytes) { return " {tile.align = " + std::to_string(bytes) + " : i32}"; }

// Rows whose starts are multiples of 16, 8 or 4 bytes are copied by as many at a time, to the edge of any extent.
TEST(NvptxMma, CopiesRowsOfAnyAlignmentAhead) {
  auto multiplies = [](auto element, const std::string &operand, int alignment, bool bByColumns, std::string target) {
    using In = decltype(element);
    using Sum = std::conditional_t<std::is_integral_v<In>, int32_t, float>;
    SCOPED_TRACE(operand + " at " + std::to_string(alignment) + " bytes on " + target);
    Product product{.block = {32, 32, 64}, .operand = operand, .bByColumns = bByColumns};
    product.viewAttributes = alignedTo(alignment);
    product.sum = product.result = irType<Sum>();
    if (std::same_as<In, f32>)
      product.dotAttributes = " {precision = 1 : i32}";
    for (auto [m, n, k] : {std::array<int64_t, 3>{33, 40, 1}, {17, 31, 199}, {49, 65, 320}}) {
      const int64_t each = alignment / int64_t(sizeof(In));
      auto stride = [&](int64_t extent) { return (extent / each | 1) * each + (extent % each ? 2 * each : 0); };
      Aligned<In> a({m, k}, {stride(k), 1}, 1);
      Aligned<In> b = bByColumns ? Aligned<In>({n, k}, {stride(k), 1}, 2) : Aligned<In>({k, n}, {stride(n), 1}, 2);
      auto kernel = agrees(product.text(), {a, b, Aligned<Sum>({m, n}, 3)},
                           {.grid = product.grid(m, n), .tolerance = 0, .warps = {0}, .target = target});
      usesMma(*kernel, instructionFor<In>());
      EXPECT_GT(countOf("shared.global [", kernel->ptx), 0u);
      EXPECT_EQ(countOf("shared.global [", kernel->ptx), countOf("], " + std::to_string(alignment), kernel->ptx));
      EXPECT_EQ(countOf("ld.global", kernel->ptx), 0u);
    }
  };
  for (int alignment : {4, 8, 16})
    for (bool bByColumns : {false, true}) {
      multiplies(bf16(), "bf16", alignment, bByColumns, "sm_80");
      multiplies(f16(), "f16", alignment, bByColumns, "sm_90a");
      if (bByColumns) { // else the rows of b would have to be turned round on their way
        multiplies(f32(), "f32", alignment, true, "sm_80");
        multiplies(int8_t(), "i8", alignment, true, "sm_120");
      }
    }
}

// As many steps ahead as the hint says; a slot is filled anew only once nobody reads it, and read only once it is full.
TEST(NvptxMma, CopiesSeveralStepsAhead) {
  for (int stages : {1, 2, 3, 4, 7}) {
    Product product{.block = {32, 32, 32},
                    .bByColumns = true,
                    .attributes = ", tile.num_warps = 4 : i32, tile.stages = " + std::to_string(stages) + " : i32"};
    for (int64_t k : {0, 31, 64, 199, 500}) {
      Operands<bf16, float> data(product, 40, 35, k);
      auto kernel = agrees(product.text(), {data.a, data.b, data.c},
                           {.grid = product.grid(40, 35), .tolerance = 0, .warps = {0}, .target = "sm_80"});
      EXPECT_EQ(countOf("cp.async.commit_group", kernel->ptx), stages == 1 ? 0u : size_t(stages));
      EXPECT_EQ(kernel->sharedBytes, 2 * 32 * 32 * 2 * stages);
    }
  }
  // The emulator sees what is missing where less is waited for.
  Product product{.block = {32, 32, 32}, .bByColumns = true, .attributes = ", tile.stages = 4 : i32"};
  Operands<bf16, float> data(product, 32, 32, 200);
  EmulatedKernel kernel(Program::parse(product.text(), "kernel.mlir"), "sm_80");
  LaunchArguments words;
  std::vector<Argument> arguments = {data.a, data.b, data.c};
  for (const Argument &argument : arguments)
    words.addView(argument.tensor);
  for (auto [what, instead] : {std::pair("", ""), std::pair("cp.async.wait_group 2;", "cp.async.wait_group 3;"),
                               std::pair("cp.async.wait_group 2;\n\t// end inline asm\n\tbar.sync \t0;",
                                         "cp.async.wait_group 2;\n\t// end inline asm")}) {
    PtxEmulator emulator(*what ? replaced(kernel.ptx, what, instead) : kernel.ptx);
    for (const Argument &argument : arguments)
      emulator.allow(memoryOf(argument.tensor).data(), memoryOf(argument.tensor).size());
    auto launch = [&] { emulator.launch(words.words(), {1, 1, 1}, kernel.sharedBytes); };
    if (*what)
      EXPECT_THROW(launch(), PtxError) << instead;
    else
      launch();
  }
}

// A loop around comes back to slots that some threads still read.
TEST(NvptxMma, CopiesAheadInLoopsWithinLoops) {
  const std::string half = "!tile.view<?x?xbf16> {tile.align = 16 : i32}";
  std::string text = "func.func @kernel(%a: " + half + ", %b: " + half + R"(, %c: !tile.view<?x?xf32>, %times: i64)
    attributes {tile.kernel} {
  %z = arith.constant 0 : i64
  %one = arith.constant 1 : i64
  %s = arith.constant 32 : i64
  %depth = tile.extent %a, 1 : !tile.view<?x?xbf16>
  %none = arith.constant dense<0.0> : tensor<32x32xf32>
  scf.for %i = %z to %times step %one : i64 {
    %rows = arith.muli %i, %s : i64
    %sum = scf.for %at = %rows to %depth step %s iter_args(%acc = %none) -> tensor<32x32xf32> : i64 {
      %x = tile.load %a[%rows, %at] dims [0, 1] : !tile.view<?x?xbf16> -> tensor<32x32xbf16>
      %y = tile.load %b[%at, %z] dims [0, 1] : !tile.view<?x?xbf16> -> tensor<32x32xbf16>
      %n = tile.dot %x, %y, %acc : tensor<32x32xbf16>, tensor<32x32xbf16>, tensor<32x32xf32>
      scf.yield %n : tensor<32x32xf32>
    }
    tile.store %sum, %c[%rows, %z] dims [0, 1] : tensor<32x32xf32>, !tile.view<?x?xf32>
  }
  return
})";
  for (int64_t times : {0, 1, 5}) {
    std::vector<float> c(150 * 30, 7);
    auto kernel = agrees(text, {Aligned<bf16>({150, 137}), Aligned<bf16>({137, 30}, 2), matrix(c, 150, 30), times},
                         {.tolerance = 0, .warps = {1, 4, 8}, .target = "sm_80"});
    EXPECT_GT(countOf("shared.global [", kernel->ptx), 0u);
  }
}

//===- Stores of fragments ----------------------------------------------------------------------------------------===//

// A quad's lanes give each other whole runs of a row: as wide stores as the rows' alignment allows, a shuffle a word
// for each doubling.
TEST(NvptxMma, StoresWholeRuns) {
  for (auto [m, n, k, more] : {std::tuple(32, 32, 32, ""), std::tuple(16, 64, 16, ""), std::tuple(64, 16, 16, ""),
                               std::tuple(64, 64, 32, ", tile.warp_specialize = false")})
    for (int alignment : {4, 8, 16}) {
      Product product{.block = {m, n, k}, .result = "bf16", .bByColumns = true, .attributes = more};
      const std::string shape = std::to_string(m) + "x" + std::to_string(n);
      product.epilogue = "  %out = arith.truncf %sum : tensor<" + shape + "xf32> to tensor<" + shape + "xbf16>";
      std::string text = product.text(), out = "%c: " + viewType(2, "bf16");
      text = replaced(text, out + aligned, out + alignedTo(alignment));
      for (auto [rows, columns] : {std::pair<int64_t, int64_t>{m + 1, n + 5}, {3, 1}}) {
        Operands<bf16, float> data(product, rows, columns, 40);
        const int64_t each = alignment / 2, stride = ((columns + each - 1) / each | 1) * each;
        Aligned<bf16> c({rows, columns}, {stride, 1}, 3);
        Emulation how{.grid = product.grid(rows, columns), .tolerance = 0, .warps = {8}, .target = "sm_80"};
        if (!*more && alignment == 16)
          agrees(text, {data.a, data.b, c}, how); // with hardly a word a thread
        how.warps = {0}, how.target = *more ? "sm_90a" : "sm_80";
        auto kernel = agrees(text, {data.a, data.b, c}, how);
        const std::string wide = alignment == 16  ? "st.global.v4.b32"
                                 : alignment == 8 ? "st.global.v2.b32"
                                                  : "st.global.b32";
        const size_t stores = countOf(wide, kernel->ptx), doublings = alignment == 16 ? 2 : alignment == 8 ? 1 : 0;
        EXPECT_GT(stores, 0u) << wide;
        // Two words a shuffle.
        EXPECT_EQ(countOf("shfl.sync", kernel->ptx), (stores << doublings) * doublings / 2);
      }
    }
}

//===- Loads by way of registers ----------------------------------------------------------------------------------===//

// Tiles are loaded a step ahead, wherever the loop ends and whichever scalars say where they lie, but not past a write.
TEST(NvptxMma, LoadsAhead) {
  auto loadsOf = [](const std::string &view) {
    const std::string half = "!tile.view<?x?xbf16> {tile.align = 16 : i32}";
    std::string text = "func.func @kernel(%a: " + half + ", %b: " + half + ", %d: " + half +
                       ", %c: !tile.view<?x?xf32>, %last: i64) attributes {tile.kernel} {" +
                       replaced(R"(
  %z = arith.constant 0 : i64
  %s = arith.constant 32 : i64
  %three = arith.constant 3 : i64
  %some = arith.constant 96 : i64
  %none = arith.constant dense<0.0> : tensor<32x32xf32>
  %sum = scf.for %at = %z to %last step %s iter_args(%acc = %none) -> tensor<32x32xf32> : i64 {
    %far = arith.muli %at, %three : i64
    %from = arith.remui %far, %some : i64
    %x = tile.load %a[%z, %from] dims [0, 1] : !tile.view<?x?xbf16> -> tensor<32x32xbf16>
    %y = tile.load %b[%at, %z] dims [0, 1] : !tile.view<?x?xbf16> -> tensor<32x32xbf16>
    %n = tile.dot %x, %y, %acc : tensor<32x32xbf16>, tensor<32x32xbf16>, tensor<32x32xf32>
    %w = tile.load %a[%z, %at] dims [0, 1] : !tile.view<?x?xbf16> -> tensor<32x32xbf16>
    %v = arith.negf %w : tensor<32x32xbf16>
    %next = arith.addi %at, %s : i64
    tile.store %v, %VIEW[%next, %z] dims [0, 1] : tensor<32x32xbf16>, !tile.view<?x?xbf16>
    scf.yield %n : tensor<32x32xf32>
  }
  tile.store %sum, %c[%z, %z] dims [0, 1] : tensor<32x32xf32>, !tile.view<?x?xf32>
  return
})",
                                "VIEW", view);
    Aligned<bf16> a({31, 199}), b({199, 30}, 2), d({199, 30}, 4);
    size_t count = 0;
    for (int64_t last : {0, 1, 64, 199}) {
      std::vector<float> c(31 * 30, 7);
      auto kernel =
          agrees(text, {a, b, d, matrix(c, 31, 30), last}, {.tolerance = 0, .warps = {1, 4}, .target = "sm_80"});
      usesMma(*kernel, instructionFor<bf16>());
      count = 0;
      for (size_t at = 0; (at = kernel->ptx.find("ld.global.v4", at)) != std::string::npos; ++at)
        ++count;
    }
    return count;
  };
  EXPECT_EQ(loadsOf("d"), 5u) << "x and y before the loop and in it, and w";
  EXPECT_EQ(loadsOf("b"), 4u);
}

// What ptxas makes of a block as large as kernels take them.
TEST(NvptxMma, FitsRegisters) {
  if (findPtxas().empty())
    GTEST_SKIP() << "no ptxas";
  for (std::string type : {"bf16", "f32", "i8", "f8E4M3FN"}) {
    bool isInteger = type == "i8";
    Product product{.block = {128, 128, isInteger || type[1] == '8' ? 128 : 64},
                    .operand = type,
                    .sum = isInteger ? "i32" : "f32",
                    .result = isInteger ? "i32" : "f32",
                    .bByColumns = true,
                    .dotAttributes = type == "f32" ? " {precision = 1 : i32}" : ""};
    for (std::string target : {"sm_80", "sm_86", "sm_89", "sm_100a", "sm_120"}) {
      if (type[1] == '8' && type[0] == 'f' && target < "sm_89" && target.size() == 5)
        continue;
      SCOPED_TRACE(type + " on " + target);
      EmulatedKernel kernel(Program::parse(product.text(), "kernel.mlir"), target);
      EXPECT_NE(kernel.ptx.find("mma.sync.aligned.m16n8k"), std::string::npos);
      std::optional<Cubin> cubin = assemblePtx(kernel.ptx, {.cpu = target});
      const KernelResources *resources = cubin ? cubin->find("product") : nullptr;
      ASSERT_TRUE(resources);
      EXPECT_EQ(resources->spillStoreBytes, 0);
      EXPECT_LE(resources->registers, 255);
    }
  }
}
