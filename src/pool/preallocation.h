// SPDX-License-Identifier: Apache-2.0
//
// How much a thick volume needs, and bringing what it has to that. The arithmetic and its proof:
// docs/decisions/0015-thick-volumes.md.
#pragma once

#include <cstdint>

#include "base/ids.h"
#include "base/result.h"
#include "io/task.h"
#include "pool/pool.h"

namespace holdfast {

struct ThickLayout {
  std::uint64_t segments = 0;         // all that a volume of the size ever needs
  std::uint64_t metadata_spares = 0;  // of them: the last ones, which the log may not take
};

ThickLayout thick_layout(std::uint64_t size_bytes, std::uint64_t segment_bytes);

// Where the preallocation of a volume is.
struct Preallocation {
  std::uint64_t done_segments = 0;
  std::uint64_t total_segments = 0;
  bool is_complete() const { return done_segments >= total_segments; }
};

// Makes spares until the volume has `segments`, or removes those that it has too many. Updates
// `progress` as it goes, and ends early, without an error, when `*stop` becomes true. Errors:
// no_space at the pool's reserve, path failures. What is done stays done, whatever comes.
// One at a time for a volume, which may be open or not.
Task<Result<void>> preallocate(Pool& pool, VolumeId volume, std::uint64_t segments,
                               Preallocation* progress, const bool* stop);

}  // namespace holdfast
