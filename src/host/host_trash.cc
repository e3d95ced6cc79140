// SPDX-License-Identifier: Apache-2.0
//
// Removing volumes: into the trash, out of it again, and for good. docs/decisions/0019-trash.md.
//
// What is in the trash of an open pool is kept in memory: nobody else changes it, and each second
// somebody looks whether something has expired. Whoever moves or removes a volume holds the lock of
// its id (trash_lock); that of a name comes first.
#include <algorithm>
#include <tuple>

#include "base/log.h"
#include "base/units.h"
#include "host/deferment.h"
#include "host/host.h"
#include "host/host_entries.h"
#include "host/names.h"

namespace holdfast {
namespace {

constexpr std::size_t kShownIdBytes = 8;  // of a UUID: what tells a few volumes apart
constexpr std::size_t kShownIdsMax = 4;

std::string trash_lock(const std::string& pool, const VolumeId& id) {
  return pool + "/#" + id.to_string();  // no name of a volume
}

std::string short_id(const VolumeId& id) {
  return id.to_string().substr(0, kShownIdBytes);
}

Error attached(const VolumeName& name) {
  return Error(ErrorCode::busy, "volume '" + name.to_string() +
                                    "' is attached; detach it first: holdfast detach " +
                                    name.to_string());
}

Error snapshot_attached(const VolumeName& snapshot) {
  return Error(ErrorCode::busy, "its snapshot '" + snapshot.to_string() +
                                    "' is attached; detach that first: holdfast detach " +
                                    snapshot.to_string());
}

std::string what_removes(const VolumeName& name, bool with_snapshots) {
  return "holdfast volume remove --now " + std::string(with_snapshots ? "--with-snapshots " : "") +
         name.to_string();
}

}  // namespace

// --- What keeps a volume ---

// Marks of clones that are there, live or in the trash. A mark may outlive its clone.
Task<Result<std::vector<Host::CloneUse>>> Host::find_clones(Pool& pool, VolumeId parent) {
  std::vector<CloneUse> uses;
  CO_TRY_ASSIGN(std::vector<CloneMark> marks, co_await pool.list_clone_marks(parent));
  if (marks.empty()) co_return uses;
  const auto note = [&](const VolumeRecord& volume, bool is_in_trash) {
    std::erase_if(marks, [&](const CloneMark& mark) {
      if (mark.clone != volume.id) return false;
      uses.push_back({mark.snapshot.number, volume.name, is_in_trash});
      return true;
    });
  };
  CO_TRY_ASSIGN(const std::vector<VolumeRecord> volumes, co_await pool.list_volumes());
  for (const VolumeRecord& volume : volumes) note(volume, false);
  if (marks.empty()) co_return uses;
  CO_TRY_ASSIGN(const std::vector<TrashedVolume> trash, co_await pool.list_trash());
  for (const TrashedVolume& trashed : trash) note(trashed.record, true);
  co_return uses;
}

const VolumeName* Host::find_attached_snapshot(const VolumeName& volume) const {
  for (const auto& [name, attachment] : attachments_) {
    const auto [of, snapshot] = split_snapshot(name.volume);
    if (name.pool == volume.pool && of == volume.volume && !snapshot.empty()) return &name;
  }
  return nullptr;
}

// How many snapshots go with it.
Task<Result<std::size_t>> Host::check_removable(Pool& pool, RemoveVolumeRequest request,
                                                VolumeId id) {
  const VolumeName& name = request.name;
  if (find_attachment(name) != nullptr) co_return attached(name);
  if (const VolumeName* snapshot = find_attached_snapshot(name)) {
    co_return snapshot_attached(*snapshot);
  }
  CO_TRY_ASSIGN(const std::vector<SnapshotInfo> snapshots,
                co_await Volume::stored_snapshots(pool, id));
  if (snapshots.empty()) co_return std::size_t{0};
  CO_TRY_ASSIGN(const std::vector<CloneUse> clones, co_await find_clones(pool, id));
  if (!clones.empty()) {
    const CloneUse& use = clones.front();
    const std::string clone = name.pool + "/" + use.clone;
    std::string snapshot = "#" + std::to_string(use.snapshot.value);
    for (const SnapshotInfo& each : snapshots) {
      if (each.number == use.snapshot) snapshot = each.name;
    }
    co_return Error(
        ErrorCode::busy,
        "volume '" + name.to_string() + "' has the snapshot '" + snapshot + "', which the clone '" +
            clone + "'" +
            (use.is_in_trash ? " in the trash reads from; remove that for good first: holdfast "
                               "trash empty " +
                                   clone
                             : " reads from; remove the clone first, or make it independent: "
                               "holdfast flatten " +
                                   clone));
  }
  if (request.now && !request.with_snapshots) {
    co_return Error(ErrorCode::busy,
                    "volume '" + name.to_string() + "' has " + std::to_string(snapshots.size()) +
                        " snapshot(s), such as '" + snapshots[0].name +
                        "', which would be gone with it; say so: " + what_removes(name, true));
  }
  co_return snapshots.size();
}

// --- In ---

Task<Result<RemoveAnswer>> Host::remove_volume(RemoveVolumeRequest request) {
  const VolumeName name = request.name;
  const NameLocks::Lock lock = co_await locks_.acquire(name.to_string());
  CO_TRY(check_not_importing(name));
  CO_TRY_ASSIGN(PoolEntry * entry, find_open_pool(name.pool));
  const PoolUse use(*entry);
  CO_TRY_ASSIGN(const VolumeRecord record, co_await find_volume(*entry->pool, name));
  const Duration defer = request.now ? Duration{} : request.defer.value_or(config_.trash_defer);
  if (defer > limits::kTrashDeferMax) {
    co_return Error(ErrorCode::invalid_argument, "a volume stays in the trash for at most " +
                                                     format_deferment(limits::kTrashDeferMax));
  }
  request.now = defer == Duration{};
  CO_TRY_ASSIGN(const std::size_t snapshot_count,
                co_await check_removable(*entry->pool, request, record.id));
  if (is_trash_old(*entry)) (void)co_await load_trash(*entry);  // storage that fails says so below
  if (!request.now && entry->trash.size() >= limits::kTrashPerPoolMax) {
    co_return Error(ErrorCode::busy, "the trash of pool '" + name.pool + "' holds " +
                                         std::to_string(entry->trash.size()) +
                                         " volumes, which is the most; empty it (holdfast trash "
                                         "empty " +
                                         name.pool + "), or remove the volume for good: " +
                                         what_removes(name, snapshot_count > 0));
  }
  std::string id_lock = trash_lock(name.pool, record.id);
  const NameLocks::Lock trashing = co_await locks_.acquire(std::move(id_lock));
  CO_TRY_ASSIGN(const auto fence, co_await own_for_command(*entry, name, record.id));
  const auto thick = entry->thick.find(record.id);
  ThickVolume* const tended = thick == entry->thick.end() ? nullptr : thick->second.get();
  if (tended != nullptr) tended->stop = true;
  TrashedVolume trashed{record, executor_.wall_time(), {}};
  trashed.until.unix_seconds = trashed.since.unix_seconds + defer / 1s;
  auto removed = co_await move_to_trash(*entry, request, record.id, trashed.since, trashed.until);
  const bool is_refused = !removed.ok() && removed.error().code() != ErrorCode::no_space;
  if (request.now && !is_refused) {
    const RemovalOptions at_once{false, &entry->trash_stopped};
    removed = co_await remove_for_good(*entry, record.id, at_once);
  }
  co_await disown_after_command(*entry, fence, record.id);
  if (tended != nullptr) (removed.ok() ? tended->dropped : tended->stop) = removed.ok();
  wake_tender(*entry);  // forgets it, or goes on
  ++entry->trash_changes;
  if (!removed.ok()) {
    entry->knows_trash = false;  // a step may have been done all the same
    co_return removed.take_error();
  }
  if (entry->count.has_value()) entry->count->volumes.erase(name.volume);
  RemoveAnswer answer{name, record.id, {}, {}};
  if (request.now) {
    log_info("volume " + name.to_string() + " was removed for good");
  } else {
    TrashEntry looked = co_await look_at_trashed(*entry->pool, trashed);
    answer.trashed = report(*entry, looked);
    entry->trash.insert_or_assign(record.id, std::move(looked));
    ++entry->trash_changes;
    log_info("volume " + name.to_string() + " (" + record.id.to_string() +
             ") is in the trash for " + format_deferment(defer));
  }
  // A volume that gets this name next begins without them.
  if (volume_holds_.erase(name) != 0) answer.warning = co_await save_state();
  co_return answer;
}

// Under the locks of the name and of the id.
Task<Result<void>> Host::move_to_trash(PoolEntry& entry, RemoveVolumeRequest request, VolumeId id,
                                       WallTime since, WallTime until) {
  const VolumeName& name = request.name;
  auto moved = co_await entry.pool->trash_volume(id, since, until);
  if (!moved.ok() && moved.error().code() == ErrorCode::no_space) {
    co_return Error(ErrorCode::no_space,
                    "volume '" + name.to_string() +
                        "' cannot be moved to the trash: " + moved.error().message() +
                        "; make room there, or remove the volume for good: " +
                        what_removes(name, request.with_snapshots));
  }
  if (!moved.ok()) co_return moved;
  // Attaching a snapshot does not take the volume's lock: one that came meanwhile goes first.
  if (const VolumeName* snapshot = find_attached_snapshot(name)) {
    Error refusal = snapshot_attached(*snapshot);
    CO_TRY(co_await entry.pool->restore_volume(id, name.volume));
    co_return refusal;
  }
  co_return moved;
}

// --- For good ---

// What it takes, whether it is in the trash or not; under the lock of the id.
Task<Result<void>> Host::remove_for_good(PoolEntry& entry, VolumeId id, RemovalOptions options) {
  auto mark = co_await Volume::clone_mark(*entry.pool, id);
  // Of a damaged volume the mark stays behind: without its clone it means nothing.
  if (!mark.ok() && mark.error().code() == ErrorCode::path_failure) co_return mark.take_error();
  CO_TRY(co_await entry.pool->remove_volume(id, options));
  if (!mark.ok() || !mark->has_value()) co_return Result<void>{};
  const auto unmarked = co_await entry.pool->remove_clone_mark(**mark);
  if (!unmarked.ok()) log_warning(unmarked.error().message());
  co_return Result<void>{};
}

// Nothing is done when it is not in the trash any more, or, with `only_expired`, not for long
// enough.
Task<Result<bool>> Host::remove_trashed(PoolEntry& entry, VolumeId id, bool only_expired,
                                        RemovalOptions options) {
  std::string id_lock = trash_lock(entry.name, id);
  const NameLocks::Lock lock = co_await locks_.acquire(std::move(id_lock));
  const auto at = entry.trash.find(id);
  if (at == entry.trash.end()) co_return false;
  const TrashedVolume volume = at->second.volume;
  if (only_expired && executor_.wall_time().unix_seconds < volume.until.unix_seconds) {
    co_return false;
  }
  VolumeName trashed_name{entry.name, volume.record.name};
  const auto fence = co_await own_for_command(entry, std::move(trashed_name), id);
  Result<void> removed;
  if (fence.ok()) {
    removed = co_await remove_for_good(entry, id, options);
    co_await disown_after_command(entry, fence.value(), id);
  } else {
    removed = fence.error();  // not_found: another host was faster
  }
  ++entry.trash_changes;
  if (!removed.ok() && removed.error().code() != ErrorCode::not_found) {
    if (const auto failed = entry.trash.find(id); failed != entry.trash.end()) {
      failed->second.retry_at = executor_.now() + limits::kTrashRetryTime;
    }
    co_return removed.take_error().context("volume " + entry.name + "/" + volume.record.name +
                                           " in the trash cannot be removed");
  }
  entry.trash.erase(id);
  log_info("volume " + entry.name + "/" + volume.record.name + " (" + id.to_string() +
           ") was removed from the trash" + (only_expired ? ": its time was over" : ""));
  co_return true;
}

// Each second, for each pool: what has expired goes, one volume after the other.
Task<void> Host::tend_trash(std::string pool) {
  const auto found = pools_.find(pool);
  if (found == pools_.end() || !running_) co_return;
  PoolEntry& entry = *found->second;
  if (entry.tending_trash || entry.pool == nullptr || entry.state != ServiceState::open ||
      entry.trash_stopped) {
    co_return;
  }
  const PoolUse use(entry);
  entry.tending_trash = true;
  if (!entry.knows_trash) (void)co_await load_trash(entry);  // else again in a second
  std::vector<VolumeId> due;
  for (const auto& [id, trashed] : entry.trash) {
    const bool is_expired = executor_.wall_time().unix_seconds >= trashed.volume.until.unix_seconds;
    if (entry.knows_trash && is_expired && executor_.now() >= trashed.retry_at) due.push_back(id);
  }
  for (const VolumeId& id : due) {
    if (entry.trash_stopped) break;
    const RemovalOptions gently{true, &entry.trash_stopped};
    const auto removed = co_await remove_trashed(entry, id, true, gently);
    if (!removed.ok()) log_warning(removed.error().message() + "; it is tried again");
  }
  entry.tending_trash = false;
}

// --- What there is ---

Task<Host::TrashEntry> Host::look_at_trashed(Pool& pool, TrashedVolume volume) {
  TrashEntry entry;
  entry.volume = std::move(volume);
  const VolumeId id = entry.volume.record.id;
  const auto size = co_await Volume::stored_size_bytes(pool, id);
  if (size.ok()) entry.size_bytes = size.value();
  const auto allocated = co_await pool.volume_allocated_bytes(id);
  if (allocated.ok()) entry.allocated_bytes = allocated.value();
  const auto snapshots = co_await pool.list_snapshots(id);
  if (snapshots.ok()) entry.snapshot_count = snapshots->size();
  co_return entry;
}

Task<Result<void>> Host::load_trash(PoolEntry& entry) {
  for (;;) {
    const std::uint64_t changes = entry.trash_changes;
    CO_TRY_ASSIGN(std::vector<TrashedVolume> listed, co_await entry.pool->list_trash());
    std::map<VolumeId, TrashEntry> fresh;
    for (TrashedVolume& volume : listed) {
      const VolumeId id = volume.record.id;
      TrashEntry looked = co_await look_at_trashed(*entry.pool, std::move(volume));
      fresh.emplace(id, std::move(looked));
    }
    if (changes != entry.trash_changes) continue;
    entry.trash = std::move(fresh);
    entry.knows_trash = true;
    co_return Result<void>{};
  }
}

TrashReport Host::report(const PoolEntry& entry, const TrashEntry& trashed) const {
  const TrashedVolume& volume = trashed.volume;
  TrashReport report;
  report.name = {entry.name, volume.record.name};
  report.id = volume.record.id;
  report.size_bytes = trashed.size_bytes;
  report.allocated_bytes = trashed.allocated_bytes;
  report.thick = volume.record.thick;
  report.snapshot_count = trashed.snapshot_count;
  report.since = volume.since;
  report.until = volume.until;
  report.is_expired = executor_.wall_time().unix_seconds >= volume.until.unix_seconds;
  return report;
}

std::optional<PoolReport::Trash> Host::trash_report(const PoolEntry& entry) const {
  if (!entry.knows_trash) return std::nullopt;
  PoolReport::Trash report;
  for (const auto& [id, trashed] : entry.trash) {
    ++report.count;
    report.allocated_bytes += trashed.allocated_bytes.value_or(0);
  }
  return report;
}

std::string Host::trash_advice(const PoolEntry& entry) const {
  const auto trash = trash_report(entry);
  if (!trash.has_value() || trash->count == 0) return "";
  return "; the trash holds " + format_bytes(trash->allocated_bytes) +
         ", which 'holdfast trash empty " + entry.name + "' frees";
}

// What other hosts of a shared pool do with it meanwhile is seen by reading it again.
bool Host::is_trash_old(const PoolEntry& entry) {
  return !entry.knows_trash || entry.pool->info().shared;
}

Task<Result<std::vector<TrashReport>>> Host::list_trash(std::string pool) {
  CO_TRY(check_running());
  CO_TRY_ASSIGN(const std::vector<std::string> names, pools_meant(pool));
  std::vector<TrashReport> reports;
  for (const std::string& name : names) {
    auto found = find_open_pool(name);
    if (!found.ok()) continue;  // of all: what is not open is in `status`
    PoolEntry& entry = *found.value();
    const PoolUse use(entry);
    if (is_trash_old(entry)) {
      CO_TRY(co_await load_trash(entry));
    }
    const std::size_t first = reports.size();
    for (const auto& [id, trashed] : entry.trash) reports.push_back(report(entry, trashed));
    std::sort(reports.begin() + static_cast<std::ptrdiff_t>(first), reports.end(),
              [](const TrashReport& a, const TrashReport& b) {
                return std::tie(a.name.volume, b.since.unix_seconds, a.id) <
                       std::tie(b.name.volume, a.since.unix_seconds, b.id);
              });
  }
  co_return reports;
}

// By the name it had, or else by the beginning of its id.
Task<Result<VolumeId>> Host::find_in_trash(PoolEntry& entry, std::string item) {
  if (is_trash_old(entry)) {
    CO_TRY(co_await load_trash(entry));
  }
  std::vector<VolumeId> found;
  for (const auto& [id, trashed] : entry.trash) {
    if (trashed.volume.record.name == item) found.push_back(id);
  }
  for (const auto& [id, trashed] : entry.trash) {
    if (found.empty() && item.size() >= 4 && id.to_string().starts_with(item)) found.push_back(id);
  }
  if (found.size() == 1) co_return found.front();
  const std::string shown = item.substr(0, limits::kNameBytesMax);
  if (found.empty()) {
    co_return Error(ErrorCode::not_found,
                    "there is no volume '" + shown + "' in the trash of pool '" + entry.name +
                        "'; 'holdfast trash list " + entry.name + "' shows what there is");
  }
  std::string ids;
  for (std::size_t i = 0; i < std::min(found.size(), kShownIdsMax); ++i) {
    ids += (i == 0 ? "" : ", ") + entry.name + "/" + short_id(found[i]);
  }
  co_return Error(ErrorCode::invalid_argument,
                  "the trash of pool '" + entry.name + "' holds " + std::to_string(found.size()) +
                      " volumes '" + shown + "'; name one by its id (" + ids +
                      (found.size() > kShownIdsMax ? ", ..." : "") + "), see holdfast trash list");
}

// --- Out ---

Task<Result<void>> Host::check_parent_is_there(Pool& pool, VolumeId id) {
  CO_TRY_ASSIGN(const std::optional<CloneMark> mark, co_await Volume::clone_mark(pool, id));
  if (!mark.has_value()) co_return Result<void>{};
  auto snapshots = co_await pool.list_snapshots(mark->snapshot.volume);
  if (!snapshots.ok() && snapshots.error().code() != ErrorCode::not_found) {
    co_return snapshots.take_error();
  }
  if (snapshots.ok() &&
      std::find(snapshots->begin(), snapshots->end(), mark->snapshot) != snapshots->end()) {
    co_return Result<void>{};
  }
  co_return Error(
      ErrorCode::corrupt,
      "it cannot be restored: it is a clone, and the snapshot that it reads from is gone "
      "(a holdfastd that knows no trash has removed it)");
}

Task<Result<VolumeReport>> Host::restore_volume(RestoreRequest request) {
  if (!request.new_name.empty()) {
    CO_TRY(check_name("volume", request.new_name));
  }
  CO_TRY_ASSIGN(PoolEntry * entry, find_open_pool(request.item.pool));
  const PoolUse use(*entry);
  std::string item = request.item.volume;
  CO_TRY_ASSIGN(const VolumeId id, co_await find_in_trash(*entry, std::move(item)));
  const TrashedVolume trashed = entry->trash.at(id).volume;
  const bool has_new_name = !request.new_name.empty();
  const VolumeName target{entry->name, has_new_name ? request.new_name : trashed.record.name};
  const NameLocks::Lock lock = co_await locks_.acquire(target.to_string());
  std::string id_lock = trash_lock(entry->name, id);
  const NameLocks::Lock second = co_await locks_.acquire(std::move(id_lock));
  CO_TRY(check_running());
  CO_TRY(check_not_importing(target));
  if (!entry->trash.contains(id)) {
    co_return Error(ErrorCode::not_found, "volume '" + request.item.to_string() +
                                              "' has just been restored or removed for good");
  }
  CO_TRY_ASSIGN(const std::vector<VolumeRecord> volumes, co_await entry->pool->list_volumes());
  if (std::any_of(volumes.begin(), volumes.end(),
                  [&](const VolumeRecord& volume) { return volume.name == target.volume; })) {
    co_return Error(ErrorCode::already_exists,
                    "there is a volume '" + target.to_string() +
                        "' already; restore this one under another name: holdfast trash restore " +
                        entry->name + "/" + short_id(id) + " NEW");
  }
  CO_TRY(co_await check_parent_is_there(*entry->pool, id));
  CO_TRY_ASSIGN(const auto fence, co_await own_for_command(*entry, target, id));
  const auto restored = co_await entry->pool->restore_volume(id, target.volume);
  co_await disown_after_command(*entry, fence, id);
  ++entry->trash_changes;
  if (!restored.ok()) {
    entry->knows_trash = false;  // a step may have been done all the same
    co_return restored.error();
  }
  entry->trash.erase(id);
  if (const auto thick = entry->thick.find(id); thick != entry->thick.end()) {
    thick->second->dropped = thick->second->stop = false;
  }
  wake_tender(*entry);
  log_info("volume " + target.to_string() + " (" + id.to_string() +
           ") was restored from the trash");
  VolumeName name = target;
  CO_TRY_ASSIGN(VolumeRecord record, co_await find_volume(*entry->pool, std::move(name)));
  name = target;
  co_return co_await report_volume(*entry->pool, std::move(name), std::move(record));
}

Task<Result<EmptyTrashAnswer>> Host::empty_trash(EmptyTrashRequest request) {
  CO_TRY(check_running());
  std::vector<std::string> pools;
  if (!request.pool.empty()) {
    CO_TRY(find_open_pool(request.pool));
    pools.push_back(request.pool);
  } else {
    for (const auto& [name, entry] : pools_) pools.push_back(name);
  }
  EmptyTrashAnswer answer;
  std::string problem;
  for (const std::string& pool : pools) {
    auto found = find_open_pool(pool);
    if (!found.ok()) continue;
    PoolEntry& entry = *found.value();
    const PoolUse use(entry);
    std::vector<VolumeId> ids;
    if (!request.item.empty()) {
      std::string item = request.item;
      CO_TRY_ASSIGN(const VolumeId id, co_await find_in_trash(entry, std::move(item)));
      ids.push_back(id);
    } else {
      if (is_trash_old(entry)) {
        CO_TRY(co_await load_trash(entry));
      }
      for (const auto& [id, trashed] : entry.trash) ids.push_back(id);
    }
    for (const VolumeId& id : ids) {
      const auto at = entry.trash.find(id);
      if (at == entry.trash.end()) continue;
      TrashReport reported = report(entry, at->second);
      const RemovalOptions at_once{false, &entry.trash_stopped};
      auto removed = co_await remove_trashed(entry, id, request.only_expired, at_once);
      if (!removed.ok()) {
        problem = removed.error().message();
      } else if (removed.value()) {
        answer.removed.push_back(std::move(reported));
      }
    }
  }
  if (!problem.empty() && answer.removed.empty()) co_return Error(ErrorCode::path_failure, problem);
  answer.warning = problem;
  co_return answer;
}

}  // namespace holdfast
