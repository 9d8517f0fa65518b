// error: expected a view of mutable elements to store to: View<f32, 1>, not View<const f32, 1>
#include "bitloom/dsl/Kernel.h"

using namespace bitloom;

#ifdef FAIL
void clear(const View<const f32, 1> &out) {
#else
void clear(const View<f32, 1> &out) {
#endif
  out(block_at(program_id(0), 64)) = zeros<f32>({64});
}
