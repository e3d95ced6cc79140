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
//    which needs none of its records for replay, and when no snapshot needs it.
//  - Segments of other volumes (a clone's ancestors') are only read. One that was *adopted* has a
//    file in the volume's own directory and is removed like those that the volume wrote; it may be
//    the same file as the ancestor's, so that nothing is ever written to it or cut off.
//  - Numbers are never reused within a volume.
//  - Of a thick volume a removed segment becomes a spare, once nobody reads it any more, and new
//    segments are made of spares; the last spares are for metadata and the cleaner only. Behind a
//    fence only segments of the own epoch do; in the place of another a new spare is made.
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
#include <unordered_set>
#include <vector>

#include "base/ids.h"
#include "base/limits.h"
#include "base/list.h"
#include "base/result.h"
#include "format/page.h"
#include "format/root.h"
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
  bool retired = false;     // likewise; whoever comes now opens the file again
  Sequence first_sequence;  // main log: of its first record
  bool unsynced = false;    // main log: written since its last good sync
  VolumeId place;           // whose directory the file was opened in
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
  void set_lineage(std::vector<format::Ancestor> lineage);  // after set_listed()
  void set_epoch(Epoch epoch) { epoch_ = epoch; }           // of segments created from now on
  // Other hosts may have owned the volume: their last writes may still be on their way.
  void set_fenced() { is_fenced_ = true; }
  void set_next_number(SegmentNumber next) { next_ = next; }
  SegmentNumber next_number() const { return next_; }

  // Table.
  bool has_entry(SegmentNumber segment);
  format::SegmentEntry entry(SegmentNumber segment);
  void set_entry(SegmentNumber segment, const format::SegmentEntry& entry);
  // The leaf of the table for a number must be resident before set_entry() of a new number.
  Task<Result<void>> prepare_entry(SegmentNumber segment);
  void add_live(SegmentNumber segment, std::int64_t blocks);
  using Visit = std::function<void(SegmentNumber, const format::SegmentEntry&)>;
  void for_each_entry(const Visit& visit);
  // The same in parts: `count` pages from the resident page `first`; returns whether there are
  // more.
  bool for_some_entries(std::size_t first, std::size_t count, const Visit& visit);
  PagedArray& table() { return table_; }
  std::uint64_t table_pages() const { return table_.resident_count(); }
  void for_each_table_page(const std::function<void(format::BlockLocation)>& visit) const;
  std::uint64_t dirty_table_pages() const { return table_.dirty_count(); }
  std::uint64_t live_blocks() const { return live_blocks_; }
  std::uint64_t segment_count() const { return segment_count_; }
  // Sealed segments: blocks of those with anything live, how many of these live, and those without.
  std::uint64_t sealed_blocks() const { return sealed_.blocks; }
  std::uint64_t sealed_live_blocks() const { return sealed_.live_blocks; }
  std::uint64_t dead_segments() const { return sealed_.dead_segments; }
  // Snapshots. A segment without a live block is kept while one that was taken between its creation
  // and its death exists: it may be live in there. `next_segment`: above all that it knows.
  void set_newest_snapshot(SnapshotNumber newest) { newest_snapshot_ = newest; }
  void keep_for(SnapshotNumber snapshot, SegmentNumber next_segment);
  void forget_snapshot(SnapshotNumber snapshot);
  bool is_kept(SegmentNumber number, const format::SegmentEntry& entry) const;
  // Whether it would be kept if its last live block went now.
  bool is_pinned(SegmentNumber number) const {
    return !snapshots_.empty() && number < snapshots_.back().next_segment;
  }
  // Finds what is dead and not kept any more.
  void find_dead();

  // Written by an ancestor.
  bool is_inherited(SegmentNumber number) const {
    return !lineage_.empty() && number < lineage_.back().end_segment;
  }
  // Likewise, and not adopted.
  bool is_foreign(SegmentNumber number) const {
    return is_inherited(number) && !adopted_.contains(number.value);
  }
  // Flattening. Foreign segments with anything live, or that a snapshot needs.
  struct Foreign {
    std::vector<SegmentNumber> first;  // at most as many as asked for
    std::uint64_t segments = 0;        // all
    std::uint64_t bytes = 0;
  };
  Foreign find_foreign(std::size_t count_max);
  // Durable after sync_adopted().
  Task<Result<void>> adopt(SegmentNumber segment);
  Task<Result<void>> sync_adopted();
  // Returns when nobody reads from another volume's directory any more.
  Task<void> leave_other_places();
  // Segments that lost their last live block, or were sealed without one; taken by checkpoints.
  std::vector<SegmentNumber>& dead_candidates() { return dead_candidates_; }

  // Whether a request that frees space waits for the log: then the log may have more of the
  // reserve.
  void set_frees_space(std::function<bool()> frees_space) { frees_space_ = std::move(frees_space); }
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
    // What a snapshot keeps is not reckoned with.
    return thick_.has_value() && snapshots_.empty() &&
           segment_count_ + spares_.size() + taken_.size() >= thick_->segments;
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
  // A write that was answered with an error may still land: the segment never becomes a spare.
  void note_failed_write(const Segment& segment, int error);
  std::uint64_t waits_for_spares() const { return waits_for_spares_; }

  // A handle at once, or null: then acquire(). Each needs a release().
  Segment* try_acquire(SegmentNumber segment);
  Task<Result<Segment*>> acquire(SegmentNumber segment);
  // A file of the caller's own. Waits out unreachable storage and want of file descriptors.
  Task<Result<std::unique_ptr<File>>> open_file(SegmentNumber segment, bool writable);
  void release(Segment& segment);
  // A read failed: a handle may be stale for good (ESTALE, ENODEV) where a new one works. Who has
  // this one keeps it; the next to acquire the segment gets another.
  void retire(Segment& segment);

  Task<Result<void>> read_block(format::BlockLocation location,
                                std::span<std::byte> block) override;
  // Who wrote it, which is what its records and pages say; not where its file is.
  SegmentId segment_id(SegmentNumber segment) const override;
  bool look_elsewhere(SegmentNumber segment) override;

 private:
  static constexpr std::size_t kHandlesMin = 8;
  static constexpr std::size_t kOpensPerGrowth = 64;

  struct Sealed {
    std::uint64_t blocks = 0;
    std::uint64_t live_blocks = 0;
    std::uint64_t dead_segments = 0;
  };
  struct KeptSnapshot {
    SnapshotNumber number;
    SegmentNumber next_segment;
  };

  struct Opened {
    std::unique_ptr<File> file;
    VolumeId place;
  };
  Task<Result<Opened>> open_somewhere(SegmentNumber segment, bool writable);
  Task<Result<Opened>> try_open(SegmentNumber segment, bool writable);
  Task<Result<void>> find_epoch(SegmentNumber segment);
  std::vector<VolumeId> places_of(SegmentNumber segment) const;
  std::size_t owner_index(SegmentNumber segment) const;
  void let_go(Segment& segment);
  Task<Result<void>> adopt_from_any_place(SegmentNumber segment);
  Task<Result<std::unique_ptr<File>>> create_file(SegmentId segment, format::SegmentStream stream);
  Task<void> remove_stray(SpareId spare);
  bool may_recycle(SegmentId segment) const;
  // Before a segment is removed that may not become a spare.
  Task<Result<void>> replace_by_spare();
  Epoch owner() const { return is_fenced_ ? epoch_ : Epoch{}; }
  Task<void> wait_for_spare();
  std::byte* entry_bytes(SegmentNumber segment) const;
  void count_sealed(SegmentNumber number, const format::SegmentEntry& entry, bool add);
  void count_all_sealed();
  std::uint64_t segment_blocks() const;
  bool is_retired(SegmentNumber number) const;
  void set_died(std::byte* entry, SegmentNumber segment);
  Task<Result<void>> load_table_pages(std::uint8_t level, std::uint64_t index);
  SegmentPurpose purpose_of(format::SegmentStream stream) const;
  void trim_handles(std::size_t keep_count);
  void give_up_handles();
  void grow_handles_max();

  Executor& executor_;
  Pool& pool_;
  VolumeId volume_;
  HoldTracker& hold_;
  Epoch epoch_;
  bool is_fenced_ = false;
  SegmentNumber next_{1};
  std::unordered_map<std::uint64_t, Epoch> listed_;          // in the volume's own directory
  std::unordered_map<std::uint64_t, Epoch> foreign_epochs_;  // in ancestors', as far as asked for
  std::vector<format::Ancestor> lineage_;
  std::unordered_set<std::uint64_t> adopted_;
  std::unordered_set<std::uint64_t> unneeded_;  // foreign, dead, and its owner has removed it
  std::unordered_set<std::uint64_t> misled_;    // foreign, and its owner's file is another's by now
  std::vector<VolumeId> last_places_;    // where a segment of that ancestor was found; nil: nowhere
  std::vector<KeptSnapshot> snapshots_;  // both fields ascend
  SnapshotNumber newest_snapshot_;       // ever taken
  std::unordered_map<std::uint64_t, std::unique_ptr<Segment>> open_;
  std::vector<std::unique_ptr<Segment>> retired_;
  std::size_t handles_max_ = limits::kOpenSegmentsMax;  // falls when opening fails
  std::size_t opens_since_growth_ = 0;
  List<Segment, &Segment::lru_link> idle_;  // users == 0, least recently used first
  mutable PagedArray table_;
  std::vector<Page*> pinned_;
  std::uint64_t live_blocks_ = 0;
  std::uint64_t segment_count_ = 0;
  Sealed sealed_;
  std::vector<SegmentNumber> dead_candidates_;
  std::function<bool()> frees_space_;
  std::optional<ThickLayout> thick_;
  std::unordered_set<std::uint64_t> failed_writes_;  // segments with such a write
  std::vector<SpareId> spares_;      // as far as we know: the host makes and removes some too
  std::vector<SpareId> taken_;       // on their way to become segments, and not to be taken again
  std::uint64_t spare_changes_ = 0;  // spares that were taken or came since it was opened
  std::uint64_t waits_for_spares_ = 0;
  std::function<void()> scarce_ = [] {};
};

}  // namespace holdfast
