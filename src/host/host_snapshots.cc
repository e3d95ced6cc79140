// SPDX-License-Identifier: Apache-2.0
//
// Commands on snapshots, and clones.
#include <algorithm>
#include <memory>
#include <set>

#include "base/log.h"
#include "host/host.h"
#include "host/host_entries.h"
#include "host/names.h"

namespace holdfast {
namespace {

Task<Result<void>> take_one(Volume* volume, std::string name) {
  CO_TRY(co_await volume->create_snapshot(std::move(name)));
  co_return Result<void>{};
}

Task<Result<void>> go_on(Volume* volume) {
  volume->go_on();
  co_return Result<void>{};
}

Task<Result<void>> diff_into(Volume* volume, DiffRequest request, std::shared_ptr<DiffPart> part) {
  CO_TRY_ASSIGN(*part, co_await volume->diff(std::move(request)));
  co_return Result<void>{};
}

Error no_such_snapshot(const SnapshotName& name) {
  return Error(ErrorCode::not_found, "there is no snapshot '" + name.to_string() +
                                         "'; 'holdfast snapshot list " + name.volume.to_string() +
                                         "' shows those there are");
}

}  // namespace

// A command on snapshots of several volumes, under the locks of all.
struct Host::SnapshotGroup {
  struct Member {
    SnapshotName name;
    std::optional<VolumeId> id;  // looked up before the pause
    bool is_paused = false;
    std::optional<SnapshotInfo> taken;
  };
  std::vector<Member> members;
};

// Under the volume's lock. Without its id the volume is looked for among all of the pool's. Returns
// its snapshots after the act.
Task<Result<std::vector<SnapshotInfo>>> Host::with_volume(VolumeName name, VolumeAct act,
                                                          std::optional<VolumeId> known) {
  CO_TRY_ASSIGN(PoolEntry * entry, find_open_pool(name.pool));
  const PoolUse use(*entry);
  if (!known.has_value()) {
    CO_TRY_ASSIGN(const VolumeRecord record, co_await find_volume(*entry->pool, name));
    known = record.id;
  }
  Attachment* attachment = find_attachment(name);
  if (attachment != nullptr && !attachment->served.has_value()) {
    co_return Error(ErrorCode::busy, "volume '" + name.to_string() +
                                         "' is attached but cannot be served now: " +
                                         attachment->reason + "; try again when it is");
  }
  CO_TRY_ASSIGN(const auto fence, co_await own_for_command(*entry, name, *known));
  ShardVolume volume = shard_volume(*entry, name, *known, false);
  volume.options.fence = fence;
  auto command = [volume = std::move(volume), act](ServiceShard& shard) {
    return shard.with_volume(volume, act);
  };
  const std::size_t loop = attachment == nullptr ? least_loaded() : attachment->loop;
  auto done = co_await loops_[loop]->run(std::move(command));
  co_await disown_after_command(*entry, fence, *known);
  co_return done;
}

Task<Result<std::vector<SnapshotReport>>> Host::create_snapshots(std::vector<SnapshotName> names) {
  if (names.empty() || names.size() > limits::kSnapshotGroupMax) {
    co_return Error(ErrorCode::invalid_argument,
                    "name 1 to " + std::to_string(limits::kSnapshotGroupMax) + " snapshots");
  }
  std::set<VolumeName> volumes;  // locked in one order whoever asks
  for (const SnapshotName& name : names) {
    CO_TRY(check_name("snapshot", name.snapshot));
    if (name.volume.pool != names[0].volume.pool) {
      co_return Error(ErrorCode::invalid_argument,
                      "'" + name.to_string() + "' and '" + names[0].to_string() +
                          "' are in different pools; a group is of one pool");
    }
    if (!volumes.insert(name.volume).second) {
      co_return Error(ErrorCode::invalid_argument,
                      "'" + name.volume.to_string() + "' is named twice");
    }
  }
  std::vector<NameLocks::Lock> locks;
  for (const VolumeName& volume : volumes) {
    std::string locked = volume.to_string();
    NameLocks::Lock lock = co_await locks_.acquire(std::move(locked));
    locks.push_back(std::move(lock));
  }
  CO_TRY(check_running());
  for (const VolumeName& volume : volumes) {
    CO_TRY(check_not_importing(volume));
  }
  SnapshotGroup group;
  for (SnapshotName& name : names) group.members.push_back({std::move(name), {}, false, {}});
  Result<void> done = co_await take_group(&group);
  for (const SnapshotGroup::Member& member : group.members) {
    if (!member.is_paused) continue;
    VolumeName name = member.name.volume;
    VolumeAct act = [](Volume& volume) { return go_on(&volume); };
    const auto going = co_await with_volume(std::move(name), std::move(act), member.id);
    if (!going.ok()) log_error(member.name.volume.to_string() + ": " + going.error().message());
  }
  std::vector<SnapshotReport> reports;
  for (const SnapshotGroup::Member& member : group.members) {
    if (!member.taken.has_value()) continue;
    if (done.ok()) {
      reports.push_back(report_snapshot(member.name.volume, *member.taken));
      log_info("snapshot " + member.name.to_string() + " was taken");
      continue;
    }
    VolumeName name = member.name.volume;
    VolumeAct act = [snapshot = member.name.snapshot](Volume& volume) {
      return volume.remove_snapshot(snapshot);
    };
    const auto removed = co_await with_volume(std::move(name), std::move(act), member.id);
    if (!removed.ok()) log_error(member.name.to_string() + ": " + removed.error().message());
  }
  if (!done.ok()) co_return done.take_error();
  co_return reports;
}

// Leaves in the group what is to be undone.
Task<Result<void>> Host::take_group(SnapshotGroup* group) {
  std::vector<SnapshotGroup::Member>& members = group->members;
  const bool is_group = members.size() > 1;
  // What can be looked up and written beforehand does not lengthen the pause.
  for (std::size_t i = 0; is_group && i < members.size(); ++i) {
    VolumeName name = members[i].name.volume;
    CO_TRY_ASSIGN(PoolEntry * entry, find_open_pool(name.pool));
    const PoolUse use(*entry);
    CO_TRY_ASSIGN(const VolumeRecord record, co_await find_volume(*entry->pool, name));
    members[i].id = record.id;
    VolumeAct act = [](Volume& volume) { return volume.checkpoint(); };
    CO_TRY(co_await with_volume(std::move(name), std::move(act), record.id));
  }
  for (std::size_t i = 0; is_group && i < members.size(); ++i) {
    VolumeName name = members[i].name.volume;
    const std::string shown = name.to_string();
    if (find_attachment(name) == nullptr) continue;  // nobody writes to it
    VolumeAct act = [](Volume& volume) { return volume.pause(limits::kSnapshotPauseTime); };
    auto paused = co_await with_volume(std::move(name), std::move(act), members[i].id);
    if (!paused.ok()) {
      co_return paused.take_error().context("no snapshot was taken, because of '" + shown + "'");
    }
    members[i].is_paused = true;
  }
  for (SnapshotGroup::Member& member : members) {
    VolumeName name = member.name.volume;
    const std::string snapshot = member.name.snapshot;
    VolumeAct act = [snapshot](Volume& volume) { return take_one(&volume, snapshot); };
    auto all = co_await with_volume(std::move(name), std::move(act), member.id);
    if (!all.ok()) co_return all.take_error().context("'" + member.name.to_string() + "'");
    for (const SnapshotInfo& each : *all) {
      if (each.name == snapshot) member.taken = each;
    }
  }
  co_return Result<void>{};
}

SnapshotReport Host::report_snapshot(const VolumeName& name, const SnapshotInfo& snapshot) const {
  SnapshotReport report;
  report.name.volume = name;
  report.name.snapshot = snapshot.name;
  report.number = snapshot.number.value;
  report.created = snapshot.created;
  report.size_bytes = snapshot.size_bytes;
  report.is_damaged = snapshot.is_damaged;
  const VolumeName attachable{name.pool, name.volume + "@" + snapshot.name};
  report.attached = find_attachment(attachable) != nullptr;
  return report;
}

Task<Result<std::vector<SnapshotReport>>> Host::report_snapshots(
    Pool& pool, VolumeName name, VolumeId id, std::vector<SnapshotInfo> snapshots) {
  CO_TRY_ASSIGN(const std::vector<CloneUse> clones, co_await find_clones(pool, id));
  std::vector<SnapshotReport> reports;
  for (const SnapshotInfo& snapshot : snapshots) {
    SnapshotReport report = report_snapshot(name, snapshot);
    for (const CloneUse& use : clones) {
      if (use.snapshot != snapshot.number) continue;
      (use.is_in_trash ? report.clones_in_trash : report.clones).push_back(use.clone);
    }
    std::sort(report.clones.begin(), report.clones.end());
    std::sort(report.clones_in_trash.begin(), report.clones_in_trash.end());
    reports.push_back(std::move(report));
  }
  co_return reports;
}

Task<Result<std::vector<SnapshotReport>>> Host::list_snapshots(VolumeName volume) {
  CO_TRY_ASSIGN(PoolEntry * entry, find_open_pool(volume.pool));
  const PoolUse use(*entry);
  CO_TRY_ASSIGN(const VolumeRecord record, co_await find_volume(*entry->pool, volume));
  CO_TRY_ASSIGN(std::vector<SnapshotInfo> snapshots,
                co_await Volume::stored_snapshots(*entry->pool, record.id));
  co_return co_await report_snapshots(*entry->pool, std::move(volume), record.id,
                                      std::move(snapshots));
}

Task<Result<DoneAnswer>> Host::remove_snapshot(SnapshotName name) {
  const std::string full_name = name.to_string();
  std::string volume_lock = name.volume.to_string();
  std::string snapshot_lock = full_name;
  const NameLocks::Lock lock = co_await locks_.acquire(std::move(volume_lock));
  const NameLocks::Lock second = co_await locks_.acquire(std::move(snapshot_lock));
  CO_TRY(check_running());
  CO_TRY(check_not_importing(name.volume));
  VolumeName listed = name.volume;
  CO_TRY_ASSIGN(const std::vector<SnapshotReport> all, co_await list_snapshots(std::move(listed)));
  const auto found = std::find_if(all.begin(), all.end(), [&](const SnapshotReport& each) {
    return each.name.snapshot == name.snapshot;
  });
  if (found == all.end()) co_return no_such_snapshot(name);
  if (found->attached) {
    co_return Error(
        ErrorCode::busy,
        "snapshot '" + full_name + "' is attached; detach it first: holdfast detach " + full_name);
  }
  if (!found->clones.empty()) {
    co_return Error(ErrorCode::busy,
                    "snapshot '" + full_name + "' is what " + std::to_string(found->clones.size()) +
                        " clone(s) read from, such as '" + name.volume.pool + "/" +
                        found->clones[0] +
                        "'; remove the clones, or make them independent of it: holdfast "
                        "flatten " +
                        name.volume.pool + "/" + found->clones[0]);
  }
  if (!found->clones_in_trash.empty()) {
    const std::string clone = name.volume.pool + "/" + found->clones_in_trash[0];
    co_return Error(ErrorCode::busy, "snapshot '" + full_name + "' is what the clone '" + clone +
                                         "' in the trash reads from; remove that for good first: "
                                         "holdfast trash empty " +
                                         clone);
  }
  VolumeAct act = [snapshot = name.snapshot](Volume& volume) {
    return volume.remove_snapshot(snapshot);
  };
  VolumeName volume = name.volume;
  CO_TRY(co_await with_volume(std::move(volume), std::move(act)));
  log_info("snapshot " + full_name + " was removed");
  co_return DoneAnswer{};
}

Task<Result<VolumeReport>> Host::rollback(SnapshotName name) {
  const std::string full_name = name.volume.to_string();
  std::string volume_lock = full_name;
  const NameLocks::Lock lock = co_await locks_.acquire(std::move(volume_lock));
  CO_TRY(check_running());
  CO_TRY(check_not_importing(name.volume));
  if (find_attachment(name.volume) != nullptr) {
    co_return Error(ErrorCode::busy, "volume '" + full_name +
                                         "' is attached, and its content would change under its "
                                         "guest; detach it first: holdfast detach " +
                                         full_name);
  }
  VolumeName listed = name.volume;
  CO_TRY_ASSIGN(const std::vector<SnapshotReport> all, co_await list_snapshots(std::move(listed)));
  if (std::none_of(all.begin(), all.end(), [&](const SnapshotReport& each) {
        return each.name.snapshot == name.snapshot;
      })) {
    co_return no_such_snapshot(name);
  }
  VolumeAct act = [snapshot = name.snapshot](Volume& volume) { return volume.rollback(snapshot); };
  VolumeName volume = name.volume;
  CO_TRY(co_await with_volume(std::move(volume), std::move(act)));
  log_info("volume " + full_name + " was rolled back to " + name.to_string());
  co_return co_await show_volume(std::move(name.volume));
}

Task<Result<VolumeReport>> Host::clone_volume(CloneRequest request) {
  CO_TRY(check_name("volume", request.name));
  const VolumeName target{request.from.volume.pool, request.name};
  const VolumeName& parent = request.from.volume;
  if (target == parent) {
    co_return Error(ErrorCode::already_exists,
                    "there is a volume '" + target.to_string() + "' already; choose another name");
  }
  // In one order whoever asks.
  std::string first = std::min(target, parent).to_string();
  std::string second = std::max(target, parent).to_string();
  const NameLocks::Lock first_lock = co_await locks_.acquire(std::move(first));
  const NameLocks::Lock second_lock = co_await locks_.acquire(std::move(second));
  CO_TRY(check_running());
  CO_TRY(check_not_importing(parent));
  CO_TRY(check_not_importing(target));
  CO_TRY_ASSIGN(PoolEntry * entry, find_open_pool(parent.pool));
  const PoolUse use(*entry);
  CO_TRY_ASSIGN(const VolumeRecord record, co_await find_volume(*entry->pool, parent));
  VolumeCloneOptions options;
  options.parent = record.id;
  options.snapshot = request.from.snapshot;
  options.id = new_volume_id(executor_);
  options.name = request.name;
  // What the parent's owner does with the snapshot meanwhile would be unseen by another host.
  CO_TRY_ASSIGN(const auto fence, co_await own_for_command(*entry, parent, record.id));
  const Attachment* const attached = find_attachment(parent);
  options.fence = fence == nullptr && attached != nullptr ? attached->fence : fence;
  Result<void> cloned = co_await Volume::clone(executor_, *entry->pool, options);
  co_await disown_after_command(*entry, fence, record.id);
  if (!cloned.ok() && cloned.error().code() == ErrorCode::not_found) {
    co_return no_such_snapshot(request.from);
  }
  if (!cloned.ok()) co_return cloned.take_error();
  log_info("volume " + target.to_string() + " was cloned from " + request.from.to_string());
  VolumeName name = target;
  CO_TRY_ASSIGN(VolumeRecord made, co_await find_volume(*entry->pool, std::move(name)));
  name = target;
  co_return co_await report_volume(*entry->pool, std::move(name), std::move(made));
}

Task<Result<DiffReport>> Host::diff_volume(DiffQuery query) {
  std::string full_name = query.volume.to_string();
  const NameLocks::Lock lock = co_await locks_.acquire(std::move(full_name));
  CO_TRY(check_running());
  DiffRequest request;
  request.snapshot = query.snapshot;
  request.since = query.since;
  request.offset_bytes = query.offset_bytes;
  auto part = std::make_shared<DiffPart>();  // the volume's loop fills it in
  VolumeAct act = [request, part](Volume& volume) { return diff_into(&volume, request, part); };
  CO_TRY(co_await with_volume(std::move(query.volume), std::move(act)));
  DiffReport report;
  for (const DiffExtent& extent : part->extents) {
    report.extents.push_back({extent.offset_bytes, extent.length_bytes, extent.is_zero});
  }
  report.size_bytes = part->size_bytes;
  report.next_bytes = part->next_bytes;
  co_return report;
}

}  // namespace holdfast
