// SPDX-License-Identifier: Apache-2.0
//
// The composition root: which pools are open, which volumes are served where, and what of it must
// survive a restart. Every command is a coroutine.
//
// Thread: the executor's (host_thread.h owns one and calls in from others). Volumes and their
// clients live on service loops (service_loop.h), which may be the same executor; the host only
// posts to them. Operations on one volume run one after the other; one pool's trouble never delays
// another pool's commands.
// Lifetime: start(), commands, stop(). Destroying a host without stop() is what a crash does.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "host/commands.h"
#include "host/config.h"
#include "host/leases.h"
#include "host/machine_pause.h"
#include "host/name_locks.h"
#include "host/pool_leases.h"
#include "host/service_loop.h"
#include "host/state.h"
#include "io/executor.h"
#include "io/file_system.h"
#include "io/task.h"
#include "pool/pool.h"
#include "volume/volume.h"

namespace holdfast {

// The host's way to the outside, so that tests can give their own.
struct HostEnvironment {
  Executor& executor;
  FileSystem& file_system;  // for the host's own directories
  // One per pool: storage that hangs takes no other pool along.
  std::function<std::unique_ptr<FileSystem>()> make_file_system;
  std::vector<ServiceEnvironment> service_loops;  // at least one
  LeaseEnvironment leases;                        // of shared pools
  std::string holder;                             // a line for people about this daemon, for locks
  std::string host_name;  // in shared pools: unique, and the same after a restart
  std::string boot_id;    // of the machine: changes when it is started
  // To monitors of virtual machines.
  std::function<Result<std::unique_ptr<Stream>>(const std::string& path)> connect;
  // The runtime directory is ours: from here on its files (such as a log) may be touched.
  std::function<void()> on_locked = [] {};
};

class Host {
 public:
  Host(HostEnvironment environment, HostConfig config);
  ~Host();
  Host(const Host&) = delete;
  Host& operator=(const Host&) = delete;

  // Takes the runtime directory, reads the state, opens the pools and serves what was attached.
  // Fails only where going on would be wrong; storage that does not answer is retried in the
  // background.
  Task<Result<void>> start();
  // Stops serving, closes volumes (with a checkpoint) and pools. Attachments stay recorded.
  Task<void> stop();
  // stop() has left volumes behind whose storage is full or unreachable: end the process.
  bool has_given_up() const { return has_given_up_; }

  Task<Result<PoolChange>> create_pool(CreatePoolRequest request);
  Task<Result<PoolChange>> open_pool(PoolLocation request);
  Task<Result<std::vector<PoolReport>>> list_pools();
  Task<Result<PoolReport>> show_pool(std::string name);
  Task<Result<DoneAnswer>> close_pool(std::string name);

  Task<Result<VolumeReport>> create_volume(CreateVolumeRequest request);
  // Of all pools when `pool` is empty.
  Task<Result<std::vector<VolumeReport>>> list_volumes(std::string pool);
  Task<Result<VolumeReport>> show_volume(VolumeName name);
  Task<Result<VolumeReport>> resize_volume(ResizeVolumeRequest request);
  // Between thin and thick, also while it is in use.
  Task<Result<VolumeReport>> convert_volume(ConvertVolumeRequest request);
  Task<Result<VolumeReport>> rename_volume(VolumeName name, std::string new_name);
  // Into the trash, or for good.
  Task<Result<RemoveAnswer>> remove_volume(RemoveVolumeRequest request);
  Task<Result<VolumeReport>> set_volume(SetVolumeRequest request);

  // All at one point of their volumes' time; of one pool. All are taken, or none.
  Task<Result<std::vector<SnapshotReport>>> create_snapshots(std::vector<SnapshotName> names);
  Task<Result<std::vector<SnapshotReport>>> list_snapshots(VolumeName volume);
  Task<Result<DoneAnswer>> remove_snapshot(SnapshotName name);
  Task<Result<VolumeReport>> rollback(SnapshotName name);
  Task<Result<VolumeReport>> clone_volume(CloneRequest request);
  Task<Result<DiffReport>> diff_volume(DiffQuery query);
  // Starts to flatten, in the background; one that is at it already goes on.
  Task<Result<FlattenReport>> flatten_volume(VolumeName name);
  Task<Result<FlattenReport>> show_flatten(VolumeName name);
  // Returns when it has stopped. What was done stays done.
  Task<Result<FlattenReport>> cancel_flatten(VolumeName name);

