// XXH64 with seed 0 (Collet, "xxHash fast digest algorithm", specification 0.1.1): finds damage, at the memory's speed.
// Not for content that someone might forge: that is Sha256's.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bitloom {

uint64_t xxh64(const void *data, size_t bytes);

} // namespace bitloom
