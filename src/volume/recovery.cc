// SPDX-License-Identifier: Apache-2.0
//
// Recovery: from the newest root and the log behind it to a volume that serves, in a new epoch.
//
// The log of an epoch lies in its main segments. Each holds consecutive records from the one at its
// first block on; a record stands in two segments only if it was written again after a failed sync,
// with the same content. Replay looks for one sequence after the other, in the latest segment that
// has it intact, and ends at the first that is nowhere: what is restored is a prefix of the log.
//
// Records say up to which sequence all was durable when they were written. What lies behind the
// last such mark may never reach the disk, even if a sync succeeds now (an earlier failed one may
// have consumed the error), so it is written once more, the same bytes to the same place, and
// synced before the new root refers to it.
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <optional>

#include "base/assert.h"
#include "base/log.h"
#include "io/file_io.h"
#include "volume/canary.h"
#include "volume/volume_impl.h"

namespace holdfast {

using format::BlockLocation;
using format::ExtentKind;
using format::kMapEntriesPerPage;
using format::RecordExtent;
using format::RecordView;
using format::SegmentEntry;
using format::SegmentState;
using format::SegmentStream;

namespace {

constexpr std::uint32_t kWindowBlocks = 1024;  // read at a time; holds at least one whole record
constexpr std::size_t kLeafLoadsAtOnce = 64;
static_assert(kWindowBlocks > limits::kRecordPayloadBlocksMax);

Error not_durable(int error) {
  return Error(ErrorCode::path_failure,
               "the log cannot be made durable: " + std::string(std::strerror(error)) +
                   "; open the volume again once the storage answers");
}

}  // namespace

// A segment of the log: where the next of its records begins, and which that is.
struct VolumeImpl::Replay {
  SegmentId id;
  Sequence first;        // of its first record
  Sequence next;         // of the record at `at`
  std::uint32_t at = 0;  // block
  bool ended = false;    // there is no intact record at `at`
};

// A record found intact, and where its payload is.
struct VolumeImpl::FoundRecord {
  RecordView view;
  const std::byte* header;
  std::uint32_t block_index;
};

Task<Result<void>> VolumeImpl::recover(const std::vector<RootId>& roots, MonotonicTime begin) {
  std::optional<HoldTracker::Call> listing(std::in_place, hold_, "listing of the segments");
  CO_TRY_ASSIGN(std::vector<SegmentId> listed, co_await pool_.list_segments(id_));
  listing.reset();
  store_.set_listed(listed);
  store_.set_lineage(root_.lineage);
  if (options_.fence != nullptr) store_.set_fenced();
  CO_TRY(co_await load_snapshots());
  if (store_.is_thick()) {
    CO_TRY(co_await store_.refresh_spares());
  }
  CO_TRY(co_await store_.load_table(root_.segment_table_top));
  map_.set_top(root_.map_top);
  epoch_ = root_.id.epoch;
  SegmentNumber next =
      std::max(root_.next_segment, SegmentNumber{store_.last_spare_number().value + 1});
  for (const SegmentId& segment : listed) {
    if (store_.is_inherited(segment.number)) continue;
    next = std::max(next, SegmentNumber{segment.number.value + 1});
    epoch_ = std::max(epoch_, segment.epoch);
  }
  for (const RootId& root : roots) {
    epoch_ = std::max(epoch_, root.epoch);
    if (root != root_.id) old_roots_.push_back(root);
  }
  CO_TRY(take_epoch());
  store_.set_next_number(next);
  store_.set_epoch(epoch_);

  Sequence expected = root_.position.next_sequence;
  CO_TRY(co_await replay_log(listed, expected));
  CO_TRY(co_await make_replayed_durable());
  seal_left_open();
  forget_old_ancestors();
  for (const SegmentId& segment : listed) {
    // Several owners may have used one number, if one of them came late.
    if (store_.entry(segment.number).epoch != segment.epoch) orphans_.push_back(segment);
  }
  log_.start(epoch_, expected);
  if (!canary::is_on(canary::kServeUnsealed)) {
    co_await checkpoint_now();  // publishes (epoch, 0): from here on the old epoch's log is sealed
  }
  if (abandoned_) co_return lost_error();
  statistics_.open_time = executor_.now() - begin;
  serving_ = true;
  tasks_.spawn(tidy_after_recovery());
  co_return Result<void>{};
}

// Above all that was seen, in epoch_.
Result<void> VolumeImpl::take_epoch() {
  if (options_.fence == nullptr) {
    ++epoch_.value;
    return {};
  }
  const Epoch leased = options_.fence->epoch();
  if (leased <= epoch_) {
    return Error(ErrorCode::busy, "the volume " + info_.name +
                                      " has been opened since by another "
                                      "owner (epoch " +
                                      std::to_string(epoch_.value) + "; this lease is of epoch " +
                                      std::to_string(leased.value) + "); take its lease anew");
  }
  epoch_ = leased;
  return {};
}

// --- The chain ---

Task<Result<std::vector<VolumeImpl::Replay>>> VolumeImpl::find_chain(
    const std::vector<SegmentId>& listed) {
  std::vector<Replay> chain;
  for (const SegmentId& id : listed) {
    if (id.epoch != root_.id.epoch || store_.is_inherited(id.number)) continue;
    if (store_.segment_id(id.number).epoch != id.epoch) continue;  // came late: nobody was told
    const SegmentEntry entry = store_.entry(id.number);
    if (entry.state != SegmentState::absent && entry.stream != SegmentStream::main) continue;
    Replay part;
    part.id = id;
    if (root_.position.segment == id.number) {
      part.at = root_.position.block_index;
      part.first = part.next = root_.position.next_sequence;
      chain.push_back(part);
      continue;
    }
    // Without a position nothing was in flight: what the root knows as sealed holds nothing new.
    if (root_.position.segment.value != 0 ? id.number < root_.position.segment
                                          : entry.state == SegmentState::sealed) {
      continue;
    }
    AlignedBuffer block(kBlockBytes);
    CO_TRY_ASSIGN(Segment* const segment, co_await store_.acquire(id.number));
    const int error = co_await FileIo(*segment->file, FileOperation::read, 0, block.span());
    store_.release(*segment);
    if (error == ENODATA) continue;
    if (error != 0) {
      co_return Error(ErrorCode::path_failure,
                      "segment " + std::to_string(id.number.value) +
                          " cannot be read: " + std::strerror(error) +
                          "; open the volume again once the storage answers");
    }
    const std::optional<RecordView> record = RecordView::parse(block.span());
    // Never written, or torn: nothing in it was acknowledged. Copies are no part of the log.
    if (!record.has_value() || record->kind() != format::RecordKind::write) continue;
    part.first = part.next = record->identity().sequence;
    if (record->identity() != format::RecordIdentity{id_, id.epoch, id.number, 0, part.first} ||
        part.first < root_.position.next_sequence) {
      continue;
    }
    chain.push_back(part);
  }
  std::sort(chain.begin(), chain.end(),
            [](const Replay& a, const Replay& b) { return a.id.number < b.id.number; });
  co_return chain;
}

Task<Result<void>> VolumeImpl::replay_log(const std::vector<SegmentId>& listed,
                                          Sequence& expected) {
  CO_TRY_ASSIGN(std::vector<Replay> chain, co_await find_chain(listed));
  for (;;) {
    Replay* latest = nullptr;
    for (Replay& part : chain) {
      if (!part.ended && part.first <= expected) latest = &part;
    }
    if (latest == nullptr) break;
    Sequence limit{~std::uint64_t{0}};  // where a later segment takes over
    for (const Replay& part : chain) {
      if (!part.ended && part.id.number > latest->id.number) limit = std::min(limit, part.first);
    }
    CO_TRY(co_await replay_segment(*latest, expected, limit));
    if (expected < limit) latest->ended = true;
  }
  for (const Replay& part : chain) {
    if (store_.has_entry(part.id.number)) replayed_ends_[part.id.number.value] = part.at;
  }
  co_return Result<void>{};
}

// Applies the segment's records from `expected` on, up to `limit`; those before are passed over.
Task<Result<void>> VolumeImpl::replay_segment(Replay& part, Sequence& expected, Sequence limit) {
  CO_TRY(co_await store_.prepare_entry(part.id.number));
  if (!store_.has_entry(part.id.number)) {
    SegmentEntry entry;
    entry.epoch = part.id.epoch;
    entry.stream = SegmentStream::main;
    entry.state = SegmentState::open;
    store_.set_entry(part.id.number, entry);
  }
  AlignedBuffer window(kWindowBlocks * kBlockBytes);
  std::uint32_t window_blocks = kWindowBlocks;
  while (part.at < segment_blocks_ && part.next < limit) {
    const std::uint32_t blocks = std::min(window_blocks, segment_blocks_ - part.at);
    const std::span<std::byte> bytes = window.span(0, blocks * kBlockBytes);
    CO_TRY_ASSIGN(const int error, co_await read_log(part, bytes));
    if (error == ENODATA && blocks > 1) {  // a file that is shorter than it should be
      window_blocks = blocks / 2;
      continue;
    }
    if (error == ENODATA) break;
    const std::uint32_t used = co_await replay_window(part, bytes, expected, limit);
    if (used == 0) break;
  }
  co_return Result<void>{};
}

// 0 or ENODATA; what else the storage says ends opening.
Task<Result<int>> VolumeImpl::read_log(const Replay& part, std::span<std::byte> bytes) {
  CO_TRY_ASSIGN(Segment* const segment, co_await store_.acquire(part.id.number));
  const int error =
      co_await FileIo(*segment->file, FileOperation::read, part.at * kBlockBytes, bytes);
  store_.release(*segment);
  if (error == 0 || error == ENODATA) co_return error;
  co_return Error(ErrorCode::path_failure,
                  "the log cannot be read: " + std::string(std::strerror(error)) +
                      "; open the volume again once the storage answers");
}

// Applies the whole records at the start of `bytes`; returns the blocks passed.
Task<std::uint32_t> VolumeImpl::replay_window(Replay& part, std::span<const std::byte> bytes,
                                              Sequence& expected, Sequence limit) {
  std::vector<FoundRecord> found;
  std::uint32_t used = 0;
  const auto window_blocks = static_cast<std::uint32_t>(bytes.size() / kBlockBytes);
  while (used < window_blocks && part.next < limit) {
    const std::span<const std::byte> header = bytes.subspan(used * kBlockBytes, kBlockBytes);
    const std::optional<RecordView> record = RecordView::parse(header);
    if (!record.has_value() || record->kind() != format::RecordKind::write ||
        record->identity() !=
            format::RecordIdentity{id_, part.id.epoch, part.id.number, part.at, part.next}) {
      break;
    }
    const std::uint32_t blocks = 1 + record->payload_blocks();
    if (blocks > window_blocks - used) break;  // read again from here, or cut off by the segment
    const std::span<const std::byte> payload =
        bytes.subspan((used + 1) * kBlockBytes, record->payload_blocks() * kBlockBytes);
    if (!canary::is_on(canary::kIgnoreChecksums) && !record->payload_is_intact(payload)) break;
    durable_ = std::max(durable_, record->durable());
    if (part.next == expected) {
      found.push_back({*record, header.data(), part.at});
      replayed_.push_back({part.id.number, part.at, blocks, expected});
      ++expected.value;
    }
    used += blocks;
    part.at += blocks;
    ++part.next.value;
  }
  co_await apply_found(part.id.number, found);
  statistics_.replayed_records += found.size();
  co_return used;
}

Task<Result<void>> VolumeImpl::make_replayed_durable() {
  std::unique_ptr<File> file;
  SegmentNumber opened;
  for (const ReplayedRecord& record : replayed_) {
    if (record.sequence <= durable_) continue;
    if (opened != record.segment) {
      opened = record.segment;
      file.reset();
      CO_TRY_ASSIGN(file, co_await store_.open_file(record.segment, true));
    }
    AlignedBuffer bytes(record.blocks * kBlockBytes);
    const std::uint64_t offset_bytes = record.block_index * kBlockBytes;
    int error = co_await FileIo(*file, FileOperation::read, offset_bytes, bytes.span());
    const std::span<const std::byte> all = bytes.span();
    const std::optional<RecordView> view = RecordView::parse(all.first(kBlockBytes));
    const bool intact = view.has_value() && view->payload_blocks() + 1 == record.blocks &&
                        view->payload_is_intact(all.subspan(kBlockBytes));
    if (error == 0 && !intact) {
      error = EIO;  // it was intact a moment ago
    }
    if (error == 0) {
      error = co_await FileIo(*file, FileOperation::write, offset_bytes, bytes.span());
    }
    if (error != 0) co_return not_durable(error);
  }
  replayed_.clear();
  for (const auto& [number, unused] : replayed_ends_) {
    CO_TRY_ASSIGN(Segment* const segment, co_await store_.acquire(SegmentNumber{number}));
    const int error =
        co_await FileIo(*segment->file, FileOperation::sync_data, 0, std::span<std::byte>{});
    store_.release(*segment);
    if (error != 0) co_return not_durable(error);
  }
  co_return Result<void>{};
}

// Loads the leaves of all records side by side, then applies the records in order.
Task<void> VolumeImpl::apply_found(SegmentNumber segment, const std::vector<FoundRecord>& found) {
  std::map<std::uint64_t, bool> leaves;  // leaf -> whether to make it
  for (const FoundRecord& record : found) {
    for (std::uint32_t i = 0; i < record.view.extent_count(); ++i) {
      const RecordExtent extent = record.view.extent(i);
      const std::uint64_t last = extent.first_block.value + extent.block_count - 1;
      for (std::uint64_t leaf = extent.first_block.value / kMapEntriesPerPage;
           leaf <= last / kMapEntriesPerPage; ++leaf) {
        leaves[leaf] |= extent.kind != ExtentKind::hole;
      }
    }
  }
  LeafLoads loads;
  loads.leaves.assign(leaves.begin(), leaves.end());
  for (std::size_t lane = 0; lane < kLeafLoadsAtOnce && lane < loads.leaves.size(); ++lane) {
    ++loads.lanes_running;
    tasks_.spawn(load_leaves(&loads));
  }
  while (loads.lanes_running != 0) co_await drained_.wait();

  for (const FoundRecord& record : found) {
    std::uint32_t payload_index = 0;
    for (std::uint32_t i = 0; i < record.view.extent_count(); ++i) {
      const RecordExtent extent = record.view.extent(i);
      const BlockLocation location =
          BlockLocation::at(segment, record.block_index + 1 + payload_index);
      apply_extent(extent, location, record.header, payload_index);
      if (extent.kind == ExtentKind::data) payload_index += extent.block_count;
    }
  }
  for (Page* page : loads.pinned) PagedArray::unpin(*page);
}

Task<void> VolumeImpl::load_leaves(LeafLoads* loads) {
  for (std::size_t count = 1; loads->next < loads->leaves.size(); ++count) {
    // Loads without I/O follow each other at once; builds without optimisation nest them on the
    // stack, so let it unwind now and then.
    if (count % kLeafLoadsAtOnce == 0) co_await sleep_for(executor_, 0ns);
    if (loads->next == loads->leaves.size()) break;
    const auto [leaf, create] = loads->leaves[loads->next++];
    const PagedArray::Lookup found = co_await map_.get(0, leaf, create);
    if (found.outcome != PageOutcome::ready) continue;
    PagedArray::pin(*found.page);
    loads->pinned.push_back(found.page);
  }
  --loads->lanes_running;
  drained_.notify_all();
}

// --- Tidying ---

// What was open when the volume stopped will not be appended to again.
void VolumeImpl::seal_left_open() {
  std::vector<std::pair<SegmentNumber, SegmentEntry>> open;
  store_.for_each_entry([&](SegmentNumber number, const SegmentEntry& entry) {
    if (entry.state == SegmentState::open) open.emplace_back(number, entry);
  });
  for (const auto& [number, entry] : open) {
    std::uint32_t used = 0;
    if (const auto end = replayed_ends_.find(number.value); end != replayed_ends_.end()) {
      used = end->second;
    } else if (number == root_.page_segment) {
      used = root_.page_segment_used_blocks;
    } else if (entry.live_blocks != 0 || store_.is_pinned(number)) {
      used = segment_blocks_;  // a snapshot may still read what is dead here
    }
    store_.seal(number, used);
    if (used < segment_blocks_ && !store_.is_inherited(number) && !store_.is_thick()) {
      trims_.push_back({SegmentId{id_, entry.epoch, number}, used * kBlockBytes});
    }
  }
  replayed_ends_.clear();
}

// Of a flattened clone: those with no segment left that they wrote. All is in its own directory, so
// nobody looks in theirs; but the last one's end is where its own numbers begin.
void VolumeImpl::forget_old_ancestors() {
  if (!root_.parent.is_nil() || root_.lineage.empty()) return;
  std::vector<bool> has_segments(root_.lineage.size());
  has_segments.back() = true;
  store_.for_each_entry([&](SegmentNumber number, const SegmentEntry&) {
    std::size_t i = 0;
    while (i < root_.lineage.size() && number >= root_.lineage[i].end_segment) ++i;
    if (i < root_.lineage.size()) has_segments[i] = true;
  });
  std::vector<format::Ancestor> kept;
  for (std::size_t i = 0; i < root_.lineage.size(); ++i) {
    if (has_segments[i]) kept.push_back(root_.lineage[i]);
  }
  root_.lineage = kept;
  store_.set_lineage(std::move(kept));
}

// Space only; the volume serves already.
Task<void> VolumeImpl::tidy_after_recovery() {
  // What goes here was seen before the first root of this epoch was published, while the fence
  // held: nobody who comes later needs it. Without the fence it is left to whoever opens next.
  if (fence_holds() && root_.parent.is_nil() && !root_.lineage.empty()) {
    const Result<void> unmarked = co_await remove_clone_marks();
    if (!unmarked.ok()) log_warning("volume " + info_.name + ": " + unmarked.error().message());
  }
  if (options_.fence == nullptr) {  // else they went with the epochs before
    const HoldTracker::Call call(hold_, "removal of leftovers");
    co_await pool_.remove_leftovers(id_);
  }
  for (const SegmentId& orphan : orphans_) {
    if (!fence_holds()) break;
    const Result<void> removed = co_await store_.remove_listed(orphan);
    if (!removed.ok()) log_warning("volume " + info_.name + ": " + removed.error().message());
  }
  orphans_.clear();
  for (const auto& [segment, used_bytes] : trims_) {
    if (!store_.has_entry(segment.number) || !fence_holds()) continue;
    const HoldTracker::Call call(hold_, "trimming of a segment");
    const Result<void> trimmed = co_await pool_.trim_segment(segment, used_bytes);
    if (!trimmed.ok()) log_warning("volume " + info_.name + ": " + trimmed.error().message());
  }
  trims_.clear();
  maybe_clean();
}

}  // namespace holdfast
