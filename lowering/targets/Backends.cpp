#include "bitloom/lowering/targets/Backends.h"

#include "bitloom/lib/support/Error.h"

namespace bitloom {

const Backend &backendOf(Family family) {
  switch (family) {
  case Family::Cpu_x86:
    return x86Backend();
  case Family::Cpu_aarch64:
    return aarch64Backend();
  case Family::Nvptx:
    return nvptxBackend();
  }
  throw InternalError("no back end for family " + std::to_string(int(family)));
}

} // namespace bitloom
