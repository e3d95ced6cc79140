// SPDX-License-Identifier: Apache-2.0
//
// A pool in a pool and namespace of Ceph: always a shared one. docs/format.md, "Objects on Ceph";
// why it is so: docs/decisions/0030-pools-on-rados.md.
//
//   holdfast.pool            the pool record; values:
//     name-<name>              the id of the volume that has the name
//     volume-<uuid>            the volume record
//     trash-<uuid>             the same of one in the trash, and since and until when
//     creating-<uuid>          being created, by which host
//     removing-<uuid>          removed; its objects are going
//     client-<host>            the addresses of the clients of the host's daemon
//   holdfast.hosts           the host leases
//   holdfast.lease.<uuid>    who owns the volume
//   holdfast.volume.<uuid>   the volume. Attributes: state (live, removing), epoch (the last that
//                            has begun), owner (the address of its client). Values, named as the
//                            files of a pool in a directory are:
//     root-<epoch>-<number>, snap-<number>, clone-<number>-<uuid>
//     seg-<epoch>-<number>     a segment: how long it is
//     .new-seg-<epoch>-<number>-<copy>   a copy of another volume's that is being made
//   holdfast.data.<uuid>.seg-<epoch>-<number>[.copy-<copy>].<n>   parts of a segment
//
// What is one step for a caller is one operation on one object here, so a crash leaves nothing
// between. A segment is in its volume's list before it has objects, and until it has none any more:
// what a crash leaves is listed, and removed as an orphan.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "io/rados_client.h"
#include "pool/open_pool.h"
#include "pool/pool.h"
#include "pool/rados_layout.h"

namespace holdfast {

class RadosPool final : public Pool {
 public:
  // As create_pool(), open_pool() and view_pool().
  static Task<Result<std::unique_ptr<Pool>>> create(PoolContext context, std::string location,
                                                    PoolCreateOptions options);
  static Task<Result<std::unique_ptr<Pool>>> open(PoolContext context, std::string location);
  static std::unique_ptr<Pool> view(PoolContext context, PoolInfo info);

  ~RadosPool() override;
  RadosPool(const RadosPool&) = delete;
  RadosPool& operator=(const RadosPool&) = delete;

  const PoolInfo& info() const override { return info_; }
  Task<Result<PoolSpace>> space() override;
  Task<Result<void>> begin_epoch(VolumeId volume, Epoch epoch) override;
  Task<void> end_epoch(VolumeId volume, Epoch epoch) override;
  Task<Result<std::vector<VolumeRecord>>> list_volumes() override;
  Task<Result<void>> create_volume(VolumeRecord record, RootId root,
                                   std::vector<std::byte> root_bytes) override;
  Task<Result<void>> update_volume(VolumeRecord record) override;
  Task<Result<void>> remove_volume(VolumeId volume, RemovalOptions options) override;
  Task<Result<void>> trash_volume(VolumeId volume, WallTime since, WallTime until) override;
  Task<Result<std::vector<TrashedVolume>>> list_trash() override;
  Task<Result<void>> restore_volume(VolumeId volume, std::string name) override;
  Task<Result<std::uint64_t>> volume_allocated_bytes(VolumeId volume) override;
  Task<Result<std::unique_ptr<File>>> create_segment(SegmentId segment,
                                                     SegmentPurpose purpose) override;
  Task<Result<std::unique_ptr<File>>> open_segment(SegmentId segment, bool writable) override;
  Task<Result<void>> remove_segment(SegmentId segment) override;
  Task<Result<void>> trim_segment(SegmentId segment, std::uint64_t used_bytes) override;
  Task<Result<std::vector<SegmentId>>> list_segments(VolumeId volume) override;
  Task<Result<void>> adopt_segment(SegmentId from, VolumeId to, AdoptBy by, Epoch owner) override;
  Task<Result<void>> sync_segments(VolumeId volume) override;
  Task<Result<void>> create_spare(VolumeId volume, SegmentPurpose purpose) override;
  Task<Result<void>> remove_spare(SpareId spare) override;
  Task<Result<std::vector<SpareId>>> list_spares(VolumeId volume) override;
  Task<Result<std::unique_ptr<File>>> create_segment_from(SpareId spare,
                                                          SegmentId segment) override;
  Task<Result<SpareId>> recycle_segment(SegmentId segment) override;
  Task<Result<SegmentFiles>> count_segment_files(VolumeId volume) override;
  Task<Result<void>> publish_root(RootId root, std::vector<std::byte> bytes, Epoch owner) override;
  Task<Result<std::vector<RootId>>> list_roots(VolumeId volume) override;
  Task<Result<std::vector<std::byte>>> read_root(RootId root) override;
  Task<Result<void>> remove_root(RootId root, Epoch owner) override;
  Task<void> remove_leftovers(VolumeId volume) override;
  Task<Result<void>> publish_snapshot(SnapshotId snapshot, std::vector<std::byte> bytes,
                                      Epoch owner) override;
  Task<Result<void>> remove_snapshot(SnapshotId snapshot, Epoch owner) override;
  Task<Result<std::vector<SnapshotId>>> list_snapshots(VolumeId volume) override;
  Task<Result<std::vector<std::byte>>> read_snapshot(SnapshotId snapshot) override;
  Task<Result<std::unique_ptr<File>>> open_host_leases() override;
  Task<Result<std::unique_ptr<File>>> open_volume_lease(VolumeId volume) override;
  Task<Result<void>> add_clone_mark(CloneMark mark) override;
  Task<Result<void>> remove_clone_mark(CloneMark mark) override;
  Task<Result<std::vector<CloneMark>>> list_clone_marks(VolumeId volume) override;

