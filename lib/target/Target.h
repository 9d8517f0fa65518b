// What is compiled for: the facts of each target and the names users give them. Adding one is a row of Target.cpp.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace bitloom {

struct Device; // lib/runtime/Tensor.h

enum class Family : std::uint8_t { Cpu_x86, Cpu_aarch64, Nvptx };

inline bool isCpu(Family family) { return family != Family::Nvptx; }

// `triple`, `cpu` and `features` are LLVM's, and together decide the machine code: a cache key holds the three.
struct Target {
  Family family = Family::Cpu_x86;
  std::string name; // canonical: parseTarget(name) gives this target again
  std::string triple, cpu, features{};

  // CPU targets; 0 on Nvptx.
  int vectorBits = 0;        // of the widest vector register; of the narrowest legal one where it is scalable
  int vectorRegisters = 0;   // architectural
  int64_t streamedBytes = 0; // a tensor of this many bytes or more is best written past the caches; 0: none is
  std::string lanePick{}; // LLVM's intrinsic (f32 vector of vectorBits, i32 indices) → that vector's lanes, picked by
                          // the low bits of each index; empty: none
  std::string lanePickOfTwo{};  // the same of two vectors: (f32 vector, i32 indices, f32 vector); empty: none
  bool scalableVectors = false; // SVE: the register may be any multiple of vectorBits

  // Nvptx; 0 on CPU targets.
  int computeCapability = 0;  // 10 * major + minor
  int ptxVersion = 0;         // 10 * major + minor, the oldest that has the instructions used
  int warpSize = 0;           // threads
  int maxThreadsPerBlock = 0; // threads
  int maxThreadsPerSm = 0;    // threads
  int registersPerSm = 0;     // of 32 bits
  int maxSharedPerBlock = 0;  // bytes, static and dynamic together
  int sharedPerSm = 0;        // bytes; each resident block takes 1 KiB of it beyond what it asks for
  int multiprocessors = 0;    // of the usual device; targetOf gives a device's own

  bool has(std::string_view feature) const; // "avx512vnni", "i8mm", …: `features` holds +feature
  bool hasLaunchOverlap() const { return computeCapability >= 90; } // programmatic dependent launch
  bool operator==(const Target &) const = default;
};

// The target a user names: `host`, `cuda` (that of the current, else the first, device), a base name such as
// `x86-64-v3`, `aarch64` or `sm_90a`, or a CPU base with features: `aarch64+dotprod+i8mm`.
// UserError: a name that is none of these, or `cuda` with no device.
Target parseTarget(std::string_view name);

// Every base name that parseTarget takes, `host` and `cuda` first.
std::vector<std::string> targetNames();

// The processor this program runs on, found at run time; the same each time.
const Target &hostTarget();

// Whether this processor executes `target`'s code. Always false for Nvptx.
bool runsOnHost(const Target &target);

// What code for this device is compiled for: the host, or the GPU's own target. UserError: no such device.
const Target &targetOf(Device device);

// The best target for a device of this compute capability (10 * major + minor). UserError when it is below every row's.
// The cubin of the result runs on the device only where cubinRunsOn says so; its PTX always does, through the driver.
Target targetOfDevice(int computeCapability);
bool cubinRunsOn(const Target &target, int computeCapability);

} // namespace bitloom