  // Images in and out: what is returned is served to the caller. Once the caller has no connection
  // to it any more, or the daemon has died, all that was done is undone: what an import made is
  // removed, what it changed is rolled back.
  Task<Result<TransferAnswer>> begin_import(ImportRequest request);
  Task<Result<TransferAnswer>> begin_export(ExportRequest request);
  Task<Result<TransferAnswer>> step_import(ImportStepRequest request);
  Task<Result<VolumeReport>> finish_import(VolumeName transfer);
  // Ends an export; undoes an import.
  Task<Result<DoneAnswer>> end_transfer(VolumeName transfer);
  // Of all pools when `pool` is empty.
  Task<Result<std::vector<TrashReport>>> list_trash(std::string pool);
  Task<Result<VolumeReport>> restore_volume(RestoreRequest request);
  Task<Result<EmptyTrashAnswer>> empty_trash(EmptyTrashRequest request);

  // A volume, or a snapshot ("disk1@monday" as the volume), which is served read-only.
  Task<Result<AttachAnswer>> attach(AttachRequest request);
  Task<Result<DoneAnswer>> detach(VolumeName name);
  Task<Result<StatusReport>> status();

  // Leases; refused for local pools, which have none. Of all open shared pools when `pool` is
  // empty.
  Task<Result<std::vector<LeaseReport>>> list_leases(std::string pool);
  Task<Result<LeaseReport>> show_lease(VolumeName name);
  // Only that of a dead holder. Returns what it was.
  Task<Result<LeaseReport>> break_lease(VolumeName name);
  Task<Result<std::vector<PoolHostReport>>> list_hosts(std::string pool);
  // Closes an attached volume and releases its lease; it stays attached, and its requests wait.
  Task<Result<HandOverAnswer>> hand_over(VolumeName name);

 private:
  struct PoolCount;
  struct PoolEntry;
  struct Attachment;
  struct ThickVolume;
  struct Transfer;
  struct TrashEntry;
  class PoolUse;

  // host.cc
  Result<void> check_running() const;
  Result<PoolEntry*> find_pool(const std::string& name) const;       // open or not
  Result<PoolEntry*> find_open_pool(const std::string& name) const;  // failed: says why
  Result<std::vector<std::string>> pools_meant(const std::string& pool) const;
  HostState state() const;
  Task<std::string> save_state();  // empty, or a warning for the answer
  Task<void> retry_saving();

  // host_pools.cc
  Task<Result<void>> check_new_pool(std::string name, std::string location);
  Task<Result<void>> open_entry(PoolEntry& entry);
  Task<void> close_entry(PoolEntry& entry);
  Task<void> find_records(PoolEntry& entry);
  Task<void> keep_opening(std::string name);
  Task<void> refresh(bool with_pools);
  PoolReport report(const PoolEntry& entry) const;

  // host_space.cc
  enum class Count { never, when_due, now };
  Task<void> refresh_space(std::string name, Count count);
  Task<void> count_volumes(PoolEntry& entry);
  Task<void> watch_space();
  void note_level(PoolEntry& entry);
  bool is_short(const PoolEntry& entry) const;
  const SpaceThresholds& thresholds(const PoolEntry& entry) const;
  PoolReport::Space space_report(const PoolEntry& entry) const;
  PoolReport::Volumes volumes_report(const PoolEntry& entry) const;

  // host_transfers.cc
  Result<void> check_not_importing(const VolumeName& name) const;
  Result<Transfer*> find_transfer(const VolumeName& name) const;
  Result<void> check_new_transfer(const VolumeName& served) const;
  Task<Result<void>> record_transfer(Transfer transfer);
  Task<Result<TransferAnswer>> serve_transfer(VolumeName served);
  Task<Result<TransferAnswer>> begin_new(ImportRequest request);
  Task<Result<TransferAnswer>> begin_change(ImportRequest request);
  Task<Result<void>> check_unchanged(VolumeName name, std::string since);
  Task<Result<void>> resize_served(VolumeName served, std::uint64_t size_bytes);
  Task<Result<void>> name_imported(Transfer* transfer);
  Task<Result<void>> undo(VolumeName served);
  Task<Result<void>> undo_stored(Transfer* transfer, PoolEntry* entry);
  Task<void> try_undo(VolumeName served);
  Task<void> watch_transfers();

