// SPDX-License-Identifier: Apache-2.0
//
// Snapshots, views of them, rollback and clones.
//
// A snapshot is a root that is kept. It is taken by a checkpoint: the root that is being published
// is stored once more under the snapshot's number, before another checkpoint may begin. What it
// needs stays because of one rule (SegmentStore::is_kept): a segment without a live block is kept
// while a snapshot exists that was taken between the segment's creation and its death. Both are
// known without reading anything of the snapshot: numbers of segments ascend, and the entry of a
// dead segment says which snapshot was the newest when it died. Rollback makes more segments live
// again; a later death then only names a later snapshot, which keeps more than is needed, not less.
//
// A clone is a new volume whose first root is a snapshot's: the same trees, in the same segments.
// Its own segments go on where the snapshot's numbers end, so a number alone says whose it is
// (format::owner_of), and reads cost the same at any depth.
#include <algorithm>
#include <optional>

#include "base/assert.h"
#include "base/log.h"
#include "format/snapshot.h"
#include "volume/stored.h"
#include "volume/volume_impl.h"

namespace holdfast {

using format::SegmentEntry;
using format::SegmentState;
using format::Snapshot;

struct VolumeImpl::SnapshotTaking {
  Snapshot snapshot;
  bool is_stored = true;  // else it is kept in memory only
  Result<void> result;
};

// What a stored segment table says, and where its own pages are.
struct VolumeImpl::TableSum {
  std::unordered_map<std::uint64_t, std::int64_t> live;   // segment -> blocks
  std::unordered_map<std::uint64_t, std::int64_t> pages;  // segment -> pages of the table
};

namespace {

constexpr int kRollbackAttemptsMax = 100;

bool is_damaged(const Snapshot& snapshot) {
  return snapshot.root.segment_bytes == 0;
}

SnapshotInfo info_of(const Snapshot& snapshot) {
  return {snapshot.number, snapshot.name, snapshot.created, snapshot.root.size_bytes,
          is_damaged(snapshot)};
}

Snapshot damaged_snapshot(SnapshotNumber number) {
  Snapshot snapshot;
  snapshot.number = number;
  snapshot.name = "#" + std::to_string(number.value);
  return snapshot;
}

// Ascending. One that cannot be decoded is there as damaged; storage that cannot be read, or a
// feature that is not known, is an error.
Task<Result<std::vector<Snapshot>>> read_snapshots(Pool& pool, VolumeId id) {
  CO_TRY_ASSIGN(const std::vector<SnapshotId> listed, co_await pool.list_snapshots(id));
  std::vector<Snapshot> snapshots;
  for (const SnapshotId& one : listed) {
    Result<std::vector<std::byte>> bytes = co_await pool.read_snapshot(one);
    if (!bytes.ok() && bytes.error().code() == ErrorCode::not_found) continue;  // removed meanwhile
    if (!bytes.ok()) co_return bytes.take_error();
    Result<Snapshot> snapshot = format::decode_snapshot(*bytes, id, one.number);
    if (snapshot.ok()) {
      snapshots.push_back(std::move(snapshot).value());
    } else if (snapshot.error().code() == ErrorCode::unsupported) {
      co_return snapshot.take_error();
    } else {
      log_error(snapshot.error().message() +
                "; all segments that it may need are kept until it is removed");
      snapshots.push_back(damaged_snapshot(one.number));
    }
  }
  co_return snapshots;
}

Result<const Snapshot*> find_by_name(const std::vector<Snapshot>& snapshots,
                                     const std::string& name) {
  for (const Snapshot& snapshot : snapshots) {
    if (snapshot.name == name) return &snapshot;
  }
  return Error(ErrorCode::not_found, "there is no snapshot '" + name + "' of it");
}

Result<void> check_is_intact(const Snapshot& snapshot) {
  if (!is_damaged(snapshot)) return {};
  return Error(ErrorCode::corrupt,
               "snapshot '" + snapshot.name + "' is damaged and can only be removed");
}

}  // namespace

// --- Taking ---

std::vector<SnapshotInfo> VolumeImpl::snapshots() const {
  std::vector<SnapshotInfo> all;
  for (const Snapshot& snapshot : snapshots_) all.push_back(info_of(snapshot));
  return all;
}

Task<Result<SnapshotInfo>> VolumeImpl::create_snapshot(std::string name) {
  if (closing_) co_return Error(ErrorCode::busy, "the volume is being closed");
  if (find_by_name(snapshots_, name).ok()) {
    co_return Error(ErrorCode::already_exists,
                    "there is a snapshot '" + name + "' already; choose another name");
  }
  if (snapshots_.size() >= limits::kSnapshotsPerVolumeMax) {
    co_return Error(ErrorCode::busy, "the volume has " + std::to_string(snapshots_.size()) +
                                         " snapshots, which is the most; remove some first");
  }
  SnapshotTaking taking;
  taking.snapshot.name = std::move(name);
  taking.snapshot.created = executor_.wall_time();
  co_await checkpoint_now(&taking);
  if (abandoned_) co_return lost_error();
  if (!taking.result.ok()) {
    co_return taking.result.take_error().context("the snapshot was not taken");
  }
  co_return info_of(taking.snapshot);
}

// Of the root that was just published. No other checkpoint runs.
Task<void> VolumeImpl::publish_snapshot(const format::Root& root, SnapshotTaking* taking) {
  Snapshot& snapshot = taking->snapshot;
  snapshot.number = root.newest_snapshot;
  snapshot.root = root;
  if (!taking->is_stored) co_return;
  std::vector<std::byte> bytes = format::encode_snapshot(snapshot);
  const SnapshotId id{id_, snapshot.number};
  const HoldTracker::Call call(hold_, "publishing of a snapshot");
  taking->result = co_await pool_.publish_snapshot(id, std::move(bytes), owner());
  if (taking->result.ok()) {
    snapshots_.push_back(snapshot);
    // Before anybody is told: whoever owns the volume next sees the snapshot.
    (void)co_await await_fence();
  } else {
    doubtful_snapshots_.push_back(snapshot.number);
  }
}

// Publishing one failed, but it may come to be all the same: what it needs is kept until it is gone
// for certain.
Task<void> VolumeImpl::remove_doubtful_snapshots() {
  while (!doubtful_snapshots_.empty()) {
    const SnapshotNumber number = doubtful_snapshots_.back();
    const SnapshotId id{id_, number};
    if (!fence_holds()) co_return;
    const HoldTracker::Call call(hold_, "removal of a snapshot");
    const Result<void> removed = co_await pool_.remove_snapshot(id, owner());
    if (!removed.ok()) co_return;  // again after the next checkpoint
    doubtful_snapshots_.pop_back();
    forget_kept(number);
  }
}

Task<Snapshot> VolumeImpl::keep_now() {
  SnapshotTaking taking;
  taking.is_stored = false;
  co_await checkpoint_now(&taking);
  co_return std::move(taking.snapshot);
}

void VolumeImpl::forget_kept(SnapshotNumber number) {
  store_.forget_snapshot(number);
  store_.find_dead();
}

Result<const Snapshot*> VolumeImpl::intact_snapshot(const std::string& name) const {
  const Snapshot* const found = TRY(find_by_name(snapshots_, name));
  TRY(check_is_intact(*found));
  return found;
}

Task<Result<void>> VolumeImpl::remove_snapshot(std::string name) {
  CO_TRY_ASSIGN(const Snapshot* const found, find_by_name(snapshots_, name));
  const SnapshotId id{id_, found->number};
  const bool may_remove = co_await await_fence();
  if (!may_remove) co_return lost_error();
  {
    const HoldTracker::Call call(hold_, "removal of a snapshot");
    CO_TRY(co_await pool_.remove_snapshot(id, owner()));
  }
  const bool is_certain = co_await await_fence();
  if (!is_certain) co_return lost_error();
  std::erase_if(snapshots_, [&](const Snapshot& each) { return each.number == id.number; });
  forget_kept(id.number);
  if (!closing_) want_checkpoint();  // which frees it
  co_return Result<void>{};
}

Task<Result<void>> VolumeImpl::load_snapshots() {
  newest_snapshot_ = root_.newest_snapshot;
  std::optional<HoldTracker::Call> call(std::in_place, hold_, "reading of the snapshots");
  CO_TRY_ASSIGN(snapshots_, co_await read_snapshots(pool_, id_));
  call.reset();
  for (const Snapshot& snapshot : snapshots_) {
    const SegmentNumber all{~std::uint64_t{0}};
    store_.keep_for(snapshot.number, is_damaged(snapshot) ? all : snapshot.root.next_segment);
    newest_snapshot_ = std::max(newest_snapshot_, snapshot.number);
  }
  store_.set_newest_snapshot(newest_snapshot_);
  co_return Result<void>{};
}

// --- Views ---

Task<Result<std::vector<SnapshotInfo>>> Volume::stored_snapshots(Pool& pool, VolumeId id) {
  CO_TRY_ASSIGN(const std::vector<Snapshot> snapshots, co_await read_snapshots(pool, id));
  std::vector<SnapshotInfo> all;
  for (const Snapshot& snapshot : snapshots) all.push_back(info_of(snapshot));
  co_return all;
}

namespace {

Task<Result<Snapshot>> read_snapshot(Pool& pool, VolumeId id, std::string name) {
  CO_TRY_ASSIGN(const std::vector<Snapshot> snapshots, co_await read_snapshots(pool, id));
  CO_TRY_ASSIGN(const Snapshot* const found, find_by_name(snapshots, name));
  CO_TRY(check_is_intact(*found));
  co_return *found;
}

}  // namespace

namespace {

Task<Result<std::unique_ptr<Volume>>> serve(Executor& executor, std::unique_ptr<VolumeImpl> view) {
  Result<void> served = co_await view->serve_view();
  if (!served.ok()) {
    // It may be calling us from inside its own load of a page: let that return first.
    co_await sleep_for(executor, 0ns);
    co_return served.take_error();
  }
  co_return std::unique_ptr<Volume>(std::move(view));
}

}  // namespace

Task<Result<std::unique_ptr<Volume>>> Volume::open_snapshot(Executor& executor, Pool& pool,
                                                            VolumeId id, std::string snapshot,
                                                            VolumeOptions options) {
  std::string name = snapshot;
  CO_TRY_ASSIGN(const Snapshot found, co_await read_snapshot(pool, id, std::move(name)));
  options.read_only = true;
  auto view = std::make_unique<VolumeImpl>(executor, pool, id, options, found.root);
  view->set_name(snapshot);
  co_return co_await serve(executor, std::move(view));
}

Task<Result<std::unique_ptr<Volume>>> Volume::open_shared(Executor& executor, Pool& pool,
                                                          VolumeId id, VolumeOptions options) {
  std::vector<RootId> roots;
  CO_TRY_ASSIGN(const format::Root root, co_await newest_root(pool, id, roots));
  options.read_only = true;
  auto view = std::make_unique<VolumeImpl>(executor, pool, id, options, root);
  co_return co_await serve(executor, std::move(view));
}

Task<Result<void>> VolumeImpl::serve_view() {
  is_view_ = true;
  CO_TRY_ASSIGN(const std::vector<SegmentId> listed, co_await pool_.list_segments(id_));
  store_.set_listed(listed);
  store_.set_lineage(root_.lineage);
  map_.set_top(root_.map_top);
  co_return co_await store_.load_table(root_.segment_table_top);
}

// --- Rollback ---

Task<Result<void>> VolumeImpl::sum_table(PagedArray* table, std::uint8_t level, std::uint64_t index,
                                         TableSum* sum) {
  const PagedArray::Lookup found = co_await table->get(level, index, false);
  if (found.outcome != PageOutcome::ready) {
    co_return Error(ErrorCode::corrupt,
                    "a page of the snapshot's segment table is damaged; nothing was changed");
  }
  Page* const page = found.page;
  PagedArray::pin(*page);
  ++sum->pages[page->location.segment().value];
  Result<void> result;
  for (std::uint32_t slot = 0; level != 0 && slot < format::kChildrenPerPage && result.ok();
       ++slot) {
    if (load_little<std::uint64_t>(format::child_at(page->image, slot)) == 0) continue;
    const std::uint64_t child = index * format::kChildrenPerPage + slot;
    result = co_await sum_table(table, static_cast<std::uint8_t>(level - 1), child, sum);
  }
  for (std::uint32_t slot = 0; level == 0 && slot < format::kSegmentEntriesPerPage; ++slot) {
    const SegmentEntry entry =
        format::load_segment_entry(format::segment_entry_at(page->image, slot));
    if (entry.state == SegmentState::absent) continue;
    sum->live[index * format::kSegmentEntriesPerPage + slot] = entry.live_blocks;
  }
  PagedArray::unpin(*page);
  co_return result;
}

// The head becomes the snapshot's map, with this volume's own table: live blocks as the snapshot
// counts them, but for the pages of the two tables themselves. The next checkpoint makes it so.
Task<Result<void>> VolumeImpl::take_back(const format::Root& root) {
  TableSum sum;
  if (!root.segment_table_top.is_hole()) {
    PagedArray table(format::ArrayKind::segment_table, id_, memory_, store_);
    table.set_top(root.segment_table_top);
    const std::uint8_t top_level = format::kPageLevels - 1;
    Result<void> summed = co_await sum_table(&table, top_level, 0, &sum);
    co_await sleep_for(executor_, 0ns);  // the last load may still be calling us
    if (!summed.ok()) co_return summed;
  }
  std::unordered_map<std::uint64_t, std::int64_t> wanted = std::move(sum.live);
  for (const auto& [segment, count] : sum.pages) wanted[segment] -= count;
  for (const auto& [segment, count] : wanted) {
    if (count != 0 && !store_.has_entry(SegmentNumber{segment})) {
      co_return Error(ErrorCode::corrupt, "segment " + std::to_string(segment) +
                                              " of the snapshot is missing; nothing was changed");
    }
  }
  // From the replaced top to the end without suspension.
  for (int attempts = 1;; ++attempts) {
    co_await checkpoint_now();
    if (map_.replace_top(root.map_top)) break;  // false: another checkpoint has begun, say
    if (attempts == kRollbackAttemptsMax) {
      co_return Error(ErrorCode::busy, "the volume is in use; detach it first");
    }
    co_await sleep_for(executor_, 10ms);
  }
  store_.for_each_table_page([&](format::BlockLocation page) { ++wanted[page.segment().value]; });
  std::vector<std::pair<SegmentNumber, std::int64_t>> changes;
  store_.for_each_entry([&](SegmentNumber number, const SegmentEntry& entry) {
    const auto at = wanted.find(number.value);
    const std::int64_t live = at == wanted.end() ? 0 : at->second;
    if (live != entry.live_blocks) {
      changes.emplace_back(number, live - static_cast<std::int64_t>(entry.live_blocks));
    }
  });
  for (const auto& [number, change] : changes) store_.add_live(number, change);
  info_.size_bytes = root.size_bytes;
  uncleanable_.clear();
  co_return Result<void>{};
}

Task<Result<void>> VolumeImpl::rollback(std::string name) {
  CO_TRY_ASSIGN(const Snapshot* const found, intact_snapshot(name));
  const format::Root root = found->root;
  if (closing_ || rolling_back_) co_return Error(ErrorCode::busy, "the volume is busy; try again");
  rolling_back_ = true;
  co_await quiesce();
  while (cleaning_) co_await drained_.wait();
  Result<void> result = Result<void>{};
  if (!abandoned_) result = co_await take_back(root);
  if (result.ok()) co_await checkpoint_now();
  if (abandoned_) result = lost_error();
  rolling_back_ = false;
  resume();
  co_return result;
}

// --- Clones ---

Task<Result<void>> Volume::clone(Executor& executor, Pool& pool, VolumeCloneOptions options) {
  std::string name = options.snapshot;
  CO_TRY_ASSIGN(const Snapshot from, co_await read_snapshot(pool, options.parent, std::move(name)));
  format::Root root = from.root;
  if (root.lineage.size() >= limits::kCloneDepthMax) {
    co_return Error(
        ErrorCode::invalid_argument,
        "the snapshot's volume is the last of " + std::to_string(root.lineage.size()) +
            " clones of clones, which is the most; copy its content to a new volume instead");
  }
  root.id = RootId{options.id, Epoch{1}, 0};
  root.position = {from.root.position.next_sequence, SegmentNumber{}, 0};
  root.page_segment = SegmentNumber{};
  root.page_segment_used_blocks = 0;
  root.parent = options.parent;
  root.parent_snapshot = from.number;
  root.newest_snapshot = SnapshotNumber{};
  root.lineage.push_back({from.root.next_segment, options.parent});
  root.incompatible_features |= format::kFeatureLineage;
  VolumeRecord record;
  record.id = options.id;
  record.name = options.name;
  record.created = executor.wall_time();
  const CloneMark mark{{options.parent, from.number}, options.id};
  CO_TRY(co_await pool.add_clone_mark(mark));
  // While this holds, whoever owns the parent next sees the mark, and keeps the snapshot for the
  // clone, if it is there by then.
  const auto may_create = [&]() -> Result<void> {
    if (options.fence == nullptr || options.fence->holds(executor.boot_time())) return {};
    return Error(ErrorCode::busy,
                 "the parent's lease ran out meanwhile, and its snapshot may be gone; try again");
  };
  std::vector<std::byte> bytes = format::encode_root(root);
  Result<void> created = may_create();
  if (created.ok()) created = co_await pool.create_volume(record, root.id, std::move(bytes));
  if (created.ok()) {
    created = may_create();
    if (!created.ok()) {
      const Result<void> removed = co_await pool.remove_volume(record.id);
      if (!removed.ok()) log_warning(removed.error().message());
    }
  }
  if (!created.ok()) {
    const Result<void> removed = co_await pool.remove_clone_mark(mark);
    if (!removed.ok()) log_warning(removed.error().message());
  }
  co_return created;
}

}  // namespace holdfast
