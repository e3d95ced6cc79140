// SPDX-License-Identifier: Apache-2.0
//
// Life of a volume: admission of requests, completion, flush, resize, close.
#include "volume/volume.h"

#include <algorithm>
#include <string>

#include "base/assert.h"
#include "base/log.h"
#include "volume/stored.h"
#include "volume/volume_impl.h"

namespace holdfast {

using format::kMapEntriesPerPage;

namespace {

void set_state(BlockRequest& request, std::uint64_t value) {
  request.device_state = reinterpret_cast<void*>(static_cast<std::uintptr_t>(value));
}
std::uint64_t get_state(const BlockRequest& request) {
  return static_cast<std::uint64_t>(reinterpret_cast<std::uintptr_t>(request.device_state));
}

}  // namespace

VolumeImpl::VolumeImpl(Executor& executor, Pool& pool, VolumeId id, VolumeOptions options,
                       const format::Root& root)
    : executor_(executor),
      pool_(pool),
      id_(id),
      options_(options),
      root_(root),
      segment_blocks_(static_cast<std::uint32_t>(root.segment_bytes / kBlockBytes)),
      hold_(executor),
      own_memory_(options.page_memory == nullptr
                      ? std::make_unique<PageMemory>(options.page_cache_bytes)
                      : nullptr),
      memory_(options.page_memory == nullptr ? *own_memory_ : *options.page_memory),
      store_(executor, pool, id, memory_, hold_),
      map_(format::ArrayKind::map, id, memory_, store_),
      log_(executor, store_, hold_, *this,
           MainLog::Options{id, segment_blocks_, options.retained_bytes_max}),
      drained_(executor),
      completions_(&VolumeImpl::run_completions, this),
      fence_timer_(&VolumeImpl::on_fence_timer, this),
      checkpoint_done_(executor),
      idle_timer_(&VolumeImpl::on_idle_timer, this),
      free_timer_(&VolumeImpl::on_free_timer, this),
      pace_({options.cleaner_start_percent, options.cleaner_stop_percent}),
      own_turns_(options.cleaner_turns == nullptr ? std::make_unique<CleanerTurns>() : nullptr),
      turns_(options.cleaner_turns == nullptr ? *own_turns_ : *options.cleaner_turns),
      credit_earned_(executor),
      clean_timer_(&VolumeImpl::on_clean_timer, this),
      press_timer_(&VolumeImpl::on_press_timer, this) {
  info_.id = id;
  info_.size_bytes = root.size_bytes;
  info_.read_only = options.read_only;
  hold_.set_observer([this] {
    free_soon();
    maybe_clean();
  });
  store_.set_frees_space([this] { return frees_space(); });
  store_.set_scarcity_observer([this] { on_scarcity(); });
}

VolumeImpl::~VolumeImpl() {
  // Requests that a crash leaves behind are not ours to touch; only our links are.
  hold_.forget_in_flight();
  pending_.clear();
  flushes_.clear();
  completed_.clear();
  shadowed_reads_.clear();
  fenced_.clear();
  active_writes_.clear();
  conflicting_writes_.clear();
  active_reads_.clear();
  memory_.add_busy(-static_cast<std::int64_t>(pinned_by_records_));
  for (const auto& op : write_ops_) op->leaf.waiter.link.unlink();
  for (const auto& op : read_ops_) op->leaf.waiter.link.unlink();
}

void VolumeImpl::set_name(const std::string& name) {
  info_.name = name;
  hold_.set_name(name);
}

// --- Admission ---

void VolumeImpl::submit(BlockRequest& request) {
  last_request_ = request.device_submitted = executor_.now();
  if (options_.fence != nullptr && !abandoned_ && options_.fence->is_lost()) abandon();
  const BlockStatus status = check(request);
  if (status != BlockStatus::ok) {
    complete_later(request, status);
  } else if (request.length_bytes == 0 && request.operation != BlockOperation::flush) {
    complete_later(request, BlockStatus::ok);
  } else if (quiesced_ || abandoned_ || !pending_.empty() ||
             requests_active_ >= limits::kVolumeRequestsMax) {
    set_stage(request, Stage::pending);
    pending_.push_back(request);
  } else {
    ++requests_active_;
    start(request);
  }
}

BlockStatus VolumeImpl::check(const BlockRequest& request) const {
  if (closing_) return BlockStatus::shutting_down;
  if (request.operation == BlockOperation::flush) return BlockStatus::ok;
  if (request.offset_bytes > info_.size_bytes ||
      request.length_bytes > info_.size_bytes - request.offset_bytes) {
    return BlockStatus::out_of_range;
  }
  if (info_.read_only && request.operation != BlockOperation::read) return BlockStatus::read_only;
  return BlockStatus::ok;
}

void VolumeImpl::start(BlockRequest& request) {
  switch (request.operation) {
    case BlockOperation::read:
      // What a cancelled write leaves is seen by nobody before it is there for good.
      if (ghost_writes_ != 0 && meets_ghost(request.offset_bytes, request.length_bytes)) {
        set_stage(request, Stage::shadowed);
        shadowed_reads_.push_back(request);
        return;
      }
      start_read(request);
      return;
    case BlockOperation::flush:
      start_flush(request, log_.applied_sequence());
      return;
    case BlockOperation::write:
    case BlockOperation::discard:
    case BlockOperation::write_zeroes:
      start_write(request);
      return;
  }
}

void VolumeImpl::admit_pending() {
  while (!quiesced_ && !abandoned_ && !pending_.empty() &&
         requests_active_ < limits::kVolumeRequestsMax) {
    BlockRequest& request = *pending_.pop_front();
    const BlockStatus status = check(request);  // the size may have changed meanwhile
    if (status != BlockStatus::ok) {
      complete_later(request, status);
      continue;
    }
    ++requests_active_;
    start(request);
  }
}

// --- Completion ---

// The end of a started request. May be called only where no caller is inside submit(). The request
// counts as active until its callback has returned, so a close() that the callback begins ends
// after that, and whoever waits for it may destroy the volume.
void VolumeImpl::complete(BlockRequest& request, BlockStatus status) {
  if (options_.fence == nullptr || may_answer(request, status)) return answer(request, status);
  if (abandoned_ && wants_close_) return answer(request, BlockStatus::shutting_down);
  hold_back(request, status);
}

void VolumeImpl::answer(BlockRequest& request, BlockStatus status) {
  if (status != BlockStatus::cancelled) count(request, status);
  request.on_complete(request, status);
  --requests_active_;
  operation_ended();
}

void VolumeImpl::count(const BlockRequest& request, BlockStatus status) {
  if (status != BlockStatus::ok) ++statistics_.errors;
  switch (request.operation) {
    case BlockOperation::read:
      ++statistics_.reads;
      statistics_.read_bytes += request.length_bytes;
      break;
    case BlockOperation::write:
      ++statistics_.writes;
      statistics_.written_bytes += request.length_bytes;
      break;
    case BlockOperation::flush:
      ++statistics_.flushes;
      break;
    case BlockOperation::discard:
    case BlockOperation::write_zeroes:
      ++statistics_.discards;
      break;
  }
}

void VolumeImpl::operation_ended() {
  if (!pending_.empty()) admit_pending();
  if (requests_active_ == 0) drained_.notify_all();
}

void VolumeImpl::complete_later(BlockRequest& request, BlockStatus status) {
  set_stage(request, Stage::answered);
  set_state(request, static_cast<std::uint64_t>(status));
  completed_.push_back(request);
  executor_.defer(completions_);
}

void VolumeImpl::run_completions(void* context) {
  auto* self = static_cast<VolumeImpl*>(context);
  List<BlockRequest, &BlockRequest::device_link> ready;
  while (BlockRequest* request = self->completed_.pop_front()) {
    ready.push_back(*request);
    ++self->requests_active_;  // complete() counts it as started
  }
  while (BlockRequest* request = ready.pop_front()) {
    self->complete(*request, static_cast<BlockStatus>(get_state(*request)));
  }
}

// --- Giving up ---

// Answers a request whatever becomes of the operation behind it, which goes on being counted as
// active until it ends.
void VolumeImpl::give_up(BlockRequest& request, BlockStatus status) {
  switch (static_cast<Stage>(request.device_stage)) {
    case Stage::pending:
      request.device_link.unlink();
      return complete_later(request, status);
    case Stage::shadowed:
    case Stage::flushing:
      request.device_link.unlink();
      --requests_active_;
      return complete_later(request, status);
    case Stage::reading:
      return give_up(*static_cast<ReadOp*>(request.device_state), status);
    case Stage::writing:
      return give_up(*static_cast<WriteOp*>(request.device_state), status);
    case Stage::answered:
      return;
    case Stage::fenced:
      request.device_link.unlink();
      --fenced_count_;
      --requests_active_;
      return complete_later(request, status);
  }
}

// That are not answered yet, whatever has become of them.
std::vector<BlockRequest*> VolumeImpl::unanswered() {
  std::vector<BlockRequest*> found;
  const auto add = [&found](BlockRequest* request) {
    if (request != nullptr) found.push_back(request);
  };
  for (auto* list : {&pending_, &flushes_, &shadowed_reads_, &fenced_}) {
    for (BlockRequest* one = list->front(); one != nullptr; one = list->next(*one)) add(one);
  }
  for (auto* list : {&active_writes_, &conflicting_writes_}) {
    for (WriteOp* op = list->front(); op != nullptr; op = list->next(*op)) add(op->request);
  }
  for (ReadOp* op = active_reads_.front(); op != nullptr; op = active_reads_.next(*op)) {
    add(op->request);
  }
  return found;
}

void VolumeImpl::fail_held(MonotonicTime submitted_before) {
  if (!is_holding()) return;
  for (BlockRequest* request : unanswered()) {
    // Our own requests (of a resize, of a merge) have no time, and wait.
    if (request->device_submitted == MonotonicTime{}) continue;
    if (request->device_submitted < submitted_before) give_up(*request, BlockStatus::hold_expired);
  }
}

// --- Flush ---

// Completes when everything up to `target` is durable: a flush request, or a write with FUA.
void VolumeImpl::start_flush(BlockRequest& request, Sequence target) {
  if (log_.synced_sequence() >= target) {
    --requests_active_;
    complete_later(request, BlockStatus::ok);
    return;
  }
  set_stage(request, Stage::flushing);
  set_state(request, target.value);
  // Targets never fall: each is the applied sequence of its time.
  flushes_.push_back(request);
  log_.request_sync(true);
}

void VolumeImpl::log_synced() {
  while (BlockRequest* request = flushes_.front()) {
    if (get_state(*request) > log_.synced_sequence().value) break;
    request->device_link.unlink();
    complete(*request, BlockStatus::ok);
  }
  if (!flushes_.empty()) log_.request_sync(true);
  drained_.notify_all();
}

void VolumeImpl::log_has_room() {
  List<WriteOp, &WriteOp::wait_link> ready;
  while (WriteOp* op = room_waiters_.pop_front()) ready.push_back(*op);
  while (WriteOp* op = ready.pop_front()) {
    place(*op);
    if (!room_waiters_.empty()) break;  // full again: the rest keeps its order behind
  }
  while (WriteOp* op = ready.pop_front()) room_waiters_.push_back(*op);
}

// --- Quiet times ---

Task<void> VolumeImpl::quiesce() {
  while (quiesced_) co_await drained_.wait();
  quiesced_ = true;
  while ((requests_active_ != 0 || !completed_.empty()) && !abandoned_) co_await drained_.wait();
}

Task<Result<void>> VolumeImpl::pause(Duration patience) {
  const MonotonicTime deadline = executor_.now() + patience;
  Timer timer([](void* context) { static_cast<Condition*>(context)->notify_all(); }, &drained_);
  executor_.arm(timer, deadline);
  const auto may_wait = [&] { return executor_.now() < deadline && !closing_ && !abandoned_; };
  while (quiesced_ && may_wait()) co_await drained_.wait();
  if (abandoned_) co_return lost_error();
  if (quiesced_ || closing_) co_return Error(ErrorCode::busy, "the volume is busy; try again");
  quiesced_ = true;
  while ((requests_active_ != 0 || !completed_.empty()) && may_wait()) co_await drained_.wait();
  if (requests_active_ == 0 && completed_.empty()) co_return Result<void>{};
  resume();
  const HoldReason reason = hold_.state().reason;
  co_return Error(ErrorCode::busy,
                  reason == HoldReason::none
                      ? std::string("its requests did not come to an end in time; try again")
                      : "its requests are held (" + std::string(hold_reason_text(reason)) +
                            "); try again when they go on");
}

void VolumeImpl::resume() {
  quiesced_ = false;
  drained_.notify_all();
  admit_pending();
}

namespace {

// Runs one request that the volume makes itself, past admission.
class InternalRequest {
 public:
  explicit InternalRequest(BlockRequest& request) : request_(request) {
    request_.context = this;
    request_.on_complete = [](BlockRequest& done, BlockStatus status) {
      auto* self = static_cast<InternalRequest*>(done.context);
      self->status_ = status;
      self->done_ = true;
      if (self->handle_) self->handle_.resume();
    };
  }
  bool await_ready() const noexcept { return done_; }
  void await_suspend(std::coroutine_handle<> waiting) { handle_ = waiting; }
  BlockStatus await_resume() const noexcept { return status_; }

