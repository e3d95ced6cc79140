// SPDX-License-Identifier: Apache-2.0
//
// What the lease areas of a shared pool hold when they are made. Pure.
#pragma once

#include <cstddef>
#include <string_view>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "base/time.h"
#include "format/pool_record.h"

namespace holdfast {

// Of a new pool. The host that makes it is its first one, before anybody else can know of it; none:
// an empty name.
std::vector<std::byte> make_host_lease_content(const format::PoolRecord& pool,
                                               std::string_view host_name, BootTime now);

// Of a new volume; as large as the highest epoch that it ever had, so that the lease's version goes
// on.
Result<std::vector<std::byte>> make_volume_lease_content(const PoolId& pool, const VolumeId& volume,
                                                         Epoch epoch);

}  // namespace holdfast
