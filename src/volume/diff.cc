// SPDX-License-Identifier: Apache-2.0
//
// Diff: which blocks differ between two roots of a volume. Both trees are walked from the top, a
// level at a time; pages in the same place are the same and are not read. A block that both have is
// the same exactly if it is in the same place: the cleaner does not move what a snapshot shows.
//
// The head is kept in memory as if by a snapshot while it is walked, so that guest and cleaner may
// go on.
#include <algorithm>

#include "base/assert.h"
#include "volume/volume_impl.h"

namespace holdfast {

using format::BlockLocation;
using format::kChildrenPerPage;
using format::kMapEntriesPerPage;
using format::MapEntry;

namespace {

constexpr std::size_t kLanes = 64;
// Pages of one level that are looked at for one answer.
constexpr std::size_t kPagesMax = 4 * limits::kDiffExtentsMax;

std::uint64_t leaves_under(std::uint8_t level) {
  std::uint64_t leaves = 1;
  for (std::uint8_t i = 0; i < level; ++i) leaves *= kChildrenPerPage;
  return leaves;
}

}  // namespace

struct VolumeImpl::Diff {
  Diff(VolumeId volume, PageMemory& memory, PageStorage& storage)
      : from(format::ArrayKind::map, volume, memory, storage),
        to(format::ArrayKind::map, volume, memory, storage) {}

  PagedArray from;
  PagedArray to;
  std::uint64_t first_block = 0;
  std::uint64_t end_block = 0;
  std::uint8_t level = 0;
  std::vector<std::uint64_t> pages;     // of this level that differ, ascending
  std::vector<std::uint64_t> children;  // of them, that differ
  std::vector<DiffExtent> extents;
  std::size_t next = 0;
  std::size_t lanes_running = 0;
  bool is_damaged = false;

