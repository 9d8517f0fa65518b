// Which packing a target wants: the one function that host packers, kernels' callers and tests ask.
#pragma once

#include "bitloom/lib/packing/Packing.h"
#include "bitloom/lib/target/Target.h"

namespace bitloom {

// Of the weights of products, bits in [1, 8]. For a CPU those with 8-bit activations, of which there are `rows` (1: a
// vector); for a GPU those with activations of 16 bits on tensor cores (kernels/low_bit_linear), however many.
Packing packingFor(const Target &target, int bits, int64_t rows = 1);

// Of the 8-bit activations of such a product: `order=low` where the target wants them row by row. UserError: no CPU
// target.
Packing activationPackingFor(const Target &target, int64_t rows);

} // namespace bitloom
