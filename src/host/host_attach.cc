// SPDX-License-Identifier: Apache-2.0
//
// Serving volumes: attach, detach, and serving again what cannot be served at once.
#include <algorithm>
#include <cctype>

#include "base/log.h"
#include "host/host.h"
#include "host/host_entries.h"

namespace holdfast {
namespace {

constexpr std::size_t kSocketPathBytesMax = 107;  // of sockaddr_un, without the final zero

// RFC 3986: what may stand unescaped in a query.
std::string uri_escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (std::isalnum(byte) != 0 || std::string_view("-._~/").find(c) != std::string_view::npos) {
      out.push_back(c);
    } else {
      static constexpr char kHex[] = "0123456789ABCDEF";
      out.push_back('%');
      out.push_back(kHex[byte >> 4]);
      out.push_back(kHex[byte & 15]);
    }
  }
  return out;
}

std::string mode_name(bool read_only) {
  return read_only ? "read-only" : "read-write";
}

}  // namespace

Host::Attachment* Host::find_attachment(const VolumeName& name) const {
  const auto at = attachments_.find(name);
  return at == attachments_.end() ? nullptr : at->second.get();
}

std::string Host::socket_path(const VolumeName& name) const {
  return config_.runtime_directory + "/" + name.pool + "." + name.volume + ".nbd.sock";
}

Result<void> Host::check_socket(const VolumeName& name) const {
  const std::string path = socket_path(name);
  if (path.size() > kSocketPathBytesMax) {
    return Error(ErrorCode::invalid_argument,
                 "the socket's path would be " + std::to_string(path.size()) + " bytes long (" +
                     path + "), and the system allows " + std::to_string(kSocketPathBytesMax) +
                     "; rename the volume, or use a shorter runtime directory");
  }
  // Names may hold dots: "a.b" + "c" and "a" + "b.c" meet.
  for (const auto& [other, attachment] : attachments_) {
    if (other != name && socket_path(other) == path) {
      return Error(ErrorCode::busy, "its socket would be " + path + ", which serves '" +
                                        other.to_string() + "'; rename one of the two");
    }
  }
  return {};
}

VolumeOptions Host::volume_options(bool read_only) {
  VolumeOptions options;
  options.page_memory = &page_memory_;
  options.checkpoint_log_bytes = config_.checkpoint_log_bytes;
  options.checkpoint_idle = config_.checkpoint_idle;
  options.read_only = read_only;
  return options;
}

Task<Result<AttachAnswer>> Host::attach(AttachRequest request) {
  const std::string full_name = request.name.to_string();
  if (request.protocol == "vhost") {
    co_return Error(ErrorCode::unsupported,
                    "this holdfastd cannot serve vhost-user-blk yet; attach with --nbd instead");
  }
  if (request.protocol != "nbd") {
    co_return Error(ErrorCode::invalid_argument,
                    "'" + request.protocol.substr(0, 20) + "' is no protocol; use nbd");
  }
  const NameLocks::Lock lock = co_await locks_.acquire(full_name);
  CO_TRY(check_running());
  AttachAnswer answer;
  answer.name = request.name;
  if (Attachment* present = find_attachment(request.name)) {
    if (present->read_only != request.read_only) {
      co_return Error(ErrorCode::busy, "volume '" + full_name + "' is attached " +
                                           mode_name(present->read_only) +
                                           "; detach it first: holdfast detach " + full_name);
    }
    if (present->state != ServiceState::open) {
      CO_TRY(find_open_pool(request.name.pool));
      auto served = co_await serve(*present);
      if (!served.ok())
        co_return served.take_error().context("volume '" + full_name +
                                              "' is attached but cannot be served now");
    }
    answer.attachment = report(*present);
    co_return answer;
  }
  CO_TRY_ASSIGN(PoolEntry * entry, find_open_pool(request.name.pool));
  const PoolUse use(*entry);
  CO_TRY(co_await find_volume(*entry->pool, request.name));
  CO_TRY(check_socket(request.name));
  if (attachments_.size() >= limits::kAttachmentsMax) {
    co_return Error(ErrorCode::busy,
                    std::to_string(limits::kAttachmentsMax) +
                        " volumes are attached, which is the most for one holdfastd; detach "
                        "one, or run a second daemon with its own --runtime-dir");
  }
  auto fresh = std::make_unique<Attachment>();
  fresh->name = request.name;
  fresh->read_only = request.read_only;
  fresh->since = executor_.wall_time();
  Attachment& attachment = *attachments_.emplace(request.name, std::move(fresh)).first->second;
  auto served = co_await serve(attachment);
  if (!served.ok()) {
    attachments_.erase(request.name);
    co_return served.take_error().context("attach '" + full_name + "'");
  }
  log_info("volume " + full_name + " is attached " + mode_name(request.read_only) + " at " +
           socket_path(request.name));
  answer.warning = co_await save_state();
  answer.attachment = report(attachment);
  co_return answer;
}

