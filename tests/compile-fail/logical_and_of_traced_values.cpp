// error: a traced value is not known while tracing: use when(condition, then, else) for control flow, where(condition,
// a, b) for values, & | ! for logic
#include "bitloom/dsl/Kernel.h"

using namespace bitloom;

Scalar<bool> inside(const Scalar<i64> &row, const Scalar<i64> &rows) {
#ifdef FAIL
  return row >= 0 && row < rows;
#else
  return (row >= 0) & (row < rows);
#endif
}
