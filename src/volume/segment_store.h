// SPDX-License-Identifier: Apache-2.0
//
// The segments of one volume: open file handles (bounded, least recently used given up), the
// segment table (what is live where), creating and removing.
//
// Invariants:
//  - Every segment that any stored location names has an entry in the table, with the exact count
//  of
//    live blocks as of the last applied record or assigned page.
//  - A segment is removed only after a root was published in whose table it has no live block, and
//    which needs none of its records for replay.
//  - Numbers are never reused within a volume.
//  - Of a thick volume a removed segment becomes a spare, once nobody reads it any more, and new
//    segments are made of spares; the last spares are for metadata and the cleaner only.
//
// Thread: the executor's. All pages of the table stay resident: 4 KiB per 126 segments.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/ids.h"
#include "base/limits.h"
#include "base/list.h"
#include "base/result.h"
#include "format/page.h"
#include "io/executor.h"
#include "io/file_system.h"
#include "io/task.h"
#include "pool/hold.h"
#include "pool/pool.h"
#include "pool/preallocation.h"
#include "volume/paged_array.h"

namespace holdfast {

// An open segment.
struct Segment {
  SegmentNumber number;
  Epoch epoch;
  std::unique_ptr<File> file;
  std::uint32_t users = 0;  // reads, appends and syncs that need the handle
  bool removed = false;     // closed with its last user
  Sequence first_sequence;  // main log: of its first record
  bool unsynced = false;    // main log: written since its last good sync
  ListLink lru_link;
};

class SegmentStore final : public PageStorage {
 public:
  SegmentStore(Executor& executor, Pool& pool, VolumeId volume, PageMemory& memory,
               HoldTracker& hold);
  ~SegmentStore() override;

  // Recovery: what the pool lists, then the table from its top.
  void set_listed(const std::vector<SegmentId>& segments);
  Task<Result<void>> load_table(format::BlockLocation top);
  void set_epoch(Epoch epoch) { epoch_ = epoch; }  // of segments created from now on
  void set_next_number(SegmentNumber next) { next_ = next; }
  SegmentNumber next_number() const { return next_; }

  // Table.
  bool has_entry(SegmentNumber segment);
  format::SegmentEntry entry(SegmentNumber segment);
  void set_entry(SegmentNumber segment, const format::SegmentEntry& entry);
  // The leaf of the table for a number must be resident before set_entry() of a new number.
  Task<Result<void>> prepare_entry(SegmentNumber segment);
  void add_live(SegmentNumber segment, std::int64_t blocks);
  void for_each_entry(const std::function<void(SegmentNumber, const format::SegmentEntry&)>& visit);
  PagedArray& table() { return table_; }
  std::uint64_t table_pages() const { return table_.resident_count(); }
  std::uint64_t dirty_table_pages() const { return table_.dirty_count(); }
  std::uint64_t live_blocks() const { return live_blocks_; }
  std::uint64_t segment_count() const { return segment_count_; }
  // Segments that lost their last live block, or were sealed without one; taken by checkpoints.
  std::vector<SegmentNumber>& dead_candidates() { return dead_candidates_; }

  // A new segment with its entry (open), its file writable and its name durable. Waits out full and
  // unreachable storage when `hold_errors`, else returns the error.
  Task<Result<Segment*>> create(format::SegmentStream stream, bool hold_errors);
  void seal(SegmentNumber segment, std::uint32_t used_blocks);
  // Removes the file and the entry; a file that is gone already is fine.
  Task<Result<void>> remove(SegmentNumber segment);
  Task<Result<void>> remove_listed(SegmentId segment);  // one without an entry

  // Thick volumes. No layout: thin.
  void set_thick(std::optional<ThickLayout> layout);
  bool is_thick() const { return thick_.has_value(); }
  // Whether all is there that the volume ever needs: from here on nothing waits for the pool.
  bool is_preallocated() const {
    return thick_.has_value() && segment_count_ + spares_.size() >= thick_->segments;
  }
  // Spares that the log may take.
  std::uint64_t free_spares() const {
    const std::uint64_t kept = thick_.has_value() ? thick_->metadata_spares : 0;
    return spares_.size() - std::min<std::uint64_t>(spares_.size(), kept);
  }
  // Called while the log waits for a spare: somebody has to clean.
  void set_scarcity_observer(std::function<void()> observer) { scarce_ = std::move(observer); }
  Task<Result<void>> refresh_spares();
  std::uint64_t spare_count() const { return spares_.size(); }
  SegmentNumber last_spare_number() const;
  std::uint64_t waits_for_spares() const { return waits_for_spares_; }

  // A handle at once, or null: then acquire(). Each needs a release().
  Segment* try_acquire(SegmentNumber segment);
  Task<Result<Segment*>> acquire(SegmentNumber segment);
  // A file of the caller's own. Waits out unreachable storage and want of file descriptors.
  Task<Result<std::unique_ptr<File>>> open_file(SegmentNumber segment, bool writable);
  void release(Segment& segment);

  Task<Result<void>> read_block(format::BlockLocation location,
                                std::span<std::byte> block) override;
  Epoch epoch_of(SegmentNumber segment) const override;

 private:
  static constexpr std::size_t kHandlesMin = 8;
  static constexpr std::size_t kOpensPerGrowth = 64;

  Task<Result<std::unique_ptr<File>>> create_file(SegmentId segment, format::SegmentStream stream);
  Task<void> wait_for_spare();
  std::byte* entry_bytes(SegmentNumber segment) const;
  Task<Result<void>> load_table_pages(std::uint8_t level, std::uint64_t index);
  void trim_handles(std::size_t keep_count);
  void give_up_handles();
  void grow_handles_max();

  Executor& executor_;
  Pool& pool_;
  VolumeId volume_;
  HoldTracker& hold_;
  Epoch epoch_;
  SegmentNumber next_{1};
  std::unordered_map<std::uint64_t, Epoch> listed_;
  std::unordered_map<std::uint64_t, std::unique_ptr<Segment>> open_;
  std::size_t handles_max_ = limits::kOpenSegmentsMax;  // falls when opening fails
  std::size_t opens_since_growth_ = 0;
  List<Segment, &Segment::lru_link> idle_;  // users == 0, least recently used first
  mutable PagedArray table_;
  std::vector<Page*> pinned_;
  std::uint64_t live_blocks_ = 0;
  std::uint64_t segment_count_ = 0;
  std::vector<SegmentNumber> dead_candidates_;
  std::optional<ThickLayout> thick_;
  std::vector<SpareId> spares_;  // as far as we know: the host makes and removes some too
  std::vector<SpareId> taken_;   // on their way to become segments, and not to be taken again
  std::uint64_t waits_for_spares_ = 0;
  std::function<void()> scarce_ = [] {};
};

}  // namespace holdfast
