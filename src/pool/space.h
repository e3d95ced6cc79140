// SPDX-License-Identifier: Apache-2.0
//
// How much of a pool is kept from guests, and how full it is. Pure.
//
// A pool's storage may be others' too (the same file system): what counts is what the storage says
// is free, and everything that is not free and not our volumes' is others'.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string_view>

#include "base/limits.h"
#include "pool/pool.h"

namespace holdfast {

// For metadata, deletes and the cleaner: max(1 GiB, 1 %), at most an eighth of a tiny pool.
constexpr std::uint64_t reserve_bytes_of(std::uint64_t capacity_bytes) {
  const std::uint64_t wanted =
      std::max(limits::kReserveBytesMin, capacity_bytes / 100 * limits::kReservePercent);
  return std::min(wanted, capacity_bytes / limits::kReserveTinyPoolDivisor);
}

// Whether `wanted_bytes` more may be allocated for that purpose.
bool has_room_for(const PoolSpace& space, SegmentPurpose purpose, std::uint64_t wanted_bytes);

// What is in use, by anybody.
std::uint64_t used_bytes(const PoolSpace& space);
// What guests may still have.
std::uint64_t free_bytes(const PoolSpace& space);
// Of what is not the reserve; may be above 100. 100 for storage without room for anything.
double used_percent(const PoolSpace& space);
// What volumes were promised, per byte that they could ever have: capacity less the reserve and
// what others use. Above 1 the promises cannot all be kept. Absent when volumes can have nothing.
std::optional<double> overcommit_ratio(const PoolSpace& space, std::uint64_t others_bytes,
                                       std::uint64_t provisioned_bytes);

enum class SpaceLevel : std::uint8_t { ok, warn, critical, full };
// "ok", "warn", "critical", "full"
std::string_view space_level_name(SpaceLevel level);

struct SpaceThresholds {
  std::uint32_t warn_percent = limits::kSpaceWarnPercent;
  std::uint32_t critical_percent = limits::kSpaceCriticalPercent;
};

// The level now. full: guests' next segment is refused. A level is left only a little below where
// it is reached, so that a figure that trembles does not flap: `before` is the level so far.
SpaceLevel space_level(const PoolSpace& space, std::uint64_t segment_bytes,
                       SpaceThresholds thresholds, SpaceLevel before);

}  // namespace holdfast
