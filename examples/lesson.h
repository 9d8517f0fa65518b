// What the lessons share: vectors as tensors, and running a call in the interpreter and compiled.
#pragma once

#include "bitloom/dsl/Call.h"
#include "bitloom/dsl/Kernel.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <vector>

namespace lesson {

// A vector as a tensor of these extents. Nothing is copied: the vector must outlive the call.
template <class T> bitloom::TensorRef tensor(std::vector<T> &values, const bitloom::Dims &extents) {
  return {values.data(), bitloom::dtypeOf<T>, extents};
}

// Numbers that differ from each other, between -1 and 1.
inline std::vector<float> numbers(int64_t count) {
  std::vector<float> values(size_t(count), 0.0f);
  for (int64_t i = 0; i < count; ++i)
    values[size_t(i)] = std::sin(0.37f * float(i));
  return values;
}

// Runs the call in the interpreter, then compiled for this processor; each time `wanted(i)` says what out[i] should be.
template <class T>
void runBothWays(bitloom::Call &call, std::vector<T> &out, const std::function<double(int64_t)> &wanted,
                 double tolerance = 0) {
  call.resolve(); // checks the arguments against the declaration
  for (bool compiled : {false, true}) {
    out.assign(out.size(), T(99));
    compiled ? call.launch() : call.interpret();
    for (size_t i = 0; i < out.size(); ++i)
      if (!(std::abs(double(out[i]) - wanted(int64_t(i))) <= tolerance)) {
        std::printf("%s: element %zu: expected %g, got %g\n", compiled ? "compiled" : "interpreter", i,
                    wanted(int64_t(i)), double(out[i]));
        std::exit(1);
      }
  }
  std::printf("%s: %zu elements as expected, interpreted and compiled\n", call.kernel().name.c_str(), out.size());
}

} // namespace lesson
