// SPDX-License-Identifier: Apache-2.0
#include "pool/dir_pool.h"

#include <algorithm>
#include <cstdio>
#include <optional>
#include <span>

#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/log.h"
#include "pool/dir_layout.h"
#include "pool/names.h"
#include "pool/new_pool.h"
#include "pool/shared_areas.h"
#include "pool/space.h"

namespace holdfast {

using namespace dir_layout;

namespace {

constexpr std::string_view kLocationPrefix = "dir:";
constexpr unsigned kCountTries = 4;  // to count a volume's files while some are being renamed

// Makes the pool's directory, or accepts one that holds nothing of anybody's.
Task<Result<void>> prepare_directory(FileSystem* files, std::string path) {
  const auto made = co_await files->make_directory(path);
  if (made.ok()) {
    std::string parent = parent_directory(path);
    co_return co_await files->sync_directory(std::move(parent));
  }
  if (made.error().code() == ErrorCode::not_found) {
    co_return Error(ErrorCode::not_found, "cannot create " + path + ": the directory " +
                                              parent_directory(path) +
                                              " does not exist; create it or mount the storage "
                                              "there first");
  }
  if (made.error().code() != ErrorCode::already_exists) co_return made.error();
  CO_TRY_ASSIGN(const std::vector<std::string> names, co_await files->list(path));
  if (std::find(names.begin(), names.end(), kRecordName) != names.end()) {
    co_return Error(
        ErrorCode::already_exists,
        path + " is a pool already; open it with 'holdfast pool open NAME dir:" + path + "'");
  }
  // An interrupted creation leaves all but lost+found; lost+found is in every fresh ext4.
  for (const std::string& name : names) {
    bool harmless = name == "lost+found" || name == kLockName || name == kNewRecordName ||
                    name == kHostLeasesName;
    if (name == kVolumesName) {
      std::string volumes = join(path, name);
      const auto volumes_list = co_await files->list(std::move(volumes));
      harmless = volumes_list.ok() && volumes_list->empty();
    }
    if (!harmless) {
      co_return Error(ErrorCode::already_exists,
                      path + " is not empty (it holds " + name + " and " +
                          std::to_string(names.size() - 1) +
                          " more); give the pool a directory of its own");
    }
  }
  co_return Result<void>{};
}

Task<Result<void>> write_host_leases(PoolContext* context, std::string path,
                                     format::PoolRecord record) {
  std::vector<std::byte> area =
      make_host_lease_content(record, context->host_name, context->executor.boot_time());
  std::string leases = join(path, kHostLeasesName);
  co_return co_await context->file_system.write_file(std::move(leases), std::move(area));
}

}  // namespace

DirPool::DirPool(PoolContext context, PoolInfo info, std::unique_ptr<FileLock> lock)
    : context_(std::move(context)),
      path_(info.location.substr(kLocationPrefix.size())),
      info_(std::move(info)),
      lock_(std::move(lock)) {}

std::unique_ptr<Pool> DirPool::view(PoolContext context, PoolInfo info) {
  return std::unique_ptr<Pool>(
      new DirPool(std::move(context), std::move(info), nullptr));  // NOLINT: private constructor
}

Task<Result<std::unique_ptr<Pool>>> DirPool::create(PoolContext context, std::string path,
                                                    PoolCreateOptions options) {
  CO_TRY(check_create_options(options));
  FileSystem& files = context.file_system;
  CO_TRY(co_await prepare_directory(&files, path));
  std::unique_ptr<FileLock> lock;
  if (!options.shared) {
    CO_TRY_ASSIGN(lock, co_await take_lock(&context, path));
  }
  std::string volumes = join(path, kVolumesName);
  const auto volumes_made = co_await files.make_directory(std::move(volumes));
  if (!volumes_made.ok() && volumes_made.error().code() != ErrorCode::already_exists) {
    co_return volumes_made.error();
  }
  format::PoolRecord record;
  record.id = make_pool_id(context.executor);
  record.segment_bytes = options.segment_bytes;
  if (options.shared) {
    record.shared = true;
    record.incompatible_features |= format::kFeatureLeases;
    record.lease_times = {options.io_timeout_seconds, options.watchdog_seconds};
    CO_TRY(co_await write_host_leases(&context, path, record));
  }
  record.created = context.executor.wall_time();
  std::vector<std::byte> bytes = format::encode_pool_record(record);
  const std::string temporary = join(path, kNewRecordName);
  CO_TRY(co_await files.write_file(temporary, std::move(bytes)));
  std::string final_path = join(path, kRecordName);
  CO_TRY(co_await files.rename(temporary, std::move(final_path)));
  CO_TRY(co_await files.sync_directory(path));
  co_return std::unique_ptr<Pool>(
      new DirPool(std::move(context), make_pool_info(std::string(kLocationPrefix) + path, record),
                  std::move(lock)));  // NOLINT
}

Task<Result<std::unique_ptr<Pool>>> DirPool::open(PoolContext context, std::string path) {
  FileSystem& files = context.file_system;
  std::string record_path = join(path, kRecordName);
  const auto bytes = co_await files.read_file(std::move(record_path));
  if (!bytes.ok()) {
    if (bytes.error().code() != ErrorCode::not_found) co_return bytes.error();
    const auto there = co_await files.list(path);
    if (there.ok()) {
      co_return Error(ErrorCode::not_found,
                      path + " is not a pool: it has no " + std::string(kRecordName) +
                          "; is the storage mounted? 'holdfast pool create NAME dir:" + path +
                          "' makes a pool in an empty directory");
    }
    co_return Error(ErrorCode::not_found, "there is no directory " + path +
                                              "; mount the storage there, or create a "
                                              "pool with 'holdfast pool create NAME dir:" +
                                              path + "'");
  }
  auto decoded = format::decode_pool_record(bytes.value());
  if (!decoded.ok()) {
    co_return decoded.take_error().context("cannot open the pool dir:" + path);
  }
  std::unique_ptr<FileLock> lock;
  if (!decoded->shared) {
    CO_TRY_ASSIGN(lock, co_await take_lock(&context, path));
  }
  std::unique_ptr<DirPool> pool(
      new DirPool(std::move(context), make_pool_info(std::string(kLocationPrefix) + path, *decoded),
                  std::move(lock)));  // NOLINT
  co_await pool->remove_leftover_volumes();
  co_return std::unique_ptr<Pool>(std::move(pool));
}

Task<Result<std::unique_ptr<FileLock>>> DirPool::take_lock(PoolContext* context, std::string path) {
  std::string lock_path = join(path, kLockName);
  std::string holder = context->holder;
  auto lock = co_await context->file_system.lock(std::move(lock_path), std::move(holder));
  if (!lock.ok() && lock.error().code() == ErrorCode::busy) {
    co_return lock.take_error().context("the pool dir:" + path + " is open in another daemon");
  }
  co_return std::move(lock);
}

Task<Result<PoolSpace>> DirPool::space() {
  CO_TRY_ASSIGN(const FileSystemSpace space, co_await context_.file_system.space(path_));
  PoolSpace answer;
  answer.capacity_bytes = space.capacity_bytes;
  answer.available_bytes = space.available_bytes;
  answer.reserve_bytes = reserve_bytes_of(space.capacity_bytes);
  co_return answer;
}

Task<Result<std::vector<VolumeRecord>>> DirPool::list_volumes() {
  std::string volumes = volumes_path();
  CO_TRY_ASSIGN(const std::vector<std::string> names,
                co_await context_.file_system.list(std::move(volumes)));
  std::vector<VolumeRecord> records;
  for (const std::string& name : names) {
    const std::optional<Uuid> id = Uuid::parse(name);
    if (!id.has_value() || id->to_string() != name) continue;
    auto record = co_await read_volume_record(*id);
    if (record.ok()) {
      records.push_back(std::move(record).value());
      continue;
    }
    // Storage that cannot be reached says nothing about volumes; a single bad one must not take
    // the others with it.
    if (record.error().code() == ErrorCode::path_failure) co_return record.take_error();
    if (record.error().code() == ErrorCode::not_found) {
      if (seen_trashed_.contains(*id)) continue;
      const auto trashed = co_await find_trashed(*id);
      if (trashed.ok() && trashed->has_value()) continue;
    }
    log_warning("skipping volume " + name + " of pool " + info_.location + ": " +
                record.error().message());
  }
  co_return records;
}

Task<Result<void>> DirPool::create_volume(VolumeRecord record, RootId root,
                                          std::vector<std::byte> root_bytes) {
  FileSystem& files = context_.file_system;
  CO_TRY(check_name("volume", record.name));
  const Claim claim(names_in_use_now_, record.name);
  if (!claim.is_new()) {
    co_return Error(ErrorCode::already_exists,
                    "the volume " + record.name + " is being created just now; use another name");
  }
  CO_TRY(co_await check_name_is_free(record, true));
  const std::string creating = join(volumes_path(), creating_prefix()) + record.id.to_string();
  CO_TRY(co_await files.make_directory(creating));
  auto filled = co_await fill_new_volume(creating, record, root, std::move(root_bytes));
  if (filled.ok()) {
    std::string final_path = volume_path(record.id);
    filled = co_await files.rename(creating, std::move(final_path));
  }
  if (!filled.ok()) {
    const auto removed = co_await remove_tree(creating, RemovalOptions());
    if (!removed.ok()) log_warning(removed.error().message());
    co_return filled;
  }
  std::string volumes = volumes_path();
  CO_TRY(co_await files.sync_directory(std::move(volumes)));
  if (info_.shared) {
    CO_TRY(co_await check_name_is_still_ours(record));
  }
  co_return Result<void>{};
}

// Two hosts may have made volumes of one name at the same time: of those the lowest id stays.
Task<Result<void>> DirPool::check_name_is_still_ours(VolumeRecord record) {
  CO_TRY_ASSIGN(const std::vector<VolumeRecord> all, co_await list_volumes());
  const bool is_beaten = std::any_of(all.begin(), all.end(), [&](const VolumeRecord& other) {
    return other.name == record.name && other.id < record.id;
  });
  if (!is_beaten) co_return Result<void>{};
  CO_TRY(co_await remove_volume(record.id, RemovalOptions()));
  co_return Error(ErrorCode::already_exists,
                  "another host has just made a volume " + record.name + "; use another name");
}

std::string DirPool::creating_prefix() const {
  std::string prefix(kCreatingPrefix);
  if (!info_.shared) return prefix;
  const std::uint32_t tag = crc32c(std::as_bytes(std::span(context_.host_name)));
  char text[16];
  std::snprintf(text, sizeof(text), "%08x-", tag);
  return prefix + text;
}

// --- Leases ---

Task<Result<void>> DirPool::write_lease(std::string directory, VolumeId volume, Epoch epoch) {
  CO_TRY_ASSIGN(std::vector<std::byte> area, make_volume_lease_content(info_.id, volume, epoch));
  std::string path = join(directory, kVolumeLeaseName);
  co_return co_await context_.file_system.write_file(std::move(path), std::move(area));
}

Task<Result<std::unique_ptr<File>>> DirPool::open_lease(std::string path) {
  if (!info_.shared) {
    co_return Error(ErrorCode::unsupported, "the pool " + info_.location +
                                                " is local: only one daemon uses it, and it has "
                                                "no leases");
  }
  FileOpenOptions options;
  options.writable = true;
  co_return co_await context_.file_system.open(std::move(path), options);
}

Task<Result<std::unique_ptr<File>>> DirPool::open_host_leases() {
  std::string path = join(path_, kHostLeasesName);
  co_return co_await open_lease(std::move(path));
}

Task<Result<std::unique_ptr<File>>> DirPool::open_volume_lease(VolumeId volume) {
  std::string path = join(volume_path(volume), kVolumeLeaseName);
  co_return co_await open_lease(std::move(path));
}

Task<Result<void>> DirPool::fill_new_volume(std::string directory, VolumeRecord record, RootId root,
                                            std::vector<std::byte> root_bytes) {
  FileSystem& files = context_.file_system;
  std::string record_name(kVolumeRecordName);
  CO_TRY(co_await write_record(directory, std::move(record_name), std::move(record)));
  if (info_.shared) {
    CO_TRY(co_await write_lease(directory, root.volume, root.epoch));
  }
  std::string root_file_path = join(directory, root_name(root));
  CO_TRY(co_await files.write_file(std::move(root_file_path), std::move(root_bytes)));
  co_return co_await files.sync_directory(std::move(directory));
}

Task<Result<void>> DirPool::update_volume(VolumeRecord record) {
  CO_TRY(check_name("volume", record.name));
  CO_TRY(co_await read_volume_record(record.id));
  const Claim claim(names_in_use_now_, record.name);
  if (!claim.is_new()) {
    co_return Error(ErrorCode::already_exists, "the volume " + record.name +
                                                   " is being created or renamed just now; try "
                                                   "again or use another name");
  }
  CO_TRY(co_await check_name_is_free(record, false));
  std::string directory = volume_path(record.id);
  std::string record_name(kVolumeRecordName);
  co_return co_await write_record(std::move(directory), std::move(record_name), std::move(record));
}

Task<Result<void>> DirPool::remove_volume(VolumeId volume, RemovalOptions options) {
  FileSystem& files = context_.file_system;
  const std::string removing = join(volumes_path(), kRemovingPrefix) + volume.to_string();
  std::string path = volume_path(volume);
  auto renamed = co_await files.rename(std::move(path), removing);
  if (!renamed.ok()) {
    if (renamed.error().code() == ErrorCode::not_found) {
      co_return Error(ErrorCode::not_found, "there is no volume " + volume.to_string() +
                                                " in the pool " + info_.location);
    }
    co_return renamed;
  }
  std::string volumes = volumes_path();
  CO_TRY(co_await files.sync_directory(std::move(volumes)));
  // From here on the volume is gone; what is left takes only space, and the next open tries again.
  seen_trashed_.erase(volume);
  const auto removed = co_await remove_tree(removing, options);
  if (!removed.ok()) {
    log_warning("the space of removed volume " + volume.to_string() +
                " is freed when the pool is opened again: " + removed.error().message());
  }
  co_return Result<void>{};
}

Task<Result<std::uint64_t>> DirPool::volume_allocated_bytes(VolumeId volume) {
  const std::string directory = volume_path(volume);
  for (unsigned tries = 1;; ++tries) {
    CO_TRY_ASSIGN(const std::vector<std::string> names,
                  co_await context_.file_system.list(directory));
    std::uint64_t total = 0;
    bool is_exact = true;
    for (const std::string& name : names) {
      std::string path = join(directory, name);
      const auto bytes = co_await context_.file_system.allocated_bytes(std::move(path));
      if (bytes.ok()) {
        total += bytes.value();
      } else if (bytes.error().code() == ErrorCode::not_found) {
        is_exact = false;  // removed meanwhile, or recycled: then it has another name
      } else {
        co_return bytes.error();
      }
    }
    if (is_exact || tries == kCountTries) co_return total;
  }
}

Task<Result<void>> DirPool::check_reserve(SegmentPurpose purpose, std::uint64_t wanted_bytes) {
  if (purpose == SegmentPurpose::metadata) co_return Result<void>{};
  CO_TRY_ASSIGN(const PoolSpace space, co_await this->space());
  if (has_room_for(space, purpose, wanted_bytes)) co_return Result<void>{};
  co_return no_room_error(info_.location, space);
}

Task<Result<std::unique_ptr<File>>> DirPool::create_segment(SegmentId segment,
                                                            SegmentPurpose purpose) {
  FileSystem& files = context_.file_system;
  CO_TRY(co_await check_reserve(purpose, info_.segment_bytes));
  const std::string path = segment_path(segment);
  FileOpenOptions options;
  options.writable = true;
  options.create_new = true;
  options.preallocate_bytes = info_.segment_bytes;
  CO_TRY_ASSIGN(std::unique_ptr<File> file, co_await files.open(path, options));
  // Others (another loop, another tenant of the storage) may have taken the same room since the
  // look above. Whoever looks last, after its own allocation, sees everybody's, and gives way.
  auto kept = co_await check_reserve(purpose, 0);
  if (kept.ok()) {
    std::string directory = volume_path(segment.volume);
    kept = co_await files.sync_directory(std::move(directory));
  }
  if (!kept.ok()) {
    file.reset();
    const auto removed = co_await files.remove_file(path);
    if (!removed.ok()) log_warning(removed.error().message());
    co_return kept.take_error();
  }
  co_return file;
}

Task<Result<std::unique_ptr<File>>> DirPool::open_segment(SegmentId segment, bool writable) {
  std::string path = segment_path(segment);
  FileOpenOptions options;
  options.writable = writable;
  co_return co_await context_.file_system.open(std::move(path), options);
}

Task<Result<void>> DirPool::remove_segment(SegmentId segment) {
  std::string path = segment_path(segment);
  co_return co_await context_.file_system.remove_file(std::move(path));
}

Task<Result<void>> DirPool::trim_segment(SegmentId segment, std::uint64_t used_bytes) {
  std::string path = segment_path(segment);
  const std::uint64_t size_bytes = std::min(round_up(used_bytes, kBlockBytes), info_.segment_bytes);
  co_return co_await context_.file_system.truncate(std::move(path), size_bytes);
}

// The names of all files of a volume.
Task<Result<std::vector<std::string>>> DirPool::list_names(VolumeId volume) {
  std::string directory = volume_path(volume);
  co_return co_await context_.file_system.list(std::move(directory));
}

Task<Result<std::vector<SegmentId>>> DirPool::list_segments(VolumeId volume) {
  CO_TRY_ASSIGN(const std::vector<std::string> names, co_await list_names(volume));
  co_return parse_names<SegmentId>(names, [&](const std::string& name) {
    const auto numbers = parse_numbered_name(kSegmentPrefix, name);
    if (!numbers.has_value()) return std::optional<SegmentId>();
    return std::optional(SegmentId{volume, Epoch{numbers->epoch}, SegmentNumber{numbers->number}});
  });
}

Task<Result<void>> DirPool::publish_root(RootId root, std::vector<std::byte> bytes, Epoch owner) {
  Publication publication{root_path(root), temporary_path(root.volume, root_name(root), owner)};
  publication.spare = join(
      owner.value == 0 ? volume_path(root.volume) : epoch_path(root.volume, owner), kSpareRootName);
  // A write that was answered with an error may land after another root has come to be there.
  publication.keeps_spare = owner.value == 0;
  co_return co_await publish_file(std::move(publication), std::move(bytes));
}

Task<Result<std::vector<RootId>>> DirPool::list_roots(VolumeId volume) {
  CO_TRY_ASSIGN(const std::vector<std::string> names, co_await list_names(volume));
  co_return parse_names<RootId>(names, [&](const std::string& name) {
    const auto numbers = parse_numbered_name(kRootPrefix, name);
    if (!numbers.has_value()) return std::optional<RootId>();
    return std::optional(RootId{volume, Epoch{numbers->epoch}, numbers->number});
  });
}

Task<Result<std::vector<std::byte>>> DirPool::read_root(RootId root) {
  std::string path = root_path(root);
  co_return co_await context_.file_system.read_file(std::move(path));
}

// Its space is kept: storage that others have filled to the last block must not keep a volume from
// publishing its next root, without which nothing would ever be freed. Nobody reads an old root, so
// it may be overwritten; should its name come back after a power loss, it names another. But not
// that of another owner, whose last writes may be on their way to it.
Task<Result<void>> DirPool::remove_root(RootId root, Epoch owner) {
  std::string path = root_path(root);
  if (owner.value != 0 && owner != root.epoch) {
    co_return co_await context_.file_system.remove_file(std::move(path));
  }
  std::string spare = join(
      owner.value == 0 ? volume_path(root.volume) : epoch_path(root.volume, owner), kSpareRootName);
  co_return co_await context_.file_system.rename(std::move(path), std::move(spare));
}

Task<void> DirPool::remove_leftovers(VolumeId volume) {
  const std::string directory = volume_path(volume);
  const auto names = co_await context_.file_system.list(directory);
  if (!names.ok()) co_return;
  for (const std::string& name : names.value()) {
    const std::string path = join(directory, name);
    if (!name.starts_with(kNewPrefix) || publishing_.contains(path)) continue;
    const auto removed = co_await context_.file_system.remove_file(path);
    if (!removed.ok()) log_warning(removed.error().message());
  }
}

Task<Result<void>> DirPool::publish_snapshot(SnapshotId snapshot, std::vector<std::byte> bytes,
                                             Epoch owner) {
  const std::string name = snapshot_name(snapshot.number);
  Publication publication{join(volume_path(snapshot.volume), name),
                          temporary_path(snapshot.volume, name, owner)};
  co_return co_await publish_file(std::move(publication), std::move(bytes));
}

// Gone already is fine.
Task<Result<void>> DirPool::remove_durably(std::string directory, std::string name) {
  std::string path = join(directory, name);
  auto removed = co_await context_.file_system.remove_file(std::move(path));
  if (!removed.ok() && removed.error().code() != ErrorCode::not_found) co_return removed;
  co_return co_await context_.file_system.sync_directory(std::move(directory));
}

Task<Result<void>> DirPool::remove_snapshot(SnapshotId snapshot, Epoch owner) {
  std::string directory = volume_path(snapshot.volume);
  std::string name = snapshot_name(snapshot.number);
  if (owner.value == 0) co_return co_await remove_durably(std::move(directory), std::move(name));
  FileSystem& files = context_.file_system;
  const std::string path = join(directory, name);
  const std::string away = join(epoch_path(snapshot.volume, owner), name);
  auto removed = co_await files.rename(path, away);
  if (!removed.ok()) {
    if (removed.error().code() != ErrorCode::not_found) co_return removed;
    // It is gone, or we are.
    std::string epoch = epoch_path(snapshot.volume, owner);
    CO_TRY(co_await files.list(std::move(epoch)));
  }
  CO_TRY(co_await files.sync_directory(std::move(directory)));
  removed = co_await files.remove_file(away);
  if (!removed.ok() && removed.error().code() != ErrorCode::not_found) {
    log_warning(removed.error().message());  // it goes with the epoch
  }
  co_return Result<void>{};
}

Task<Result<std::vector<SnapshotId>>> DirPool::list_snapshots(VolumeId volume) {
  CO_TRY_ASSIGN(const std::vector<std::string> names, co_await list_names(volume));
  co_return parse_names<SnapshotId>(names, [&](const std::string& name) {
    const auto number = parse_snapshot_name(name);
    if (!number.has_value()) return std::optional<SnapshotId>();
    return std::optional(SnapshotId{volume, *number});
  });
}

Task<Result<void>> DirPool::add_clone_mark(CloneMark mark) {
  std::string directory = volume_path(mark.snapshot.volume);
  std::string path = join(directory, clone_mark_name(mark.snapshot.number, mark.clone));
  CO_TRY(co_await context_.file_system.write_file(std::move(path), {}));
  co_return co_await context_.file_system.sync_directory(std::move(directory));
}

Task<Result<void>> DirPool::remove_clone_mark(CloneMark mark) {
  std::string directory = volume_path(mark.snapshot.volume);
  std::string name = clone_mark_name(mark.snapshot.number, mark.clone);
  co_return co_await remove_durably(std::move(directory), std::move(name));
}

Task<Result<std::vector<CloneMark>>> DirPool::list_clone_marks(VolumeId volume) {
  CO_TRY_ASSIGN(const std::vector<std::string> names, co_await list_names(volume));
  co_return parse_names<CloneMark>(names, [&](const std::string& name) {
    const auto mark = parse_clone_mark_name(name);
    if (!mark.has_value()) return std::optional<CloneMark>();
    return std::optional(CloneMark{{volume, mark->snapshot}, mark->clone});
  });
}

Task<Result<std::vector<std::byte>>> DirPool::read_snapshot(SnapshotId snapshot) {
  std::string path = join(volume_path(snapshot.volume), snapshot_name(snapshot.number));
  co_return co_await context_.file_system.read_file(std::move(path));
}

std::string DirPool::volume_path(const VolumeId& volume) const {
  return join(volumes_path(), volume.to_string());
}
std::string DirPool::segment_path(const SegmentId& segment) const {
  return join(volume_path(segment.volume), segment_name(segment));
}
std::string DirPool::root_path(const RootId& root) const {
  return join(volume_path(root.volume), root_name(root));
}

Task<void> DirPool::remove_leftover_volumes() {
  std::string volumes = volumes_path();
  const auto names = co_await context_.file_system.list(std::move(volumes));
  if (!names.ok()) {
    log_warning("pool " + info_.location + ": " + names.error().message());
    co_return;
  }
  for (const std::string& name : names.value()) {
    // What others are creating now is theirs; a removal goes on whoever began it.
    if (!name.starts_with(creating_prefix()) && !name.starts_with(kRemovingPrefix)) continue;
    std::string path = join(volumes_path(), name);
    const auto removed = co_await remove_tree(std::move(path), RemovalOptions());
    if (!removed.ok()) {
      log_warning("cannot remove what an interrupted operation left in pool " + info_.location +
                  ": " + removed.error().message());
    }
  }
}

Task<Result<void>> DirPool::remove_tree(std::string path, RemovalOptions options) {
  CO_TRY_ASSIGN(const std::vector<std::string> names, co_await context_.file_system.list(path));
  for (const std::string& name : names) {
    if (options.stop != nullptr && *options.stop) {
      co_return Error(ErrorCode::busy, "the pool is being closed");
    }
    const MonotonicTime began = context_.executor.now();
    std::string file = join(path, name);
    if (parse_epoch_directory_name(name).has_value()) {
      CO_TRY(co_await remove_epoch(std::move(file)));
      continue;
    }
    const auto removed = co_await context_.file_system.remove_file(std::move(file));
    const bool is_gone = !removed.ok() && removed.error().code() == ErrorCode::not_found;
    if (!removed.ok() && !is_gone) co_return removed;
    if (!options.is_gentle) continue;
    co_await sleep_for(context_.executor, context_.executor.now() - began);
  }
  co_return co_await context_.file_system.remove_directory(std::move(path));
}

Task<Result<VolumeRecord>> DirPool::read_volume_record(VolumeId volume) {
  std::string name(kVolumeRecordName);
  co_return co_await read_record(volume, std::move(name));
}

Task<Result<VolumeRecord>> DirPool::read_record(VolumeId volume, std::string name) {
  std::string path = join(volume_path(volume), name);
  auto bytes = co_await context_.file_system.read_file(std::move(path));
  if (!bytes.ok()) {
    if (bytes.error().code() != ErrorCode::not_found) co_return bytes.take_error();
    co_return Error(ErrorCode::not_found,
                    "there is no volume " + volume.to_string() + " in the pool " + info_.location);
  }
  CO_TRY_ASSIGN(const format::StoredVolumeRecord stored,
                format::decode_volume_record(bytes.value()));
  if (stored.id != volume) {
    co_return Error(ErrorCode::corrupt, "the record in the directory of volume " +
                                            volume.to_string() + " is that of volume " +
                                            stored.id.to_string() +
                                            "; give the directory its old name");
  }
  co_return make_volume_record(stored);
}

Task<Result<void>> DirPool::write_record(std::string directory, std::string name,
                                         VolumeRecord record) {
  format::StoredVolumeRecord stored;
  stored.id = record.id;
  stored.name = std::move(record.name);
  stored.thick = record.thick;
  stored.created = record.created;
  std::vector<std::byte> bytes = format::encode_volume_record(stored);
  Publication publication{join(directory, name), join(directory, kNewPrefix) + name};
  co_return co_await publish_file(std::move(publication), std::move(bytes));
}

Task<Result<void>> DirPool::check_name_is_free(VolumeRecord record, bool is_new_volume) {
  CO_TRY_ASSIGN(const std::vector<VolumeRecord> others, co_await list_volumes());
  for (const VolumeRecord& other : others) {
    if (other.id == record.id ? is_new_volume : other.name == record.name) {
      co_return Error(ErrorCode::already_exists, "the pool " + info_.location +
                                                     " already has a volume " + other.name +
                                                     "; use another name or remove that volume");
    }
  }
  if (is_new_volume && others.size() >= limits::kVolumesPerPoolMax) {
    co_return Error(ErrorCode::invalid_argument,
                    "the pool " + info_.location + " has " + std::to_string(others.size()) +
                        " volumes, as many as a pool can have; use another pool");
  }
  co_return Result<void>{};
}

Task<Result<void>> DirPool::publish_file(Publication publication, std::vector<std::byte> bytes) {
  FileSystem& files = context_.file_system;
  const Publication& names = publication;
  const Claim claim(publishing_, names.temporary);
  if (!claim.is_new()) {
    co_return Error(ErrorCode::busy, names.temporary + " is being written already; try again");
  }
  bool has_spare = false;
  if (!names.spare.empty()) {
    const auto taken = co_await files.rename(names.spare, names.temporary);
    has_spare = taken.ok();
  }
  auto published = co_await files.write_file(names.temporary, std::move(bytes));
  if (published.ok()) published = co_await files.rename(names.temporary, names.path);
  if (!published.ok()) {
    // Full storage must not stay fuller for this; otherwise list_roots() cleans up.
    if (has_spare && (names.keeps_spare || published.error().code() == ErrorCode::no_space)) {
      (void)co_await files.rename(names.temporary, names.spare);
    } else {
      (void)co_await files.remove_file(names.temporary);
    }
    co_return published;
  }
  std::string directory = parent_directory(names.path);
  co_return co_await files.sync_directory(std::move(directory));
}

}  // namespace holdfast
