// error: expected a constant of the tile's kind: an integer for integers, a float for floats
#include "bitloom/dsl/Kernel.h"

using namespace bitloom;

Tile<i32, 1> doubled(const Tile<i32, 1> &values) {
#ifdef FAIL
  return values * 2.0f;
#else
  return values * 2;
#endif
}
