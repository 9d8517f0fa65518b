// Memory in which the blocks of a launch pass each other what they have computed so far.
#pragma once

#include <cstddef>

namespace bitloom::cuda {

// It starts with this many bytes of counters, which every launch finds zero and leaves zero.
constexpr size_t workspaceCounterBytes = 4096;

// What launches that follow each other keep at once has a workspace each.
enum class WorkspaceFor { Sums, Copies };

// At least `bytes` on the current context's device, the same for all launches on a stream: they run one after the
// other. Null where that does not hold, and the launch must do without: while the stream is captured into a graph,
// whose replays may run beside other work, and for CU_STREAM_PER_THREAD, which stands for many streams. CudaError: no
// room.
void *workspaceFor(void *stream, size_t bytes, WorkspaceFor purpose = WorkspaceFor::Sums);

} // namespace bitloom::cuda
