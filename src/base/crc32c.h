// SPDX-License-Identifier: Apache-2.0
//
// CRC-32C (Castagnoli), by ISA-L. The standard form: init 0xFFFFFFFF, output inverted
// (RFC 3720 B.4: 32 zero bytes give 0x8A9136AA; "123456789" gives 0xE3069283).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace holdfast {

// `previous` continues an earlier crc32c() over the bytes before.
std::uint32_t crc32c(std::span<const std::byte> bytes, std::uint32_t previous = 0);

}  // namespace holdfast
