// SPDX-License-Identifier: Apache-2.0
#include "volume/segment_store.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/assert.h"
#include "base/log.h"
#include "io/file_io.h"

namespace holdfast {

using format::kChildrenPerPage;
using format::kPageLevels;
using format::kSegmentEntriesPerPage;
using format::SegmentEntry;
using format::SegmentState;
using format::SegmentStream;

SegmentStore::SegmentStore(Executor& executor, Pool& pool, VolumeId volume, PageMemory& memory,
                           HoldTracker& hold)
    : executor_(executor),
      pool_(pool),
      volume_(volume),
      hold_(hold),
      table_(format::ArrayKind::segment_table, volume, memory, *this) {}

SegmentStore::~SegmentStore() {
  idle_.clear();
}

void SegmentStore::set_listed(const std::vector<SegmentId>& segments) {
  for (const SegmentId& id : segments) listed_[id.number.value] = id.epoch;
}

Task<Result<void>> SegmentStore::load_table(format::BlockLocation top) {
  table_.set_top(top);
  if (!top.is_hole()) {
    CO_TRY(co_await load_table_pages(kPageLevels - 1, 0));
  }
  for_each_entry([this](SegmentNumber number, const SegmentEntry& found) {
    ++segment_count_;
    live_blocks_ += found.live_blocks;
    if (found.state == SegmentState::sealed && found.live_blocks == 0) {
      dead_candidates_.push_back(number);
    }
  });
  co_return Result<void>{};
}

Task<Result<void>> SegmentStore::load_table_pages(std::uint8_t level, std::uint64_t index) {
  const PagedArray::Lookup found = co_await table_.get(level, index, false);
  if (found.outcome != PageOutcome::ready) {
    co_return Error(ErrorCode::corrupt,
                    "a page of the segment table is damaged; the volume cannot be opened safely: "
                    "restore it from a backup or a snapshot");
  }
  Page* const page = found.page;
  PagedArray::pin(*page);
  pinned_.push_back(page);
  if (level == 0) co_return Result<void>{};
  for (std::uint32_t slot = 0; slot < kChildrenPerPage; ++slot) {
    if (load_little<std::uint64_t>(format::child_at(page->image, slot)) == 0) continue;
    CO_TRY(co_await load_table_pages(static_cast<std::uint8_t>(level - 1),
                                     index * kChildrenPerPage + slot));
  }
  co_return Result<void>{};
}

std::byte* SegmentStore::entry_bytes(SegmentNumber segment) const {
  Page* const page = table_.find_leaf(segment.value / kSegmentEntriesPerPage);
  if (page == nullptr) return nullptr;
  const auto slot = static_cast<std::uint32_t>(segment.value % kSegmentEntriesPerPage);
  return format::segment_entry_at(page->image, slot);
}

bool SegmentStore::has_entry(SegmentNumber segment) {
  const std::byte* at = entry_bytes(segment);
  return at != nullptr && format::load_segment_entry(at).state != SegmentState::absent;
}

SegmentEntry SegmentStore::entry(SegmentNumber segment) {
  const std::byte* at = entry_bytes(segment);
  return at == nullptr ? SegmentEntry{} : format::load_segment_entry(at);
}

void SegmentStore::set_entry(SegmentNumber segment, const SegmentEntry& entry) {
  Page* const page = table_.find_leaf(segment.value / kSegmentEntriesPerPage);
  HOLDFAST_ASSERT(page != nullptr);
  const auto slot = static_cast<std::uint32_t>(segment.value % kSegmentEntriesPerPage);
  const SegmentEntry before =
      format::load_segment_entry(format::segment_entry_at(page->image, slot));
  format::store_segment_entry(format::segment_entry_at(table_.writable(*page), slot), entry);
  live_blocks_ = live_blocks_ - before.live_blocks + entry.live_blocks;
  if (before.state == SegmentState::absent && entry.state != SegmentState::absent) {
    ++segment_count_;
  }
  if (before.state != SegmentState::absent && entry.state == SegmentState::absent) {
    --segment_count_;
  }
}

Task<Result<void>> SegmentStore::prepare_entry(SegmentNumber segment) {
  const std::uint64_t leaf = segment.value / kSegmentEntriesPerPage;
  if (table_.find_leaf(leaf) != nullptr) co_return Result<void>{};
  const PagedArray::Lookup found = co_await table_.get(0, leaf, true);
  if (found.outcome != PageOutcome::ready) {
    co_return Error(ErrorCode::corrupt, "a page of the segment table is damaged");
  }
  PagedArray::pin(*found.page);
  pinned_.push_back(found.page);
  co_return Result<void>{};
}

void SegmentStore::add_live(SegmentNumber segment, std::int64_t blocks) {
  Page* const page = table_.find_leaf(segment.value / kSegmentEntriesPerPage);
  if (page == nullptr) {
    log_error("volume " + volume_.to_string() + ": segment " + std::to_string(segment.value) +
              " is referred to but not in the segment table; its count is not kept");
    return;
  }
  const auto slot = static_cast<std::uint32_t>(segment.value % kSegmentEntriesPerPage);
  std::byte* const at = format::segment_entry_at(table_.writable(*page), slot);
  constexpr std::size_t kLiveOffset = 12;
  constexpr std::size_t kStateOffset = 21;
  const auto live =
      static_cast<std::int64_t>(load_little<std::uint32_t>(at + kLiveOffset)) + blocks;
  if (live < 0) {
    // Stored counts contradict the stored map: keep the segment rather than free what may be read.
    log_error("volume " + volume_.to_string() + ": the live count of segment " +
              std::to_string(segment.value) + " would fall below zero; the segment is kept");
    return;
  }
  store_little(at + kLiveOffset, static_cast<std::uint32_t>(live));
  live_blocks_ = static_cast<std::uint64_t>(static_cast<std::int64_t>(live_blocks_) + blocks);
  if (live == 0 && at[kStateOffset] == static_cast<std::byte>(SegmentState::sealed)) {
    dead_candidates_.push_back(segment);
  }
}

void SegmentStore::for_each_entry(
    const std::function<void(SegmentNumber, const SegmentEntry&)>& visit) {
  for (Page* page : pinned_) {
    if (page->level != 0) continue;
    for (std::uint32_t slot = 0; slot < kSegmentEntriesPerPage; ++slot) {
      const SegmentEntry found =
          format::load_segment_entry(format::segment_entry_at(page->image, slot));
      if (found.state != SegmentState::absent) {
        visit({page->index * kSegmentEntriesPerPage + slot}, found);
      }
    }
  }
}

Task<Result<Segment*>> SegmentStore::create(SegmentStream stream, bool hold_errors) {
  HoldTracker::Operation held(hold_);
  const MonotonicTime begin = executor_.now();
  for (;;) {
    if (stream == SegmentStream::main) co_await wait_for_spare();
    // A number is used for one try only: a create that failed may still have left a file.
    const SegmentNumber number = next_;
    ++next_.value;
    CO_TRY(co_await prepare_entry(number));
    trim_handles(handles_max_ - 1);
    const SegmentId id{volume_, epoch_, number};
    Result<std::unique_ptr<File>> file = co_await create_file(id, stream);
    if (file.ok()) {
      auto owned = std::make_unique<Segment>();
      owned->number = number;
      owned->epoch = epoch_;
      owned->file = std::move(file).value();
      owned->users = 1;
      Segment* const segment = owned.get();
      open_[number.value] = std::move(owned);
      SegmentEntry fresh;
      fresh.epoch = epoch_;
      fresh.stream = stream;
      fresh.state = SegmentState::open;
      set_entry(number, fresh);
      co_return segment;
    }
    if (!hold_errors) co_return file.take_error();
    // All of a thick volume is there: what it waits for is its own cleaner, as a slow disk would.
    if (stream == SegmentStream::main && file.error().code() == ErrorCode::no_space &&
        is_preallocated() && executor_.now() - begin < limits::kThickHoldTime) {
      continue;
    }
    // A log that cannot grow waits whatever the reason: nothing else would keep the guest's data.
    const HoldReason reason = never_final(sort_error(file.error()));
    give_up_handles();
    const Duration delay = held.failed(reason, file.error().message());
    co_await sleep_for(executor_, delay);
  }
}

// Spares first: they need no space of the pool, and cannot be taken by anybody else.
Task<Result<std::unique_ptr<File>>> SegmentStore::create_file(SegmentId segment,
                                                              SegmentStream stream) {
  const bool is_main = stream == SegmentStream::main;
  for (bool refreshed = false; is_thick();) {
    if (is_main ? free_spares() == 0 : spares_.empty()) {
      if (refreshed) break;
      refreshed = true;
      CO_TRY(co_await refresh_spares());
      continue;
    }
    const SpareId spare = spares_.back();
    spares_.pop_back();
    taken_.push_back(spare);
    Result<std::unique_ptr<File>> file = co_await pool_.create_segment_from(spare, segment);
    std::erase(taken_, spare);
    // Gone: the host removed it as a surplus, or a rename of ours had been done after all.
    if (file.ok() || file.error().code() != ErrorCode::not_found) co_return file;
  }
  const SegmentPurpose purpose = is_main ? SegmentPurpose::guest_data : SegmentPurpose::metadata;
  co_return co_await pool_.create_segment(segment, purpose);
}

// A log that has used up its spares waits for the cleaner. That does not last: while so few are
// left, more of the sealed segments than kThickGarbagePercent is garbage (docs/decisions/0015), so
// there is a victim, and the spares kept for metadata are enough to clean it.
Task<void> SegmentStore::wait_for_spare() {
  if (!is_thick() || free_spares() != 0) co_return;
  (void)co_await refresh_spares();
  if (!is_preallocated() || free_spares() != 0) co_return;
  ++waits_for_spares_;
  // Now and then the pool is asked all the same: it may have space, and if blocks are damaged, so
  // that their segments cannot be cleaned, the proof does not hold.
  const MonotonicTime until = executor_.now() + limits::kThickPoolTime;
  while (is_preallocated() && free_spares() == 0 && executor_.now() < until) {
    scarce_();
    co_await sleep_for(executor_, limits::kThickPollTime);
  }
}

void SegmentStore::set_thick(std::optional<ThickLayout> layout) {
  thick_ = layout;
  if (!thick_.has_value()) spares_.clear();
}

Task<Result<void>> SegmentStore::refresh_spares() {
  CO_TRY_ASSIGN(std::vector<SpareId> listed, co_await pool_.list_spares(volume_));
  // Counted twice, they would let the log take what is kept for metadata.
  std::erase_if(listed, [this](const SpareId& spare) {
    return std::find(taken_.begin(), taken_.end(), spare) != taken_.end();
  });
  if (is_thick()) spares_ = std::move(listed);
  co_return Result<void>{};
}

// The highest number of a segment that became a spare.
SegmentNumber SegmentStore::last_spare_number() const {
  SegmentNumber last;
  for (const SpareId& spare : spares_) {
    if (spare.epoch.value != 0) last = std::max(last, SegmentNumber{spare.number});
  }
  return last;
}

void SegmentStore::seal(SegmentNumber segment, std::uint32_t used_blocks) {
  SegmentEntry found = entry(segment);
  HOLDFAST_ASSERT(found.state == SegmentState::open);
  found.state = SegmentState::sealed;
  found.used_blocks = used_blocks;
  set_entry(segment, found);
  if (found.live_blocks == 0) dead_candidates_.push_back(segment);
}

Task<Result<void>> SegmentStore::remove(SegmentNumber segment) {
  const SegmentEntry found = entry(segment);
  HOLDFAST_ASSERT(found.state != SegmentState::absent && found.live_blocks == 0);
  const SegmentId id{volume_, found.epoch, segment};
  CO_TRY(co_await remove_listed(id));
  set_entry(segment, SegmentEntry{});
  co_return Result<void>{};
}

Task<Result<void>> SegmentStore::remove_listed(SegmentId segment) {
  const auto opened = open_.find(segment.number.value);
  if (opened != open_.end()) {
    // A file that is removed stays as it was for those who read it; one that is recycled does not.
    if (is_thick() && opened->second->users != 0) {
      co_return Error(ErrorCode::busy,
                      "segment " + std::to_string(segment.number.value) + " is still being read");
    }
    opened->second->removed = true;
    if (opened->second->users == 0) {
      opened->second->lru_link.unlink();
      open_.erase(opened);
    }
  }
  if (is_thick()) {
    Result<SpareId> spare = co_await pool_.recycle_segment(segment);
    if (spare.ok()) {
      // A listing that came between the rename and its answer has it already.
      const bool is_known =
          std::find(spares_.begin(), spares_.end(), spare.value()) != spares_.end();
      if (is_thick() && !is_known) spares_.push_back(spare.value());
      co_return Result<void>{};
    }
    if (spare.error().code() == ErrorCode::not_found) co_return Result<void>{};
    // A short one that cannot have its space back was never part of what is guaranteed.
    if (spare.error().code() != ErrorCode::no_space) co_return spare.take_error();
  }
  Result<void> removed = co_await pool_.remove_segment(segment);
  if (!removed.ok() && removed.error().code() != ErrorCode::not_found) co_return removed;
  co_return Result<void>{};
}

Segment* SegmentStore::try_acquire(SegmentNumber segment) {
  const auto found = open_.find(segment.value);
  if (found == open_.end()) return nullptr;
  Segment& opened = *found->second;
  ++opened.users;
  opened.lru_link.unlink();
  return &opened;
}

Task<Result<Segment*>> SegmentStore::acquire(SegmentNumber segment) {
  if (Segment* opened = try_acquire(segment); opened != nullptr) co_return opened;
  trim_handles(handles_max_ - 1);
  CO_TRY_ASSIGN(std::unique_ptr<File> file, co_await open_file(segment, false));
  if (Segment* opened = try_acquire(segment); opened != nullptr) co_return opened;
  auto owned = std::make_unique<Segment>();
  owned->number = segment;
  owned->epoch = epoch_of(segment);
  owned->file = std::move(file);
  owned->users = 1;
  Segment* const opened = owned.get();
  open_[segment.value] = std::move(owned);
  co_return opened;
}

Task<Result<std::unique_ptr<File>>> SegmentStore::open_file(SegmentNumber segment, bool writable) {
  const SegmentId id{volume_, epoch_of(segment), segment};
  HoldTracker::Operation held(hold_);
  for (;;) {
    Result<std::unique_ptr<File>> file = co_await pool_.open_segment(id, writable);
    if (file.ok()) {
      grow_handles_max();
      co_return file;
    }
    const ErrorCode code = file.error().code();
    if (code == ErrorCode::corrupt) co_return file;
    if (code == ErrorCode::not_found) {
      // Missing for good, or is the whole volume out of sight, as when a mount has gone?
      const Result<std::vector<RootId>> roots = co_await pool_.list_roots(volume_);
      if (roots.ok() && !roots->empty()) co_return file;
    }
    give_up_handles();
    const Duration delay = held.failed(HoldReason::path, file.error().message());
    co_await sleep_for(executor_, delay);
  }
}

// An open that fails may be for want of file descriptors: keep fewer from now on, and find out
// slowly whether more are to be had again.
void SegmentStore::give_up_handles() {
  handles_max_ = std::max(kHandlesMin, std::min(handles_max_, open_.size() / 2));
  trim_handles(handles_max_);
}

void SegmentStore::grow_handles_max() {
  if (++opens_since_growth_ < kOpensPerGrowth || handles_max_ >= limits::kOpenSegmentsMax) return;
  opens_since_growth_ = 0;
  ++handles_max_;
}

void SegmentStore::release(Segment& segment) {
  HOLDFAST_ASSERT(segment.users > 0);
  if (--segment.users != 0) return;
  if (segment.removed) {
    open_.erase(segment.number.value);
  } else {
    idle_.push_back(segment);
  }
}

void SegmentStore::trim_handles(std::size_t keep_count) {
  while (open_.size() > keep_count) {
    Segment* const oldest = idle_.pop_front();
    if (oldest == nullptr) return;
    open_.erase(oldest->number.value);
  }
}

Task<Result<void>> SegmentStore::read_block(format::BlockLocation location,
                                            std::span<std::byte> block) {
  CO_TRY_ASSIGN(Segment* const segment, co_await acquire(location.segment()));
  HoldTracker::Operation held(hold_);
  for (;;) {
    const int error = co_await FileIo(*segment->file, FileOperation::read,
                                      location.block_index() * kBlockBytes, block);
    if (error == 0) break;
    if (sort_errno(error) == HoldReason::none) {
      release(*segment);
      co_return Error(ErrorCode::corrupt, std::string("read: ") + std::strerror(error));
    }
    const Duration delay = held.failed(sort_errno(error), std::strerror(error));
    co_await sleep_for(executor_, delay);
  }
  release(*segment);
  co_return Result<void>{};
}

Epoch SegmentStore::epoch_of(SegmentNumber segment) const {
  const std::byte* at = entry_bytes(segment);
  if (at != nullptr) {
    const SegmentEntry found = format::load_segment_entry(at);
    if (found.state != SegmentState::absent) return found.epoch;
  }
  const auto listed = listed_.find(segment.value);
  return listed == listed_.end() ? Epoch{} : listed->second;
}

}  // namespace holdfast
