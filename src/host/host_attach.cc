// SPDX-License-Identifier: Apache-2.0
//
// Serving volumes: attach, detach, and serving again what cannot be served at once.
#include <algorithm>
#include <cctype>

#include "base/log.h"
#include "host/frontend.h"
#include "host/host.h"
#include "host/host_entries.h"
#include "host/names.h"

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

template <typename Attachment>
bool is_held(const Attachment& attachment) {
  return attachment.served.has_value() && attachment.served->hold.has_value();
}

std::string access_name(bool read_only, AttachMode mode) {
  const std::string access = read_only ? "read-only" : "read-write";
  return mode == AttachMode::exclusive ? access : access + ", " + attach_mode_name(mode) + ",";
}

}  // namespace

Host::Attachment* Host::find_attachment(const VolumeName& name) const {
  const auto at = attachments_.find(name);
  return at == attachments_.end() ? nullptr : at->second.get();
}

std::string Host::socket_path(const Attachment& attachment) const {
  return config_.runtime_directory + "/" + attachment.name.pool + "." + attachment.name.volume +
         "." + attachment.protocol + ".sock";
}

Result<void> Host::check_socket(const Attachment& fresh) const {
  const std::string path = socket_path(fresh);
  if (path.size() > kSocketPathBytesMax) {
    return Error(ErrorCode::invalid_argument,
                 "the socket's path would be " + std::to_string(path.size()) + " bytes long (" +
                     path + "), and the system allows " + std::to_string(kSocketPathBytesMax) +
                     "; rename the volume, or use a shorter runtime directory");
  }
  // Names may hold dots: "a.b" + "c" and "a" + "b.c" meet.
  for (const auto& [other, attachment] : attachments_) {
    if (socket_path(*attachment) == path) {
      return Error(ErrorCode::busy, "its socket would be " + path + ", which serves '" +
                                        other.to_string() + "'; rename one of the two");
    }
  }
  return {};
}

// The loop with the fewest attachments.
std::size_t Host::least_loaded() const {
  std::vector<std::size_t> counts(loops_.size());
  for (const auto& [name, attachment] : attachments_) ++counts[attachment->loop];
  return static_cast<std::size_t>(std::min_element(counts.begin(), counts.end()) - counts.begin());
}

ServiceSettings Host::service_settings(const Attachment& attachment) const {
  ServiceSettings settings;
  settings.frontend = {attachment.name, attachment.protocol, attachment.read_only};
  settings.socket_path = socket_path(attachment);
  settings.on_wanted = [&home = executor_, weak = std::weak_ptr<Host*>(alive_),
                        name = attachment.name] {
    home.post_remote([weak, name] {
      if (const auto host = weak.lock()) (*host)->volume_wanted(name);
    });
  };
  return settings;
}

ShardVolume Host::shard_volume(const PoolEntry& entry, const VolumeName& name, VolumeId id,
                               bool read_only) const {
  ShardVolume volume{name, entry.pool->info(), id, {}, {}};
  volume.options.checkpoint_log_bytes = config_.checkpoint_log_bytes;
  volume.options.cleaner_start_percent = config_.cleaner_start_percent;
  volume.options.cleaner_stop_percent = config_.cleaner_stop_percent;
  volume.options.cleaner_idle_percent = config_.cleaner_idle_percent;
  volume.options.checkpoint_idle = config_.checkpoint_idle;
  volume.options.read_only = read_only;
  volume.what.snapshot = split_snapshot(name.volume).second;
  return volume;
}

// Clients that try to connect again only now and then (QEMU: once a second) must find the sockets,
// however long the volumes take.
Task<void> Host::listen_for_all() {
  for (std::size_t i = 0; i < loops_.size(); ++i) {
    std::vector<ServiceSettings> services;
    for (const auto& [name, attachment] : attachments_) {
      if (attachment->loop == i) services.push_back(service_settings(*attachment));
    }
    if (services.empty()) continue;
    auto command = [services](ServiceShard& shard) { return shard.listen(services); };
    const auto failed = co_await loops_[i]->run(std::move(command));
    // It is tried again before the volume is opened, and then shown.
    for (const auto& [name, error] : failed) {
      log_error("volume " + name.to_string() + " cannot be served yet: " + error.message());
    }
  }
}

