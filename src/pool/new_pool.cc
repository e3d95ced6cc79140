// SPDX-License-Identifier: Apache-2.0
#include "pool/new_pool.h"

#include <array>

#include "base/bytes.h"
#include "base/units.h"

namespace holdfast {

Result<void> check_create_options(const PoolCreateOptions& options) {
  if (options.shared) TRY(check_lease_times(options.io_timeout_seconds, options.watchdog_seconds));
  if (options.segment_bytes < limits::kSegmentBytesMin ||
      options.segment_bytes > limits::kSegmentBytesMax ||
      options.segment_bytes % limits::kSegmentBytesMin != 0) {
    return Error(ErrorCode::invalid_argument,
                 "a segment size of " + std::to_string(options.segment_bytes) +
                     " bytes is not possible; use a multiple of " +
                     format_bytes(limits::kSegmentBytesMin) + " up to " +
                     format_bytes(limits::kSegmentBytesMax));
  }
  return {};
}

PoolId make_pool_id(Executor& executor) {
  std::array<std::byte, 16> random;
  store_little(random.data(), executor.random());
  store_little(random.data() + 8, executor.random());
  return Uuid::from_random(random);
}

PoolInfo make_pool_info(std::string location, const format::PoolRecord& record) {
  PoolInfo info;
  info.id = record.id;
  info.location = std::move(location);
  info.shared = record.shared;
  if (record.shared) {
    info.io_timeout_seconds = record.lease_times.io_timeout_seconds;
    info.watchdog_seconds = record.lease_times.watchdog_seconds;
  }
  info.segment_bytes = record.segment_bytes;
  info.format_version = format::kPoolFormatVersion;
  info.compatible_features = record.compatible_features;
  info.read_only_compatible_features = record.read_only_compatible_features;
  info.incompatible_features = record.incompatible_features;
  info.created = record.created;
  return info;
}

VolumeRecord make_volume_record(const format::StoredVolumeRecord& stored) {
  VolumeRecord record;
  record.id = stored.id;
  record.name = stored.name;
  record.thick = stored.thick;
  record.created = stored.created;
  return record;
}

Error no_room_error(const std::string& location, const PoolSpace& space) {
  return Error(ErrorCode::no_space,
               "the pool " + location + " is full: " + format_bytes(space.available_bytes) +
                   " of " + format_bytes(space.capacity_bytes) + " are free and " +
                   format_bytes(space.reserve_bytes) +
                   " are the reserve; add space, empty the trash (holdfast trash list), remove "
                   "volumes with --now or trim in the guests");
}

}  // namespace holdfast
