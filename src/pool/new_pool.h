// SPDX-License-Identifier: Apache-2.0
//
// What all kinds of pools have in common when they are made, opened and read. Pure, but for the
// executor's randomness.
#pragma once

#include <string>

#include "format/pool_record.h"
#include "io/executor.h"
#include "pool/open_pool.h"
#include "pool/pool.h"

namespace holdfast {

Result<void> check_create_options(const PoolCreateOptions& options);
PoolId make_pool_id(Executor& executor);
PoolInfo make_pool_info(std::string location, const format::PoolRecord& record);
VolumeRecord make_volume_record(const format::StoredVolumeRecord& stored);
// A segment would lie in the reserve.
Error no_room_error(const std::string& location, const PoolSpace& space);

}  // namespace holdfast
