// SPDX-License-Identifier: Apache-2.0
//
// Where the files of ancestors' segments are, and how a clone comes to have its own:
// docs/decisions/0018-flatten.md.
//
// Whoever wrote a segment has its file, until the last snapshot that needs it is removed; and so
// may every later volume of the lineage that was flattened. A volume's snapshots keep what it
// adopted, as they keep what it wrote, so that the nearest of these files is there for as long as
// it may be read. The owner's is tried first all the same, because hardly any volume is flattened.
#include <algorithm>

#include "volume/canary.h"
#include "volume/segment_store.h"

namespace holdfast {

using format::SegmentEntry;
using format::SegmentState;

// Of an inherited segment: whose it is, in the lineage.
std::size_t SegmentStore::owner_index(SegmentNumber segment) const {
  std::size_t index = 0;
  while (segment >= lineage_[index].end_segment) ++index;
  return index;
}

std::vector<VolumeId> SegmentStore::places_of(SegmentNumber segment) const {
  if (!is_foreign(segment)) return {volume_};
  const std::size_t owner = owner_index(segment);
  std::vector<VolumeId> places;
  if (!misled_.contains(segment.value)) {
    if (!last_places_[owner].is_nil()) places.push_back(last_places_[owner]);
    places.push_back(lineage_[owner].volume);
  }
  // A view of a snapshot does not know what was adopted after it was opened.
  places.push_back(volume_);
  for (std::size_t i = lineage_.size(); i != owner; --i) places.push_back(lineage_[i - 1].volume);
  return places;
}

Task<Result<SegmentStore::Opened>> SegmentStore::try_open(SegmentNumber segment, bool writable) {
  if (is_foreign(segment) && segment_id(segment).epoch.value == 0) {
    CO_TRY(co_await find_epoch(segment));
  }
  const Epoch epoch = segment_id(segment).epoch;
  const std::vector<VolumeId> places = places_of(segment);
  std::optional<Error> first;
  for (const VolumeId& place : places) {
    auto file = co_await pool_.open_segment(SegmentId{place, epoch, segment}, writable);
    if (file.ok()) {
      if (is_foreign(segment)) last_places_[owner_index(segment)] = place;
      co_return Opened{std::move(file).value(), place};
    }
    const bool is_missing = file.error().code() == ErrorCode::not_found;
    if (!first.has_value() || !is_missing) first = file.take_error();
    if (!is_missing) break;
  }
  co_return *std::move(first);
}

// The table knows the epochs of ancestors' segments, but first its own pages must be found.
Task<Result<void>> SegmentStore::find_epoch(SegmentNumber segment) {
  const std::vector<VolumeId> places = places_of(segment);
  for (const VolumeId& place : places) {
    Result<std::vector<SegmentId>> listed = co_await pool_.list_segments(place);
    if (!listed.ok() && listed.error().code() == ErrorCode::not_found) continue;  // removed
    if (!listed.ok()) co_return listed.take_error();
    const auto at =
        std::find_if(lineage_.begin(), lineage_.end(),
                     [&](const format::Ancestor& ancestor) { return ancestor.volume == place; });
    // Of its segments from there on we know nothing.
    const SegmentNumber end = at == lineage_.end() ? lineage_.back().end_segment : at->end_segment;
    for (const SegmentId& each : *listed) {
      if (each.number < end) foreign_epochs_.emplace(each.number.value, each.epoch);
    }
    if (foreign_epochs_.contains(segment.value)) break;
  }
  co_return Result<void>{};
}

// What was read is not what should be there. If it was an ancestor's file, that may be somebody
// else's by now: a thick volume writes to the files of its segments again, once no snapshot needs
// them. Then there is another.
bool SegmentStore::look_elsewhere(SegmentNumber segment) {
  const auto found = open_.find(segment.value);
  if (found == open_.end() || found->second->place == volume_) return false;
  let_go(*found->second);
  misled_.insert(segment.value);
  return true;
}

void SegmentStore::let_go(Segment& segment) {
  if (segment.users != 0) {
    retire(segment);
    return;
  }
  segment.lru_link.unlink();
  open_.erase(segment.number.value);
}

SegmentStore::Foreign SegmentStore::find_foreign(std::size_t count_max) {
  Foreign found;
  for_each_entry([&](SegmentNumber number, const SegmentEntry& entry) {
    if (!is_foreign(number) || unneeded_.contains(number.value)) return;
    const bool is_needed = entry.live_blocks != 0 ||
                           (is_kept(number, entry) && !canary::is_on(canary::kForgetSnapshots));
    if (!is_needed) return;
    ++found.segments;
    found.bytes += std::uint64_t{entry.used_blocks} * kBlockBytes;
    if (found.first.size() < count_max) found.first.push_back(number);
  });
  return found;
}

Task<Result<void>> SegmentStore::adopt_from_any_place(SegmentNumber segment) {
  const AdoptBy by = is_thick() ? AdoptBy::copy : AdoptBy::link;
  const SegmentId id = segment_id(segment);
  const std::vector<VolumeId> places = places_of(segment);
  Result<void> adopted;
  for (const VolumeId& place : places) {
    if (place == volume_) continue;
    adopted =
        co_await pool_.adopt_segment(SegmentId{place, id.epoch, segment}, volume_, by, owner());
    if (adopted.ok() || adopted.error().code() != ErrorCode::not_found) break;
  }
  co_return adopted;
}

Task<Result<void>> SegmentStore::adopt(SegmentNumber segment) {
  Result<void> adopted = co_await adopt_from_any_place(segment);
  if (!adopted.ok() && adopted.error().code() == ErrorCode::not_found &&
      entry(segment).live_blocks == 0) {
    // It was dead in the snapshot that the clone was made from, and only looks as if one of the
    // clone's own might need it. Or is the whole pool out of sight?
    CO_TRY_ASSIGN(const std::vector<RootId> roots, co_await pool_.list_roots(volume_));
    if (!roots.empty()) adopted = co_await adopt_from_any_place(segment);
    if (!adopted.ok() && adopted.error().code() == ErrorCode::not_found) {
      unneeded_.insert(segment.value);
      co_return Result<void>{};
    }
  }
  if (!adopted.ok()) co_return adopted;
  // As if it had been there from the beginning. It may have died meanwhile, and been forgotten:
  // then the file goes with the next opening.
  adopted_.insert(segment.value);
  const SegmentEntry now = entry(segment);
  if (now.state == SegmentState::absent) co_return adopted;
  ++segment_count_;
  count_sealed(segment, now, true);
  if (now.state == SegmentState::sealed && now.live_blocks == 0) {
    dead_candidates_.push_back(segment);
  }
  co_return adopted;
}

Task<Result<void>> SegmentStore::sync_adopted() {
  const HoldTracker::Call call(hold_, "sync of the volume's directory");
  co_return co_await pool_.sync_segments(volume_);
}

Task<void> SegmentStore::leave_other_places() {
  const auto is_elsewhere = [this](const auto& segment) { return segment->place != volume_; };
  std::vector<Segment*> elsewhere;
  for (const auto& [number, segment] : open_) {
    if (is_elsewhere(segment)) elsewhere.push_back(segment.get());
  }
  for (Segment* segment : elsewhere) let_go(*segment);
  while (std::any_of(retired_.begin(), retired_.end(), is_elsewhere)) {
    co_await sleep_for(executor_, 1ms);
  }
}

}  // namespace holdfast
