// Calls on made-up tensors: what the command line, the tests and the benchmarks run kernels on.
#pragma once

#include "bitloom/dsl/Call.h"
#include "bitloom/lib/runtime/DeviceMemory.h"

#include <cstddef>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace bitloom {

// The names that a kernel's views give to extents, without those of Meta parameters, in order of appearance.
std::vector<std::string> extentNames(const KernelRow &kernel);

// Binds the missing views of a resolved call to contiguous tensors without memory: for a call that is traced and not
// run. `aligned`: whether the kernel may assume rows that begin at multiples of 16 bytes where the extents allow it.
void bindWithoutMemory(Call &call, bool aligned = true);

// The tensors of a call. Inputs are random, the same for the same seed on every machine and device: floats in [-1, 1],
// more of them near 0, and integers over their whole range for 8 bits, else within 100 of 0; or within the range that
// the kernel's row gives (KernelRow::inputs). Outputs that the kernel reads too are inputs; the others hold a pattern
// (NaN for floats), so that an element that is never written shows.
class Example {
public:
  // Binds the missing views of a resolved call to memory of its own, which must outlive the call's launches. UserError:
  // an extent that is not known, or no such device.
  explicit Example(Call &call, uint64_t seed = 0, Device device = {});

  // A parameter's elements, on the host, in C order, of the view as it lies in memory.
  std::vector<std::byte> contents(size_t parameter) const;
  // Names the views around which a guard was overwritten: the kernel wrote out of bounds.
  std::vector<std::string> overrun() const;

private:
  std::vector<DeviceMemory> memory; // by parameter: the tensor between two guards; none where it is not ours
  std::vector<std::string> names;
};

// How far results may lie from the interpreter's: |got − expected| ≤ tolerance · (|expected| + the mean of |expected|
// over the tensor), the mean since the terms of a sum may cancel. 0 for integers.
double toleranceOf(DType dtype); // f64 1e-12, f32 2^-14, f16 2^-9, bf16 2^-6, f8e4m3 2^-2, f8e5m2 2^-1
// … of the kernel's `output` on `target`: at least 2^-8 where a GPU may multiply 8-bit floats.
double toleranceOf(const Variant &variant, size_t output, const Target &target);

struct Comparison {
  int64_t elements = 0, wrong = 0;
  double worst = 0; // the largest |got − expected| / (|expected| + mean), infinite where one is NaN or infinite alone
  int64_t at = 0;   // element of `worst`, in C order
  double got = 0, expected = 0; // there
};
// Of contiguous elements. NaNs are equal to each other.
Comparison compare(DType dtype, const void *got, const void *expected, int64_t elements, double tolerance);

} // namespace bitloom
