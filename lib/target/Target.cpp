#include "bitloom/lib/target/Target.h"

#include "bitloom/lib/runtime/Cuda.h"
#include "bitloom/lib/runtime/Tensor.h"
#include "bitloom/lib/support/Error.h"
#include "bitloom/lib/support/Suggest.h"

#include <algorithm>

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace bitloom {

constexpr const char *x86Triple = "x86_64-unknown-linux-gnu";
constexpr const char *aarch64Triple = "aarch64-unknown-linux-gnu";
constexpr const char *nvptxTriple = "nvptx64-nvidia-cuda";

// A store that allocates a line reads it first; one past the caches does not, and so moves a third less than a copy
// does. Worth it where the tensor would not stay in a cache anyway. AArch64 cores see streams of whole lines
// themselves.
constexpr int64_t streamedBytes = 32 << 20;

// Within a family, weaker first. LLVM tunes x86-64-v4 for 256-bit vectors unless told otherwise.
// GPU limits: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability". Multiprocessors: of A100,
// RTX 3090's class (84), RTX 4090, H100 and H200 SXM, B200, RTX 5090.
static const std::vector<Target> &bases() {
  static const std::vector<Target> table = {
      {.family = Family::Cpu_x86,
       .name = "x86-64",
       .triple = x86Triple,
       .cpu = "x86-64",
       .vectorBits = 128,
       .vectorRegisters = 16,
       .streamedBytes = streamedBytes},
      {.family = Family::Cpu_x86,
       .name = "x86-64-v3",
       .triple = x86Triple,
       .cpu = "x86-64-v3",
       .features = "+avx2",
       .vectorBits = 256,
       .vectorRegisters = 16,
       .streamedBytes = streamedBytes,
       .lanePick = "llvm.x86.avx2.permps"},
      {.family = Family::Cpu_x86,
       .name = "x86-64-v4",
       .triple = x86Triple,
       .cpu = "x86-64-v4",
       .features = "+avx2,-prefer-256-bit",
       .vectorBits = 512,
       .vectorRegisters = 32,
       .streamedBytes = streamedBytes,
       .lanePick = "llvm.x86.avx512.permvar.sf.512",
       .lanePickOfTwo = "llvm.x86.avx512.vpermi2var.ps.512"},
      {.family = Family::Cpu_aarch64,
       .name = "aarch64",
       .triple = aarch64Triple,
       .cpu = "generic",
       .features = "+neon",
       .vectorBits = 128,
       .vectorRegisters = 32},
      {.family = Family::Nvptx,
       .name = "sm_80",
       .triple = nvptxTriple,
       .cpu = "sm_80",
       .features = "+ptx80",
       .computeCapability = 80,
       .ptxVersion = 80,
       .warpSize = 32,
       .maxThreadsPerBlock = 1024,
       .maxThreadsPerSm = 2048,
       .registersPerSm = 65536,
       .maxSharedPerBlock = 163 * 1024,
       .sharedPerSm = 164 * 1024,
       .multiprocessors = 108},
      {.family = Family::Nvptx,
       .name = "sm_86",
       .triple = nvptxTriple,
       .cpu = "sm_86",
       .features = "+ptx80",
       .computeCapability = 86,
       .ptxVersion = 80,
       .warpSize = 32,
       .maxThreadsPerBlock = 1024,
       .maxThreadsPerSm = 1536,
       .registersPerSm = 65536,
       .maxSharedPerBlock = 99 * 1024,
       .sharedPerSm = 100 * 1024,
       .multiprocessors = 84},
      {.family = Family::Nvptx,
       .name = "sm_89", // fp8 mma.sync came with PTX 8.4
       .triple = nvptxTriple,
       .cpu = "sm_89",
       .features = "+ptx84",
       .computeCapability = 89,
       .ptxVersion = 84,
       .warpSize = 32,
       .maxThreadsPerBlock = 1024,
       .maxThreadsPerSm = 1536,
       .registersPerSm = 65536,
       .maxSharedPerBlock = 99 * 1024,
       .sharedPerSm = 100 * 1024,
       .multiprocessors = 128},
      {.family = Family::Nvptx,
       .name = "sm_90a",
       .triple = nvptxTriple,
       .cpu = "sm_90a",
       .features = "+ptx84",
       .computeCapability = 90,
       .ptxVersion = 84,
       .warpSize = 32,
       .maxThreadsPerBlock = 1024,
       .maxThreadsPerSm = 2048,
       .registersPerSm = 65536,
       .maxSharedPerBlock = 227 * 1024,
       .sharedPerSm = 228 * 1024,
       .multiprocessors = 132},
      {.family = Family::Nvptx,
       .name = "sm_100a",
       .triple = nvptxTriple,
       .cpu = "sm_100a",
       .features = "+ptx87",
       .computeCapability = 100,
       .ptxVersion = 87,
       .warpSize = 32,
       .maxThreadsPerBlock = 1024,
       .maxThreadsPerSm = 2048,
       .registersPerSm = 65536,
       .maxSharedPerBlock = 227 * 1024,
       .sharedPerSm = 228 * 1024,
       .multiprocessors = 148},
      {.family = Family::Nvptx,
       .name = "sm_120",
       .triple = nvptxTriple,
       .cpu = "sm_120",
       .features = "+ptx87",
       .computeCapability = 120,
       .ptxVersion = 87,
       .warpSize = 32,
       .maxThreadsPerBlock = 1024,
       .maxThreadsPerSm = 1536,
       .registersPerSm = 65536,
       .maxSharedPerBlock = 99 * 1024,
       .sharedPerSm = 100 * 1024,
       .multiprocessors = 170},
  };
  return table;
}

// Features that follow a CPU base name, in the order of the canonical name. `implies` (LLVM's, comma before each) are
// those that every processor with the feature has: Armv8.4 made dotprod mandatory, before i8mm and SVE2.
struct Feature {
  Family family;
  std::string name;
  std::string implies;
  std::string base; // the weakest base that can carry it
};
static const std::vector<Feature> &featureTable() {
  static const std::vector<Feature> table = {
      {Family::Cpu_x86, "avxvnni", "", "x86-64-v3"},
      {Family::Cpu_x86, "avx512vnni", "", "x86-64-v4"},
      {Family::Cpu_x86, "avx512vbmi", "", "x86-64-v4"},
      {Family::Cpu_x86, "avx512bf16", "", "x86-64-v4"},
      {Family::Cpu_x86, "avx512fp16", "", "x86-64-v4"},
      {Family::Cpu_aarch64, "dotprod", "", "aarch64"},
      {Family::Cpu_aarch64, "fullfp16", "", "aarch64"},
      {Family::Cpu_aarch64, "bf16", "", "aarch64"},
      {Family::Cpu_aarch64, "i8mm", ",+dotprod", "aarch64"},
      {Family::Cpu_aarch64, "sve2", ",+dotprod,+fullfp16", "aarch64"},
  };
  return table;
}

static bool holdsFeature(std::string_view features, std::string_view feature) {
  while (!features.empty()) {
    size_t comma = features.find(',');
    std::string_view item = features.substr(0, comma);
    if (item.size() == feature.size() + 1 && item[0] == '+' && item.substr(1) == feature)
      return true;
    features = comma == features.npos ? "" : features.substr(comma + 1);
  }
  return false;
}

bool Target::has(std::string_view feature) const { return holdsFeature(features, feature); }

static const Target *findBase(std::string_view name) {
  for (const Target &base : bases())
    if (base.name == name)
      return &base;
  return nullptr;
}

// Where `base` stands in its family's order of strength.
static ptrdiff_t strength(std::string_view base) { return findBase(base) - bases().data(); }

static void addFeature(std::string &features, std::string_view feature) {
  if (holdsFeature(features, feature))
    return;
  features += (features.empty() ? "+" : ",+") + std::string(feature);
}

// `base` with the rows of featureTable() that `wanted` says yes to.
template <class Wanted> static Target withFeatures(const Target &base, Wanted wanted) {
  Target target = base;
  for (const Feature &feature : featureTable()) {
    if (feature.family != base.family || !wanted(feature))
      continue;
    target.name += "+" + feature.name;
    addFeature(target.features, feature.name);
    for (size_t at = 0; at < feature.implies.size();) { // each item reads ",+name"
      size_t next = std::min(feature.implies.find(',', at + 1), feature.implies.size());
      addFeature(target.features, std::string_view(feature.implies).substr(at + 2, next - at - 2));
      at = next;
    }
    target.scalableVectors |= feature.name == "sve2";
  }
  return target;
}

std::vector<std::string> targetNames() {
  std::vector<std::string> names = {"host", "cuda"};
  for (const Target &base : bases())
    names.push_back(base.name);
  return names;
}

static std::vector<std::string> featureNames(const Target &base) {
  std::vector<std::string> names;
  for (const Feature &feature : featureTable())
    if (feature.family == base.family && strength(base.name) >= strength(feature.base))
      names.push_back(feature.name);
  return names;
}

Target parseTarget(std::string_view name) {
  if (name == "host")
    return hostTarget();
  if (name == "cuda")
    return targetOf({Device::Kind::Cuda, cuda::currentDevice()});

  std::string_view baseName = name.substr(0, name.find('+'));
  const Target *base = findBase(baseName);
  if (!base) {
    std::vector<std::string> names = targetNames();
    throw UserError("unknown target '" + std::string(name) + "'" + expectedOneOf(baseName, names));
  }

  std::vector<std::string> legal = featureNames(*base);
  std::vector<std::string_view> wanted;
  for (size_t plus = baseName.size(); plus < name.size();) {
    size_t next = std::min(name.find('+', plus + 1), name.size());
    std::string_view feature = name.substr(plus + 1, next - plus - 1);
    if (std::find(legal.begin(), legal.end(), feature) == legal.end()) {
      std::string where = "unknown feature '" + std::string(feature) + "' of target '" + base->name + "'";
      throw UserError(where + (legal.empty() ? ": expected none" : expectedOneOf(feature, legal)));
    }
    wanted.push_back(feature);
    plus = next;
  }
  return withFeatures(*base, [&](const Feature &feature) {
    return std::find(wanted.begin(), wanted.end(), feature.name) != wanted.end();
  });
}

// ------------------------------------------------------------------------------------------------ the processor here

#if defined(__x86_64__)
static Target detectHost() {
  __builtin_cpu_init(); // these account for the operating system's saving of the wide registers too
  const char *base = "x86-64";
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
      __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("f16c") && __builtin_cpu_supports("lzcnt"))
    base = "x86-64-v3";
  if (base == std::string_view("x86-64-v3") && __builtin_cpu_supports("avx512f") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl"))
    base = "x86-64-v4";
  return withFeatures(*findBase(base), [&](const Feature &feature) {
    if (strength(base) < strength(feature.base))
      return false;
    if (feature.name == "avxvnni")
      return __builtin_cpu_supports("avxvnni") != 0;
    if (feature.name == "avx512vnni")
      return __builtin_cpu_supports("avx512vnni") != 0;
    if (feature.name == "avx512vbmi")
      return __builtin_cpu_supports("avx512vbmi") != 0;
    if (feature.name == "avx512bf16")
      return __builtin_cpu_supports("avx512bf16") != 0;
    if (feature.name == "avx512fp16")
      return __builtin_cpu_supports("avx512fp16") != 0;
    return false;
  });
}
#elif defined(__aarch64__)
static Target detectHost() {
#if defined(__linux__)
  // Bits of the kernel's arch/arm64 elf_hwcaps, spelled out since old headers lack some.
  const unsigned long hwcap = getauxval(AT_HWCAP), hwcap2 = getauxval(AT_HWCAP2);
  return withFeatures(*findBase("aarch64"), [&](const Feature &feature) {
    if (feature.name == "dotprod")
      return (hwcap >> 20 & 1) != 0;
    if (feature.name == "fullfp16")
      return (hwcap >> 9 & hwcap >> 10 & 1) != 0;
    if (feature.name == "bf16")
      return (hwcap2 >> 14 & 1) != 0;
    if (feature.name == "i8mm")
      return (hwcap2 >> 13 & 1) != 0;
    if (feature.name == "sve2")
      return (hwcap2 >> 1 & 1) != 0;
    return false;
  });
#else
  return *findBase("aarch64");
#endif
}
#else
#error "no host target for this processor: add a row to bases()"
#endif

const Target &hostTarget() {
  static const Target host = detectHost();
  return host;
}

bool runsOnHost(const Target &target) {
  const Target &host = hostTarget();
  if (target.family != host.family || !isCpu(target.family))
    return false;
  auto baseOf = [](const Target &t) { return std::string_view(t.name).substr(0, t.name.find('+')); };
  if (strength(baseOf(target)) > strength(baseOf(host)))
    return false;
  for (const Feature &feature : featureTable())
    if (feature.family == target.family && target.has(feature.name) && !host.has(feature.name))
      return false;
  return true;
}

// ------------------------------------------------------------------------------------------------------- GPU devices

static bool isArchSpecific(const Target &target) { return target.cpu.back() == 'a'; }

const Target &targetOf(Device device) {
  if (device.kind == Device::Kind::Cpu)
    return hostTarget();
  static const std::vector<Target> targets = [] {
    std::vector<Target> all;
    for (int i = 0; i < cuda::deviceCount(); ++i)
      all.emplace_back(targetOfDevice(cuda::deviceInfo(i).computeCapability)).multiprocessors =
          cuda::deviceInfo(i).smCount;
    return all;
  }();
  if (device.index < 0 || size_t(device.index) >= targets.size())
    cuda::deviceInfo(device.index); // says why
  return targets[size_t(device.index)];
}

bool cubinRunsOn(const Target &target, int computeCapability) {
  if (target.family != Family::Nvptx)
    return false;
  if (isArchSpecific(target))
    return target.computeCapability == computeCapability;
  return target.computeCapability / 10 == computeCapability / 10 && target.computeCapability <= computeCapability;
}

Target targetOfDevice(int computeCapability) {
  const Target *best = nullptr;
  for (const Target &base : bases()) {
    if (base.family != Family::Nvptx || base.computeCapability > computeCapability)
      continue;
    if (isArchSpecific(base) && base.computeCapability != computeCapability)
      continue;
    if (!best || base.computeCapability > best->computeCapability)
      best = &base;
  }
  if (!best)
    throw UserError("unsupported CUDA device: expected compute capability 8.0 or above, got " +
                    std::to_string(computeCapability / 10) + "." + std::to_string(computeCapability % 10));
  return *best;
}

} // namespace bitloom
