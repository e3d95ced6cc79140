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
};

// Reports. Absent: not known now (not open), not zero.
enum class ServiceState { detached, opening, open, failed, detaching };

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
  };
  std::optional<Open> open;
  std::optional<Space> space;
  std::optional<std::uint64_t> volume_count;
  std::optional<std::uint64_t> allocated_bytes;    // by all volumes
  std::optional<std::uint64_t> provisioned_bytes;  // sum of the volumes' sizes
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

struct AttachmentReport {
  std::string protocol;
  bool read_only = false;
  std::string socket_path;
  std::string uri;  // of NBD
  std::optional<ClientReport> clients;
  WallTime since;
  std::size_t loop = 0;  // that it is served on
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
  Duration open_time{};
  std::uint64_t cached_page_bytes = 0;
  std::uint64_t retained_bytes = 0;
  std::uint64_t requests_in_flight = 0;
};

struct VolumeReport {
  VolumeName name;
  ServiceState state = ServiceState::detached;
  std::string reason;  // of failed; when open: why the figures are old
  std::optional<VolumeId> id;
  std::optional<std::uint64_t> size_bytes;
  std::optional<bool> thick;
  std::optional<WallTime> created;
  std::optional<std::uint64_t> allocated_bytes;
  std::optional<PreallocationReport> preallocation;
  std::optional<AttachmentReport> attachment;
  std::optional<HoldReport> hold;
  std::optional<VolumeCounters> counters;
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

struct DoneAnswer {
  std::string warning;
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
