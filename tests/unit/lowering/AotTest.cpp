// Kernels compiled ahead of time, used from C: on this machine, and on AArch64 under qemu where there is a cross
// compiler.
#include "bitloom/lowering/codegen/Aot.h"

#include "bitloom/lib/support/Error.h"
#include "bitloom/tests/unit/lowering/Kernels.h"
#include "bitloom/tests/unit/lowering/ScopedDirectory.h"

#include <gtest/gtest.h>

using namespace bitloom;

namespace {

// out[i] = scale * x[i] + y[i]; asserts that x is not NaN.
const char *const axpy = R"(
func.func @axpy(%x: !tile.view<?xf32> {tile.name = "x"}, %y: !tile.view<?xf32, strided> {tile.name = "y"},
                %scale: f32 {tile.name = "scale"}, %out: !tile.view<?xf32> {tile.name = "out", tile.align = 4 : i32})
    attributes {tile.kernel} {
  %id = tile.program_id 0
  %block = arith.constant 64 : i64
  %start = arith.muli %id, %block : i64
  %a = tile.load %x[%start] dims [0] : !tile.view<?xf32> -> tensor<64xf32>
  %b = tile.load %y[%start] dims [0] : !tile.view<?xf32, strided> -> tensor<64xf32>
  %s = tensor.splat %scale : tensor<64xf32>
  %ordered = arith.cmpf ord, %a, %a : tensor<64xf32>
  tile.assert %ordered, "x is NaN" : tensor<64xi1>
  %m = arith.mulf %s, %a : tensor<64xf32>
  %sum = arith.addf %m, %b : tensor<64xf32>
  tile.store %sum, %out[%start] dims [0] : tensor<64xf32>, !tile.view<?xf32>
  return
})";

} // namespace

TEST(Aot, HeadersNameTheParameters) {
  std::string header = aotHeader(Program::parse(axpy), "axpy_f32", parseTarget("aarch64"));
  EXPECT_TRUE(contains(header, "static inline void axpy_f32(const float *x, const int64_t x_extents[1], const int64_t "
                               "x_strides[1], const float *y, const int64_t y_extents[1], const int64_t y_strides[1], "
                               "float scale, float *out, "));
  EXPECT_TRUE(contains(
      header, "void axpy_f32_programs(const int64_t *words, const int64_t grid[3], int64_t begin, int64_t end);"));
  EXPECT_TRUE(contains(
      header, "x: read; its 1 extents and 1 strides, in elements, strides NULL for C order; the last stride is 1."));
  EXPECT_TRUE(contains(header, "multiples of 4 bytes"));
}

TEST(Aot, RefusesWhatItCannotWrite) {
  ScopedDirectory directory("BITLOOM_TEST_AOT");
  Program program = Program::parse(axpy);
  AotKernel twice[] = {{&program, "a"}, {&program, "a"}}, misnamed[] = {{&program, "2a"}};
  EXPECT_THROW(writeAot(misnamed, hostTarget(), directory.path), UserError);
  EXPECT_THROW(writeAot(twice, hostTarget(), directory.path), UserError);
  EXPECT_THROW(writeAot({}, parseTarget("sm_90a"), directory.path), UserError);
  EXPECT_THROW(writeAot({}, hostTarget(), "/dev/null/nowhere"), UserError);
  Program later = Program::parse(elementwise("%y = arith.addf %x, %x : vector<16xf32>"));
  AotKernel lowered[] = {{&later, "map"}};
  EXPECT_THROW(writeAot(lowered, hostTarget(), directory.path), UserError);
}