 private:
  using SegmentEntry = rados_layout::SegmentEntry;
  using Bytes = std::vector<std::byte>;

  RadosPool(PoolContext context, PoolInfo info, std::unique_ptr<RadosClient> client,
            rados_layout::Striping striping);

  Error failed(const std::string& action, int error) const;
  Error no_volume(const VolumeId& volume) const;
  Error has_other_owner(const VolumeId& volume, Epoch owner) const;

  // The index of volumes, in the pool's object.
  Task<Result<void>> check_may_be_written();
  Task<Result<void>> replace_former_self();
  Task<Result<std::optional<Bytes>>> read_index(std::string key);
  Task<Result<void>> make_volume_objects(VolumeRecord record, RootId root, Bytes root_bytes);
  // What creating or removing a volume has left. ok: all of it is gone.
  Task<Result<void>> give_up_creating(VolumeId volume, Bytes mark);
  Task<Result<void>> remove_objects(VolumeId volume, RemovalOptions options);
  Task<void> remove_leftover_volumes();
  // ECANCELED: somebody changed the index meanwhile. Why a name cannot be had, if it cannot.
  Task<Result<void>> check_name_is_free(std::string name, VolumeId volume);

  // Operations on a volume's object.
  static RadosValue live();
  static void guard(RadosWrite& write, Epoch owner);
  Task<Result<void>> change(VolumeId volume, RadosWrite write, Epoch owner, std::string action);
  Task<Result<std::vector<RadosValue>>> list(VolumeId volume, std::string prefix, bool with_values);
  Task<Result<Bytes>> read_value(VolumeId volume, std::string key, std::string what);

  // Objects of segments.
  Task<Result<void>> check_reserve(SegmentPurpose purpose, std::uint64_t wanted_bytes);
  std::unique_ptr<File> file_of(const SegmentId& segment, const SegmentEntry& entry);
  Task<Result<SegmentEntry>> find_segment(SegmentId segment);
  // The same operation on all; `fine` is no error. 0 or one of the errors.
  Task<int> write_all(std::vector<std::string> objects, RadosWrite operation, int fine);
  Task<int> remove_all(std::vector<std::string> objects);
  Task<Result<void>> copy_objects(std::vector<std::string> from, std::vector<std::string> to);
  Task<Result<std::unique_ptr<File>>> open_lease(std::string object);

  PoolContext context_;
  PoolInfo info_;
  std::unique_ptr<RadosClient> client_;
  rados_layout::Striping striping_;
  std::string own_clients_;  // as the index has them; empty: it does not (a view)
};

}  // namespace holdfast
