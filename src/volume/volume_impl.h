// SPDX-License-Identifier: Apache-2.0
//
// Volume's implementation: puts the main log, the map, the segment store and checkpoints together.
// Split over volume.cc (life, admission, flush), write_op.cc, read_op.cc, checkpoint.cc,
// recovery.cc.
//
// Memory: everything is bounded by VolumeOptions and limits.h; an idle volume gives its buffers
// back. Thread: the executor's.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "format/root.h"
#include "volume/main_log.h"
#include "volume/operations.h"
#include "volume/page_memory.h"
#include "volume/paged_array.h"
#include "volume/segment_store.h"
#include "volume/volume.h"

namespace holdfast {

class VolumeImpl final : public Volume, private MainLogClient {
 public:
  VolumeImpl(Executor& executor, Pool& pool, VolumeId id, VolumeOptions options,
             const format::Root& root);
  ~VolumeImpl() override;

  const BlockDeviceInfo& info() const override { return info_; }
  void submit(BlockRequest& request) override;
  Task<Result<std::vector<BlockExtent>>> block_status(std::uint64_t offset_bytes,
                                                      std::uint64_t length_bytes,
                                                      std::size_t extents_max) override;
  Task<Result<void>> close() override;
  Task<Result<void>> resize(std::uint64_t size_bytes) override;
  Task<Result<void>> checkpoint() override;
  void set_thick(bool thick) override;
  VolumeStatistics statistics() const override;

  // recovery.cc
  // `roots`: all that the pool lists; `begin`: when opening began.
  Task<Result<void>> recover(const std::vector<RootId>& roots, MonotonicTime begin);
  void set_name(const std::string& name);

 private:
  // volume.cc: admission and completion
  BlockStatus check(const BlockRequest& request) const;
  void start(BlockRequest& request);
  void start_flush(BlockRequest& request, Sequence target);
  void admit_pending();
  void complete(BlockRequest& request, BlockStatus status);
  void complete_later(BlockRequest& request, BlockStatus status);
  static void run_completions(void* context);
  Task<void> quiesce();
  void resume();
  Task<void> discard_range(std::uint64_t first_byte, std::uint64_t end_byte);
  template <typename Op>
  static void on_leaf(PageWaiter& waiter, PageOutcome outcome, Page* page);
  // The resident leaf; or null with `op.leaf` telling why: answered, or to be called back.
  template <typename Op>
  Page* find_or_load_leaf(Op& op, std::uint64_t leaf, bool create);

  // write_op.cc
  void start_write(BlockRequest& request);
  bool set_write_range(WriteOp& op);
  bool conflicts(const WriteOp& op);
  void run(WriteOp& op);
  Task<void> load_edges(WriteOp* op);
  void merge_edge(WriteOp& op, std::uint64_t block, std::byte* into);
  void place(WriteOp& op);
  void walk(WriteOp& op) { place(op); }
  bool place_some(WriteOp& op, Page& leaf, std::uint64_t count, format::ExtentKind kind);
  void copy_payload(WriteOp& op, LogRecord& record, std::uint64_t count);
  void op_done_in_record(WriteOp& op);
  void finish(WriteOp& op);
  void retry_conflicts();
  bool is_crowded() const;
  void wake_crowded();
  void apply(LogRecord& record) override;
  void apply_extent(const format::RecordExtent& extent, format::BlockLocation location,
                    const std::byte* header, std::uint32_t payload_index);
  Task<void> relocate(LogRecord& record) override;
  void log_has_room() override;
  void log_synced() override;

  // read_op.cc
  void start_read(BlockRequest& request);
  void run(ReadOp& op);
  void walk(ReadOp& op) { run(op); }
  bool read_run(ReadOp& op, Page& leaf, std::uint64_t block, std::uint64_t leaf_end);
  Task<void> open_segment_then_run(ReadOp* op, format::BlockLocation location);
  DiskRead* take_disk_read();
  void submit_disk_read(DiskRead& read);
  static void on_disk_read(FileRequest& request);
  bool verify(DiskRead& read) const;
  Task<void> retry_disk_read(DiskRead* read);
  Task<BlockStatus> read_block_again(std::uint64_t block, format::MapEntry entry,
                                     std::span<std::byte> into);
  void finish_disk_read(DiskRead& read, BlockStatus status);
  void maybe_finish(ReadOp& op);
  Task<BlockStatus> read_stored_block(std::uint64_t block, std::span<std::byte> into);
  void note_corrupt(format::BlockLocation location);

