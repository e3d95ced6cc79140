// SPDX-License-Identifier: Apache-2.0
//
// Reads and block status: from the map to verified bytes in the request's memory.
#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/assert.h"
#include "base/crc32c.h"
#include "base/log.h"
#include "io/file_io.h"
#include "volume/canary.h"
#include "volume/leaf_walk.h"
#include "volume/volume_impl.h"

namespace holdfast {

using format::BlockLocation;
using format::kMapEntriesPerPage;
using format::MapEntry;

// --- Walking the map ---

void VolumeImpl::start_read(BlockRequest& request) {
  if (free_read_ops_.empty()) {
    read_ops_.push_back(std::make_unique<ReadOp>());
    free_read_ops_.push_back(read_ops_.back().get());
  }
  ReadOp& op = *free_read_ops_.back();
  free_read_ops_.pop_back();
  set_stage(request, Stage::reading);
  request.device_state = &op;
  op.volume = this;
  op.request = &request;
  op.status = op.cancelled_as = BlockStatus::ok;
  op.cursor = request.offset_bytes;
  op.end = request.offset_bytes + request.length_bytes;
  op.walked = false;
  op.reads_pending = op.direct_reads = 0;
  op.payload = IovecCursor(request.buffers);
  op.leaf.waiter.on_page = &on_leaf<ReadOp>;
  op.leaf.waiter.context = &op;
  op.leaf.loading = op.leaf.answered = false;
  active_reads_.push_back(op);
  run(op);
}

void VolumeImpl::run(ReadOp& op) {
  while (op.cursor < op.end) {
    const std::uint64_t block = op.cursor / kBlockBytes;
    const std::uint64_t leaf = block / kMapEntriesPerPage;
    Page* const page = find_or_load_leaf(op, leaf, false);
    if (page != nullptr) {
      if (!read_run(op, *page, block, (leaf + 1) * kMapEntriesPerPage)) return;
      continue;
    }
    if (!op.leaf.answered) return;
    op.leaf.answered = false;
    std::uint64_t until = (leaf + 1) * kMapEntriesPerPage;
    if (op.leaf.outcome == PageOutcome::absent) {
      until = map_.absent_until(leaf) * kMapEntriesPerPage;
    } else {
      op.status = BlockStatus::medium_error;
    }
    const std::uint64_t to = std::min(op.end, until * kBlockBytes);
    op.payload.fill_zeros(to - op.cursor);
    op.cursor = to;
  }
  op.walked = true;
  maybe_finish(op);
}

// One run of blocks with one answer: zeros, or consecutive places in a segment. False: the
// operation waits and will be run again.
bool VolumeImpl::read_run(ReadOp& op, Page& leaf, std::uint64_t block, std::uint64_t leaf_end) {
  const std::uint64_t blocks_end = std::min(leaf_end, divide_up(op.end, kBlockBytes));
  const MapEntry first = map_entry_of(leaf, block);
  std::uint64_t run_end = block + 1;
  if (!first.location.is_stored()) {
    while (run_end < blocks_end && !map_entry_of(leaf, run_end).location.is_stored()) ++run_end;
    const std::uint64_t to = std::min(op.end, run_end * kBlockBytes);
    op.payload.fill_zeros(to - op.cursor);
    op.cursor = to;
    return true;
  }
  Segment* const segment = store_.try_acquire(first.location.segment());
  if (segment == nullptr) {
    tasks_.spawn(open_segment_then_run(&op, first.location));
    return false;
  }
  DiskRead* const read = take_disk_read();
  if (read == nullptr) {
    store_.release(*segment);
    disk_read_waiters_.push_back(op);
    return false;
  }
  read->operation = &op;
  read->segment = segment;
  read->location = first.location;
  read->first_block = block;
  read->checksums[0] = first.checksum;
  while (run_end < blocks_end && run_end - block < limits::kReadBlocksMax) {
    const MapEntry next = map_entry_of(leaf, run_end);
    if (next.location.raw != first.location.raw + (run_end - block)) break;
    read->checksums[run_end - block] = next.checksum;
    ++run_end;
  }
  read->block_count = static_cast<std::uint32_t>(run_end - block);
  read->skip_bytes = op.cursor - block * kBlockBytes;
  const std::uint64_t to = std::min(op.end, run_end * kBlockBytes);
  read->want_bytes = to - op.cursor;
  read->target = op.payload;
  op.payload.skip(read->want_bytes);
  op.cursor = to;
  ++op.reads_pending;
  submit_disk_read(*read);
  return true;
}

Task<void> VolumeImpl::open_segment_then_run(ReadOp* op, BlockLocation location) {
  Result<Segment*> segment = co_await store_.acquire(location.segment());
  if (segment.ok()) {
    run(*op);
    store_.release(**segment);
    co_return;
  }
  if (op->cancelled_as != BlockStatus::ok) {
    run(*op);
    co_return;
  }
  if (hold_.has_given_up()) {  // nobody is told
    op->status = BlockStatus::medium_error;
    op->end = op->cursor;
    run(*op);
    co_return;
  }
  // It may have been freed while we waited, because the block was written anew.
  const std::uint64_t block = op->cursor / kBlockBytes;
  const PagedArray::Lookup found = co_await map_.get(0, leaf_of(block), false);
  if (op->cancelled_as == BlockStatus::ok && found.outcome == PageOutcome::ready &&
      map_entry_of(*found.page, block).location == location) {
    note_corrupt(location);
    log_error("volume " + info_.name + ": " + segment.error().message());
    op->status = BlockStatus::medium_error;
    const std::uint64_t to = std::min(op->end, (block + 1) * kBlockBytes);
    op->payload.fill_zeros(to - op->cursor);
    op->cursor = to;
  }
  run(*op);
}

void VolumeImpl::maybe_finish(ReadOp& op) {
  if (!op.walked || op.reads_pending != 0) return;
  BlockRequest* const request = op.request;
  const BlockStatus status = op.cancelled_as == BlockStatus::ok ? op.status : op.cancelled_as;
  op.link.unlink();
  free_read_ops_.push_back(&op);
  --requests_active_;
  if (request == nullptr) return operation_ended();
  complete_later(*request, status);
}

// What waits or is tried again goes on without the request; only what the kernel still reads into
// its memory is waited for.
void VolumeImpl::give_up(ReadOp& op, BlockStatus status) {
  if (op.cancelled_as != BlockStatus::ok) return;
  op.cancelled_as = status;
  op.end = op.cursor;
  if (op.direct_reads == 0) let_go(op);
  if (!op.wait_link.is_linked()) return;
  op.wait_link.unlink();
  op.walked = true;
  maybe_finish(op);
}

void VolumeImpl::let_go(ReadOp& op) {
  BlockRequest& request = *op.request;
  op.request = nullptr;
  complete_later(request, op.cancelled_as);
}

// --- Reading and verifying ---

DiskRead* VolumeImpl::take_disk_read() {
  if (free_disk_reads_.empty()) {
    if (disk_reads_.size() >= limits::kVolumeReadsInFlightMax) return nullptr;
    disk_reads_.push_back(std::make_unique<DiskRead>());
    free_disk_reads_.push_back(disk_reads_.back().get());
  }
  DiskRead* const read = free_disk_reads_.back();
  free_disk_reads_.pop_back();
  return read;
}

namespace {

// Fills the read's vectors from its target; false when direct I/O cannot go there.
bool aim_at_target(DiskRead& read) {
  if (read.skip_bytes != 0 || read.want_bytes != read.block_count * kBlockBytes) return false;
  IovecCursor cursor = read.target;
  read.vector_count = 0;
  for (std::uint64_t left = read.want_bytes; left != 0;) {
    if (read.vector_count == limits::kReadVectorsMax) return false;
    const std::span<std::byte> piece = cursor.take(left);
    if (reinterpret_cast<std::uintptr_t>(piece.data()) % kSectorBytes != 0 ||
        piece.size() % kSectorBytes != 0) {
      return false;
    }
    read.vectors[read.vector_count++] = {piece.data(), piece.size()};
    left -= piece.size();
  }
  return true;
}

}  // namespace

void VolumeImpl::submit_disk_read(DiskRead& read) {
  read.bounced = !aim_at_target(read);
  if (read.bounced) {
    read.bounce = AlignedBuffer(read.block_count * kBlockBytes);
    read.vectors[0] = {read.bounce.data(), read.block_count * kBlockBytes};
    read.vector_count = 1;
  }
  if (!read.bounced) ++read.operation->direct_reads;
  // The transfer may modify them.
  std::copy_n(read.vectors.begin(), read.vector_count, read.io_vectors.begin());
  read.io.operation = FileOperation::read;
  read.io.offset_bytes = read.location.block_index() * kBlockBytes;
  read.io.vectors = read.io_vectors.data();
  read.io.vector_count = read.vector_count;
  read.io.on_complete = &VolumeImpl::on_disk_read;
  read.io.context = &read;
  read.segment->file->submit(read.io);
}

void VolumeImpl::on_disk_read(FileRequest& request) {
  auto& read = *static_cast<DiskRead*>(request.context);
  ReadOp& op = *read.operation;
  VolumeImpl& self = *op.volume;
  if (!read.bounced) --op.direct_reads;
  if (op.cancelled_as != BlockStatus::ok) {
    if (op.direct_reads == 0 && op.request != nullptr) self.let_go(op);
    return self.finish_disk_read(read, BlockStatus::ok);
  }
  if (request.error == 0 && self.verify(read)) {
    self.finish_disk_read(read, BlockStatus::ok);
  } else {
    self.tasks_.spawn(self.retry_disk_read(&read));
  }
}

bool VolumeImpl::verify(DiskRead& read) const {
  if (canary::is_on(canary::kIgnoreChecksums)) return true;
  IovecCursor cursor(std::span<const iovec>(read.vectors.data(), read.vector_count));
  for (std::uint32_t i = 0; i < read.block_count; ++i) {
    std::uint32_t crc = 0;
    for (std::size_t left = kBlockBytes; left != 0;) {
      const std::span<std::byte> piece = cursor.take(left);
      crc = crc32c(piece, crc);
      left -= piece.size();
    }
    if (crc != read.checksums[i]) return false;
  }
  return true;
}

// A read that failed, or whose bytes did not verify, block by block into memory of our own (a guest
// may have written to its buffer during the read).
Task<void> VolumeImpl::retry_disk_read(DiskRead* read) {
  if (!read->bounced) {
    read->bounced = true;
    read->bounce = AlignedBuffer(read->block_count * kBlockBytes);
  }
  BlockStatus status = BlockStatus::ok;
  for (std::uint32_t i = 0; i < read->block_count && status == BlockStatus::ok; ++i) {
    if (read->operation->cancelled_as != BlockStatus::ok) break;
    const std::span<std::byte> into = read->bounce.span(i * kBlockBytes, kBlockBytes);
    const MapEntry entry{BlockLocation{read->location.raw + i}, read->checksums[i]};
    status = co_await read_block_again(read->first_block + i, entry, into);
  }
  finish_disk_read(*read, status);
}

// Takes what is not yet durable from memory; waits out path failures; follows a block that has
// moved or was written anew meanwhile. Only what fails its check where the map says it is now is a
// medium error.
Task<BlockStatus> VolumeImpl::read_block_again(std::uint64_t block, MapEntry entry,
                                               std::span<std::byte> into) {
  for (bool looked_elsewhere = false;;) {
    const std::byte* retained = log_.find_retained(entry.location);
    if (retained != nullptr && crc32c({retained, kBlockBytes}) == entry.checksum) {
      std::copy_n(retained, kBlockBytes, into.data());
      co_return BlockStatus::ok;
    }
    const Result<void> read = co_await store_.read_block(entry.location, into);
    if (read.ok() && crc32c(into) == entry.checksum) co_return BlockStatus::ok;
    const PagedArray::Lookup found = co_await map_.get(0, leaf_of(block), false);
    const bool is_damaged = found.outcome == PageOutcome::damaged;
    if (is_damaged || hold_.has_given_up()) co_return BlockStatus::medium_error;
    MapEntry now;  // a hole, where the leaf is absent
    if (found.outcome == PageOutcome::ready) now = map_entry_of(*found.page, block);
    if (now.location == entry.location && !looked_elsewhere) {
      looked_elsewhere = true;
      if (store_.look_elsewhere(entry.location.segment())) continue;
    }
    if (now.location == entry.location) {
      note_corrupt(entry.location);
      co_return BlockStatus::medium_error;
    }
    if (!now.location.is_stored()) {
      std::fill(into.begin(), into.end(), std::byte{0});
      co_return BlockStatus::ok;
    }
    entry = now;
  }
}

void VolumeImpl::finish_disk_read(DiskRead& read, BlockStatus status) {
  ReadOp& op = *read.operation;
  if (op.cancelled_as != BlockStatus::ok) {
    // Nobody wants the bytes, and the memory may not be ours any more.
  } else if (status != BlockStatus::ok) {
    op.status = status;
    read.target.fill_zeros(read.want_bytes);
  } else if (read.bounced) {
    read.target.copy_in(read.bounce.data() + read.skip_bytes, read.want_bytes);
  }
  read.bounce = AlignedBuffer();
  store_.release(*read.segment);
  free_disk_reads_.push_back(&read);
  --op.reads_pending;
  maybe_finish(op);
  while (!disk_read_waiters_.empty() && !free_disk_reads_.empty()) {
    run(*disk_read_waiters_.pop_front());
  }
}

void VolumeImpl::note_corrupt(BlockLocation location) {
  ++statistics_.corrupt_blocks;
  log_error("volume " + info_.name + ": segment " + std::to_string(location.segment().value) +
            " block " + std::to_string(location.block_index()) +
            " does not match its checksum; the blocks concerned are answered with an I/O error. "
            "Check the storage under the pool and restore these blocks from a backup");
}

// One whole block, for merging.
Task<BlockStatus> VolumeImpl::read_stored_block(std::uint64_t block, std::span<std::byte> into) {
  BlockRequest request;
  request.operation = BlockOperation::read;
  request.offset_bytes = block * kBlockBytes;
  request.length_bytes = kBlockBytes;
  const iovec buffer{into.data(), into.size()};
  request.buffers = std::span<const iovec>(&buffer, 1);
  struct Waiter {
    BlockStatus status = BlockStatus::ok;
    std::coroutine_handle<> handle;
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> waiting) { handle = waiting; }
    BlockStatus await_resume() const noexcept { return status; }
  } waiter;
  request.context = &waiter;
  request.on_complete = [](BlockRequest& done, BlockStatus status) {
    auto* self = static_cast<Waiter*>(done.context);
    self->status = status;
    self->handle.resume();
  };
  ++requests_active_;
  start_read(request);  // completes later, never here
  const BlockStatus status = co_await waiter;
  co_return status;
}

