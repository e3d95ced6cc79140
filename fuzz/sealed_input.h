// SPDX-License-Identifier: Apache-2.0
//
// Inputs of the fuzz targets for stored blocks: one byte of flags, then the block, cut or filled up
// with zeros to its length. With kReseal the checksum is made right first: otherwise no fuzzer
// would ever get past it, and an enemy of a pool can compute one as well.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/bytes.h"
#include "base/units.h"
#include "format/sealed_block.h"

namespace holdfast {

inline constexpr std::uint8_t kReseal = 1;

inline std::vector<std::byte> sealed_input(const std::uint8_t* data, std::size_t bytes,
                                           std::uint32_t magic) {
  std::vector<std::byte> block(kBlockBytes);
  if (bytes == 0) return block;
  const std::size_t length = std::min<std::size_t>(bytes - 1, block.size());
  std::transform(data + 1, data + 1 + length, block.begin(),
                 [](std::uint8_t value) { return static_cast<std::byte>(value); });
  if ((data[0] & kReseal) != 0) format::seal_block(block, magic);
  return block;
}

}  // namespace holdfast