  // checkpoint.cc
  struct PageWrite;
  struct Flush;
  void want_checkpoint();
  void after_activity();
  static void on_idle_timer(void* context);
  Task<void> release_idle_memory();
  Task<void> checkpoint_now();
  Task<void> checkpoint_once();
  Task<void> sync_applied();
  std::uint64_t page_room() const;
  std::uint64_t page_room_needed() const;
  Task<void> make_page_room();
  format::BlockLocation take_page_place(Flush& flush, SegmentNumber& filled);
  void assign_page(PagedArray& array, Page& page, Flush& flush);
  void freeze(Flush& flush);
  std::vector<SegmentNumber> take_dead(const format::LogPosition& position);
  Task<void> write_pages(Flush& flush);
  Task<void> write_page_runs(Flush* flush);
  Task<int> sync_pages(Flush& flush);
  Task<void> publish(const format::Root& root);
  Task<void> remove_dead(std::vector<SegmentNumber> dead);

  // cleaner.cc
  struct Cleaning;
  struct Garbage {
    std::uint64_t sealed_blocks = 0;  // of segments with anything live
    std::uint64_t live_blocks = 0;
    SegmentNumber victim;  // 0: none is worth it
    std::uint64_t garbage_blocks() const { return sealed_blocks - live_blocks; }
  };
  Garbage measure_garbage();
  bool wants_cleaning(const Garbage& garbage, std::uint32_t percent) const;
  double urgency(const Garbage& garbage) const;
  bool guest_is_busy() const;
  double scarcity() const;
  void on_scarcity();
  bool has_ended_cleaning() const;
  void maybe_clean();
  Task<void> clean();
  Task<void> pace_cleaning(MonotonicTime began);
  Task<bool> clean_segment(SegmentNumber victim);
  Task<std::uint32_t> gather(Cleaning& cleaning, std::uint32_t at,
                             std::span<const std::byte> bytes);
  Task<format::MapEntry> map_entry(std::uint64_t block);
  Task<void> take_copy(Cleaning& cleaning, std::uint64_t block, format::MapEntry entry,
                       std::span<const std::byte> bytes);
  Task<bool> make_cold_room(std::uint32_t blocks);
  void seal_cold();
  Task<void> write_copies(Cleaning& cleaning);
  Task<void> sync_copies(Cleaning& cleaning);
  Task<void> move_references(Cleaning& cleaning);
  Task<void> dirty_pages(Cleaning& cleaning, std::uint32_t at, std::span<const std::byte> bytes);

  // recovery.cc
  struct Replay;
  struct FoundRecord;
  struct LeafLoads {
    std::vector<std::pair<std::uint64_t, bool>> leaves;  // and whether to make it
    std::size_t next = 0;
    std::size_t lanes_running = 0;
    std::vector<Page*> pinned;
  };
  struct ReplayedRecord {
    SegmentNumber segment;
    std::uint32_t block_index;
    std::uint32_t blocks;
    Sequence sequence;
  };
  struct Trim {
    SegmentId segment;
    std::uint64_t used_bytes;
  };
  Task<Result<void>> replay_log(const std::vector<SegmentId>& listed, Sequence& expected);
  Task<Result<std::vector<Replay>>> find_chain(const std::vector<SegmentId>& listed);
  Task<Result<void>> replay_segment(Replay& part, Sequence& expected, Sequence limit);
  Task<Result<int>> read_log(const Replay& part, std::span<std::byte> bytes);
  Task<std::uint32_t> replay_window(Replay& part, std::span<const std::byte> bytes,
                                    Sequence& expected, Sequence limit);
  Task<Result<void>> make_replayed_durable();
  Task<void> apply_found(SegmentNumber segment, const std::vector<FoundRecord>& found);
  Task<void> load_leaves(LeafLoads* loads);
  void seal_left_open();
  Task<void> tidy_after_recovery();

