// SPDX-License-Identifier: Apache-2.0
//
// The cleaner: copies the live blocks of mostly dead segments into cold segments of their own, so
// that the old ones can be freed. Which segment, when and how fast: cleaner_schedule.cc.
//
//   1. read the victim, record by record; what the map still shows there is live (clean_records)
//   2. write copies of that to a cold segment (take_copy, write_copies)
//   3. when that is full, or nothing follows, sync it (settle)
//   4. move the map's references, each only where it still shows the old place (move_references)
//   5. the next checkpoint publishes the new map, and then frees the victims
//
// Nothing of this is in the log: until a root with the new map is published, a crash leaves the old
// map and the old segments, and copies that nobody refers to. So no step needs undoing, and any
// error just ends the round; it begins again later.
//
// Pages of the map are not copied but marked dirty: the next checkpoint writes them elsewhere.
#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/assert.h"
#include "base/crc32c.h"
#include "base/log.h"
#include "io/file_io.h"
#include "volume/canary.h"
#include "volume/cleaning.h"
#include "volume/leaf_walk.h"

namespace holdfast {

using format::BlockLocation;
using format::ExtentKind;
using format::MapEntry;
using format::RecordExtent;
using format::RecordKind;
using format::RecordView;
using format::SegmentEntry;
using format::SegmentState;
using format::SegmentStream;

namespace {

constexpr std::uint32_t kPageVictimRoundsMax = 3;

}  // namespace

// --- One victim ---

// False: it, or the round, was given up.
Task<bool> VolumeImpl::clean_segment(Cleaning& cleaning, SegmentNumber victim) {
  const SegmentEntry entry = store_.entry(victim);
  if (entry.state != SegmentState::sealed || entry.live_blocks == 0) co_return true;
  Result<Segment*> segment = co_await store_.acquire(victim);
  if (!segment.ok()) co_return false;
  cleaning.victim = victim;
  cleaning.segment = *segment;
  cleaning.share = {std::max(entry.used_blocks, entry.live_blocks), entry.live_blocks};
  cleaning.victim_failed = false;
  cleaning.window_blocks = 0;
  cleaning.passed_blocks = 0;
  if (entry.stream == SegmentStream::pages) {
    co_await clean_pages(cleaning, entry);
  } else {
    co_await clean_records(cleaning, entry);
  }
  store_.release(*cleaning.segment);
  if (cleaning.failed) {
    while (cleaning.writing) co_await cleaning.write_done.wait();
    cleaning.give_up();
    co_return false;
  }
  cleaning.passed_blocks = 0;
  if (cleaning.victim_failed || has_ended_cleaning()) co_return !cleaning.victim_failed;
  if (entry.stream == SegmentStream::pages) {
    ++statistics_.cleaned_segments;
    // Pages leave it with the next checkpoint, if they can be read.
    if (store_.entry(victim).live_blocks != 0 &&
        ++page_victim_rounds_[victim.value] >= kPageVictimRoundsMax) {
      uncleanable_.insert(victim.value);
      page_victim_rounds_.erase(victim.value);
    }
    co_return true;
  }
  cleaning.finished_blocks += cleaning.share.blocks;
  cleaning.finished.push_back({victim, cleaning.share.blocks});
  co_return true;
}

// Reads no more than it needs: not what is dead at a record's end, nor behind the last live block.
Task<void> VolumeImpl::clean_records(Cleaning& cleaning, const SegmentEntry& entry) {
  const std::uint32_t end = std::min(entry.used_blocks, segment_blocks_);
  std::uint32_t left = entry.live_blocks;  // not found yet
  const VolumeId writer = store_.segment_id(cleaning.victim).volume;
  for (std::uint32_t at = 0; at < end && left != 0 && !has_ended_cleaning();) {
    if (!cleaning.window_has(at)) {
      co_await read_window(cleaning, at, std::min(cleaner_step_blocks(), end - at));
      if (cleaning.victim_failed) co_return;
    }
    const auto record = RecordView::parse(cleaning.window_block(at));
    if (!record.has_value() || record->identity().volume != writer ||
        record->identity().segment != cleaning.victim || record->identity().block_index != at) {
      co_return;  // no record here: nothing behind it is live
    }
    const std::uint32_t record_end = at + 1 + record->payload_blocks();
    if (record_end > segment_blocks_) co_return;
    co_await find_live(cleaning, *record, at);
    for (const Cleaning::Live& live : cleaning.live) {
      if (!cleaning.window_has(live.index)) {
        const std::uint32_t step = cleaner_step_blocks();
        std::uint32_t until = live.index + step;
        if (record_end > until) until = std::min(until, cleaning.live.back().index + 1);
        co_await read_window(cleaning, live.index, std::min(until, end) - live.index);
        if (cleaning.victim_failed) co_return;
      }
      co_await take_copy(cleaning, live.block, live.entry, cleaning.window_block(live.index));
      if (cleaning.failed) co_return;
    }
    left -= std::min(left, static_cast<std::uint32_t>(cleaning.live.size()));
    cleaning.passed_blocks += record_end - at;
    at = record_end;
  }
}

Task<void> VolumeImpl::read_window(Cleaning& cleaning, std::uint32_t first, std::uint32_t blocks) {
  co_await await_credit(cleaning, blocks);
  const std::span<std::byte> bytes = cleaning.window.span(0, blocks * kBlockBytes);
  cleaning.window_first = first;
  cleaning.window_blocks = blocks;
  const int error =
      co_await FileIo(*cleaning.segment->file, FileOperation::read, first * kBlockBytes, bytes);
  if (error != 0) {
    store_.retire(*cleaning.segment);
    cleaning.victim_failed = true;
  }
  statistics_.cleaner_bytes_read += bytes.size();
}

// The blocks of one record that the map shows where they stand.
Task<void> VolumeImpl::find_live(Cleaning& cleaning, const RecordView& record, std::uint32_t at) {
  cleaning.live.clear();
  std::uint32_t index = at + 1;
  for (std::uint32_t i = 0; i < record.extent_count(); ++i) {
    const RecordExtent extent = record.extent(i);
    if (extent.kind != ExtentKind::data) continue;
    for (std::uint32_t k = 0; k < extent.block_count; ++k, ++index) {
      const std::uint64_t block = extent.first_block.value + k;
      const PagedArray::Lookup found = co_await map_.get(0, leaf_of(block), false);
      if (found.outcome != PageOutcome::ready) continue;
      const MapEntry entry = map_entry_of(*found.page, block);
      if (entry.location != BlockLocation::at(cleaning.victim, index)) continue;
      cleaning.live.push_back({index, block, entry});
    }
  }
}

Task<void> VolumeImpl::take_copy(Cleaning& cleaning, std::uint64_t block, MapEntry entry,
                                 std::span<const std::byte> bytes) {
  // Bytes that fail their check stay where they are; a read will say so to whoever asks.
  if (crc32c(bytes) != entry.checksum) co_return;
  const BlockNumber first{block};
  // A record ends where its segment does: what is left behind it would be lost.
  const std::uint32_t gathered_blocks = cleaning.builder.payload_blocks();
  const bool fills_segment = cold_.segment != nullptr && gathered_blocks != 0 &&
                             cold_.next_block + 1 + gathered_blocks >= segment_blocks_;
  if (fills_segment || cleaning.builder.data_room(first, 1) == 0) co_await write_copies(cleaning);
  if (cleaning.failed) co_return;
  const std::uint32_t index = cleaning.builder.payload_blocks();
  cleaning.builder.add_extent({first, 1, ExtentKind::data});
  cleaning.builder.add_checksum(entry.checksum);
  std::copy(bytes.begin(), bytes.end(),
            cleaning.copies.data() + (std::size_t{index} + 1) * kBlockBytes);
  cleaning.gathered.push_back({block, entry.location, BlockLocation::hole()});
}

// Pages that are in use at their place here will be written elsewhere.
Task<void> VolumeImpl::clean_pages(Cleaning& cleaning, const SegmentEntry& entry) {
  const std::uint32_t end = std::min(entry.used_blocks, segment_blocks_);
  for (std::uint32_t at = 0; at < end && !has_ended_cleaning(); ++at) {
    if (!cleaning.window_has(at)) {
      co_await read_window(cleaning, at, std::min(cleaner_step_blocks(), end - at));
      if (cleaning.victim_failed) co_return;
    }
    const auto name = format::page_name(cleaning.window_block(at));
    if (!name.has_value()) continue;
    if (is_crowded()) co_await checkpoint_for_room();
    PagedArray& array = name->array == format::ArrayKind::map ? map_ : store_.table();
    const PagedArray::Lookup found = co_await array.get(name->level, name->index, false);
    if (found.outcome != PageOutcome::ready ||
        found.page->location != BlockLocation::at(cleaning.victim, at)) {
      continue;
    }
    array.writable(*found.page);
  }
}

// --- Cold segments ---

Task<bool> VolumeImpl::make_cold_room(std::uint32_t blocks) {
  if (cold_.segment != nullptr && cold_.next_block + blocks <= segment_blocks_) co_return true;
  seal_cold();
  has_cold_segments_ = true;
  Result<Segment*> made = co_await store_.create(SegmentStream::cold, false);
  if (!made.ok()) co_return false;
  cold_.segment = *made;
  cold_.next_block = 0;
  co_return true;
}

void VolumeImpl::seal_cold() {
  if (cold_.segment == nullptr) return;
  store_.seal(cold_.segment->number, cold_.next_block);
  store_.release(*cold_.segment);
  cold_.segment = nullptr;
}

// Appends the record that was gathered; with haste, while the next is being filled.
Task<void> VolumeImpl::write_copies(Cleaning& cleaning) {
  while (cleaning.writing) co_await cleaning.write_done.wait();
  if (cleaning.failed || cleaning.gathered.empty()) co_return;
  const std::uint32_t blocks = 1 + cleaning.builder.payload_blocks();
  // A sealed segment without a reference is dead: the references come before the next segment.
  if (cold_.segment != nullptr && cold_.next_block + blocks > segment_blocks_) {
    co_await sync_copies(cleaning);
    if (cleaning.failed) co_return;
    co_await move_references(cleaning);
  }
  const bool has_room = co_await make_cold_room(blocks);
  if (!has_room) {
    cleaning.failed = true;
    co_return;
  }
  const std::uint32_t at = cold_.next_block;
  cold_.next_block += blocks;
  ++cold_.sequence.value;
  const format::RecordIdentity identity{id_, epoch_, cold_.segment->number, at, cold_.sequence};
  cleaning.builder.finish(identity, {}, RecordKind::copy);
  for (std::size_t i = 0; i < cleaning.gathered.size(); ++i) {
    Cleaning::Move& move = cleaning.gathered[i];
    move.to = BlockLocation::at(cold_.segment->number, at + 1 + static_cast<std::uint32_t>(i));
    cleaning.written.push_back(move);
  }
  cleaning.gathered.clear();
  std::swap(cleaning.copies, cleaning.copies_written);
  cleaning.builder = format::RecordBuilder(cleaning.copies.span(0, kBlockBytes));
  cleaning.writing = true;
  if (cleaner_has_haste()) {
    tasks_.spawn(write_record(&cleaning, at, blocks));
  } else {
    co_await write_record(&cleaning, at, blocks);
  }
}

// A step at a time. After an error nobody appends behind it.
Task<void> VolumeImpl::write_record(Cleaning* cleaning, std::uint32_t at, std::uint32_t blocks) {
  for (std::uint32_t done = 0; done < blocks && !cleaning->failed;) {
    const std::uint32_t count = std::min(cleaner_step_blocks(), blocks - done);
    co_await await_credit(*cleaning, count);
    const std::span<std::byte> bytes =
        cleaning->copies_written.span(done * kBlockBytes, count * kBlockBytes);
    const int error = co_await FileIo(*cold_.segment->file, FileOperation::write,
                                      (at + done) * kBlockBytes, bytes);
    if (error != 0) {
      store_.note_failed_write(*cold_.segment, error);
      cleaning->failed = true;
      seal_cold();
    }
    statistics_.cleaner_bytes_written += bytes.size();
    done += count;
  }
  cleaning->writing = false;
  cleaning->write_done.notify_all();
}

// Ends a round: everything copied so far becomes what the map shows.
Task<void> VolumeImpl::settle(Cleaning& cleaning) {
  co_await write_copies(cleaning);
  while (cleaning.writing) co_await cleaning.write_done.wait();
  if (!cleaning.failed) co_await sync_copies(cleaning);
  if (cleaning.failed) {
    cleaning.give_up();
    co_return;
  }
  co_await move_references(cleaning);
}

// A failed sync may have lost any of them: none is used.
Task<void> VolumeImpl::sync_copies(Cleaning& cleaning) {
  if (canary::is_on(canary::kMoveBeforeCopiesAreDurable) || cleaning.written.empty()) co_return;
  const int error =
      co_await FileIo(*cold_.segment->file, FileOperation::sync_data, 0, std::span<std::byte>{});
  if (error == 0) co_return;
  cleaning.failed = true;
  seal_cold();
}

// --- The map ---

Task<void> VolumeImpl::move_references(Cleaning& cleaning) {
  std::size_t moves = 0;
  for (const Cleaning::Move& move : cleaning.written) {
    // Dirty pages must leave room for the guest's; it is a checkpoint that makes it.
    if (is_crowded()) co_await checkpoint_for_room();
    if (++moves % limits::kCleanerMovesPerTurnMax == 0) co_await sleep_for(executor_, 0ns);
    const PagedArray::Lookup found = co_await map_.get(0, leaf_of(move.block), false);
    if (found.outcome != PageOutcome::ready) continue;
    // A snapshot was taken meanwhile. To move it would free nothing, and make it look rewritten.
    if (store_.is_pinned(move.from.segment())) continue;
    if (move_reference(*found.page, move.block, move.from, move.to)) ++statistics_.moved_blocks;
  }
  cleaning.written.clear();
  // The record being filled may hold blocks of victims that are read to their end.
  const SegmentNumber unsettled =
      cleaning.gathered.empty() ? SegmentNumber{} : cleaning.gathered.front().from.segment();
  std::size_t settled = 0;
  for (const Cleaning::Finished& finished : cleaning.finished) {
    if (finished.victim == unsettled) break;
    ++settled;
    ++statistics_.cleaned_segments;
    cleaning.finished_blocks -= finished.blocks;
    // Damaged blocks keep their segment; to read it again and again would not help.
    if (store_.entry(finished.victim).live_blocks != 0) uncleanable_.insert(finished.victim.value);
  }
  cleaning.finished.erase(cleaning.finished.begin(),
                          cleaning.finished.begin() + static_cast<std::ptrdiff_t>(settled));
}

// Nobody waits for the cleaner while it waits for a checkpoint, which waits for the guest's writes.
Task<void> VolumeImpl::checkpoint_for_room() {
  cleaner_works_ = false;
  release_pressed_writes();
  co_await checkpoint_now();
  cleaner_works_ = true;
}

}  // namespace holdfast
