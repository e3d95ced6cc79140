// SPDX-License-Identifier: Apache-2.0
#include "host/volume_service.h"

#include "base/assert.h"
#include "base/limits.h"
#include "base/log.h"

namespace holdfast {
namespace {

VolumeCounters counters_of(const VolumeStatistics& now) {
  VolumeCounters counters;
  counters.reads = now.reads;
  counters.writes = now.writes;
  counters.discards = now.discards;
  counters.flushes = now.flushes;
  counters.read_bytes = now.read_bytes;
  counters.written_bytes = now.written_bytes;
  counters.errors = now.errors;
  counters.corrupt_blocks = now.corrupt_blocks;
  counters.live_bytes = now.live_bytes;
  counters.segment_bytes = now.segment_bytes;
  counters.segment_count = now.segment_count;
  counters.unwritten_bytes = now.unwritten_bytes;
  counters.spare_count = now.spare_count;
  counters.waits_for_cleaner = now.waits_for_cleaner;
  counters.epoch = now.epoch;
  counters.log_sequence = now.log_sequence;
  counters.records_written = now.records_written;
  counters.log_bytes_written = now.log_bytes_written;
  counters.checkpoints = now.checkpoints;
  counters.replayed_records = now.replayed_records;
  counters.page_bytes_written = now.page_bytes_written;
  counters.cleaned_segments = now.cleaned_segments;
  counters.moved_bytes = now.moved_blocks * kBlockBytes;
  counters.cleaner_bytes_written = now.cleaner_bytes_written;
  counters.cleaner_bytes_read = now.cleaner_bytes_read;
  counters.sealed_bytes = now.sealed_bytes;
  counters.sealed_live_bytes = now.sealed_live_bytes;
  counters.unfreed_bytes = now.unfreed_bytes;
  counters.delayed_writes = now.delayed_writes;
  counters.open_time = now.open_time;
  counters.cached_page_bytes = now.cached_page_bytes;
  counters.retained_bytes = now.retained_bytes;
  counters.requests_in_flight = now.requests_in_flight;
  return counters;
}

std::optional<HoldReport> hold_report(const HoldState& state, MonotonicTime now) {
  if (state.reason == HoldReason::none) return std::nullopt;
  HoldReport hold;
  hold.reason = hold_reason_text(state.reason);
  hold.detail = state.detail;
  hold.duration = now - state.since;
  hold.waiting = state.waiting;
  hold.retries = state.retries;
  return hold;
}

}  // namespace

VolumeService::VolumeService(const ServiceEnvironment& environment, ServiceSettings settings)
    : environment_(environment),
      settings_(std::move(settings)),
      changed_(environment_.executor),
      closed_since_(environment_.executor.now()) {}

VolumeService::~VolumeService() = default;

Result<void> VolumeService::listen() {
  if (listener_ != nullptr) return {};
  listener_ =
      TRY(environment_.listen(settings_.socket_path, [this](std::unique_ptr<Stream> stream) {
        frontend_->accept(std::move(stream));
      }));
  return {};
}

Task<Result<void>> VolumeService::open(Pool& pool, VolumeId id, ServedPart what,
                                       VolumeOptions options) {
  HOLDFAST_ASSERT(!is_open());
  CO_TRY(listen());
  options.opening_hold = &opening_hold_;
  Executor& executor = environment_.executor;
  if (what.is_shared) {
    CO_TRY_ASSIGN(volume_, co_await Volume::open_shared(executor, pool, id, options));
  } else if (what.snapshot.empty()) {
    CO_TRY_ASSIGN(volume_, co_await Volume::open(executor, pool, id, options));
  } else {
    CO_TRY_ASSIGN(volume_, co_await Volume::open_snapshot(executor, pool, id,
                                                          std::move(what.snapshot), options));
  }
  if (frontend_ != nullptr) {  // whose clients have waited for it
    deferred_->connect(*volume_);
    frontend_->size_changed();
    co_return Result<void>{};
  }
  BlockDevice* device = volume_.get();
  if (options.fence != nullptr) {
    make_deferred(volume_->info());
    deferred_->connect(*volume_);
    device = deferred_.get();
  }
  frontend_ = make_frontend(environment_.vhost, *device, settings_.frontend);
  listener_->start_accepting();
  co_return Result<void>{};
}

void VolumeService::make_deferred(BlockDeviceInfo info) {
  const auto wanted = [](void* self) { static_cast<VolumeService*>(self)->settings_.on_wanted(); };
  deferred_ =
      std::make_unique<DeferredDevice>(environment_.executor, std::move(info), wanted, this);
}

Task<Result<void>> VolumeService::await_volume(Pool& pool, VolumeId id) {
  if (frontend_ != nullptr) co_return Result<void>{};
  CO_TRY(listen());
  BlockDeviceInfo info;
  CO_TRY_ASSIGN(info.size_bytes, co_await Volume::stored_size_bytes(pool, id));
  info.name = settings_.frontend.name.volume;
  info.id = id;
  info.read_only = settings_.frontend.read_only;
  make_deferred(std::move(info));
  frontend_ = make_frontend(environment_.vhost, *deferred_, settings_.frontend);
  listener_->start_accepting();
  co_return Result<void>{};
}

Task<Result<void>> VolumeService::hand_over() {
  HOLDFAST_ASSERT(is_open() && deferred_ != nullptr);
  deferred_->disconnect();
  const MonotonicTime deadline = environment_.executor.now() + limits::kHandOverTime;
  const auto is_busy = [this] {
    return volume_->statistics().requests_in_flight != 0 || deferred_->status_call_count() != 0;
  };
  while (is_busy() && environment_.executor.now() < deadline) {
    co_await sleep_for(environment_.executor, 1ms);
  }
  if (is_busy()) {
    deferred_->connect(*volume_);
    co_return Error(ErrorCode::busy, "its requests did not come to an end; try again");
  }
  const auto closed = co_await volume_->close();
  deferred_->forget();
  volume_.reset();
  closed_since_ = environment_.executor.now();
  co_return closed;
}

// The frontend cuts its connections first, so that a client sees a lost connection (and reconnects)
// rather than the errors of a volume that is closing; but it ends only when the volume has given
// its requests back, which a volume that holds them does in close().
Task<void> VolumeService::close() {
  listener_.reset();
  bool frontend_closed = frontend_ == nullptr;
  if (!frontend_closed) tasks_.spawn(close_frontend(&frontend_closed));
  if (deferred_ != nullptr && volume_ == nullptr) deferred_->close();
  if (volume_ != nullptr) {
    const auto closed = co_await volume_->close();
    if (!closed.ok()) {
      // As after a crash: the next open replays the log.
      log_warning("volume " + settings_.frontend.name.to_string() +
                  " was closed without a checkpoint: " + closed.error().message());
    }
  }
  while (!frontend_closed) co_await changed_.wait();
  frontend_.reset();
  deferred_.reset();
  volume_.reset();
}

Task<void> VolumeService::close_frontend(bool* closed) {
  co_await frontend_->close();
  *closed = true;
  changed_.notify_all();
}

Task<Result<void>> VolumeService::resize(std::uint64_t size_bytes) {
  auto resized = co_await volume_->resize(size_bytes);
  if (resized.ok() && is_open()) frontend_->size_changed();
  co_return resized;
}

std::optional<Duration> VolumeService::look_at_hold(Duration fail_after) {
  const MonotonicTime now = environment_.executor.now();
  if (!is_open()) return now - closed_since_;
  const HoldState hold = volume_->statistics().hold;
  if (hold.reason == HoldReason::none) return std::nullopt;
  if (fail_after != kNever) volume_->fail_held(now - fail_after);
  return now - hold.since;
}

void VolumeService::set_thick(bool thick) {
  if (volume_ != nullptr) volume_->set_thick(thick);
}

std::optional<ServiceReport> VolumeService::report() const {
  const MonotonicTime at = environment_.executor.now();
  ServiceReport report;
  if (!is_open()) {
    if (opening_hold_ != nullptr) report.hold = hold_report(*opening_hold_, at);
    if (!report.hold.has_value()) return std::nullopt;
    report.is_open = false;
    return report;
  }
  report.size_bytes = volume_->info().size_bytes;
  report.clients = frontend_->report();
  const VolumeStatistics now = volume_->statistics();
  report.counters = counters_of(now);
  report.hold = hold_report(now.hold, at);
  return report;
}

void VolumeService::hint_space_is_short(bool is_short) {
  if (volume_ != nullptr) volume_->hint_space_is_short(is_short);
}

}  // namespace holdfast
