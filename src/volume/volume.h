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
#include <string>

#include "base/ids.h"
#include "base/limits.h"
#include "base/result.h"
#include "block/block_device.h"
#include "io/executor.h"
#include "pool/hold.h"
#include "pool/pool.h"

namespace holdfast {

class PageMemory;

struct VolumeCreateOptions {
  VolumeId id;
  std::string name;
  std::uint64_t size_bytes = 0;  // a multiple of 512
  bool thick = false;
};

struct VolumeOptions {
  // The page cache shared by the volumes of one executor; it outlives them. Without one the volume
  // has its own of page_cache_bytes.
  PageMemory* page_memory = nullptr;
  std::uint64_t page_cache_bytes = limits::kPageCacheBytesDefault;
  std::uint64_t checkpoint_log_bytes = limits::kCheckpointLogBytes;
  Duration checkpoint_idle = limits::kCheckpointIdle;
  std::uint64_t retained_bytes_max = limits::kRetainedBytesMax;
  bool read_only = false;
  // The cleaner works while garbage is more than this share of the sealed segments, from the first
  // figure until the second. Above 100: never.
  std::uint32_t cleaner_start_percent = limits::kCleanerStartPercent;
  std::uint32_t cleaner_stop_percent = limits::kCleanerStopPercent;
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
  Duration open_time{};
  // Bounded memory.
  std::uint64_t cached_page_bytes = 0;
  std::uint64_t retained_bytes = 0;
  std::uint64_t requests_in_flight = 0;
  HoldState hold;
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

  // Stops taking requests (shutting_down), waits for those in flight, checkpoints. Then destroy it.
  virtual Task<Result<void>> close() = 0;
  // Online; durable when it returns. Shrinking drops what lies beyond.
  virtual Task<Result<void>> resize(std::uint64_t size_bytes) = 0;
  virtual Task<Result<void>> checkpoint() = 0;
  // What the volume's record says from now on: whether to use spares and to make some of segments
  // that are freed. open() takes it from the record. Preallocating is somebody else's (the host's).
  virtual void set_thick(bool thick) = 0;
  virtual VolumeStatistics statistics() const = 0;
};

}  // namespace holdfast
