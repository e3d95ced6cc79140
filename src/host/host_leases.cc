// SPDX-License-Identifier: Apache-2.0
//
// Leases of volumes: taking them, who has them, and handing them over. Only shared pools have any;
// a local one is guarded as a whole, by a file lock.
#include <algorithm>

#include "base/log.h"
#include "host/host.h"
#include "host/host_entries.h"
#include "host/leases.h"
#include "host/names.h"

namespace holdfast {
namespace {

Error no_leases(const std::string& pool) {
  return Error(ErrorCode::unsupported,
               "pool '" + pool +
                   "' is local: this daemon alone uses it, guarded by a file lock, and its volumes "
                   "have no leases");
}

LeaseReport lease_report(const PoolInfo& pool, const VolumeName& name, const LeaseHolder& holder) {
  LeaseReport report;
  report.volume = name;
  report.is_held = holder.claim != LeaseClaim::free;
  report.mode = !report.is_held ? "free" : holder.sharers.empty() ? "exclusive" : "shared";
  report.sharers = holder.sharers;
  report.host_id = holder.host.host_id;
  report.host = holder.host_name;
  report.generation = holder.host.generation;
  report.lver = holder.lver;
  report.is_ours = holder.claim == LeaseClaim::own;
  report.holder_state = holder.state;
  if (report.is_held) {
    report.last_renewal_age = holder.unchanged;
    if (!report.is_ours) report.take_over_in = holder.take_over_after;
  }
  judge_overdue(report, lease_times(pool));
  return report;
}

Renewals renewals_of(const KeeperReport& keeper, bool with_history) {
  Renewals renewals;
  renewals.last_age = keeper.last_renewal_age;
  renewals.count = keeper.renewal_count;
  renewals.failures = keeper.renewal_failures;
  for (auto at = keeper.renewals.rbegin(); at != keeper.renewals.rend(); ++at) {
    if (renewals.last_write == Duration{} && at->ok) {
      renewals.last_read = at->read;
      renewals.last_write = at->write;
    }
    renewals.write_max = std::max(renewals.write_max, at->write);
    if (!with_history) continue;
    renewals.history.push_back({keeper.now - at->at, at->read, at->write, at->ok});
  }
  return renewals;
}

}  // namespace

// --- Pools ---

// Claims a host id, or goes on with that of the daemon before. May take some seconds.
Task<Result<void>> Host::join_hosts(PoolEntry& entry, std::optional<HostIdentity> before) {
  LeaseOptions options;
  options.host_name = environment_.host_name;
  options.before = before;
  options.on_request = [weak = std::weak_ptr<Host*>(alive_), pool = entry.name](VolumeId volume,
                                                                                bool now) {
    if (const auto host = weak.lock()) (*host)->lease_requested(pool, volume, now);
  };
  entry.leases = std::make_unique<PoolLeases>(executor_, environment_.leases, entry.pool->info(),
                                              std::move(options));
  if (!before.has_value()) {
    log_info("pool " + entry.name + ": joins the hosts that use it, which takes up to " +
             std::to_string(5 * entry.pool->info().io_timeout_seconds) + " s");
  }
  auto command = [](LeaseKeeper& keeper) { return keeper.join(); };
  auto joined = co_await entry.leases->run(std::move(command));
  if (!joined.ok()) {
    co_await leave_hosts(entry, false);
    co_return joined.take_error();
  }
  entry.identity = joined.value();
  co_return Result<void>{};
}

namespace {

Task<bool> leave(LeaseKeeper* keeper, bool release) {
  co_await keeper->leave(release);
  co_return true;
}

}  // namespace

// `release`: for good; else what is attached stays ours, for a daemon that comes soon.
Task<void> Host::leave_hosts(PoolEntry& entry, bool release) {
  if (entry.leases == nullptr) co_return;
  if (release) {
    // A life that has ended must not be gone on with: its release may still land.
    entry.identity.reset();
    (void)co_await save_state();
  }
  auto command = [release](LeaseKeeper& keeper) { return leave(&keeper, release); };
  (void)co_await entry.leases->run(std::move(command));
  entry.leases.reset();
}

Result<Host::PoolEntry*> Host::find_shared_pool(const std::string& name) const {
  PoolEntry* entry = TRY(find_open_pool(name));
  if (!entry->pool->info().shared) return no_leases(name);
  return entry;
}

Result<void> Host::check_attach_mode(const VolumeName& name, AttachMode mode) const {
  if (mode == AttachMode::exclusive) return {};
  const PoolEntry* entry = TRY(find_open_pool(name.pool));
  if (entry->pool->info().shared) return {};
  const std::string option = mode == AttachMode::incoming ? "--incoming"
                             : mode == AttachMode::shared_writable
                                 ? "--shared-writable"
                                 : "--shared (--read-only is enough)";
  return Error(ErrorCode::unsupported,
               "pool '" + name.pool + "' is local: no other host has its volumes, and '" +
                   name.to_string() + "' is this daemon's alone; leave out " + option);
}

// --- Taking and giving back ---

// The volume's lease. It may be another host's: lease_held, with who that is.
Task<Result<std::shared_ptr<const Fence>>> Host::acquire_lease(PoolEntry& entry, VolumeName name,
                                                               VolumeId id, AcquireHow how) {
  auto command = [id, how](LeaseKeeper& keeper) {
    return keeper.acquire(id, LeaseKeeper::AcquireOptions{how.only_if_still_ours, false, {}});
  };
  CO_TRY_ASSIGN(const AcquireAnswer answer, co_await entry.leases->run(std::move(command)));
  if (answer.fence != nullptr) co_return answer.fence;
  LeaseReport report = lease_report(entry.pool->info(), name, answer.holder);
  co_return lease_held_error(report, how.mode);
}

namespace {

Task<Result<void>> do_nothing() {
  co_return Result<void>{};
}

}  // namespace

// The same for reading beside other hosts. The first of them opens the volume and closes it, so
// that all that is in its log is in its maps as well: while it is shared nobody may do that.
Task<Result<std::shared_ptr<const Fence>>> Host::share_lease(PoolEntry& entry,
                                                             Attachment& attachment) {
  const VolumeName name = attachment.name;
  const VolumeId id = attachment.record->id;
  const bool was_shared = attachment.was_served_before;
  const Epoch since = was_shared ? attachment.shared_since : Epoch{};
  auto acquire = [id, since](LeaseKeeper& keeper) {
    return keeper.acquire(id, LeaseKeeper::AcquireOptions{false, true, since});
  };
  CO_TRY_ASSIGN(const AcquireAnswer answer, co_await entry.leases->run(std::move(acquire)));
  if (answer.was_changed) {
    co_return Error(ErrorCode::lease_held,
                    "volume '" + name.to_string() + "' has been changed by another host");
  }
  if (answer.fence == nullptr) {
    const LeaseReport report = lease_report(entry.pool->info(), name, answer.holder);
    Error held = lease_held_error(report, attachment.mode);
    // Of one that was served before it decides nothing: perhaps it will not be changed.
    if (was_shared) co_return Error(ErrorCode::busy, held.message());
    co_return held;
  }
  Result<void> done;
  if (!answer.is_shared && !was_shared) {
    ShardVolume volume = shard_volume(entry, name, id, false);
    volume.options.fence = answer.fence;
    auto tidy = [volume = std::move(volume)](ServiceShard& shard) {
      return shard.with_volume(volume, [](Volume&) { return do_nothing(); });
    };
    auto closed = co_await loops_[attachment.loop]->run(std::move(tidy));
    if (!closed.ok()) done = closed.take_error();
  }
  if (done.ok()) {
    auto share = [id](LeaseKeeper& keeper) { return keeper.share(id); };
    done = co_await entry.leases->run(std::move(share));
  }
  if (done.ok()) {
    attachment.shared_since = answer.fence->epoch();
    co_return answer.fence;
  }
  co_await release_lease(entry, id);
  co_return done.take_error();
}

Task<void> Host::release_lease(PoolEntry& entry, VolumeId id) {
  if (entry.leases == nullptr) co_return;
  auto command = [id](LeaseKeeper& keeper) { return keeper.release(id); };
  const auto released = co_await entry.leases->run(std::move(command));
  // Others may take it all the same, once they see that this host does not renew it.
  if (!released.ok()) log_warning(released.error().message());
}

bool Host::is_owned_here(const VolumeName& name) const {
  const Attachment* attachment = find_attachment(name);
  return attachment != nullptr && attachment->fence != nullptr;
}

// For a command on a volume that is not attached here; under the volume's lock. Null: no lease is
// needed, and none is to be released.
Task<Result<std::shared_ptr<const Fence>>> Host::own_for_command(PoolEntry& entry, VolumeName name,
                                                                 VolumeId id) {
  if (!entry.pool->info().shared) co_return std::shared_ptr<const Fence>();
  if (const Attachment* attachment = find_attachment(name);
      attachment != nullptr && attachment->is_shared()) {
    co_return Error(ErrorCode::busy,
                    "volume '" + name.to_string() +
                        "' is attached --shared, so that several hosts may read it, and is not "
                        "changed meanwhile; detach it on all of them first (holdfast lease show " +
                        name.to_string() + " lists them)");
  }
  if (is_owned_here(name)) co_return std::shared_ptr<const Fence>();
  co_return co_await acquire_lease(entry, std::move(name), id, AcquireHow());
}

Task<void> Host::disown_after_command(PoolEntry& entry, std::shared_ptr<const Fence> fence,
                                      VolumeId id) {
  if (fence != nullptr) co_await release_lease(entry, id);
}

// Before an attachment's volume is opened. What was served before this daemon was started is taken
// again only if nobody has had it since: its machine may still believe what it knew then.
Task<Result<void>> Host::take_lease(PoolEntry& entry, Attachment& attachment) {
  const bool is_snapshot = !split_snapshot(attachment.name.volume).second.empty();
  if (!entry.pool->info().shared || is_snapshot || attachment.fence != nullptr) {
    co_return Result<void>{};
  }
  const AcquireHow how{attachment.was_served_before, attachment.mode};
  const std::shared_ptr<const Fence> none;
  Result<std::shared_ptr<const Fence>> fence = none;
  if (attachment.is_shared()) {
    fence = co_await share_lease(entry, attachment);
  } else {
    fence = co_await acquire_lease(entry, attachment.name, attachment.record->id, how);
  }
  if (!fence.ok() && fence.error().code() == ErrorCode::lease_held &&
      attachment.was_served_before) {
    attachment.is_fenced = true;
    co_return Error(ErrorCode::lease_held,
                    fence.error().message() +
                        "; that was while this daemon did not serve it, so its machine here must "
                        "not go on: stop it, then holdfast detach " +
                        attachment.name.to_string());
  }
  if (!fence.ok()) co_return fence.take_error();
  attachment.fence = fence.value();
  co_return Result<void>{};
}

Task<void> Host::give_lease_back(Attachment& attachment) {
  if (attachment.fence == nullptr) co_return;
  attachment.fence.reset();
  const auto at = pools_.find(attachment.name.pool);
  if (at == pools_.end() || !attachment.record.has_value()) co_return;
  co_await release_lease(*at->second, attachment.record->id);
}

// --- Reports ---

Task<Result<KeeperReport>> Host::ask_keeper(PoolEntry& entry) {
  auto command = [](LeaseKeeper& keeper) { return report_of(&keeper); };
  co_return co_await entry.leases->run(std::move(command));
}

Task<Result<KeeperReport>> Host::report_of(LeaseKeeper* keeper) {
  co_return keeper->report();
}

// For status and metrics, which do not wait: as the keeper last said.
Task<void> Host::refresh_leases(std::string pool) {
  const auto at = pools_.find(pool);
  if (at == pools_.end() || at->second->leases == nullptr || at->second->asking_keeper) co_return;
  PoolEntry& entry = *at->second;
  const PoolUse use(entry);
  entry.asking_keeper = true;
  auto report = co_await ask_keeper(entry);
  entry.asking_keeper = false;
  if (report.ok()) {
    const bool is_new = report->self.has_value() && report->self != entry.identity;
    if (is_new) entry.identity = report->self;
    entry.keeper = std::move(report).value();
    if (is_new) (void)co_await save_state();
  }
  co_await refresh_holders(entry);
}

// Of what is attached here, and is another host's.
Task<void> Host::refresh_holders(PoolEntry& entry) {
  std::vector<VolumeName> names;
  for (const auto& [name, attachment] : attachments_) {
    const bool is_ours = attachment->fence != nullptr && !attachment->fence->is_lost();
    if (is_ours) attachment->holder.reset();
    if (name.pool != entry.name || is_ours || !split_snapshot(name.volume).second.empty()) continue;
    names.push_back(name);
  }
  for (const VolumeName& name : names) {
    const auto record = co_await find_volume(*entry.pool, name);
    if (!record.ok()) continue;
    auto holder = co_await report_lease(entry, name, record->id);
    Attachment* const attachment = find_attachment(name);
    if (attachment == nullptr || !holder.ok()) continue;
    attachment->holder.reset();
    if (holder->is_held && !holder->is_ours) attachment->holder = std::move(holder).value();
  }
}

std::optional<PoolReport::Leases> Host::leases_report(const PoolEntry& entry) const {
  if (entry.pool == nullptr || !entry.pool->info().shared) return std::nullopt;
  PoolReport::Leases leases;
  leases.io_timeout_seconds = entry.pool->info().io_timeout_seconds;
  leases.watchdog_seconds = entry.pool->info().watchdog_seconds;
  leases.host_name = environment_.host_name;
  if (!entry.keeper.has_value() || !entry.keeper->self.has_value()) return leases;
  leases.host_id = entry.keeper->self->host_id;
  leases.generation = entry.keeper->self->generation;
  leases.state = entry.keeper->is_expired ? LeaseHolderState::failing : LeaseHolderState::live;
  leases.renewals = renewals_of(*entry.keeper, false);
  return leases;
}

void Host::add_ownership(const Attachment& attachment, AttachmentReport& report) const {
  const auto at = pools_.find(attachment.name.pool);
  if (at == pools_.end() || at->second->pool == nullptr) return;
  if (!at->second->pool->info().shared) return;
  const bool is_snapshot = !split_snapshot(attachment.name.volume).second.empty();
  report.mode = attach_mode_name(is_snapshot ? AttachMode::shared_read_only : attachment.mode);
  if (is_snapshot) return;
  OwnershipReport lease;
  if (attachment.fence == nullptr) {
    lease.state = attachment.is_fenced        ? "fenced"
                  : attachment.is_handed_over ? "handed-over"
                                              : "waiting";
  } else {
    lease.epoch = attachment.fence->epoch().value;
    lease.state = attachment.fence->is_lost()                       ? "fenced"
                  : !attachment.fence->holds(executor_.boot_time()) ? "expired"
                                                                    : "held";
  }
  if (attachment.holder.has_value()) {
    lease.holder = attachment.holder->host;
    lease.take_over_in = attachment.holder->take_over_in;
  }
  report.lease = std::move(lease);
}

Task<Result<std::vector<LeaseReport>>> Host::list_leases(std::string pool) {
  CO_TRY(check_running());
  std::vector<std::string> pools;
  if (!pool.empty()) {
    CO_TRY(find_shared_pool(pool));
    pools.push_back(pool);
  } else {
    for (const auto& [name, entry] : pools_) {
      if (entry->leases != nullptr) pools.push_back(name);
    }
  }
  std::vector<LeaseReport> reports;
  for (const std::string& name : pools) {
    CO_TRY_ASSIGN(PoolEntry * entry, find_shared_pool(name));
    const PoolUse use(*entry);
    CO_TRY_ASSIGN(const std::vector<VolumeRecord> volumes, co_await entry->pool->list_volumes());
    for (const VolumeRecord& volume : volumes) {
      const VolumeName full{name, volume.name};
      auto report = co_await report_lease(*entry, full, volume.id);
      if (report.ok()) {
        reports.push_back(std::move(report).value());
      } else if (report.error().code() != ErrorCode::not_found) {  // removed meanwhile
        co_return report.take_error();
      }
    }
  }
  co_return reports;
}

Task<Result<LeaseReport>> Host::report_lease(PoolEntry& entry, VolumeName name, VolumeId id) {
  auto command = [id](LeaseKeeper& keeper) { return keeper.show(id); };
  CO_TRY_ASSIGN(const LeaseHolder holder, co_await entry.leases->run(std::move(command)));
  LeaseReport report = lease_report(entry.pool->info(), name, holder);
  if (const Attachment* attachment = find_attachment(name);
      attachment != nullptr && attachment->fence != nullptr && report.is_ours) {
    report.since = attachment->since;
    if (entry.keeper.has_value()) report.last_renewal_age = entry.keeper->last_renewal_age;
  }
  co_return report;
}

Task<Result<LeaseReport>> Host::show_lease(VolumeName name) {
  CO_TRY_ASSIGN(PoolEntry * entry, find_shared_pool(name.pool));
  const PoolUse use(*entry);
  CO_TRY_ASSIGN(const VolumeRecord record, co_await find_volume(*entry->pool, name));
  co_return co_await report_lease(*entry, std::move(name), record.id);
}

Task<Result<LeaseReport>> Host::break_lease(VolumeName name) {
  CO_TRY_ASSIGN(PoolEntry * entry, find_shared_pool(name.pool));
  const NameLocks::Lock lock = co_await locks_.acquire(name.to_string());
  const PoolUse use(*entry);
  CO_TRY_ASSIGN(const VolumeRecord record, co_await find_volume(*entry->pool, name));
  CO_TRY_ASSIGN(const LeaseReport found, co_await report_lease(*entry, name, record.id));
  const bool is_left_over = found.is_ours && find_attachment(name) == nullptr;
  if (!is_left_over) {
    CO_TRY(check_breakable(found));
  }
  auto command = [id = record.id](LeaseKeeper& keeper) { return keeper.break_lease(id); };
  auto broken = co_await entry->leases->run(std::move(command));
  if (!broken.ok()) {
    co_return broken.take_error().context("cannot break the lease of '" + name.to_string() + "'");
  }
  log_warning("the lease of volume " + name.to_string() + " was broken by command");
  co_return lease_report(entry->pool->info(), name, broken.value());
}

Task<Result<std::vector<PoolHostReport>>> Host::list_hosts(std::string pool) {
  CO_TRY_ASSIGN(PoolEntry * entry, find_shared_pool(pool));
  const PoolUse use(*entry);
  CO_TRY_ASSIGN(const KeeperReport keeper, co_await ask_keeper(*entry));
  std::vector<PoolHostReport> reports;
  for (const KeeperReport::Host& host : keeper.hosts) {
    PoolHostReport report;
    report.host_id = host.identity.host_id;
    report.name = host.name;
    report.generation = host.identity.generation;
    report.state = host.state;
    report.io_timeout_seconds = host.io_timeout_seconds;
    report.is_this = host.is_this;
    if (host.state != HostLiveness::free) report.unchanged = host.unchanged;
    report.dead_in = host.dead_in;
    if (host.is_this) {
      report.unchanged = keeper.last_renewal_age;
      report.state = keeper.is_expired ? LeaseHolderState::failing : LeaseHolderState::live;
      report.renewals = renewals_of(keeper, true);
    }
    judge_overdue(report, lease_times(entry->pool->info()));
    reports.push_back(std::move(report));
  }
  co_return reports;
}

// --- Handing over ---

// Another host wants a volume: one that takes a virtual machine over does, once the machine has
// stopped here.
void Host::lease_requested(const std::string& pool, VolumeId volume, bool now) {
  if (!now || !running_) return;
  for (const auto& [name, attachment] : attachments_) {
    if (name.pool != pool || attachment->fence == nullptr || attachment->is_shared() ||
        attachment->is_changing_hands || !attachment->record.has_value() ||
        attachment->record->id != volume) {
      continue;
    }
    attachment->is_changing_hands = true;
    background_.spawn(hand_over_when_quiet(name));
  }
}

// A machine that still asks for something has not stopped, whatever the other host says.
Task<void> Host::hand_over_when_quiet(VolumeName name) {
  const MonotonicTime deadline = executor_.now() + limits::kHandOverPatience;
  bool is_quiet = false;
  while (running_ && !is_quiet && executor_.now() < deadline) {
    Attachment* attachment = find_attachment(name);
    if (attachment == nullptr || attachment->fence == nullptr || attachment->is_shared()) break;
    auto command = [name](ServiceShard& shard) {
      return shard.is_quiet(name, limits::kHandOverQuiet);
    };
    is_quiet = co_await loops_[attachment->loop]->run(std::move(command));
  }
  const NameLocks::Lock lock = co_await locks_.acquire(name.to_string());
  Attachment* attachment = find_attachment(name);
  if (attachment == nullptr) co_return;
  attachment->is_changing_hands = false;
  if (!running_ || attachment->fence == nullptr || attachment->is_shared()) co_return;
  if (!is_quiet) {
    log_warning("volume " + name.to_string() +
                " was asked for by another host, and is not handed over: its clients here still "
                "use it");
    co_return;
  }
  const auto given = co_await give_away(*attachment);
  if (!given.ok()) log_warning("volume " + name.to_string() + ": " + given.error().message());
}

// Under the volume's lock.
Task<Result<void>> Host::give_away(Attachment& attachment) {
  CO_TRY_ASSIGN(PoolEntry * entry, find_open_pool(attachment.name.pool));
  const PoolUse use(*entry);
  auto command = [name = attachment.name](ServiceShard& shard) { return shard.hand_over(name); };
  attachment.is_wanted = false;
  CO_TRY(co_await loops_[attachment.loop]->run(std::move(command)));
  attachment.served.reset();
  attachment.is_handed_over = true;
  co_await give_lease_back(attachment);
  log_info("volume " + attachment.name.to_string() + " was handed over");
  if (attachment.is_wanted) volume_wanted(attachment.name);
  changed_.notify_all();
  co_return Result<void>{};
}

Task<Result<HandOverAnswer>> Host::hand_over(VolumeName name) {
  CO_TRY(find_shared_pool(name.pool));
  const NameLocks::Lock lock = co_await locks_.acquire(name.to_string());
  CO_TRY(check_running());
  Attachment* attachment = find_attachment(name);
  if (attachment == nullptr || attachment->fence == nullptr || !attachment->served.has_value()) {
    co_return Error(ErrorCode::not_found,
                    "volume '" + name.to_string() + "' is not served here; nothing was done");
  }
  if (attachment->is_shared()) {
    co_return Error(ErrorCode::invalid_argument,
                    "volume '" + name.to_string() +
                        "' is attached --shared: other hosts can attach it so as well, without a "
                        "hand-over");
  }
  HandOverAnswer answer;
  answer.volume = name;
  const MonotonicTime began = executor_.now();
  CO_TRY(co_await give_away(*attachment));
  answer.duration = executor_.now() - began;
  co_return answer;
}

// Clients may come, and what they want waits until the volume is here.
Task<Result<void>> Host::await_volume(PoolEntry& entry, Attachment& attachment) {
  attachment.was_served_before = false;
  auto command = [settings = service_settings(attachment),
                  volume = shard_volume(entry, attachment.name, attachment.record->id,
                                        attachment.read_only)](ServiceShard& shard) {
    return shard.await_volume(settings, volume);
  };
  CO_TRY(co_await loops_[attachment.loop]->run(std::move(command)));
  attachment.state = ServiceState::open;
  attachment.reason.clear();
  changed_.notify_all();
  // So that the holder listens, and hears of it at once when it is wanted.
  auto announce = [id = attachment.record->id](LeaseKeeper& keeper) {
    return keeper.request(id, false);
  };
  co_return co_await entry.leases->run(std::move(announce));
}

// A client here wants a volume that is not here.
void Host::volume_wanted(const VolumeName& name) {
  Attachment* attachment = find_attachment(name);
  if (!running_ || attachment == nullptr) return;
  attachment->is_wanted = true;
  if (attachment->fence != nullptr || attachment->is_changing_hands) return;
  attachment->is_changing_hands = true;
  background_.spawn(take_over(name));
}

Task<void> Host::take_over(VolumeName name) {
  log_info("volume " + name.to_string() + " is wanted here");
  MonotonicTime next_request = executor_.now();
  for (bool done = false; !done;) {
    const bool with_request = executor_.now() >= next_request;
    if (with_request) next_request = executor_.now() + limits::kLeaseRequestRepeat;
    const auto tried = co_await try_take_over(name, with_request);
    done = !tried.ok() || tried.value();
    if (!tried.ok()) {
      log_error("volume " + name.to_string() + " cannot be served: " + tried.error().message());
    }
    if (!done) co_await sleep_for(executor_, limits::kLeaseRequestTime);
  }
  if (Attachment* attachment = find_attachment(name)) attachment->is_changing_hands = false;
}

// True: it is served here now, or nobody wants it any more.
Task<Result<bool>> Host::try_take_over(VolumeName name, bool with_request) {
  const NameLocks::Lock lock = co_await locks_.acquire(name.to_string());
  Attachment* attachment = find_attachment(name);
  if (!running_ || attachment == nullptr || attachment->fence != nullptr ||
      !attachment->record.has_value() || attachment->state == ServiceState::detaching) {
    co_return true;
  }
  auto entry = find_open_pool(name.pool);
  if (!entry.ok()) co_return false;  // once it is open again
  const PoolUse use(*entry.value());
  if (with_request) {
    auto ask = [id = attachment->record->id](LeaseKeeper& keeper) {
      return keeper.request(id, true);
    };
    (void)co_await entry.value()->leases->run(std::move(ask));  // else in the next round
  }
  // What was given away is taken back only if nobody has had it since.
  attachment->was_served_before = attachment->is_handed_over;
  const auto owned = co_await take_lease(*entry.value(), *attachment);
  if (attachment->is_fenced) co_return owned.error();
  if (!owned.ok()) co_return false;
  const auto opened = co_await open_service(*entry.value(), *attachment);
  if (!opened.ok()) {
    co_await give_lease_back(*attachment);
    log_error("volume " + name.to_string() + " cannot be served yet: " + opened.error().message());
    co_return false;
  }
  attachment->mode = AttachMode::exclusive;
  attachment->is_handed_over = false;
  attachment->was_served_before = false;
  log_info("volume " + name.to_string() + " is served here now");
  (void)co_await save_state();  // a failure is shown in the status, and tried again
  co_return true;
}

}  // namespace holdfast
