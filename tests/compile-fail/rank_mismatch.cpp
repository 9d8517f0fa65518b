// error: expected operands of one rank: give one of them the missing dimensions, as in expand(x, 0)
#include "bitloom/dsl/Kernel.h"

using namespace bitloom;

Tile<f32, 2> scaled(const Tile<f32, 2> &rows, const Tile<f32, 1> &weight) {
#ifdef FAIL
  return rows * weight;
#else
  return rows * expand(weight, 0);
#endif
}
