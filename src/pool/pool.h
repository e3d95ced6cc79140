// SPDX-License-Identifier: Apache-2.0
//
// A pool: a place on storage that holds volumes. This interface is all that volumes know of
// storage; dir_pool implements it on a directory, later others on Ceph and shared block devices.
//
// Names are identities: a segment is (volume, epoch, number), a root (volume, epoch, number).
// Nothing is overwritten under a name that anybody may read, so a write that lands late is
// harmless.
//
// Threading: one executor. Errors: no_space and path_failure are for the caller to hold and retry
// (pool/hold.h); the rest are final.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "base/time.h"
#include "io/file_system.h"
#include "io/task.h"

namespace holdfast {

struct PoolInfo {
  PoolId id;
  std::string location;  // "dir:/srv/vms"
  bool shared = false;
  std::uint16_t io_timeout_seconds = 0;  // of a shared one: N and W, see lease/host_watch.h
  std::uint16_t watchdog_seconds = 0;
  std::uint64_t segment_bytes = 0;
  std::uint32_t format_version = 0;
  std::uint64_t compatible_features = 0;
  std::uint64_t read_only_compatible_features = 0;
  std::uint64_t incompatible_features = 0;
  WallTime created;
};

// What a pool knows of a volume without opening it.
struct VolumeRecord {
  VolumeId id;
  std::string name;
  bool thick = false;
  WallTime created;
};

// A volume in the trash: all that it had is there, under its own id, but nobody may open it.
struct TrashedVolume {
  VolumeRecord record;
  WallTime since;
  WallTime until;  // it is not removed by itself before
};

// How the files of a removed volume go.
struct RemovalOptions {
  bool is_gentle = false;      // with rests, as long as the work between them
  const bool* stop = nullptr;  // once set: the rest goes when the pool is opened again
};

struct PoolSpace {
  std::uint64_t capacity_bytes = 0;   // as the storage reports it
  std::uint64_t available_bytes = 0;  // to anybody now
  std::uint64_t reserve_bytes = 0;    // of it, kept for metadata, deletes and the cleaner
};

// `clone` reads what `snapshot` keeps.
struct CloneMark {
  SnapshotId snapshot;
  VolumeId clone;
  auto operator<=>(const CloneMark&) const = default;
};

// Who asks for a segment: guests are refused (no_space) at the reserve; at half of it while a
// discard of theirs waits, which frees space; metadata only at the end.
enum class SegmentPurpose { guest_data, guest_discard, metadata };

// How a volume comes to have an ancestor's segment: as a second name of the same file, which takes
// no space (or by a copy, where the storage has no such thing); or by a copy that has the space of
// a whole segment.
enum class AdoptBy { link, copy };

// A preallocated segment of a thick volume that is nobody's yet: a *spare*. Those that were
// segments keep their numbers, so that no two are alike; new ones have epoch 0.
struct SpareId {
  VolumeId volume;
  Epoch epoch;
  std::uint64_t number = 0;
  auto operator<=>(const SpareId&) const = default;
};

// What is allocated to a volume, in files as long as a segment.
struct SegmentFiles {
  std::uint64_t spares = 0;
  std::uint64_t full_segments = 0;  // with space for all of their length
  // Trimmed ones, and those with a second name: theirs would have to be allocated again.
  std::uint64_t short_segments = 0;
  std::uint64_t guaranteed() const { return spares + full_segments; }
};

class Pool {
 public:
  virtual ~Pool() = default;

  virtual const PoolInfo& info() const = 0;
  virtual Task<Result<PoolSpace>> space() = 0;

  // Ownerships, of a volume that several hosts may own one after the other
  // (docs/decisions/0022-the-volume-behind-a-fence.md). The calls below that are told their owner
  // have an effect only from begin_epoch() of that epoch until begin_epoch() of a later one has
  // returned, however late they come: they fail then. So the new owner begins, and looks at what
  // is there afterwards. Without an owner: nobody else can be there.
  // busy: a later epoch has begun. It is begun only once, and with nothing else before it.
  virtual Task<Result<void>> begin_epoch(VolumeId volume, Epoch epoch) = 0;
  // Tidies up; nothing of that owner is under way.
  virtual Task<void> end_epoch(VolumeId volume, Epoch epoch) = 0;

  // Volumes. Creating and removing are atomic: after a crash a volume is there or not.
  virtual Task<Result<std::vector<VolumeRecord>>> list_volumes() = 0;
  virtual Task<Result<void>> create_volume(VolumeRecord record, RootId root,
                                           std::vector<std::byte> root_bytes) = 0;
  virtual Task<Result<void>> update_volume(VolumeRecord record) = 0;  // a new name, thick or not
  // Also of one in the trash.
  virtual Task<Result<void>> remove_volume(VolumeId volume, RemovalOptions options = {}) = 0;
  virtual Task<Result<std::uint64_t>> volume_allocated_bytes(VolumeId volume) = 0;

  // The trash. A trashed volume is not in list_volumes(), and its name is free. Into the trash and
  // out of it is one step each, durable when it returns, and needs no space; only a restored volume
  // that gets another name needs a block. After an error it may be in either place.
  virtual Task<Result<void>> trash_volume(VolumeId volume, WallTime since, WallTime until) = 0;
  virtual Task<Result<std::vector<TrashedVolume>>> list_trash() = 0;
  virtual Task<Result<void>> restore_volume(VolumeId volume, std::string name) = 0;

