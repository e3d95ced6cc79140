// SPDX-License-Identifier: Apache-2.0
#include "base/crc32c.h"

#include <isa-l/crc.h>

#include <algorithm>

namespace holdfast {

std::uint32_t crc32c(std::span<const std::byte> bytes, std::uint32_t previous) {
  constexpr std::size_t kChunkBytes = std::size_t{1} << 30;  // ISA-L takes an int
  std::uint32_t state = ~previous;
  while (!bytes.empty()) {
    const std::size_t count = std::min(bytes.size(), kChunkBytes);
    // ISA-L's prototype lacks const; it only reads.
    auto* data = const_cast<unsigned char*>(reinterpret_cast<const unsigned char*>(bytes.data()));
    state = crc32_iscsi(data, static_cast<int>(count), state);
    bytes = bytes.subspan(count);
  }
  return ~state;
}

}  // namespace holdfast
