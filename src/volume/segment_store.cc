// SPDX-License-Identifier: Apache-2.0
#include "volume/segment_store.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>

#include "base/assert.h"
#include "base/log.h"
#include "io/file_io.h"
#include "volume/canary.h"

namespace holdfast {

using format::kChildrenPerPage;
using format::kPageLevels;
using format::kSegmentEntriesPerPage;
using format::SegmentEntry;
using format::SegmentState;
using format::SegmentStream;

namespace {

std::string segment_name(SegmentNumber number) {
  return "segment " + std::to_string(number.value);
}

}  // namespace

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

void SegmentStore::set_lineage(std::vector<format::Ancestor> lineage) {
  lineage_ = std::move(lineage);
  last_places_.assign(lineage_.size(), VolumeId{});
  adopted_.clear();
  for (const auto& [number, unused] : listed_) {
    if (is_inherited(SegmentNumber{number})) adopted_.insert(number);
  }
}

Task<Result<void>> SegmentStore::load_table(format::BlockLocation top) {
  table_.set_top(top);
  if (!top.is_hole()) {
    CO_TRY(co_await load_table_pages(kPageLevels - 1, 0));
  }
  for_each_entry([this](SegmentNumber number, const SegmentEntry& found) {
    if (!is_foreign(number)) ++segment_count_;
    live_blocks_ += found.live_blocks;
    count_sealed(number, found, true);
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
  count_sealed(segment, before, false);
  count_sealed(segment, entry, true);
  if (is_foreign(segment)) return;
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
  SegmentEntry entry = format::load_segment_entry(at);
  const std::int64_t live = static_cast<std::int64_t>(entry.live_blocks) + blocks;
  if (live < 0) {
    // Stored counts contradict the stored map: keep the segment rather than free what may be read.
    log_error("volume " + volume_.to_string() + ": the live count of segment " +
              std::to_string(segment.value) + " would fall below zero; the segment is kept");
    return;
  }
  count_sealed(segment, entry, false);
  entry.live_blocks = static_cast<std::uint32_t>(live);
  count_sealed(segment, entry, true);
  store_little(at + kLiveOffset, entry.live_blocks);
  live_blocks_ = static_cast<std::uint64_t>(static_cast<std::int64_t>(live_blocks_) + blocks);
  if (live == 0 && entry.state == SegmentState::sealed) {
    set_died(at, segment);
  }
}

void SegmentStore::set_died(std::byte* entry, SegmentNumber segment) {
  constexpr std::size_t kDiedAfterOffset = 24;
  store_little(entry + kDiedAfterOffset, newest_snapshot_.value);
  dead_candidates_.push_back(segment);
}

// --- Snapshots ---

void SegmentStore::keep_for(SnapshotNumber snapshot, SegmentNumber next_segment) {
  const auto at = std::lower_bound(
      snapshots_.begin(), snapshots_.end(), snapshot,
      [](const KeptSnapshot& kept, SnapshotNumber number) { return kept.number < number; });
  snapshots_.insert(at, KeptSnapshot{snapshot, next_segment});
  count_all_sealed();
}

void SegmentStore::forget_snapshot(SnapshotNumber snapshot) {
  std::erase_if(snapshots_, [&](const KeptSnapshot& kept) { return kept.number == snapshot; });
  count_all_sealed();
}

bool SegmentStore::is_kept(SegmentNumber number, const SegmentEntry& entry) const {
  if (canary::is_on(canary::kFreeWhatSnapshotsNeed)) return false;
  // The newest that may need it knows the most segments.
  const auto behind = std::upper_bound(
      snapshots_.begin(), snapshots_.end(), entry.died_after,
      [](SnapshotNumber died_after, const KeptSnapshot& kept) { return died_after < kept.number; });
  return behind != snapshots_.begin() && number < std::prev(behind)->next_segment;
}

void SegmentStore::find_dead() {
  for_each_entry([this](SegmentNumber number, const SegmentEntry& found) {
    if (found.state != SegmentState::sealed || found.live_blocks != 0) return;
    if (!is_kept(number, found)) dead_candidates_.push_back(number);
  });
}

void SegmentStore::for_each_table_page(
    const std::function<void(format::BlockLocation)>& visit) const {
  table_.for_each_resident([&](const Page& page) {
    if (page.location.is_stored()) visit(page.location);
  });
}

// What a snapshot keeps is not counted: to clean it would free nothing.
void SegmentStore::count_sealed(SegmentNumber number, const SegmentEntry& entry, bool add) {
  if (entry.state != SegmentState::sealed || is_pinned(number) || is_foreign(number)) return;
  const std::uint64_t sign = add ? 1 : ~std::uint64_t{0};  // modulo 2^64
  if (entry.live_blocks == 0) {
    sealed_.dead_segments += sign;
    return;
  }
  // Those of a thick volume are never cut short.
  const std::uint64_t blocks =
      is_thick() ? segment_blocks() : std::max(entry.used_blocks, entry.live_blocks);
  sealed_.blocks += sign * blocks;
  sealed_.live_blocks += sign * entry.live_blocks;
}

void SegmentStore::count_all_sealed() {
  sealed_ = Sealed{};
  for_each_entry([this](SegmentNumber number, const SegmentEntry& found) {
    count_sealed(number, found, true);
  });
}

void SegmentStore::for_each_entry(const Visit& visit) {
  for_some_entries(0, pinned_.size(), visit);
}

bool SegmentStore::for_some_entries(std::size_t first, std::size_t count, const Visit& visit) {
  const std::size_t end = first + std::min(count, pinned_.size() - std::min(first, pinned_.size()));
  for (std::size_t i = first; i < end; ++i) {
    const Page* const page = pinned_[i];
    if (page->level != 0) continue;
    for (std::uint32_t slot = 0; slot < kSegmentEntriesPerPage; ++slot) {
      const SegmentEntry found =
          format::load_segment_entry(format::segment_entry_at(page->image, slot));
      if (found.state != SegmentState::absent) {
        visit({page->index * kSegmentEntriesPerPage + slot}, found);
      }
    }
  }
  return end < pinned_.size();
}

// A log that is held keeps its order, discards included: those behind it must still get through, or
// a full pool could not be trimmed.
SegmentPurpose SegmentStore::purpose_of(SegmentStream stream) const {
  if (stream != SegmentStream::main) return SegmentPurpose::metadata;
  const bool frees_space = frees_space_ && frees_space_();
  return frees_space ? SegmentPurpose::guest_discard : SegmentPurpose::guest_data;
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
    std::optional<HoldTracker::Call> call(std::in_place, hold_,
                                          "creation of " + segment_name(number));
    Result<std::unique_ptr<File>> file = co_await create_file(id, stream);
    call.reset();
    if (file.ok()) {
      if (!canary::is_on(canary::kUnwatchedFiles))
        (*file)->observe(hold_.file_observer(), segment_name(number));
      auto owned = std::make_unique<Segment>();
      owned->number = number;
      owned->epoch = epoch_;
      owned->file = std::move(file).value();
      owned->place = volume_;
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
    if (!hold_errors || hold_.has_given_up()) co_return file.take_error();
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
    ++spare_changes_;
    Result<std::unique_ptr<File>> file = co_await pool_.create_segment_from(spare, segment);
    std::erase(taken_, spare);
    if (!file.ok() && !is_thick()) co_await remove_stray(spare);
    // Gone: the host removed it as a surplus, or a rename of ours had been done after all.
    if (file.ok() || file.error().code() != ErrorCode::not_found) co_return file;
  }
  co_return co_await pool_.create_segment(segment, purpose_of(stream));
}

// A spare of a volume that has become thin meanwhile: whoever gave its spares back may have listed
// them before this one.
Task<void> SegmentStore::remove_stray(SpareId spare) {
  const Result<void> removed = co_await pool_.remove_spare(spare);
  // What is left is given back when the pool is opened again.
  if (!removed.ok() && removed.error().code() != ErrorCode::not_found) {
    log_warning(removed.error().message());
  }
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
  while (is_preallocated() && free_spares() == 0 && executor_.now() < until &&
         !hold_.has_given_up()) {
    scarce_();
    co_await sleep_for(executor_, limits::kThickPollTime);
  }
}

std::uint64_t SegmentStore::segment_blocks() const {
  return pool_.info().segment_bytes / kBlockBytes;
}

void SegmentStore::set_thick(std::optional<ThickLayout> layout) {
  thick_ = layout;
  count_all_sealed();
  if (!thick_.has_value()) spares_.clear();
}

Task<Result<void>> SegmentStore::refresh_spares() {
  const HoldTracker::Call call(hold_, "listing of the spares");
  std::vector<SpareId> listed;
  for (std::uint64_t before = ~spare_changes_; before != spare_changes_;) {
    before = spare_changes_;  // what changes while it is listed may be in it or not
    CO_TRY_ASSIGN(listed, co_await pool_.list_spares(volume_));
  }
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
  if (found.live_blocks == 0) {
    found.died_after = newest_snapshot_;
    dead_candidates_.push_back(segment);
  }
  set_entry(segment, found);
}

Task<Result<void>> SegmentStore::remove(SegmentNumber segment) {
  const SegmentEntry found = entry(segment);
  HOLDFAST_ASSERT(found.state != SegmentState::absent && found.live_blocks == 0);
  const SegmentId id = segment_id(segment);
  if (!is_foreign(segment)) {
    CO_TRY(co_await remove_listed(SegmentId{volume_, id.epoch, segment}));
  }
  set_entry(segment, SegmentEntry{});
  adopted_.erase(segment.value);
  co_return Result<void>{};
}

Task<Result<void>> SegmentStore::remove_listed(SegmentId segment) {
  // Behind a fence a number may have been used twice: by who owns it, and by one who came late.
  auto opened = open_.find(segment.number.value);
  if (opened != open_.end() && opened->second->epoch != segment.epoch) opened = open_.end();
  // A file that is removed stays as it was for those who read it; one that is recycled does not.
  const bool is_read =
      (opened != open_.end() && opened->second->users != 0) || is_retired(segment.number);
  // Nor does one that was adopted: its file may go back to who wrote it, who may recycle it.
  if ((is_thick() || is_inherited(segment.number)) && is_read) {
    co_return Error(ErrorCode::busy,
                    "segment " + std::to_string(segment.number.value) + " is still being read");
  }
  if (opened != open_.end()) {
    opened->second->removed = true;
    if (opened->second->users == 0) {
      opened->second->lru_link.unlink();
      open_.erase(opened);
    }
  }
  const HoldTracker::Call call(hold_, "removal of " + segment_name(segment.number));
  if (is_thick() && !may_recycle(segment)) {
    CO_TRY(co_await replace_by_spare());
  } else if (is_thick() && !failed_writes_.contains(segment.number.value)) {
    Result<SpareId> spare = co_await pool_.recycle_segment(segment);
    if (spare.ok()) {
      // A listing that came between the rename and its answer has it already.
      const bool is_known =
          std::find(spares_.begin(), spares_.end(), spare.value()) != spares_.end();
      if (is_thick() && !is_known) spares_.push_back(spare.value());
      ++spare_changes_;
      if (!is_thick()) co_await remove_stray(spare.value());
      co_return Result<void>{};
    }
    if (spare.error().code() == ErrorCode::not_found) co_return Result<void>{};
    // A short one that cannot have its space back was never part of what is guaranteed, nor was one
    // that is another volume's, too.
    const ErrorCode code = spare.error().code();
    if (code != ErrorCode::no_space && code != ErrorCode::unsupported) co_return spare.take_error();
  }
  Result<void> removed = co_await pool_.remove_segment(segment);
  if (!removed.ok() && removed.error().code() != ErrorCode::not_found) co_return removed;
  failed_writes_.erase(segment.number.value);
  co_return Result<void>{};
}

// Of an owner before us nobody knows which writes are still on their way, and to which files.
bool SegmentStore::may_recycle(SegmentId segment) const {
  if (!is_fenced_ || canary::is_on(canary::kRecycleOldEpochs)) return true;
  return segment.epoch == epoch_ && !is_inherited(segment.number);
}

// It may have of the reserve what the removal gives back at once.
Task<Result<void>> SegmentStore::replace_by_spare() {
  if (segment_count_ + spares_.size() + taken_.size() > thick_->segments) co_return Result<void>{};
  CO_TRY(co_await pool_.create_spare(volume_, SegmentPurpose::metadata));
  ++spare_changes_;
  co_return co_await refresh_spares();
}

void SegmentStore::note_failed_write(const Segment& segment, int error) {
  if (sort_errno(error) == HoldReason::path) failed_writes_.insert(segment.number.value);
}

bool SegmentStore::is_retired(SegmentNumber number) const {
  return std::any_of(retired_.begin(), retired_.end(),
                     [number](const auto& owned) { return owned->number == number; });
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
  CO_TRY_ASSIGN(Opened found, co_await open_somewhere(segment, false));
  if (Segment* opened = try_acquire(segment); opened != nullptr) co_return opened;
  auto owned = std::make_unique<Segment>();
  owned->number = segment;
  owned->epoch = segment_id(segment).epoch;
  owned->file = std::move(found.file);
  owned->place = found.place;
  owned->users = 1;
  Segment* const opened = owned.get();
  open_[segment.value] = std::move(owned);
  co_return opened;
}

Task<Result<std::unique_ptr<File>>> SegmentStore::open_file(SegmentNumber segment, bool writable) {
  CO_TRY_ASSIGN(Opened found, co_await open_somewhere(segment, writable));
  co_return std::move(found.file);
}

Task<Result<SegmentStore::Opened>> SegmentStore::open_somewhere(SegmentNumber segment,
                                                                bool writable) {
  HoldTracker::Operation held(hold_);
  for (;;) {
    std::optional<HoldTracker::Call> call(std::in_place, hold_,
                                          "opening of " + segment_name(segment));
    Result<Opened> opened = co_await try_open(segment, writable);
    call.reset();
    if (opened.ok()) {
      if (!canary::is_on(canary::kUnwatchedFiles))
        opened->file->observe(hold_.file_observer(), segment_name(segment));
      grow_handles_max();
      co_return opened;
    }
    const ErrorCode code = opened.error().code();
    if (code == ErrorCode::corrupt) co_return opened;
    if (code == ErrorCode::not_found) {
      // Missing for good, or is the whole pool out of sight, as when a mount has gone?
      const HoldTracker::Call listing(hold_, "listing of the roots");
      const Result<std::vector<RootId>> roots = co_await pool_.list_roots(volume_);
      if (roots.ok() && !roots->empty()) co_return opened;
    }
    give_up_handles();
    const Duration delay = held.failed(HoldReason::path, opened.error().message());
    co_await sleep_for(executor_, delay);
    if (hold_.has_given_up()) co_return Error(ErrorCode::busy, "the volume was given up");
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
  if (segment.retired) {
    std::erase_if(retired_, [&segment](const auto& owned) { return owned.get() == &segment; });
  } else if (segment.removed) {
    open_.erase(segment.number.value);
  } else {
    idle_.push_back(segment);
  }
}

void SegmentStore::retire(Segment& segment) {
  HOLDFAST_ASSERT(segment.users > 0);
  if (segment.retired) return;
  const auto found = open_.find(segment.number.value);
  HOLDFAST_ASSERT(found != open_.end() && found->second.get() == &segment);
  segment.retired = true;
  retired_.push_back(std::move(found->second));
  open_.erase(found);
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
  CO_TRY_ASSIGN(Segment * segment, co_await acquire(location.segment()));
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
    retire(*segment);
    release(*segment);
    if (hold_.has_given_up()) co_return Error(ErrorCode::busy, "the volume was given up");
    CO_TRY_ASSIGN(segment, co_await acquire(location.segment()));
  }
  release(*segment);
  co_return Result<void>{};
}

SegmentId SegmentStore::segment_id(SegmentNumber segment) const {
  SegmentId id{volume_, Epoch{}, segment};
  for (const format::Ancestor& ancestor : lineage_) {
    if (segment < ancestor.end_segment) {
      id.volume = ancestor.volume;
      break;
    }
  }
  const std::byte* at = entry_bytes(segment);
  if (at != nullptr) {
    const SegmentEntry found = format::load_segment_entry(at);
    if (found.state != SegmentState::absent) {
      id.epoch = found.epoch;
      return id;
    }
  }
  const auto listed = listed_.find(segment.value);
  if (listed != listed_.end()) id.epoch = listed->second;
  const auto foreign = foreign_epochs_.find(segment.value);
  if (foreign != foreign_epochs_.end()) id.epoch = foreign->second;
  return id;
}

}  // namespace holdfast
