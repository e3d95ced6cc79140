// SPDX-License-Identifier: Apache-2.0
#include "host/host.h"

#include <algorithm>

#include "base/assert.h"
#include "base/log.h"
#include "host/host_entries.h"
#include "host/names.h"

namespace holdfast {
namespace {

constexpr const char* kStateLock = ":state";  // no name of a pool or a volume

Task<Result<void>> make_directories(FileSystem& file_system, std::string path) {
  for (std::size_t at = path.find('/', 1);; at = path.find('/', at + 1)) {
    auto made = co_await file_system.make_directory(path.substr(0, at));
    if (!made.ok() && made.error().code() != ErrorCode::already_exists) {
      co_return made.take_error().context("make the directory " + path.substr(0, at));
    }
    if (at == std::string::npos) co_return Result<void>{};
  }
}

}  // namespace

Host::Host(HostEnvironment environment, HostConfig config)
    : environment_(std::move(environment)),
      executor_(environment_.executor),
      config_(std::move(config)),
      store_(environment_.file_system, config_.state_directory),
      locks_(executor_),
      changed_(executor_) {
  HOLDFAST_ASSERT(!environment_.service_loops.empty());
  const std::uint64_t page_memory_bytes = std::max(
      config_.page_cache_bytes / environment_.service_loops.size(), limits::kPageCacheBytesMin);
  for (const ServiceEnvironment& service : environment_.service_loops) {
    loops_.push_back(std::make_unique<ServiceLoop>(executor_, service, page_memory_bytes));
  }
}

Host::~Host() = default;

Task<Result<void>> Host::start() {
  started_ = executor_.now();
  started_wall_ = executor_.wall_time();
  FileSystem& files = environment_.file_system;
  CO_TRY(co_await make_directories(files, config_.runtime_directory));
  const std::string lock_path = config_.runtime_directory + "/holdfastd.lock";
  auto lock = co_await files.lock(lock_path, environment_.holder);
  if (!lock.ok()) {
    if (lock.error().code() != ErrorCode::busy) co_return lock.take_error();
    co_return Error(ErrorCode::busy, "holdfastd is already running on " +
                                         config_.runtime_directory + ": " + lock.error().message() +
                                         ", or give this one its own --runtime-dir");
  }
  runtime_lock_ = std::move(lock).value();
  environment_.on_locked();
  CO_TRY(co_await make_directories(files, config_.state_directory));
  CO_TRY_ASSIGN(HostState saved, co_await store_.load());
  for (const PoolLocation& configured : config_.pools) {
    const auto same =
        std::find_if(saved.pools.begin(), saved.pools.end(),
                     [&](const PoolLocation& pool) { return pool.name == configured.name; });
    if (same == saved.pools.end()) {
      saved.pools.push_back(configured);
    } else if (same->location != configured.location) {
      co_return Error(
          ErrorCode::invalid_argument,
          "pool '" + configured.name + "' is recorded at " + same->location +
              " but configured at " + configured.location +
              "; correct the configuration, or close the pool first (holdfast pool close " +
              configured.name + ")");
    }
  }
  const auto host_in = [&saved](const std::string& pool) {
    return std::find_if(saved.hosts.begin(), saved.hosts.end(),
                        [&](const SavedHost& host) { return host.pool == pool; });
  };
  for (const PoolLocation& pool : saved.pools) {
    auto entry = std::make_unique<PoolEntry>();
    entry->name = pool.name;
    entry->location = pool.location;
    const auto saved_host = host_in(pool.name);
    if (saved_host != saved.hosts.end() && saved_host->boot_id == environment_.boot_id &&
        saved_host->host_name == environment_.host_name) {
      entry->identity = saved_host->identity;
    }
    pools_.emplace(pool.name, std::move(entry));
  }
  for (const SavedAttachment& attached : saved.attachments) {
    auto attachment = std::make_unique<Attachment>();
    attachment->name = VolumeName{attached.pool, attached.volume};
    attachment->protocol = attached.protocol;
    attachment->read_only = attached.read_only;
    attachment->since = attached.since;
    attachment->qmp_path = attached.qmp_path;
    attachment->mode = attached.mode;
    attachment->shared_since = Epoch{attached.shared_since};
    // A machine that only reads knows nothing any more after this host was started again.
    const auto saved_host = host_in(attached.pool);
    const bool is_new_boot =
        saved_host != saved.hosts.end() && saved_host->boot_id != environment_.boot_id;
    attachment->was_served_before =
        !attachment->is_shared() || (attachment->shared_since != Epoch{} && !is_new_boot);
    attachment->loop = least_loaded();
    const VolumeName name = attachment->name;
    attachments_.emplace(name, std::move(attachment));
  }
  for (const SavedVolumeSettings& settings : saved.volume_settings) {
    volume_holds_[{settings.pool, settings.volume}] = settings.hold;
  }
  for (const SavedTransfer& left : saved.transfers) {
    auto transfer = std::make_unique<Transfer>();
    transfer->served = {left.pool, left.volume};
    transfer->kind = left.kind;
    transfer->name = left.name;
    transfer->since = left.since;
    transfer->snapshot = left.snapshot;
    transfer->is_under_command = false;
    transfer->is_orphan = true;
    const VolumeName served = transfer->served;
    transfers_.emplace(served, std::move(transfer));
  }
  paused_before_ = saved.paused_machines;
  running_ = true;
  background_.spawn(watch_space());
  co_await listen_for_all();
  for (const PoolLocation& pool : saved.pools) background_.spawn(keep_opening(pool.name));
  background_.spawn(watch_holds());
  background_.spawn(watch_transfers());
  // Orphans (their pool was lost from the state) cannot be served, and say so.
  for (auto& [name, attachment] : attachments_) {
    if (pools_.contains(name.pool)) continue;
    attachment->state = ServiceState::failed;
    attachment->reason = "pool '" + name.pool + "' is not known; open it: holdfast pool open " +
                         name.pool + " dir:/PATH";
  }
  const MonotonicTime deadline = executor_.now() + limits::kRestoreTime;
  Timer timer([](void* context) { static_cast<Condition*>(context)->notify_all(); }, &changed_);
  executor_.arm(timer, deadline);
  const auto is_opening = [](const auto& named) {
    return named.second->state == ServiceState::opening;
  };
  while (executor_.now() < deadline &&
         (std::any_of(pools_.begin(), pools_.end(), is_opening) ||
          std::any_of(attachments_.begin(), attachments_.end(), is_opening))) {
    co_await changed_.wait();
  }
  const std::string warning = co_await save_state();
  if (!warning.empty()) log_warning(warning);
  co_return Result<void>{};
}

Task<void> Host::stop() {
  running_ = false;
  for (auto& [name, entry] : pools_) {
    stop_tending(*entry, true);
    entry->trash_stopped = true;
  }
  co_await release_machines();
  for (auto& [name, attachment] : attachments_) {
    ++stops_under_way_;
    background_.spawn(stop_one(name));
  }
  const MonotonicTime deadline = executor_.now() + limits::kHeldStopTime;
  for (std::size_t i = 0; stops_under_way_ > 0; ++i) {
    // What storage holds is as safe after a kill as after any wait.
    if (executor_.now() > deadline && is_only_held_left()) {
      log_warning("stopping while requests are held: volumes are left as after a crash");
      has_given_up_ = true;
      co_return;
    }
    background_.spawn(refresh_services(i % loops_.size()));
    co_await sleep_for(executor_, stops_under_way_ > 0 && i < 20 ? 5ms : 50ms);
  }
  // What is under way ends by itself; the caller's patience is the bound.
  for (auto& [name, entry] : pools_) {
    const NameLocks::Lock lock = co_await locks_.acquire(name);
    while (entry->users > 0) co_await sleep_for(executor_, 5ms);
    co_await close_entry(*entry);
  }
  const NameLocks::Lock lock = co_await locks_.acquire(kStateLock);
}

Result<void> Host::check_running() const {
  if (running_) return {};
  return Error(ErrorCode::busy, "holdfastd is shutting down; start it again first");
}

Result<Host::PoolEntry*> Host::find_pool(const std::string& name) const {
  TRY(check_running());
  const auto at = pools_.find(name);
  if (at != pools_.end()) return at->second.get();
  std::vector<std::string> known;
  for (const auto& [other, entry] : pools_) known.push_back(other);
  const std::string near = suggestion(name, known);
  std::string shown = name.substr(0, limits::kNameBytesMax);
  return Error(ErrorCode::not_found,
               "no pool '" + shown + "'" +
                   (!near.empty()   ? near
                    : known.empty() ? "; no pool is open: holdfast pool open NAME dir:/PATH"
                                    : "; 'holdfast pool list' shows the open ones"));
}

Result<Host::PoolEntry*> Host::find_open_pool(const std::string& name) const {
  PoolEntry* entry = TRY(find_pool(name));
  if (entry->state == ServiceState::open) return entry;
  if (entry->state == ServiceState::opening) {
    return Error(ErrorCode::busy,
                 "pool '" + name + "' is still being opened; try again in a moment");
  }
  return Error(ErrorCode::path_failure, "pool '" + name + "' cannot be used now: " + entry->reason +
                                            "; holdfastd goes on trying to open it");
}

HostState Host::state() const {
  HostState state;
  for (const auto& [name, entry] : pools_) state.pools.push_back({name, entry->location});
  for (const auto& [name, entry] : pools_) {
    if (!entry->identity.has_value()) continue;
    state.hosts.push_back({name, environment_.host_name, environment_.boot_id, *entry->identity});
  }
  for (const auto& [name, attachment] : attachments_) {
    if (attachment->state == ServiceState::detaching || transfers_.contains(name)) continue;
    state.attachments.push_back({name.pool, name.volume, attachment->protocol,
                                 attachment->read_only, attachment->since, attachment->qmp_path,
                                 attachment->mode, attachment->shared_since.value});
  }
  for (const auto& [name, hold] : volume_holds_) {
    state.volume_settings.push_back({name.pool, name.volume, hold});
  }
  for (const auto& [served, transfer] : transfers_) {
    state.transfers.push_back({served.pool, served.volume, transfer->kind, transfer->name,
                               transfer->since, transfer->snapshot});
  }
  state.paused_machines = paused_before_;
  for (const auto& [path, machine] : machines_) {
    if (machine->is_ours()) state.paused_machines.push_back(path);
  }
  return state;
}

Task<std::string> Host::save_state() {
  const NameLocks::Lock lock = co_await locks_.acquire(kStateLock);
  HostState now = state();
  const auto saved = co_await store_.save(std::move(now));
  if (saved.ok()) {
    if (!state_error_.empty()) log_info("the state is saved again in " + store_.path());
    state_error_.clear();
    co_return std::string();
  }
  state_error_ = saved.error().message();
  log_warning("the state could not be saved: " + state_error_);
  if (!retrying_save_) {
    retrying_save_ = true;
    background_.spawn(retry_saving());
  }
  co_return "this could not be recorded yet (" + state_error_ +
      "): a restart of holdfastd would not know of it; make room there, holdfastd goes on trying";
}

Task<void> Host::retry_saving() {
  Duration delay = limits::kReopenDelayMin;
  while (running_) {
    co_await sleep_for(executor_, delay);
    delay = std::min(delay * 2, limits::kReopenDelayMax);
    const std::string warning = co_await save_state();
    if (warning.empty()) break;
  }
  retrying_save_ = false;
}

Task<Result<StatusReport>> Host::status() {
  CO_TRY(check_running());
  co_await refresh(true);
  StatusReport status;
  status.runtime_directory = config_.runtime_directory;
  status.state_directory = config_.state_directory;
  status.state_error = state_error_;
  status.started = started_wall_;
  status.uptime = executor_.now() - started_;
  for (const auto& [name, entry] : pools_) status.pools.push_back(report(*entry));
  for (const auto& [name, attachment] : attachments_) {
    VolumeReport volume;
    volume.name = name;
    const auto pool = pools_.find(name.pool);
    if (pool != pools_.end() && pool->second->count.has_value()) {
      const auto& counted = pool->second->count->volumes;
      const auto at = counted.find(name.volume);
      if (at != counted.end()) volume.allocated_bytes = at->second.allocated_bytes;
    }
    add_live_report(*attachment, volume);
    add_hold_policy(name, volume);
    add_preallocation(volume);
    status.volumes.push_back(std::move(volume));
  }
  co_return status;
}

}  // namespace holdfast
