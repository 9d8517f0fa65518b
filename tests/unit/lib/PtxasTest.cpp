#include "bitloom/lib/runtime/Ptxas.h"

#include "bitloom/lib/support/Error.h"

#include <gtest/gtest.h>

#include <cstdlib>

using namespace bitloom;

static std::string trivialPtx(const std::string &cpu, const std::string &body = "ret;") {
  return ".version 8.4\n.target " + cpu + "\n.address_size 64\n.visible .entry nothing()\n{\n  " + body + "\n}\n";
}

namespace {
class PtxasTest : public testing::Test {
protected:
  void SetUp() override {
    if (findPtxas().empty())
      GTEST_SKIP() << "no ptxas on this machine";
  }
};

// Sets a variable for the scope.
class Variable {
public:
  Variable(const char *name, const char *value) : name(name) {
    const char *old = std::getenv(name);
    before = old ? std::optional<std::string>(old) : std::nullopt;
    setenv(name, value, 1);
  }
  ~Variable() { before ? setenv(name, before->c_str(), 1) : unsetenv(name); }

private:
  const char *name;
  std::optional<std::string> before;
};
} // namespace

TEST_F(PtxasTest, AssemblesForEachArchitecture) {
  for (std::string cpu : {"sm_80", "sm_89", "sm_90a"}) {
    std::optional<Cubin> cubin = assemblePtx(trivialPtx(cpu), {.cpu = cpu});
    ASSERT_TRUE(cubin) << cpu;
    EXPECT_EQ(cubin->bytes.substr(1, 3), "ELF") << cpu;
    ASSERT_NE(cubin->find("nothing"), nullptr) << cpu;
    EXPECT_EQ(cubin->find("nothing")->spillStoreBytes, 0);
    EXPECT_EQ(cubin->find("something"), nullptr);
  }
  EXPECT_FALSE(ptxasVersion().empty());
}

TEST_F(PtxasTest, ReportsWhatTheCodeTakes) {
  // 64 values live at once do not fit the 24 registers allowed.
  std::string body = ".reg .b64 %p; .reg .b32 %r<64>; .shared .align 4 .b8 s[4096]; ld.param.u64 %p, [out];\n";
  for (int i = 0; i < 64; ++i)
    body += "ld.volatile.global.u32 %r" + std::to_string(i) + ", [%p+" + std::to_string(4 * i) + "];\n";
  for (int i = 63; i >= 0; --i)
    body += "st.volatile.global.u32 [%p+" + std::to_string(4 * i) + "], %r" + std::to_string(i) + ";\n";
  body += "st.volatile.shared.u32 [s], %r0; bar.sync 0; ret;";
  std::string ptx =
      ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry swap(.param .u64 out)\n{" + body + "}\n";
  std::optional<Cubin> cubin = assemblePtx(ptx, {.cpu = "sm_80", .maxRegisters = 24});
  ASSERT_TRUE(cubin && cubin->find("swap"));
  KernelResources resources = *cubin->find("swap");
  EXPECT_LE(resources.registers, 24);
  EXPECT_GT(resources.spillStoreBytes, 0);
  EXPECT_GT(resources.stackBytes, 0);
  EXPECT_EQ(resources.sharedBytes, 4096);
  EXPECT_EQ(resources.barriers, 1);
  EXPECT_EQ(assemblePtx(ptx, {.cpu = "sm_80"})->find("swap")->spillStoreBytes, 0);
}

TEST_F(PtxasTest, ErrorsCarryItsText) {
  try {
    assemblePtx(trivialPtx("sm_80", "mov.u32 %r1, 3;"), {.cpu = "sm_80"});
    FAIL() << "expected PtxasError";
  } catch (const PtxasError &error) {
    std::string text = error.what();
    EXPECT_TRUE(text.starts_with("ptxas -arch=sm_80 failed with status 255:\n")) << text;
    EXPECT_NE(text.find("kernel.ptx, line 6; error   : Unknown symbol '%r1'"), text.npos) << text;
    EXPECT_EQ(text.find("bitloom-"), text.npos) << "temporary path in: " << text;
  }
  EXPECT_THROW(assemblePtx(trivialPtx("sm_90a"), {.cpu = "sm_80"}), PtxasError);
}

TEST(Ptxas, IsChosenByTheEnvironment) {
  {
    Variable chosen("BITLOOM_PTXAS", "/nowhere/ptxas");
    try {
      findPtxas();
      FAIL() << "expected UserError";
    } catch (const UserError &error) {
      EXPECT_EQ(error.message(), "BITLOOM_PTXAS: expected the path of a program, got '/nowhere/ptxas'");
    }
  }
  {
    Variable chosen("BITLOOM_PTXAS", "/bin/false"); // taken as it is: fails with no text
    EXPECT_EQ(findPtxas(), "/bin/false");
    EXPECT_THROW(assemblePtx(trivialPtx("sm_80"), {.cpu = "sm_80"}), PtxasError);
  }
}

TEST(Ptxas, ParsesReports) {
  auto kernels = parsePtxasReport(R"(ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'first' for 'sm_90a'
ptxas info    : Function properties for helper
    96 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Function properties for first
    16 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 255 registers, used 2 barriers, 112 bytes cumulative stack size, 49152 bytes smem, 400 bytes cmem[0]
ptxas info    : Compile time = 23.015 ms
ptxas info    : Compiling entry function 'second' for 'sm_90a'
ptxas info    : Function properties for second
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers, used 0 barriers)");
  ASSERT_EQ(kernels.size(), 2u);
  EXPECT_EQ(kernels[0], (KernelResources{"first", 255, 16, 12, 8, 49152, 2}));
  EXPECT_EQ(kernels[1], (KernelResources{"second", 8, 0, 0, 0, 0, 0}));
  EXPECT_TRUE(parsePtxasReport("").empty());
  EXPECT_TRUE(parsePtxasReport("    0 bytes stack frame\nptxas info    : Used 8 registers").empty());
}
