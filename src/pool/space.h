// SPDX-License-Identifier: Apache-2.0
//
// How much of a pool is kept from guests.
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/limits.h"

namespace holdfast {

// For metadata, deletes and the cleaner: max(1 GiB, 1 %), at most an eighth of a tiny pool.
constexpr std::uint64_t reserve_bytes_of(std::uint64_t capacity_bytes) {
  const std::uint64_t wanted =
      std::max(limits::kReserveBytesMin, capacity_bytes / 100 * limits::kReservePercent);
  return std::min(wanted, capacity_bytes / limits::kReserveTinyPoolDivisor);
}

}  // namespace holdfast
