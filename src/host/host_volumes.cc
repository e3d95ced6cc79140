// SPDX-License-Identifier: Apache-2.0
//
// Commands on volumes.
#include <algorithm>

#include "base/log.h"
#include "base/units.h"
#include "format/snapshot.h"
#include "host/host.h"
#include "host/host_entries.h"
#include "host/names.h"

namespace holdfast {

namespace {
constexpr int kRootTries = 4;
}  // namespace

Result<void> check_volume_size(std::uint64_t size_bytes) {
  const auto refuse = [&](std::string_view why) {
    return Error(ErrorCode::invalid_argument, "a volume cannot have " + std::to_string(size_bytes) +
                                                  " bytes: " + std::string(why));
  };
  if (size_bytes < limits::kVolumeBytesMin) {
    return refuse("the least is " + format_bytes(limits::kVolumeBytesMin));
  }
  if (size_bytes > limits::kVolumeBytesMax) {
    return refuse("the most is " + format_bytes(limits::kVolumeBytesMax));
  }
  if (size_bytes % kSectorBytes != 0) {
    return refuse("it must be a multiple of 512; the next larger one is " +
                  std::to_string(round_up(size_bytes, kSectorBytes)));
  }
  return {};
}

Uuid Host::new_volume_id(Executor& executor) {
  std::array<std::byte, 16> random;
  const std::uint64_t words[2] = {executor.random(), executor.random()};
  std::memcpy(random.data(), words, sizeof words);
  return Uuid::from_random(random);
}

Task<Result<VolumeRecord>> Host::find_volume(Pool& pool, VolumeName name) {
  CO_TRY_ASSIGN(std::vector<VolumeRecord> volumes, co_await pool.list_volumes());
  std::vector<std::string> known;
  for (VolumeRecord& volume : volumes) {
    if (volume.name == name.volume) co_return std::move(volume);
    known.push_back(name.pool + "/" + volume.name);
  }
  const std::string wanted = name.pool + "/" + name.volume.substr(0, limits::kNameBytesMax);
  if (const auto entry = pools_.find(name.pool);
      entry != pools_.end() && entry->second->pool.get() == &pool) {
    if (!entry->second->knows_trash) (void)co_await load_trash(*entry->second);
    for (const auto& [id, trashed] : entry->second->trash) {
      if (trashed.volume.record.name != name.volume) continue;
      co_return Error(ErrorCode::not_found, "volume '" + wanted +
                                                "' is in the trash; get it back first: holdfast "
                                                "trash restore " +
                                                wanted);
    }
  }
  const std::string near = suggestion(wanted, known);
  co_return Error(
      ErrorCode::not_found,
      "no volume '" + wanted + "'" +
          (!near.empty() ? near
                         : "; 'holdfast volume list " + name.pool + "' shows those there are"));
}

Task<Result<VolumeReport>> Host::report_volume(Pool& pool, VolumeName name, VolumeRecord record) {
  VolumeReport report;
  report.name = name;
  report.id = record.id;
  report.thick = record.thick;
  report.created = record.created;
  const auto allocated = co_await pool.volume_allocated_bytes(record.id);
  if (allocated.ok()) report.allocated_bytes = allocated.value();
  const Attachment* attachment = find_attachment(name);
  if (attachment == nullptr || !attachment->served.has_value()) {
    const auto size = co_await Volume::stored_size_bytes(pool, record.id);
    if (size.ok()) {
      report.size_bytes = size.value();
    } else {
      report.reason = size.error().message();
    }
    attachment = find_attachment(name);
  }
  if (attachment != nullptr) add_live_report(*attachment, report);
  add_hold_policy(name, report);
  add_preallocation(report);
  co_return report;
}

Task<Result<VolumeReport>> Host::create_volume(CreateVolumeRequest request) {
  CO_TRY(check_name("volume", request.name.volume));
  const NameLocks::Lock lock = co_await locks_.acquire(request.name.to_string());
  CO_TRY(check_not_importing(request.name));
  co_return co_await make_volume(std::move(request));
}

// Under the volume's lock.
Task<Result<VolumeReport>> Host::make_volume(CreateVolumeRequest request) {
  CO_TRY(check_volume_size(request.size_bytes));
  CO_TRY_ASSIGN(PoolEntry * entry, find_open_pool(request.name.pool));
  const PoolUse use(*entry);
  CO_TRY_ASSIGN(const std::vector<VolumeRecord> volumes, co_await entry->pool->list_volumes());
  if (std::any_of(volumes.begin(), volumes.end(),
                  [&](const VolumeRecord& volume) { return volume.name == request.name.volume; })) {
    co_return Error(ErrorCode::already_exists,
                    "there is a volume '" + request.name.to_string() +
                        "' already; choose another name, or remove that one first");
  }
  if (volumes.size() >= limits::kVolumesPerPoolMax) {
    co_return Error(ErrorCode::busy, "pool '" + request.name.pool + "' holds " +
                                         std::to_string(limits::kVolumesPerPoolMax) +
                                         " volumes, which is the most; use another pool");
  }
  VolumeCreateOptions options;
  options.id = new_volume_id(executor_);
  options.name = request.name.volume;
  options.size_bytes = request.size_bytes;
  options.thick = request.thick;
  if (request.thick) {
    CO_TRY(check_may_be_thick(*entry));
  }
  ThickVolume* thick = nullptr;
  if (options.thick) {
    CO_TRY_ASSIGN(thick, co_await promise(*entry, options.id, options.size_bytes));
  }
  const Result<void> created = co_await Volume::create(executor_, *entry->pool, options);
  if (!created.ok()) {
    if (thick != nullptr) thick->dropped = true;
    co_return created.error();
  }
  wake_tender(*entry);
  log_info("volume " + request.name.to_string() + " was created, " +
           format_bytes(request.size_bytes));
  CO_TRY_ASSIGN(VolumeRecord record, co_await find_volume(*entry->pool, request.name));
  co_return co_await report_volume(*entry->pool, request.name, std::move(record));
}

// --- Reports, which must not hang with the storage ---

// What the storage says of the volumes of a pool, or of the one that is named.
Task<Result<std::vector<VolumeReport>>> Host::look_up(PoolEntry& entry, std::string volume) {
  const PoolUse use(entry);
  Pool& storage = *entry.pool;
  std::vector<VolumeRecord> records;
  if (volume.empty()) {
    CO_TRY_ASSIGN(records, co_await storage.list_volumes());
    std::sort(records.begin(), records.end(),
              [](const VolumeRecord& a, const VolumeRecord& b) { return a.name < b.name; });
  } else {
    VolumeName name{entry.name, volume};
    CO_TRY_ASSIGN(VolumeRecord record, co_await find_volume(storage, std::move(name)));
    records.push_back(std::move(record));
  }
  std::vector<VolumeReport> reports;
  for (VolumeRecord& record : records) {
    VolumeName name{entry.name, record.name};
    CO_TRY_ASSIGN(VolumeReport report,
                  co_await report_volume(storage, std::move(name), std::move(record)));
    if (!volume.empty()) co_await add_details(storage, report);
    reports.push_back(std::move(report));
  }
  co_return reports;
}

// What takes more reading than a list of volumes is worth.
Task<void> Host::add_details(Pool& pool, VolumeReport& report) {
  if (!report.id.has_value()) co_return;
  report.relations = co_await find_relations(pool, *report.id);
  if (report.attachment.has_value()) co_return;
  const auto usage = co_await Volume::stored_usage(pool, *report.id);
  if (!usage.ok() || !report.allocated_bytes.has_value()) co_return;
  report.stored_live_bytes = usage->live_bytes;
  report.garbage_bytes =
      *report.allocated_bytes - std::min(*report.allocated_bytes, usage->own_live_bytes);
}

namespace {

// Empty when it is gone, or cannot be read.
Task<std::string> snapshot_name_of(Pool& pool, SnapshotId id) {
  const auto bytes = co_await pool.read_snapshot(id);
  if (!bytes.ok()) co_return std::string();
  const auto snapshot = format::decode_snapshot(bytes.value(), id.volume, id.number);
  co_return snapshot.ok() ? snapshot->name : std::string();
}

}  // namespace

// Nothing when the storage cannot say.
Task<std::optional<RelationsReport>> Host::find_relations(Pool& pool, VolumeId id) {
  RelationsReport relations;
  auto mark = co_await Volume::clone_mark(pool, id);
  // An attached volume may be replacing its root just now.
  for (int tries = 1; !mark.ok() && tries < kRootTries; ++tries) {
    mark = co_await Volume::clone_mark(pool, id);
  }
  if (!mark.ok()) co_return std::nullopt;
  if (mark->has_value()) {
    const SnapshotId from = (*mark)->snapshot;
    RelationsReport::Parent parent;
    const auto volumes = co_await pool.list_volumes();
    if (!volumes.ok()) co_return std::nullopt;
    for (const VolumeRecord& volume : volumes.value()) {
      if (volume.id == from.volume) parent.volume = volume.name;
    }
    if (parent.volume.empty()) {
      const auto trash = co_await pool.list_trash();
      if (!trash.ok()) co_return std::nullopt;
      for (const TrashedVolume& trashed : trash.value()) {
        if (trashed.record.id != from.volume) continue;
        parent.volume = trashed.record.name;
        parent.is_in_trash = true;
      }
    }
    parent.snapshot = co_await snapshot_name_of(pool, from);
    relations.parent = std::move(parent);
  }
  const auto snapshots = co_await pool.list_snapshots(id);
  if (!snapshots.ok()) co_return std::nullopt;
  relations.snapshot_count = snapshots->size();
  if (!snapshots->empty()) {
    relations.newest_snapshot = co_await snapshot_name_of(pool, snapshots->back());
  }
  const auto clones = co_await find_clones(pool, id);
  if (!clones.ok()) co_return std::nullopt;
  for (const CloneUse& use : clones.value()) {
    (use.is_in_trash ? relations.clones_in_trash : relations.clones).push_back(use.clone);
  }
  std::sort(relations.clones.begin(), relations.clones.end());
  std::sort(relations.clones_in_trash.begin(), relations.clones_in_trash.end());
  co_return relations;
}

Task<void> Host::store_look_up(PoolEntry& entry, std::string volume,
                               std::shared_ptr<std::optional<LookUp>> answer) {
  ++entry.lookups;
  answer->emplace(co_await look_up(entry, std::move(volume)));
  --entry.lookups;
  changed_.notify_all();
}

// The same, but what is attached is reported even when the storage fails or does not answer in
// time: that is when people want to know.
Task<Result<std::vector<VolumeReport>>> Host::report_volumes(PoolEntry& entry, std::string volume) {
  const std::string pool = entry.name;
  const auto answer = std::make_shared<std::optional<LookUp>>();
  std::string why = "it has not answered earlier questions yet";
  if (entry.pool == nullptr) {
    why = entry.reason;
  } else if (entry.lookups < limits::kLookUpsPerPoolMax) {
    background_.spawn(store_look_up(entry, volume, answer));
    const MonotonicTime deadline = executor_.now() + limits::kStatusTime;
    Timer timer([](void* context) { static_cast<Condition*>(context)->notify_all(); }, &changed_);
    executor_.arm(timer, deadline);
    // Of what is not attached nobody else knows: then there is only to wait.
    const bool is_known = volume.empty() || find_attachment(VolumeName{pool, volume}) != nullptr;
    while (!answer->has_value() && (!is_known || executor_.now() < deadline)) {
      co_await changed_.wait();
    }
    if (answer->has_value() && (*answer)->ok()) co_return std::move(**answer);
    why = answer->has_value() ? (*answer)->error().message() : "it does not answer";
  }
  std::vector<VolumeReport> reports;
  for (const auto& [name, attachment] : attachments_) {
    if (name.pool != pool || (!volume.empty() && name.volume != volume)) continue;
    VolumeReport report;
    report.name = name;
    add_live_report(*attachment, report);
    add_hold_policy(name, report);
    if (report.reason.empty()) report.reason = "not all is known of it now: its storage: " + why;
    reports.push_back(std::move(report));
  }
  if (!reports.empty()) co_return reports;
  if (answer->has_value()) co_return std::move(**answer);
  co_return Error(ErrorCode::path_failure,
                  "the storage of pool '" + pool + "' cannot be asked now: " + why);
}

// One, which is open, or all.
Result<std::vector<std::string>> Host::pools_meant(const std::string& pool) const {
  if (!pool.empty()) {
    TRY(find_open_pool(pool));
    return std::vector{pool};
  }
  std::vector<std::string> names;
  for (const auto& [name, entry] : pools_) names.push_back(name);
  return names;
}

Task<Result<std::vector<VolumeReport>>> Host::list_volumes(std::string pool) {
  CO_TRY(check_running());
  co_await refresh(false);
  CO_TRY_ASSIGN(const std::vector<std::string> names, pools_meant(pool));
  std::vector<VolumeReport> reports;
  for (const std::string& name : names) {
    const auto at = pools_.find(name);
    if (at == pools_.end()) continue;  // closed meanwhile
    auto found = co_await report_volumes(*at->second, "");
    if (!found.ok()) {
      // One pool's trouble does not hide the volumes of the others; `status` tells of it.
      if (pool.empty()) continue;
      co_return found.take_error();
    }
    for (VolumeReport& report : *found) reports.push_back(std::move(report));
  }
  co_return reports;
}

Task<Result<VolumeReport>> Host::show_volume(VolumeName name) {
  co_await refresh(false);
  CO_TRY_ASSIGN(PoolEntry * entry, find_pool(name.pool));
  if (find_attachment(name) == nullptr) {
    CO_TRY(find_open_pool(name.pool));
  }
  CO_TRY_ASSIGN(std::vector<VolumeReport> found, co_await report_volumes(*entry, name.volume));
  co_return std::move(found.front());
}

Task<Result<VolumeReport>> Host::resize_volume(ResizeVolumeRequest request) {
  CO_TRY(check_volume_size(request.size_bytes));
  const std::string full_name = request.name.to_string();
  const NameLocks::Lock lock = co_await locks_.acquire(full_name);
  CO_TRY(check_not_importing(request.name));
  CO_TRY_ASSIGN(PoolEntry * entry, find_open_pool(request.name.pool));
  const PoolUse use(*entry);
  CO_TRY_ASSIGN(VolumeRecord record, co_await find_volume(*entry->pool, request.name));
  Attachment* attachment = find_attachment(request.name);
  const bool open = attachment != nullptr && attachment->served.has_value();
  if (attachment != nullptr && (!open || attachment->read_only)) {
    co_return Error(ErrorCode::busy, "volume '" + full_name + "' is attached " +
                                         (!open ? "but cannot be served now: " + attachment->reason
                                                : std::string("read-only")) +
                                         "; detach it first: holdfast detach " + full_name);
  }
  std::uint64_t current_bytes = 0;
  if (open) {
    current_bytes = attachment->served->size_bytes;
  } else {
    CO_TRY_ASSIGN(current_bytes, co_await Volume::stored_size_bytes(*entry->pool, record.id));
  }
  if (request.size_bytes < current_bytes && !request.force) {
    co_return Error(
        ErrorCode::invalid_argument,
        "shrinking '" + full_name + "' from " + format_bytes(current_bytes) + " to " +
            format_bytes(request.size_bytes) +
            " drops all data behind the new end; shrink the file system in it first, then repeat "
            "this with --force");
  }
  if (request.size_bytes != current_bytes) {
    if (record.thick && request.size_bytes > current_bytes) {
      CO_TRY(co_await grow_thick(*entry, record.id, request.size_bytes));
    }
    if (open) {
      auto command = [request](ServiceShard& shard) {
        return shard.resize(request.name, request.size_bytes);
      };
      CO_TRY_ASSIGN(attachment->served, co_await loops_[attachment->loop]->run(std::move(command)));
    } else {
      VolumeAct act = [size_bytes = request.size_bytes](Volume& volume) {
        return volume.resize(size_bytes);
      };
      CO_TRY(co_await with_volume(request.name, std::move(act), record.id));
    }
    log_info("volume " + full_name + " was resized from " + format_bytes(current_bytes) + " to " +
             format_bytes(request.size_bytes));
    wake_tender(*entry);
  }
  co_return co_await report_volume(*entry->pool, request.name, std::move(record));
}

Task<Result<VolumeReport>> Host::rename_volume(VolumeName name, std::string new_name) {
  CO_TRY(check_name("volume", new_name));
  const VolumeName target{name.pool, new_name};
  // In one order whoever asks, so that two renames cannot wait for each other.
  const VolumeName& first = std::min(name, target);
  const VolumeName& second = std::max(name, target);
  const NameLocks::Lock first_lock = co_await locks_.acquire(first.to_string());
  std::optional<NameLocks::Lock> second_lock;
  if (name != target) {
    NameLocks::Lock taken = co_await locks_.acquire(second.to_string());
    second_lock.emplace(std::move(taken));
  }
  CO_TRY(check_not_importing(name));
  CO_TRY(check_not_importing(target));
  CO_TRY_ASSIGN(PoolEntry * entry, find_open_pool(name.pool));
  const PoolUse use(*entry);
  CO_TRY_ASSIGN(VolumeRecord record, co_await find_volume(*entry->pool, name));
  if (name != target) {
    if (find_attachment(name) != nullptr) {
      co_return Error(ErrorCode::busy,
                      "volume '" + name.to_string() +
                          "' is attached, and its socket carries its name; detach it first: "
                          "holdfast detach " +
                          name.to_string());
    }
    for (const auto& [attached, unused] : attachments_) {
      const auto [volume, snapshot] = split_snapshot(attached.volume);
      if (attached.pool != name.pool || volume != name.volume || snapshot.empty()) continue;
      co_return Error(ErrorCode::busy, "its snapshot '" + attached.to_string() +
                                           "' is attached, and its socket carries the name; "
                                           "detach it first: holdfast detach " +
                                           attached.to_string());
    }
    CO_TRY_ASSIGN(const std::vector<VolumeRecord> volumes, co_await entry->pool->list_volumes());
    if (std::any_of(volumes.begin(), volumes.end(),
                    [&](const VolumeRecord& volume) { return volume.name == new_name; })) {
      co_return Error(ErrorCode::already_exists, "there is a volume '" + target.to_string() +
                                                     "' already; choose another name");
    }
    record.name = new_name;
    CO_TRY_ASSIGN(const auto fence, co_await own_for_command(*entry, name, record.id));
    const auto updated = co_await entry->pool->update_volume(record);
    co_await disown_after_command(*entry, fence, record.id);
    if (!updated.ok()) co_return updated.error();
    log_info("volume " + name.to_string() + " was renamed to " + target.to_string());
    if (auto settings = volume_holds_.extract(name)) {
      volume_holds_[target] = settings.mapped();
      (void)co_await save_state();  // a failure is shown in the status, and tried again
    }
  }
  co_return co_await report_volume(*entry->pool, target, std::move(record));
}

}  // namespace holdfast
