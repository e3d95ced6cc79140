// SPDX-License-Identifier: Apache-2.0
//
// The main log of a volume: the one order of its writes. Collects writes into records, appends
// records to segments, hands them back for application strictly in order, syncs, and keeps every
// record in memory until it is durable.
//
// A record's life:   open -> queued -> writing -> written -> applied -> (synced) free
//
// Invariants:
//  - Records are applied (their writes acknowledged) in sequence order, each only after its append
//    completed.
//  - Every applied record that is not synced is in memory. When a sync fails, all of them are
//    written again, in place if their segment began with the first of them, else into a new segment
//    (recovery takes the later segment where two claim a sequence), and synced again.
//  - An append is retried with the same bytes at the same place, so one that lands late is
//  harmless. A place that cannot be written for long is given up like a failed sync: all that is
//  not durable goes to a new segment.
//  - Memory is bounded by the ring: when it is full, open_record() says so and a sync is started.
//
// Thread: the executor's.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/limits.h"
#include "base/list.h"
#include "format/record.h"
#include "format/root.h"
#include "io/executor.h"
#include "io/file_system.h"
#include "io/task.h"
#include "volume/place_patience.h"
#include "volume/record_ring.h"
#include "volume/segment_store.h"

namespace holdfast {

struct WriteOp;

struct LogRecord {
  enum class State : std::uint8_t { open, queued, writing, written, applied };

  State state = State::open;
  bool was_applied = false;  // written again after a failed sync
  bool has_place = false;
  bool was_submitted = false;
  bool padded = false;
  RecordRing::Space space;
  format::RecordBuilder builder;
  std::uint32_t used_blocks = 0;  // header and payload, once sealed
  Sequence sequence;
  Segment* segment = nullptr;
  std::uint32_t block_index = 0;      // of the header
  format::BlockLocation old_payload;  // while written again elsewhere: where the map may point
  std::vector<WriteOp*> writers;      // each once
  std::vector<Page*> pins;            // map leaves that apply() modifies
  FileRequest io;
  std::array<iovec, 17> vectors{};
  class MainLog* log = nullptr;
  ListLink link;

  std::byte* header() const { return space.memory; }
  std::byte* payload(std::uint32_t block) const {
    return space.memory + (std::size_t{block} + 1) * kBlockBytes;
  }
};

class MainLogClient {
 public:
  virtual ~MainLogClient() = default;
  // The record's append completed and all before it are applied: update the map, acknowledge.
  virtual void apply(LogRecord& record) = 0;
  // The record was written to another place: move the map's references.
  virtual Task<void> relocate(LogRecord& record) = 0;
  virtual void log_has_room() = 0;
  virtual void log_synced() = 0;  // synced_sequence() has grown
};

class MainLog {
 public:
  struct Options {
    VolumeId volume;
    std::uint32_t segment_blocks = 0;
    std::uint64_t retained_bytes_max = 0;
  };

  MainLog(Executor& executor, SegmentStore& store, HoldTracker& hold, MainLogClient& client,
          Options options);
  ~MainLog();

  // Before the first record: the epoch and the sequence of the first record.
  void start(Epoch epoch, Sequence next);

  // A record with room for at least one payload block and one extent, or null when memory is full;
  // log_has_room() comes then. After filling it call filled().
  LogRecord* open_record(BlockNumber first);
  void filled();

  Sequence applied_sequence() const { return applied_; }
  Sequence synced_sequence() const { return synced_; }
  // Makes everything applied by now durable, then log_synced(). `for_guest`: a flush (not our own
  // need to free memory).
  void request_sync(bool for_guest);

  // Between the two no record is applied; those in flight go on to be written.
  void pause_apply() { apply_paused_ = true; }
  void resume_apply();
  // Where replay has to start so that it finds all that is not applied.
  format::LogPosition position() const;

  // Seals the current segment and drops the spare. Nothing may be in flight.
  void stop();
  bool is_idle() const {
    return active_.empty() && !sync_running_ && !rewinding_ && !spare_in_work_;
  }
  bool everything_synced() const { return retained_.empty() && is_idle(); }
  void shrink_memory() { ring_.shrink(); }
  // After HoldTracker::give_up(): what waits for anything ends; nothing is sent any more.
  void give_up() { changed_.notify_all(); }
  bool has_tasks() const { return !tasks_.empty(); }
  // The bytes of a stored block that is still in memory, or null.
  const std::byte* find_retained(format::BlockLocation location);

