// SPDX-License-Identifier: Apache-2.0
//
// Opening a pool on RADOS, and its index of volumes.
#include "pool/rados_pool.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/bytes.h"
#include "base/log.h"
#include "pool/dir_layout.h"
#include "pool/names.h"
#include "pool/new_pool.h"
#include "pool/shared_areas.h"
#include "pool/space.h"

namespace holdfast {

using namespace rados_layout;

namespace {

std::string key(std::string_view prefix, const VolumeId& volume) {
  return std::string(prefix) + volume.to_string();
}
std::string name_key(const std::string& name) {
  return std::string(kNamePrefix) + name;
}
RadosValue absent(std::string key_name) {
  return {std::move(key_name), {}};
}

Error damaged(const PoolInfo& info, const Error& error) {
  return Error(ErrorCode::corrupt, "the pool " + info.location + ": " + error.message());
}

// Whose id a key of the index has.
std::optional<VolumeId> volume_of(const std::string& index_key, std::string_view prefix) {
  return Uuid::parse(std::string_view(index_key).substr(prefix.size()));
}

}  // namespace

RadosPool::RadosPool(PoolContext context, PoolInfo info, std::unique_ptr<RadosClient> client,
                     Striping striping)
    : context_(std::move(context)),
      info_(std::move(info)),
      client_(std::move(client)),
      striping_(striping) {}

std::unique_ptr<Pool> RadosPool::view(PoolContext context, PoolInfo info) {
  auto address = parse_location(info.location);
  HOLDFAST_ASSERT(address.ok());
  std::unique_ptr<RadosClient> client = RadosClient::share(context.executor, *address);
  const Striping striping = striping_of(info.segment_bytes);
  return std::unique_ptr<Pool>(new RadosPool(std::move(context), std::move(info), std::move(client),
                                             striping));  // NOLINT: private
}

Error RadosPool::failed(const std::string& action, int error) const {
  return rados_error(client_->address(), action, error);
}

// --- Opening ---

// The record comes last, and is there only once: of two that create the pool one fails.
Task<Result<std::unique_ptr<Pool>>> RadosPool::create(PoolContext context, std::string location,
                                                      PoolCreateOptions options) {
  options.shared = true;
  CO_TRY(check_create_options(options));
  CO_TRY_ASSIGN(RadosAddress address, parse_location(location));
  CO_TRY_ASSIGN(std::unique_ptr<RadosClient> client,
                co_await RadosClient::connect(context.executor, address));
  const std::string place = location_of(address);
  const Error is_there(
      ErrorCode::already_exists,
      place + " is a pool already; open it with 'holdfast pool open NAME " + place + "'");
  std::string pool_object(kPoolObject);
  const RadosBytes there = co_await client->read(pool_object, 1);
  if (there.error == 0) co_return is_there;
  if (there.error != ENOENT) {
    co_return rados_error(address, "create the pool " + place, there.error);
  }
  format::PoolRecord record;
  record.id = make_pool_id(context.executor);
  record.segment_bytes = options.segment_bytes;
  record.shared = true;
  record.incompatible_features |= format::kFeatureLeases;
  record.lease_times = {options.io_timeout_seconds, options.watchdog_seconds};
  record.created = context.executor.wall_time();
  const Striping striping = striping_of(record.segment_bytes);
  RadosWrite hosts;
  hosts.object = RadosWrite::Object::any;
  hosts.content = make_host_lease_content(record, context.host_name, context.executor.boot_time());
  std::string hosts_object(kHostsObject);
  int error = co_await client->write(std::move(hosts_object), std::move(hosts));
  if (error == 0) {
    RadosWrite pool;
    pool.object = RadosWrite::Object::must_be_new;
    pool.content = format::encode_pool_record(record);
    pool.attributes.push_back(attribute(kLayoutAttribute, layout_text(striping)));
    // Not in every pool of Ceph there can be values: then nothing is made.
    pool.values.push_back(attribute("version", "1"));
    error = co_await client->write(pool_object, std::move(pool));
  }
  if (error == EEXIST) co_return is_there;
  if (error != 0) co_return rados_error(address, "create the pool " + place, error);
  std::unique_ptr<RadosPool> pool(new RadosPool(std::move(context), make_pool_info(place, record),
                                                std::move(client), striping));  // NOLINT: private
  CO_TRY(co_await pool->replace_former_self());
  co_return std::unique_ptr<Pool>(std::move(pool));
}

Task<Result<std::unique_ptr<Pool>>> RadosPool::open(PoolContext context, std::string location) {
  CO_TRY_ASSIGN(RadosAddress address, parse_location(location));
  CO_TRY_ASSIGN(std::unique_ptr<RadosClient> client,
                co_await RadosClient::connect(context.executor, address));
  const std::string place = location_of(address);
  std::string pool_object(kPoolObject);
  const RadosBytes record = co_await client->read(pool_object, limits::kRadosRecordBytesMax);
  if (record.error == ENOENT) {
    co_return Error(ErrorCode::not_found, place + " is not a pool: it has no object " +
                                              pool_object + "; 'holdfast pool create NAME " +
                                              place + "' makes one");
  }
  if (record.error != 0) co_return rados_error(address, "open the pool " + place, record.error);
  auto decoded = format::decode_pool_record(record.bytes);
  if (!decoded.ok()) co_return decoded.take_error().context("cannot open the pool " + place);
  std::string layout_name(kLayoutAttribute);
  const RadosBytes layout = co_await client->read_attribute(pool_object, std::move(layout_name));
  if (layout.error != 0) co_return rados_error(address, "open the pool " + place, layout.error);
  const Striping striping = striping_of(decoded->segment_bytes);
  if (layout.bytes != bytes_of(layout_text(striping)) || !decoded->shared) {
    co_return Error(ErrorCode::unsupported,
                    "cannot open the pool " + place +
                        ": its segments lie in objects in a way that this version does not know; "
                        "use a newer version");
  }
  std::unique_ptr<RadosPool> pool(new RadosPool(std::move(context), make_pool_info(place, *decoded),
                                                std::move(client),
                                                striping));  // NOLINT: private constructor
  CO_TRY(co_await pool->check_may_be_written());
  CO_TRY(co_await pool->replace_former_self());
  co_await pool->remove_leftover_volumes();
  co_return std::unique_ptr<Pool>(std::move(pool));
}

// A key that may only read is told so now, not when the first guest writes.
Task<Result<void>> RadosPool::check_may_be_written() {
  RadosWrite nothing;
  nothing.removed_values.emplace_back("probe");
  std::string object(kPoolObject);
  const int error = co_await client_->write(std::move(object), std::move(nothing));
  // A full pool may be opened.
  if (error == 0 || error == ENOSPC || error == EDQUOT) co_return Result<void>{};
  co_return failed("write to the pool " + info_.location, error);
}

// A daemon that was killed may have sent what the cluster has not done yet. If that is a write to a
// lease, its successor must not stand for the same lease before (docs/decisions/0021-leases.md).
Task<Result<void>> RadosPool::replace_former_self() {
  if (context_.host_name.empty()) co_return Result<void>{};
  const std::string client_key = std::string(kClientPrefix) + context_.host_name;
  const std::string ours =
      client_->client_address(RadosLane::data) + " " + client_->client_address(RadosLane::leases);
  CO_TRY_ASSIGN(const auto found, co_await read_index(client_key));
  if (found.has_value() && *found == bytes_of(ours)) co_return Result<void>{};
  if (found.has_value()) {
    const std::string_view before = as_text(*found);
    const std::size_t middle = std::min(before.find(' '), before.size() - 1);
    std::vector<std::string> addresses{std::string(before.substr(0, middle)),
                                       std::string(before.substr(middle + 1))};
    std::erase(addresses, "");
    if (!co_await client_->block_clients(std::move(addresses))) {
      log_info("the pool " + info_.location +
               ": writes of this host's daemon before may still be on their way; give the key "
               "the capability mon 'profile rbd' to be certain that they are not");
    }
  }
  RadosWrite note;
  note.values = {{client_key, bytes_of(ours)}};
  std::string index(kPoolObject);
  const int error = co_await client_->write(std::move(index), std::move(note));
  if (error != 0 && error != ENOSPC && error != EDQUOT) {
    co_return failed("write to the pool " + info_.location, error);
  }
  own_clients_ = ours;
  co_return Result<void>{};
}

// All that we sent has been answered: nobody need keep us away.
RadosPool::~RadosPool() {
  if (own_clients_.empty()) return;
  const std::string client_key = std::string(kClientPrefix) + context_.host_name;
  RadosWrite forget;
  forget.expected_values = {{client_key, bytes_of(own_clients_)}};
  forget.removed_values = {client_key};
  client_->write_and_forget(std::string(kPoolObject), forget);
}

Task<Result<PoolSpace>> RadosPool::space() {
  CO_TRY_ASSIGN(const RadosSpace space, co_await client_->space());
  PoolSpace answer;
  answer.capacity_bytes = space.capacity_bytes;
  answer.available_bytes = space.available_bytes;
  answer.reserve_bytes = reserve_bytes_of(space.capacity_bytes);
  co_return answer;
}

// --- The index ---

Error RadosPool::no_volume(const VolumeId& volume) const {
  return Error(ErrorCode::not_found,
               "there is no volume " + volume.to_string() + " in the pool " + info_.location);
}

Task<Result<std::optional<RadosPool::Bytes>>> RadosPool::read_index(std::string index_key) {
  std::vector<std::string> keys{index_key};
  std::string object(kPoolObject);
  RadosValues found = co_await client_->read_values(std::move(object), std::move(keys));
  if (found.error != 0) co_return failed("read the index of the pool", found.error);
  if (found.values.empty()) co_return std::optional<Bytes>();
  co_return std::optional<Bytes>(std::move(found.values.front().second));
}

Task<Result<std::vector<VolumeRecord>>> RadosPool::list_volumes() {
  std::string object(kPoolObject);
  std::string prefix(kVolumePrefix);
  const RadosValues found = co_await client_->list_values(std::move(object), std::move(prefix));
  if (found.error != 0) co_return failed("list the volumes of the pool", found.error);
  std::vector<VolumeRecord> records;
  for (const auto& [index_key, value] : found.values) {
    const std::optional<VolumeId> id = volume_of(index_key, kVolumePrefix);
    if (!id.has_value()) continue;
    auto record = decode_record(*id, value);
    if (record.ok()) {
      records.push_back(std::move(record).value());
    } else {
      log_warning("skipping volume " + id->to_string() + " of pool " + info_.location + ": " +
                  record.error().message());
    }
  }
  co_return records;
}

Task<Result<void>> RadosPool::check_name_is_free(std::string name, VolumeId volume) {
  CO_TRY_ASSIGN(const auto taken, co_await read_index(name_key(name)));
  if (!taken.has_value() || *taken == bytes_of(volume.to_string())) co_return Result<void>{};
  co_return Error(ErrorCode::already_exists, "the pool " + info_.location +
                                                 " already has a volume " + name +
                                                 "; use another name or remove that volume");
}

Task<Result<void>> RadosPool::create_volume(VolumeRecord record, RootId root,
                                            std::vector<std::byte> root_bytes) {
  CO_TRY(check_name("volume", record.name));
  std::string index(kPoolObject);
  std::string prefix(kVolumePrefix);
  const RadosValues all = co_await client_->list_keys(index, std::move(prefix));
  if (all.error != 0) co_return failed("list the volumes of the pool", all.error);
  if (all.values.size() >= limits::kVolumesPerPoolMax) {
    co_return Error(ErrorCode::invalid_argument,
                    "the pool " + info_.location + " has " + std::to_string(all.values.size()) +
                        " volumes, as many as a pool can have; use another pool");
  }
  // Whoever wrote it, and no other attempt.
  const Bytes mark =
      bytes_of(context_.host_name + "#" + std::to_string(context_.executor.random()));
  RadosWrite begin;
  begin.expected_values = {absent(name_key(record.name)), absent(key(kVolumePrefix, record.id)),
                           absent(key(kTrashPrefix, record.id)),
                           absent(key(kCreatingPrefix, record.id)),
                           absent(key(kRemovingPrefix, record.id))};
  begin.values = {{key(kCreatingPrefix, record.id), mark}};
  int error = co_await client_->write(index, std::move(begin));
  if (error == ECANCELED) {
    CO_TRY(co_await check_name_is_free(record.name, record.id));
    co_return Error(ErrorCode::already_exists, "the pool " + info_.location +
                                                   " already has a volume " +
                                                   record.id.to_string() + ", or had it just now");
  }
  if (error != 0) co_return failed("create the volume " + record.name, error);
  auto made = co_await make_volume_objects(record, root, std::move(root_bytes));
  if (made.ok()) {
    RadosWrite end;
    end.expected_values = {{key(kCreatingPrefix, record.id), mark}, absent(name_key(record.name))};
    end.removed_values = {key(kCreatingPrefix, record.id)};
    end.values = {{name_key(record.name), bytes_of(record.id.to_string())},
                  {key(kVolumePrefix, record.id), encode_record(record)}};
    error = co_await client_->write(index, std::move(end));
    if (error == 0) co_return Result<void>{};
    made = error == ECANCELED
               ? Error(ErrorCode::already_exists,
                       "a volume " + record.name + " was made just now; use another name")
               : failed("create the volume " + record.name, error);
  }
  const auto given_up = co_await give_up_creating(record.id, mark);
  if (!given_up.ok()) log_warning(given_up.error().message());
  co_return made;
}

Task<Result<void>> RadosPool::make_volume_objects(VolumeRecord record, RootId root,
                                                  Bytes root_bytes) {
  RadosWrite lease;
  lease.object = RadosWrite::Object::any;
  CO_TRY_ASSIGN(lease.content, make_volume_lease_content(info_.id, record.id, root.epoch));
  int error = co_await client_->write(lease_object(record.id), std::move(lease));
  if (error == 0) {
    RadosWrite volume;
    volume.object = RadosWrite::Object::must_be_new;
    volume.attributes = {live(), attribute(kEpochAttribute, epoch_text(Epoch{})),
                         attribute(kOwnerAttribute, "")};
    volume.values = {{dir_layout::root_name(root), std::move(root_bytes)}};
    error = co_await client_->write(volume_object(record.id), std::move(volume));
  }
  if (error != 0) co_return failed("create the volume " + record.name, error);
  co_return Result<void>{};
}

// Only what is still being created, and by that attempt: it may have succeeded after all.
Task<Result<void>> RadosPool::give_up_creating(VolumeId volume, Bytes mark) {
  RadosWrite removing;
  removing.expected_values = {{key(kCreatingPrefix, volume), mark}};
  removing.removed_values = {key(kCreatingPrefix, volume)};
  removing.values = {{key(kRemovingPrefix, volume), mark}};
  std::string index(kPoolObject);
  const int error = co_await client_->write(std::move(index), std::move(removing));
  if (error == ECANCELED) co_return Result<void>{};
  if (error != 0) co_return failed("remove what is left of volume " + volume.to_string(), error);
  co_return co_await remove_objects(volume, RemovalOptions());
}

Task<Result<void>> RadosPool::update_volume(VolumeRecord record) {
  CO_TRY(check_name("volume", record.name));
  for (std::uint32_t tries = 0; tries < limits::kRadosTriesMax; ++tries) {
    CO_TRY_ASSIGN(const auto found, co_await read_index(key(kVolumePrefix, record.id)));
    if (!found.has_value()) co_return no_volume(record.id);
    const auto before = decode_record(record.id, *found);
    if (!before.ok()) co_return damaged(info_, before.error());
    CO_TRY(co_await check_name_is_free(record.name, record.id));
    RadosWrite change_record;
    change_record.expected_values = {{key(kVolumePrefix, record.id), *found}};
    change_record.values = {{key(kVolumePrefix, record.id), encode_record(record)}};
    if (before->name != record.name) {
      change_record.expected_values.push_back(absent(name_key(record.name)));
      change_record.removed_values = {name_key(before->name)};
      change_record.values.push_back({name_key(record.name), bytes_of(record.id.to_string())});
    }
    std::string index(kPoolObject);
    const int error = co_await client_->write(std::move(index), std::move(change_record));
    if (error == 0) co_return Result<void>{};
    if (error != ECANCELED) co_return failed("change the volume " + record.name, error);
  }
  co_return Error(ErrorCode::busy,
                  "others change the volume " + record.name + " at the same time; try again");
}

Task<Result<void>> RadosPool::trash_volume(VolumeId volume, WallTime since, WallTime until) {
  for (std::uint32_t tries = 0; tries < limits::kRadosTriesMax; ++tries) {
    CO_TRY_ASSIGN(const auto found, co_await read_index(key(kVolumePrefix, volume)));
    if (!found.has_value()) co_return no_volume(volume);
    auto record = decode_record(volume, *found);
    if (!record.ok()) co_return damaged(info_, record.error());
    const std::string name = record->name;
    const TrashedVolume trashed{std::move(record).value(), since, until};
    RadosWrite move;
    move.expected_values = {{key(kVolumePrefix, volume), *found}};
    move.removed_values = {key(kVolumePrefix, volume), name_key(name)};
    move.values = {{key(kTrashPrefix, volume), encode_trashed(trashed)}};
    std::string index(kPoolObject);
    const int error = co_await client_->write(std::move(index), std::move(move));
    if (error == 0) co_return Result<void>{};
    if (error != ECANCELED) co_return failed("move the volume " + name + " to the trash", error);
  }
  co_return Error(ErrorCode::busy, "others change the volume at the same time; try again");
}

Task<Result<std::vector<TrashedVolume>>> RadosPool::list_trash() {
  std::string object(kPoolObject);
  std::string prefix(kTrashPrefix);
  const RadosValues found = co_await client_->list_values(std::move(object), std::move(prefix));
  if (found.error != 0) co_return failed("list the trash of the pool", found.error);
  std::vector<TrashedVolume> trash;
  for (const auto& [index_key, value] : found.values) {
    const std::optional<VolumeId> id = volume_of(index_key, kTrashPrefix);
    if (!id.has_value()) continue;
    auto trashed = decode_trashed(*id, value);
    if (trashed.ok()) {
      trash.push_back(std::move(trashed).value());
    } else {
      log_warning("skipping volume " + id->to_string() + " in the trash of pool " + info_.location +
                  ": " + trashed.error().message());
    }
  }
  co_return trash;
}

Task<Result<void>> RadosPool::restore_volume(VolumeId volume, std::string name) {
  CO_TRY(check_name("volume", name));
  for (std::uint32_t tries = 0; tries < limits::kRadosTriesMax; ++tries) {
    CO_TRY_ASSIGN(const auto found, co_await read_index(key(kTrashPrefix, volume)));
    if (!found.has_value()) {
      co_return Error(ErrorCode::not_found, "there is no volume " + volume.to_string() +
                                                " in the trash of the pool " + info_.location);
    }
    auto trashed = decode_trashed(volume, *found);
    if (!trashed.ok()) co_return damaged(info_, trashed.error());
    CO_TRY(co_await check_name_is_free(name, volume));
    VolumeRecord record = trashed->record;
    record.name = name;
    RadosWrite move;
    move.expected_values = {{key(kTrashPrefix, volume), *found}, absent(name_key(name))};
    move.removed_values = {key(kTrashPrefix, volume)};
    move.values = {{name_key(name), bytes_of(volume.to_string())},
                   {key(kVolumePrefix, volume), encode_record(record)}};
    std::string index(kPoolObject);
    const int error = co_await client_->write(std::move(index), std::move(move));
    if (error == 0) co_return Result<void>{};
    if (error != ECANCELED) co_return failed("restore the volume " + name, error);
  }
  co_return Error(ErrorCode::busy, "others change the volume at the same time; try again");
}

// --- Removing ---

Task<Result<void>> RadosPool::remove_volume(VolumeId volume, RemovalOptions options) {
  for (std::uint32_t tries = 0;; ++tries) {
    CO_TRY_ASSIGN(const auto present, co_await read_index(key(kVolumePrefix, volume)));
    CO_TRY_ASSIGN(const auto trashed, co_await read_index(key(kTrashPrefix, volume)));
    if (!present.has_value() && !trashed.has_value()) co_return no_volume(volume);
    RadosWrite removing;
    removing.values = {{key(kRemovingPrefix, volume), bytes_of("#" + context_.host_name)}};
    if (present.has_value()) {
      const auto record = decode_record(volume, *present);
      if (!record.ok()) co_return damaged(info_, record.error());
      removing.expected_values = {{key(kVolumePrefix, volume), *present}};
      removing.removed_values = {key(kVolumePrefix, volume), name_key(record->name)};
    } else {
      removing.expected_values = {{key(kTrashPrefix, volume), *trashed}};
      removing.removed_values = {key(kTrashPrefix, volume)};
    }
    std::string index(kPoolObject);
    const int error = co_await client_->write(std::move(index), std::move(removing));
    if (error == 0) break;
    if (error != ECANCELED) co_return failed("remove the volume " + volume.to_string(), error);
    if (tries == limits::kRadosTriesMax) {
      co_return Error(ErrorCode::busy, "others change the volume at the same time; try again");
    }
  }
  // From here on the volume is gone; what is left takes only space, and the next open tries again.
  const auto removed = co_await remove_objects(volume, options);
  if (!removed.ok()) {
    log_warning("the space of removed volume " + volume.to_string() +
                " is freed when the pool is opened again: " + removed.error().message());
  }
  co_return Result<void>{};
}

// The volume's object goes after all that it lists, and the index' entry after that.
Task<Result<void>> RadosPool::remove_objects(VolumeId volume, RemovalOptions options) {
  const std::string action = "remove what is left of volume " + volume.to_string();
  const std::string object = volume_object(volume);
  RadosWrite removing;
  removing.attributes = {attribute(kStateAttribute, kStateRemoving)};
  int error = co_await client_->write(object, std::move(removing));
  if (error != 0 && error != ENOENT) co_return failed(action, error);
  if (error == 0) {
    for (const std::string_view prefix : {dir_layout::kSegmentPrefix, kNewCopyPrefix}) {
      std::string wanted(prefix);
      const RadosValues segments = co_await client_->list_values(object, std::move(wanted));
      if (segments.error != 0) co_return failed(action, segments.error);
      for (const auto& [segment_key, value] : segments.values) {
        if (options.stop != nullptr && *options.stop) {
          co_return Error(ErrorCode::busy, "the pool is being closed");
        }
        const MonotonicTime began = context_.executor.now();
        std::optional<SegmentId> segment = parse_new_copy_key(volume, segment_key);
        const auto numbers =
            dir_layout::parse_numbered_name(dir_layout::kSegmentPrefix, segment_key);
        if (numbers.has_value()) {
          segment = SegmentId{volume, Epoch{numbers->epoch}, SegmentNumber{numbers->number}};
        }
        const auto entry = decode_segment_entry(value);
        if (!segment.has_value() || !entry.ok()) continue;
        error = co_await remove_all(segment_objects(*segment, entry.value(), striping_));
        if (error != 0) co_return failed(action, error);
        if (!options.is_gentle) continue;
        co_await sleep_for(context_.executor, context_.executor.now() - began);
      }
    }
    if (options.stop != nullptr && *options.stop) {
      co_return Error(ErrorCode::busy, "the pool is being closed");
    }
  }
  std::vector<std::string> last{object, lease_object(volume)};
  error = co_await remove_all(std::move(last));
  if (error != 0) co_return failed(action, error);
  RadosWrite done;
  done.removed_values = {key(kRemovingPrefix, volume)};
  std::string index(kPoolObject);
  error = co_await client_->write(std::move(index), std::move(done));
  if (error != 0) co_return failed(action, error);
  co_return Result<void>{};
}

Task<void> RadosPool::remove_leftover_volumes() {
  std::string index(kPoolObject);
  std::string prefix(kCreatingPrefix);
  const RadosValues creating = co_await client_->list_values(index, std::move(prefix));
  for (const auto& [index_key, mark] : creating.values) {
    // What others are creating now is theirs.
    const std::string ours = context_.host_name + "#";
    const std::optional<VolumeId> id = volume_of(index_key, kCreatingPrefix);
    if (!id.has_value() || !as_text(mark).starts_with(ours)) continue;
    const auto given_up = co_await give_up_creating(*id, mark);
    if (!given_up.ok()) log_warning(given_up.error().message());
  }
  prefix = kRemovingPrefix;
  const RadosValues removing = co_await client_->list_keys(index, std::move(prefix));
  for (const auto& [index_key, nothing] : removing.values) {
    const std::optional<VolumeId> id = volume_of(index_key, kRemovingPrefix);
    if (!id.has_value()) continue;
    const auto removed = co_await remove_objects(*id, RemovalOptions());
    if (!removed.ok()) {
      log_warning("cannot remove what an interrupted operation left in pool " + info_.location +
                  ": " + removed.error().message());
    }
  }
}

}  // namespace holdfast
