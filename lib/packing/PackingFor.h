// Which packing a target wants: the one function that host packers, kernels' callers and tests ask.
#pragma once

#include "bitloom/lib/packing/Packing.h"
#include "bitloom/lib/target/Target.h"

namespace bitloom {

// Of the weights of products with 8-bit activations, of which there are `rows` (1: a vector). bits in [1, 8].
// UserError: no CPU target.
Packing packingFor(const Target &target, int bits, int64_t rows = 1);

// Of the 8-bit activations of such a product: `order=low` where the target wants them row by row.
Packing activationPackingFor(const Target &target, int64_t rows);

} // namespace bitloom
