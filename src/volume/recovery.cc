// SPDX-License-Identifier: Apache-2.0
//
// Recovery: from the newest root and the log behind it to a volume that serves, in a new epoch.
//
// The log of an epoch is a chain of main segments in the order of their numbers. Each begins with a
// record whose sequence says where it takes over: records of an earlier segment with that sequence
// or a later one are superseded (they were written again after a failed sync). Replay goes on while
// the next sequence is found intact, and ends at the first record that is missing or damaged: what
// is restored is a prefix of the log.
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>

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

}  // namespace

// A segment of the chain, from a block on, up to (not including) a sequence.
struct VolumeImpl::Replay {
  SegmentId id;
  std::uint32_t from_block = 0;
  Sequence first;
  Sequence end{~std::uint64_t{0}};
};

// A record found intact, and where its payload is.
struct VolumeImpl::FoundRecord {
  RecordView view;
  const std::byte* header;
};

Task<Result<void>> VolumeImpl::recover(const std::vector<RootId>& roots, MonotonicTime begin) {
  CO_TRY_ASSIGN(std::vector<SegmentId> listed, co_await pool_.list_segments(id_));
  store_.set_listed(listed);
  CO_TRY(co_await store_.load_table(root_.segment_table_top));
  map_.set_top(root_.map_top);
  epoch_ = root_.id.epoch;
  SegmentNumber next = root_.next_segment;
  for (const SegmentId& segment : listed) {
    next = std::max(next, SegmentNumber{segment.number.value + 1});
    epoch_ = std::max(epoch_, segment.epoch);
  }
  for (const RootId& root : roots) {
    epoch_ = std::max(epoch_, root.epoch);
    if (root != root_.id) old_roots_.push_back(root);
  }
  ++epoch_.value;
  store_.set_next_number(next);
  store_.set_epoch(epoch_);

  Sequence expected = root_.position.next_sequence;
  CO_TRY(co_await replay_log(listed, expected));
  seal_left_open();
  for (const SegmentId& segment : listed) {
    if (!store_.has_entry(segment.number)) orphans_.push_back(segment);
  }
  log_.start(epoch_, expected);
  co_await checkpoint_now();  // publishes (epoch, 0): from here on the old epoch's log is sealed
  statistics_.open_time = executor_.now() - begin;
  tasks_.spawn(tidy_after_recovery());
  co_return Result<void>{};
}

// --- The chain ---

Task<Result<std::vector<VolumeImpl::Replay>>> VolumeImpl::find_chain(
    const std::vector<SegmentId>& listed) {
  std::vector<Replay> chain;
  for (const SegmentId& id : listed) {
    if (id.epoch != root_.id.epoch) continue;
    const SegmentEntry entry = store_.entry(id.number);
    if (entry.state != SegmentState::absent && entry.stream != SegmentStream::main) continue;
    Replay part;
    part.id = id;
    if (root_.position.segment == id.number) {
      part.from_block = root_.position.block_index;
      part.first = root_.position.next_sequence;
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
                      "segment " + std::to_string(id.number.value) + " cannot be read: " +
                          std::strerror(error) + "; open the volume again once the storage answers");
    }
    const std::optional<RecordView> record = RecordView::parse(block.span());
    if (!record.has_value()) continue;  // never written, or torn: nothing in it was acknowledged
    part.first = record->identity().sequence;
    if (record->identity() != format::RecordIdentity{id_, id.epoch, id.number, 0, part.first} ||
        part.first < root_.position.next_sequence) {
      continue;
    }
    chain.push_back(part);
  }
  std::sort(chain.begin(), chain.end(),
            [](const Replay& a, const Replay& b) { return a.id.number < b.id.number; });
  for (std::size_t i = chain.size(); i-- > 1;) {
    chain[i - 1].end = std::min(chain[i].first, chain[i].end);
  }
  co_return chain;
}

Task<Result<void>> VolumeImpl::replay_log(const std::vector<SegmentId>& listed,
                                          Sequence& expected) {
  CO_TRY_ASSIGN(std::vector<Replay> chain, co_await find_chain(listed));
  for (Replay& part : chain) {
    if (part.first != expected && part.id.number != root_.position.segment) {
      if (part.first < expected) continue;  // superseded as a whole
      break;                                // a gap: the prefix ends here
    }
    CO_TRY(co_await replay_segment(part, expected));
  }
  co_return Result<void>{};
}