// Opens the volume, then listens: whoever connects finds it ready. Under the volume's lock.
Task<Result<void>> Host::serve(Attachment& attachment) {
  const auto fail = [&attachment, this](Error error) {
    attachment.state = ServiceState::failed;
    attachment.reason = error.message();
    changed_.notify_all();
    return error;
  };
  auto entry = find_open_pool(attachment.name.pool);
  if (!entry.ok()) co_return fail(entry.take_error());
  const PoolUse use(*entry.value());
  Pool& pool = *entry.value()->pool;
  auto record = co_await find_volume(pool, attachment.name);
  if (!record.ok()) co_return fail(record.take_error());
  attachment.record = record.value();
  const VolumeOptions options = volume_options(attachment.read_only);
  auto volume = co_await Volume::open(executor_, pool, attachment.record->id, options);
  if (!volume.ok()) co_return fail(volume.take_error());
  attachment.volume = std::move(volume).value();
  const NbdExport exported{attachment.name.volume, "Holdfast volume " + attachment.name.to_string(),
                           *attachment.volume, attachment.read_only};
  attachment.server = std::make_unique<NbdServer>(executor_, exported);
  NbdServer& server = *attachment.server;
  auto listener = environment_.listen(
      socket_path(attachment.name),
      [&server](std::unique_ptr<Stream> stream) { server.accept(std::move(stream)); });
  if (!listener.ok()) {
    co_await stop_serving(attachment);
    co_return fail(listener.take_error());
  }
  attachment.listener = std::move(listener).value();
  attachment.listener->start_accepting();
  attachment.state = ServiceState::open;
  attachment.reason.clear();
  changed_.notify_all();
  co_return Result<void>{};
}

// The server cuts its connections first, so that a client sees a lost connection (and reconnects)
// rather than the errors of a volume that is closing; but it ends only when the volume has given
// its requests back, which a volume that holds them does in close().
Task<void> Host::stop_serving(Attachment& attachment) {
  attachment.listener.reset();
  bool server_closed = attachment.server == nullptr;
  if (!server_closed) background_.spawn(close_server(attachment, server_closed));
  if (attachment.volume != nullptr) {
    const auto closed = co_await attachment.volume->close();
    if (!closed.ok()) {
      // As after a crash: the next open replays the log.
      log_warning("volume " + attachment.name.to_string() +
                  " was closed without a checkpoint: " + closed.error().message());
    }
  }
  while (!server_closed) co_await changed_.wait();
  attachment.server.reset();
  attachment.volume.reset();
}

Task<void> Host::close_server(Attachment& attachment, bool& closed) {
  co_await attachment.server->close();
  closed = true;
  changed_.notify_all();
}

Task<Result<DoneAnswer>> Host::detach(VolumeName name) {
  NameLocks::Lock lock = co_await locks_.acquire(name.to_string());
  CO_TRY(check_running());
  Attachment* attachment = find_attachment(name);
  if (attachment == nullptr) {
    CO_TRY_ASSIGN(PoolEntry * entry, find_open_pool(name.pool));
    const PoolUse use(*entry);
    CO_TRY(co_await find_volume(*entry->pool, name));
    co_return Error(ErrorCode::not_found,
                    "volume '" + name.to_string() + "' is not attached; nothing was done");
  }
  attachment->state = ServiceState::detaching;
  attachment->reason.clear();
  DoneAnswer answer;
  answer.warning = co_await save_state();
  background_.spawn(finish_detach(std::move(lock), name));
  // Stopping a machine must not hang with its storage: what that still holds is finished behind.
  const MonotonicTime deadline = executor_.now() + limits::kDetachTime;
  Timer timer([](void* context) { static_cast<Condition*>(context)->notify_all(); }, &changed_);
  executor_.arm(timer, deadline);
  while (executor_.now() < deadline && find_attachment(name) == attachment)
    co_await changed_.wait();
  if (find_attachment(name) == attachment) {
    answer.warning += answer.warning.empty() ? "" : "; ";
    answer.warning +=
        "its socket is gone, but its storage still holds requests; the volume is closed as soon as "
        "they are finished, and cannot be attached before";
  }
  co_return answer;
}

