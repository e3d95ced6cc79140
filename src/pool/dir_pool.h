// SPDX-License-Identifier: Apache-2.0
//
// A pool in a directory of a file system: a local one for one daemon at a time (a file lock sees to
// that), a shared one for many hosts (leases see to that, see lease/).
//
//   PATH/holdfast.pool                         the pool record (format/pool_record.h)
//   PATH/lock                                  locked while open; holds a line about the holder
//   PATH/hosts                                 of a shared pool: the host leases
//   PATH/volumes/<uuid>/lease                  of a shared pool: who owns the volume
//   PATH/volumes/<uuid>/volume                 the volume record
//   PATH/volumes/<uuid>/trashed-<since>-<until>  the same of one in the trash, by one rename
//   PATH/volumes/<uuid>/root-<epoch>-<number>  roots (both numbers 16 hexadecimal digits)
//   PATH/volumes/<uuid>/seg-<epoch>-<number>   segments; an adopted one may be a second name of
//                                              the file of the volume that wrote it
//   PATH/volumes/<uuid>/spare-<epoch>-<number> becomes a segment by one rename (thick volumes)
//   PATH/volumes/<uuid>/spare-root             was a root, becomes .new-<root> by one rename
//   PATH/volumes/.creating-<uuid>              becomes <uuid> by one rename; in a shared pool
//                                              .creating-<tag of the host>-<uuid>
//   PATH/volumes/.removing-<uuid>              was <uuid>; its content is being removed
//   PATH/volumes/<uuid>/.new-*                 becomes a root or the volume record by one rename
//   PATH/volumes/<uuid>/.spare-*               becomes spare-*, once it has its space
//   PATH/volumes/<uuid>/.epoch-<epoch>/        of an owner: its .new-* files and spare-root,
//   without
//                                              these prefixes, and snapshots that it removes. All
//                                              that it publishes comes from there by one rename,
//                                              and so it cannot once a later owner has removed this
// What a crash leaves of the three before is removed by open() and list_roots(); but with views
// only the view that a volume lives on knows what is a leftover among its .new-* files.
#pragma once

#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "format/pool_record.h"
#include "pool/open_pool.h"
#include "pool/pool.h"

namespace holdfast {

class DirPool final : public Pool {
 public:
  // `path` is absolute, without a slash at its end. As create_pool() and open_pool().
  static Task<Result<std::unique_ptr<Pool>>> create(PoolContext context, std::string path,
                                                    PoolCreateOptions options);
  static Task<Result<std::unique_ptr<Pool>>> open(PoolContext context, std::string path);
  // As view_pool(). Shares nothing in memory with the pool it is a view of.
  static std::unique_ptr<Pool> view(PoolContext context, PoolInfo info);

  DirPool(const DirPool&) = delete;
  DirPool& operator=(const DirPool&) = delete;

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
  // An entry of a set for as long as a coroutine's frame lives.
  class Claim {
   public:
    Claim(std::set<std::string>& set, std::string entry)
        : set_(set), entry_(std::move(entry)), is_new_(set.insert(entry_).second) {}
    Claim(const Claim&) = delete;
    Claim& operator=(const Claim&) = delete;
    ~Claim() {
      if (is_new_) set_.erase(entry_);
    }
    bool is_new() const { return is_new_; }

   private:
    std::set<std::string>& set_;
    std::string entry_;
    bool is_new_;
  };

  DirPool(PoolContext context, PoolInfo info, std::unique_ptr<FileLock> lock);

  static Task<Result<std::unique_ptr<FileLock>>> take_lock(PoolContext* context, std::string path);
  std::string creating_prefix() const;
  Task<Result<void>> write_lease(std::string directory, VolumeId volume, Epoch epoch);
  Task<Result<std::unique_ptr<File>>> open_lease(std::string path);
  Task<Result<void>> check_name_is_still_ours(VolumeRecord record);
  std::string volumes_path() const { return path_ + "/volumes"; }
  std::string volume_path(const VolumeId& volume) const;
  std::string segment_path(const SegmentId& segment) const;
  std::string root_path(const RootId& root) const;
  std::string spare_path(const SpareId& spare) const;
  std::string epoch_path(const VolumeId& volume, Epoch epoch) const;
  // Where `name` of the volume is made before it becomes that by one rename.
  std::string temporary_path(const VolumeId& volume, std::string_view name, Epoch owner) const;
  Task<Result<void>> remove_epoch(std::string path);
  Task<Result<std::vector<std::string>>> list_names(VolumeId volume);
  Task<Result<void>> remove_durably(std::string directory, std::string name);
  Task<Result<void>> fill_spare(std::string path);
  Task<Result<void>> copy_segment(std::string from, std::string to, std::uint64_t space_bytes);
  Task<void> remove_leftover_volumes();
  Task<Result<void>> remove_tree(std::string path, RemovalOptions options);
  // no_space when a segment of a guest's would lie, or lies (0 more bytes), in the reserve.
  Task<Result<void>> check_reserve(SegmentPurpose purpose, std::uint64_t wanted_bytes);
  Task<Result<VolumeRecord>> read_volume_record(VolumeId volume);
  Task<Result<VolumeRecord>> read_record(VolumeId volume, std::string name);
  // The name of a trashed volume's record; nothing: it is not in the trash.
  Task<Result<std::optional<std::string>>> find_trashed(VolumeId volume);
  Task<Result<void>> write_record(std::string directory, std::string name, VolumeRecord record);
  Task<Result<void>> check_name_is_free(VolumeRecord record, bool is_new_volume);
  Task<Result<void>> fill_new_volume(std::string directory, VolumeRecord record, RootId root,
                                     std::vector<std::byte> root_bytes);
  // Makes `path` with the bytes, durably, by way of `temporary`.
  struct Publication {
    std::string path;
    std::string temporary;
    std::string spare = {};   // a file to do it in, if it is there
    bool keeps_spare = true;  // after an error other than of space; else it is removed
  };
  Task<Result<void>> publish_file(Publication publication, std::vector<std::byte> bytes);

  PoolContext context_;
  std::string path_;
  PoolInfo info_;
  std::unique_ptr<FileLock> lock_;          // not in a view
  std::set<std::string> names_in_use_now_;  // of volumes being created or renamed
  std::set<VolumeId> seen_trashed_;         // so that they need not be looked for each time
  std::set<std::string> publishing_;        // paths of .new-* files that are not leftovers
};

}  // namespace holdfast
