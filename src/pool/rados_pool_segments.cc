// SPDX-License-Identifier: Apache-2.0
//
// Segments on RADOS: an entry in the list of their volume's object, and objects for what they hold.
#include <algorithm>
#include <cerrno>

#include "base/log.h"
#include "pool/dir_layout.h"
#include "pool/new_pool.h"
#include "pool/rados_file.h"
#include "pool/rados_pool.h"
#include "pool/space.h"

namespace holdfast {

using namespace rados_layout;

namespace {

Task<void> write_one(RadosClient* client, std::string object, RadosWrite operation, int fine,
                     std::size_t* left, int* error, Condition* done) {
  const int result = co_await client->write(std::move(object), std::move(operation));
  if (result != 0 && result != fine) *error = result;
  if (--*left == 0) done->notify_all();
}

}  // namespace

Task<int> RadosPool::write_all(std::vector<std::string> objects, RadosWrite operation, int fine) {
  std::size_t left = objects.size();
  int error = 0;
  Condition done(context_.executor);
  TaskScope scope;
  for (const std::string& object : objects) {
    scope.spawn(write_one(client_.get(), object, operation, fine, &left, &error, &done));
  }
  while (left != 0) co_await done.wait();
  co_return error;
}

Task<int> RadosPool::remove_all(std::vector<std::string> objects) {
  RadosWrite remove;
  remove.is_removed = true;
  return write_all(std::move(objects), std::move(remove), ENOENT);
}

std::unique_ptr<File> RadosPool::file_of(const SegmentId& segment, const SegmentEntry& entry) {
  RadosFileLayout layout;
  layout.objects = segment_objects(segment, entry, striping_);
  layout.stripe_bytes = striping_.stripe_bytes;
  layout.length_bytes = entry.length_bytes;
  layout.has_gaps = true;
  return std::make_unique<RadosFile>(context_.executor, *client_, std::move(layout));
}

// The cluster says how much room there is with some delay, and not at all while no monitor answers:
// then it is left to the cluster itself to refuse what does not fit.
Task<Result<void>> RadosPool::check_reserve(SegmentPurpose purpose, std::uint64_t wanted_bytes) {
  if (purpose == SegmentPurpose::metadata) co_return Result<void>{};
  std::optional<RadosSpace> known = client_->last_space();
  if (!known.has_value()) {
    const auto asked = co_await client_->space();
    if (!asked.ok()) co_return Result<void>{};
    known = asked.value();
  }
  PoolSpace space;
  space.capacity_bytes = known->capacity_bytes;
  space.available_bytes = known->available_bytes;
  space.reserve_bytes = reserve_bytes_of(space.capacity_bytes);
  if (has_room_for(space, purpose, wanted_bytes)) co_return Result<void>{};
  co_return no_room_error(info_.location, space);
}

Task<Result<RadosPool::SegmentEntry>> RadosPool::find_segment(SegmentId segment) {
  std::string what = "segment";
  CO_TRY_ASSIGN(
      const Bytes value,
      co_await read_value(segment.volume, dir_layout::segment_name(segment), std::move(what)));
  co_return decode_segment_entry(value);
}

Task<Result<std::unique_ptr<File>>> RadosPool::create_segment(SegmentId segment,
                                                              SegmentPurpose purpose) {
  CO_TRY(co_await check_reserve(purpose, info_.segment_bytes));
  const std::string name = dir_layout::segment_name(segment);
  const SegmentEntry entry{info_.segment_bytes, 0};
  const Bytes value = encode_segment_entry(entry);
  RadosWrite add;
  add.expected_attributes.push_back(live());
  add.expected_values = {{name, {}}};
  add.values = {{name, value}};
  const std::string volume = volume_object(segment.volume);
  int error = co_await client_->write(volume, std::move(add));
  if (error == ENOENT) co_return no_volume(segment.volume);
  if (error == ECANCELED) {
    CO_TRY(co_await find_segment(segment));
    co_return Error(ErrorCode::already_exists,
                    "volume " + segment.volume.to_string() + " has a segment " + name + " already");
  }
  const std::string action = "create a segment of volume " + segment.volume.to_string();
  if (error != 0) co_return failed(action, error);
  const std::vector<std::string> objects = segment_objects(segment, entry, striping_);
  RadosWrite make;
  make.object = RadosWrite::Object::any;
  make.is_append_only = true;
  error = co_await write_all(objects, std::move(make), 0);
  // Whoever owns the volume now may have removed it as an orphan before the objects were there.
  std::optional<Error> trouble;
  if (error != 0) trouble = failed(action, error);
  if (error == 0) {
    const auto kept = co_await find_segment(segment);
    if (kept.ok()) {
      client_->note_taken(entry.length_bytes);
      co_return file_of(segment, entry);
    }
    trouble = kept.error();
  }
  error = co_await remove_all(objects);
  if (error == 0) {
    RadosWrite remove;
    remove.expected_values = {{name, value}};
    remove.removed_values = {name};
    error = co_await client_->write(volume, std::move(remove));
  }
  if (error != 0 && error != ECANCELED && error != ENOENT) {
    log_warning(failed("remove what there is of a segment", error).message());
  }
  co_return *trouble;
}

Task<Result<std::unique_ptr<File>>> RadosPool::open_segment(SegmentId segment, bool) {
  CO_TRY_ASSIGN(const SegmentEntry entry, co_await find_segment(segment));
  co_return file_of(segment, entry);
}

// Its entry goes last: what a crash leaves is found by it.
Task<Result<void>> RadosPool::remove_segment(SegmentId segment) {
  CO_TRY_ASSIGN(const SegmentEntry entry, co_await find_segment(segment));
  int error = co_await remove_all(segment_objects(segment, entry, striping_));
  if (error == 0) {
    RadosWrite remove;
    remove.removed_values = {dir_layout::segment_name(segment)};
    error = co_await client_->write(volume_object(segment.volume), std::move(remove));
  }
  if (error == 0 || error == ENOENT) co_return Result<void>{};
  co_return failed("remove a segment of volume " + segment.volume.to_string(), error);
}

// The objects are only as long as what was written: there is nothing to cut off.
Task<Result<void>> RadosPool::trim_segment(SegmentId segment, std::uint64_t used_bytes) {
  const std::string name = dir_layout::segment_name(segment);
  const std::uint64_t length = std::min(round_up(used_bytes, kBlockBytes), info_.segment_bytes);
  for (std::uint32_t tries = 0; tries < limits::kRadosTriesMax; ++tries) {
    CO_TRY_ASSIGN(const SegmentEntry entry, co_await find_segment(segment));
    RadosWrite cut;
    cut.expected_values = {{name, encode_segment_entry(entry)}};  // it may be removed meanwhile
    cut.values = {{name, encode_segment_entry(SegmentEntry{length, entry.copy})}};
    const int error = co_await client_->write(volume_object(segment.volume), std::move(cut));
    if (error == 0) co_return Result<void>{};
    if (error == ENOENT) co_return no_volume(segment.volume);
    if (error != ECANCELED) {
      co_return failed("trim a segment of volume " + segment.volume.to_string(), error);
    }
  }
  co_return Error(ErrorCode::busy, "segment " + name + " is being changed; try again");
}

Task<Result<std::vector<SegmentId>>> RadosPool::list_segments(VolumeId volume) {
  std::string prefix(dir_layout::kSegmentPrefix);
  CO_TRY_ASSIGN(const auto found, co_await list(volume, std::move(prefix), false));
  std::vector<std::string> names;
  for (const RadosValue& value : found) names.push_back(value.first);
  co_return dir_layout::parse_names<SegmentId>(names, [&](const std::string& name) {
    const auto numbers = dir_layout::parse_numbered_name(dir_layout::kSegmentPrefix, name);
    if (!numbers.has_value()) return std::optional<SegmentId>();
    return std::optional(SegmentId{volume, Epoch{numbers->epoch}, SegmentNumber{numbers->number}});
  });
}

// What the list says, without asking each object: an open segment counts with all of its length.
Task<Result<std::uint64_t>> RadosPool::volume_allocated_bytes(VolumeId volume) {
  std::string prefix(dir_layout::kSegmentPrefix);
  CO_TRY_ASSIGN(const auto found, co_await list(volume, std::move(prefix), true));
  std::uint64_t total = 0;
  for (const RadosValue& value : found) {
    const auto entry = decode_segment_entry(value.second);
    if (entry.ok()) total += entry->length_bytes;
  }
  co_return total;
}

// --- Adoption ---

// RADOS has no second names: it is always a copy. Each attempt has objects of its own, so that one
// of an owner before, however late, disturbs nobody.
Task<Result<void>> RadosPool::adopt_segment(SegmentId from, VolumeId to, AdoptBy by, Epoch owner) {
  const SegmentId adopted{to, from.epoch, from.number};
  const auto there = co_await find_segment(adopted);
  if (there.ok()) co_return Result<void>{};
  if (there.error().code() != ErrorCode::not_found) co_return there.error();
  CO_TRY_ASSIGN(const SegmentEntry source, co_await find_segment(from));
  const SegmentEntry entry{by == AdoptBy::copy ? info_.segment_bytes : source.length_bytes,
                           context_.executor.random() | 1};
  CO_TRY(co_await check_reserve(SegmentPurpose::guest_data, entry.length_bytes));
  const std::string name = dir_layout::segment_name(adopted);
  const std::string new_key = new_copy_key(adopted, entry.copy);
  const Bytes value = encode_segment_entry(entry);
  RadosWrite begin;
  begin.values = {{new_key, value}};
  std::string action = "copy a segment";
  CO_TRY(co_await change(to, std::move(begin), owner, action));
  const std::vector<std::string> objects = segment_objects(adopted, entry, striping_);
  client_->note_taken(entry.length_bytes);
  auto made = co_await copy_objects(segment_objects(from, source, striping_), objects);
  if (made.ok()) {
    const auto still_there = co_await find_segment(from);
    if (!still_there.ok()) made = still_there.error();
  }
  if (made.ok()) {
    RadosWrite end;
    guard(end, owner);
    end.expected_values = {{new_key, value}, {name, {}}};
    end.removed_values = {new_key};
    end.values = {{name, value}};
    const int error = co_await client_->write(volume_object(to), std::move(end));
    if (error == 0) co_return Result<void>{};
    made = failed(action, error);
    if (error == ECANCELED) {
      const auto found = co_await find_segment(adopted);  // somebody else was faster
      if (found.ok() && found.value() == entry) co_return Result<void>{};
      if (found.ok()) {
        made = Result<void>{};
      } else {
        made = has_other_owner(to, owner);
      }
    }
  }
  int error = co_await remove_all(objects);
  if (error == 0) {
    RadosWrite remove;
    remove.removed_values = {new_key};
    error = co_await client_->write(volume_object(to), std::move(remove));
  }
  if (error != 0 && error != ENOENT) {
    log_warning(failed("remove what there is of a copy", error).message());
  }
  co_return made;
}

// The source may be appended to meanwhile, by its owner: behind all that anybody else reads.
Task<Result<void>> RadosPool::copy_objects(std::vector<std::string> from,
                                           std::vector<std::string> to) {
  HOLDFAST_ASSERT(from.size() == to.size());
  for (std::size_t i = 0; i < from.size(); ++i) {
    const std::uint64_t turns =
        (info_.segment_bytes / striping_.stripe_bytes + from.size() - 1) / from.size();
    RadosBytes content = co_await client_->read(
        from[i], static_cast<std::size_t>((turns + 1) * striping_.stripe_bytes));
    // None: nothing was ever written to it.
    if (content.error != 0 && content.error != ENOENT) {
      co_return failed("copy the object " + from[i], content.error);
    }
    RadosWrite write;
    write.object = RadosWrite::Object::any;
    write.content = std::move(content.bytes);
    const int error = co_await client_->write(to[i], std::move(write));
    if (error != 0) co_return failed("copy to the object " + to[i], error);
  }
  co_return Result<void>{};
}

Task<Result<void>> RadosPool::sync_segments(VolumeId) {
  co_return Result<void>{};
}

Task<void> RadosPool::remove_leftovers(VolumeId volume) {
  std::string prefix(kNewCopyPrefix);
  const auto found = co_await list(volume, std::move(prefix), true);
  if (!found.ok()) co_return;
  for (const auto& [new_key, value] : found.value()) {
    const std::optional<SegmentId> segment = parse_new_copy_key(volume, new_key);
    const auto entry = decode_segment_entry(value);
    if (!segment.has_value() || !entry.ok()) continue;
    int error = co_await remove_all(segment_objects(*segment, entry.value(), striping_));
    if (error == 0) {
      RadosWrite remove;
      remove.removed_values = {new_key};
      error = co_await client_->write(volume_object(volume), std::move(remove));
    }
    if (error != 0) log_warning(failed("remove what there is of a copy", error).message());
  }
}

// --- Spares: there are none ---

namespace {

Error no_spares() {
  return Error(ErrorCode::unsupported,
               "a pool on Ceph cannot keep space for a volume beforehand; make the volume thin");
}

}  // namespace

Task<Result<void>> RadosPool::create_spare(VolumeId, SegmentPurpose) {
  co_return no_spares();
}
Task<Result<void>> RadosPool::remove_spare(SpareId) {
  co_return no_spares();
}
Task<Result<std::unique_ptr<File>>> RadosPool::create_segment_from(SpareId, SegmentId) {
  co_return no_spares();
}
Task<Result<SpareId>> RadosPool::recycle_segment(SegmentId) {
  co_return no_spares();
}
Task<Result<std::vector<SpareId>>> RadosPool::list_spares(VolumeId volume) {
  std::string prefix(dir_layout::kSparePrefix);
  CO_TRY(co_await list(volume, std::move(prefix), false));
  co_return std::vector<SpareId>{};
}
Task<Result<SegmentFiles>> RadosPool::count_segment_files(VolumeId volume) {
  CO_TRY_ASSIGN(const std::vector<SegmentId> segments, co_await list_segments(volume));
  SegmentFiles count;
  count.short_segments = segments.size();
  co_return count;
}

}  // namespace holdfast