Task<Result<AttachAnswer>> Host::attach(AttachRequest request) {
  const std::string full_name = request.name.to_string();
  CO_TRY(check_protocol(request.protocol));
  CO_TRY(check_monitor(request.qmp_path));
  const bool is_snapshot = !split_snapshot(request.name.volume).second.empty();
  CO_TRY_ASSIGN(const AttachMode mode, attach_mode(request, is_snapshot));
  request.read_only = request.read_only || is_snapshot || mode == AttachMode::shared_read_only;
  const NameLocks::Lock lock = co_await locks_.acquire(full_name);
  CO_TRY(check_running());
  CO_TRY(check_not_importing(request.name));
  CO_TRY(check_attach_mode(request.name, mode));
  AttachAnswer answer;
  answer.name = request.name;
  if (Attachment* present = find_attachment(request.name)) {
    if (present->read_only != request.read_only || present->protocol != request.protocol ||
        present->mode != mode) {
      co_return Error(ErrorCode::busy, "volume '" + full_name + "' is attached " +
                                           access_name(present->read_only, present->mode) + " by " +
                                           present->protocol +
                                           "; detach it first: holdfast detach " + full_name);
    }
    if (!request.qmp_path.empty() && present->qmp_path != request.qmp_path) {
      present->qmp_path = request.qmp_path;
      answer.warning = co_await save_state();
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
  AttachRequest wanted = request;
  CO_TRY_ASSIGN(const Attachment* const attachment, co_await add_attachment(std::move(wanted)));
  log_info("volume " + full_name + " is attached " + access_name(request.read_only, mode) + " at " +
           socket_path(*attachment));
  answer.warning = co_await save_state();
  answer.attachment = report(*attachment);
  co_return answer;
}

// Makes an attachment, and serves it. Under the volume's lock.
Task<Result<Host::Attachment*>> Host::add_attachment(AttachRequest request) {
  const std::string full_name = request.name.to_string();
  CO_TRY_ASSIGN(PoolEntry * entry, find_open_pool(request.name.pool));
  const PoolUse use(*entry);
  VolumeName volume{request.name.pool, split_snapshot(request.name.volume).first};
  CO_TRY(co_await find_volume(*entry->pool, std::move(volume)));
  if (attachments_.size() >= limits::kAttachmentsMax) {
    co_return Error(ErrorCode::busy,
                    std::to_string(limits::kAttachmentsMax) +
                        " volumes are attached, which is the most for one holdfastd; detach "
                        "one, or run a second daemon with its own --runtime-dir");
  }
  auto fresh = std::make_unique<Attachment>();
  fresh->name = request.name;
  fresh->protocol = request.protocol;
  fresh->read_only = request.read_only;
  fresh->qmp_path = request.qmp_path;
  const bool is_snapshot = !split_snapshot(request.name.volume).second.empty();
  CO_TRY_ASSIGN(fresh->mode, attach_mode(request, is_snapshot));
  fresh->loop = least_loaded();
  fresh->since = executor_.wall_time();
  CO_TRY(check_socket(*fresh));
  Attachment& attachment = *attachments_.emplace(request.name, std::move(fresh)).first->second;
  auto served = co_await serve(attachment);
  if (!served.ok()) {
    co_await stop_serving(attachment);
    co_await give_lease_back(attachment);
    attachments_.erase(request.name);
    if (served.error().code() == ErrorCode::lease_held) co_return served.take_error();
    co_return served.take_error().context("attach '" + full_name + "'");
  }
  co_return &attachment;
}

// Has the volume's loop open it. Under the volume's lock.
Task<Result<void>> Host::serve(Attachment& attachment) {
  const auto fail = [&attachment, this](Error error) {
    attachment.opening_hold.reset();
    attachment.state = ServiceState::failed;
    attachment.reason = error.message();
    attachment.record.reset();  // another volume may have that name when the storage is back
    changed_.notify_all();
    return error;
  };
  auto entry = find_open_pool(attachment.name.pool);
  if (!entry.ok()) co_return fail(entry.take_error());
  const PoolUse use(*entry.value());
  if (!attachment.record.has_value()) {
    VolumeName volume{attachment.name.pool, split_snapshot(attachment.name.volume).first};
    auto record = co_await find_volume(*entry.value()->pool, std::move(volume));
    if (!record.ok()) co_return fail(record.take_error());
    attachment.record = std::move(record).value();
  }
  if (attachment.mode == AttachMode::incoming && attachment.fence == nullptr) {
    auto awaited = co_await await_volume(*entry.value(), attachment);
    if (!awaited.ok()) co_return fail(awaited.take_error());
    co_return Result<void>{};
  }
  auto owned = co_await take_lease(*entry.value(), attachment);
  if (!owned.ok()) co_return fail(owned.take_error());
  auto opened = co_await open_service(*entry.value(), attachment);
  if (!opened.ok()) {
    co_await give_lease_back(attachment);
    co_return fail(opened.take_error());
  }
  attachment.was_served_before = false;  // not before: what is given back another host may take
  co_return Result<void>{};
}

// Has the volume's loop open it, once it is ours.
Task<Result<void>> Host::open_service(PoolEntry& entry, Attachment& attachment) {
  ShardVolume volume =
      shard_volume(entry, attachment.name, attachment.record->id, attachment.read_only);
  volume.options.fence = attachment.fence;
  volume.what.is_shared = attachment.fence != nullptr && attachment.is_shared();
  auto command = [settings = service_settings(attachment), volume = std::move(volume)](
                     ServiceShard& shard) { return shard.open(settings, volume); };
  CO_TRY_ASSIGN(attachment.served, co_await loops_[attachment.loop]->run(std::move(command)));
  attachment.opening_hold.reset();
  attachment.state = ServiceState::open;
  attachment.reason.clear();
  changed_.notify_all();
  co_return Result<void>{};
}

Task<void> Host::stop_serving(Attachment& attachment) {
  auto command = [name = attachment.name](ServiceShard& shard) { return shard.remove(name); };
  (void)co_await loops_[attachment.loop]->run(std::move(command));
  attachment.served.reset();
}

Task<Result<DoneAnswer>> Host::detach(VolumeName name) {
  NameLocks::Lock lock = co_await locks_.acquire(name.to_string());
  CO_TRY(check_running());
  CO_TRY(check_not_importing(name));
  Attachment* attachment = find_attachment(name);
  if (attachment == nullptr) {
    CO_TRY_ASSIGN(PoolEntry * entry, find_open_pool(name.pool));
    const PoolUse use(*entry);
    VolumeName volume{name.pool, split_snapshot(name.volume).first};
    CO_TRY(co_await find_volume(*entry->pool, std::move(volume)));
    co_return Error(ErrorCode::not_found,
                    "volume '" + name.to_string() + "' is not attached; nothing was done");
  }
  attachment->state = ServiceState::detaching;
  attachment->reason.clear();
  DoneAnswer answer;
  answer.warning = co_await save_state();
  background_.spawn(finish_detach(std::move(lock), name));
  // Stopping a machine must not hang with its storage: what that still holds is finished behind.
  background_.spawn(refresh_services(attachment->loop));
  const MonotonicTime began = executor_.now();
  Timer timer([](void* context) { static_cast<Condition*>(context)->notify_all(); }, &changed_);
  for (Duration patience : {limits::kHeldDetachTime, limits::kDetachTime}) {
    executor_.arm(timer, began + patience);
    while (executor_.now() < began + patience && find_attachment(name) == attachment)
      co_await changed_.wait();
    if (find_attachment(name) != attachment || is_held(*attachment)) break;
  }
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
  co_await give_lease_back(*attachment);
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
        log_info("volume " + name.to_string() + " is served again at " + socket_path(*attachment));
        co_return;
      }
      log_error("volume " + name.to_string() + " cannot be served: " + served.error().message());
      if (attachment->is_fenced) {
        attachment->keeping = false;
        co_return;
      }
    }
    co_await sleep_for(executor_, delay);
    delay = std::min(delay * 2, limits::kReopenDelayMax);
  }
}

