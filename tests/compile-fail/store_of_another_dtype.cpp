// error: expected a tile of the view's element type to store: convert it, as in cast<f32>(x)
#include "bitloom/dsl/Kernel.h"

using namespace bitloom;

void clear(const View<f16, 1> &out) {
#ifdef FAIL
  out(block_at(program_id(0), 64)) = zeros<f32>({64});
#else
  out(block_at(program_id(0), 64)) = cast<f16>(zeros<f32>({64}));
#endif
}