 private:
  BlockRequest& request_;
  BlockStatus status_ = BlockStatus::ok;
  bool done_ = false;
  std::coroutine_handle<> handle_;
};

}  // namespace

Task<void> VolumeImpl::discard_range(std::uint64_t first_byte, std::uint64_t end_byte) {
  BlockRequest request;
  request.operation = BlockOperation::write_zeroes;
  request.offset_bytes = first_byte;
  request.length_bytes = end_byte - first_byte;
  InternalRequest waiter(request);
  ++requests_active_;
  start_write(request);
  co_await waiter;
}

// What lies beyond the size is dropped twice, after shrinking and before growing, because a crash
// may come between publishing the new size and dropping.
Task<Result<void>> VolumeImpl::resize(std::uint64_t size_bytes) {
  if (closing_) co_return Error(ErrorCode::busy, "the volume is being closed");
  if (size_bytes % kSectorBytes != 0 || size_bytes < limits::kVolumeBytesMin ||
      size_bytes > limits::kVolumeBytesMax) {
    co_return Error(ErrorCode::invalid_argument,
                    "a volume's size is a multiple of 512 bytes from " +
                        format_bytes(limits::kVolumeBytesMin) + " to " +
                        format_bytes(limits::kVolumeBytesMax));
  }
  co_await quiesce();
  if (closing_ || abandoned_) {
    resume();
    if (abandoned_) co_return lost_error();
    co_return Error(ErrorCode::busy, "the volume is being closed");
  }
  const std::uint64_t before = info_.size_bytes;
  if (size_bytes > before) co_await discard_range(before, size_bytes);
  info_.size_bytes = size_bytes;
  set_thick(store_.is_thick());
  co_await checkpoint();
  if (size_bytes < before && !abandoned_) co_await discard_range(size_bytes, before);
  resume();
  if (abandoned_) co_return lost_error();
  co_return Result<void>{};
}

void VolumeImpl::set_thick(bool thick) {
  if (thick) {
    store_.set_thick(thick_layout(info_.size_bytes, root_.segment_bytes));
  } else {
    store_.set_thick(std::nullopt);
  }
}

Task<Result<void>> VolumeImpl::close() {
  wants_close_ = true;
  if (options_.fence != nullptr) look_at_fence();
  while (quiesced_) co_await drained_.wait();
  closing_ = true;
  while (BlockRequest* request = pending_.pop_front()) {
    complete_later(*request, BlockStatus::shutting_down);
  }
  while ((requests_active_ != 0 || !completed_.empty()) && !abandoned_) co_await drained_.wait();
  if (is_view_) {
    if (abandoned_) co_await end_abandoned();
    executor_.cancel(fence_timer_);
    while (!tasks_.empty()) co_await sleep_for(executor_, 1ms);
    co_return Result<void>{};
  }
  while (flattening_) co_await drained_.wait();
  executor_.cancel(idle_timer_);
  credit_earned_.notify_all();
  executor_.cancel(free_timer_);
  while (checkpoint_running_ || checkpoint_wanted_) co_await checkpoint_done_.wait();
  while (!log_.everything_synced() && !abandoned_) {
    log_.request_sync(false);
    co_await sleep_for(executor_, 1ms);
  }
  while (cleaning_) co_await drained_.wait();
  if (!abandoned_) seal_cold();
  while (checkpoint_running_ || checkpoint_wanted_) co_await checkpoint_done_.wait();
  if (!abandoned_) co_await close_log();
  if (abandoned_) {
    co_await end_abandoned();
  } else if (options_.fence != nullptr) {
    executor_.cancel(fence_timer_);
    co_await pool_.end_epoch(id_, epoch_);
  }
  co_return Result<void>{};
}

Task<void> VolumeImpl::close_log() {
  const SegmentId log_end{id_, epoch_, log_.current_segment()};
  const std::uint64_t log_end_bytes = log_.current_used_blocks() * kBlockBytes;
  log_.stop();
  co_await checkpoint_now();
  while (!tasks_.empty() && !abandoned_) co_await sleep_for(executor_, 1ms);
  if (abandoned_ || store_.is_thick()) co_return;  // its space is to stay
  // Space only: what cannot be given back now is when the volume is opened again.
  if (log_end.number.value != 0 && store_.has_entry(log_end.number) && fence_holds()) {
    const HoldTracker::Call call(hold_, "trimming of the log");
    const Result<void> trimmed = co_await pool_.trim_segment(log_end, log_end_bytes);
    if (!trimmed.ok()) log_warning("volume " + info_.name + ": " + trimmed.error().message());
  }
  for (const PageSegment& open : page_segments_) {
    if (!fence_holds()) co_return;
    const SegmentId id{id_, epoch_, open.segment->number};
    const HoldTracker::Call call(hold_, "trimming of the map pages");
    const Result<void> trimmed = co_await pool_.trim_segment(id, open.next_block * kBlockBytes);
    if (!trimmed.ok()) log_warning("volume " + info_.name + ": " + trimmed.error().message());
  }
}

VolumeStatistics VolumeImpl::statistics() const {
  VolumeStatistics now = statistics_;
  now.live_bytes = store_.live_blocks() * kBlockBytes;
  now.segment_count = store_.segment_count();
  now.segment_bytes = store_.segment_count() * root_.segment_bytes;
  const std::uint64_t cold_room = cold_.segment == nullptr ? 0 : segment_blocks_ - cold_.next_block;
  now.unwritten_bytes = (log_.unwritten_blocks() + page_room() + cold_room) * kBlockBytes;
  now.spare_count = store_.spare_count();
  now.waits_for_cleaner = store_.waits_for_spares();
  now.epoch = root_.id.epoch.value;
  now.log_sequence = log_.applied_sequence().value;
  now.records_written = log_.records_written();
  now.log_bytes_written = log_.bytes_written();
  now.checkpoints = checkpoints_done_;
  now.cached_page_bytes = (map_.resident_count() + store_.table_pages()) * kBlockBytes;
  now.retained_bytes = log_.retained_bytes();
  now.requests_in_flight = requests_active_;
  now.sealed_bytes = store_.sealed_blocks() * kBlockBytes;
  now.sealed_live_bytes = store_.sealed_live_blocks() * kBlockBytes;
  now.unfreed_bytes = store_.dead_segments() * root_.segment_bytes;
  now.hold = hold_.state();
  now.is_fenced = options_.fence != nullptr && options_.fence->is_lost();
  return now;
}

// --- Making and opening ---

Task<Result<void>> Volume::create(Executor& executor, Pool& pool, VolumeCreateOptions options) {
  if (options.size_bytes % kSectorBytes != 0 || options.size_bytes < limits::kVolumeBytesMin ||
      options.size_bytes > limits::kVolumeBytesMax) {
    co_return Error(ErrorCode::invalid_argument,
                    "a volume's size is a multiple of 512 bytes from " +
                        format_bytes(limits::kVolumeBytesMin) + " to " +
                        format_bytes(limits::kVolumeBytesMax) + "; got " +
                        std::to_string(options.size_bytes) + " bytes");
  }
  format::Root root;
  root.id = RootId{options.id, Epoch{1}, 0};
  root.size_bytes = options.size_bytes;
  root.segment_bytes = pool.info().segment_bytes;
  VolumeRecord record;
  record.id = options.id;
  record.name = options.name;
  record.thick = options.thick;
  record.created = executor.wall_time();
  std::vector<std::byte> bytes = format::encode_root(root);
  co_return co_await pool.create_volume(record, root.id, bytes);
}

// Roots are published whole or not at all, so a newest one that is damaged was damaged later: an
// older one would silently take the volume back in time, to segments that may be freed.
// Whoever owns the volume may replace it by a newer one while it is being read.
Task<Result<format::Root>> newest_root(Pool& pool, VolumeId id, std::vector<RootId>& all) {
  Result<format::Root> root = Error(ErrorCode::internal, "");
  for (RootId last;;) {
    CO_TRY_ASSIGN(all, co_await pool.list_roots(id));
    if (all.empty()) {
      co_return Error(ErrorCode::corrupt,
                      "volume " + id.to_string() + " has no root; restore it from a backup");
    }
    const RootId newest = *std::max_element(all.begin(), all.end());
    const Result<std::vector<std::byte>> bytes = co_await pool.read_root(newest);
    if (bytes.ok()) {
      root = format::decode_root(bytes.value(), newest);
    } else {
      root = bytes.error();
    }
    if (root.ok() || root.error().code() == ErrorCode::unsupported) co_return root;
    const bool is_unreadable = !bytes.ok() && bytes.error().code() != ErrorCode::not_found;
    if (is_unreadable) co_return bytes.error();
    if (newest == last) break;
    last = newest;
  }
  co_return Error(ErrorCode::corrupt, "volume " + id.to_string() +
                                          " cannot be opened: " + root.error().message() +
                                          "; check the storage under the pool, then restore the "
                                          "volume from a backup");
}

Task<Result<std::uint64_t>> Volume::stored_size_bytes(Pool& pool, VolumeId id) {
  std::vector<RootId> all;
  CO_TRY_ASSIGN(format::Root root, co_await newest_root(pool, id, all));
  co_return root.size_bytes;
}

Task<Result<std::optional<CloneMark>>> Volume::clone_mark(Pool& pool, VolumeId id) {
  std::vector<RootId> all;
  CO_TRY_ASSIGN(format::Root root, co_await newest_root(pool, id, all));
  if (root.parent.is_nil()) co_return std::optional<CloneMark>();
  co_return std::optional<CloneMark>(CloneMark{{root.parent, root.parent_snapshot}, id});
}

namespace {

Error ran_out_while_opening(VolumeId id) {
  return Error(ErrorCode::busy, "the lease of volume " + id.to_string() +
                                    " ran out while it was being opened; take it anew");
}

Task<Result<std::unique_ptr<Volume>>> open_now(Executor& executor, Pool& pool, VolumeId id,
                                               VolumeOptions options) {
  const MonotonicTime begin = executor.now();
  if (options.fence != nullptr) {
    // What those before us had in mind ends here; only then it is worth looking. If the fence did
    // not hold any more, ours might have begun after the next owner's.
    CO_TRY(co_await pool.begin_epoch(id, options.fence->epoch()));
    if (!options.fence->holds(executor.boot_time())) co_return ran_out_while_opening(id);
  }
  CO_TRY_ASSIGN(std::vector<VolumeRecord> volumes, co_await pool.list_volumes());
  const auto found = std::find_if(volumes.begin(), volumes.end(),
                                  [&](const VolumeRecord& record) { return record.id == id; });
  if (found == volumes.end()) {
    co_return Error(ErrorCode::not_found, "the pool has no volume " + id.to_string());
  }
  std::vector<RootId> roots;
  CO_TRY_ASSIGN(format::Root root, co_await newest_root(pool, id, roots));
  auto volume = std::make_unique<VolumeImpl>(executor, pool, id, options, root);
  volume->set_name(found->name);
  volume->set_thick(found->thick);
  if (options.opening_hold != nullptr) *options.opening_hold = &volume->hold_state();
  Result<void> recovered = co_await volume->recover(roots, begin);
  if (options.opening_hold != nullptr) *options.opening_hold = nullptr;
  if (!recovered.ok()) {
    if (volume->is_abandoned()) co_await volume->end_abandoned();
    // The volume may be calling us from inside its own load of a page: let that return first.
    co_await sleep_for(executor, 0ns);
    co_return recovered.take_error();
  }
  co_return std::unique_ptr<Volume>(std::move(volume));
}

}  // namespace

// Who comes too late finds files gone and may take that for damage: it is not theirs to judge.
Task<Result<std::unique_ptr<Volume>>> Volume::open(Executor& executor, Pool& pool, VolumeId id,
                                                   VolumeOptions options) {
  const std::shared_ptr<const Fence> fence = options.fence;
  auto opened = co_await open_now(executor, pool, id, std::move(options));
  if (opened.ok() || fence == nullptr || fence->holds(executor.boot_time())) co_return opened;
  log_warning(opened.error().message());
  co_return ran_out_while_opening(id);
}

}  // namespace holdfast
