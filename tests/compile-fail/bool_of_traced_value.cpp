// error: a traced value is not known while tracing: use when(condition, then, else) for control flow, where(condition,
// a, b) for values, & | ! for logic
#include "bitloom/dsl/Kernel.h"

using namespace bitloom;

Tile<f32, 1> shifted(Tile<f32, 1> values, const Scalar<i64> &row, const Scalar<i64> &rows) {
#ifdef FAIL
  if (row < rows)
    values = values + 1.0f;
#else
  when(row < rows, [&] { values = values + 1.0f; });
#endif
  return values;
}