// What the volumes of a loop say of themselves. Asked again only when the answer is there: a loop
// that is stuck is not given ever more to do.
Task<void> Host::refresh_services(std::size_t loop) {
  ServiceLoop& asked = *loops_[loop];
  if (asked.refreshing) co_return;
  asked.refreshing = true;
  std::set<std::string> short_pools;
  for (const auto& [name, entry] : pools_) {
    if (is_short(*entry)) short_pools.insert(name);
  }
  auto command = [short_pools](ServiceShard& shard) { return shard.reports(short_pools); };
  auto reports = co_await asked.run(std::move(command));
  asked.refreshing = false;
  for (auto& [name, attachment] : attachments_) {
    if (attachment->loop == loop) attachment->opening_hold.reset();
  }
  for (auto& [name, report] : reports) {
    Attachment* attachment = find_attachment(name);
    if (attachment == nullptr || attachment->loop != loop) continue;
    if (!report.is_open) {
      if (attachment->state == ServiceState::opening) attachment->opening_hold = report.hold;
    } else if (attachment->served.has_value()) {
      attachment->history.add(executor_.now(), report.counters.segment_bytes);
      attachment->served = std::move(report);
    }
  }
  changed_.notify_all();
}

AttachmentReport Host::report(const Attachment& attachment) const {
  AttachmentReport report;
  report.protocol = attachment.protocol;
  report.read_only = attachment.read_only;
  report.socket_path = socket_path(attachment);
  if (attachment.protocol == "nbd") {
    report.uri = "nbd+unix:///" + uri_escaped(attachment.name.volume) +
                 "?socket=" + uri_escaped(report.socket_path);
  }
  report.since = attachment.since;
  report.loop = attachment.loop;
  report.qmp_path = attachment.qmp_path;
  if (const auto at = machines_.find(attachment.qmp_path); at != machines_.end()) {
    report.machine = at->second->report();
  }
  if (attachment.served.has_value()) report.clients = attachment.served->clients;
  add_ownership(attachment, report);
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
  if (!attachment.served.has_value()) {
    if (attachment.state == ServiceState::opening) report.hold = attachment.opening_hold;
    return;
  }
  report.trend = attachment.history.trend();
  report.size_bytes = attachment.served->size_bytes;
  report.counters = attachment.served->counters;
  report.hold = attachment.served->hold;
  if (report.hold.has_value() && report.hold->reason == hold_reason_text(HoldReason::space)) {
    if (const auto pool = pools_.find(attachment.name.pool); pool != pools_.end()) {
      report.hold->detail += trash_advice(*pool->second);
    }
  }
  if (report.allocated_bytes.has_value()) {
    const VolumeCounters& counters = attachment.served->counters;
    const std::uint64_t other_bytes = counters.live_bytes + counters.unwritten_bytes;
    report.garbage_bytes = *report.allocated_bytes - std::min(*report.allocated_bytes, other_bytes);
  }
  if (report.reason.empty() && loops_[attachment.loop]->refreshing) {
    report.reason = "loop " + std::to_string(attachment.loop) +
                    " is busy and did not answer in time; the figures are older ones";
  }
}

}  // namespace holdfast
