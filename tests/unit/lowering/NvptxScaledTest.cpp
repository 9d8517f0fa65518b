// Products of 8-bit numbers that scales turn back, on the tensor cores of sm_90a, against the interpreter: the PTX runs
// in an emulator. Scales are whole numbers, so that every sum is exact and results are compared bit by bit.
#include "bitloom/tests/unit/lowering/Products.h"

using namespace bitloom;

namespace {

const std::string numbers = viewType(1, "f32");

// A number for each row, or for each column, along the whole tile.
std::string spread(const std::string &name, const std::string &vector, bool ofRows, const Product &product) {
  auto [m, n, k] = product.block;
  std::string column = ofRows ? tileType({m, 1}, "f32") : tileType({1, n}, "f32");
  std::string from = tileType({ofRows ? m : n}, "f32"), to = tileType({m, n}, "f32");
  return "  %" + name + "c = tile.reshape " + vector + " : " + from + " -> " + column + "\n  %" + name +
         " = tile.broadcast %" + name + "c : " + column + " -> " + to + "\n";
}

// c[i, j] = r[i] · s[j] · Σ a · b, as kernels/matmul scales what was quantised.
void scalesRowsAndColumns(std::array<int64_t, 3> block, std::array<int64_t, 3> extents, std::vector<int> warps = {0}) {
  auto [m, n, k] = extents;
  SCOPED_TRACE(std::to_string(m) + " x " + std::to_string(n) + " x " + std::to_string(k));
  Product product{.block = block, .operand = "i8", .sum = "i32", .result = "f32", .bByColumns = true};
  product.parameters = ", %r: " + numbers + ", %s: " + numbers;
  std::string sums = tileType({block[0], block[1]}, "i32"), results = tileType({block[0], block[1]}, "f32");
  product.epilogue = "  %f = arith.sitofp %sum : " + sums + " to " + results +
                     "\n  %rv = tile.load %r[%rows] dims [0] : " + numbers + " -> " + tileType({block[0]}, "f32") +
                     "\n  %sv = tile.load %s[%columns] dims [0] : " + numbers + " -> " + tileType({block[1]}, "f32") +
                     "\n" + spread("rw", "%rv", true, product) + spread("sw", "%sv", false, product) +
                     "  %g = arith.mulf %f, %rw : " + results + "\n  %out = arith.mulf %g, %sw : " + results;
  Operands<int8_t, float> data(product, m, n, k);
  Aligned<float> rows({m}, 5), columns({n}, 6);
  auto kernel = agrees(product.text(), {data.a, data.b, data.c, rows, columns},
                       {.grid = product.grid(m, n), .tolerance = 0, .warps = warps, .blocks = {2}});
  EXPECT_NE(kernel->ptx.find("wgmma.mma_async.sync.aligned.m64n"), std::string::npos);
  EXPECT_NE(kernel->ptx.find(".s32.s8.s8"), std::string::npos);
}

// c = Σ_g s[g, j] · Σ_{k in g} a · b, a step of the depth for each group, as kernels/matmul/GroupScaledMatmul.cpp.
void scalesGroups(std::array<int64_t, 3> block, std::array<int64_t, 3> extents, bool isWgmma = true) {
  auto [m, n, k] = extents;
  SCOPED_TRACE(std::to_string(m) + " x " + std::to_string(n) + " x " + std::to_string(k));
  Product product{.block = block, .operand = "i8", .sum = "i32", .result = "f32", .bByColumns = true};
  const int64_t groups = (k + block[2] - 1) / block[2];
  std::string text = R"(
func.func @k(%a: !tile.view<?x?xi8>ALIGNED, %b: !tile.view<?x?xi8>ALIGNED, %s: !tile.view<?x?xf32>,
             %c: !tile.view<?x?xf32>ALIGNED) attributes {tile.kernel} {
  %i = tile.program_id 0
  %j = tile.program_id 1
  %sm = arith.constant BM : i64
  %sn = arith.constant BN : i64
  %sk = arith.constant BK : i64
  %rows = arith.muli %i, %sm : i64
  %columns = arith.muli %j, %sn : i64
  %z = arith.constant 0 : i64
  %one = arith.constant 1 : i64
  %groups = tile.extent %s, 0 : !tile.view<?x?xf32>
  %none = arith.constant dense<0.0> : tensor<BMxBNxf32>
  %zeros = arith.constant dense<0> : tensor<BMxBNxi32>
  %sum = scf.for %g = %z to %groups step %one iter_args(%acc = %none) -> tensor<BMxBNxf32> : i64 {
    %at = arith.muli %g, %sk : i64
    %x = tile.load %a[%rows, %at] dims [0, 1] : !tile.view<?x?xi8> -> tensor<BMxBKxi8>
    %yt = tile.load %b[%columns, %at] dims [0, 1] : !tile.view<?x?xi8> -> tensor<BNxBKxi8>
    %y = tile.transpose %yt [1, 0] : tensor<BNxBKxi8> -> tensor<BKxBNxi8>
    %d = tile.dot %x, %y, %zeros : tensor<BMxBKxi8>, tensor<BKxBNxi8>, tensor<BMxBNxi32>
    %f = arith.sitofp %d : tensor<BMxBNxi32> to tensor<BMxBNxf32>
    %sv = tile.load %s[%g, %columns] dims [1] : !tile.view<?x?xf32> -> tensor<BNxf32>
SPREAD
    %scaled = arith.mulf %f, %sw : tensor<BMxBNxf32>
    %next = arith.addf %acc, %scaled : tensor<BMxBNxf32>
    scf.yield %next : tensor<BMxBNxf32>
  }
  tile.store %sum, %c[%rows, %columns] dims [0, 1] : tensor<BMxBNxf32>, !tile.view<?x?xf32>
  return
})";
  for (auto &[name, value] :
       std::vector<std::pair<std::string, std::string>>{{"ALIGNED", aligned},
                                                        {"SPREAD", spread("sw", "%sv", false, product)},
                                                        {"BM", std::to_string(block[0])},
                                                        {"BN", std::to_string(block[1])},
                                                        {"BK", std::to_string(block[2])}})
    text = replaced(text, name, value);
  Operands<int8_t, float> data(product, m, n, k);
  Aligned<float> scales({groups, n}, 7);
  auto kernel = agrees(text, {data.a, data.b, scales, data.c},
                       {.grid = product.grid(m, n), .tolerance = 0, .warps = {0}, .blocks = {2}});
  EXPECT_EQ(kernel->ptx.find("wgmma.mma_async") != std::string::npos, isWgmma);
}

} // namespace

TEST(NvptxScaled, MultipliesSumsOfBytesByRowsAndColumns) {
  scalesRowsAndColumns({128, 128, 128}, {200, 264, 400});
  scalesRowsAndColumns({64, 64, 64}, {70, 72, 136}, {0, 8});
  scalesRowsAndColumns({8, 64, 128}, {3, 72, 272}); // its operands swapped
  scalesRowsAndColumns({16, 128, 128}, {17, 199, 130});
}

TEST(NvptxScaled, MultipliesEachGroupOfTheDepth) {
  for (int64_t group : {32, 64, 128})
    scalesGroups({128, 128, group}, {130, 200, 3 * group});
  scalesGroups({64, 64, 64}, {65, 72, 320});
  scalesGroups({8, 64, 128}, {5, 136, 384});
  scalesGroups({64, 64, 16}, {65, 72, 80}, false); // shorter than wgmma's
}