  // Segments. A created segment is preallocated (info().segment_bytes) and its name is durable.
  virtual Task<Result<std::unique_ptr<File>>> create_segment(SegmentId segment,
                                                             SegmentPurpose purpose) = 0;
  // For reading; `writable` only for writing the same bytes to the same place again.
  virtual Task<Result<std::unique_ptr<File>>> open_segment(SegmentId segment,
                                                           bool writable = false) = 0;
  virtual Task<Result<void>> remove_segment(SegmentId segment) = 0;  // not_found is an error too
  // Gives back the space behind `used_bytes` of a segment that nobody appends to any more.
  virtual Task<Result<void>> trim_segment(SegmentId segment, std::uint64_t used_bytes) = 0;
  virtual Task<Result<std::vector<SegmentId>>> list_segments(VolumeId volume) = 0;

  // Makes the segment one of `to` as well, of the same epoch and number; done already is fine, and
  // nothing half done is ever listed. Durable after sync_segments(). Nobody may ever write where
  // either of them has content, nor cut it off. no_space: a copy would reach the reserve.
  virtual Task<Result<void>> adopt_segment(SegmentId from, VolumeId to, AdoptBy by,
                                           Epoch owner = {}) = 0;
  virtual Task<Result<void>> sync_segments(VolumeId volume) = 0;

  // Spares, for thick volumes. A spare that is listed has all its space; once count_segment_files()
  // has counted it, its name is durable too. Taking one and giving one back are one rename each, so
  // they need no space, and may meet the making and removing of others at any time.
  // no_space as for create_segment().
  virtual Task<Result<void>> create_spare(VolumeId volume,
                                          SegmentPurpose purpose = SegmentPurpose::guest_data) = 0;
  virtual Task<Result<void>> remove_spare(SpareId spare) = 0;
  virtual Task<Result<std::vector<SpareId>>> list_spares(VolumeId volume) = 0;
  // As create_segment, out of the spare; not_found: somebody else took it. What the file holds are
  // other segments' records and pages, which name those segments.
  virtual Task<Result<std::unique_ptr<File>>> create_segment_from(SpareId spare,
                                                                  SegmentId segment) = 0;
  // Instead of remove_segment. No I/O of the caller's is in flight; that of processes that have
  // died has ended when it returns. no_space: it was trimmed and cannot be allocated again;
  // unsupported: it is another volume's, too, and must stay as it is.
  virtual Task<Result<SpareId>> recycle_segment(SegmentId segment) = 0;
  // Makes names durable, and removes what an interrupted create_spare() left: for the pool that
  // makes spares only, not for views.
  virtual Task<Result<SegmentFiles>> count_segment_files(VolumeId volume) = 0;

  // Roots. publish_root is atomic and durable when it returns.
  virtual Task<Result<void>> publish_root(RootId root, std::vector<std::byte> bytes,
                                          Epoch owner = {}) = 0;
  virtual Task<Result<std::vector<RootId>>> list_roots(VolumeId volume) = 0;
  virtual Task<Result<std::vector<std::byte>>> read_root(RootId root) = 0;
  // May keep the space for the next root of the volume.
  virtual Task<Result<void>> remove_root(RootId root, Epoch owner = {}) = 0;
  // What a crash left of publishing. For whoever has the volume open: nobody else may publish.
  virtual Task<void> remove_leftovers(VolumeId volume) = 0;

  // Snapshots. Publishing is atomic; both are durable when they return. After an error either may
  // have happened, or may happen by itself after a crash. Removing one that is gone is fine.
  virtual Task<Result<void>> publish_snapshot(SnapshotId snapshot, std::vector<std::byte> bytes,
                                              Epoch owner = {}) = 0;
  virtual Task<Result<void>> remove_snapshot(SnapshotId snapshot, Epoch owner = {}) = 0;
  virtual Task<Result<std::vector<SnapshotId>>> list_snapshots(VolumeId volume) = 0;  // ascending
  virtual Task<Result<std::vector<std::byte>>> read_snapshot(SnapshotId snapshot) = 0;

  // Leases, of a shared pool (docs/format.md, "Lease areas"): the area of the hosts, and that of a
  // volume, to be read and written by sectors. unsupported: the pool is local.
  virtual Task<Result<std::unique_ptr<File>>> open_host_leases() = 0;
  virtual Task<Result<std::unique_ptr<File>>> open_volume_lease(VolumeId volume) = 0;

  // Which volumes were cloned from a snapshot, beside that snapshot's volume: marks, durable when
  // add or remove returns. A mark may outlive its volume (a crash came between), but no clone is
  // without one.
  virtual Task<Result<void>> add_clone_mark(CloneMark mark) = 0;
  virtual Task<Result<void>> remove_clone_mark(CloneMark mark) = 0;  // gone already: fine
  virtual Task<Result<std::vector<CloneMark>>> list_clone_marks(VolumeId volume) = 0;
};

}  // namespace holdfast