  std::uint64_t retained_bytes() const { return ring_.used_blocks() * kBlockBytes; }
  std::uint64_t records_written() const { return records_written_; }
  std::uint64_t bytes_written() const { return bytes_written_; }
  SegmentNumber current_segment() const {
    return current_ == nullptr ? SegmentNumber{} : current_->number;
  }
  std::uint32_t current_used_blocks() const { return next_block_; }
  // Of its segments, still to be written.
  std::uint64_t unwritten_blocks() const {
    return (current_ == nullptr ? 0 : options_.segment_blocks - next_block_) +
           (spare_ == nullptr ? 0 : options_.segment_blocks);
  }

 private:
  static constexpr std::uint32_t kNoRecentFlush = 1u << 30;

  static void on_turn_end(void* context);
  static void on_append(FileRequest& request);
  static void on_sync(FileRequest& request);

  void seal_open_record();
  void pump();
  bool place(LogRecord& record);
  bool roll();
  void want_spare();
  Task<void> create_spare();
  void submit(LogRecord& record);
  std::uint32_t pad_blocks(const LogRecord& record) const;
  Task<void> retry_append(LogRecord* record);
  void give_up_place(LogRecord& record, int error);
  void append_done(LogRecord& record);
  void mark_unsynced(Segment& segment);
  void advance();
  Task<void> relocate_then_advance(LogRecord* record);
  void retain(LogRecord& record);
  void maybe_start_sync();
  void sync_done();
  void free_synced();
  Task<void> rewind();
  void requeue_unsynced(bool elsewhere);
  LogRecord& take_record();
  void recycle(LogRecord& record);

  Executor& executor_;
  SegmentStore& store_;
  HoldTracker& hold_;
  MainLogClient& client_;
  Options options_;
  Epoch epoch_;

  RecordRing ring_;
  std::vector<std::unique_ptr<LogRecord>> all_records_;
  std::vector<LogRecord*> free_records_;
  LogRecord* open_ = nullptr;
  List<LogRecord, &LogRecord::link> active_;    // queued, writing, written: in order
  List<LogRecord, &LogRecord::link> retained_;  // applied, not synced: in order
  LogRecord* next_queued_ = nullptr;            // first of active_ in state queued
  Sequence next_sequence_{1};
  Sequence applied_;
  Sequence synced_;
  std::uint32_t appends_in_flight_ = 0;
  bool barrier_ = false;  // a padded append is in flight: nothing may follow it yet
  bool apply_paused_ = false;
  bool relocating_ = false;
  bool room_wanted_ = false;

  Segment* current_ = nullptr;
  std::uint32_t next_block_ = 0;
  std::uint32_t converted_blocks_ = 0;  // of current_: known to be written extents
  bool current_poisoned_ = false;       // a padded append failed: nothing more goes here
  Segment* spare_ = nullptr;
  bool spare_in_work_ = false;
  bool spare_failed_ = false;  // early; asked for again when it is needed
  bool spare_urgent_ = false;  // a record waits for it

  bool sync_running_ = false;
  bool sync_wanted_ = false;
  bool rewinding_ = false;
  bool moving_ = false;  // the rewind is for a place that cannot be written
  int move_error_ = 0;
  PlacePatience patience_;
  int sync_error_ = 0;
  std::uint32_t syncs_in_flight_ = 0;
  Sequence sync_covers_;
  std::vector<Segment*> unsynced_segments_;  // each once, marked unsynced
  std::vector<Segment*> syncing_segments_;
  std::vector<std::unique_ptr<FileRequest>> sync_requests_;
  std::unique_ptr<HoldTracker::Operation> sync_hold_;
  std::uint32_t appends_since_flush_ = kNoRecentFlush;

  std::uint64_t records_written_ = 0;
  std::uint64_t bytes_written_ = 0;
  Condition changed_;
  Deferred turn_end_;
  TaskScope tasks_;
};

}  // namespace holdfast
