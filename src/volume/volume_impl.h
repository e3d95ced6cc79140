// SPDX-License-Identifier: Apache-2.0
//
// Volume's implementation: puts the main log, the map, the segment store and checkpoints together.
// Split over volume.cc (life, admission, flush), write_op.cc, read_op.cc, checkpoint.cc,
// cleaner_schedule.cc, cleaner.cc, snapshot.cc, flatten.cc, diff.cc, recovery.cc, fencing.cc.
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

#include "format/record.h"
#include "format/root.h"
#include "format/snapshot.h"
#include "volume/cleaner_pace.h"
#include "volume/cleaner_turns.h"
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
  bool is_holding() const override { return hold_.state().reason != HoldReason::none; }
  void cancel(BlockRequest& request) override { give_up(request, BlockStatus::cancelled); }
  Task<Result<std::vector<BlockExtent>>> block_status(std::uint64_t offset_bytes,
                                                      std::uint64_t length_bytes,
                                                      std::size_t extents_max) override;
  Task<Result<void>> close() override;
  Task<Result<void>> resize(std::uint64_t size_bytes) override;
  Task<Result<void>> checkpoint() override;
  void fail_held(MonotonicTime submitted_before) override;
  void set_thick(bool thick) override;
  VolumeStatistics statistics() const override;
  void hint_space_is_short(bool is_short) override;
  Task<Result<SnapshotInfo>> create_snapshot(std::string name) override;
  Task<Result<void>> remove_snapshot(std::string name) override;
  Task<Result<void>> rollback(std::string name) override;
  Task<Result<DiffPart>> diff(DiffRequest request) override;
  std::vector<SnapshotInfo> snapshots() const override;
  Task<Result<FlattenPart>> flatten(Duration patience) override;
  Task<Result<void>> pause(Duration patience) override;
  void go_on() override { resume(); }

  // recovery.cc
  // `roots`: all that the pool lists; `begin`: when opening began.
  Task<Result<void>> recover(const std::vector<RootId>& roots, MonotonicTime begin);
  void set_name(const std::string& name);
  const HoldState& hold_state() const { return hold_.state(); }
  // fencing.cc
  bool is_abandoned() const { return abandoned_; }
  Task<void> end_abandoned();
  // snapshot.cc: serves the root given to the constructor, for reading only.
  Task<Result<void>> serve_view();

 private:
  // volume.cc: admission and completion
  // Where a request is; in BlockRequest::device_stage.
  enum class Stage : std::uint8_t {
    pending,   // in pending_
    reading,   // device_state: its ReadOp
    writing,   // device_state: its WriteOp
    shadowed,  // in shadowed_reads_
    flushing,  // in flushes_
    answered,  // in completed_
    fenced,    // in fenced_
  };
  BlockStatus check(const BlockRequest& request) const;
  void start(BlockRequest& request);
  void start_flush(BlockRequest& request, Sequence target);
  void admit_pending();
  void complete(BlockRequest& request, BlockStatus status);
  void answer(BlockRequest& request, BlockStatus status);
  void complete_later(BlockRequest& request, BlockStatus status);
  static void run_completions(void* context);
  std::vector<BlockRequest*> unanswered();
  void give_up(BlockRequest& request, BlockStatus status);
  void operation_ended();
  void count(const BlockRequest& request, BlockStatus status);
  static void set_stage(BlockRequest& request, Stage stage) {
    request.device_stage = static_cast<std::uint8_t>(stage);
  }
  Task<void> quiesce();
  void resume();
  Task<void> close_log();
  Task<void> discard_range(std::uint64_t first_byte, std::uint64_t end_byte);
  template <typename Op>
  static void on_leaf(PageWaiter& waiter, PageOutcome outcome, Page* page);
  // The resident leaf; or null with `op.leaf` telling why: answered, or to be called back.
  template <typename Op>
  Page* find_or_load_leaf(Op& op, std::uint64_t leaf, bool create);

  // fencing.cc
  // Nobody else can own the volume at this moment.
  bool fence_holds() const {
    return options_.fence == nullptr || options_.fence->holds(fence_time());
  }
  BootTime fence_time() const;
  Epoch owner() const { return options_.fence == nullptr ? Epoch{} : epoch_; }
  // Waits while the lease is not renewed. False: it is lost, or the volume is being closed.
  Task<bool> await_fence();
  bool may_answer(const BlockRequest& request, BlockStatus status);
  void hold_back(BlockRequest& request, BlockStatus status);
  static void on_fence_timer(void* context);
  void look_at_fence();
  void answer_fenced();
  void show_fence();
  void abandon();
  Error lost_error() const;

  // write_op.cc
  void start_write(BlockRequest& request);
  bool set_write_range(WriteOp& op);
  bool conflicts(const WriteOp& op);
  void run(WriteOp& op);
  void run_now(WriteOp& op);
  Task<void> load_edges(WriteOp* op);
  void merge_edge(WriteOp& op, std::uint64_t block, std::byte* into);
  void place(WriteOp& op);
  void walk(WriteOp& op) { place(op); }
  bool place_some(WriteOp& op, Page& leaf, std::uint64_t count, format::ExtentKind kind);
  void copy_payload(WriteOp& op, LogRecord& record, std::uint64_t count);
  void op_done_in_record(WriteOp& op);
  void finish(WriteOp& op);
  void give_up(WriteOp& op, BlockStatus status);
  bool meets_ghost(std::uint64_t offset_bytes, std::uint64_t length_bytes);
  void ghost_ended();
  void retry_conflicts();
  bool is_crowded() const;
  void wake_crowded();
  void apply(LogRecord& record) override;
  void apply_extent(const format::RecordExtent& extent, format::BlockLocation location,
                    const std::byte* header, std::uint32_t payload_index);
  Task<void> relocate(LogRecord& record) override;
  bool move_reference(Page& leaf, std::uint64_t block, format::BlockLocation from,
                      format::BlockLocation to);
  void log_has_room() override;
  void log_synced() override;

  // read_op.cc
  void start_read(BlockRequest& request);
  void give_up(ReadOp& op, BlockStatus status);
  void let_go(ReadOp& op);
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
  bool space_is_short() const;
  bool frees_space();
  void free_soon();
  static void on_free_timer(void* context);
  void after_activity();
  static void on_idle_timer(void* context);
  Task<void> release_idle_memory();
  struct SnapshotTaking;
  Task<void> checkpoint_now(SnapshotTaking* taking = nullptr);
  Task<void> checkpoint_once(SnapshotTaking* taking);
  Task<bool> write_flush(Flush& flush);
  void abandon(Flush& flush);
  Task<void> sync_applied();
  std::uint64_t page_room() const;
  std::uint64_t page_room_needed() const;
  Task<void> make_page_room();
  format::BlockLocation take_page_place(Flush& flush, SegmentNumber& filled);
  void assign_page(PagedArray& array, Page& page, Flush& flush);
  void freeze(Flush& flush, SnapshotTaking* taking);
  std::vector<SegmentNumber> take_dead(const format::LogPosition& position);
  Task<void> write_pages(Flush& flush);
  Task<void> write_page_runs(Flush* flush);
  Task<int> sync_pages(Flush& flush);
  Task<bool> publish(const format::Root& root);
  Task<void> remove_dead(std::vector<SegmentNumber> dead);

  // snapshot.cc
  struct TableSum;
  Task<Result<void>> load_snapshots();
  Task<void> publish_snapshot(const format::Root& root, SnapshotTaking* taking);
  Result<const format::Snapshot*> intact_snapshot(const std::string& name) const;
  // Keeps the volume as it is now, in memory only, until forget_kept().
  Task<format::Snapshot> keep_now();
  void forget_kept(SnapshotNumber number);
  Task<void> remove_doubtful_snapshots();
  Task<Result<void>> sum_table(PagedArray* table, std::uint8_t level, std::uint64_t index,
                               TableSum* sum);
  Task<Result<void>> take_back(const format::Root& root);

  // flatten.cc
  Task<Result<FlattenPart>> flatten_some(Duration patience);
  Task<Result<void>> adopt(SegmentNumber number, FlattenPart* part);
  Task<Result<void>> remove_clone_marks();

  // diff.cc
  struct Diff;
  Task<Result<DiffPart>> diff_roots(const format::Root* from, const format::Root* to,
                                    std::uint64_t offset_bytes);
  Task<void> diff_level(Diff* diff);
  Task<void> diff_pages(Diff* diff);

  // cleaner_schedule.cc: when, which, how fast
  struct Cleaning;
  CleanerPace::Share sealed_share() const;
  bool wants_cleaning(std::uint32_t percent) const;
  bool guest_rests() const;
  double scarcity() const;
  void on_scarcity();
  bool has_ended_cleaning() const;
  bool cleaning_is_urgent() const;
  void maybe_clean();
  Task<void> clean();
  Task<void> settle_and_free(Cleaning& cleaning);
  Task<SegmentNumber> next_victim();
  std::uint64_t space_of(const format::SegmentEntry& entry) const;
  bool is_worth_cleaning(SegmentNumber number, const format::SegmentEntry& entry) const;
  Task<void> look_at_pool();
  bool guest_is_busy() const;
  bool cleaner_has_haste() const;
  std::uint32_t cleaner_step_blocks() const;
  Task<void> await_credit(const Cleaning& cleaning, std::uint32_t blocks);
  static void on_clean_timer(void* context);
  void guest_wrote_to_log(std::uint32_t blocks);
  bool must_wait_for_cleaner(const WriteOp& op) const;
  void wait_for_cleaner(WriteOp& op);
  void release_pressed_writes();
  static void on_press_timer(void* context);
  bool has_much_unfreed() const;

  // cleaner.cc: one victim
  Task<bool> clean_segment(Cleaning& cleaning, SegmentNumber victim);
  Task<void> clean_records(Cleaning& cleaning, const format::SegmentEntry& entry);
  Task<void> clean_pages(Cleaning& cleaning, const format::SegmentEntry& entry);
  Task<void> read_window(Cleaning& cleaning, std::uint32_t first, std::uint32_t blocks);
  Task<void> find_live(Cleaning& cleaning, const format::RecordView& record, std::uint32_t at);
  Task<void> take_copy(Cleaning& cleaning, std::uint64_t block, format::MapEntry entry,
                       std::span<const std::byte> bytes);
  Task<bool> make_cold_room(std::uint32_t blocks);
  void seal_cold();
  Task<void> write_copies(Cleaning& cleaning);
  Task<void> write_record(Cleaning* cleaning, std::uint32_t at, std::uint32_t blocks);
  Task<void> settle(Cleaning& cleaning);
  Task<void> sync_copies(Cleaning& cleaning);
  Task<void> move_references(Cleaning& cleaning);
  Task<void> checkpoint_for_room();

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
  Result<void> take_epoch();
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
  void forget_old_ancestors();
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
  List<BlockRequest, &BlockRequest::device_link> shadowed_reads_;  // of what a ghost will write
  List<BlockRequest, &BlockRequest::device_link> fenced_;  // done; wait for the fence to hold
  std::vector<std::unique_ptr<WriteOp>> write_ops_;
  std::vector<WriteOp*> free_write_ops_;
  List<WriteOp, &WriteOp::link> active_writes_;
  List<WriteOp, &WriteOp::link> conflicting_writes_;
  List<WriteOp, &WriteOp::wait_link> room_waiters_;
  List<WriteOp, &WriteOp::wait_link> crowd_waiters_;
  std::uint64_t pinned_by_records_ = 0;  // leaves, counted for each record
  std::size_t edge_writes_ = 0;          // active, with partial blocks
  std::size_t ghost_writes_ = 0;         // active, see WriteOp::is_ghost()
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
  // The fence.
  bool abandoned_ = false;  // its lease is lost, or ran out while it is being closed
  bool wants_close_ = false;
  std::uint64_t fenced_count_ = 0;   // requests in fenced_
  std::uint64_t fence_waiters_ = 0;  // steps of our own that wait
  Timer fence_timer_;

  // Checkpoints.
  bool checkpoint_running_ = false;
  bool checkpoint_wanted_ = false;
  bool has_more_dead_ = false;
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
  PlacePatience page_patience_;
  std::vector<RootId> old_roots_;  // published and superseded, to be removed
  Condition checkpoint_done_;
  Timer idle_timer_;
  // Freeing in haste.
  bool space_is_short_ = false;       // in the pool, whoever waits for it
  std::size_t freeing_requests_ = 0;  // discards and write_zeroes that are started
  std::size_t dead_when_freed_ = 0;   // dead segments that the last checkpoint could not free
  MonotonicTime last_checkpoint_{};   // its end
  Timer free_timer_;
  // Snapshots.
  std::vector<format::Snapshot> snapshots_;  // numbers ascend; damaged ones have no segment size
  SnapshotNumber newest_snapshot_;           // ever taken
  std::vector<SnapshotNumber> doubtful_snapshots_;  // failed, but may be there after a crash
  bool is_view_ = false;                            // of a snapshot: nothing is ever written
  bool rolling_back_ = false;
  bool flattening_ = false;
  bool leaving_parent_ = false;  // the next root names no parent, if nothing foreign is needed
  // The cleaner.
  struct ColdSegment {
    Segment* segment = nullptr;  // null: none is open
    std::uint32_t next_block = 0;
    Sequence sequence;  // of records of copies, for people who read them
  };
  ColdSegment cold_;
  bool serving_ = false;  // recovery is over
  bool has_cold_segments_ = false;
  bool cleaning_ = false;
  bool cleaner_works_ = false;  // neither backs off nor waits for a checkpoint
  CleanerPace pace_;
  std::unique_ptr<CleanerTurns> own_turns_;
  CleanerTurns& turns_;
  double pool_tightness_ = 0;
  std::uint64_t cleaned_garbage_blocks_ = 0;  // in victims, not freed but as good as
  std::uint64_t fruitless_at_ = 0;            // next segment's number when there was no victim
  std::uint64_t dead_after_checkpoint_ = 0;
  std::uint64_t trimmed_blocks_ = 0;           // live before a discard, since the cleaner caught up
  std::vector<SegmentNumber> candidates_;      // the next victims, best last
  std::unordered_set<std::uint64_t> victims_;  // since the last checkpoint
  std::size_t dead_left_ = 0;  // dead segments that the last checkpoint could not free
  std::unordered_set<std::uint64_t> uncleanable_;  // hold damaged blocks
  // Rounds that left pages behind, of segments that are still there.
  std::unordered_map<std::uint64_t, std::uint32_t> page_victim_rounds_;
  List<WriteOp, &WriteOp::wait_link> pressed_writes_;
  Condition credit_earned_;
  Timer clean_timer_;
  Timer press_timer_;
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
