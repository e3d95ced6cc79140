// SPDX-License-Identifier: Apache-2.0
//
// What one can ask of the daemon and what it answers, as plain structs. api/ turns them into JSON.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/ids.h"
#include "base/limits.h"
#include "base/time.h"
#include "lease/host_watch.h"

namespace holdfast {

struct VolumeName {
  std::string pool;
  std::string volume;
  std::string to_string() const { return pool + "/" + volume; }
  auto operator<=>(const VolumeName&) const = default;
};

// Requests.
struct CreatePoolRequest {
  std::string name;
  std::string location;
  bool shared = false;
  std::uint64_t segment_bytes = limits::kSegmentBytesDefault;
  // Of a shared pool: N, and W for hosts that also run sanlock with its watchdog.
  std::uint32_t io_timeout_seconds = limits::kLeaseIoTimeoutSecondsDefault;
  std::uint32_t watchdog_seconds = 0;
};

struct CreateVolumeRequest {
  VolumeName name;
  std::uint64_t size_bytes = 0;
  bool thick = false;
};

struct ResizeVolumeRequest {
  VolumeName name;
  std::uint64_t size_bytes = 0;
  bool force = false;  // shrinking drops what lies beyond
};

struct ConvertVolumeRequest {
  VolumeName name;
  bool thick = false;
};

struct AttachRequest {
  VolumeName name;
  std::string protocol = "nbd";
  bool read_only = false;
  std::string qmp_path;  // of the virtual machine's monitor; empty: none
  // Of volumes of shared pools; at most one of them (attach_mode() in host/leases.h).
  bool incoming = false;          // taken over from the host that has it, when a client wants it
  bool shared_writable = false;   // the clients know of each other; all of them come to this host
  bool shared_read_only = false;  // on many hosts at a time; says read_only, too
};

// What can be set for a volume: names such as "hold.pause_after", with their values.
struct SetVolumeRequest {
  VolumeName name;
  std::vector<std::pair<std::string, std::string>> settings;
};

struct SnapshotName {
  VolumeName volume;
  std::string snapshot;
  std::string to_string() const { return volume.to_string() + "@" + snapshot; }
};

struct CloneRequest {
  SnapshotName from;
  std::string name;  // of the new volume, in the same pool
};

// Images in and out: what is served for them, to the program that asked and to nobody else.
struct ImportRequest {
  VolumeName name;
  std::uint64_t size_bytes = 0;
  std::string since;     // empty: into a new volume; else what changed since this snapshot of it
  std::string snapshot;  // to be taken when all is there; empty: none
};

struct ExportRequest {
  VolumeName volume;
  std::string snapshot;  // empty: the volume as it is now
};

struct ImportStepRequest {
  VolumeName transfer;
  std::string snapshot;  // of all that is there; empty: none
  std::uint64_t size_bytes = 0;
};

struct DiffQuery {
  VolumeName volume;
  std::string snapshot;  // empty: the volume as it is now
  std::string since;     // empty: since it had no content
  std::uint64_t offset_bytes = 0;
};

struct RemoveVolumeRequest {
  VolumeName name;
  bool now = false;               // for good, not into the trash
  std::optional<Duration> defer;  // in the trash for so long; nothing: as configured; 0: `now`
  bool with_snapshots = false;    // for good though it has snapshots
};

// What is in the trash is named by its name when it was removed, or by the beginning of its id.
struct RestoreRequest {
  VolumeName item;
  std::string new_name;  // empty: the one it had
};

struct EmptyTrashRequest {
  std::string pool;  // empty: all open ones
  std::string item;  // empty: all of the pool's trash
  bool only_expired = false;
};

// Leases of shared pools.
using LeaseHolderState = HostLiveness;

// How a host gets on with the storage of its lease.
struct Renewals {
  struct Attempt {
    Duration age{};
    Duration read{};
    Duration write{};
    bool is_ok = false;
  };
  Duration last_age{};  // since the last good one
  Duration last_read{};
  Duration last_write{};
  Duration write_max{};  // of `history`
  std::uint64_t count = 0;
  std::uint64_t failures = 0;
  std::vector<Attempt> history;  // the newest first
};

// A host that has, or had, a lease in a pool.
struct PoolHostReport {
  std::uint64_t host_id = 0;
  std::string name;
  std::uint64_t generation = 0;
  LeaseHolderState state = LeaseHolderState::unknown;
  std::optional<Duration> unchanged;  // since its lease was last seen to change, by our clock
  std::optional<Duration> dead_in;    // until its volumes may be taken over
  std::uint32_t io_timeout_seconds = 0;
  bool is_this = false;
  std::optional<Renewals> renewals;  // of this host only
};

struct LeaseReport {
  VolumeName volume;
  bool is_held = false;
  std::string mode = "free";  // "exclusive", "shared", "free"
  // Who has it; free: who had it last, if anybody had (host_id 0: nobody).
  std::uint64_t host_id = 0;
  std::string host;
  std::uint64_t generation = 0;
  std::uint64_t lver = 0;  // the volume's epoch
  bool is_ours = false;
  std::vector<std::string> sharers;  // of a shared one: all hosts that read it
  LeaseHolderState holder_state = LeaseHolderState::free;
  std::optional<WallTime> since;             // only of our own
  std::optional<Duration> last_renewal_age;  // of the holder
  std::optional<Duration> take_over_in;      // 0: now; nothing: not while the holder lives
};

// Reports. Absent: not known now (not open), not zero.
enum class ServiceState { detached, opening, open, failed, detaching };

// How fast something grows. Absent: not observed for long enough.
struct TrendReport {
  std::optional<double> bytes_per_hour;  // over the last hour
  std::optional<double> bytes_per_day;   // over the last days
};

struct PoolReport {
  std::string name;
  std::string location;
  ServiceState state = ServiceState::opening;
  std::string reason;  // of failed