Task<Result<void>> VolumeImpl::replay_segment(Replay& part, Sequence& expected) {
  CO_TRY(co_await store_.prepare_entry(part.id.number));
  if (!store_.has_entry(part.id.number)) {
    SegmentEntry entry;
    entry.epoch = part.id.epoch;
    entry.stream = SegmentStream::main;
    entry.state = SegmentState::open;
    store_.set_entry(part.id.number, entry);
  }
  CO_TRY_ASSIGN(Segment* const segment, co_await store_.acquire(part.id.number));
  AlignedBuffer window(kWindowBlocks * kBlockBytes);
  std::uint32_t at = part.from_block;
  std::uint32_t window_blocks = kWindowBlocks;
  Result<void> result;
  while (at < segment_blocks_ && expected < part.end) {
    const std::uint32_t blocks = std::min(window_blocks, segment_blocks_ - at);
    const std::span<std::byte> bytes = window.span(0, blocks * kBlockBytes);
    const int error =
        co_await FileIo(*segment->file, FileOperation::read, at * kBlockBytes, bytes);
    if (error == ENODATA && blocks > 1) {  // a file that is shorter than it should be
      window_blocks = blocks / 2;
      continue;
    }
    if (error == ENODATA) break;
    if (error != 0) {
      result = Error(ErrorCode::path_failure,
                     "the log cannot be read: " + std::string(std::strerror(error)) +
                         "; open the volume again once the storage answers");
      break;
    }
    const std::uint32_t used = co_await replay_window(part, at, bytes, expected);
    if (used == 0) break;
    at += used;
  }
  store_.release(*segment);
  replayed_ends_[part.id.number.value] = at;
  co_return result;
}

// Applies the whole records at the start of `bytes`; returns the blocks they take.
Task<std::uint32_t> VolumeImpl::replay_window(const Replay& part, std::uint32_t at,
                                              std::span<const std::byte> bytes,
                                              Sequence& expected) {
  std::vector<FoundRecord> found;
  std::uint32_t used = 0;
  const auto window_blocks = static_cast<std::uint32_t>(bytes.size() / kBlockBytes);
  while (used < window_blocks && expected < part.end) {
    const std::span<const std::byte> header = bytes.subspan(used * kBlockBytes, kBlockBytes);
    const std::optional<RecordView> record = RecordView::parse(header);
    if (!record.has_value() ||
        record->identity() != format::RecordIdentity{id_, part.id.epoch, part.id.number,
                                                     at + used, expected}) {
      break;
    }
    const std::uint32_t blocks = 1 + record->payload_blocks();
    if (blocks > window_blocks - used) break;  // read again from here, or cut off by the segment
    const std::span<const std::byte> payload =
        bytes.subspan((used + 1) * kBlockBytes, record->payload_blocks() * kBlockBytes);
    if (!canary::kIgnoreChecksums && !record->payload_is_intact(payload)) break;
    found.push_back({*record, header.data()});
    used += blocks;
    ++expected.value;
  }
  co_await apply_found(part, at, found);
  statistics_.replayed_records += found.size();
  co_return used;
}

// Loads the leaves of all records side by side, then applies the records in order.
Task<void> VolumeImpl::apply_found(const Replay& part, std::uint32_t at,
                                   const std::vector<FoundRecord>& found) {
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

  std::uint32_t block_index = at;
  for (const FoundRecord& record : found) {
    std::uint32_t payload_index = 0;
    for (std::uint32_t i = 0; i < record.view.extent_count(); ++i) {
      const RecordExtent extent = record.view.extent(i);
      const BlockLocation location =
          BlockLocation::at(part.id.number, block_index + 1 + payload_index);
      apply_extent(extent, location, record.header, payload_index);
      if (extent.kind == ExtentKind::data) payload_index += extent.block_count;
    }
    block_index += 1 + record.view.payload_blocks();
  }
  for (Page* page : loads.pinned) PagedArray::unpin(*page);
}

Task<void> VolumeImpl::load_leaves(LeafLoads* loads) {
  while (loads->next < loads->leaves.size()) {
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
    } else if (entry.live_blocks != 0) {
      used = segment_blocks_;
    }
    store_.seal(number, used);
    if (used < segment_blocks_) {
      trims_.push_back({SegmentId{id_, entry.epoch, number}, used * kBlockBytes});
    }
  }
  replayed_ends_.clear();
}

// Space only; the volume serves already.
Task<void> VolumeImpl::tidy_after_recovery() {
  for (const SegmentId& orphan : orphans_) {
    const Result<void> removed = co_await store_.remove_listed(orphan);
    if (!removed.ok()) log_warning("volume " + info_.name + ": " + removed.error().message());
  }
  orphans_.clear();
  for (const auto& [segment, used_bytes] : trims_) {
    if (!store_.has_entry(segment.number)) continue;
    const Result<void> trimmed = co_await pool_.trim_segment(segment, used_bytes);
    if (!trimmed.ok()) log_warning("volume " + info_.name + ": " + trimmed.error().message());
  }
  trims_.clear();
}

}  // namespace holdfast
