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
  std::vector<std::string> files = writeAot(kernels, std::vector{target}, directory.path);
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
  std::string header = aotHeader(Program::parse(axpy), "axpy_f32", std::vector{parseTarget("aarch64")});
  EXPECT_TRUE(contains(header, "static inline void axpy_f32(const float *x, const int64_t x_extents[1], const int64_t "
                               "x_strides[1], const float *y, const int64_t y_extents[1], const int64_t y_strides[1], "
                               "float scale, float *out, "));
  EXPECT_TRUE(contains(
      header, "void axpy_f32_programs(const int64_t *words, const int64_t grid[3], int64_t begin, int64_t end);"));
  EXPECT_TRUE(contains(
      header, "x: read; its 1 extents and 1 strides, in elements, strides NULL for C order; the last stride is 1."));
  EXPECT_TRUE(contains(header, "multiples of 4 bytes"));
}

TEST(Aot, ADispatcherKnowsEveryTarget) {
  const std::vector targets = {parseTarget("aarch64"), parseTarget("aarch64+dotprod+i8mm")};
  const std::string dispatcher = aotDispatcher("axpy", targets);
  EXPECT_TRUE(contains(dispatcher, "{\"aarch64\", axpy_aarch64_programs},\n"
                                   "    {\"aarch64+dotprod+i8mm\", axpy_aarch64_dotprod_i8mm_programs},\n"));
  const std::string header = aotHeader(Program::parse(axpy), "axpy", targets);
  EXPECT_TRUE(contains(header, "for aarch64, aarch64+dotprod+i8mm.") && contains(header, "axpy_target(void);"));
}

TEST(Aot, RefusesWhatItCannotWrite) {
  ScopedDirectory directory("BITLOOM_TEST_AOT");
  Program program = Program::parse(axpy);
  AotKernel twice[] = {{&program, "a"}, {&program, "a"}}, misnamed[] = {{&program, "2a"}};
  EXPECT_THROW(writeAot(misnamed, std::vector{hostTarget()}, directory.path), UserError);
  EXPECT_THROW(writeAot(twice, std::vector{hostTarget()}, directory.path), UserError);
  EXPECT_THROW(writeAot({}, std::vector{parseTarget("sm_90a")}, directory.path), UserError);
  EXPECT_THROW(writeAot({}, std::vector{hostTarget()}, "/dev/null/nowhere"), UserError);
  AotKernel kernels[] = {{&program, ""}};
  EXPECT_THROW(writeAot(kernels, std::vector{parseTarget("x86-64"), parseTarget("aarch64")}, directory.path),
               UserError);
  EXPECT_THROW(writeAot(kernels, std::vector{parseTarget("x86-64"), parseTarget("x86-64")}, directory.path), UserError);
  Program later = Program::parse(elementwise("%y = arith.addf %x, %x : vector<16xf32>"));
  AotKernel lowered[] = {{&later, "map"}};
  EXPECT_THROW(writeAot(lowered, std::vector{hostTarget()}, directory.path), UserError);
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

// The processor's own answers, by the C run-time and by the library.
TEST(Aot, TheRunTimeKnowsThisProcessor) {
  if (!found("cc"))
    GTEST_SKIP() << "no C compiler";
  ScopedDirectory directory("BITLOOM_TEST_AOT");
  writeAot({}, std::vector{hostTarget()}, directory.path);
  std::ofstream(directory.path / "main.c") << R"(
#include "bitloom_rt.h"
#include <stdio.h>
int main(int argc, char **argv) {
  for (int i = 1; i < argc; i++) printf("%d", bitloom_rt_runs(argv[i]));
  return 0;
}
)";
  const std::string in = "cd " + directory.path.string() + " && ";
  Outcome built = shell(in + "cc -std=c11 -Wall -Wextra -Werror -O1 -o main main.c bitloom_rt.c -lpthread");
  ASSERT_EQ(built.status, 0) << built.output;
  std::string names, wanted;
  for (const char *name : {"x86-64", "x86-64-v3", "x86-64-v4", "x86-64-v3+avxvnni", "x86-64-v4+avx512vnni",
                           "x86-64-v4+avx512vbmi", "x86-64-v4+avx512bf16", "x86-64-v4+avx512fp16", "aarch64",
                           "aarch64+dotprod", "aarch64+fullfp16", "aarch64+bf16", "aarch64+i8mm", "aarch64+sve2"}) {
    names += std::string(" ") + name;
    wanted += runsOnHost(parseTarget(name)) ? "1" : "0";
  }
  EXPECT_EQ(shell(in + "./main" + names + " " + hostTarget().name).output, wanted + "1");
  EXPECT_EQ(shell(in + "./main x86-64+ x86-64-v33 aarch64+i8m ''").output, "0000");
}

TEST(Aot, ADispatcherTakesTheLastThatRuns) {
  if (!found("cc"))
    GTEST_SKIP() << "no C compiler";
  ScopedDirectory directory("BITLOOM_TEST_AOT");
  Program program = Program::parse(axpy);
  AotKernel kernels[] = {{&program, ""}};
  const bool x86 = hostTarget().family == Family::Cpu_x86;
  const std::vector targets =
      x86 ? std::vector{parseTarget("x86-64"), parseTarget("x86-64-v3"), parseTarget("x86-64-v4")}
          : std::vector{parseTarget("aarch64"), parseTarget("aarch64+dotprod")};
  std::string wanted;
  for (const Target &target : targets)
    wanted = runsOnHost(target) ? target.name : wanted;
  EXPECT_EQ(writeAot(kernels, targets, directory.path).size(), targets.size() + 4);
  std::string main = mainFile;
  main.replace(main.find("\"right\""), 7, "axpy_target()");
  std::ofstream(directory.path / "main.c") << main;
  const std::string in = "cd " + directory.path.string() + " && ";
  Outcome built = shell(in + "cc -std=c11 -Wall -Wextra -Werror -O1 -o main *.c *.o -lm -lpthread && ./main");
  EXPECT_EQ(built.status, 0);
  EXPECT_EQ(built.output, wanted + "\n");
}
