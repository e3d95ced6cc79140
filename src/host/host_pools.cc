// SPDX-License-Identifier: Apache-2.0
//
// Commands on pools, and opening those again that could not be opened at once.
#include <algorithm>

#include "base/log.h"
#include "host/host.h"
#include "host/host_entries.h"
#include "host/names.h"
#include "pool/open_pool.h"

namespace holdfast {
namespace {

// "dir:/srv/vms/" and "dir:/srv/vms" are one place.
std::string normalized(std::string location) {
  while (location.size() > 5 && location.back() == '/') location.pop_back();
  return location;
}

}  // namespace

Task<Result<void>> Host::check_new_pool(std::string name, std::string location) {
  CO_TRY(check_running());
  CO_TRY(check_name("pool", name));
  if (pools_.contains(name)) {
    co_return Error(ErrorCode::already_exists, "pool '" + name + "' is open already, at " +
                                                   pools_.at(name)->location +
                                                   "; choose another name");
  }
  for (const auto& [other, entry] : pools_) {
    if (normalized(entry->location) == normalized(location)) {
      co_return Error(ErrorCode::already_exists, location + " is open already, as pool '" + other +
                                                     "'; use that name, or close it first");
    }
  }
  if (pools_.size() >= limits::kPoolsMax) {
    co_return Error(ErrorCode::busy, std::to_string(limits::kPoolsMax) +
                                         " pools are open, which is the most; close one first");
  }
  co_return Result<void>{};
}

Task<Result<PoolChange>> Host::create_pool(CreatePoolRequest request) {
  const NameLocks::Lock lock = co_await locks_.acquire(request.name);
  CO_TRY(co_await check_new_pool(request.name, request.location));
  if (request.segment_bytes < limits::kSegmentBytesMin ||
      request.segment_bytes > limits::kSegmentBytesMax ||
      request.segment_bytes % kBlockBytes != 0) {
    co_return Error(ErrorCode::invalid_argument,
                    "a segment size of " + format_bytes(request.segment_bytes) +
                        " is not possible: it must be a multiple of 4 KiB from " +
                        format_bytes(limits::kSegmentBytesMin) + " to " +
                        format_bytes(limits::kSegmentBytesMax) + "; the default is " +
                        format_bytes(limits::kSegmentBytesDefault));
  }
  CO_TRY(check_lease_times(request.io_timeout_seconds, request.watchdog_seconds));
  auto entry = std::make_unique<PoolEntry>();
  entry->name = request.name;
  entry->location = normalized(request.location);
  entry->file_system = environment_.make_file_system();
  const PoolContext context{executor_, *entry->file_system, environment_.holder,
                            environment_.host_name};
  PoolCreateOptions options;
  options.shared = request.shared;
  options.segment_bytes = request.segment_bytes;
  options.io_timeout_seconds = static_cast<std::uint16_t>(request.io_timeout_seconds);
  options.watchdog_seconds = static_cast<std::uint16_t>(request.watchdog_seconds);
  auto pool = co_await holdfast::create_pool(context, entry->location, options);
  if (!pool.ok()) co_return pool.take_error();
  entry->pool = std::move(pool).value();
  if (entry->pool->info().shared) {
    CO_TRY(co_await join_hosts(*entry, HostIdentity{1, 1}));
  }
  entry->state = ServiceState::open;
  entry->knows_trash = true;
  pools_.emplace(request.name, std::move(entry));
  log_info("pool " + request.name + " was created at " + request.location);
  PoolChange change;
  change.warning = co_await save_state();
  co_await refresh_space(request.name, Count::when_due);
  CO_TRY_ASSIGN(PoolEntry * created, find_pool(request.name));
  change.pool = report(*created);
  co_return change;
}

Task<Result<PoolChange>> Host::open_pool(PoolLocation request) {
  const NameLocks::Lock lock = co_await locks_.acquire(request.name);
  CO_TRY(check_running());
  const auto known = pools_.find(request.name);
  PoolEntry* entry = nullptr;
  if (known != pools_.end() &&
      normalized(known->second->location) == normalized(request.location)) {
    entry = known->second.get();
    if (entry->state != ServiceState::open) {
      CO_TRY(co_await open_entry(*entry));
    }
  } else {
    CO_TRY(co_await check_new_pool(request.name, request.location));
    auto fresh = std::make_unique<PoolEntry>();
    fresh->name = request.name;
    fresh->location = normalized(request.location);
    CO_TRY(co_await open_entry(*fresh));
    entry = pools_.emplace(request.name, std::move(fresh)).first->second.get();
    log_info("pool " + request.name + " is open at " + request.location);
  }
  // What was attached in it before is served again.
  for (auto& [name, attachment] : attachments_) {
    if (name.pool == request.name && attachment->state != ServiceState::open &&
        !attachment->keeping) {
      background_.spawn(keep_serving(name));
    }
  }
  PoolChange change;
  change.warning = co_await save_state();
  co_await refresh_space(request.name, Count::when_due);
  change.pool = report(*entry);
  co_return change;
}

Task<Result<void>> Host::open_entry(PoolEntry& entry) {
  if (entry.file_system == nullptr) entry.file_system = environment_.make_file_system();
  const PoolContext context{executor_, *entry.file_system, environment_.holder,
                            environment_.host_name};
  auto pool = co_await holdfast::open_pool(context, entry.location);
  if (!pool.ok()) {
    entry.state = ServiceState::failed;
    entry.reason = pool.error().message();
    changed_.notify_all();
    co_return pool.take_error();
  }
  entry.pool = std::move(pool).value();
  if (entry.pool->info().shared) {
    const auto joined = co_await join_hosts(entry, entry.identity);
    if (!joined.ok()) {
      entry.pool.reset();
      entry.state = ServiceState::failed;
      entry.reason = joined.error().message();
      changed_.notify_all();
      co_return joined.error();
    }
    background_.spawn(refresh_leases(entry.name));
  }
  entry.state = ServiceState::open;
  entry.reason.clear();
  entry.knows_thin = entry.knows_trash = false;
  stop_tending(entry, false);
  wake_tender(entry);
  changed_.notify_all();
  co_return Result<void>{};
}

// Looks all attached volumes up at once, where each by itself would read the whole pool's list.
Task<void> Host::find_records(PoolEntry& entry) {
  const PoolUse use(entry);
  const auto volumes = co_await entry.pool->list_volumes();
  if (!volumes.ok()) co_return;  // each will say so itself
  for (const VolumeRecord& volume : volumes.value()) {
    Attachment* attachment = find_attachment(VolumeName{entry.name, volume.name});
    if (attachment != nullptr && !attachment->served.has_value()) attachment->record = volume;
  }
}

// Under the pool's lock, when nobody uses it.
Task<void> Host::close_entry(PoolEntry& entry) {
  // What is attached stays ours while a daemon is started again; with nothing attached, nobody has
  // to wait for us.
  const bool is_in_use = std::any_of(attachments_.begin(), attachments_.end(),
                                     [&](auto& each) { return each.first.pool == entry.name; });
  co_await leave_hosts(entry, !is_in_use);
  const std::unique_ptr<Pool> pool = std::move(entry.pool);  // its lock outlives the views
  for (const auto& loop : loops_) {
    auto command = [name = entry.name](ServiceShard& shard) { return shard.drop_view(name); };
    (void)co_await loop->run(std::move(command));
  }
}

Task<void> Host::keep_opening(std::string name) {
  Duration delay = limits::kReopenDelayMin;
  for (;;) {
    {
      const NameLocks::Lock lock = co_await locks_.acquire(name);
      const auto at = pools_.find(name);
      if (!running_ || at == pools_.end() || at->second->state == ServiceState::open) co_return;
      const auto opened = co_await open_entry(*at->second);
      if (opened.ok()) {
        log_info("pool " + name + " is open at " + at->second->location);
        if (at->second->identity.has_value()) (void)co_await save_state();
        co_await find_records(*at->second);
        for (auto& [volume, attachment] : attachments_) {
          if (volume.pool == name) background_.spawn(keep_serving(volume));
        }
        co_return;
      }
      log_error("pool " + name + " cannot be opened: " + opened.error().message());
      for (auto& [volume, attachment] : attachments_) {
        if (volume.pool != name) continue;
        attachment->state = ServiceState::failed;
        attachment->reason = "its pool cannot be opened: " + opened.error().message();
      }
    }
    co_await sleep_for(executor_, delay);
    delay = std::min(delay * 2, limits::kReopenDelayMax);
  }
}

// Asks every loop (and every pool) at once, and waits a bounded time: the status must not hang with
// the storage.
Task<void> Host::refresh(bool with_pools) {
  for (const auto& [name, entry] : pools_) {
    if (with_pools) background_.spawn(refresh_space(name, Count::when_due));
    background_.spawn(refresh_leases(name));
  }
  for (std::size_t i = 0; i < loops_.size(); ++i) background_.spawn(refresh_services(i));
  const MonotonicTime deadline = executor_.now() + limits::kStatusTime;
  Timer timer([](void* context) { static_cast<Condition*>(context)->notify_all(); }, &changed_);
  executor_.arm(timer, deadline);
  const auto is_awaited = [this, with_pools] {
    return std::any_of(loops_.begin(), loops_.end(),
                       [](const auto& loop) { return loop->refreshing; }) ||
           (with_pools && std::any_of(pools_.begin(), pools_.end(),
                                      [](const auto& named) { return named.second->refreshing; }));
  };
  while (executor_.now() < deadline && is_awaited()) co_await changed_.wait();
  if (!with_pools) co_return;
  for (const auto& [name, entry] : pools_) entry->silent = entry->refreshing;
}

PoolReport Host::report(const PoolEntry& entry) const {
  PoolReport report;
  report.name = entry.name;
  report.location = entry.location;
  report.state = entry.state;
  report.reason = entry.reason;
  if (entry.silent && entry.refreshing) {
    report.reason = "the storage does not answer; the figures are older ones";
  } else if (entry.state == ServiceState::opening &&
             executor_.now() - started_ >= limits::kStatusTime) {
    report.reason = "the storage has not answered yet";
  }
  if (entry.pool != nullptr) {
    const PoolInfo& info = entry.pool->info();
    report.open = PoolReport::Open{info.id, info.shared, info.segment_bytes, info.format_version,
                                   info.created};
    if (entry.space.has_value()) report.space = space_report(entry);
    if (entry.space.has_value() && entry.count.has_value()) report.volumes = volumes_report(entry);
    report.volume_count = entry.volume_count;
    report.trash = trash_report(entry);
    report.leases = leases_report(entry);
  }
  return report;
}

Task<Result<std::vector<PoolReport>>> Host::list_pools() {
  CO_TRY(check_running());
  co_await refresh(true);
  std::vector<PoolReport> reports;
  for (const auto& [name, entry] : pools_) reports.push_back(report(*entry));
  co_return reports;
}

Task<Result<PoolReport>> Host::show_pool(std::string name) {
  CO_TRY_ASSIGN(PoolEntry * entry, find_pool(name));
  const PoolUse use(*entry);
  if (entry->pool == nullptr) co_return report(*entry);
  co_await refresh(false);
  while (entry->refreshing) co_await changed_.wait();
  co_await refresh_space(name, Count::now);
  co_return report(*entry);
}

Task<Result<DoneAnswer>> Host::close_pool(std::string name) {
  const NameLocks::Lock lock = co_await locks_.acquire(name);
  CO_TRY_ASSIGN(PoolEntry * entry, find_pool(name));
  // A status that is just asking for the space ends soon; anything longer is for a person to see.
  const MonotonicTime deadline = executor_.now() + limits::kStatusTime;
  stop_tending(*entry, true);
  // A removal that is cut short goes on when the pool is opened again: not for a close that fails.
  entry->trash_stopped = std::none_of(attachments_.begin(), attachments_.end(),
                                      [&](const auto& each) { return each.first.pool == name; });
  while (entry->users > 0 && executor_.now() < deadline) co_await sleep_for(executor_, 5ms);
  if (entry->users > 0) {
    entry->trash_stopped = false;
    stop_tending(*entry, false);
    co_return Error(ErrorCode::busy, "another operation on pool '" + name +
                                         "' is still under way; try again in a moment");
  }
  std::string attached;
  std::size_t attached_count = 0;
  for (const auto& [volume, attachment] : attachments_) {
    if (volume.pool != name) continue;
    if (attached_count++ == 0) attached = volume.to_string();
  }
  if (attached_count > 0) {
    entry->trash_stopped = false;
    stop_tending(*entry, false);
    co_return Error(
        ErrorCode::busy,
        "pool '" + name + "' has attached volumes (" + attached +
            (attached_count > 1 ? " and " + std::to_string(attached_count - 1) + " more" : "") +
            "); detach them first: holdfast detach " + attached);
  }
  const std::unique_ptr<PoolEntry> closing = std::move(pools_.at(name));
  pools_.erase(name);
  co_await close_entry(*closing);
  log_info("pool " + name + " was closed");
  DoneAnswer answer;
  answer.warning = co_await save_state();
  co_return answer;
}

}  // namespace holdfast
