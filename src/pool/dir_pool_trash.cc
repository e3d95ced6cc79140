// SPDX-License-Identifier: Apache-2.0
//
// The trash of a DirPool: a volume is in it while its record has another name.
#include <optional>

#include "base/log.h"
#include "pool/dir_layout.h"
#include "pool/dir_pool.h"
#include "pool/names.h"

namespace holdfast {

using namespace dir_layout;

// One rename of the record: nothing is written, so it works on storage without a free byte.
Task<Result<void>> DirPool::trash_volume(VolumeId volume, WallTime since, WallTime until) {
  FileSystem& files = context_.file_system;
  CO_TRY(co_await read_volume_record(volume));
  std::string directory = volume_path(volume);
  std::string from = join(directory, kVolumeRecordName);
  std::string to = join(directory, trashed_name(since, until));
  CO_TRY(co_await files.rename(std::move(from), std::move(to)));
  co_return co_await files.sync_directory(std::move(directory));
}

Task<Result<std::optional<std::string>>> DirPool::find_trashed(VolumeId volume) {
  std::string directory = volume_path(volume);
  CO_TRY_ASSIGN(const std::vector<std::string> names,
                co_await context_.file_system.list(std::move(directory)));
  std::optional<std::string> found;
  for (const std::string& name : names) {
    if (name == kVolumeRecordName) co_return std::optional<std::string>();
    // No program of ours leaves two; of those the later one counts: rather too late than too early.
    if (!parse_trashed_name(name).has_value()) continue;
    if (!found.has_value() || parse_trashed_name(name)->until.unix_seconds >
                                  parse_trashed_name(*found)->until.unix_seconds) {
      found = name;
    }
  }
  if (found.has_value()) seen_trashed_.insert(volume);
  co_return found;
}

Task<Result<std::vector<TrashedVolume>>> DirPool::list_trash() {
  std::string volumes = volumes_path();
  CO_TRY_ASSIGN(const std::vector<std::string> names,
                co_await context_.file_system.list(std::move(volumes)));
  std::vector<TrashedVolume> trash;
  for (const std::string& name : names) {
    const std::optional<Uuid> id = Uuid::parse(name);
    if (!id.has_value() || id->to_string() != name) continue;
    // Reading one small file is quicker than listing a directory of many segments.
    const auto present = co_await read_volume_record(*id);
    if (present.ok() || present.error().code() != ErrorCode::not_found) continue;
    auto trashed = co_await find_trashed(*id);
    if (!trashed.ok() && trashed.error().code() == ErrorCode::not_found)
      continue;  // gone meanwhile
    if (!trashed.ok()) co_return trashed.take_error();
    if (!trashed->has_value()) continue;
    std::string record_name = **trashed;
    const auto times = parse_trashed_name(record_name);
    auto record = co_await read_record(*id, std::move(record_name));
    if (!record.ok() && record.error().code() == ErrorCode::path_failure) {
      co_return record.take_error();
    }
    if (!record.ok()) {
      log_warning("skipping volume " + name + " in the trash of pool " + info_.location + ": " +
                  record.error().message());
      continue;
    }
    trash.push_back({std::move(record).value(), times->since, times->until});
  }
  co_return trash;
}

Task<Result<void>> DirPool::restore_volume(VolumeId volume, std::string name) {
  FileSystem& files = context_.file_system;
  CO_TRY(check_name("volume", name));
  auto trashed = co_await find_trashed(volume);
  if (!trashed.ok() && trashed.error().code() != ErrorCode::not_found) {
    co_return trashed.take_error();
  }
  if (!trashed.ok() || !trashed->has_value()) {
    co_return Error(ErrorCode::not_found, "there is no volume " + volume.to_string() +
                                              " in the trash of the pool " + info_.location);
  }
  const std::string trashed_record = **trashed;
  std::string record_name = trashed_record;
  CO_TRY_ASSIGN(VolumeRecord record, co_await read_record(volume, std::move(record_name)));
  const bool is_renamed = record.name != name;
  record.name = std::move(name);
  const Claim claim(names_in_use_now_, record.name);
  if (!claim.is_new()) {
    co_return Error(ErrorCode::already_exists, "the volume " + record.name +
                                                   " is being created or renamed just now; try "
                                                   "again or use another name");
  }
  CO_TRY(co_await check_name_is_free(record, true));
  const std::string directory = volume_path(volume);
  if (is_renamed) {
    // Still in the trash, under its new name, should a crash come before the next step.
    CO_TRY(co_await write_record(directory, trashed_record, record));
  }
  std::string from = join(directory, trashed_record);
  std::string to = join(directory, kVolumeRecordName);
  CO_TRY(co_await files.rename(std::move(from), std::move(to)));
  seen_trashed_.erase(volume);
  co_return co_await files.sync_directory(directory);
}

}  // namespace holdfast