Task<void> Host::finish_detach(NameLocks::Lock lock, VolumeName name) {
  const NameLocks::Lock held = std::move(lock);
  Attachment* attachment = find_attachment(name);
  const auto entry = pools_.find(name.pool);
  std::optional<PoolUse> use;
  if (entry != pools_.end()) use.emplace(*entry->second);
  co_await stop_serving(*attachment);
  attachments_.erase(name);
  log_info("volume " + name.to_string() + " was detached");
  changed_.notify_all();
}

Task<void> Host::stop_one(VolumeName name) {
  const NameLocks::Lock lock = co_await locks_.acquire(name.to_string());
  if (Attachment* attachment = find_attachment(name)) co_await stop_serving(*attachment);
  --stops_under_way_;
  changed_.notify_all();
}

Task<void> Host::keep_serving(VolumeName name) {
  Duration delay = limits::kReopenDelayMin;
  for (;;) {
    {
      const NameLocks::Lock lock = co_await locks_.acquire(name.to_string());
      Attachment* attachment = find_attachment(name);
      if (!running_ || attachment == nullptr) co_return;
      attachment->keeping = attachment->state != ServiceState::open;
      if (!attachment->keeping) co_return;
      const auto pool = pools_.find(name.pool);
      if (pool != pools_.end() && pool->second->state != ServiceState::open) {
        attachment->keeping = false;  // keep_opening() comes back to it
        co_return;
      }
      const auto served = co_await serve(*attachment);
      if (served.ok()) {
        attachment->keeping = false;
        log_info("volume " + name.to_string() + " is served again at " + socket_path(name));
        co_return;
      }
      log_error("volume " + name.to_string() + " cannot be served: " + served.error().message());
    }
    co_await sleep_for(executor_, delay);
    delay = std::min(delay * 2, limits::kReopenDelayMax);
  }
}

AttachmentReport Host::report(const Attachment& attachment) const {
  AttachmentReport report;
  report.protocol = "nbd";
  report.read_only = attachment.read_only;
  report.socket_path = socket_path(attachment.name);
  report.uri = "nbd+unix:///" + uri_escaped(attachment.name.volume) +
               "?socket=" + uri_escaped(report.socket_path);
  report.since = attachment.since;
  if (attachment.server != nullptr) report.clients = attachment.server->connection_count();
  return report;
}

void Host::add_live_report(const Attachment& attachment, VolumeReport& report) const {
  report.state = attachment.state;
  report.reason = attachment.reason;
  report.attachment = this->report(attachment);
  if (attachment.record.has_value()) {
    report.id = attachment.record->id;
    report.thick = attachment.record->thick;
    report.created = attachment.record->created;
  }
  if (attachment.volume == nullptr) return;
  report.size_bytes = attachment.volume->info().size_bytes;
  const VolumeStatistics now = attachment.volume->statistics();
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
  counters.epoch = now.epoch;
  counters.log_sequence = now.log_sequence;
  counters.records_written = now.records_written;
  counters.log_bytes_written = now.log_bytes_written;
  counters.checkpoints = now.checkpoints;
  counters.replayed_records = now.replayed_records;
  counters.open_time = now.open_time;
  counters.cached_page_bytes = now.cached_page_bytes;
  counters.retained_bytes = now.retained_bytes;
  counters.requests_in_flight = now.requests_in_flight;
  report.counters = counters;
  if (now.hold.reason == HoldReason::none) return;
  HoldReport hold;
  hold.reason = hold_reason_text(now.hold.reason);
  hold.detail = now.hold.detail;
  hold.duration = executor_.now() - now.hold.since;
  hold.waiting = now.hold.waiting;
  hold.retries = now.hold.retries;
  report.hold = hold;
}

}  // namespace holdfast
