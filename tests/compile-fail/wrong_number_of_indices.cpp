// error: expected one index for each dimension of the view
#include "bitloom/dsl/Kernel.h"

using namespace bitloom;

Tile<f32, 1> row(const View<const f32, 2> &x) {
  auto here = block_at(program_id(0), 64);
#ifdef FAIL
  return x(here);
#else
  return x(0, here);
#endif
}
