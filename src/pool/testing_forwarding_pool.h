// SPDX-License-Identifier: Apache-2.0
//
// For tests: a pool that passes everything on to another one. Override what the test changes.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "pool/pool.h"

namespace holdfast {

class ForwardingPool : public Pool {
 public:
  explicit ForwardingPool(Pool& below) : below_(below) {}

  const PoolInfo& info() const override { return below_.info(); }
  Task<Result<PoolSpace>> space() override { return below_.space(); }
  Task<Result<void>> begin_epoch(VolumeId volume, Epoch epoch) override {
    return below_.begin_epoch(volume, epoch);
  }
  Task<void> end_epoch(VolumeId volume, Epoch epoch) override {
    return below_.end_epoch(volume, epoch);
  }
  Task<Result<std::vector<VolumeRecord>>> list_volumes() override { return below_.list_volumes(); }
  Task<Result<void>> create_volume(VolumeRecord record, RootId root,
                                   std::vector<std::byte> bytes) override {
    return below_.create_volume(std::move(record), root, std::move(bytes));
  }
  Task<Result<void>> update_volume(VolumeRecord record) override {
    return below_.update_volume(std::move(record));
  }
  Task<Result<void>> remove_volume(VolumeId volume, RemovalOptions options) override {
    return below_.remove_volume(volume, options);
  }
  Task<Result<void>> trash_volume(VolumeId volume, WallTime since, WallTime until) override {
    return below_.trash_volume(volume, since, until);
  }
  Task<Result<std::vector<TrashedVolume>>> list_trash() override { return below_.list_trash(); }
  Task<Result<void>> restore_volume(VolumeId volume, std::string name) override {
    return below_.restore_volume(volume, std::move(name));
  }
  Task<Result<std::uint64_t>> volume_allocated_bytes(VolumeId volume) override {
    return below_.volume_allocated_bytes(volume);
  }
  Task<Result<std::unique_ptr<File>>> create_segment(SegmentId segment,
                                                     SegmentPurpose purpose) override {
    return below_.create_segment(segment, purpose);
  }
  Task<Result<std::unique_ptr<File>>> open_segment(SegmentId segment, bool writable) override {
    return below_.open_segment(segment, writable);
  }
  Task<Result<void>> remove_segment(SegmentId segment) override {
    return below_.remove_segment(segment);
  }
  Task<Result<void>> trim_segment(SegmentId segment, std::uint64_t used_bytes) override {
    return below_.trim_segment(segment, used_bytes);
  }
  Task<Result<std::vector<SegmentId>>> list_segments(VolumeId volume) override {
    return below_.list_segments(volume);
  }
  Task<Result<void>> adopt_segment(SegmentId from, VolumeId to, AdoptBy by, Epoch owner) override {
    return below_.adopt_segment(from, to, by, owner);
  }
  Task<Result<void>> sync_segments(VolumeId volume) override {
    return below_.sync_segments(volume);
  }
  Task<Result<void>> create_spare(VolumeId volume, SegmentPurpose purpose) override {
    return below_.create_spare(volume, purpose);
  }
  Task<Result<void>> remove_spare(SpareId spare) override { return below_.remove_spare(spare); }
  Task<Result<std::vector<SpareId>>> list_spares(VolumeId volume) override {
    return below_.list_spares(volume);
  }
  Task<Result<std::unique_ptr<File>>> create_segment_from(SpareId spare,
                                                          SegmentId segment) override {
    return below_.create_segment_from(spare, segment);
  }
  Task<Result<SpareId>> recycle_segment(SegmentId segment) override {
    return below_.recycle_segment(segment);
  }
  Task<Result<SegmentFiles>> count_segment_files(VolumeId volume) override {
    return below_.count_segment_files(volume);
  }
  Task<Result<void>> publish_root(RootId root, std::vector<std::byte> bytes, Epoch owner) override {
    return below_.publish_root(root, std::move(bytes), owner);
  }
  Task<Result<std::vector<RootId>>> list_roots(VolumeId volume) override {
    return below_.list_roots(volume);
  }
  Task<Result<std::vector<std::byte>>> read_root(RootId root) override {
    return below_.read_root(root);
  }
  Task<Result<void>> remove_root(RootId root, Epoch owner) override {
    return below_.remove_root(root, owner);
  }
  Task<void> remove_leftovers(VolumeId volume) override { return below_.remove_leftovers(volume); }
  Task<Result<void>> publish_snapshot(SnapshotId snapshot, std::vector<std::byte> bytes,
                                      Epoch owner) override {
    return below_.publish_snapshot(snapshot, std::move(bytes), owner);
  }
  Task<Result<void>> remove_snapshot(SnapshotId snapshot, Epoch owner) override {
    return below_.remove_snapshot(snapshot, owner);
  }
  Task<Result<std::vector<SnapshotId>>> list_snapshots(VolumeId volume) override {
    return below_.list_snapshots(volume);
  }
  Task<Result<std::vector<std::byte>>> read_snapshot(SnapshotId snapshot) override {
    return below_.read_snapshot(snapshot);
  }
  Task<Result<std::unique_ptr<File>>> open_host_leases() override {
    return below_.open_host_leases();
  }
  Task<Result<std::unique_ptr<File>>> open_volume_lease(VolumeId volume) override {
    return below_.open_volume_lease(volume);
  }
  Task<Result<void>> add_clone_mark(CloneMark mark) override { return below_.add_clone_mark(mark); }
  Task<Result<void>> remove_clone_mark(CloneMark mark) override {
    return below_.remove_clone_mark(mark);
  }
  Task<Result<std::vector<CloneMark>>> list_clone_marks(VolumeId volume) override {
    return below_.list_clone_marks(volume);
  }

 protected:
  Pool& below_;
};

}  // namespace holdfast
