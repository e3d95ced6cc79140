// SPDX-License-Identifier: Apache-2.0
//
// Writes, discards and write_zeroes: from the request to the records that hold it, and from an
// appended record to the map.
#include <algorithm>

#include "base/assert.h"
#include "base/crc32c.h"
#include "volume/canary.h"
#include "volume/leaf_walk.h"
#include "volume/volume_impl.h"

namespace holdfast {

using format::BlockLocation;
using format::ExtentKind;
using format::kMapEntriesPerPage;
using format::MapEntry;
using format::RecordExtent;

// --- Starting ---

void VolumeImpl::start_write(BlockRequest& request) {
  if (free_write_ops_.empty()) {
    write_ops_.push_back(std::make_unique<WriteOp>());
    free_write_ops_.push_back(write_ops_.back().get());
  }
  WriteOp& op = *free_write_ops_.back();
  free_write_ops_.pop_back();
  set_stage(request, Stage::writing);
  request.device_state = &op;
  op.volume = this;
  op.request = &request;
  op.status = BlockStatus::ok;
  op.edges_ready = op.placed = op.conflicting = false;
  op.records_pending = 0;
  op.last_sequence = 0;
  op.payload = IovecCursor(request.buffers);
  op.leaf.waiter.on_page = &on_leaf<WriteOp>;
  op.leaf.waiter.context = &op;
  op.leaf.loading = op.leaf.answered = false;
  if (!set_write_range(op)) {  // a discard of less than a block
    free_write_ops_.push_back(&op);
    if (request.force_unit_access) {
      start_flush(request, log_.applied_sequence());
    } else {
      --requests_active_;
      complete_later(request, BlockStatus::ok);
    }
    return;
  }
  op.frees_space = request.operation != BlockOperation::write;
  if (op.frees_space) ++freeing_requests_;
  if (conflicts(op)) {
    op.conflicting = true;
    conflicting_writes_.push_back(op);
    return;
  }
  active_writes_.push_back(op);
  if (op.has_edges()) ++edge_writes_;
  run(op);
}

// Blocks touched. A discard keeps to whole blocks; the others merge partial ones.
bool VolumeImpl::set_write_range(WriteOp& op) {
  const std::uint64_t begin = op.request->offset_bytes;
  const std::uint64_t end = begin + op.request->length_bytes;
  op.head_is_partial = op.tail_is_partial = false;
  if (op.request->operation == BlockOperation::discard) {
    op.first = op.cursor = divide_up(begin, kBlockBytes);
    op.end = end / kBlockBytes;
    // The last block of a volume whose size is not whole blocks goes with its existing bytes.
    if (end == info_.size_bytes) op.end = divide_up(end, kBlockBytes);
    return op.first < op.end;
  }
  op.first = op.cursor = begin / kBlockBytes;
  op.end = divide_up(end, kBlockBytes);
  const bool tail_cut = end % kBlockBytes != 0;
  const bool one_block = op.end - op.first == 1;
  op.head_is_partial = begin % kBlockBytes != 0 || (tail_cut && one_block);
  op.tail_is_partial = tail_cut && !one_block;
  return true;
}

// Whether `op` must wait: merging reads what a write in flight may be changing, and a write must
// not slip under a merge. Rare: only partial blocks conflict.
bool VolumeImpl::conflicts(const WriteOp& op) {
  if (edge_writes_ == 0 && !op.has_edges() && conflicting_writes_.empty()) return false;
  for (WriteOp* other = active_writes_.front(); other != nullptr;
       other = active_writes_.next(*other)) {
    if ((op.has_edges() || other->has_edges()) && op.overlaps(*other)) return true;
  }
  for (WriteOp* other = conflicting_writes_.front(); other != nullptr && other != &op;
       other = conflicting_writes_.next(*other)) {
    if (op.overlaps(*other)) return true;
  }
  return false;
}

void VolumeImpl::run(WriteOp& op) {
  if (op.request == nullptr) return place(op);
  if (op.has_edges() && !op.edges_ready) {
    tasks_.spawn(load_edges(&op));
    return;
  }
  if (must_wait_for_cleaner(op)) {
    wait_for_cleaner(op);
    return;
  }
  run_now(op);
}

void VolumeImpl::run_now(WriteOp& op) {
  if (!room_waiters_.empty()) {
    room_waiters_.push_back(op);
    return;
  }
  place(op);
}

// --- Partial blocks ---

Task<void> VolumeImpl::load_edges(WriteOp* op) {
  if (op->edges.empty()) op->edges = AlignedBuffer(2 * kBlockBytes);
  for (const bool head : {true, false}) {
    if (head ? !op->head_is_partial : !op->tail_is_partial) continue;
    const std::span<std::byte> into = op->edges.span(head ? 0 : kBlockBytes, kBlockBytes);
    const std::uint64_t block = head ? op->first : op->end - 1;
    const BlockStatus status = co_await read_stored_block(block, into);
    if (op->request == nullptr) break;
    if (status != BlockStatus::ok) {
      op->status = status;
      op->end = op->cursor;  // nothing is placed
      break;
    }
    merge_edge(*op, block, into.data());
  }
  op->edges_ready = true;
  run(*op);
}

// Lays the request's bytes over the block's.
void VolumeImpl::merge_edge(WriteOp& op, std::uint64_t block, std::byte* into) {
  const std::uint64_t begin = op.request->offset_bytes;
  const std::uint64_t end = begin + op.request->length_bytes;
  const std::uint64_t from = std::max(begin, block * kBlockBytes);
  const std::uint64_t to = std::min(end, (block + 1) * kBlockBytes);
  IovecCursor source(op.request->buffers);
  if (op.request->operation == BlockOperation::write) {
    source.skip(from - begin);
    source.copy_out(into + (from - block * kBlockBytes), to - from);
  } else {
    std::fill_n(into + (from - block * kBlockBytes), to - from, std::byte{0});
  }
}

// --- Placing blocks into records ---

namespace {

ExtentKind extent_kind(const BlockRequest& request, bool at_edge) {
  if (at_edge || request.operation == BlockOperation::write) return ExtentKind::data;
  const bool keep = request.operation == BlockOperation::write_zeroes && request.keep_allocated;
  return keep ? ExtentKind::zero : ExtentKind::hole;
}

}  // namespace

void VolumeImpl::place(WriteOp& op) {
  for (std::uint32_t leaves = 0; op.cursor < op.end; ++leaves) {
    if (leaves == limits::kLeavesPerTurnMax) {
      executor_.post([this, &op] { place(op); });
      return;
    }
    if (is_crowded()) {
      crowd_waiters_.push_back(op);
      // Pages that records in flight pin are freed by their application instead.
      if (map_.dirty_count() >= limits::kPagesPerVolumeMin / 2) want_checkpoint();
      return;
    }
    const bool at_edge = op.is_at_edge();
    const std::uint64_t span_end = at_edge ? op.cursor + 1 : op.end - (op.tail_is_partial ? 1 : 0);
    const std::uint64_t leaf = op.cursor / kMapEntriesPerPage;
    const std::uint64_t leaf_end = std::min((leaf + 1) * kMapEntriesPerPage, span_end);
    const ExtentKind kind = extent_kind(*op.request, at_edge);
    Page* const page = find_or_load_leaf(op, leaf, kind != ExtentKind::hole);
    if (page == nullptr) {
      if (!op.leaf.answered) return;
      op.leaf.answered = false;
      if (op.leaf.outcome == PageOutcome::absent) {  // holes already
        op.cursor = std::min(map_.absent_until(leaf) * kMapEntriesPerPage, span_end);
        continue;
      }
      op.status = BlockStatus::medium_error;
      op.end = op.cursor;
      break;
    }
    if (!place_some(op, *page, leaf_end - op.cursor, kind)) {
      room_waiters_.push_back(op);
      return;
    }
  }
  op.placed = true;
  if (op.records_pending == 0) finish(op);
}

// Places up to `count` blocks, or as many as one record takes. False: the log has no room now.
bool VolumeImpl::place_some(WriteOp& op, Page& leaf, std::uint64_t count, ExtentKind kind) {
  const BlockNumber first{op.cursor};
  PagedArray::pin(leaf);  // opening a record may seal a segment, which takes a page of memory
  LogRecord* const record = log_.open_record(first);
  if (record == nullptr) {
    PagedArray::unpin(leaf);
    return false;
  }
  if (kind == ExtentKind::data) {
    count = std::min(record->builder.data_room(first, static_cast<std::uint32_t>(count)),
                     record->space.capacity_blocks - 1 - record->builder.payload_blocks());
    record->builder.add_extent({first, static_cast<std::uint32_t>(count), kind});
    copy_payload(op, *record, count);
  } else {
    record->builder.add_extent({first, static_cast<std::uint32_t>(count), kind});
  }
  if (record->pins.empty() || record->pins.back() != &leaf) {
    record->pins.push_back(&leaf);
    ++pinned_by_records_;
    memory_.add_busy(1);
  } else {
    PagedArray::unpin(leaf);
  }
  if (record->writers.empty() || record->writers.back() != &op) {
    record->writers.push_back(&op);
    ++op.records_pending;
  }
  op.last_sequence = record->sequence.value;
  op.request->log_order = (record->sequence.value << 16) | record->writers.size();
  op.cursor += count;
  log_.filled();
  return true;
}

// The one copy of the guest's bytes, with their checksums taken while they are in the cache.
void VolumeImpl::copy_payload(WriteOp& op, LogRecord& record, std::uint64_t count) {
  const std::uint32_t first = record.builder.payload_blocks() - static_cast<std::uint32_t>(count);
  const bool is_write = op.request->operation == BlockOperation::write;
  for (std::uint32_t i = 0; i < count; ++i) {
    std::byte* const into = record.payload(first + i);
    if (!op.is_at_edge()) {
      op.payload.copy_out(into, kBlockBytes);
    } else {
      const bool head = op.cursor == op.first && op.head_is_partial;
      std::copy_n(op.edges.data() + (head ? 0 : kBlockBytes), kBlockBytes, into);
      if (head && is_write) {
        const std::uint64_t begin = op.request->offset_bytes;
        op.payload.skip(std::min((op.first + 1) * kBlockBytes - begin, op.request->length_bytes));
      }
    }
    record.builder.add_checksum(crc32c({into, kBlockBytes}));
  }
}

// --- Applying ---

void VolumeImpl::apply(LogRecord& record) {
  const std::byte* header = record.header();
  std::uint32_t payload_index = 0;
  for (std::uint32_t i = 0; i < record.builder.extent_count(); ++i) {
    const RecordExtent extent = format::record_extent(header, i);
    const BlockLocation location =
        BlockLocation::at(record.segment->number, record.block_index + 1 + payload_index);
    apply_extent(extent, location, header, payload_index);
    if (extent.kind == ExtentKind::data) payload_index += extent.block_count;
  }
  for (Page* page : record.pins) PagedArray::unpin(*page);
  pinned_by_records_ -= record.pins.size();
  memory_.add_busy(-static_cast<std::int64_t>(record.pins.size()));
  record.pins.clear();
  if (!crowd_waiters_.empty() && !is_crowded()) wake_crowded();
  guest_wrote_to_log(record.used_blocks);
  after_activity();
  // A callback may submit, which may fill records, but this one is closed: the list is stable.
  for (WriteOp* op : record.writers) op_done_in_record(*op);
  record.writers.clear();
}

// Map leaves are resident: the record, or recovery, pins them. Recovery leaves out those that are
// damaged, and those that are absent under a hole.
void VolumeImpl::apply_extent(const RecordExtent& extent, BlockLocation location,
                              const std::byte* header, std::uint32_t payload_index) {
  const SegmentNumber own = location.segment();
  const std::uint64_t first = extent.first_block.value;
  const std::uint64_t end = first + extent.block_count;
  SegmentNumber run_segment;
  std::int64_t run_blocks = 0;  // of run_segment, no longer live
  std::int64_t own_blocks = 0;
  for (std::uint64_t block = first; block < end;) {
    const std::uint64_t leaf_number = block / kMapEntriesPerPage;
    const std::uint64_t leaf_end = std::min(end, (leaf_number + 1) * kMapEntriesPerPage);
    Page* const leaf = map_.find_leaf(leaf_number);
    if (leaf == nullptr) {
      block = leaf_end;
      continue;
    }
    std::byte* const image = map_.writable(*leaf);
    for (; block < leaf_end; ++block) {
      std::byte* const at = map_entry_bytes(image, block);
      const BlockLocation old = format::load_map_entry(at).location;
      if (old.is_stored()) {
        if (old.segment() != run_segment) {
          if (run_blocks != 0) store_.add_live(run_segment, -run_blocks);
          run_segment = old.segment();
          run_blocks = 0;
        }
        ++run_blocks;
        if (extent.kind != ExtentKind::data) ++trimmed_blocks_;
      }
      MapEntry entry;
      if (extent.kind == ExtentKind::data) {
        const auto i = static_cast<std::uint32_t>(block - first);
        entry = {BlockLocation{location.raw + i},
                 format::record_checksum(header, payload_index + i)};
        ++own_blocks;
      } else if (extent.kind == ExtentKind::zero) {
        entry.location = BlockLocation::zero();
      }
      format::store_map_entry(at, entry);
    }
  }
  if (own_blocks != 0) store_.add_live(own, own_blocks);
  if (run_blocks != 0) store_.add_live(run_segment, -run_blocks);
}

// A record that had to be written again stands elsewhere now: follow it, where the map still shows
// the old place.
Task<void> VolumeImpl::relocate(LogRecord& record) {
  const std::byte* header = record.header();
  std::uint32_t payload_index = 0;
  for (std::uint32_t i = 0; i < record.builder.extent_count(); ++i) {
    const RecordExtent extent = format::record_extent(header, i);
    if (extent.kind != ExtentKind::data) continue;
    for (std::uint64_t block = extent.first_block.value;
         block < extent.first_block.value + extent.block_count; ++block, ++payload_index) {
      const PagedArray::Lookup found = co_await map_.get(0, leaf_of(block), false);
      if (found.outcome != PageOutcome::ready) continue;
      const auto to =
          BlockLocation::at(record.segment->number, record.block_index + 1 + payload_index);
      move_reference(*found.page, block, BlockLocation{record.old_payload.raw + payload_index}, to);
    }
  }
}

// Makes the map show `to` where it still shows `from`; returns whether it did. A newer version of
// the block is never hidden: nothing suspends between looking and changing.
bool VolumeImpl::move_reference(Page& leaf, std::uint64_t block, BlockLocation from,
                                BlockLocation to) {
  MapEntry entry = map_entry_of(leaf, block);
  const BlockLocation before = entry.location;
  if (before != from && !canary::is_on(canary::kMoveWithoutLooking)) return false;
  entry.location = to;
  format::store_map_entry(map_entry_bytes(map_.writable(leaf), block), entry);
  if (before.is_stored()) store_.add_live(before.segment(), -1);
  store_.add_live(to.segment(), 1);
  return true;
}

// --- Ending ---

void VolumeImpl::op_done_in_record(WriteOp& op) {
  HOLDFAST_ASSERT(op.records_pending > 0);
  if (--op.records_pending == 0 && op.placed) finish(op);
}

void VolumeImpl::finish(WriteOp& op) {
  const bool was_ghost = op.is_ghost();
  const BlockStatus status = op.status;
  if (op.frees_space) --freeing_requests_;
  op.link.unlink();
  if (op.has_edges()) --edge_writes_;
  op.edges = AlignedBuffer();
  const bool applied = op.last_sequence != 0;
  free_write_ops_.push_back(&op);
  if (!conflicting_writes_.empty()) {
    executor_.post([this] { retry_conflicts(); });
  }
  if (op.request == nullptr) {
    --requests_active_;
    if (was_ghost) ghost_ended();
    return operation_ended();
  }
  BlockRequest& request = *op.request;
  if (request.force_unit_access && status == BlockStatus::ok) {
    start_flush(request, log_.applied_sequence());
  } else if (applied) {
    complete(request, status);
  } else {  // never left the caller's stack
    --requests_active_;
    complete_later(request, status);
  }
}

// --- Giving up ---

// What stands in records stays there, in its order. The rest is not written.
void VolumeImpl::give_up(WriteOp& op, BlockStatus status) {
  BlockRequest& request = *op.request;
  op.request = nullptr;
  op.end = op.cursor;
  if (op.is_ghost()) ++ghost_writes_;
  complete_later(request, status);
  if (op.conflicting) {
    op.link.unlink();
    if (op.frees_space) --freeing_requests_;
    free_write_ops_.push_back(&op);
    --requests_active_;
    // Others may have waited for it only.
    if (!conflicting_writes_.empty()) executor_.post([this] { retry_conflicts(); });
  } else if (op.wait_link.is_linked()) {
    op.wait_link.unlink();
    op.placed = true;
    if (op.records_pending == 0) finish(op);
  }
  // Else it goes on by itself: from a page, a merge or a record that it waits for.
}

// Whether a cancelled write that is still on its way into the map touches the range.
bool VolumeImpl::meets_ghost(std::uint64_t offset_bytes, std::uint64_t length_bytes) {
  const std::uint64_t first = offset_bytes / kBlockBytes;
  const std::uint64_t end = divide_up(offset_bytes + length_bytes, kBlockBytes);
  for (WriteOp* op = active_writes_.front(); op != nullptr; op = active_writes_.next(*op)) {
    if (op->is_ghost() && op->first < end && first < op->end) return true;
  }
  return false;
}

void VolumeImpl::ghost_ended() {
  --ghost_writes_;
  List<BlockRequest, &BlockRequest::device_link> ready;
  while (BlockRequest* request = shadowed_reads_.pop_front()) ready.push_back(*request);
  while (BlockRequest* request = ready.pop_front()) start(*request);
}

// Whether writes wait for page memory. A volume always has a few pages, so that others that cannot
// write theirs back do not stop it.
bool VolumeImpl::is_crowded() const {
  return memory_.is_crowded() &&
         map_.dirty_count() + pinned_by_records_ >= limits::kPagesPerVolumeMin;
}

void VolumeImpl::wake_crowded() {
  List<WriteOp, &WriteOp::wait_link> ready;
  while (WriteOp* op = crowd_waiters_.pop_front()) ready.push_back(*op);
  while (WriteOp* op = ready.pop_front()) run_now(*op);
}

void VolumeImpl::retry_conflicts() {
  WriteOp* op = conflicting_writes_.front();
  while (op != nullptr) {
    WriteOp* const next = conflicting_writes_.next(*op);
    if (!conflicts(*op)) {
      op->link.unlink();
      op->conflicting = false;
      active_writes_.push_back(*op);
      if (op->has_edges()) ++edge_writes_;
      run(*op);
    }
    op = next;
  }
}

}  // namespace holdfast