// --- Block status ---

Task<Result<std::vector<BlockExtent>>> VolumeImpl::block_status(std::uint64_t offset_bytes,
                                                                std::uint64_t length_bytes,
                                                                std::size_t extents_max) {
  if (length_bytes == 0 || offset_bytes > info_.size_bytes ||
      length_bytes > info_.size_bytes - offset_bytes || extents_max == 0) {
    co_return Error(ErrorCode::invalid_argument, "the range is empty or beyond the volume's end");
  }
  std::vector<BlockExtent> extents;
  if (ghost_writes_ != 0 && meets_ghost(offset_bytes, length_bytes)) {
    extents.push_back({length_bytes, false, false});  // there may be data soon
    co_return extents;
  }
  const std::uint64_t end = offset_bytes + length_bytes;
  // Returns false when the answer is full.
  const auto add = [&](std::uint64_t to, BlockLocation location) {
    const bool hole = location.is_hole();
    const bool zero = !location.is_stored();
    const std::uint64_t bytes = std::min(to, end) - offset_bytes;
    if (!extents.empty() && extents.back().hole == hole && extents.back().zero == zero) {
      extents.back().length_bytes += bytes;
    } else if (extents.size() == extents_max) {
      return false;
    } else {
      extents.push_back({bytes, hole, zero});
    }
    offset_bytes += bytes;
    return true;
  };
  while (offset_bytes < end) {
    std::uint64_t block = offset_bytes / kBlockBytes;
    const std::uint64_t leaf = block / kMapEntriesPerPage;
    const PagedArray::Lookup found = co_await map_.get(0, leaf, false);
    if (found.outcome == PageOutcome::damaged) {
      co_return Error(ErrorCode::corrupt, "a page of the block map is damaged");
    }
    if (found.outcome == PageOutcome::absent) {
      const std::uint64_t until = map_.absent_until(leaf) * kMapEntriesPerPage;
      if (!add(until * kBlockBytes, BlockLocation::hole())) break;
      continue;
    }
    bool full = false;
    for (; block < (leaf + 1) * kMapEntriesPerPage && offset_bytes < end && !full; ++block) {
      full = !add((block + 1) * kBlockBytes, map_entry_of(*found.page, block).location);
    }
    if (full) break;
  }
  co_return extents;
}

}  // namespace holdfast
