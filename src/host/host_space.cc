// SPDX-License-Identifier: Apache-2.0
//
// Accounting: what the pools' storage has left, what their volumes take of it, and saying so.
#include <algorithm>

#include "base/log.h"
#include "base/units.h"
#include "host/host.h"
#include "host/host_entries.h"

namespace holdfast {
namespace {

std::string percent_text(double percent) {
  return std::to_string(static_cast<int>(percent + 0.5)) + " %";
}

}  // namespace

Task<void> Host::refresh_space(std::string name, Count count) {
  const auto at = pools_.find(name);
  if (at == pools_.end() || at->second->pool == nullptr) co_return;
  PoolEntry& entry = *at->second;
  if (count == Count::when_due) entry.count_wanted = true;
  if (entry.refreshing) co_return;
  const PoolUse use(entry);
  entry.refreshing = true;
  const bool was_short = is_short(entry);
  const auto space = co_await entry.pool->space();
  if (space.ok()) {
    entry.space = space.value();
    entry.reason.clear();
    entry.history.add(executor_.now(), used_bytes(*entry.space));
    note_level(entry);
  } else {
    entry.reason = space.error().message();
  }
  const bool is_due =
      !entry.count.has_value() ||
      executor_.now() - entry.count->at >=
          std::max(limits::kSpaceCountTime, entry.count->duration * limits::kSpaceCountRestFactor);
  const bool is_wanted = entry.count_wanted;
  entry.count_wanted = false;
  if (count == Count::now || (is_wanted && is_due)) co_await count_volumes(entry);
  entry.refreshing = false;
  changed_.notify_all();
  if (is_short(entry) == was_short) co_return;
  for (std::size_t i = 0; i < loops_.size(); ++i) background_.spawn(refresh_services(i));
}

// What each volume has allocated, by looking at all its files: exact, but not for every second.
Task<void> Host::count_volumes(PoolEntry& entry) {
  const MonotonicTime began = executor_.now();
  const auto volumes = co_await entry.pool->list_volumes();
  if (!volumes.ok()) co_return;
  PoolCount fresh;
  for (const VolumeRecord& volume : volumes.value()) {
    PoolCount::Volume& counted = fresh.volumes[volume.name];
    const auto allocated = co_await entry.pool->volume_allocated_bytes(volume.id);
    if (allocated.ok()) counted.allocated_bytes = allocated.value();
    const VolumeName volume_name{entry.name, volume.name};
    const Attachment* attachment = find_attachment(volume_name);
    if (attachment != nullptr && attachment->served.has_value()) {
      counted.size_bytes = attachment->served->size_bytes;
      continue;
    }
    const auto size = co_await Volume::stored_size_bytes(*entry.pool, volume.id);
    if (size.ok()) counted.size_bytes = size.value();
  }
  fresh.at = executor_.now();
  fresh.duration = fresh.at - began;
  entry.volume_count = fresh.volumes.size();
  entry.count = std::move(fresh);
}

// Looks at free space often: it tells an operator in time, and volumes when others wait for room.
Task<void> Host::watch_space() {
  while (running_) {
    for (const auto& [name, entry] : pools_) {
      background_.spawn(refresh_space(name, Count::never));
      background_.spawn(tend_trash(name));
    }
    for (std::size_t i = 0; i < loops_.size(); ++i) background_.spawn(refresh_services(i));
    co_await sleep_for(executor_, limits::kSpaceWatchTime);
  }
}

// Whether guests wait for room in this pool, or soon will.
bool Host::is_short(const PoolEntry& entry) const {
  if (entry.level == SpaceLevel::full) return true;
  // The storage may refuse though it says it has room: a quota, or thin storage below.
  const std::string_view reason = hold_reason_text(HoldReason::space);
  return std::any_of(attachments_.begin(), attachments_.end(), [&](const auto& named) {
    const Attachment& attachment = *named.second;
    if (named.first.pool != entry.name) return false;
    const auto& hold =
        attachment.served.has_value() ? attachment.served->hold : attachment.opening_hold;
    return hold.has_value() && hold->reason == reason;
  });
}

const SpaceThresholds& Host::thresholds(const PoolEntry& entry) const {
  const auto own = config_.pool_spaces.find(entry.name);
  return own == config_.pool_spaces.end() ? config_.space : own->second;
}

// One line for each change: at once when it gets worse; when it gets better, once it stays so.
void Host::note_level(PoolEntry& entry) {
  const PoolSpace& space = *entry.space;
  entry.level =
      space_level(space, entry.pool->info().segment_bytes, thresholds(entry), entry.level);
  if (entry.level >= entry.logged_level) entry.lower_since = executor_.now();
  if (entry.level == entry.logged_level) return;
  const bool is_better = entry.level < entry.logged_level;
  if (is_better && executor_.now() - entry.lower_since < limits::kSpaceLevelCalmTime) return;
  entry.logged_level = entry.level;
  const std::string figures = percent_text(used_percent(space)) + " used, " +
                              format_bytes(free_bytes(space)) + " left for guests";
  const std::string pool = "pool " + entry.name + " is ";
  const std::string advice =
      trash_advice(entry) +
      "; add space, remove volumes for good (volume remove --now) or trim in "
      "the guests";
  switch (entry.level) {
    case SpaceLevel::ok:
      log_info(pool + "below its warn level again: " + figures);
      return;
    case SpaceLevel::warn:
    case SpaceLevel::critical: {
      const std::string line = pool + "at its " + std::string(space_level_name(entry.level)) +
                               " level" + (is_better ? " again: " : ": ") + figures;
      is_better ? log_info(line) : log_warning(line + advice);
      return;
    }
    case SpaceLevel::full:
      log_warning(pool + "full: " + figures + " and " + format_bytes(space.reserve_bytes) +
                  " kept in reserve; guests' writes that need space are held until there is some" +
                  advice);
      return;
  }
}

PoolReport::Space Host::space_report(const PoolEntry& entry) const {
  const PoolSpace& space = *entry.space;
  PoolReport::Space report;
  report.capacity_bytes = space.capacity_bytes;
  report.available_bytes = space.available_bytes;
  report.reserve_bytes = space.reserve_bytes;
  report.used_bytes = used_bytes(space);
  report.used_percent = used_percent(space);
  report.level = space_level_name(entry.level);
  report.warn_percent = thresholds(entry).warn_percent;
  report.critical_percent = thresholds(entry).critical_percent;
  report.trend = entry.history.trend();
  report.time_to_full = time_to_full(report.trend, free_bytes(space));
  return report;
}

PoolReport::Volumes Host::volumes_report(const PoolEntry& entry) const {
  PoolReport::Volumes report;
  for (const auto& [name, counted] : entry.count->volumes) {
    report.allocated_bytes += counted.allocated_bytes;
    report.provisioned_bytes += counted.size_bytes;
    const VolumeName volume_name{entry.name, name};
    const Attachment* attachment = find_attachment(volume_name);
    if (attachment == nullptr || !attachment->served.has_value()) continue;
    const VolumeCounters& counters = attachment->served->counters;
    const std::uint64_t known_bytes = counters.live_bytes + counters.unwritten_bytes;
    report.live_bytes += counters.live_bytes;
    report.unwritten_bytes += counters.unwritten_bytes;
    report.garbage_bytes +=
        counted.allocated_bytes - std::min(counted.allocated_bytes, known_bytes);
  }
  const std::uint64_t used = used_bytes(*entry.space);
  const auto trash = trash_report(entry);
  const std::uint64_t ours =
      report.allocated_bytes + (trash.has_value() ? trash->allocated_bytes : 0);
  report.others_bytes = used - std::min(used, ours);
  report.overcommit_ratio =
      overcommit_ratio(*entry.space, report.others_bytes, report.provisioned_bytes);
  report.age = executor_.now() - entry.count->at;
  return report;
}

}  // namespace holdfast
