// SPDX-License-Identifier: Apache-2.0
#include "volume/main_log.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/assert.h"
#include "base/log.h"
#include "io/file_io.h"
#include "volume/canary.h"

namespace holdfast {

using format::BlockLocation;
using format::LogPosition;
using format::SegmentStream;

namespace {

// Zeros for padded appends; shared, never written.
constexpr std::size_t kZeroBytes = 64 * kKiB;
std::byte* zeros() {
  static const AlignedBuffer buffer = [] {
    AlignedBuffer made(kZeroBytes);
    std::memset(made.data(), 0, kZeroBytes);
    return made;
  }();
  return buffer.data();
}

constexpr std::uint32_t kRecentFlushAppends = 8;

}  // namespace

MainLog::MainLog(Executor& executor, SegmentStore& store, HoldTracker& hold, MainLogClient& client,
                 Options options)
    : executor_(executor),
      store_(store),
      hold_(hold),
      client_(client),
      options_(options),
      ring_(static_cast<std::uint32_t>(options.retained_bytes_max / kBlockBytes)),
      changed_(executor),
      turn_end_(&MainLog::on_turn_end, this) {}

MainLog::~MainLog() {
  active_.clear();
  retained_.clear();
}

void MainLog::start(Epoch epoch, Sequence next) {
  HOLDFAST_ASSERT(active_.empty() && retained_.empty() && open_ == nullptr);
  epoch_ = epoch;
  next_sequence_ = next;
  applied_ = synced_ = Sequence{next.value - 1};
}

// --- Filling records ---

LogRecord* MainLog::open_record(BlockNumber first) {
  if (open_ != nullptr) {
    const bool memory_left = open_->builder.payload_blocks() + 1 < open_->space.capacity_blocks;
    if (memory_left && open_->builder.data_room(first, 1) != 0 &&
        open_->builder.has_extent_room(first, format::ExtentKind::hole) &&
        open_->pins.size() < limits::kRecordLeavesMax) {
      return open_;
    }
    seal_open_record();
    pump();
  }
  std::uint32_t wanted = 1 + limits::kRecordPayloadBlocksMax;
  if (current_ != nullptr && next_queued_ == nullptr) {
    // Rather a shorter record than an unused end of the segment.
    constexpr std::uint32_t kWorthwhileBlocks = 16;
    const std::uint32_t left = options_.segment_blocks - next_block_;
    if (left >= kWorthwhileBlocks) wanted = std::min(wanted, left);
  }
  const std::optional<RecordRing::Space> space = ring_.peek(2, wanted);
  if (!space.has_value()) {
    room_wanted_ = true;
    maybe_start_sync();
    return nullptr;
  }
  open_ = &take_record();
  open_->space = *space;
  open_->sequence = next_sequence_;
  open_->builder = format::RecordBuilder({space->memory, kBlockBytes});
  return open_;
}

void MainLog::filled() {
  executor_.defer(turn_end_);
}

void MainLog::on_turn_end(void* context) {
  auto* self = static_cast<MainLog*>(context);
  if (self->open_ != nullptr && !self->open_->builder.empty() && self->next_queued_ == nullptr &&
      self->appends_in_flight_ < limits::kAppendsBeforeGathering) {
    self->seal_open_record();
  }
  self->pump();
}

void MainLog::seal_open_record() {
  LogRecord& record = *open_;
  HOLDFAST_ASSERT(!record.builder.empty() && record.sequence == next_sequence_);
  open_ = nullptr;
  record.used_blocks = 1 + record.builder.payload_blocks();
  ring_.commit(record.space, record.used_blocks);
  ++next_sequence_.value;
  record.state = LogRecord::State::queued;
  active_.push_back(record);
  if (next_queued_ == nullptr) next_queued_ = &record;
}

// --- Appending ---

void MainLog::pump() {
  while (next_queued_ != nullptr && !rewinding_ && !barrier_ && !hold_.has_given_up() &&
         appends_in_flight_ < limits::kAppendsInFlightMax) {
    LogRecord& record = *next_queued_;
    if (!record.has_place && !place(record)) return;
    next_queued_ = active_.next(record);
    submit(record);
  }
}

bool MainLog::place(LogRecord& record) {
  const bool fits = current_ != nullptr && !current_poisoned_ &&
                    next_block_ + record.used_blocks <= options_.segment_blocks;
  if (!fits && !roll()) return false;
  record.segment = current_;
  ++current_->users;
  record.block_index = next_block_;
  record.has_place = true;
  if (next_block_ == 0) current_->first_sequence = record.sequence;
  next_block_ += record.used_blocks;
  record.builder.finish(
      {options_.volume, epoch_, current_->number, record.block_index, record.sequence}, synced_);
  if (next_block_ > options_.segment_blocks / 2 && !spare_failed_) want_spare();
  return true;
}

bool MainLog::roll() {
  if (spare_ == nullptr) {
    spare_urgent_ = true;
    want_spare();
    return false;
  }
  if (current_ != nullptr) {
    store_.seal(current_->number, next_block_);
    store_.release(*current_);
  }
  current_ = spare_;
  spare_ = nullptr;
  spare_failed_ = false;
  next_block_ = 0;
  converted_blocks_ = 0;
  current_poisoned_ = false;
  return true;
}

void MainLog::want_spare() {
  if (spare_ != nullptr || spare_in_work_) return;
  spare_in_work_ = true;
  tasks_.spawn(create_spare());
}

Task<void> MainLog::create_spare() {
  // Early, a full pool is nobody's problem yet; once a record waits, it is held.
  Result<Segment*> made = co_await store_.create(SegmentStream::main, spare_urgent_);
  if (!made.ok() && spare_urgent_) made = co_await store_.create(SegmentStream::main, true);
  spare_in_work_ = false;
  if (!made.ok()) {
    spare_failed_ = true;
    if (spare_urgent_ && !hold_.has_given_up())
      log_error("the log cannot go on: " + made.error().message());
    co_return;
  }
  spare_urgent_ = false;
  spare_ = *made;
  pump();
}

std::uint32_t MainLog::pad_blocks(const LogRecord& record) const {
  const std::uint32_t end = record.block_index + record.used_blocks;
  if (appends_since_flush_ > kRecentFlushAppends || record.segment != current_ ||
      end <= converted_blocks_ || !record.segment->file->is_faster_once_written()) {
    return 0;
  }
  return std::min(limits::kZeroAheadBlocks, options_.segment_blocks - end);
}

void MainLog::submit(LogRecord& record) {
  record.state = LogRecord::State::writing;
  ++appends_in_flight_;
  record.vectors[0] = {record.space.memory, record.used_blocks * kBlockBytes};
  std::uint32_t vector_count = 1;
  if (!record.was_submitted) {
    if (appends_since_flush_ < kNoRecentFlush) ++appends_since_flush_;
    const std::uint32_t pad = pad_blocks(record);
    for (std::size_t left = pad * kBlockBytes; left != 0; ++vector_count) {
      const std::size_t bytes = std::min(left, kZeroBytes);
      record.vectors[vector_count] = {zeros(), bytes};
      left -= bytes;
    }
    if (pad != 0) {
      record.padded = true;
      barrier_ = true;
      converted_blocks_ = record.block_index + record.used_blocks + pad;
    }
  }
  record.was_submitted = true;
  record.io.operation = FileOperation::write;
  record.io.offset_bytes = record.block_index * kBlockBytes;
  record.io.vectors = record.vectors.data();
  record.io.vector_count = vector_count;
  record.io.on_complete = &MainLog::on_append;
  record.io.context = &record;
  ++records_written_;
  bytes_written_ += record.used_blocks * kBlockBytes;
  record.segment->file->submit(record.io);
  if (canary::is_on(canary::kAcknowledgeBeforeCompletion) && active_.front() == &record &&
      !apply_paused_ && !record.was_applied && !record.writers.empty()) {
    applied_ = record.sequence;
    client_.apply(record);
    record.was_applied = true;
  }
}

void MainLog::on_append(FileRequest& request) {
  auto& record = *static_cast<LogRecord*>(request.context);
  MainLog& self = *record.log;
  if (request.error == 0) {
    self.append_done(record);
    return;
  }
  if (record.padded && record.segment == self.current_) self.current_poisoned_ = true;
  self.tasks_.spawn(self.retry_append(&record));
}

Task<void> MainLog::retry_append(LogRecord* record) {
  HoldTracker::Operation held(hold_);
  const MonotonicTime began = executor_.now();
  int error = record->io.error;
  while (error != 0) {
    store_.note_failed_write(*record->segment, error);
    const HoldReason reason = never_final(sort_errno(error));
    const std::string detail = std::string("append: ") + std::strerror(error);
    co_await sleep_for(executor_, held.failed(reason, detail));
    if (hold_.has_given_up()) {
      --appends_in_flight_;
      changed_.notify_all();
      co_return;
    }
    // Want of space is no property of the place.
    const bool place_is_bad =
        reason == HoldReason::path && patience_.is_over(executor_.now() - began);
    if (moving_ || place_is_bad) {
      give_up_place(*record, error);
      co_return;
    }
    // Only the record: the zeros behind it may overlap what a late write of theirs would destroy.
    const std::span<std::byte> bytes(record->space.memory, record->used_blocks * kBlockBytes);
    error = co_await FileIo(*record->segment->file, FileOperation::write,
                            record->block_index * kBlockBytes, bytes);
  }
  held.succeeded();
  append_done(*record);
}

// The record, and all that is not durable, is written again from memory as after a failed sync,
// which needs no other rule for recovery: a sequence may stand in several segments. An attempt that
// lands after all, though it was answered with an error, finds its place as it left it: nothing
// else is ever written there.
void MainLog::give_up_place(LogRecord& record, int error) {
  if (!moving_) {
    log_warning("volume " + options_.volume.to_string() + ": segment " +
                std::to_string(record.segment->number.value) + " cannot be written at block " +
                std::to_string(record.block_index) + " (" + std::strerror(error) +
                "); going on in a new segment");
    patience_.gave_up();
  }
  // From here on the rewind holds, without a gap in which nobody seems to wait.
  if (sync_hold_ == nullptr) sync_hold_ = std::make_unique<HoldTracker::Operation>(hold_);
  (void)sync_hold_->failed(HoldReason::path, std::string("append: ") + std::strerror(error));
  moving_ = true;
  move_error_ = error;
  --appends_in_flight_;
  if (record.padded) {
    record.padded = false;
    barrier_ = false;
  }
  if (!rewinding_) {
    rewinding_ = true;
    tasks_.spawn(rewind());
  }
  changed_.notify_all();
}

void MainLog::mark_unsynced(Segment& segment) {
  if (segment.unsynced) return;
  segment.unsynced = true;
  unsynced_segments_.push_back(&segment);
}

void MainLog::append_done(LogRecord& record) {
  --appends_in_flight_;
  if (record.padded) {
    record.padded = false;
    barrier_ = false;
  }
  record.state = LogRecord::State::written;
  patience_.wrote();
  mark_unsynced(*record.segment);
  advance();
  pump();
  if (open_ != nullptr && !open_->builder.empty()) executor_.defer(turn_end_);
  changed_.notify_all();
}

// --- Applying, in order ---

void MainLog::advance() {
  while (LogRecord* record = active_.front()) {
    if (record->state != LogRecord::State::written || relocating_) break;
    if (record->was_applied) {
      if (rewinding_) break;
      if (!record->old_payload.is_hole()) {
        relocating_ = true;
        tasks_.spawn(relocate_then_advance(record));
        break;
      }
      retain(*record);
      continue;
    }
    if (apply_paused_) break;
    applied_ = record->sequence;
    retain(*record);
    client_.apply(*record);
  }
  maybe_start_sync();
}

void MainLog::retain(LogRecord& record) {
  record.link.unlink();
  record.state = LogRecord::State::applied;
  retained_.push_back(record);
}

Task<void> MainLog::relocate_then_advance(LogRecord* record) {
  co_await client_.relocate(*record);
  record->old_payload = BlockLocation::hole();
  relocating_ = false;
  changed_.notify_all();
  advance();
}

void MainLog::resume_apply() {
  apply_paused_ = false;
  advance();
}

LogPosition MainLog::position() const {
  LogPosition here;
  here.next_sequence = Sequence{applied_.value + 1};
  auto* self = const_cast<MainLog*>(this);  // List has no const iteration
  const LogRecord* first = self->active_.front();
  if (first != nullptr && first->has_place) {
    here.segment = first->segment->number;
    here.block_index = first->block_index;
  } else if (current_ != nullptr) {
    here.segment = current_->number;
    here.block_index = next_block_;
  }
  return here;
}

// --- Syncing ---

void MainLog::request_sync(bool for_guest) {
  if (for_guest) appends_since_flush_ = 0;
  if (synced_ == applied_ || (sync_running_ && sync_covers_ == applied_)) return;
  sync_wanted_ = true;
  maybe_start_sync();
}

void MainLog::maybe_start_sync() {
  if (sync_running_ || rewinding_ || retained_.empty() || hold_.has_given_up()) return;
  const bool memory_is_tight =
      room_wanted_ || ring_.used_blocks() * std::uint64_t{2} >= ring_.capacity_blocks();
  if (!sync_wanted_ && !memory_is_tight) return;
  sync_wanted_ = false;
  sync_running_ = true;
  sync_error_ = 0;
  sync_covers_ = retained_.back()->sequence;
  syncing_segments_.swap(unsynced_segments_);
  unsynced_segments_.clear();
  if (canary::is_on(canary::kFlushWithoutSync)) syncing_segments_.clear();
  syncs_in_flight_ = static_cast<std::uint32_t>(syncing_segments_.size()) + 1;
  while (sync_requests_.size() < syncing_segments_.size()) {
    sync_requests_.push_back(std::make_unique<FileRequest>());
  }
  for (std::size_t i = 0; i < syncing_segments_.size(); ++i) {
    syncing_segments_[i]->unsynced = false;
    FileRequest& request = *sync_requests_[i];
    request = FileRequest{};
    request.operation = FileOperation::sync_data;
    request.on_complete = &MainLog::on_sync;
    request.context = this;
    syncing_segments_[i]->file->submit(request);
  }
  // Everything may have been covered by the last sync already; never finished from inside a call.
  executor_.post([this] {
    if (--syncs_in_flight_ == 0) sync_done();
  });
}

void MainLog::on_sync(FileRequest& request) {
  auto& self = *static_cast<MainLog*>(request.context);
  if (request.error != 0) self.sync_error_ = request.error;
  if (--self.syncs_in_flight_ == 0) self.sync_done();
}

void MainLog::sync_done() {
  sync_running_ = false;
  syncing_segments_.clear();
  changed_.notify_all();
  if (sync_error_ != 0) {
    if (!rewinding_) {
      rewinding_ = true;
      tasks_.spawn(rewind());
    }
    return;
  }
  sync_hold_.reset();
  synced_ = sync_covers_;
  free_synced();
  client_.log_synced();
  if (room_wanted_) {
    room_wanted_ = false;
    client_.log_has_room();
  }
  maybe_start_sync();
}

void MainLog::free_synced() {
  while (LogRecord* record = retained_.front()) {
    if (record->sequence > synced_) break;
    record->link.unlink();
    ring_.release_oldest(record->space.offset_blocks, record->used_blocks);
    store_.release(*record->segment);
    recycle(*record);
  }
}

// A failed sync may have lost any unsynced record, and a later sync that succeeds does not bring it
// back. All of them are still in memory: write them again.
Task<void> MainLog::rewind() {
  while ((appends_in_flight_ != 0 || sync_running_ || relocating_) && !hold_.has_given_up()) {
    co_await changed_.wait();
  }
  if (hold_.has_given_up()) co_return;
  if (sync_hold_ == nullptr) sync_hold_ = std::make_unique<HoldTracker::Operation>(hold_);
  const bool elsewhere = std::exchange(moving_, false);
  const int error = elsewhere ? move_error_ : sync_error_;
  const std::string detail =
      (elsewhere ? "append: " : "sync: ") + std::string(std::strerror(error));
  const HoldReason reason = never_final(sort_errno(error));
  co_await sleep_for(executor_, sync_hold_->failed(reason, detail));
  if (hold_.has_given_up()) co_return;
  requeue_unsynced(elsewhere);
  rewinding_ = false;
  sync_wanted_ = true;
  pump();
}

void MainLog::requeue_unsynced(bool elsewhere) {
  List<LogRecord, &LogRecord::link> later;
  while (LogRecord* record = active_.pop_front()) later.push_back(*record);
  while (LogRecord* record = retained_.pop_front()) {
    record->was_applied = true;
    active_.push_back(*record);
  }
  while (LogRecord* record = later.pop_front()) active_.push_back(*record);
  for (Segment* segment : unsynced_segments_) segment->unsynced = false;
  unsynced_segments_.clear();
  next_queued_ = active_.front();
  if (next_queued_ == nullptr) return;

  const LogRecord& first = *next_queued_;
  const bool in_place =
      !elsewhere && first.has_place && first.segment->first_sequence == first.sequence;
  if (!in_place && current_ != nullptr) {
    store_.seal(current_->number, next_block_);
    store_.release(*current_);
    current_ = nullptr;
  }
  for (LogRecord* record = active_.front(); record != nullptr; record = active_.next(*record)) {
    record->state = LogRecord::State::queued;
    if (in_place || !record->has_place) continue;
    if (record->was_applied && record->old_payload.is_hole()) {
      record->old_payload = BlockLocation::at(record->segment->number, record->block_index + 1);
    }
    store_.release(*record->segment);
    record->segment = nullptr;
    record->has_place = false;
    record->was_submitted = false;
  }
}

const std::byte* MainLog::find_retained(BlockLocation location) {
  for (auto* list : {&retained_, &active_}) {
    for (LogRecord* record = list->front(); record != nullptr; record = list->next(*record)) {
      const BlockLocation first =
          !record->old_payload.is_hole() ? record->old_payload
          : record->has_place ? BlockLocation::at(record->segment->number, record->block_index + 1)
                              : BlockLocation::hole();
      if (first.is_hole() || location.raw < first.raw ||
          location.raw >= first.raw + record->used_blocks - 1) {
        continue;
      }
      return record->payload(static_cast<std::uint32_t>(location.raw - first.raw));
    }
  }
  return nullptr;
}

void MainLog::stop() {
  HOLDFAST_ASSERT(is_idle() && (open_ == nullptr || open_->builder.empty()));
  if (current_ != nullptr) {
    store_.seal(current_->number, next_block_);
    store_.release(*current_);
    current_ = nullptr;
  }
  if (spare_ != nullptr) {
    store_.seal(spare_->number, 0);
    store_.release(*spare_);
    spare_ = nullptr;
  }
}

LogRecord& MainLog::take_record() {
  if (free_records_.empty()) {
    all_records_.push_back(std::make_unique<LogRecord>());
    all_records_.back()->log = this;
    free_records_.push_back(all_records_.back().get());
  }
  LogRecord& record = *free_records_.back();
  free_records_.pop_back();
  return record;
}

void MainLog::recycle(LogRecord& record) {
  HOLDFAST_ASSERT(record.writers.empty() && record.pins.empty());
  record.state = LogRecord::State::open;
  record.was_applied = record.has_place = record.was_submitted = record.padded = false;
  record.segment = nullptr;
  record.old_payload = BlockLocation::hole();
  record.used_blocks = 0;
  free_records_.push_back(&record);
}

}  // namespace holdfast
