// SPDX-License-Identifier: Apache-2.0
#include "pool/preallocation.h"

#include <algorithm>

#include "base/limits.h"
#include "base/units.h"
#include "format/page.h"

namespace holdfast {
namespace {

// Surplus that comes and goes with the counting of files that are being renamed.
constexpr std::uint64_t kSurplusSegments = 2;

// The pages of a tree with so many leaves.
std::uint64_t tree_pages(std::uint64_t leaves) {
  std::uint64_t pages = 0;
  std::uint64_t level = leaves;
  for (std::uint8_t i = 0; i < format::kPageLevels; ++i) {
    pages += level;
    level = divide_up(level, format::kChildrenPerPage);
  }
  return pages;
}

}  // namespace

ThickLayout thick_layout(std::uint64_t size_bytes, std::uint64_t segment_bytes) {
  const std::uint64_t segment_blocks = segment_bytes / kBlockBytes;
  const std::uint64_t blocks = divide_up(size_bytes, kBlockBytes);
  const std::uint64_t data_segments =
      divide_up(blocks * 100, segment_blocks * (100 - limits::kThickGarbagePercent));
  // The table has an entry for each segment number in use, and those may lie far apart: a page each
  // at most, and the map is larger by far.
  const std::uint64_t pages = tree_pages(divide_up(blocks, format::kMapEntriesPerPage)) +
                              tree_pages(data_segments + limits::kThickOpenSegments);
  const std::uint64_t page_segments = divide_up(pages, segment_blocks);
  ThickLayout layout;
  layout.segments = data_segments + limits::kThickPageCopies * page_segments +
                    limits::kThickOpenSegments + limits::kThickFreeSegments;
  layout.metadata_spares = page_segments + 1 + limits::kThickColdSegments;
  return layout;
}

Task<Result<void>> preallocate(Pool& pool, VolumeId volume, std::uint64_t segments,
                               Preallocation* progress, const bool* stop) {
  progress->total_segments = segments;
  for (;;) {
    CO_TRY_ASSIGN(const SegmentFiles files, co_await pool.count_segment_files(volume));
    progress->done_segments = std::min(files.guaranteed(), segments);
    if (*stop) co_return Result<void>{};
    if (files.guaranteed() >= segments) {
      if (files.guaranteed() <= segments + kSurplusSegments || files.spares == 0) break;
      CO_TRY_ASSIGN(const std::vector<SpareId> spares, co_await pool.list_spares(volume));
      std::uint64_t surplus = files.guaranteed() - segments;
      for (const SpareId& spare : spares) {
        if (surplus == 0 || *stop) break;
        const auto removed = co_await pool.remove_spare(spare);
        if (!removed.ok() && removed.error().code() != ErrorCode::not_found) co_return removed;
        --surplus;
      }
      break;
    }
    for (std::uint64_t missing = segments - files.guaranteed(); missing != 0; --missing) {
      if (*stop) co_return Result<void>{};
      CO_TRY(co_await pool.create_spare(volume));
      ++progress->done_segments;
    }
  }
  co_return Result<void>{};
}

}  // namespace holdfast
