// SPDX-License-Identifier: Apache-2.0
//
// What is done about requests that are held for long: pausing virtual machines, failing requests.
#include <algorithm>

#include "base/log.h"
#include "host/host.h"
#include "host/host_entries.h"

namespace holdfast {
namespace {

constexpr std::size_t kMonitorPathBytesMax = 107;  // of sockaddr_un, without the final zero

}  // namespace

Result<void> Host::check_monitor(const std::string& path) const {
  if (path.empty() || (path.front() == '/' && path.size() <= kMonitorPathBytesMax &&
                       path.find('\0') == std::string::npos)) {
    return {};
  }
  return Error(ErrorCode::invalid_argument,
               "'" + path.substr(0, 120) +
                   "' is no path of a QMP socket; it is absolute and has at most " +
                   std::to_string(kMonitorPathBytesMax) + " bytes");
}

HoldPolicy Host::hold_policy(const VolumeName& name) const {
  const auto volume = volume_holds_.find(name);
  const auto pool = config_.pool_holds.find(name.pool);
  return resolve_hold_policy(volume == volume_holds_.end() ? HoldSettings{} : volume->second,
                             pool == config_.pool_holds.end() ? HoldSettings{} : pool->second,
                             config_.hold);
}

void Host::add_hold_policy(const VolumeName& name, VolumeReport& report) const {
  const HoldPolicy policy = hold_policy(name);
  report.hold_pause_after = format_hold_time(policy.pause_after);
  report.hold_fail_after = format_hold_time(policy.fail_after);
}

Task<Result<VolumeReport>> Host::set_volume(SetVolumeRequest request) {
  const NameLocks::Lock lock = co_await locks_.acquire(request.name.to_string());
  CO_TRY_ASSIGN(PoolEntry * entry, find_open_pool(request.name.pool));
  const PoolUse use(*entry);
  CO_TRY_ASSIGN(VolumeRecord record, co_await find_volume(*entry->pool, request.name));
  const auto known = volume_holds_.find(request.name);
  HoldSettings settings = known == volume_holds_.end() ? HoldSettings{} : known->second;
  for (const auto& [name, value] : request.settings) {
    CO_TRY(apply_hold_setting(settings, name, value));
  }
  if (settings.is_empty()) {
    volume_holds_.erase(request.name);
  } else {
    if (known == volume_holds_.end() && volume_holds_.size() >= limits::kVolumeSettingsMax) {
      co_return Error(ErrorCode::busy, std::to_string(limits::kVolumeSettingsMax) +
                                           " volumes have settings of their own, which is the "
                                           "most; set them for the pool in the configuration");
    }
    volume_holds_[request.name] = settings;
  }
  const std::string warning = co_await save_state();
  if (!warning.empty()) log_warning(warning);
  co_return co_await report_volume(*entry->pool, request.name, std::move(record));
}

// --- Watching ---

Task<void> Host::watch_holds() {
  while (running_) {
    for (std::size_t i = 0; i < loops_.size(); ++i) {
      if (!loops_[i]->looking) background_.spawn(look_at_holds(i));
    }
    update_machines();
    co_await sleep_for(executor_, limits::kHoldWatchTime);
  }
}

// Asks only about those for whom something may have to be done.
Task<void> Host::look_at_holds(std::size_t loop) {
  std::vector<ServiceShard::HoldQuery> queries;
  for (const auto& [name, attachment] : attachments_) {
    const HoldPolicy policy = hold_policy(name);
    if (attachment->loop != loop || attachment->state == ServiceState::detaching) continue;
    if (attachment->qmp_path.empty() && policy.fail_after == kNever) continue;
    queries.push_back({name, policy.fail_after});
  }
  if (queries.empty()) co_return;
  ServiceLoop& asked = *loops_[loop];
  asked.looking = true;
  auto command = [queries](ServiceShard& shard) { return shard.look_at_holds(queries); };
  const auto answers = co_await asked.run(std::move(command));
  asked.looking = false;
  for (const ServiceShard::HoldAnswer& answer : answers) {
    Attachment* const attachment = find_attachment(answer.name);
    if (attachment == nullptr) continue;
    attachment->is_hold_known = true;
    attachment->held = answer.held;
  }
  update_machines();
}

// Several volumes may belong to one machine: it is paused for any, and resumed when all flow.
void Host::update_machines() {
  struct Wanted {
    bool is_held = false;
    bool wants_pause = false;
  };
  std::map<std::string, Wanted> wanted;
  for (const auto& [name, attachment] : attachments_) {
    if (attachment->qmp_path.empty() || attachment->state == ServiceState::detaching) continue;
    Wanted& machine = wanted[attachment->qmp_path];
    const bool flows = attachment->is_hold_known && !attachment->held.has_value();
    const auto known = machines_.find(attachment->qmp_path);
    const bool is_inherited = known != machines_.end()
                                  ? known->second->is_inherited()
                                  : std::find(paused_before_.begin(), paused_before_.end(),
                                              attachment->qmp_path) != paused_before_.end();
    if (flows && is_inherited) background_.spawn(refresh_space(name.pool, Count::never));
    if (flows && (!is_inherited || has_space_for(*attachment))) continue;
    machine.is_held = true;
    if (!attachment->held.has_value()) continue;
    const Duration pause_after = hold_policy(name).pause_after;
    if (pause_after != kNever && *attachment->held >= pause_after) machine.wants_pause = true;
  }
  for (const auto& [path, machine] : wanted) {
    auto& place = machines_[path];
    if (place == nullptr) {
      const bool is_ours = std::erase(paused_before_, path) != 0;
      MachinePauseEnvironment environment{executor_, environment_.connect,
                                          [this] { return record_machines(); }};
      place = std::make_unique<MachinePause>(std::move(environment), path, is_ours);
    }
    place->update(machine.is_held, machine.wants_pause);
  }
  for (auto at = machines_.begin(); at != machines_.end();) {
    if (wanted.contains(at->first)) {
      ++at;
      continue;
    }
    background_.spawn(forget_machine(std::move(at->second)));
    at = machines_.erase(at);
  }
}

// QEMU 7.2 loses the memory of a vhost-user disk whose daemon goes away while its machine is
// stopped: what we stopped runs when we go, and the next daemon pauses it again if need be. A
// driver of virtio-blk has no timers, and others (over NBD) reconnect at any time.
Task<void> Host::release_machines() {
  std::vector<MachinePause*> released;
  for (const auto& [name, attachment] : attachments_) {
    const auto at = machines_.find(attachment->qmp_path);
    if (attachment->protocol != "vhost" || at == machines_.end() || !at->second->is_ours())
      continue;
    at->second->update(false, false);
    released.push_back(at->second.get());
  }
  const MonotonicTime deadline = executor_.now() + limits::kHeldStopTime;
  while (executor_.now() < deadline &&
         std::any_of(released.begin(), released.end(),
                     [](const MachinePause* machine) { return machine->is_ours(); })) {
    co_await sleep_for(executor_, 20ms);
  }
}

bool Host::has_space_for(const Attachment& attachment) const {
  if (attachment.record.has_value() && attachment.record->thick) return true;
  const auto at = pools_.find(attachment.name.pool);
  if (at == pools_.end() || at->second->pool == nullptr) return false;
  const std::optional<PoolSpace>& space = at->second->space;
  return space.has_value() &&
         space->available_bytes > space->reserve_bytes + at->second->pool->info().segment_bytes;
}

Task<void> Host::record_machines() {
  (void)co_await save_state();  // a failure is shown in the status, and tried again
}

// Its last disk was detached: whatever it is for now, it is somebody else's business.
Task<void> Host::forget_machine(std::unique_ptr<MachinePause> machine) {
  if (machine->is_ours()) {
    log_warning("the virtual machine at " + machine->path() +
                " was paused while its disks were held, and has none any more: it stays paused");
  }
  const std::unique_ptr<MachinePause> forgotten = std::move(machine);
  co_await forgotten->end();
  (void)co_await save_state();
}

bool Host::is_only_held_left() const {
  return std::all_of(attachments_.begin(), attachments_.end(), [](const auto& named) {
    return !named.second->served.has_value() || named.second->served->hold.has_value();
  });
}

}  // namespace holdfast