  // host_volumes.cc
  Task<Result<VolumeReport>> make_volume(CreateVolumeRequest request);
  static VolumeId new_volume_id(Executor& executor);
  Task<Result<VolumeRecord>> find_volume(Pool& pool, VolumeName name);
  Task<Result<VolumeReport>> report_volume(Pool& pool, VolumeName name, VolumeRecord record);
  Task<void> add_details(Pool& pool, VolumeReport& report);
  Task<std::optional<RelationsReport>> find_relations(Pool& pool, VolumeId id);
  using LookUp = Result<std::vector<VolumeReport>>;
  Task<Result<std::vector<VolumeReport>>> look_up(PoolEntry& entry, std::string volume);
  Task<void> store_look_up(PoolEntry& entry, std::string volume,
                           std::shared_ptr<std::optional<LookUp>> answer);
  Task<Result<std::vector<VolumeReport>>> report_volumes(PoolEntry& entry, std::string volume);

  // host_snapshots.cc
  struct SnapshotGroup;
  Task<Result<std::vector<SnapshotInfo>>> with_volume(VolumeName name, VolumeAct act,
                                                      std::optional<VolumeId> known = {});
  Task<Result<void>> take_group(SnapshotGroup* group);
  SnapshotReport report_snapshot(const VolumeName& name, const SnapshotInfo& snapshot) const;
  Task<Result<std::vector<SnapshotReport>>> report_snapshots(Pool& pool, VolumeName name,
                                                             VolumeId id,
                                                             std::vector<SnapshotInfo> snapshots);

  // host_trash.cc
  struct CloneUse;
  Task<Result<std::vector<CloneUse>>> find_clones(Pool& pool, VolumeId parent);
  Task<Result<std::size_t>> check_removable(Pool& pool, RemoveVolumeRequest request, VolumeId id);
  const VolumeName* find_attached_snapshot(const VolumeName& volume) const;
  Task<Result<void>> move_to_trash(PoolEntry& entry, RemoveVolumeRequest request, VolumeId id,
                                   WallTime since, WallTime until);
  Task<Result<void>> remove_for_good(PoolEntry& entry, VolumeId id, RemovalOptions options);
  Task<Result<bool>> remove_trashed(PoolEntry& entry, VolumeId id, bool only_expired,
                                    RemovalOptions options);
  Task<Result<void>> check_parent_is_there(Pool& pool, VolumeId id);
  Task<Result<void>> load_trash(PoolEntry& entry);
  static bool is_trash_old(const PoolEntry& entry);
  Task<TrashEntry> look_at_trashed(Pool& pool, TrashedVolume volume);
  Task<Result<VolumeId>> find_in_trash(PoolEntry& entry, std::string item);
  Task<void> tend_trash(std::string pool);
  TrashReport report(const PoolEntry& entry, const TrashEntry& trashed) const;
  std::optional<PoolReport::Trash> trash_report(const PoolEntry& entry) const;
  std::string trash_advice(const PoolEntry& entry) const;  // empty: it holds nothing

  // host_flatten.cc
  Task<void> keep_flattening(VolumeName name);
  Task<Result<bool>> flatten_step(VolumeName name);
  void forget_flattens();

  // host_thick.cc
  // Refuses what does not fit, with the numbers; else counts it as promised from here on.
  Task<Result<ThickVolume*>> promise(PoolEntry& entry, VolumeId id, std::uint64_t size_bytes);
  Task<Result<void>> grow_thick(PoolEntry& entry, VolumeId id, std::uint64_t size_bytes);
  void wake_tender(PoolEntry& entry);
  Task<void> tend(std::string pool);
  Task<bool> tend_once(PoolEntry& entry);
  static Result<void> check_may_be_thick(const PoolEntry& entry);
  Task<Result<std::uint64_t>> size_of(PoolEntry& entry, VolumeRecord volume);
  void stop_tending(PoolEntry& entry, bool stop);
  void add_preallocation(VolumeReport& report) const;

  // host_attach.cc
  Attachment* find_attachment(const VolumeName& name) const;
  std::string socket_path(const Attachment& attachment) const;
  Result<void> check_socket(const Attachment& fresh) const;
  std::size_t least_loaded() const;
  Task<void> listen_for_all();
  Task<Result<Attachment*>> add_attachment(AttachRequest request);
  Task<Result<void>> serve(Attachment& attachment);
  Task<Result<void>> open_service(PoolEntry& entry, Attachment& attachment);
  Task<void> stop_serving(Attachment& attachment);
  Task<void> finish_detach(NameLocks::Lock lock, VolumeName name);
  Task<void> stop_one(VolumeName name);
  Task<void> keep_serving(VolumeName name);
  Task<void> refresh_services(std::size_t loop);
  AttachmentReport report(const Attachment& attachment) const;
  void add_live_report(const Attachment& attachment, VolumeReport& report) const;
  ServiceSettings service_settings(const Attachment& attachment) const;
  ShardVolume shard_volume(const PoolEntry& entry, const VolumeName& name, VolumeId id,
                           bool read_only) const;