  void compare(const Page* before, const Page* after, std::uint64_t index);
};

// An absent page is all zeros.
void VolumeImpl::Diff::compare(const Page* before, const Page* after, std::uint64_t index) {
  if (level > 0) {
    const std::uint64_t blocks_each = leaves_under(level - 1) * kMapEntriesPerPage;
    for (std::uint32_t slot = 0; slot < kChildrenPerPage; ++slot) {
      const auto place = [slot](const Page* page) {
        return page == nullptr ? std::uint64_t{0}
                               : load_little<std::uint64_t>(format::child_at(page->image, slot));
      };
      const std::uint64_t child = index * kChildrenPerPage + slot;
      if (place(before) == place(after) || (child + 1) * blocks_each <= first_block ||
          child * blocks_each >= end_block) {
        continue;
      }
      children.push_back(child);
    }
    return;
  }
  for (std::uint32_t slot = 0; slot < kMapEntriesPerPage; ++slot) {
    const auto place = [slot](const Page* page) {
      return page == nullptr
                 ? BlockLocation::hole()
                 : format::load_map_entry(format::map_entry_at(page->image, slot)).location;
    };
    const std::uint64_t block = index * kMapEntriesPerPage + slot;
    const BlockLocation was = place(before);
    const BlockLocation is = place(after);
    if (was == is || block < first_block || block >= end_block) continue;
    if (!was.is_stored() && !is.is_stored()) continue;  // zeros then and now
    extents.push_back({block * kBlockBytes, kBlockBytes, !is.is_stored()});
  }
}

Task<Result<DiffPart>> VolumeImpl::diff(DiffRequest request) {
  if (closing_) co_return Error(ErrorCode::busy, "the volume is being closed");
  format::Root from;
  format::Root to;
  if (!request.since.empty()) {
    CO_TRY_ASSIGN(const format::Snapshot* const since, intact_snapshot(request.since));
    from = since->root;
  }
  if (!request.snapshot.empty()) {
    CO_TRY_ASSIGN(const format::Snapshot* const snapshot, intact_snapshot(request.snapshot));
    to = snapshot->root;
    co_return co_await diff_roots(&from, &to, request.offset_bytes);
  }
  const format::Snapshot now = co_await keep_now();
  if (abandoned_) co_return lost_error();
  to = now.root;
  auto part = co_await diff_roots(&from, &to, request.offset_bytes);
  forget_kept(now.number);
  co_return part;
}

Task<Result<DiffPart>> VolumeImpl::diff_roots(const format::Root* from, const format::Root* to,
                                              std::uint64_t offset_bytes) {
  Diff diff(id_, memory_, store_);
  diff.from.set_top(from->map_top);
  diff.to.set_top(to->map_top);
  diff.first_block = offset_bytes / kBlockBytes;
  diff.end_block = divide_up(to->size_bytes, kBlockBytes);
  DiffPart part;
  part.size_bytes = to->size_bytes;
  if (from->map_top != to->map_top) diff.pages.push_back(0);
  for (int level = format::kPageLevels - 1; level >= 0 && !diff.pages.empty(); --level) {
    diff.level = static_cast<std::uint8_t>(level);
    if (diff.pages.size() > kPagesMax) {
      diff.pages.resize(kPagesMax);
      diff.end_block = (diff.pages.back() + 1) * leaves_under(diff.level) * kMapEntriesPerPage;
    }
    co_await diff_level(&diff);
    if (diff.is_damaged) {
      co_return Error(ErrorCode::corrupt,
                      "a page of the map is damaged; what it covers cannot be "
                      "compared");
    }
    if (level > 0) diff.pages = std::move(diff.children);
    diff.children.clear();
    std::sort(diff.pages.begin(), diff.pages.end());
  }
  std::sort(diff.extents.begin(), diff.extents.end(), [](const DiffExtent& a, const DiffExtent& b) {
    return a.offset_bytes < b.offset_bytes;
  });
  for (DiffExtent& extent : diff.extents) {
    extent.length_bytes = std::min(extent.length_bytes, to->size_bytes - extent.offset_bytes);
    DiffExtent* const last = part.extents.empty() ? nullptr : &part.extents.back();
    if (last != nullptr && last->is_zero == extent.is_zero &&
        last->offset_bytes + last->length_bytes == extent.offset_bytes) {
      last->length_bytes += extent.length_bytes;
      continue;
    }
    if (part.extents.size() == limits::kDiffExtentsMax) {
      part.next_bytes = extent.offset_bytes;
      break;
    }
    part.extents.push_back(extent);
  }
  if (!part.next_bytes.has_value() && diff.end_block * kBlockBytes < to->size_bytes) {
    part.next_bytes = diff.end_block * kBlockBytes;
  }
  co_return part;
}

// The pages of a level side by side: most of the time is waiting for them.
Task<void> VolumeImpl::diff_level(Diff* diff) {
  diff->next = 0;
  for (std::size_t lane = 0; lane < kLanes && lane < diff->pages.size(); ++lane) {
    ++diff->lanes_running;
    tasks_.spawn(diff_pages(diff));
  }
  while (diff->lanes_running != 0) co_await drained_.wait();
}

Task<void> VolumeImpl::diff_pages(Diff* diff) {
  for (std::size_t count = 1; diff->next < diff->pages.size() && !diff->is_damaged; ++count) {
    // Loads without I/O follow each other at once: let other work and the stack unwind in between.
    if (count % kLanes == 0) co_await sleep_for(executor_, 0ns);
    if (diff->next == diff->pages.size()) break;
    const std::uint64_t index = diff->pages[diff->next++];
    const PagedArray::Lookup before = co_await diff->from.get(diff->level, index, false);
    if (before.page != nullptr) PagedArray::pin(*before.page);
    const PagedArray::Lookup after = co_await diff->to.get(diff->level, index, false);
    diff->is_damaged = diff->is_damaged || before.outcome == PageOutcome::damaged ||
                       after.outcome == PageOutcome::damaged;
    diff->compare(before.page, after.page, index);
    if (before.page != nullptr) PagedArray::unpin(*before.page);
  }
  --diff->lanes_running;
  drained_.notify_all();
}

}  // namespace holdfast
