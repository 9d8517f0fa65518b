#include "bitloom/lib/runtime/Cuda.h"

#include "bitloom/lib/runtime/Launch.h"
#include "bitloom/lib/runtime/Ptxas.h"
#include "bitloom/lib/runtime/Workspace.h"
#include "bitloom/lib/support/Error.h"
#include "bitloom/lib/target/Target.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <vector>

#include <dlfcn.h>

using namespace bitloom;

namespace {
class CudaTest : public testing::Test {
protected:
  void SetUp() override {
    if (!cuda::available())
      GTEST_SKIP() << cuda::whyUnavailable();
  }
};
} // namespace

// Nothing but the absence itself is reported, by every door, as the user's to mend.
TEST(Cuda, AMissingDriverIsAUserError) {
  if (void *driver = dlopen("libcuda.so.1", RTLD_LAZY)) {
    dlclose(driver);
    GTEST_SKIP() << "this machine has the driver";
  }
  EXPECT_FALSE(cuda::available());
  EXPECT_EQ(cuda::deviceCount(), 0);
  const std::string expected =
      "no CUDA device: libcuda.so.1 could not be opened (libcuda.so.1: cannot open shared object";
  EXPECT_TRUE(cuda::whyUnavailable().starts_with(expected)) << cuda::whyUnavailable();
  auto messageOf = [](auto call) -> std::string {
    try {
      call();
    } catch (const UserError &error) {
      return error.message();
    }
    return "nothing thrown";
  };
  EXPECT_EQ(messageOf([] { cuda::deviceInfo(0); }), cuda::whyUnavailable());
  EXPECT_EQ(messageOf([] { cuda::allocate(16); }), cuda::whyUnavailable());
  EXPECT_EQ(messageOf([] { cuda::ContextScope scope; }), cuda::whyUnavailable());
  EXPECT_EQ(messageOf([] { cuda::Module module(".version 8.0"); }), cuda::whyUnavailable());
  EXPECT_EQ(messageOf([] { cuda::launch({}, {}, {}); }), cuda::whyUnavailable());
}

// out[i] = value for i < n, with the flat words of a rank-1 view and an f32; 1 KiB of static shared memory.
static const char *fillPtx = R"(.version 8.0
.target sm_80
.address_size 64
.extern .shared .align 16 .b8 dynamic[];
.visible .entry fill(.param .u64 data, .param .u64 extent, .param .u64 stride, .param .u64 value)
{
  .reg .pred %outside;
  .reg .b32 %r<4>;
  .reg .b64 %d<7>;
  .reg .b32 %value;
  .shared .align 4 .b8 kept[1024];
  ld.param.u64 %d0, [data];
  ld.param.u64 %d1, [extent];
  ld.param.u64 %d2, [stride];
  ld.param.u32 %value, [value];
  mov.u32 %r0, %ctaid.x;
  mov.u32 %r1, %ntid.x;
  mov.u32 %r2, %tid.x;
  mad.lo.s32 %r3, %r0, %r1, %r2;
  cvt.u64.u32 %d3, %r3;
  st.volatile.shared.u32 [kept], %value;
  setp.ge.u64 %outside, %d3, %d1;
  @%outside bra done;
  mul.lo.s64 %d4, %d3, %d2;
  shl.b64 %d5, %d4, 2;
  add.s64 %d6, %d0, %d5;
  st.global.u32 [%d6], %value;
done:
  ret;
}
)";

static void expectFills(const cuda::Module &module, unsigned dynamicSharedBytes, cuda::LaunchOptions options) {
  const int64_t n = 4097, stride = 3;
  cuda::Buffer buffer(n * stride * sizeof(float));
  cuda::fill(buffer.data(), 0, buffer.bytes());
  LaunchArguments arguments;
  arguments.addView(TensorRef(buffer.data(), DType::f32, {n}, {stride}, {Device::Kind::Cuda, 0}));
  arguments.addScalar(2.5f);
  options.grid = {34};
  options.block = {128};
  cuda::launch(module.function("fill", dynamicSharedBytes), arguments.words(), options);
  cuda::synchronize();
  std::vector<float> host(n * stride);
  cuda::copy(host.data(), buffer.data(), buffer.bytes());
  for (int64_t i = 0; i < n * stride; ++i)
    ASSERT_EQ(host[i], i % stride == 0 ? 2.5f : 0.0f) << i;
}

TEST_F(CudaTest, LaunchesPtxThroughTheDriversCompiler) {
  cuda::ContextScope scope;
  cuda::Module module{fillPtx};
  expectFills(module, 0, {});
  expectFills(module, 90 * 1024, {}); // beyond what needs no opting in
  cuda::FunctionAttributes attributes = module.function("fill").attributes();
  EXPECT_GT(attributes.registers, 0);
  EXPECT_EQ(attributes.staticSharedBytes, 1024);
  EXPECT_GE(attributes.maxThreadsPerBlock, 128);
  EXPECT_GT(module.function("fill").residentBlocks(128), module.function("fill", 90 * 1024).residentBlocks(128));
}

