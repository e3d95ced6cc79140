// SPDX-License-Identifier: Apache-2.0
//
// Images in and out. The bytes go over NBD, between the program that asked and a volume that is
// served for it alone; the host sees to it that no half of an image is ever left or used:
//
// - an import makes a volume of another name, which gets its own when all is there, or changes one
//   that is exactly what a snapshot of it shows, and can go back to that;
// - what is to be undone is in the host's state before anything is done. It is undone when the
//   program asks for it, when it has no connection any more (it was killed), and when the daemon
//   starts.
#include <algorithm>

#include "base/log.h"
#include "host/host.h"
#include "host/host_entries.h"
#include "host/names.h"

namespace holdfast {
namespace {

constexpr std::string_view kImportingSuffix = ".importing";

std::string importing_name(const std::string& name) {
  return name.substr(0, limits::kNameBytesMax - kImportingSuffix.size()) +
         std::string(kImportingSuffix);
}

VolumeName volume_of(const VolumeName& served) {
  return {served.pool, split_snapshot(served.volume).first};
}

Task<Result<void>> take_snapshot(Volume* volume, std::string name) {
  CO_TRY(co_await volume->create_snapshot(std::move(name)));
  co_return Result<void>{};
}

Task<Result<void>> first_difference(Volume* volume, std::string since,
                                    std::shared_ptr<DiffPart> part) {
  DiffRequest request;
  request.since = std::move(since);
  CO_TRY_ASSIGN(*part, co_await volume->diff(std::move(request)));
  co_return Result<void>{};
}

Task<Result<void>> roll_back(Volume* volume, std::string since, std::string snapshot) {
  const std::vector<SnapshotInfo> snapshots = volume->snapshots();
  if (std::any_of(snapshots.begin(), snapshots.end(),
                  [&](const SnapshotInfo& each) { return each.name == snapshot; })) {
    CO_TRY(co_await volume->remove_snapshot(std::move(snapshot)));
  }
  co_return co_await volume->rollback(std::move(since));
}

}  // namespace

// For every other command that would use or change what an import works on.
Result<void> Host::check_not_importing(const VolumeName& name) const {
  for (const auto& [served, transfer] : transfers_) {
    if (transfer->kind == SavedTransferKind::read || served.pool != name.pool) continue;
    if (served.volume != name.volume && transfer->name != name.volume) continue;
    return Error(ErrorCode::busy,
                 "volume '" + name.to_string() + "' is being imported" +
                     (served.volume == name.volume ? "" : " as '" + served.to_string() + "'") +
                     "; wait for that 'holdfast import', or stop it");
  }
  return {};
}

Result<Host::Transfer*> Host::find_transfer(const VolumeName& name) const {
  TRY(check_running());
  const auto at = transfers_.find(name);
  if (at != transfers_.end() && !at->second->is_orphan) return at->second.get();
  return Error(ErrorCode::not_found,
               "there is no import or export '" + name.to_string() +
                   "' any more; one without a connection is undone: repeat it");
}

Result<void> Host::check_new_transfer(const VolumeName& served) const {
  TRY(check_running());
  if (transfers_.contains(served)) {
    return Error(ErrorCode::busy, "'" + served.to_string() +
                                      "' is being imported or exported already; wait for the end "
                                      "of that, or stop it");
  }
  if (transfers_.size() < limits::kTransfersMax) return {};
  return Error(ErrorCode::busy, std::to_string(limits::kTransfersMax) +
                                    " images are being imported or exported, which is the most; "
                                    "wait for one of them");
}

// Durable before anything is done that would have to be undone.
Task<Result<void>> Host::record_transfer(Transfer transfer) {
  const VolumeName served = transfer.served;
  CO_TRY(check_new_transfer(served));
  transfer.alone_since = executor_.now();
  transfers_.emplace(served, std::make_unique<Transfer>(std::move(transfer)));
  const std::string warning = co_await save_state();
  if (warning.empty()) co_return Result<void>{};
  transfers_.erase(served);
  co_return Error(ErrorCode::no_space, "nothing was begun, because " + warning);
}

// Under the lock of what is served, of which there is a transfer.
Task<Result<TransferAnswer>> Host::serve_transfer(VolumeName served) {
  AttachRequest request;
  request.name = served;
  Transfer& transfer = *transfers_.at(served);
  request.read_only = transfer.kind == SavedTransferKind::read;
  CO_TRY_ASSIGN(const Attachment* const attachment, co_await add_attachment(std::move(request)));
  const AttachmentReport serving = report(*attachment);
  TransferAnswer answer;
  answer.transfer = served;
  answer.size_bytes = attachment->served->size_bytes;
  answer.socket_path = serving.socket_path;
  answer.uri = serving.uri;
  transfer.alone_since = executor_.now();
  transfer.is_under_command = false;
  co_return answer;
}

// --- Imports ---

Task<Result<TransferAnswer>> Host::begin_import(ImportRequest request) {
  CO_TRY(check_name("volume", request.name.volume));
  if (!request.snapshot.empty()) {
    CO_TRY(check_name("snapshot", request.snapshot));
  }
  if (request.since.empty()) co_return co_await begin_new(std::move(request));
  co_return co_await begin_change(std::move(request));
}

Task<Result<TransferAnswer>> Host::begin_new(ImportRequest request) {
  const VolumeName served{request.name.pool, importing_name(request.name.volume)};
  std::string lock_name = served.to_string();
  const NameLocks::Lock lock = co_await locks_.acquire(std::move(lock_name));
  CO_TRY(check_new_transfer(served));
  CO_TRY(check_not_importing(request.name));
  CO_TRY(check_volume_size(request.size_bytes));
  CO_TRY_ASSIGN(PoolEntry * entry, find_open_pool(served.pool));
  const PoolUse use(*entry);
  CO_TRY_ASSIGN(const std::vector<VolumeRecord> volumes, co_await entry->pool->list_volumes());
  for (const VolumeRecord& volume : volumes) {
    if (volume.name != request.name.volume && volume.name != served.volume) continue;
    co_return Error(ErrorCode::already_exists,
                    "there is a volume '" + served.pool + "/" + volume.name +
                        "' already; choose another name, or remove that one first");
  }
  Transfer transfer;
  transfer.served = served;
  transfer.kind = SavedTransferKind::make;
  transfer.name = request.name.volume;
  transfer.snapshot = request.snapshot;
  CO_TRY(co_await record_transfer(std::move(transfer)));
  CreateVolumeRequest making;
  making.name = served;
  making.size_bytes = request.size_bytes;
  auto made = co_await make_volume(std::move(making));
  Result<TransferAnswer> answer = made.ok() ? Result<TransferAnswer>(TransferAnswer{})
                                            : Result<TransferAnswer>(made.take_error());
  if (answer.ok()) {
    VolumeName name = served;
    answer = co_await serve_transfer(std::move(name));
  }
  if (!answer.ok()) background_.spawn(try_undo(served));
  co_return answer;
}

Task<Result<TransferAnswer>> Host::begin_change(ImportRequest request) {
  const VolumeName served = request.name;
  const std::string full_name = served.to_string();
  std::string lock_name = full_name;
  const NameLocks::Lock lock = co_await locks_.acquire(std::move(lock_name));
  CO_TRY(check_new_transfer(served));
  CO_TRY(check_not_importing(served));
  VolumeName listed = served;
  CO_TRY_ASSIGN(const std::vector<SnapshotReport> all, co_await list_snapshots(std::move(listed)));
  const auto has = [&all](const std::string& name) {
    return std::any_of(all.begin(), all.end(),
                       [&](const SnapshotReport& each) { return each.name.snapshot == name; });
  };
  if (!has(request.since)) {
    co_return Error(ErrorCode::not_found, "the image goes on from snapshot '" + request.since +
                                              "', which '" + full_name +
                                              "' does not have; import the one that ends there "
                                              "first");
  }
  if (has(request.snapshot)) {
    co_return Error(ErrorCode::already_exists,
                    "there is a snapshot '" + full_name + "@" + request.snapshot +
                        "' already, where the image ends; it was imported before, or remove that "
                        "snapshot first");
  }
  if (find_attachment(served) != nullptr) {
    co_return Error(ErrorCode::busy, "volume '" + full_name +
                                         "' is attached, and its content would change under its "
                                         "guest; detach it first: holdfast detach " +
                                         full_name);
  }
  VolumeName compared = served;
  CO_TRY(co_await check_unchanged(std::move(compared), request.since));
  Transfer transfer;
  transfer.served = served;
  transfer.kind = SavedTransferKind::change;
  transfer.since = request.since;
  transfer.snapshot = request.snapshot;
  CO_TRY(co_await record_transfer(std::move(transfer)));
  VolumeName name = served;
  Result<TransferAnswer> answer = co_await serve_transfer(std::move(name));
  if (answer.ok() && answer->size_bytes != request.size_bytes) {
    name = served;
    auto resized = co_await resize_served(std::move(name), request.size_bytes);
    answer->size_bytes = request.size_bytes;
    if (!resized.ok()) answer = resized.take_error();
  }
  if (!answer.ok()) background_.spawn(try_undo(served));
  co_return answer;
}

// What it holds now has to be what the snapshot shows: the image says only what changed since.
Task<Result<void>> Host::check_unchanged(VolumeName name, std::string since) {
  const std::string full_name = name.to_string();
  auto part = std::make_shared<DiffPart>();  // the volume's loop fills it in
  VolumeAct act = [since, part](Volume& volume) { return first_difference(&volume, since, part); };
  CO_TRY_ASSIGN(const std::vector<SnapshotInfo> snapshots,
                co_await with_volume(std::move(name), std::move(act)));
  const bool has_size =
      std::any_of(snapshots.begin(), snapshots.end(), [&](const SnapshotInfo& each) {
        return each.name == since && each.size_bytes == part->size_bytes;
      });
  if (has_size && part->extents.empty() && !part->next_bytes.has_value()) co_return Result<void>{};
  co_return Error(ErrorCode::busy,
                  "volume '" + full_name + "' was changed since its snapshot '" + since +
                      "', from which the image goes on; to give up those changes: holdfast "
                      "snapshot rollback " +
                      full_name + "@" + since);
}

// Of a served volume, under its lock.
Task<Result<void>> Host::resize_served(VolumeName served, std::uint64_t size_bytes) {
  Attachment* const attachment = find_attachment(served);
  if (attachment == nullptr || !attachment->served.has_value()) {
    co_return Error(ErrorCode::path_failure, "'" + served.to_string() + "' cannot be served now");
  }
  if (attachment->served->size_bytes == size_bytes) co_return Result<void>{};
  CO_TRY(check_volume_size(size_bytes));
  CO_TRY_ASSIGN(PoolEntry * entry, find_open_pool(served.pool));
  const PoolUse use(*entry);
  if (attachment->record->thick && size_bytes > attachment->served->size_bytes) {
    CO_TRY(co_await grow_thick(*entry, attachment->record->id, size_bytes));
  }
  auto command = [served, size_bytes](ServiceShard& shard) {
    return shard.resize(served, size_bytes);
  };
  CO_TRY_ASSIGN(attachment->served, co_await loops_[attachment->loop]->run(std::move(command)));
  co_return Result<void>{};
}

// Between two images of a stream: the snapshot where one ends, the size that the next one has.
Task<Result<TransferAnswer>> Host::step_import(ImportStepRequest request) {
  const VolumeName served = request.transfer;
  std::string lock_name = served.to_string();
  const NameLocks::Lock lock = co_await locks_.acquire(std::move(lock_name));
  CO_TRY_ASSIGN(Transfer* const transfer, find_transfer(served));
  if (transfer->kind != SavedTransferKind::make) {
    co_return Error(ErrorCode::invalid_argument, "'" + served.to_string() +
                                                     "' is no volume that is being made; only "
                                                     "those are imported in steps");
  }
  if (!request.snapshot.empty()) {
    CO_TRY(check_name("snapshot", request.snapshot));
    VolumeAct act = [snapshot = request.snapshot](Volume& volume) {
      return take_snapshot(&volume, snapshot);
    };
    VolumeName name = served;
    CO_TRY(co_await with_volume(std::move(name), std::move(act)));
  }
  VolumeName name = served;
  CO_TRY(co_await resize_served(std::move(name), request.size_bytes));
  const Attachment* const attachment = find_attachment(served);
  const AttachmentReport serving = report(*attachment);
  TransferAnswer answer;
  answer.transfer = served;
  answer.size_bytes = request.size_bytes;
  answer.socket_path = serving.socket_path;
  answer.uri = serving.uri;
  co_return answer;
}

Task<Result<VolumeReport>> Host::finish_import(VolumeName served) {
  std::string lock_name = served.to_string();
  const NameLocks::Lock lock = co_await locks_.acquire(std::move(lock_name));
  CO_TRY_ASSIGN(Transfer* const transfer, find_transfer(served));
  if (transfer->kind == SavedTransferKind::read) {
    co_return Error(ErrorCode::invalid_argument, "'" + served.to_string() + "' is being exported");
  }
  CO_TRY_ASSIGN(PoolEntry * entry, find_open_pool(served.pool));
  const PoolUse use(*entry);
  if (!transfer->snapshot.empty()) {
    VolumeAct act = [snapshot = transfer->snapshot](Volume& volume) {
      return take_snapshot(&volume, snapshot);
    };
    VolumeName name = served;
    CO_TRY(co_await with_volume(std::move(name), std::move(act)));
  }
  transfer->is_under_command = true;  // its clients are cut by us
  if (Attachment* const attachment = find_attachment(served)) {
    co_await stop_serving(*attachment);
    attachments_.erase(served);
  }
  VolumeName name = served;
  if (transfer->kind == SavedTransferKind::make) {
    name.volume = transfer->name;
    auto named = co_await name_imported(transfer);
    if (!named.ok()) {
      transfer->is_under_command = false;
      co_return named.take_error();
    }
  }
  transfers_.erase(served);
  const std::string warning = co_await save_state();
  if (!warning.empty()) log_warning(warning);
  log_info("volume " + name.to_string() + " was imported");
  wake_tender(*entry);
  VolumeName found = name;
  CO_TRY_ASSIGN(VolumeRecord record, co_await find_volume(*entry->pool, std::move(found)));
  co_return co_await report_volume(*entry->pool, std::move(name), std::move(record));
}

// No other command gives that name to a volume meanwhile: check_not_importing().
Task<Result<void>> Host::name_imported(Transfer* transfer) {
  CO_TRY_ASSIGN(PoolEntry * entry, find_open_pool(transfer->served.pool));
  CO_TRY_ASSIGN(VolumeRecord record, co_await find_volume(*entry->pool, transfer->served));
  record.name = transfer->name;
  co_return co_await entry->pool->update_volume(std::move(record));
}

// --- Exports ---

Task<Result<TransferAnswer>> Host::begin_export(ExportRequest request) {
  const bool is_temporary = request.snapshot.empty();
  if (is_temporary) {
    request.snapshot = "exporting-" + new_volume_id(executor_).to_string().substr(0, 8);
  }
  const VolumeName served{request.volume.pool, request.volume.volume + "@" + request.snapshot};
  if (const Attachment* const present = find_attachment(served);
      present != nullptr && !transfers_.contains(served)) {
    if (present->protocol != "nbd" || !present->served.has_value()) {
      co_return Error(ErrorCode::busy, "snapshot '" + served.to_string() + "' is attached by " +
                                           present->protocol +
                                           ", and is read over NBD for an export; detach it "
                                           "first: holdfast detach " +
                                           served.to_string());
    }
    const AttachmentReport serving = report(*present);
    co_return TransferAnswer{
        served,     request.snapshot, true, present->served->size_bytes, serving.socket_path,
        serving.uri};
  }
  {
    CO_TRY_ASSIGN(PoolEntry * entry, find_open_pool(request.volume.pool));
    const PoolUse use(*entry);
    CO_TRY(co_await find_volume(*entry->pool, request.volume));
  }
  CO_TRY(check_not_importing(request.volume));
  Transfer transfer;
  transfer.served = served;
  if (is_temporary) transfer.snapshot = request.snapshot;
  CO_TRY(co_await record_transfer(std::move(transfer)));
  Result<TransferAnswer> answer = TransferAnswer{};
  if (is_temporary) {
    std::vector<SnapshotName> names = {{request.volume, request.snapshot}};
    auto taken = co_await create_snapshots(std::move(names));
    if (!taken.ok()) answer = taken.take_error();
  }
  if (answer.ok()) {
    std::string lock_name = served.to_string();
    const NameLocks::Lock lock = co_await locks_.acquire(std::move(lock_name));
    VolumeName name = served;
    answer = co_await serve_transfer(std::move(name));
  }
  if (!answer.ok()) {
    background_.spawn(try_undo(served));
    co_return answer;
  }
  answer->snapshot = request.snapshot;
  co_return answer;
}

// --- The end, good or bad ---

Task<Result<DoneAnswer>> Host::end_transfer(VolumeName served) {
  CO_TRY(find_transfer(served));
  CO_TRY(co_await undo(std::move(served)));
  co_return DoneAnswer{};
}

Task<Result<void>> Host::undo(VolumeName served) {
  const VolumeName volume = volume_of(served);
  std::string lock_name = volume.to_string();
  const NameLocks::Lock lock = co_await locks_.acquire(std::move(lock_name));
  std::optional<NameLocks::Lock> second_lock;
  if (volume != served) {
    lock_name = served.to_string();
    NameLocks::Lock taken = co_await locks_.acquire(std::move(lock_name));
    second_lock.emplace(std::move(taken));
  }
  const auto at = transfers_.find(served);
  if (at == transfers_.end()) co_return Result<void>{};  // it ended meanwhile
  Transfer* const transfer = at->second.get();
  CO_TRY_ASSIGN(PoolEntry * entry, find_open_pool(served.pool));
  const PoolUse use(*entry);
  transfer->is_under_command = true;
  if (Attachment* const attachment = find_attachment(served)) {
    co_await stop_serving(*attachment);  // once the storage has taken what it holds
    attachments_.erase(served);
  }
  auto undone = co_await undo_stored(transfer, entry);
  transfer->is_under_command = false;
  if (!undone.ok()) co_return undone.take_error();
  if (transfer->kind != SavedTransferKind::read) {
    log_info("the import of " + served.to_string() + " was undone");
  }
  transfers_.erase(served);
  const std::string warning = co_await save_state();
  if (!warning.empty()) log_warning(warning);
  co_return Result<void>{};
}

// Whatever of it was done: what is not there is fine.
Task<Result<void>> Host::undo_stored(Transfer* transfer, PoolEntry* entry) {
  VolumeName name = volume_of(transfer->served);
  CO_TRY_ASSIGN(const std::vector<VolumeRecord> volumes, co_await entry->pool->list_volumes());
  const auto record = std::find_if(volumes.begin(), volumes.end(), [&](const VolumeRecord& each) {
    return each.name == name.volume;
  });
  if (record == volumes.end()) co_return Result<void>{};
  switch (transfer->kind) {
    case SavedTransferKind::make:
      co_return co_await entry->pool->remove_volume(record->id);
    case SavedTransferKind::change: {
      VolumeAct act = [since = transfer->since, snapshot = transfer->snapshot](Volume& volume) {
        return roll_back(&volume, since, snapshot);
      };
      CO_TRY(co_await with_volume(std::move(name), std::move(act)));
      break;
    }
    case SavedTransferKind::read: {
      if (transfer->snapshot.empty()) break;
      CO_TRY_ASSIGN(const std::vector<SnapshotInfo> snapshots,
                    co_await Volume::stored_snapshots(*entry->pool, record->id));
      if (std::none_of(snapshots.begin(), snapshots.end(),
                       [&](const SnapshotInfo& each) { return each.name == transfer->snapshot; })) {
        break;
      }
      VolumeAct act = [snapshot = transfer->snapshot](Volume& volume) {
        return volume.remove_snapshot(snapshot);
      };
      CO_TRY(co_await with_volume(std::move(name), std::move(act)));
      break;
    }
  }
  co_return Result<void>{};
}

Task<void> Host::try_undo(VolumeName served) {
  const std::string shown = served.to_string();
  VolumeName undoing = served;
  const auto undone = co_await undo(std::move(undoing));
  if (undone.ok()) co_return;
  log_error("what the import or export of " + shown +
            " did cannot be undone yet: " + undone.error().message());
  const auto at = transfers_.find(served);
  if (at == transfers_.end()) co_return;
  at->second->is_under_command = false;
  at->second->alone_since = executor_.now() + limits::kTransferRetryTime;
}

// A program that was killed says nothing; but its connections are gone.
Task<void> Host::watch_transfers() {
  while (running_) {
    std::vector<VolumeName> left;
    for (const auto& [served, transfer] : transfers_) {
      const auto pool = pools_.find(served.pool);
      if (transfer->is_under_command || pool == pools_.end() ||
          pool->second->state != ServiceState::open) {
        continue;
      }
      const Attachment* const attachment = find_attachment(served);
      if (attachment != nullptr) background_.spawn(refresh_services(attachment->loop));
      if (attachment != nullptr && attachment->served.has_value()) {
        // One may have come and gone between two looks.
        const VolumeCounters& counters = attachment->served->counters;
        const bool has_client = attachment->served->clients.count != 0;
        transfer->had_client = transfer->had_client || has_client ||
                               counters.reads + counters.writes + counters.flushes != 0;
        if (has_client) {
          transfer->alone_since = executor_.now();
          continue;
        }
      }
      const Duration patience = transfer->is_orphan || attachment == nullptr ? 0ns
                                : transfer->had_client ? limits::kTransferGoneTime
                                                       : limits::kTransferStartTime;
      if (executor_.now() < transfer->alone_since + patience) continue;
      transfer->is_under_command = true;
      left.push_back(served);
    }
    for (const VolumeName& served : left) background_.spawn(try_undo(served));
    co_await sleep_for(executor_, limits::kTransferWatchTime);
  }
}

}  // namespace holdfast
