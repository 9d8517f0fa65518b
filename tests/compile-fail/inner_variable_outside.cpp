// clang++: use of undeclared identifier 'tail'
// g++: ‘tail’ was not declared in this scope
#include "bitloom/dsl/Kernel.h"

using namespace bitloom;

Tile<f32, 1> tailBlock(const View<const f32, 1> &x) {
#ifdef FAIL
  for (auto k : range(0, x.extent(0), 64))
    auto tail = x(span(k, 64));
#else
  auto tail = zeros<f32>({64});
  for (auto k : range(0, x.extent(0), 64))
    tail = x(span(k, 64));
#endif
  return tail;
}
