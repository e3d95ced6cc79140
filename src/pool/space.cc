// SPDX-License-Identifier: Apache-2.0
#include "pool/space.h"

namespace holdfast {

bool has_room_for(const PoolSpace& space, SegmentPurpose purpose, std::uint64_t wanted_bytes) {
  std::uint64_t kept_bytes = space.reserve_bytes;
  if (purpose == SegmentPurpose::guest_discard) kept_bytes /= limits::kReserveForDiscardsDivisor;
  if (purpose == SegmentPurpose::metadata) kept_bytes = 0;
  return space.available_bytes >= kept_bytes && space.available_bytes - kept_bytes >= wanted_bytes;
}

std::uint64_t used_bytes(const PoolSpace& space) {
  return space.capacity_bytes - std::min(space.capacity_bytes, space.available_bytes);
}

std::uint64_t free_bytes(const PoolSpace& space) {
  return space.available_bytes - std::min(space.available_bytes, space.reserve_bytes);
}

double used_percent(const PoolSpace& space) {
  const std::uint64_t usable =
      space.capacity_bytes - std::min(space.capacity_bytes, space.reserve_bytes);
  if (usable == 0) return 100;
  return 100.0 * static_cast<double>(used_bytes(space)) / static_cast<double>(usable);
}

std::optional<double> overcommit_ratio(const PoolSpace& space, std::uint64_t others_bytes,
                                       std::uint64_t provisioned_bytes) {
  const std::uint64_t kept = space.reserve_bytes + others_bytes;
  if (space.capacity_bytes <= kept) return std::nullopt;
  return static_cast<double>(provisioned_bytes) / static_cast<double>(space.capacity_bytes - kept);
}

std::string_view space_level_name(SpaceLevel level) {
  switch (level) {
    case SpaceLevel::ok:
      return "ok";
    case SpaceLevel::warn:
      return "warn";
    case SpaceLevel::critical:
      return "critical";
    case SpaceLevel::full:
      return "full";
  }
  return "unknown";
}

SpaceLevel space_level(const PoolSpace& space, std::uint64_t segment_bytes,
                       SpaceThresholds thresholds, SpaceLevel before) {
  const std::uint64_t needed = before == SpaceLevel::full ? 2 * segment_bytes : segment_bytes;
  if (!has_room_for(space, SegmentPurpose::guest_data, needed)) return SpaceLevel::full;
  const double percent = used_percent(space);
  const auto reaches = [&](SpaceLevel level, std::uint32_t threshold) {
    const double slack = before >= level ? limits::kSpaceLevelHysteresisPercent : 0;
    return percent >= threshold - slack;
  };
  if (reaches(SpaceLevel::critical, thresholds.critical_percent)) return SpaceLevel::critical;
  if (reaches(SpaceLevel::warn, thresholds.warn_percent)) return SpaceLevel::warn;
  return SpaceLevel::ok;
}

}  // namespace holdfast
