// SPDX-License-Identifier: Apache-2.0
//
// Checkpoints: dirty map and table pages go to new places in page segments, then a new root that
// points to them is published, then what the old root alone needed is freed.
//
//   1. make everything applied durable (a root never refers to unsynced records)
//   2. pause application for a moment; sync the rest; give every dirty page its place and count it
//      in the segment table, in one go without suspension; resume
//   3. write the pages (later modifications copy them first), sync their segments
//   4. publish the root; only then remove older roots and the segments that are dead in it
//
// Every step waits out full and unreachable storage. Only a place for pages that cannot be written
// for long makes it begin again, before anything refers to it.
#include <algorithm>
#include <array>
#include <cstring>
#include <optional>

#include "base/assert.h"
#include "base/log.h"
#include "io/file_io.h"
#include "volume/canary.h"
#include "volume/volume_impl.h"

namespace holdfast {

using format::BlockLocation;
using format::SegmentEntry;
using format::SegmentState;
using format::SegmentStream;

namespace {

constexpr std::size_t kPagesPerWrite = 64;

}  // namespace

struct VolumeImpl::PageWrite {
  PagedArray* array;
  Page* page;
};

struct VolumeImpl::Flush {
  std::vector<PageWrite> pages;  // in the order of their places
  std::size_t next = 0;          // first page that no lane has taken
  std::size_t lanes_running = 0;
  HoldTracker::Operation* hold = nullptr;
  bool abandoned = false;        // a place cannot be written
  std::vector<Segment*> filled;  // sealed by this flush, to be released after it
  std::vector<Segment*> touched;
  format::Root root;
  std::vector<SegmentNumber> dead;
};

// --- When ---

void VolumeImpl::want_checkpoint() {
  if (checkpoint_wanted_) return;
  checkpoint_wanted_ = true;
  tasks_.spawn(checkpoint_now());
}

bool VolumeImpl::space_is_short() const {
  return space_is_short_ || hold_.state().reason == HoldReason::space;
}

// Whether a request that frees space is in the volume, wherever it waits.
bool VolumeImpl::frees_space() {
  if (freeing_requests_ != 0) return true;
  for (BlockRequest* request = pending_.front(); request != nullptr;
       request = pending_.next(*request)) {
    if (request->operation == BlockOperation::discard ||
        request->operation == BlockOperation::write_zeroes) {
      return true;
    }
  }
  return false;
}

void VolumeImpl::hint_space_is_short(bool is_short) {
  if (space_is_short_ == is_short) return;
  space_is_short_ = is_short;
  free_soon();
  maybe_clean();
}

// While space is short, a segment that has died is freed by a checkpoint of its own.
void VolumeImpl::free_soon() {
  if (!space_is_short() || closing_ || !serving_ || checkpoint_running_ || checkpoint_wanted_ ||
      store_.dead_candidates().size() <= dead_when_freed_) {
    return;
  }
  const MonotonicTime due = last_checkpoint_ + limits::kSpaceCheckpointTime;
  if (due <= executor_.now()) {
    want_checkpoint();
  } else if (!free_timer_.is_armed()) {
    executor_.arm(free_timer_, due);
  }
}

void VolumeImpl::on_free_timer(void* context) {
  static_cast<VolumeImpl*>(context)->free_soon();
}

void VolumeImpl::after_activity() {
  last_activity_ = executor_.now();
  if (!idle_timer_.is_armed() && !closing_) {
    executor_.arm(idle_timer_, last_activity_ + options_.checkpoint_idle);
  }
  const bool log_is_long =
      log_.bytes_written() - log_bytes_at_checkpoint_ >= options_.checkpoint_log_bytes;
  const bool many_dirty =
      memory_.wants_checkpoint() && map_.dirty_count() >= limits::kPagesPerVolumeMin;
  // What a thick volume's segments are freed by, if it needs them.
  const bool frees = scarcity() > 0 && store_.dead_candidates().size() > dead_left_;
  if ((log_is_long || many_dirty || frees || has_much_unfreed()) && !checkpoint_running_) {
    want_checkpoint();
  }
  free_soon();
  maybe_clean();
}

void VolumeImpl::on_idle_timer(void* context) {
  auto* self = static_cast<VolumeImpl*>(context);
  const MonotonicTime due = self->last_activity_ + self->options_.checkpoint_idle;
  if (due > self->executor_.now()) {
    self->executor_.arm(self->idle_timer_, due);
    return;
  }
  if (self->log_.applied_sequence() != self->checkpoint_sequence_) self->want_checkpoint();
  self->tasks_.spawn(self->release_idle_memory());
  if (self->trimmed_blocks_ == 0) return;
  self->maybe_clean();
  if (!self->guest_rests()) {  // it reads: come back for the trims
    self->executor_.arm(self->idle_timer_, self->executor_.now() + self->options_.checkpoint_idle);
  }
}

// An idle volume keeps its clean map pages and little else.
Task<void> VolumeImpl::release_idle_memory() {
  while (checkpoint_wanted_ || checkpoint_running_) co_await checkpoint_done_.wait();
  if (requests_active_ != 0 || !completed_.empty() || !log_.everything_synced()) co_return;
  log_.shrink_memory();
  if (free_disk_reads_.size() == disk_reads_.size()) {
    free_disk_reads_.clear();
    disk_reads_.clear();
  }
}

Task<Result<void>> VolumeImpl::checkpoint() {
  co_await checkpoint_now();
  if (abandoned_) co_return lost_error();
  co_return Result<void>{};
}

Task<void> VolumeImpl::checkpoint_now(SnapshotTaking* taking) {
  while (checkpoint_running_) co_await checkpoint_done_.wait();
  checkpoint_wanted_ = false;
  if (abandoned_) {
    checkpoint_done_.notify_all();
    co_return;
  }
  checkpoint_running_ = true;
  co_await checkpoint_once(taking);
  victims_.clear();
  fruitless_at_ = 0;
  dead_after_checkpoint_ = store_.dead_segments();
  checkpoint_running_ = false;
  last_checkpoint_ = executor_.now();
  checkpoint_done_.notify_all();
  wake_crowded();
  free_soon();
  if (has_more_dead_) want_checkpoint();
  maybe_clean();
}

// --- One checkpoint ---

Task<void> VolumeImpl::sync_applied() {
  const Sequence target = log_.applied_sequence();
  while (log_.synced_sequence() < target && !abandoned_) {
    log_.request_sync(false);
    co_await drained_.wait();
  }
}

Task<void> VolumeImpl::checkpoint_once(SnapshotTaking* taking) {
  HoldTracker::Operation held(hold_);  // from a place that cannot be written to one that can
  for (;;) {
    Flush flush;
    flush.hold = &held;
    co_await sync_applied();
    co_await make_page_room();
    log_.pause_apply();
    co_await sync_applied();
    co_await make_page_room();  // for pages dirtied since; rarely anything
    if (abandoned_) co_return;
    freeze(flush, taking);
    log_.resume_apply();

    if (canary::is_on(canary::kPublishBeforePagesAreDurable)) (void)co_await publish(flush.root);
    const bool frees_early = canary::is_on(canary::kFreeBeforeCheckpoint) ||
                             (canary::is_on(canary::kRecycleBeforeCheckpoint) && store_.is_thick());
    if (frees_early) co_await remove_dead(flush.dead);
    const bool written = co_await write_flush(flush);
    for (const PageWrite& write : flush.pages) write.array->end_flush(*write.page);
    for (Segment* segment : flush.filled) store_.release(*segment);
    if (abandoned_) co_return;
    if (!written) {
      if (taking != nullptr) store_.forget_snapshot(flush.root.newest_snapshot);
      abandon(flush);
      continue;
    }
    held.succeeded();
    if (!canary::is_on(canary::kPublishBeforePagesAreDurable)) {
      const bool published = co_await publish(flush.root);
      if (!published) co_return;
    }
    ++checkpoints_done_;
    if (taking != nullptr) co_await publish_snapshot(flush.root, taking);
    co_await remove_doubtful_snapshots();
    if (!frees_early) co_await remove_dead(flush.dead);
    co_return;
  }
}

// Makes the pages durable in their places. False: some place cannot be written.
Task<bool> VolumeImpl::write_flush(Flush& flush) {
  HoldTracker::Operation held(hold_);
  for (;;) {
    co_await write_pages(flush);
    if (flush.abandoned) co_return false;
    const int error = co_await sync_pages(flush);
    if (error == 0) co_return true;
    if (abandoned_) co_return false;
    // A failed sync may have lost any of them: the same bytes go to the same places again.
    const std::string detail = std::string("sync of map pages: ") + std::strerror(error);
    const HoldReason reason = never_final(sort_errno(error));
    co_await sleep_for(executor_, held.failed(reason, detail));
  }
}

// No root refers to the pages of this flush: they are dirty again, and the next one gives them
// places in segments that this one did not touch.
void VolumeImpl::abandon(Flush& flush) {
  for (const PageWrite& write : flush.pages) (void)write.array->writable(*write.page);
  for (Segment* segment : flush.touched) {
    const auto open = std::find_if(
        page_segments_.begin(), page_segments_.end(),
        [segment](const PageSegment& candidate) { return candidate.segment == segment; });
    if (open == page_segments_.end()) continue;  // it was filled
    store_.seal(segment->number, open->next_block);
    store_.release(*segment);
    page_segments_.erase(open);
  }
  std::vector<SegmentNumber>& candidates = store_.dead_candidates();
  candidates.insert(candidates.end(), flush.dead.begin(), flush.dead.end());
}

// --- Places ---

std::uint64_t VolumeImpl::page_room() const {
  std::uint64_t room = 0;
  for (const PageSegment& open : page_segments_) room += segment_blocks_ - open.next_block;
  return room;
}

// More than freeze() can need: every dirty leaf, every inner page of the map, the whole table.
std::uint64_t VolumeImpl::page_room_needed() const {
  const std::uint64_t dirty = map_.dirty_count();
  if (dirty + store_.dirty_table_pages() == 0) return 0;
  return dirty + map_.inner_count() + store_.table_pages() + 1;
}

Task<void> VolumeImpl::make_page_room() {
  while (page_room() < page_room_needed() && !abandoned_) {
    Result<Segment*> made = co_await store_.create(SegmentStream::pages, true);
    if (made.ok()) {
      page_segments_.push_back({*made, 0});
      continue;
    }
    HoldTracker::Operation held(hold_);
    co_await sleep_for(executor_, held.failed(HoldReason::path, made.error().message()));
  }
}

BlockLocation VolumeImpl::take_page_place(Flush& flush, SegmentNumber& filled) {
  PageSegment& open = page_segments_.front();
  const BlockLocation place = BlockLocation::at(open.segment->number, open.next_block++);
  if (flush.touched.empty() || flush.touched.back() != open.segment) {
    flush.touched.push_back(open.segment);
  }
  if (open.next_block == segment_blocks_) {
    filled = open.segment->number;
    flush.filled.push_back(open.segment);
    page_segments_.erase(page_segments_.begin());
  }
  return place;
}

void VolumeImpl::assign_page(PagedArray& array, Page& page, Flush& flush) {
  const bool empty = format::page_is_empty({page.image, kBlockBytes});
  SegmentNumber filled;  // by this page
  const BlockLocation place = empty ? BlockLocation::hole() : take_page_place(flush, filled);
  if (!empty) {
    store_.add_live(place.segment(), 1);
    if (filled.value != 0) store_.seal(filled, segment_blocks_);
    flush.pages.push_back({&array, &page});
  }
  const BlockLocation before = array.assign(page, place);
  if (before.is_stored()) store_.add_live(before.segment(), -1);
}

// Children before parents; then the table, whose own places change counts in the table, until
// nothing is left to place.
void VolumeImpl::freeze(Flush& flush, SnapshotTaking* taking) {
  for (std::uint8_t level = 0; level < format::kPageLevels; ++level) {
    while (Page* page = map_.first_dirty(level)) assign_page(map_, *page, flush);
  }
  PagedArray& table = store_.table();
  for (std::uint8_t level = 0; level < format::kPageLevels;) {
    if (Page* page = table.first_dirty(level)) {
      assign_page(table, *page, flush);
      level = 0;
    } else {
      ++level;
    }
  }
  for (const PageWrite& write : flush.pages) write.array->begin_flush(*write.page);

  format::Root& root = flush.root;
  root = root_;
  root.id =
      root_.id.epoch == epoch_ ? RootId{id_, epoch_, root_.id.number + 1} : RootId{id_, epoch_, 0};
  root.size_bytes = info_.size_bytes;
  root.map_top = map_.top();
  root.segment_table_top = table.top();
  root.position = log_.position();
  root.next_segment = store_.next_number();
  if (has_cold_segments_) root.incompatible_features |= format::kFeatureColdSegments;
  if (taking != nullptr) {
    // What dies from here on may be live in the snapshot.
    ++newest_snapshot_.value;
    store_.set_newest_snapshot(newest_snapshot_);
    store_.keep_for(newest_snapshot_, store_.next_number());
    root.incompatible_features |= format::kFeatureSnapshots;
  }
  root.newest_snapshot = newest_snapshot_;
  if (leaving_parent_ && store_.find_foreign(0).segments == 0) {
    root.parent = VolumeId{};
    root.parent_snapshot = SnapshotNumber{};
    root.incompatible_features |= format::kFeatureAdopted;
  }
  root.page_segment = SegmentNumber{};
  root.page_segment_used_blocks = 0;
  if (!page_segments_.empty()) {
    root.page_segment = page_segments_.front().segment->number;
    root.page_segment_used_blocks = page_segments_.front().next_block;
  }
  flush.dead = take_dead(root.position);
  checkpoint_sequence_ = log_.applied_sequence();
  log_bytes_at_checkpoint_ = log_.bytes_written();
}

// Segments without a live block in the root being made, whose records replay does not need.
std::vector<SegmentNumber> VolumeImpl::take_dead(const format::LogPosition& position) {
  std::vector<SegmentNumber>& candidates = store_.dead_candidates();
  std::sort(candidates.begin(), candidates.end());
  candidates.erase(std::unique(candidates.begin(), candidates.end()), candidates.end());
  std::vector<SegmentNumber> dead;
  std::vector<SegmentNumber> later;
  for (const SegmentNumber number : candidates) {
    const SegmentEntry entry = store_.entry(number);
    if (entry.state != SegmentState::sealed || entry.live_blocks != 0) continue;
    if (store_.is_kept(number, entry)) continue;  // until that snapshot is removed
    const bool replay_needs_it = entry.stream == SegmentStream::main && entry.epoch == epoch_ &&
                                 position.segment.value != 0 && number >= position.segment;
    const bool is_enough = dead.size() == limits::kRemovalsPerCheckpointMax;
    (replay_needs_it || is_enough ? later : dead).push_back(number);
  }
  candidates = std::move(later);
  dead_when_freed_ = candidates.size();
  has_more_dead_ = dead.size() == limits::kRemovalsPerCheckpointMax;
  return dead;
}

// --- Writing ---

Task<void> VolumeImpl::write_pages(Flush& flush) {
  flush.next = 0;
  for (std::size_t lane = 0; lane < limits::kPageAppendsInFlightMax; ++lane) {
    ++flush.lanes_running;
    tasks_.spawn(write_page_runs(&flush));
  }
  while (flush.lanes_running != 0) co_await checkpoint_done_.wait();
}

// One lane: takes runs of consecutive places until none is left.
Task<void> VolumeImpl::write_page_runs(Flush* flush) {
  HoldTracker::Operation held(hold_);
  std::array<iovec, kPagesPerWrite> vectors;
  while (flush->next < flush->pages.size() && !flush->abandoned) {
    const std::size_t first = flush->next;
    const BlockLocation start = flush->pages[first].page->location;
    std::size_t count = 0;
    while (count < kPagesPerWrite && first + count < flush->pages.size()) {
      const PageWrite& write = flush->pages[first + count];
      if (write.page->location.raw != start.raw + count) break;
      const std::span<std::byte> image = write.array->sealed_image(*write.page);
      vectors[count++] = {image.data(), image.size()};
    }
    flush->next = first + count;
    // Not any handle of that segment: one to read it with will not do.
    const auto touched =
        std::find_if(flush->touched.begin(), flush->touched.end(),
                     [start](const Segment* at) { return at->number == start.segment(); });
    HOLDFAST_ASSERT(touched != flush->touched.end());  // open for pages until after the flush
    Segment* const segment = *touched;
    ++segment->users;
    const MonotonicTime began = executor_.now();
    for (;;) {
      std::array<iovec, kPagesPerWrite> consumed = vectors;
      const int error =
          co_await FileIo(*segment->file, FileOperation::write, start.block_index() * kBlockBytes,
                          std::span<iovec>(consumed.data(), count));
      if (error == 0) {
        page_patience_.wrote();
        statistics_.page_bytes_written += count * kBlockBytes;
        break;
      }
      store_.note_failed_write(*segment, error);
      const std::string detail = std::string("write of map pages: ") + std::strerror(error);
      const HoldReason reason = never_final(sort_errno(error));
      co_await sleep_for(executor_, held.failed(reason, detail));
      if (abandoned_) flush->abandoned = true;
      if (!flush->abandoned && reason == HoldReason::path &&
          page_patience_.is_over(executor_.now() - began)) {
        log_warning("volume " + info_.name + ": segment " + std::to_string(segment->number.value) +
                    " cannot be written at block " + std::to_string(start.block_index()) + " (" +
                    std::strerror(error) + "); the map pages go to a new segment");
        page_patience_.gave_up();
        flush->abandoned = true;
        (void)flush->hold->failed(reason, detail);
      }
      if (flush->abandoned) break;
    }
    held.succeeded();
    store_.release(*segment);
  }
  --flush->lanes_running;
  checkpoint_done_.notify_all();
}

Task<int> VolumeImpl::sync_pages(Flush& flush) {
  for (Segment* segment : flush.touched) {
    const int error =
        co_await FileIo(*segment->file, FileOperation::sync_data, 0, std::span<std::byte>{});
    if (error != 0) co_return error;
  }
  co_return 0;
}

// False: the lease is lost. Else the fence was seen to hold after the root was there for everybody,
// so that whoever owns the volume next reads this root or a newer one: from here on what this root
// does not need may go, however late that happens.
Task<bool> VolumeImpl::publish(const format::Root& root) {
  HoldTracker::Operation held(hold_);
  for (;;) {
    const bool may_publish = co_await await_fence();
    if (!may_publish) co_return false;
    std::vector<std::byte> bytes = format::encode_root(root);
    std::optional<HoldTracker::Call> call(std::in_place, hold_,
                                          "publishing of root " + std::to_string(root.id.number));
    const Result<void> published = co_await pool_.publish_root(root.id, std::move(bytes), owner());
    call.reset();
    if (published.ok()) break;
    const HoldReason reason = never_final(sort_error(published.error()));
    co_await sleep_for(executor_, held.failed(reason, published.error().message()));
  }
  held.succeeded();
  old_roots_.push_back(root_.id);
  root_ = root;
  const bool may_remove = co_await await_fence();
  if (!may_remove) co_return false;
  // Those that cannot be removed now are tried again after the next checkpoint.
  std::vector<RootId> left;
  for (const RootId& old : old_roots_) {
    if (old == root_.id) continue;
    const HoldTracker::Call call(hold_, "removal of root " + std::to_string(old.number));
    const Result<void> removed = co_await pool_.remove_root(old, owner());
    if (!removed.ok() && removed.error().code() != ErrorCode::not_found) left.push_back(old);
  }
  old_roots_ = std::move(left);
  co_return true;
}

Task<void> VolumeImpl::remove_dead(std::vector<SegmentNumber> dead) {
  for (const SegmentNumber number : dead) {
    if (!fence_holds()) {
      store_.dead_candidates().push_back(number);
      continue;
    }
    page_victim_rounds_.erase(number.value);
    const Result<void> removed = co_await store_.remove(number);
    if (removed.ok()) continue;
    if (removed.error().code() == ErrorCode::busy) {  // for a moment
      store_.dead_candidates().push_back(number);
      continue;
    }
    log_warning("volume " + info_.name + ": " + removed.error().message() +
                "; it is tried again after the next checkpoint");
    store_.dead_candidates().push_back(number);
    ++dead_when_freed_;
  }
  dead_left_ = store_.dead_candidates().size();
}

}  // namespace holdfast
