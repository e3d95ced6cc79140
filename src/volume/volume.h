// SPDX-License-Identifier: Apache-2.0
//
// A volume: a virtual disk whose data is a log. See docs/ARCHITECTURE.md for how the parts work
// together and docs/format.md for what is stored.
//
// Thread: the executor's. Owner: host/ (or a test). Lifetime: open() to close(); destroying a
// volume without close() is what a crash does, and loses nothing that was flushed.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/limits.h"
#include "base/result.h"
#include "block/block_device.h"
#include "io/executor.h"
#include "pool/fence.h"
#include "pool/hold.h"
#include "pool/pool.h"

namespace holdfast {

class CleanerTurns;
class PageMemory;

struct VolumeCreateOptions {
  VolumeId id;
  std::string name;
  std::uint64_t size_bytes = 0;  // a multiple of 512
  bool thick = false;
};

struct SnapshotInfo {
  SnapshotNumber number;
  std::string name;  // "#<number>" of one that is damaged
  WallTime created;
  std::uint64_t size_bytes = 0;
  bool is_damaged = false;  // can only be removed
};

struct VolumeCloneOptions {
  VolumeId parent;
  std::string snapshot;
  VolumeId id;
  std::string name;
  // In a shared pool: the ownership of the parent.
  std::shared_ptr<const Fence> fence = nullptr;
};

// What a diff asks, and a part of its answer: the runs of blocks that differ, ascending.
struct DiffRequest {
  std::string snapshot;            // empty: the volume as it is now
  std::string since;               // a snapshot; empty: since it had no content
  std::uint64_t offset_bytes = 0;  // from here on
};
struct DiffExtent {
  std::uint64_t offset_bytes = 0;
  std::uint64_t length_bytes = 0;
  bool is_zero = false;  // reads as zeros now
};
struct DiffPart {
  std::vector<DiffExtent> extents;          // at most limits::kDiffExtentsMax
  std::uint64_t size_bytes = 0;             // of what was asked for
  std::optional<std::uint64_t> next_bytes;  // ask again from here; nothing: that was all
};

// What the segment table of a volume that is not open says.
struct StoredUsage {
  std::uint64_t live_bytes = 0;      // guest blocks, and pages of the map and the segment table
  std::uint64_t own_live_bytes = 0;  // of them, in segments in the volume's own directory
};

// What a part of flattening did, and what is left.
struct FlattenPart {
  std::uint64_t adopted_segments = 0;
  std::uint64_t adopted_bytes = 0;
  std::uint64_t left_segments = 0;
  std::uint64_t left_bytes = 0;
  bool is_done = false;  // the volume reads from no other volume, and has no mark beside any
};

struct VolumeOptions {
  // The page cache shared by the volumes of one executor; it outlives them. Without one the volume
  // has its own of page_cache_bytes.
  PageMemory* page_memory = nullptr;
  std::uint64_t page_cache_bytes = limits::kPageCacheBytesDefault;
  // Shared by the volumes of one executor, and outlives them; without one each has its own.
  CleanerTurns* cleaner_turns = nullptr;
  std::uint64_t checkpoint_log_bytes = limits::kCheckpointLogBytes;
  Duration checkpoint_idle = limits::kCheckpointIdle;
  std::uint64_t retained_bytes_max = limits::kRetainedBytesMax;
  bool read_only = false;
  // The cleaner keeps garbage at about the first of these shares of the sealed segments, in
  // percent; beside an idle guest it goes on until the second. Above 100: it never works.
  std::uint32_t cleaner_start_percent = limits::kCleanerStartPercent;
  std::uint32_t cleaner_stop_percent = limits::kCleanerStopPercent;
  // After trims, when the guest is idle, it works until garbage is at most this.
  std::uint32_t cleaner_idle_percent = limits::kCleanerIdlePercent;
  // In a shared pool: the ownership under which it is opened for writing, whose epoch becomes its
  // own: each opening needs a new one, one that failed too, and that of a new volume one above the
  // epoch that it was created with, which is 1. Without a fence (a local pool, a view) nobody else
  // can be there.
  // While the fence does not hold, requests wait; once it is lost, they wait until they are
  // cancelled or the volume is closed, and commands fail (busy).
  std::shared_ptr<const Fence> fence = nullptr;
  // While the volume is being opened, points to what it is held by; null before and after. The
  // pointer that this points to outlives the opening.
  const HoldState** opening_hold = nullptr;
};

struct VolumeStatistics {
  // Requests completed since open.
  std::uint64_t reads = 0;
  std::uint64_t writes = 0;  // discards and write_zeroes count apart
  std::uint64_t discards = 0;
  std::uint64_t flushes = 0;
  std::uint64_t read_bytes = 0;
  std::uint64_t written_bytes = 0;
  std::uint64_t errors = 0;          // requests answered with anything but ok
  std::uint64_t corrupt_blocks = 0;  // reads of stored bytes that failed their check
  // Space.
  std::uint64_t live_bytes = 0;     // guest blocks, and pages of the map and the segment table
  std::uint64_t segment_bytes = 0;  // allocated to segments
  std::uint64_t segment_count = 0;
  std::uint64_t unwritten_bytes = 0;    // of segments: allocated beforehand, still to be written
  std::uint64_t spare_count = 0;        // thick: segments preallocated and free
  std::uint64_t waits_for_cleaner = 0;  // thick: the log had used up what it may take
  // The log and its checkpoints.
  std::uint64_t epoch = 0;
  std::uint64_t log_sequence = 0;     // records in the main log, ever
  std::uint64_t records_written = 0;  // since open
  std::uint64_t log_bytes_written = 0;
  std::uint64_t checkpoints = 0;
  std::uint64_t replayed_records = 0;  // by this open
  std::uint64_t page_bytes_written = 0;
  // The cleaner, since open.
  std::uint64_t cleaned_segments = 0;
  std::uint64_t moved_blocks = 0;
  std::uint64_t cleaner_bytes_written = 0;
  std::uint64_t cleaner_bytes_read = 0;
  std::uint64_t sealed_bytes = 0;       // segments with anything live that are not written any more
  std::uint64_t sealed_live_bytes = 0;  // of them; the rest is garbage for the cleaner
  std::uint64_t unfreed_bytes = 0;      // nothing is live, to be freed by the next checkpoint
  std::uint64_t delayed_writes = 0;     // by garbage that ran away
  Duration open_time{};
  // Bounded memory.
  std::uint64_t cached_page_bytes = 0;
  std::uint64_t retained_bytes = 0;
  std::uint64_t requests_in_flight = 0;
  HoldState hold;
  bool is_fenced = false;  // another host may own the volume: it is of no use but to be closed
};

class Volume : public BlockDevice {
 public:
  // Makes an empty volume of the given size in the pool. Sizes: limits.h.
  static Task<Result<void>> create(Executor& executor, Pool& pool, VolumeCreateOptions options);
  // Recovers, takes a new epoch, serves. The pool outlives the volume.
  static Task<Result<std::unique_ptr<Volume>>> open(Executor& executor, Pool& pool, VolumeId id,
                                                    VolumeOptions options);
  // The size of a volume that is not open, from its newest root.
  static Task<Result<std::uint64_t>> stored_size_bytes(Pool& pool, VolumeId id);

