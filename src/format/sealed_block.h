// SPDX-License-Identifier: Apache-2.0
//
// The frame that every persisted metadata block shares: u32 magic, u32 CRC-32C of all that follows
// in the block. Pure: encodes and checks memory, no I/O.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace holdfast::format {

inline constexpr std::size_t kSealBytes = 8;  // magic and checksum

// Writes magic and checksum into the first eight bytes of `block`.
void seal_block(std::span<std::byte> block, std::uint32_t magic);
// True when magic and checksum are right.
bool check_sealed_block(std::span<const std::byte> block, std::uint32_t magic);

}  // namespace holdfast::format
