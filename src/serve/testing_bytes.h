// SPDX-License-Identifier: Apache-2.0
//
// For tests and fuzz targets of both protocols: bytes that can be recognised.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace holdfast {

using Bytes = std::vector<std::byte>;

// They depend on the seed and on the position.
inline Bytes pattern(std::size_t count, std::uint32_t seed) {
  Bytes bytes(count);
  std::uint32_t state = seed * 2654435761u + 1;
  for (std::byte& byte : bytes) {
    state = state * 1664525u + 1013904223u;
    byte = static_cast<std::byte>(state >> 24);
  }
  return bytes;
}

}  // namespace holdfast