TEST_F(CudaTest, LaunchesClustersAndOverlappingKernels) {
  if (cuda::deviceInfo(0).computeCapability < 90)
    GTEST_SKIP() << "needs compute capability 9.0";
  cuda::ContextScope scope(0);
  cuda::Module module{fillPtx};
  expectFills(module, 0, {.cluster = {2}});
  expectFills(module, 0, {.overlapPrevious = true});
  expectFills(module, 0, {.cluster = {2}, .overlapPrevious = true});
}

TEST_F(CudaTest, LaunchesCubins) {
  const int capability = cuda::deviceInfo(0).computeCapability;
  const Target target = targetOfDevice(capability);
  if (!cubinRunsOn(target, capability))
    GTEST_SKIP() << "no target of this very device";
  std::string ptx = fillPtx;
  ptx.replace(ptx.find("sm_80"), 5, target.cpu);
  ptx.replace(ptx.find("8.0"), 3,
              std::to_string(target.ptxVersion / 10) + "." + std::to_string(target.ptxVersion % 10));
  std::optional<Cubin> cubin = assemblePtx(ptx, {.cpu = target.cpu});
  if (!cubin)
    GTEST_SKIP() << "no ptxas on this machine";
  cuda::ContextScope scope(0);
  cuda::Module module(cubin->bytes);
  expectFills(module, 0, {});
  EXPECT_EQ(module.function("fill").attributes().registers, cubin->find("fill")->registers);
}

TEST_F(CudaTest, FailuresNameTheDriversError) {
  cuda::ContextScope scope;
  auto messageOf = [](auto call) -> std::string {
    try {
      call();
    } catch (const cuda::CudaError &error) {
      EXPECT_NE(error.code(), 0);
      return error.what();
    }
    return "nothing thrown";
  };
  std::string bad = fillPtx;
  bad.replace(bad.find("mad.lo"), 6, "mud.lo");
  const std::string rejected = messageOf([&] { cuda::Module module(bad); });
  EXPECT_TRUE(rejected.starts_with("cuModuleLoadDataEx: CUDA_ERROR_INVALID_PTX")) << rejected;
  EXPECT_NE(rejected.find("mud"), rejected.npos) << rejected;

  cuda::Module module{fillPtx};
  EXPECT_TRUE(messageOf([&] { module.function("fil"); }).starts_with("cuModuleGetFunction: CUDA_ERROR_NOT_FOUND"));
  EXPECT_TRUE(messageOf([&] { module.function("fill", 1 << 20); }).starts_with("cuFuncSetAttribute: CUDA_ERROR_"));
  EXPECT_TRUE(messageOf([&] {
                cuda::launch(module.function("fill"), std::vector<int64_t>(4), {.block = {4096}});
              }).starts_with("cuLaunchKernel: CUDA_ERROR_INVALID_VALUE"));
  EXPECT_TRUE(messageOf([] { cuda::allocate(size_t(1) << 60); }).starts_with("cuMemAlloc: CUDA_ERROR_OUT_OF_MEMORY"));
  EXPECT_THROW(cuda::deviceInfo(cuda::deviceCount()), UserError);
}

TEST_F(CudaTest, ScopesNestAndRestore) {
  cuda::ContextScope outer(0);
  EXPECT_EQ(cuda::currentDevice(), 0);
  {
    cuda::ContextScope inner; // the current one
    EXPECT_EQ(inner.context(), outer.context());
  }
  if (cuda::deviceCount() > 1) {
    {
      cuda::ContextScope other(1);
      EXPECT_NE(other.context(), outer.context());
      EXPECT_EQ(cuda::currentDevice(), 1);
    }
    EXPECT_EQ(cuda::currentDevice(), 0);
  }
  cuda::Event start, stop;
  start.record();
  cuda::Buffer buffer(1 << 20);
  cuda::fill(buffer.data(), 7, buffer.bytes());
  stop.record();
  stop.synchronize();
  EXPECT_GT(stop.millisecondsSince(start), 0.0);
}

// One a stream, which grows, with counters of zero; none where launches might not come one after the other.
TEST_F(CudaTest, StreamsHaveAWorkspace) {
  cuda::ContextScope scope;
  void *legacy = reinterpret_cast<void *>(1), *perThread = reinterpret_cast<void *>(2);
  void *own = cuda::workspaceFor(nullptr, 10'000);
  ASSERT_NE(own, nullptr);
  EXPECT_EQ(cuda::workspaceFor(nullptr, 8'000), own);
  EXPECT_NE(cuda::workspaceFor(legacy, 8'000), own);
  EXPECT_EQ(cuda::workspaceFor(perThread, 8'000), nullptr);
  void *larger = cuda::workspaceFor(nullptr, 1'000'000);
  EXPECT_EQ(cuda::workspaceFor(nullptr, 10'000), larger);
  std::vector<char> counters(cuda::workspaceCounterBytes, 1);
  cuda::synchronize();
  cuda::copy(counters.data(), larger, counters.size());
  EXPECT_EQ(counters, std::vector<char>(counters.size(), 0));
}
