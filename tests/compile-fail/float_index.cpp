// error: expected each index to be a Span or an integer scalar: a tile of indices goes to gather
#include "bitloom/dsl/Kernel.h"

using namespace bitloom;

Scalar<f32> element(const View<const f32, 1> &x, const Scalar<f32> &position) {
#ifdef FAIL
  return x(position);
#else
  return x(cast<i64>(position));
#endif
}
