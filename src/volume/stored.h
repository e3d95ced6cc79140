// SPDX-License-Identifier: Apache-2.0
//
// What is known of a volume that is not open. For volume/*.cc only.
#pragma once

#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "format/root.h"
#include "io/task.h"
#include "pool/pool.h"

namespace holdfast {

// The newest root, and the names of all.
Task<Result<format::Root>> newest_root(Pool& pool, VolumeId id, std::vector<RootId>& all);

}  // namespace holdfast
