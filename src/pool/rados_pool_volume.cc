// SPDX-License-Identifier: Apache-2.0
//
// What a volume's object on RADOS keeps: ownerships, roots, snapshots, marks of clones. And leases.
#include <cerrno>

#include "base/log.h"
#include "format/lease_block.h"
#include "pool/dir_layout.h"
#include "pool/rados_file.h"
#include "pool/rados_pool.h"

namespace holdfast {

using namespace rados_layout;

namespace {

// Marks hold nothing, but nothing is also what a key holds that is not there.
constexpr std::string_view kMark = "1";

template <typename Id, typename Parse>
std::vector<Id> parse_keys(const std::vector<RadosValue>& values, const Parse& parse) {
  std::vector<std::string> names;
  for (const RadosValue& value : values) names.push_back(value.first);
  return dir_layout::parse_names<Id>(names, parse);
}

}  // namespace

RadosValue RadosPool::live() {
  return attribute(kStateAttribute, kStateLive);
}

// The comparison and the change are one operation: an owner whose time is over changes nothing,
// however late it comes.
void RadosPool::guard(RadosWrite& write, Epoch owner) {
  write.expected_attributes.push_back(live());
  if (owner.value != 0) {
    write.expected_attributes.push_back(attribute(kEpochAttribute, epoch_text(owner)));
  }
}

Error RadosPool::has_other_owner(const VolumeId& volume, Epoch owner) const {
  return Error(ErrorCode::busy, "the volume " + volume.to_string() +
                                    " has another owner by now (this one's epoch was " +
                                    std::to_string(owner.value) + "); take its lease anew");
}

Task<Result<void>> RadosPool::change(VolumeId volume, RadosWrite write, Epoch owner,
                                     std::string action) {
  guard(write, owner);
  const int error = co_await client_->write(volume_object(volume), std::move(write));
  if (error == 0) co_return Result<void>{};
  if (error == ENOENT || (error == ECANCELED && owner.value == 0)) co_return no_volume(volume);
  if (error == ECANCELED) co_return has_other_owner(volume, owner);
  co_return failed(action + " of volume " + volume.to_string(), error);
}

Task<Result<std::vector<RadosValue>>> RadosPool::list(VolumeId volume, std::string prefix,
                                                      bool with_values) {
  std::string object = volume_object(volume);
  RadosValues found;
  if (with_values) {
    found = co_await client_->list_values(std::move(object), std::move(prefix), live());
  } else {
    found = co_await client_->list_keys(std::move(object), std::move(prefix), live());
  }
  if (found.error == ENOENT || found.error == ECANCELED) co_return no_volume(volume);
  if (found.error != 0) {
    co_return failed("read what belongs to volume " + volume.to_string(), found.error);
  }
  co_return std::move(found.values);
}

Task<Result<RadosPool::Bytes>> RadosPool::read_value(VolumeId volume, std::string key,
                                                     std::string what) {
  std::vector<std::string> keys{key};
  RadosValues found = co_await client_->read_values(volume_object(volume), std::move(keys));
  if (found.error == ENOENT) co_return no_volume(volume);
  if (found.error != 0) {
    co_return failed("read the " + what + " of volume " + volume.to_string(), found.error);
  }
  if (found.values.empty()) {
    co_return Error(ErrorCode::not_found,
                    "volume " + volume.to_string() + " has no " + what + " " + key);
  }
  co_return std::move(found.values.front().second);
}

// --- Ownerships ---

// Its client's address stands beside the epoch until the owner has ended it well. Whoever finds it
// there has the cluster refuse that client: not needed, but its late writes take no space then.
Task<Result<void>> RadosPool::begin_epoch(VolumeId volume, Epoch epoch) {
  const std::string object = volume_object(volume);
  std::string owner_name(kOwnerAttribute);
  const RadosBytes before = co_await client_->read_attribute(object, std::move(owner_name));
  const std::string address = client_->client_address();
  RadosWrite begin;
  begin.expected_attributes.push_back(live());
  begin.attribute_at_most = attribute(kEpochAttribute, epoch_text(epoch));
  begin.attributes = {attribute(kEpochAttribute, epoch_text(epoch)),
                      attribute(kOwnerAttribute, address)};
  const int error = co_await client_->write(object, std::move(begin));
  if (error == ENOENT) co_return no_volume(volume);
  if (error == ECANCELED) co_return has_other_owner(volume, epoch);
  if (error != 0) co_return failed("own the volume " + volume.to_string(), error);
  if (before.error == 0 && !before.bytes.empty() && before.bytes != bytes_of(address)) {
    client_->block_client(
        std::string(reinterpret_cast<const char*>(before.bytes.data()), before.bytes.size()));
  }
  co_return Result<void>{};
}

Task<void> RadosPool::end_epoch(VolumeId volume, Epoch epoch) {
  RadosWrite end;
  end.attributes = {attribute(kOwnerAttribute, "")};
  std::string action = "end the ownership";
  const auto ended = co_await change(volume, std::move(end), epoch, std::move(action));
  if (!ended.ok()) log_warning(ended.error().message());
}

// --- Roots ---

Task<Result<void>> RadosPool::publish_root(RootId root, std::vector<std::byte> bytes, Epoch owner) {
  RadosWrite publish;
  publish.values = {{dir_layout::root_name(root), std::move(bytes)}};
  std::string action = "publish a root";
  co_return co_await change(root.volume, std::move(publish), owner, std::move(action));
}

Task<Result<std::vector<RootId>>> RadosPool::list_roots(VolumeId volume) {
  std::string prefix(dir_layout::kRootPrefix);
  CO_TRY_ASSIGN(const auto found, co_await list(volume, std::move(prefix), false));
  co_return parse_keys<RootId>(found, [&](const std::string& name) {
    const auto numbers = dir_layout::parse_numbered_name(dir_layout::kRootPrefix, name);
    if (!numbers.has_value()) return std::optional<RootId>();
    return std::optional(RootId{volume, Epoch{numbers->epoch}, numbers->number});
  });
}

Task<Result<std::vector<std::byte>>> RadosPool::read_root(RootId root) {
  std::string what = "root";
  co_return co_await read_value(root.volume, dir_layout::root_name(root), std::move(what));
}

Task<Result<void>> RadosPool::remove_root(RootId root, Epoch owner) {
  RadosWrite remove;
  remove.removed_values = {dir_layout::root_name(root)};
  std::string action = "remove a root";
  co_return co_await change(root.volume, std::move(remove), owner, std::move(action));
}

// --- Snapshots and marks ---

Task<Result<void>> RadosPool::publish_snapshot(SnapshotId snapshot, std::vector<std::byte> bytes,
                                               Epoch owner) {
  RadosWrite publish;
  publish.values = {{dir_layout::snapshot_name(snapshot.number), std::move(bytes)}};
  std::string action = "publish a snapshot";
  co_return co_await change(snapshot.volume, std::move(publish), owner, std::move(action));
}

Task<Result<void>> RadosPool::remove_snapshot(SnapshotId snapshot, Epoch owner) {
  RadosWrite remove;
  remove.removed_values = {dir_layout::snapshot_name(snapshot.number)};
  std::string action = "remove a snapshot";
  co_return co_await change(snapshot.volume, std::move(remove), owner, std::move(action));
}

Task<Result<std::vector<SnapshotId>>> RadosPool::list_snapshots(VolumeId volume) {
  std::string prefix(dir_layout::kSnapshotPrefix);
  CO_TRY_ASSIGN(const auto found, co_await list(volume, std::move(prefix), false));
  co_return parse_keys<SnapshotId>(found, [&](const std::string& name) {
    const auto number = dir_layout::parse_snapshot_name(name);
    if (!number.has_value()) return std::optional<SnapshotId>();
    return std::optional(SnapshotId{volume, *number});
  });
}

Task<Result<std::vector<std::byte>>> RadosPool::read_snapshot(SnapshotId snapshot) {
  std::string what = "snapshot";
  co_return co_await read_value(snapshot.volume, dir_layout::snapshot_name(snapshot.number),
                                std::move(what));
}

Task<Result<void>> RadosPool::add_clone_mark(CloneMark mark) {
  RadosWrite add;
  add.values = {{dir_layout::clone_mark_name(mark.snapshot.number, mark.clone), bytes_of(kMark)}};
  std::string action = "mark a clone";
  co_return co_await change(mark.snapshot.volume, std::move(add), Epoch{}, std::move(action));
}

Task<Result<void>> RadosPool::remove_clone_mark(CloneMark mark) {
  RadosWrite remove;
  remove.removed_values = {dir_layout::clone_mark_name(mark.snapshot.number, mark.clone)};
  std::string action = "remove the mark of a clone";
  co_return co_await change(mark.snapshot.volume, std::move(remove), Epoch{}, std::move(action));
}

Task<Result<std::vector<CloneMark>>> RadosPool::list_clone_marks(VolumeId volume) {
  std::string prefix(dir_layout::kCloneMarkPrefix);
  CO_TRY_ASSIGN(const auto found, co_await list(volume, std::move(prefix), false));
  co_return parse_keys<CloneMark>(found, [&](const std::string& name) {
    const auto mark = dir_layout::parse_clone_mark_name(name);
    if (!mark.has_value()) return std::optional<CloneMark>();
    return std::optional(CloneMark{{volume, mark->snapshot}, mark->clone});
  });
}

// --- Leases ---

Task<Result<std::unique_ptr<File>>> RadosPool::open_lease(std::string object) {
  const RadosBytes there = co_await client_->read(object, kSectorBytes, RadosLane::leases);
  if (there.error == ENOENT) {
    co_return Error(ErrorCode::not_found, "the pool " + info_.location + " has no lease " + object);
  }
  if (there.error != 0) co_return failed("read the lease " + object, there.error);
  RadosFileLayout layout;
  layout.objects = {std::move(object)};
  layout.length_bytes = format::LeaseGeometry().align_bytes;
  layout.stripe_bytes = layout.length_bytes;
  layout.lane = RadosLane::leases;
  co_return std::unique_ptr<File>(
      std::make_unique<RadosFile>(context_.executor, *client_, std::move(layout)));
}

Task<Result<std::unique_ptr<File>>> RadosPool::open_host_leases() {
  std::string object(kHostsObject);
  co_return co_await open_lease(std::move(object));
}

Task<Result<std::unique_ptr<File>>> RadosPool::open_volume_lease(VolumeId volume) {
  co_return co_await open_lease(lease_object(volume));
}

}  // namespace holdfast
