// Object files linked into this process, by ORC and JITLink.
#pragma once

#include "bitloom/lib/runtime/Launch.h"

#include <memory>
#include <string>
#include <string_view>

namespace bitloom {

// The code of one kernel; unmapped at the end.
class LoadedObject {
public:
  // A relocatable file for this processor. Its undefined symbols are those of the C library, libm, the two hooks of
  // lib/runtime/Hooks.h and what else the process exports. InternalError: it is no object file, lacks `entry`, or has
  // symbols that are none of these.
  LoadedObject(std::string_view object, const std::string &entry);
  ~LoadedObject();
  LoadedObject(const LoadedObject &) = delete;
  LoadedObject &operator=(const LoadedObject &) = delete;
  CpuKernel kernel() const { return function; }

private:
  struct Library;
  std::unique_ptr<Library> library;
  CpuKernel function = nullptr;
};

} // namespace bitloom
