// Loops of two chained dots, the second of which runs an iteration late, against the interpreter. The emulator finds
// slots that are freed while the tensor cores read them, races and waits without end. Values are small integers and
// factors powers of two, so that every sum is exact and results are compared bit by bit.
#include "bitloom/tests/unit/lowering/Products.h"

using namespace bitloom;

namespace {

// For blocks of 64 of the rows of %k and %v: sum = f(q · k^T) · v + sum / 2, with f between 0 and 3, and total the same
// of f alone. From block 2 on, f halves its argument first. `next` names what the loop carries of the sum; `after` is
// computed behind the second dot.
struct Chained {
  int64_t rows = 128, columns = 64;
  std::string element = "bf16", next = "%more", after = "";
  std::string text() const {
    std::string text = R"(
func.func @chained(%q: HALFS, %k: HALFS, %v: HALFS, %o: !tile.view<?x?xf32> {tile.align = 16 : i32},
                   %t: !tile.view<?xf32>) attributes {tile.kernel} {
  %i = tile.program_id 0
  %s = arith.constant ROWS : i64
  %rows = arith.muli %i, %s : i64
  %z = arith.constant 0 : i64
  %step = arith.constant 64 : i64
  %second = arith.constant 128 : i64
  %keys = tile.extent %k, 0 : !tile.view<?x?xELEMENT>
  %x = tile.load %q[%rows, %z] dims [0, 1] : !tile.view<?x?xELEMENT> -> tensor<ROWSxCOLUMNSxELEMENT>
  %none = arith.constant dense<0.0> : tensor<ROWSx64xf32>
  %zeros = arith.constant dense<0.0> : SUM
  %zero = arith.constant dense<0.0> : tensor<ROWSxf32>
  %half = arith.constant dense<0.5> : tensor<ROWSxf32>
  %halves = arith.constant dense<0.5> : SUM
  %weight = arith.constant dense<0.5> : tensor<ROWSx64xf32>
  %three = arith.constant dense<3.0> : tensor<ROWSx64xf32>
  %r:2 = scf.for %at = %z to %keys step %step iter_args(%sum = %zeros, %total = %zero) -> (SUM, tensor<ROWSxf32>)
      : i64 {
    %yt = tile.load %k[%at, %z] dims [0, 1] : !tile.view<?x?xELEMENT> -> tensor<64xCOLUMNSxELEMENT>
    %y = tile.transpose %yt [1, 0] : tensor<64xCOLUMNSxELEMENT> -> tensor<COLUMNSx64xELEMENT>
    %d = tile.dot %x, %y, %none : tensor<ROWSxCOLUMNSxELEMENT>, tensor<COLUMNSx64xELEMENT>, tensor<ROWSx64xf32>
    %later = arith.cmpi sge, %at, %second : i64
    %f = scf.if %later -> tensor<ROWSx64xf32> {
      %smaller = arith.mulf %d, %weight : tensor<ROWSx64xf32>
      scf.yield %smaller : tensor<ROWSx64xf32>
    } else {
      scf.yield %d : tensor<ROWSx64xf32>
    }
    %low = arith.maximumf %f, %none : tensor<ROWSx64xf32>
    %p = arith.minimumf %low, %three : tensor<ROWSx64xf32>
    %ps = tile.reduce %p axis 1 : tensor<ROWSx64xf32> -> tensor<ROWSxf32> {
    ^bb0(%l: f32, %g: f32):
      %m = arith.addf %l, %g : f32
      tile.yield %m : f32
    }
    %less = arith.mulf %total, %half : tensor<ROWSxf32>
    %all = arith.addf %less, %ps : tensor<ROWSxf32>
    %narrow = arith.truncf %p : tensor<ROWSx64xf32> to tensor<ROWSx64xELEMENT>
    %w = tile.load %v[%at, %z] dims [0, 1] : !tile.view<?x?xELEMENT> -> tensor<64xCOLUMNSxELEMENT>
    %faded = arith.mulf %sum, %halves : SUM
    %more = tile.dot %narrow, %w, %faded : tensor<ROWSx64xELEMENT>, tensor<64xCOLUMNSxELEMENT>, SUM
    AFTER
    scf.yield NEXT, %all : SUM, tensor<ROWSxf32>
  }
  tile.store %r#0, %o[%rows, %z] dims [0, 1] : SUM, !tile.view<?x?xf32>
  tile.store %r#1, %t[%rows] dims [0] : tensor<ROWSxf32>, !tile.view<?xf32>
  return
})";
    for (auto [what, by] : {std::pair<const char *, std::string>("NEXT", next),
                            {"AFTER", after},
                            {"SUM", "tensor<ROWSxCOLUMNSxf32>"},
                            {"HALFS", "!tile.view<?x?xELEMENT> {tile.align = 16 : i32}"},
                            {"ROWS", std::to_string(rows)},
                            {"COLUMNS", std::to_string(columns)},
                            {"ELEMENT", element}})
      text = replaced(text, what, by);
    return text;
  }
};

template <Element T = bf16>
std::unique_ptr<EmulatedKernel> runs(Chained kernel, int64_t queries, int64_t keys, std::vector<int> blocks = {1, 3}) {
  SCOPED_TRACE(std::to_string(queries) + " queries, " + std::to_string(keys) + " keys");
  kernel.element = irType<T>();
  const int64_t columns = kernel.columns - 3;
  return agrees(
      kernel.text(),
      {Aligned<T>({queries, columns}), Aligned<T>({keys, columns}, 2), Aligned<T>({keys, columns}, 3),
       Aligned<float>({queries, columns}, 4), Aligned<float>({queries}, 5)},
      {.grid = {(queries + kernel.rows - 1) / kernel.rows, 1, 1}, .tolerance = 0, .warps = {0}, .blocks = blocks});
}

bool has(const EmulatedKernel &kernel, const std::string &text) { return kernel.ptx.find(text) != std::string::npos; }

// The second dot is under way while the first one's result is used.
const std::string overlap = "wgmma.wait_group.sync.aligned 1;", turn = "bar.arrive";

} // namespace

// No block, one, two, and many, with a part of one at the end; programs of which a block has several.
TEST(NvptxPipelineDots, RunsTheSecondDotLate) {
  for (int64_t keys : {0, 17, 64, 65, 128, 199, 450})
    EXPECT_TRUE(has(*runs({}, 300, keys), overlap));
}

TEST(NvptxPipelineDots, TakesOtherTilesAndTypes) {
  EXPECT_TRUE(has(*runs({.columns = 128}, 130, 300), overlap));
  EXPECT_TRUE(has(*runs({.columns = 32}, 130, 300), overlap));
  EXPECT_TRUE(has(*runs<f16>({}, 130, 300), overlap));
}

// Groups that share a tile start their dots one after the other; one alone does not wait.
TEST(NvptxPipelineDots, LetsGroupsTakeTurns) {
  EXPECT_TRUE(has(*runs({.rows = 128}, 300, 199), turn));
  auto alone = runs({.rows = 64}, 300, 199);
  EXPECT_TRUE(has(*alone, overlap));
  EXPECT_FALSE(has(*alone, turn));
}

// A sum that the loop looks at, or scores and sums that do not fit the registers, stay where they are.
TEST(NvptxPipelineDots, LeavesOtherLoops) {
  EXPECT_FALSE(has(*runs({.next = "%seen", .after = "%seen = arith.maximumf %more, %zeros : SUM"}, 130, 199), overlap));
  EXPECT_FALSE(has(*runs({.columns = 256}, 130, 199), overlap));
}
