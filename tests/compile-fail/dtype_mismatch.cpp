// error: expected operands of one element type: convert one of them, as in cast<f32>(x)
#include "bitloom/dsl/Kernel.h"

using namespace bitloom;

Tile<f32, 1> scaled(const Tile<f32, 1> &values, const Tile<i32, 1> &counts) {
#ifdef FAIL
  return values * counts;
#else
  return values * cast<f32>(counts);
#endif
}
