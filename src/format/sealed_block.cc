// SPDX-License-Identifier: Apache-2.0
#include "format/sealed_block.h"

#include "base/assert.h"
#include "base/bytes.h"
#include "base/crc32c.h"

namespace holdfast::format {

void seal_block(std::span<std::byte> block, std::uint32_t magic) {
  HOLDFAST_ASSERT(block.size() > kSealBytes);
  store_little(block.data(), magic);
  store_little(block.data() + 4, crc32c(block.subspan(kSealBytes)));
}

bool check_sealed_block(std::span<const std::byte> block, std::uint32_t magic) {
  if (block.size() <= kSealBytes) return false;
  return load_little<std::uint32_t>(block.data()) == magic &&
         load_little<std::uint32_t>(block.data() + 4) == crc32c(block.subspan(kSealBytes));
}

}  // namespace holdfast::format