  // As of its last checkpoint; exact once it was closed. unsupported: the table has more pages than
  // limits::kStoredTablePagesMax.
  static Task<Result<StoredUsage>> stored_usage(Pool& pool, VolumeId id);

  // Stops taking requests (shutting_down), waits for those in flight, checkpoints. Then destroy it.
  // Without its lease: answers all with shutting_down at once, writes nothing, and waits only for
  // what the storage still does with our memory.
  virtual Task<Result<void>> close() = 0;
  // Online; durable when it returns. Shrinking drops what lies beyond.
  virtual Task<Result<void>> resize(std::uint64_t size_bytes) = 0;
  virtual Task<Result<void>> checkpoint() = 0;
  // While it is held: answers the requests that were submitted before with hold_expired.
  virtual void fail_held(MonotonicTime submitted_before) = 0;

  // Snapshots. create: everything acknowledged before the call, durable when it returns; costs a
  // checkpoint. remove: durable when it returns; its space comes back in the background. rollback:
  // the whole content and size; no client may be using the volume.
  virtual Task<Result<SnapshotInfo>> create_snapshot(std::string name) = 0;
  virtual Task<Result<void>> remove_snapshot(std::string name) = 0;
  virtual Task<Result<void>> rollback(std::string name) = 0;
  // In proportion to what differs, not to sizes. Blocks that were written with the same bytes
  // differ, too. corrupt: a page of a map that had to be read is damaged.
  virtual Task<Result<DiffPart>> diff(DiffRequest request) = 0;
  virtual std::vector<SnapshotInfo> snapshots() const = 0;  // in the order they were taken
  // For snapshots of several volumes at one time: from pause() to go_on() no request is admitted,
  // and none is under way. busy: it could not come to rest within `patience`.
  virtual Task<Result<void>> pause(Duration patience) = 0;
  virtual void go_on() = 0;
  // Of a volume that need not be open.
  static Task<Result<std::vector<SnapshotInfo>>> stored_snapshots(Pool& pool, VolumeId id);
  // A snapshot as a volume that is only read; nothing is written to the pool. It must not be
  // removed meanwhile.
  static Task<Result<std::unique_ptr<Volume>>> open_snapshot(Executor& executor, Pool& pool,
                                                             VolumeId id, std::string snapshot,
                                                             VolumeOptions options);
  // The same with a volume as it was closed, while nobody can own it: behind the fence of a lease
  // that it is shared with.
  static Task<Result<std::unique_ptr<Volume>>> open_shared(Executor& executor, Pool& pool,
                                                           VolumeId id, VolumeOptions options);
  // A new volume that begins as the snapshot; in time that does not depend on sizes. The snapshot
  // must not be removed while the pool has a mark of the clone.
  static Task<Result<void>> clone(Executor& executor, Pool& pool, VolumeCloneOptions options);
  // The mark that a clone has beside its parent; nothing for other volumes. From its newest root.
  static Task<Result<std::optional<CloneMark>>> clone_mark(Pool& pool, VolumeId id);
  // Makes a clone independent of its parent, its snapshots too, while it is in use. Works for about
  // `patience`, and a batch of segments at least: to be called until it is done; whatever comes in
  // between, it goes on where it was. Other volumes have nothing to flatten, and are done.
  // no_space: what it copies would reach the reserve. busy: it is being closed, or flattened.
  virtual Task<Result<FlattenPart>> flatten(Duration patience) = 0;
  // What the volume's record says from now on: whether to use spares and to make some of segments
  // that are freed. open() takes it from the record. Preallocating is somebody else's (the host's).
  virtual void set_thick(bool thick) = 0;
  virtual VolumeStatistics statistics() const = 0;
  // Somebody waits for room in the pool: what can be freed should be, soon.
  virtual void hint_space_is_short(bool is_short) = 0;
};

}  // namespace holdfast
