// error: expected elements to compute with, got 8-bit floats: convert them first, as in cast<f32>(x)
#include "bitloom/dsl/Kernel.h"

using namespace bitloom;

Tile<f32, 1> doubled(const Tile<f8e4m3, 1> &values) {
#ifdef FAIL
  return cast<f32>(values + values);
#else
  return cast<f32>(values) + cast<f32>(values);
#endif
}