  struct Open {
    PoolId id;
    bool shared = false;
    std::uint64_t segment_bytes = 0;
    std::uint32_t format_version = 0;
    WallTime created;
  };
  struct Space {
    std::uint64_t capacity_bytes = 0;
    std::uint64_t available_bytes = 0;
    std::uint64_t reserve_bytes = 0;
    std::uint64_t used_bytes = 0;  // by anybody
    double used_percent = 0;       // of what is not the reserve
    std::string level;             // "ok", "warn", "critical", "full"
    std::uint32_t warn_percent = 0;
    std::uint32_t critical_percent = 0;
    TrendReport trend;
    std::optional<Duration> time_to_full;  // of what is not the reserve
  };
  // What the volumes take, as counted `age` ago.
  struct Volumes {
    std::uint64_t allocated_bytes = 0;
    std::uint64_t provisioned_bytes = 0;  // sum of the volumes' sizes
    std::uint64_t others_bytes = 0;       // used, but not by volumes
    std::optional<double> overcommit_ratio;
    // Of attached volumes: only those know.
    std::uint64_t live_bytes = 0;
    std::uint64_t garbage_bytes = 0;
    std::uint64_t unwritten_bytes = 0;
    Duration age{};
  };
  // Volumes that were removed and may be restored; they count as used.
  struct Trash {
    std::uint64_t count = 0;
    std::uint64_t allocated_bytes = 0;
  };
  // Of a shared pool: what this host is in it.
  struct Leases {
    std::uint32_t io_timeout_seconds = 0;  // N
    std::uint32_t watchdog_seconds = 0;    // W
    // Once it has its lease in the pool.
    std::uint64_t host_id = 0;  // 0: not yet
    std::string host_name;
    std::uint64_t generation = 0;
    LeaseHolderState state = LeaseHolderState::unknown;  // as the other hosts see it
    std::optional<Renewals> renewals;                    // without their history
  };
  std::optional<Open> open;
  std::optional<Leases> leases;
  std::optional<Space> space;
  std::optional<Trash> trash;
  std::optional<std::uint64_t> volume_count;
  std::optional<Volumes> volumes;
};

// What a frontend knows of its clients.
struct ClientReport {
  std::uint64_t count = 0;
  // vhost-user: requests in flight when a daemon died and run again by this one; devices whose
  // guests broke the rules of their queues.
  std::uint64_t resumed_requests = 0;
  std::uint64_t broken_devices = 0;
  std::vector<std::pair<std::string, std::uint64_t>> faults;  // what clients did wrong, if anything
};

// Of the virtual machine behind a monitor.
struct MachineReport {
  std::string state;   // "running", "pausing", "paused" (by us), "resuming", "left alone"
  std::string detail;  // what is wrong, or why it is left alone
  std::uint64_t pause_count = 0;
};

// How this daemon stands to the lease of a volume that is attached.
struct OwnershipReport {
  std::string state;        // "held", "waiting", "expired", "fenced", "handed-over"
  std::uint64_t epoch = 0;  // 0: it was never ours
  std::string holder;       // waiting, fenced, handed-over: the host that has it, and how it is
  std::optional<Duration> take_over_in;  // waiting: 0: now; nothing: not while the holder lives
};

struct AttachmentReport {
  std::string protocol;
  bool read_only = false;
  std::string socket_path;
  std::string uri;  // of NBD
  std::optional<ClientReport> clients;
  WallTime since;
  std::size_t loop = 0;  // that it is served on
  std::string qmp_path;
  std::optional<MachineReport> machine;  // with a monitor
  // In shared pools; else empty.
  std::string mode;  // "exclusive", "incoming", "shared", "shared-writable"
  std::optional<OwnershipReport> lease;
};

struct HoldReport {
  std::string reason;  // "pool full", "path failure"
  std::string detail;  // what the storage said last
  Duration duration{};
  std::uint64_t waiting = 0;  // operations that retry now
  std::uint64_t retries = 0;  // since the volume was opened
};

// Of a thick volume: the space that is its own by now, and what it will be.
struct PreallocationReport {
  std::string state;  // "running", "waiting", "complete"
  std::uint64_t done_bytes = 0;
  std::uint64_t total_bytes = 0;
  std::string reason;  // of waiting
};

struct VolumeCounters {
  std::uint64_t reads = 0;
  std::uint64_t writes = 0;
  std::uint64_t discards = 0;
  std::uint64_t flushes = 0;
  std::uint64_t read_bytes = 0;
  std::uint64_t written_bytes = 0;
  std::uint64_t errors = 0;
  std::uint64_t corrupt_blocks = 0;
  std::uint64_t live_bytes = 0;
  std::uint64_t segment_bytes = 0;
  std::uint64_t segment_count = 0;
  std::uint64_t unwritten_bytes = 0;
  std::uint64_t spare_count = 0;        // thick: segments preallocated and free
  std::uint64_t waits_for_cleaner = 0;  // thick: the log had used up what it may take
  std::uint64_t epoch = 0;
  std::uint64_t log_sequence = 0;
  std::uint64_t records_written = 0;
  std::uint64_t log_bytes_written = 0;
  std::uint64_t checkpoints = 0;
  std::uint64_t replayed_records = 0;
  std::uint64_t page_bytes_written = 0;
  std::uint64_t cleaned_segments = 0;
  std::uint64_t moved_bytes = 0;            // by the cleaner
  std::uint64_t cleaner_bytes_written = 0;  // the same with headers, and what proved dead meanwhile
  std::uint64_t cleaner_bytes_read = 0;
  std::uint64_t sealed_bytes = 0;  // segments with anything live that are not written any more
  std::uint64_t sealed_live_bytes = 0;
  std::uint64_t unfreed_bytes = 0;   // segments that the next checkpoint frees
  std::uint64_t delayed_writes = 0;  // that waited for the cleaner
  Duration open_time{};
  std::uint64_t cached_page_bytes = 0;
  std::uint64_t retained_bytes = 0;
  std::uint64_t requests_in_flight = 0;
};

// What a volume has to do with others. A snapshot of its parent that cannot be read has no name.
struct RelationsReport {
  struct Parent {
    std::string volume;    // empty: it is gone
    std::string snapshot;  // empty: it is gone
    bool is_in_trash = false;
  };
  std::optional<Parent> parent;  // of a clone
  std::uint64_t snapshot_count = 0;
  std::string newest_snapshot;
  std::vector<std::string> clones;  // names of volumes of the pool
  std::vector<std::string> clones_in_trash;
};

struct VolumeReport {
  VolumeName name;
  ServiceState state = ServiceState::detached;
  std::string reason;  // of failed; when open: why the figures are old
  std::optional<VolumeId> id;
  std::optional<std::uint64_t> size_bytes;
  std::optional<bool> thick;
  std::optional<WallTime> created;
  // Allocated is live, garbage, or not written yet; which of them is known while it is open.
  std::optional<std::uint64_t> allocated_bytes;
  std::optional<std::uint64_t> garbage_bytes;
  // The next two only where a single volume is shown. Detached: as stored.
  std::optional<std::uint64_t> stored_live_bytes;
  std::optional<RelationsReport> relations;
  TrendReport trend;  // of what is allocated
  std::optional<PreallocationReport> preallocation;
  std::optional<AttachmentReport> attachment;
  std::optional<HoldReport> hold;
  std::optional<VolumeCounters> counters;
  std::string hold_pause_after;  // "25s", "never"
  std::string hold_fail_after;
};

struct TrashReport {
  VolumeName name;  // when it was removed
  VolumeId id;
  std::optional<std::uint64_t> size_bytes;
  std::optional<std::uint64_t> allocated_bytes;
  bool thick = false;
  std::uint64_t snapshot_count = 0;
  WallTime since;
  WallTime until;  // not removed for good by itself before
  bool is_expired = false;
};

struct SnapshotReport {
  SnapshotName name;
  std::uint64_t number = 0;  // the order in which they were taken
  WallTime created;
  std::uint64_t size_bytes = 0;
  bool is_damaged = false;
  bool attached = false;
  std::vector<std::string> clones;  // names of volumes of the pool that were made from it
  std::vector<std::string> clones_in_trash;
};

struct DiffReport {
  struct Extent {
    std::uint64_t offset_bytes = 0;
    std::uint64_t length_bytes = 0;
    bool is_zero = false;
  };
  std::vector<Extent> extents;
  std::uint64_t size_bytes = 0;
  std::optional<std::uint64_t> next_bytes;  // where the next part begins
};

// Of a clone that is, or was, being made independent of its parent.
struct FlattenReport {
  VolumeName name;
  std::string state;  // "running", "done", "cancelled", "failed"
  // Segments that this flattening took over, and those with what is left; snapshots and writes
  // change what is left.
  std::uint64_t segments_done = 0;
  std::uint64_t segments_total = 0;
  std::uint64_t bytes_done = 0;
  std::uint64_t bytes_total = 0;
  std::string reason;  // of failed
};

// `warning`: done, but the operator should know something; empty: nothing.
struct PoolChange {
  PoolReport pool;
  std::string warning;
};

struct AttachAnswer {
  VolumeName name;
  AttachmentReport attachment;
  std::string warning;
};

struct TransferAnswer {
  VolumeName transfer;     // what it is called, which is also the export's name
  std::string snapshot;    // that is exported
  bool is_shared = false;  // it was attached already: there is nothing to end
  std::uint64_t size_bytes = 0;
  std::string socket_path;
  std::string uri;
};

struct DoneAnswer {
  std::string warning;
};

// The volume was closed here, and its lease is free or the other host's.
struct HandOverAnswer {
  VolumeName volume;
  Duration duration{};  // from the last request that was admitted to the release of the lease
};

struct RemoveAnswer {
  VolumeName name;
  VolumeId id;
  std::optional<TrashReport> trashed;  // nothing: it is gone for good
  std::string warning;
};

struct EmptyTrashAnswer {
  std::vector<TrashReport> removed;
  std::string warning;  // what could not be removed
};

struct StatusReport {
  std::string runtime_directory;
  std::string state_directory;
  std::string state_error;  // empty: the state is saved
  WallTime started;
  Duration uptime{};
  std::vector<PoolReport> pools;
  std::vector<VolumeReport> volumes;  // attached ones
};

}  // namespace holdfast
