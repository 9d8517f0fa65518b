#include "bitloom/lib/target/Target.h"

#include "bitloom/lib/runtime/Cuda.h"
#include "bitloom/lib/support/Error.h"

#include <gtest/gtest.h>

using namespace bitloom;

static std::string messageOf(const std::string &name) {
  try {
    parseTarget(name);
  } catch (const UserError &error) {
    return error.message();
  }
  return "";
}

TEST(Target, EveryNameIsCanonicalAndItsFactsFit) {
  for (const std::string &name : targetNames()) {
    if (name == "host" || name == "cuda")
      continue;
    Target target = parseTarget(name);
    EXPECT_EQ(target.name, name);
    EXPECT_FALSE(target.triple.empty());
    EXPECT_FALSE(target.cpu.empty());
    if (isCpu(target.family)) {
      EXPECT_EQ(target.vectorBits % 128, 0);
      EXPECT_GE(target.vectorBits, 128);
      EXPECT_EQ(target.computeCapability, 0);
      EXPECT_EQ(target.multiprocessors, 0);
    } else {
      EXPECT_EQ(target.vectorBits, 0);
      EXPECT_TRUE(target.has("ptx" + std::to_string(target.ptxVersion)));
      EXPECT_TRUE(target.cpu.starts_with("sm_" + std::to_string(target.computeCapability)));
      EXPECT_EQ(target.maxSharedPerBlock + 1024, target.sharedPerSm);
      EXPECT_EQ(target.maxThreadsPerBlock % target.warpSize, 0);
      EXPECT_GT(target.multiprocessors, 0);
    }
  }
}

TEST(Target, FeaturesAreOrderedAndImplied) {
  Target target = parseTarget("aarch64+i8mm+dotprod");
  EXPECT_EQ(target.name, "aarch64+dotprod+i8mm");
  EXPECT_EQ(target.features, "+neon,+dotprod,+i8mm");
  EXPECT_EQ(target, parseTarget(target.name));
  EXPECT_FALSE(target.scalableVectors);

  EXPECT_FALSE(parseTarget("aarch64").has("dotprod"));
  EXPECT_TRUE(parseTarget("aarch64+i8mm").has("dotprod"));
  Target sve = parseTarget("aarch64+sve2");
  EXPECT_EQ(sve.features, "+neon,+sve2,+dotprod,+fullfp16");
  EXPECT_TRUE(sve.scalableVectors);
  EXPECT_FALSE(sve.has("sve")); // whole words only
  EXPECT_FALSE(sve.has("i8mm"));

  Target v4 = parseTarget("x86-64-v4+avx512vnni");
  EXPECT_TRUE(v4.has("avx512vnni"));
  EXPECT_FALSE(v4.has("prefer-256-bit"));
  EXPECT_EQ(v4.vectorBits, 512);
  EXPECT_EQ(parseTarget("x86-64-v3").vectorBits, 256);
}

TEST(Target, UnknownNamesSayWhatIsExpected) {
  EXPECT_EQ(messageOf("foo"),
            "unknown target 'foo': expected one of host, cuda, x86-64, x86-64-v3, x86-64-v4, aarch64, "
            "sm_80, sm_86, sm_89, sm_90a, sm_100a, sm_120");
  EXPECT_TRUE(messageOf("sm_90").starts_with("unknown target 'sm_90': did you mean 'sm_90a'? expected one of host"));
  EXPECT_TRUE(messageOf("x86_64-v3").find("did you mean 'x86-64-v3'?") != std::string::npos);
  EXPECT_TRUE(messageOf("AARCH64").find("did you mean 'aarch64'?") != std::string::npos);
  EXPECT_TRUE(messageOf("").starts_with("unknown target '': expected"));
  EXPECT_EQ(messageOf("aarch64+dotprd"), "unknown feature 'dotprd' of target 'aarch64': did you mean 'dotprod'? "
                                         "expected one of dotprod, fullfp16, bf16, i8mm, sve2");
  EXPECT_TRUE(messageOf("aarch64+").starts_with("unknown feature '' of target 'aarch64'"));
  EXPECT_TRUE(messageOf("x86-64-v3+avx512vnni").ends_with("expected one of avxvnni"));
  EXPECT_EQ(messageOf("sm_80+dotprod"), "unknown feature 'dotprod' of target 'sm_80': expected none");
  EXPECT_TRUE(messageOf("host+i8mm").starts_with("unknown target 'host+i8mm'"));
}

TEST(Target, HostIsANameOfItsOwnAndRunsHere) {
  Target host = parseTarget("host");
  EXPECT_EQ(host, parseTarget(host.name));
  EXPECT_TRUE(runsOnHost(host));
  EXPECT_FALSE(runsOnHost(parseTarget("sm_80")));
#if defined(__x86_64__)
  EXPECT_EQ(host.family, Family::Cpu_x86);
  EXPECT_TRUE(runsOnHost(parseTarget("x86-64")));
  EXPECT_FALSE(runsOnHost(parseTarget("aarch64")));
  EXPECT_EQ(runsOnHost(parseTarget("x86-64-v4")), host.vectorBits == 512);
#elif defined(__aarch64__)
  EXPECT_TRUE(runsOnHost(parseTarget("aarch64")));
  EXPECT_FALSE(runsOnHost(parseTarget("x86-64")));
#endif
}

TEST(Target, DevicesGetTheBestRowThatRunsThere) {
  EXPECT_EQ(targetOfDevice(80).name, "sm_80");
  EXPECT_EQ(targetOfDevice(87).name, "sm_86");
  EXPECT_EQ(targetOfDevice(90).name, "sm_90a");
  EXPECT_EQ(targetOfDevice(103).name, "sm_89"); // sm_100a and sm_90a run on their own devices alone
  EXPECT_EQ(targetOfDevice(121).name, "sm_120");
  EXPECT_THROW(targetOfDevice(75), UserError);

  EXPECT_TRUE(cubinRunsOn(parseTarget("sm_80"), 89));
  EXPECT_FALSE(cubinRunsOn(parseTarget("sm_89"), 86));
  EXPECT_FALSE(cubinRunsOn(parseTarget("sm_80"), 90));
  EXPECT_TRUE(cubinRunsOn(parseTarget("sm_100a"), 100));
  EXPECT_FALSE(cubinRunsOn(parseTarget("sm_100a"), 103));
}

TEST(Target, CudaNeedsADevice) {
  if (cuda::available())
    EXPECT_EQ(parseTarget("cuda").family, Family::Nvptx);
  else
    EXPECT_TRUE(messageOf("cuda").starts_with("no CUDA device: "));
}
