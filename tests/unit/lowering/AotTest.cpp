// Kernels compiled ahead of time, used from C: on this machine, and on AArch64 under qemu where there is a cross
// compiler.
#include "bitloom/lowering/codegen/Aot.h"

#include "bitloom/lib/support/Error.h"
#include "bitloom/tests/unit/lowering/Kernels.h"
#include "bitloom/tests/unit/lowering/ScopedDirectory.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <fstream>

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

const char *const mainFile = R"(
#include "axpy.h"
#include <math.h>
#include <stdio.h>
int main(int argc, char **argv) {
  static const int64_t sizes[] = {1, 3, 17, 199, 4097};
  static float x[4097], y[2 * 4097], out[4098];
  (void)argv;
  for (int i = 0; i < 4097; i++) x[i] = i, y[2 * i] = 0.5f * i;
  if (argc > 1) x[0] = NAN;
  for (int s = 0; s < 5; s++)
    for (int threads = 0; threads < 4; threads++) {
      int64_t n = sizes[s], stride = 2, grid[3] = {(n + 63) / 64, 1, 1};
      for (int i = 0; i < 4098; i++) out[i] = -1;
      axpy(x, &n, NULL, y, &n, &stride, 3.0f, out, &n, NULL, grid, threads);
      for (int i = 0; i < 4098; i++)
        if (out[i] != (i < n ? 3.5f * i : -1)) return printf("%d of %d: %g\n", i, (int)n, out[i]), 1;
    }
  puts("right");
  return 0;
}
)";

struct Outcome {
  int status;
  std::string output;
};
Outcome shell(const std::string &command) {
  FILE *pipe = popen((command + " 2>&1").c_str(), "r");
  std::string output;
  std::array<char, 4096> buffer;
  while (size_t got = fread(buffer.data(), 1, buffer.size(), pipe))
    output.append(buffer.data(), got);
  return {pclose(pipe), output};
}

bool found(const std::string &program) { return shell("command -v " + program).status == 0; }

void compileAndRun(const Target &target, const std::string &compiler, const std::string &emulator) {
  ScopedDirectory directory("BITLOOM_TEST_AOT");
  Program program = Program::parse(axpy);
  AotKernel kernels[] = {{&program, ""}};
  std::vector<std::string> files = writeAot(kernels, target, directory.path);
  EXPECT_EQ(files.size(), 4u);
  std::ofstream(directory.path / "main.c") << mainFile;
  std::string in = "cd " + directory.path.string() + " && ";
  Outcome built =
      shell(in + compiler + " -std=c11 -Wall -Wextra -Werror -O1 -o main main.c bitloom_rt.c axpy.o -lm -lpthread");
  ASSERT_EQ(built.status, 0) << built.output;
  Outcome ran = shell(in + emulator + " ./main");
  EXPECT_EQ(ran.status, 0) << ran.output;
  EXPECT_EQ(ran.output, "right\n");
  Outcome failed = shell(in + emulator + " ./main nan");
  EXPECT_NE(failed.status, 0);
  EXPECT_TRUE(contains(failed.output, "x is NaN"));
}

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

TEST(Aot, KernelsRunFromCOnTheHost) {
  if (!found("cc"))
    GTEST_SKIP() << "no C compiler";
  compileAndRun(hostTarget(), "cc", "");
}

TEST(Aot, KernelsRunFromCOnAArch64) {
  if (!found("aarch64-linux-gnu-gcc") || !found("qemu-aarch64"))
    GTEST_SKIP() << "no cross compiler or no emulator";
  for (const char *target : {"aarch64", "aarch64+dotprod+i8mm"})
    compileAndRun(parseTarget(target), "aarch64-linux-gnu-gcc -static", "qemu-aarch64 -cpu max");
}
