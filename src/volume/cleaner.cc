// SPDX-License-Identifier: Apache-2.0
//
// The cleaner: copies the live blocks of mostly dead segments into cold segments of their own, so
// that the old ones can be freed.
//
//   1. choose the victim whose cleaning frees most for its cost (choose_victim)
//   2. read it, record by record; what the map still shows there is live (gather)
//   3. write copies of that to a cold segment, and sync it (write_copies, sync_copies)
//   4. move the map's references, each only where it still shows the old place (move_references)
//   5. the next checkpoint publishes the new map, and then frees the victim
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
#include "volume/volume_impl.h"

namespace holdfast {

using format::BlockLocation;
using format::ExtentKind;
using format::kMapEntriesPerPage;
using format::MapEntry;
using format::RecordExtent;
using format::RecordKind;
using format::RecordView;
using format::SegmentEntry;
using format::SegmentState;
using format::SegmentStream;

namespace {

constexpr std::uint32_t kCleanerWindowBlocks =
    256;  // read at a time; holds at least one whole record
static_assert(kCleanerWindowBlocks > limits::kRecordPayloadBlocksMax);
// A victim must be worth its checkpoint.
constexpr std::uint32_t kGarbagePercentMin = 5;
constexpr std::size_t kVictimsPerCheckpoint = 32;

}  // namespace

// A round: one victim.
struct VolumeImpl::Cleaning {
  struct Move {
    std::uint64_t block;
    BlockLocation from;
    BlockLocation to;
  };
  SegmentNumber victim;
  Segment* segment = nullptr;
  AlignedBuffer window;
  AlignedBuffer copies;  // one record
  format::RecordBuilder builder;
  std::vector<Move> gathered;  // in the record being filled
  std::vector<Move> written;   // copied, not yet moved
  bool failed = false;
};

// --- When ---

VolumeImpl::Garbage VolumeImpl::measure_garbage() {
  Garbage found;
  const std::uint64_t next = store_.next_number().value;
  // With little left, the emptiest gives most, whatever its age.
  const bool is_greedy = scarcity() > 0;
  double best = 0;
  store_.for_each_entry([&](SegmentNumber number, const SegmentEntry& entry) {
    if (entry.state != SegmentState::sealed || entry.live_blocks == 0) return;
    // Those of a thick volume are never cut short.
    const std::uint64_t blocks =
        store_.is_thick() ? segment_blocks_ : std::max(entry.used_blocks, entry.live_blocks);
    found.sealed_blocks += blocks;
    found.live_blocks += entry.live_blocks;
    if (entry.live_blocks * 100ull > blocks * (100ull - kGarbagePercentMin)) return;
    if (victims_.contains(number.value) || uncleanable_.contains(number.value)) return;
    // Rosenblum, Ousterhout, "The Design and Implementation of a Log-Structured File System"
    // (1992): benefit over cost; the segment's number stands for its age.
    const double live = static_cast<double>(entry.live_blocks) / static_cast<double>(blocks);
    const double age = static_cast<double>(next - number.value);
    const double score = is_greedy ? 1 - live : (1 - live) * age / (1 + live);
    if (score > best) {
      best = score;
      found.victim = number;
    }
  });
  return found;
}

bool VolumeImpl::wants_cleaning(const Garbage& garbage, std::uint32_t percent) const {
  if (hold_.state().reason == HoldReason::space || scarcity() > 0) {
    percent = std::min(percent, kGarbagePercentMin);
  }
  return garbage.victim.value != 0 &&
         garbage.garbage_blocks() * 100 > garbage.sealed_blocks * std::uint64_t{percent};
}

// Called where garbage may have grown: cheap unless the number of segments has changed.
void VolumeImpl::maybe_clean() {
  if (cleaning_ || has_ended_cleaning() || !serving_) return;
  if (options_.cleaner_start_percent > 100 && !store_.is_thick()) return;
  if (store_.segment_count() == segments_when_measured_ &&
      hold_.state().reason != HoldReason::space) {
    return;
  }
  segments_when_measured_ = store_.segment_count();
  if (!wants_cleaning(measure_garbage(), options_.cleaner_start_percent)) return;
  cleaning_ = true;
  tasks_.spawn(clean());
}

Task<void> VolumeImpl::clean() {
  Backoff backoff;
  while (!has_ended_cleaning()) {
    const Garbage garbage = measure_garbage();
    if (!wants_cleaning(garbage, options_.cleaner_stop_percent)) break;
    clean_urgency_ = urgency(garbage);
    if (clean_urgency_ <= 0 && guest_is_busy()) {
      co_await sleep_for(executor_, limits::kCleanerRestMax);
      continue;
    }
    victims_.insert(garbage.victim.value);
    const bool is_done = co_await clean_segment(garbage.victim);
    if (is_done) {
      backoff = Backoff();
      ++statistics_.cleaned_segments;
    } else {
      co_await sleep_for(executor_, backoff.next());
    }
    // Space comes back with a checkpoint; without haste the next one that is due will do.
    const bool has_haste = hold_.state().reason == HoldReason::space || scarcity() > 0.5;
    if (has_haste || victims_.size() >= kVictimsPerCheckpoint) co_await checkpoint_now();
  }
  cleaning_ = false;
  segments_when_measured_ = store_.segment_count();
  drained_.notify_all();
}

// Of a thick volume: 0 while it has enough segments to write to, 1 with none to spare.
double VolumeImpl::scarcity() const {
  if (!store_.is_preallocated()) return 0;
  const auto free = static_cast<double>(store_.free_spares());
  constexpr auto kScarce = static_cast<double>(limits::kThickFreeSegments) / 2;
  const double plenty =
      kScarce + 1 + static_cast<double>(store_.segment_count() + store_.spare_count()) / 16;
  return std::clamp((plenty - free) / (plenty - kScarce), 0.0, 1.0);
}

// The log waits for a segment.
void VolumeImpl::on_scarcity() {
  if (!checkpoint_running_ && !store_.dead_candidates().empty()) want_checkpoint();
  segments_when_measured_ = 0;
  maybe_clean();
}

// A volume that is being closed has requests to finish, which may need what is cleaned.
bool VolumeImpl::has_ended_cleaning() const {
  return closing_ && (!store_.is_thick() || (requests_active_ == 0 && log_.everything_synced()));
}

bool VolumeImpl::guest_is_busy() const {
  return executor_.now() - last_request_ < limits::kCleanerIdleTime || requests_active_ != 0;
}

// 0 where a busy guest comes first, 1 where garbage is far beyond the start.
double VolumeImpl::urgency(const Garbage& garbage) const {
  if (hold_.state().reason == HoldReason::space) return 1;
  if (scarcity() > 0) return scarcity();
  const double percent = 100.0 * static_cast<double>(garbage.garbage_blocks()) /
                         static_cast<double>(std::max<std::uint64_t>(1, garbage.sealed_blocks));
  const double start = options_.cleaner_start_percent + limits::kCleanerBusyPercent;
  const double full = options_.cleaner_start_percent + limits::kCleanerFullSpeedPercent;
  return std::clamp((percent - start) / (full - start), 0.0, 1.0);
}

// After each piece of work: rests the longer, the less urgent it is, while a guest is busy.
Task<void> VolumeImpl::pace_cleaning(MonotonicTime began) {
  const Duration work = executor_.now() - began;
  if (!guest_is_busy() || clean_urgency_ >= 1) co_return;
  const double rest =
      static_cast<double>(work.count()) * limits::kCleanerRestRatioMax * (1 - clean_urgency_);
  co_await sleep_for(executor_,
                     std::min(Duration(static_cast<std::int64_t>(rest)), limits::kCleanerRestMax));
}

// --- One victim ---

Task<bool> VolumeImpl::clean_segment(SegmentNumber victim) {
  const SegmentEntry entry = store_.entry(victim);
  if (entry.state != SegmentState::sealed || entry.live_blocks == 0) co_return true;
  Result<Segment*> segment = co_await store_.acquire(victim);
  if (!segment.ok()) co_return false;
  Cleaning cleaning;
  cleaning.victim = victim;
  cleaning.segment = *segment;
  cleaning.window = AlignedBuffer(kCleanerWindowBlocks * kBlockBytes);
  cleaning.copies = AlignedBuffer((1 + limits::kRecordPayloadBlocksMax) * kBlockBytes);
  cleaning.builder = format::RecordBuilder(cleaning.copies.span(0, kBlockBytes));
  const std::uint32_t end = std::min(entry.used_blocks, segment_blocks_);
  for (std::uint32_t at = 0; at < end && !has_ended_cleaning() && !cleaning.failed;) {
    const MonotonicTime began = executor_.now();
    const std::uint32_t blocks = std::min(kCleanerWindowBlocks, end - at);
    const std::span<std::byte> bytes = cleaning.window.span(0, blocks * kBlockBytes);
    const int error =
        co_await FileIo(*cleaning.segment->file, FileOperation::read, at * kBlockBytes, bytes);
    if (error != 0) {
      cleaning.failed = true;
      break;
    }
    std::uint32_t used = blocks;
    if (entry.stream == SegmentStream::pages) {
      co_await dirty_pages(cleaning, at, bytes);
    } else {
      used = co_await gather(cleaning, at, bytes);
      if (used == 0) break;  // no record here: nothing behind it is live
    }
    at += used;
    co_await pace_cleaning(began);
  }
  if (!cleaning.failed) co_await write_copies(cleaning);
  if (!cleaning.failed && !cleaning.written.empty()) co_await sync_copies(cleaning);
  store_.release(*cleaning.segment);
  if (cleaning.failed) co_return false;
  co_await move_references(cleaning);
  // Damaged blocks keep their segment; to read it again and again would not help.
  const bool has_pages = entry.stream == SegmentStream::pages;
  if (!closing_ && !has_pages && store_.entry(victim).live_blocks != 0) {
    uncleanable_.insert(victim.value);
  }
  co_return true;
}

// Takes the live blocks of the whole records at the start of `bytes`; returns the blocks passed.
Task<std::uint32_t> VolumeImpl::gather(Cleaning& cleaning, std::uint32_t at,
                                       std::span<const std::byte> bytes) {
  const auto window_blocks = static_cast<std::uint32_t>(bytes.size() / kBlockBytes);
  std::uint32_t used = 0;
  while (used < window_blocks && !cleaning.failed) {
    const auto view = RecordView::parse(bytes.subspan(used * kBlockBytes, kBlockBytes));
    if (!view.has_value() || view->identity().volume != id_ ||
        view->identity().segment != cleaning.victim || view->identity().block_index != at + used) {
      break;
    }
    if (1 + view->payload_blocks() > window_blocks - used) break;  // read again from its header
    std::uint32_t payload_index = 0;
    for (std::uint32_t i = 0; i < view->extent_count(); ++i) {
      const RecordExtent extent = view->extent(i);
      if (extent.kind != ExtentKind::data) continue;
      for (std::uint32_t k = 0; k < extent.block_count; ++k, ++payload_index) {
        const std::uint32_t index = used + 1 + payload_index;
        const BlockLocation place = BlockLocation::at(cleaning.victim, at + index);
        const std::uint64_t block = extent.first_block.value + k;
        const MapEntry entry = co_await map_entry(block);
        if (entry.location != place) continue;
        co_await take_copy(cleaning, block, entry, bytes.subspan(index * kBlockBytes, kBlockBytes));
      }
    }
    used += 1 + view->payload_blocks();
  }
  co_return used;
}

// What the map shows now; a hole where it cannot say.
Task<MapEntry> VolumeImpl::map_entry(std::uint64_t block) {
  const std::uint64_t leaf = block / kMapEntriesPerPage;
  PagedArray::Lookup found{PageOutcome::ready, map_.find_leaf(leaf)};
  if (found.page == nullptr) found = co_await map_.get(0, leaf, false);
  if (found.outcome != PageOutcome::ready) co_return MapEntry{};
  const auto slot = static_cast<std::uint32_t>(block % kMapEntriesPerPage);
  co_return format::load_map_entry(format::map_entry_at(found.page->image, slot));
}

Task<void> VolumeImpl::take_copy(Cleaning& cleaning, std::uint64_t block, MapEntry entry,
                                 std::span<const std::byte> bytes) {
  // Bytes that fail their check stay where they are; a read will say so to whoever asks.
  if (crc32c(bytes) != entry.checksum) co_return;
  const BlockNumber first{block};
  if (cleaning.builder.data_room(first, 1) == 0) co_await write_copies(cleaning);
  if (cleaning.failed) co_return;
  const std::uint32_t index = cleaning.builder.payload_blocks();
  cleaning.builder.add_extent({first, 1, ExtentKind::data});
  cleaning.builder.add_checksum(entry.checksum);
  std::copy(bytes.begin(), bytes.end(),
            cleaning.copies.data() + (std::size_t{index} + 1) * kBlockBytes);
  cleaning.gathered.push_back({block, entry.location, BlockLocation::hole()});
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

// Appends the record that was gathered. After an error nobody appends behind it.
Task<void> VolumeImpl::write_copies(Cleaning& cleaning) {
  if (cleaning.gathered.empty()) co_return;
  const std::uint32_t blocks = 1 + cleaning.builder.payload_blocks();
  // A sealed segment without a reference is dead: the references come before the next segment.
  if (cold_.segment != nullptr && cold_.next_block + blocks > segment_blocks_ &&
      !cleaning.written.empty()) {
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
  const std::span<std::byte> bytes = cleaning.copies.span(0, blocks * kBlockBytes);
  const int error =
      co_await FileIo(*cold_.segment->file, FileOperation::write, at * kBlockBytes, bytes);
  if (error != 0) {
    cleaning.failed = true;
    seal_cold();
    co_return;
  }
  statistics_.cleaner_bytes_written += bytes.size();
  for (std::size_t i = 0; i < cleaning.gathered.size(); ++i) {
    Cleaning::Move& move = cleaning.gathered[i];
    move.to = BlockLocation::at(cold_.segment->number, at + 1 + static_cast<std::uint32_t>(i));
    cleaning.written.push_back(move);
  }
  cleaning.gathered.clear();
  cleaning.builder = format::RecordBuilder(cleaning.copies.span(0, kBlockBytes));
}

// A failed sync may have lost any of them: none is used.
Task<void> VolumeImpl::sync_copies(Cleaning& cleaning) {
  if (canary::kMoveBeforeCopiesAreDurable) co_return;
  const int error =
      co_await FileIo(*cold_.segment->file, FileOperation::sync_data, 0, std::span<std::byte>{});
  if (error == 0) co_return;
  cleaning.failed = true;
  seal_cold();
}

// --- The map ---

Task<void> VolumeImpl::move_references(Cleaning& cleaning) {
  for (const Cleaning::Move& move : cleaning.written) {
    // Dirty pages must leave room for the guest's; it is a checkpoint that makes it.
    if (is_crowded()) co_await checkpoint_now();
    const std::uint64_t leaf = move.block / kMapEntriesPerPage;
    PagedArray::Lookup found{PageOutcome::ready, map_.find_leaf(leaf)};
    if (found.page == nullptr) found = co_await map_.get(0, leaf, false);
    if (found.outcome != PageOutcome::ready) continue;
    const auto slot = static_cast<std::uint32_t>(move.block % kMapEntriesPerPage);
    MapEntry entry = format::load_map_entry(format::map_entry_at(found.page->image, slot));
    if (entry.location != move.from && !canary::kMoveWithoutLooking) continue;
    const BlockLocation before = entry.location;
    entry.location = move.to;
    format::store_map_entry(format::map_entry_at(map_.writable(*found.page), slot), entry);
    if (before.is_stored()) store_.add_live(before.segment(), -1);
    store_.add_live(move.to.segment(), 1);
    ++statistics_.moved_blocks;
  }
  cleaning.written.clear();
}

// Pages that are in use at their place here will be written elsewhere.
Task<void> VolumeImpl::dirty_pages(Cleaning& cleaning, std::uint32_t at,
                                   std::span<const std::byte> bytes) {
  for (std::uint32_t i = 0; i < bytes.size() / kBlockBytes; ++i) {
    const auto name = format::page_name(bytes.subspan(i * kBlockBytes, kBlockBytes));
    if (!name.has_value()) continue;
    if (is_crowded()) co_await checkpoint_now();
    PagedArray& array = name->array == format::ArrayKind::map ? map_ : store_.table();
    const PagedArray::Lookup found = co_await array.get(name->level, name->index, false);
    if (found.outcome != PageOutcome::ready ||
        found.page->location != BlockLocation::at(cleaning.victim, at + i)) {
      continue;
    }
    array.writable(*found.page);
  }
}

}  // namespace holdfast