  Executor& executor_;
  Pool& pool_;
  VolumeId id_;
  VolumeOptions options_;
  BlockDeviceInfo info_;
  format::Root root_;  // the newest published
  std::uint32_t segment_blocks_;
  Epoch epoch_;  // ours

  HoldTracker hold_;
  std::unique_ptr<PageMemory> own_memory_;
  PageMemory& memory_;
  SegmentStore store_;
  PagedArray map_;
  MainLog log_;

  // Requests.
  List<BlockRequest, &BlockRequest::device_link> pending_;    // not started: no slot, or quiesced
  List<BlockRequest, &BlockRequest::device_link> flushes_;    // wait for a sync, targets ascending
  List<BlockRequest, &BlockRequest::device_link> completed_;  // to be answered at the turn's end
  std::vector<std::unique_ptr<WriteOp>> write_ops_;
  std::vector<WriteOp*> free_write_ops_;
  List<WriteOp, &WriteOp::link> active_writes_;
  List<WriteOp, &WriteOp::link> conflicting_writes_;
  List<WriteOp, &WriteOp::wait_link> room_waiters_;
  List<WriteOp, &WriteOp::wait_link> crowd_waiters_;
  std::uint64_t pinned_by_records_ = 0;  // leaves, counted for each record
  std::size_t edge_writes_ = 0;          // active, with partial blocks
  std::vector<std::unique_ptr<ReadOp>> read_ops_;
  std::vector<ReadOp*> free_read_ops_;
  List<ReadOp, &ReadOp::link> active_reads_;
  List<ReadOp, &ReadOp::wait_link> disk_read_waiters_;
  std::vector<std::unique_ptr<DiskRead>> disk_reads_;
  std::vector<DiskRead*> free_disk_reads_;
  std::size_t requests_active_ = 0;
  bool quiesced_ = false;
  bool closing_ = false;
  Condition drained_;
  Deferred completions_;

  // Checkpoints.
  bool checkpoint_running_ = false;
  bool checkpoint_wanted_ = false;
  std::uint64_t checkpoints_done_ = 0;
  std::uint64_t log_bytes_at_checkpoint_ = 0;
  Sequence checkpoint_sequence_;   // applied as of the newest root
  MonotonicTime last_activity_{};  // something was applied
  MonotonicTime last_request_{};   // a request came
  struct PageSegment {
    Segment* segment;
    std::uint32_t next_block;
  };
  std::vector<PageSegment> page_segments_;  // open for pages; the first is being filled
  std::vector<RootId> old_roots_;           // published and superseded, to be removed
  Condition checkpoint_done_;
  Timer idle_timer_;
  // The cleaner.
  struct ColdSegment {
    Segment* segment = nullptr;  // null: none is open
    std::uint32_t next_block = 0;
    Sequence sequence;  // of records of copies, for people who read them
  };
  ColdSegment cold_;
  bool serving_ = false;  // recovery is over
  bool cleaning_ = false;
  bool has_cold_segments_ = false;
  double clean_urgency_ = 0;
  std::uint64_t segments_when_measured_ = 0;
  std::size_t dead_left_ = 0;  // dead segments that the last checkpoint could not free
  std::unordered_set<std::uint64_t> victims_;      // since the last checkpoint
  std::unordered_set<std::uint64_t> uncleanable_;  // hold damaged blocks
  // Recovery: what it replayed, and up to where that is known to be durable.
  std::vector<ReplayedRecord> replayed_;
  Sequence durable_;
  // Found by recovery, to be tidied.
  std::vector<SegmentId> orphans_;
  std::vector<Trim> trims_;
  std::unordered_map<std::uint64_t, std::uint32_t> replayed_ends_;  // segment -> first free block

  VolumeStatistics statistics_;
  TaskScope tasks_;
};

}  // namespace holdfast
