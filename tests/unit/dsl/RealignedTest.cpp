// The copies that are made of matrices whose rows start anywhere.
#include "bitloom/dsl/Realigned.h"

#include "bitloom/lowering/Pipeline.h"
#include "bitloom/lowering/Program.h"

#include "gtest/gtest.h"

#include <map>
#include <numeric>
#include <string>
#include <vector>

using namespace bitloom;

namespace {

struct Matrix {
  int64_t rows, columns, stride;
  std::vector<int16_t> values;

  Matrix(int64_t rows, int64_t columns, int64_t stride, int first)
      : rows(rows), columns(columns), stride(stride), values(size_t(rows * stride) + 1) {
    std::iota(values.begin(), values.end(), int16_t(first));
  }
  // From the second element on, so that no row starts at more than an element.
  TensorRef view() { return TensorRef(values.data() + 1, DType::i16, {rows, columns}, {stride, 1}); }
  int16_t at(int64_t row, int64_t column) const { return values[size_t(1 + row * stride + column)]; }
};

} // namespace

// Of both, what is left of a row beside whole blocks too; nothing beyond the columns.
TEST(Realigned, CopiesTwoMatricesInOneLaunch) {
  struct Extents {
    int64_t rows, columns;
  };
  const std::vector<std::pair<Extents, Extents>> cases = {
      {{1, 1}, {3, 17}},     {{5, 1023}, {2, 2049}}, {{3, 1025}, {1, 199}},
      {{4, 1024}, {0, 300}}, {{0, 7}, {9, 4097}},    {{6, 2500}, {7, 1024}},
  };
  for (auto [one, other] : cases) {
    SCOPED_TRACE(std::to_string(one.rows) + "x" + std::to_string(one.columns) + " and " + std::to_string(other.rows) +
                 "x" + std::to_string(other.columns));
    Matrix x(one.rows, one.columns, one.columns, 1), more(other.rows, other.columns, other.columns + 2, 7);
    Matrix out(one.rows, one.columns, one.columns + 9, 100), moreOut(other.rows, other.columns, other.columns + 3, 200);
    const Matrix before = out, moreBefore = moreOut;
    Call call(copyRows());
    call.set("x", x.view());
    call.set("more_x", more.view());
    call.set("out", out.view());
    call.set("more_out", moreOut.view());
    call.resolve();
    call.interpret();
    for (auto [from, to, old] : {std::tuple(&x, &out, &before), std::tuple(&more, &moreOut, &moreBefore)})
      for (int64_t r = 0; r < to->rows; ++r)
        for (int64_t c = 0; c < to->stride - 1; ++c)
          ASSERT_EQ(to->at(r, c), c < to->columns ? from->at(r, c) : old->at(r, c)) << "row " << r << ", column " << c;
  }
}

// The products that they are made for are to find the device empty.
TEST(Realigned, AwaitsThePreviousLaunchAndAdmitsTheNextAsItsBlocksEnd) {
  Matrix x(4, 1025, 1025, 1), out(4, 1025, 1025, 1);
  Call call(copyRows());
  call.set("x", x.view());
  call.set("more_x", x.view());
  call.set("out", out.view());
  call.set("more_out", out.view());
  call.resolve();
  const std::string ptx = emit(call.trace(), parseTarget("sm_90a"), Stage::Assembly);
  EXPECT_NE(ptx.find("griddepcontrol.wait"), std::string::npos);
  EXPECT_EQ(ptx.find("griddepcontrol.launch_dependents"), std::string::npos);
}

// Products of copies have the tiles of operands that lie so; where registers would not do without a copy, not.
TEST(Realigned, ProductsOfCopiesHaveWideTiles) {
  auto columns = [](std::map<std::string, int64_t> sizes) {
    Target target = parseTarget("sm_90a");
    target.multiprocessors = 132;
    Call call(kernelNamed("matmul"));
    call.chooseVariant(DType::bf16);
    call.tuneFor(target);
    call.setSizes(sizes);
    call.resolve();
    return call.names().at("block_n");
  };
  EXPECT_EQ(columns({{"m", 4096}, {"n", 4096}, {"k", 4096}, {"a_transposed", 1}}), 256);
  EXPECT_EQ(columns({{"m", 4097}, {"n", 4096}, {"k", 4096}, {"a_transposed", 1}}), 256);
  EXPECT_EQ(columns({{"m", 4097}, {"n", 4096}, {"k", 4096}, {"a_transposed", 1}, {"added", 1}}), 128);
  EXPECT_EQ(columns({{"m", 4097}, {"n", 4097}, {"k", 4096}, {"a_transposed", 1}}), 128);
  EXPECT_EQ(columns({{"m", 4097}, {"n", 4096}, {"k", 64}, {"a_transposed", 1}}), 256) << "2^30 products";
  EXPECT_EQ(columns({{"m", 4097}, {"n", 4096}, {"k", 16}, {"a_transposed", 1}}), 128) << "no copy is made";
}
