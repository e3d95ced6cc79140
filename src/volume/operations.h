// SPDX-License-Identifier: Apache-2.0
//
// The objects behind a request inside a volume: small state machines that are taken from a pool and
// given back, so that no guest I/O allocates. Their code is in write_op.cc and read_op.cc.
#pragma once

#include <sys/uio.h>

#include <array>
#include <cstdint>

#include "base/limits.h"
#include "base/list.h"
#include "block/block_device.h"
#include "block/iovec_cursor.h"
#include "io/aligned_buffer.h"
#include "io/file_system.h"
#include "volume/paged_array.h"

namespace holdfast {

class VolumeImpl;
struct Segment;

// What the walk over map leaves of an operation learned from its last load. A load that needs no
// I/O answers inside the call; `loading` tells the two cases apart, so that the walk is a loop and
// not a recursion.
struct LeafWait {
  PageWaiter waiter;
  bool loading = false;   // inside load_leaf()
  bool answered = false;  // the outcome below is for the leaf at the cursor
  PageOutcome outcome = PageOutcome::ready;
};

// A write, discard or write_zeroes.
//   start -> (conflict: wait) -> (partial blocks: read and merge) -> place blocks into records,
//   waiting for map leaves, log memory and page memory -> applied in every record -> (FUA: flush)
struct WriteOp {
  VolumeImpl* volume = nullptr;
  BlockRequest* request = nullptr;  // null: it was cancelled, and places nothing more
  BlockStatus status = BlockStatus::ok;
  std::uint64_t first = 0;   // blocks
  std::uint64_t cursor = 0;  // next block to place
  std::uint64_t end = 0;
  bool head_is_partial = false;
  bool tail_is_partial = false;  // of another block than the head's
  bool edges_ready = false;
  bool placed = false;
  bool conflicting = false;  // waits, not active
  bool frees_space = false;  // no payload: it wants room in the log only to free more
  std::uint32_t records_pending = 0;
  std::uint64_t last_sequence = 0;
  AlignedBuffer edges;  // the merged head block, then the merged tail block
  IovecCursor payload;  // of a write, at the block under the cursor
  LeafWait leaf;
  ListLink link;       // in active or conflicting operations
  ListLink wait_link;  // waiting for log or page memory

  bool has_edges() const { return head_is_partial || tail_is_partial; }
  // Whether the block under the cursor is a merged one.
  bool is_at_edge() const {
    return (head_is_partial && cursor == first) || (tail_is_partial && cursor == end - 1);
  }
  bool overlaps(const WriteOp& other) const { return first < other.end && other.first < end; }
  // Cancelled when some of it stood in the log already: it takes effect once that goes on.
  bool is_ghost() const { return request == nullptr && last_sequence != 0; }
};

// A read: walks the map, one disk read per run of consecutive stored blocks.
struct ReadOp {
  VolumeImpl* volume = nullptr;
  BlockRequest* request = nullptr;  // null: it was cancelled, and its memory is not ours any more
  BlockStatus status = BlockStatus::ok;
  BlockStatus cancelled_as = BlockStatus::ok;  // ok: not
  std::uint64_t cursor = 0;                    // bytes
  std::uint64_t end = 0;
  bool walked = false;
  std::uint32_t reads_pending = 0;
  std::uint32_t direct_reads = 0;  // in the kernel's hands, into the request's memory
  IovecCursor payload;
  LeafWait leaf;
  ListLink link;       // in active operations
  ListLink wait_link;  // waiting for a DiskRead
};

// One disk read of consecutive stored blocks, verified before the guest's request completes.
struct DiskRead {
  ReadOp* operation = nullptr;
  Segment* segment = nullptr;
  format::BlockLocation location;
  std::uint64_t first_block = 0;  // of the volume
  std::uint32_t block_count = 0;
  std::uint64_t skip_bytes = 0;  // of the first block: not asked for
  std::uint64_t want_bytes = 0;
  FileRequest io;
  bool bounced = false;
  AlignedBuffer bounce;
  IovecCursor target;  // the request's memory for the wanted bytes
  std::uint32_t vector_count = 0;
  std::array<iovec, limits::kReadVectorsMax> vectors;
  std::array<iovec, limits::kReadVectorsMax> io_vectors;
  std::array<std::uint32_t, limits::kReadBlocksMax> checksums{};
};

}  // namespace holdfast
