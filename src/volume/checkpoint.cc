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
// Every step waits out full and unreachable storage; none is undone.
#include <algorithm>
#include <array>
#include <cstring>

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
  if ((log_is_long || many_dirty || frees) && !checkpoint_running_) want_checkpoint();
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
  co_return Result<void>{};
}

Task<void> VolumeImpl::checkpoint_now() {
  while (checkpoint_running_) co_await checkpoint_done_.wait();
  checkpoint_running_ = true;
  checkpoint_wanted_ = false;
  co_await checkpoint_once();
  victims_.clear();
  checkpoint_running_ = false;
  checkpoint_done_.notify_all();
  wake_crowded();
  maybe_clean();
}

// --- One checkpoint ---

Task<void> VolumeImpl::sync_applied() {
  const Sequence target = log_.applied_sequence();
  while (log_.synced_sequence() < target) {
    log_.request_sync(false);
    co_await drained_.wait();
  }
}

Task<void> VolumeImpl::checkpoint_once() {
  Flush flush;
  co_await sync_applied();
  co_await make_page_room();
  log_.pause_apply();
  co_await sync_applied();
  co_await make_page_room();  // for pages dirtied since; rarely anything
  freeze(flush);
  log_.resume_apply();

  if (canary::kPublishBeforePagesAreDurable) co_await publish(flush.root);
  const bool frees_early =
      canary::kFreeBeforeCheckpoint || (canary::kRecycleBeforeCheckpoint && store_.is_thick());
  if (frees_early) co_await remove_dead(flush.dead);
  HoldTracker::Operation held(hold_);
  for (;;) {
    co_await write_pages(flush);
    const int error = co_await sync_pages(flush);
    if (error == 0) break;
    // A failed sync may have lost any of them: the same bytes go to the same places again.
    const std::string detail = std::string("sync of map pages: ") + std::strerror(error);
    const HoldReason reason = never_final(sort_errno(error));
    co_await sleep_for(executor_, held.failed(reason, detail));
  }
  held.succeeded();
  for (const PageWrite& write : flush.pages) write.array->end_flush(*write.page);
  for (Segment* segment : flush.filled) store_.release(*segment);
  if (!canary::kPublishBeforePagesAreDurable) co_await publish(flush.root);
  ++checkpoints_done_;
  if (!frees_early) co_await remove_dead(flush.dead);
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
  while (page_room() < page_room_needed()) {
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
void VolumeImpl::freeze(Flush& flush) {
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
    const bool replay_needs_it = entry.stream == SegmentStream::main && entry.epoch == epoch_ &&
                                 position.segment.value != 0 && number >= position.segment;
    (replay_needs_it ? later : dead).push_back(number);
  }
  candidates = std::move(later);
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
  while (flush->next < flush->pages.size()) {
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
    Segment* segment = store_.try_acquire(start.segment());
    HOLDFAST_ASSERT(segment != nullptr);  // open for pages, or released only after the flush
    for (;;) {
      std::array<iovec, kPagesPerWrite> consumed = vectors;
      const int error =
          co_await FileIo(*segment->file, FileOperation::write, start.block_index() * kBlockBytes,
                          std::span<iovec>(consumed.data(), count));
      if (error == 0) break;
      const std::string detail = std::string("write of map pages: ") + std::strerror(error);
      const HoldReason reason = never_final(sort_errno(error));
      co_await sleep_for(executor_, held.failed(reason, detail));
    }
    held.succeeded();
    statistics_.page_bytes_written += count * kBlockBytes;
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

Task<void> VolumeImpl::publish(const format::Root& root) {
  HoldTracker::Operation held(hold_);
  for (;;) {
    std::vector<std::byte> bytes = format::encode_root(root);
    const Result<void> published = co_await pool_.publish_root(root.id, std::move(bytes));
    if (published.ok()) break;
    const HoldReason reason = never_final(sort_error(published.error()));
    co_await sleep_for(executor_, held.failed(reason, published.error().message()));
  }
  held.succeeded();
  old_roots_.push_back(root_.id);
  root_ = root;
  // Those that cannot be removed now are tried again after the next checkpoint.
  std::vector<RootId> left;
  for (const RootId& old : old_roots_) {
    if (old == root_.id) continue;
    const Result<void> removed = co_await pool_.remove_root(old);
    if (!removed.ok() && removed.error().code() != ErrorCode::not_found) left.push_back(old);
  }
  old_roots_ = std::move(left);
}

Task<void> VolumeImpl::remove_dead(std::vector<SegmentNumber> dead) {
  for (const SegmentNumber number : dead) {
    const Result<void> removed = co_await store_.remove(number);
    if (removed.ok()) continue;
    if (removed.error().code() == ErrorCode::busy) {  // for a moment
      store_.dead_candidates().push_back(number);
      continue;
    }
    log_warning("volume " + info_.name + ": " + removed.error().message() +
                "; it is tried again after the next checkpoint");
    store_.dead_candidates().push_back(number);
  }
  dead_left_ = store_.dead_candidates().size();
}

}  // namespace holdfast