  // host_leases.cc
  struct AcquireHow {
    bool only_if_still_ours = false;
    AttachMode mode = AttachMode::exclusive;
  };
  Task<Result<void>> join_hosts(PoolEntry& entry, std::optional<HostIdentity> before);
  Task<void> leave_hosts(PoolEntry& entry, bool release);
  Task<Result<std::shared_ptr<const Fence>>> acquire_lease(PoolEntry& entry, VolumeName name,
                                                           VolumeId id, AcquireHow how);
  Task<Result<std::shared_ptr<const Fence>>> share_lease(PoolEntry& entry, Attachment& attachment);
  Task<void> release_lease(PoolEntry& entry, VolumeId id);
  bool is_owned_here(const VolumeName& name) const;
  Task<Result<std::shared_ptr<const Fence>>> own_for_command(PoolEntry& entry, VolumeName name,
                                                             VolumeId id);
  Task<void> disown_after_command(PoolEntry& entry, std::shared_ptr<const Fence> fence,
                                  VolumeId id);
  Task<Result<void>> take_lease(PoolEntry& entry, Attachment& attachment);
  Task<void> give_lease_back(Attachment& attachment);
  Task<Result<KeeperReport>> ask_keeper(PoolEntry& entry);
  static Task<Result<KeeperReport>> report_of(LeaseKeeper* keeper);
  Task<void> refresh_leases(std::string pool);
  Task<Result<LeaseReport>> report_lease(PoolEntry& entry, VolumeName name, VolumeId id);
  void lease_requested(const std::string& pool, VolumeId volume, bool now);
  void volume_wanted(const VolumeName& name);
  Task<void> take_over(VolumeName name);
  Task<Result<bool>> try_take_over(VolumeName name, bool with_request);
  Task<void> hand_over_when_quiet(VolumeName name);
  Task<Result<void>> give_away(Attachment& attachment);
  Task<Result<void>> await_volume(PoolEntry& entry, Attachment& attachment);
  Result<PoolEntry*> find_shared_pool(const std::string& name) const;
  Result<void> check_attach_mode(const VolumeName& name, AttachMode mode) const;
  std::optional<PoolReport::Leases> leases_report(const PoolEntry& entry) const;
  Task<void> refresh_holders(PoolEntry& entry);
  void add_ownership(const Attachment& attachment, AttachmentReport& report) const;

  // host_holds.cc
  Result<void> check_monitor(const std::string& path) const;
  HoldPolicy hold_policy(const VolumeName& name) const;
  void add_hold_policy(const VolumeName& name, VolumeReport& report) const;
  Task<void> watch_holds();
  Task<void> look_at_holds(std::size_t loop);
  void update_machines();
  Task<void> record_machines();
  Task<void> release_machines();
  bool has_space_for(const Attachment& attachment) const;
  Task<void> forget_machine(std::unique_ptr<MachinePause> machine);
  bool is_only_held_left() const;

  const std::shared_ptr<Host*> alive_ = std::make_shared<Host*>(this);  // for what others post
  HostEnvironment environment_;
  Executor& executor_;
  const HostConfig config_;
  StateStore store_;
  NameLocks locks_;
  Condition changed_;  // an entry's state, a space, the count of what is being stopped
  std::unique_ptr<FileLock> runtime_lock_;
  std::map<std::string, std::unique_ptr<PoolEntry>> pools_;
  std::map<VolumeName, std::unique_ptr<Attachment>> attachments_;
  std::vector<std::unique_ptr<ServiceLoop>> loops_;
  std::map<VolumeName, std::unique_ptr<Transfer>> transfers_;      // by what is served
  std::map<VolumeName, FlattenReport> flattens_;                   // running, or ended not long ago
  std::set<VolumeName> cancelled_flattens_;                        // running ones that are to stop
  std::map<VolumeName, HoldSettings> volume_holds_;                // but empty ones
  std::map<std::string, std::unique_ptr<MachinePause>> machines_;  // by the path of the monitor
  std::vector<std::string> paused_before_;  // by a daemon before; until machines_ has them
  MonotonicTime started_{};
  WallTime started_wall_;
  bool running_ = false;
  bool has_given_up_ = false;
  std::string state_error_;
  bool retrying_save_ = false;
  std::size_t stops_under_way_ = 0;
  TaskScope background_;  // last: its tasks use all of the above
};

}  // namespace holdfast
