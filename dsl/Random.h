// Counter-based random numbers: Philox4x32-10 of Salmon, Moraes, Dror and Shaw, "Parallel Random Numbers: As Easy as
// 1, 2, 3" (SC 2011). The same seed and counter give the same numbers on every target.
#pragma once

#include "bitloom/dsl/Ops.h"

#include <array>

namespace bitloom {

// Four words of 32 random bits for each counter. The counter's upper 96 bits are zero; the key is the seed.
template <int R>
std::array<Tile<u32, R>, 4> philox(const Scalar<u64> &seed, const Tile<u32, R> &counter,
                                   SourceLocation at = std::source_location::current()) {
  auto zero = counter ^ counter;
  Tile<u32, R> c0 = counter, c1 = zero, c2 = zero, c3 = zero;
  Scalar<u32> k0 = cast<u32>(seed, at), k1 = cast<u32>(seed >> 32, at);
  for (int round = 0; round < 10; ++round) {
    auto h0 = mul_high(c0, 0xD2511F53u), l0 = c0 * 0xD2511F53u;
    auto h1 = mul_high(c2, 0xCD9E8D57u), l1 = c2 * 0xCD9E8D57u;
    Tile<u32, R> n0 = h1 ^ c1 ^ k0, n2 = h0 ^ c3 ^ k1;
    c0 = n0, c1 = l1, c2 = n2, c3 = l0;
    k0 = k0 + 0x9E3779B9u, k1 = k1 + 0xBB67AE85u;
  }
  return {c0, c1, c2, c3};
}

// Uniform in [0, 1), a multiple of 2^-24, for each counter.
template <int R>
Tile<f32, R> rand(const Scalar<u64> &seed, const Tile<u32, R> &counter,
                  SourceLocation at = std::source_location::current()) {
  return cast<f32>(philox(seed, counter, at)[0] >> 8, at) * 0x1p-24f;
}

} // namespace bitloom
