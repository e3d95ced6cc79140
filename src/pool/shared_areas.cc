// SPDX-License-Identifier: Apache-2.0
#include "pool/shared_areas.h"

#include <span>
#include <string>

#include "format/lease_block.h"

namespace holdfast {

std::vector<std::byte> make_host_lease_content(const format::PoolRecord& pool,
                                               std::string_view host_name, BootTime now) {
  const format::LeaseGeometry geometry;
  const std::string space_name = pool.id.to_string();
  std::vector<std::byte> area =
      format::make_host_lease_area(geometry, space_name, pool.lease_times.io_timeout_seconds);
  if (host_name.empty()) return area;
  format::LeaseLeader lease =
      format::make_host_lease(geometry, space_name, pool.lease_times.io_timeout_seconds);
  lease.owner_id = lease.owner_generation = 1;
  lease.resource_name = std::string(host_name);
  lease.timestamp = format::lease_timestamp(now);
  format::encode_leader(lease, std::span(area).first(geometry.sector_bytes));
  return area;
}

Result<std::vector<std::byte>> make_volume_lease_content(const PoolId& pool, const VolumeId& volume,
                                                         Epoch epoch) {
  const format::LeaseGeometry geometry;
  const std::string space_name = pool.to_string();
  const std::string resource_name = volume.to_string();
  std::vector<std::byte> area = format::make_volume_lease_area(geometry, space_name, resource_name);
  const std::span<std::byte> sector = std::span(area).first(geometry.sector_bytes);
  format::LeaseLeader leader = TRY(format::decode_leader(sector, format::LeaseKind::volume));
  leader.lver = epoch.value;
  format::encode_leader(leader, sector);
  return area;
}

}  // namespace holdfast
