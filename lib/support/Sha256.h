// SHA-256 (FIPS 180-4): names content, so that equal digests mean equal bytes.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>

namespace bitloom {

using Digest = std::array<std::uint8_t, 32>;

class Sha256 {
public:
  void update(const void *data, size_t bytes);
  void update(std::string_view text) { update(text.data(), text.size()); }
  Digest finish(); // once; nothing may be added after it

private:
  void compress(const std::uint8_t *block);

  std::array<std::uint32_t, 8> state = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                        0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<std::uint8_t, 64> pending{};
  std::uint64_t length = 0; // bytes so far
};

Digest sha256(std::string_view bytes);

// The digest of a list of strings: lists that differ in any part, or in where parts end, differ.
Digest contentKey(std::initializer_list<std::string_view> parts);

std::string hexOf(const Digest &digest); // 64 lower-case digits

} // namespace bitloom
