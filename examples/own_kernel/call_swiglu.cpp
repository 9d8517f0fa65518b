// Loads a library of kernels and calls one: call_swiglu ./libmine.so
#include <bitloom/dsl/Call.h>

#include <cmath>
#include <cstdio>
#include <exception>

int main(int argc, char **argv) try {
  using namespace bitloom;
  if (argc != 2) {
    std::fprintf(stderr, "usage: call_swiglu LIBRARY\n");
    return 2;
  }
  loadKernels(argv[1]);
  std::vector<float> gate = {-1, 0, 1, 2}, up = {1, 2, 3, 4}, out(4);
  Call call(kernelNamed("my_swiglu"));
  call.set("gate", TensorRef(gate.data(), DType::f32, {2, 2}));
  call.set("up", TensorRef(up.data(), DType::f32, {2, 2}));
  call.set("out", TensorRef(out.data(), DType::f32, {2, 2}));
  call.resolve();
  call.launch();
  for (size_t i = 0; i < out.size(); ++i) {
    float wanted = gate[i] / (1 + std::exp(-gate[i])) * up[i];
    std::printf("%g ", out[i]);
    if (std::abs(out[i] - wanted) > 1e-6f)
      return 1;
  }
  std::printf("\n");
  return 0;
} catch (const std::exception &error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
