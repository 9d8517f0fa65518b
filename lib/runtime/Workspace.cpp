#include "bitloom/lib/runtime/Workspace.h"

#include "bitloom/lib/runtime/Cuda.h"

#include <map>
#include <mutex>
#include <tuple>

namespace bitloom::cuda {

void *workspaceFor(void *stream, size_t bytes, WorkspaceFor purpose) {
  void *const perThread = reinterpret_cast<void *>(2); // CU_STREAM_PER_THREAD
  if (stream == perThread || isCapturing(stream))
    return nullptr;
  static std::mutex mutex;
  // Never freed at exit, when contexts may be gone. A stream's handle comes again only once the stream has ended.
  static auto &all = *new std::map<std::tuple<void *, void *, WorkspaceFor>, Buffer>;
  const ContextScope scope;
  std::lock_guard lock(mutex);
  Buffer &own = all[{scope.context(), stream, purpose}];
  if (own.bytes() < bytes) {
    if (own.data())
      synchronizeStream(stream); // launches that use it
    own = Buffer(bytes);
    fill(own.data(), 0, workspaceCounterBytes, stream);
  }
  return own.data();
}

} // namespace bitloom::cuda
