// Gated linear units (Shazeer, "GLU Variants Improve Transformer", 2020), forward and backward. gate and up may be the
// halves of one tensor of 2 · cols columns: then their rows lie that far apart, and so may those of dgate and dup.
#pragma once

#include "bitloom/dsl/Kernel.h"

namespace bitloom::kernels {

inline constexpr auto gluTests = "rows=1 cols=1; rows=3 cols=17; rows=199 cols=3; rows=17 cols=199; rows=3 cols=4097; "
                                 "rows=3 cols=192 gate_multiplier=0.5 down_multiplier=1.5";
inline constexpr auto gluBenchmarks = "rows=8192 cols=14336; rows=4096 cols=11008";
inline constexpr auto gluBlock = "min(round_up(max(cols, 1), 128), 1024)";
// More rows than a GPU counts programs along this axis are taken several at once.
inline constexpr auto gluBlockRows = "max(max(1, 1024 / next_pow2(block)), next_pow2(ceil_div(rows, 65535)))";

template <class T, class Activation> struct Glu {
  static constexpr auto tests = gluTests, benchmarks = gluBenchmarks;

  View<const T, 2> gate{"rows, cols"}, up{"rows, cols"};
  View<T, 2> out{"rows, cols"};
  Param<f32> gate_multiplier = 1.0f, down_multiplier = 1.0f;
  Meta<int> block = gluBlock, block_rows = gluBlockRows;

  Grid grid() const { return {ceil_div(out.extent(1), block), ceil_div(out.extent(0), block_rows)}; }

  void operator()() const {
    auto rows = block_at(program_id(1), block_rows), cols = block_at(program_id(0), block);
    auto g = cast<f32>(gate(rows, cols)) * gate_multiplier;
    out(rows, cols) = cast<T>(Activation::value(g) * cast<f32>(up(rows, cols)) * down_multiplier);
  }
};

template <class T, class Activation> struct GluBackward {
  static constexpr auto tests = gluTests, benchmarks = gluBenchmarks;

  View<const T, 2> dy{"rows, cols"}, gate{"rows, cols"}, up{"rows, cols"};
  View<T, 2> dgate{"rows, cols"}, dup{"rows, cols"};
  Param<f32> gate_multiplier = 1.0f, down_multiplier = 1.0f;
  Meta<int> block = gluBlock, block_rows = gluBlockRows;

  Grid grid() const { return {ceil_div(dy.extent(1), block), ceil_div(dy.extent(0), block_rows)}; }

  void operator()() const {
    auto rows = block_at(program_id(1), block_rows), cols = block_at(program_id(0), block);
    auto d = cast<f32>(dy(rows, cols)) * down_multiplier;
    auto [value, derivative] = Activation::withDerivative(cast<f32>(gate(rows, cols)) * gate_multiplier);
    auto slope = derivative * cast<f32>(up(rows, cols)) * gate_multiplier;
    dgate(rows, cols) = cast<T>(d * slope);
    dup(rows, cols) = cast<T>(d * value);
  }
};

} // namespace bitloom::kernels
