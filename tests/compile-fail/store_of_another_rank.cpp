// error: expected a tile with one dimension for each Span among the indices to store
#include "bitloom/dsl/Kernel.h"

using namespace bitloom;

void clear(const View<f32, 2> &out) {
  auto here = block_at(program_id(0), 64);
#ifdef FAIL
  out(0, here) = zeros<f32>({1, 64});
#else
  out(span(0, 1), here) = zeros<f32>({1, 64});
#endif
}
