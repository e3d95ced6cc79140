// SPDX-License-Identifier: Apache-2.0
//
// What a Host keeps of each pool and each attachment. For host*.cc only.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "host/host.h"
#include "host/space_trend.h"
#include "pool/preallocation.h"
#include "pool/space.h"

namespace holdfast {

Result<void> check_volume_size(std::uint64_t size_bytes);

// What the volumes of a pool take.
struct Host::PoolCount {
  struct Volume {
    std::uint64_t allocated_bytes = 0;
    std::uint64_t size_bytes = 0;
  };
  std::map<std::string, Volume> volumes;  // by name
  MonotonicTime at{};                     // when it was done
  Duration duration{};
};

// A thick volume, attached or not, and how far its preallocation is (host_thick.cc).
struct Host::ThickVolume {
  std::uint64_t growing_to_bytes = 0;  // a resize waits for that much
  Preallocation progress;
  std::string waiting;  // why it does not go on
  bool counted = false;
  bool stop = false;     // soon: the pool is being closed, or the volume is
  bool dropped = false;  // removed, or thin now
};

// A volume in the trash; it does not change there.
struct Host::TrashEntry {
  TrashedVolume volume;
  std::optional<std::uint64_t> size_bytes;
  std::optional<std::uint64_t> allocated_bytes;
  std::uint64_t snapshot_count = 0;
  MonotonicTime retry_at{};  // a removal that failed
};

// That a clone, perhaps one in the trash, reads from a snapshot.
struct Host::CloneUse {
  SnapshotNumber snapshot;
  std::string clone;
  bool is_in_trash = false;
};

struct Host::PoolEntry {
  std::string name;
  std::string location;
  ServiceState state = ServiceState::opening;
  std::string reason;
  std::unique_ptr<FileSystem> file_system;  // the pool's own; outlives it
  std::unique_ptr<Pool> pool;               // while open; loops have views of it
  std::optional<PoolSpace> space;           // as the storage last said
  std::optional<std::uint64_t> volume_count;
  bool refreshing = false;
  bool silent = false;  // the last status did not wait for its answer to the end
  // host_space.cc
  SpaceLevel level = SpaceLevel::ok;
  SpaceLevel logged_level = SpaceLevel::ok;
  MonotonicTime lower_since{};  // the level is below the one that was logged
  SpaceHistory history;         // of what is used, by anybody
  std::optional<PoolCount> count;
  bool count_wanted = false;  // by somebody who came while a refresh was under way
  std::size_t users = 0;      // operations under way: the pool cannot be closed
  std::size_t lookups = 0;    // of those, questions about volumes
  std::map<VolumeId, std::unique_ptr<ThickVolume>> thick;
  std::set<VolumeId> to_thin;  // whose spares are to be removed
  bool knows_thin = false;     // those that an earlier daemon left have been looked for
  // host_trash.cc
  std::map<VolumeId, TrashEntry> trash;
  bool knows_trash = false;         // what is in the trash has been read since the pool was opened
  std::uint64_t trash_changes = 0;  // so that a reading that they meet is done again
  bool tending_trash = false;
  bool trash_stopped = false;  // removals end early: the pool is being closed
  // host_leases.cc, of a shared pool
  std::unique_ptr<PoolLeases> leases;    // while the pool is open
  std::optional<HostIdentity> identity;  // ours in it; while it is not open, that of before
  std::optional<KeeperReport> keeper;    // as it last said
  bool asking_keeper = false;
  bool tending = false;  // tend() is at it
  bool tend_again = false;
  bool tending_stopped = false;
};

struct Host::Attachment {
  VolumeName name;
  std::string protocol;
  bool read_only = false;
  AttachMode mode = AttachMode::exclusive;
  std::size_t loop = 0;
  WallTime since;
  ServiceState state = ServiceState::opening;
  std::string reason;
  bool keeping = false;  // keep_serving() is at it
  std::optional<VolumeRecord> record;
  std::optional<ServiceReport> served;     // while the volume is open: as its loop last said
  std::optional<HoldReport> opening_hold;  // while it is being opened
  SpaceHistory history;                    // of what its segments take
  std::string qmp_path;
  // host_leases.cc
  std::shared_ptr<const Fence> fence;  // the volume is ours; null in local pools
  bool was_served_before = false;      // by a daemon before this one, and not yet by this one
  bool is_fenced = false;              // somebody else has had it since
  Epoch shared_since{};                // of a shared one: since when it is unchanged
  std::optional<LeaseReport> holder;   // of one that is not ours: as the storage last said
  bool is_handed_over = false;         // given away; taken back only if nobody took it
  bool is_wanted = false;              // clients asked for something while it was handed over
  bool is_changing_hands = false;      // take_over() or hand_over_when_quiet() is at it
  // With the readers of other hosts.
  bool is_shared() const { return mode == AttachMode::shared_read_only; }
  // As its loop last said; only where somebody wants to know.
  bool is_hold_known = false;
  std::optional<Duration> held;
};

// An import or export under way, or one that is to be undone.
struct Host::Transfer {
  VolumeName served;  // its attachment
  SavedTransferKind kind = SavedTransferKind::read;
  std::string name;              // make: of the volume when all is there
  std::string since;             // change: the snapshot to go back to
  std::string snapshot;          // make, change: taken at the end; read: removed at the end
  bool is_under_command = true;  // of its program, or of our own
  bool had_client = false;
  bool is_orphan = false;  // of a daemon before this one
  MonotonicTime alone_since{};
};

// An operation that needs the pool to stay open.
class Host::PoolUse {
 public:
  explicit PoolUse(PoolEntry& entry) : entry_(entry) { ++entry_.users; }
  ~PoolUse() { --entry_.users; }
  PoolUse(const PoolUse&) = delete;
  PoolUse& operator=(const PoolUse&) = delete;

 private:
  PoolEntry& entry_;
};

}  // namespace holdfast
