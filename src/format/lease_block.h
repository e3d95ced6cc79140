// SPDX-License-Identifier: Apache-2.0
//
// The leases of shared pools: sanlock's on-disk records (3.8), so that `sanlock direct dump` and a
// running sanlock read what we write, and the other way round. docs/format.md, "Lease areas". Pure.
//
// An area of a lockspace (of the hosts that use a pool) has one sector per host: its host ("delta")
// lease. An area of a resource (a volume's ownership) has a leader in sector 0, a request in sector
// 1 and the block of host h in sector h + 1: a Disk Paxos instance. Sectors are written one at a
// time and are taken to be atomic.
//
// Leader (both kinds), 200 bytes:
//   0 u32 magic   4 u32 version   8 u32 flags (bit 0 short hold, 4-7 geometry)   12 u32 sector size
//   16 u64 hosts   24 u64 hosts max   32 u64 owner id   40 u64 owner generation   48 u64 lver
//   56 space name (48)   104 resource name (48)   152 u64 timestamp   160 u64 unused   168 u32
//   checksum of 0..167   172 u16 unused   174 u16 I/O timeout   176 u64 write id   184 u64 write
//   generation   192 u64 write timestamp; host leases only: 256 bitmap of hosts (256 bytes)
// Block of a host: 0 u64 mbal   8 u64 bal   16 u64 inp   24 u64 inp2   32 u64 inp3   40 u64 lver
//   48 u32 checksum of 0..47   52 u32 flags (bit 0 released)   128 u32 mode (bit 0 shared)
//   136 u64 generation of the shared holder
// Request: 0 u32 magic   4 u32 version   8 u64 lver   16 u32 force mode
#pragma once

#include <bitset>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/time.h"

namespace holdfast::format {

inline constexpr std::size_t kLeaseNameBytes = 48;
inline constexpr std::uint32_t kLeaseHostsMax = 2000;  // of any geometry
inline constexpr std::uint16_t kLeaseIoTimeoutDefault = 10;

enum class LeaseKind { host, volume };  // sanlock: delta, Paxos

// One of the five that sanlock knows: 512 and 1 MiB; 4096 and 1, 2, 4 or 8 MiB.
struct LeaseGeometry {
  std::uint32_t sector_bytes = 512;
  std::uint64_t align_bytes = std::uint64_t{1} << 20;  // of one area

  // From what a leader says. No geometry flag: what its writer defaulted to. corrupt: no such row.
  static Result<LeaseGeometry> from_flags(std::uint32_t flags, std::uint32_t sector_bytes);

  bool is_valid() const;
  std::uint32_t hosts_max() const;
  std::uint32_t leader_flag() const;
  friend bool operator==(const LeaseGeometry&, const LeaseGeometry&) = default;
};

struct LeaseLeader {
  LeaseKind kind = LeaseKind::host;
  bool is_cleared = false;  // of a volume: the lease was removed, only the names may mean something
  LeaseGeometry geometry;
  bool short_hold = false;             // of a volume: it will soon be free, ask again
  std::uint64_t hosts = 0;             // of a volume: hosts with a higher id may not take part
  std::uint64_t hosts_max = 0;         // 1 for a host; ballot numbers step by it
  std::uint64_t owner_id = 0;          // host id; 0: never owned
  std::uint64_t owner_generation = 0;  // of the owner's host lease
  std::uint64_t lver = 0;              // counts ownerships of a volume: its epoch
  std::string space_name;              // up to 48 bytes
  std::string resource_name;           // up to 48 bytes; of a host: its unique name
  std::uint64_t timestamp = 0;         // seconds of the owner's own clock; 0: free
  // Behind the checksum, hence not covered by it.
  std::uint16_t io_timeout = 0;  // of a host: seconds, N
  std::uint64_t write_id = 0;    // of a volume: the host that wrote this
  std::uint64_t write_generation = 0;
  std::uint64_t write_timestamp = 0;

  friend bool operator==(const LeaseLeader&, const LeaseLeader&) = default;
};

// Hosts that the owner of a host lease asks to look at their leases: bit (host id - 1).
using LeaseHostBits = std::bitset<2048>;

// The sector of one host in the area of a volume.
struct LeaseBlock {
  std::uint64_t mbal = 0;  // highest ballot entered
  std::uint64_t bal = 0;   // highest ballot in which a value was accepted
  std::uint64_t inp = 0;   // the value: host id,
  std::uint64_t inp2 = 0;  // its generation
  std::uint64_t inp3 = 0;  // and its timestamp
  std::uint64_t lver = 0;  // the ownership that the ballot decides
  bool released = false;
  bool shared_mode = false;
  std::uint64_t shared_generation = 0;

  friend bool operator==(const LeaseBlock&, const LeaseBlock&) = default;
};

struct LeaseRequest {
  static constexpr std::uint32_t kForceKill = 1;
  static constexpr std::uint32_t kForceGraceful = 2;

  std::uint64_t lver = 0;  // wanted: one above that of the holder who is asked
  std::uint32_t force_mode = 0;

  friend bool operator==(const LeaseRequest&, const LeaseRequest&) = default;
};

// Reflected CRC-32C with the initial value 0xFFFFFFFE and without inversion at the end:
// "123456789" gives 0xE8C7BB34.
std::uint32_t lease_checksum(std::span<const std::byte> bytes);

// All encoders take a whole sector (at least 512 bytes) and write all of it: what they do not name
// becomes zero. Names must fit, the geometry must be valid and have this sector size.
void encode_leader(const LeaseLeader& leader, std::span<std::byte> sector);
void encode_lease_block(const LeaseBlock& block, std::span<std::byte> sector);
void encode_lease_request(const LeaseRequest& request, std::span<std::byte> sector);
// Of a host lease: behind its leader, which must be encoded first.
void encode_lease_host_bits(const LeaseHostBits& bits, std::span<std::byte> sector);

// corrupt: not a leader of this kind, or damaged, or of another sector size, and which of those.
// unsupported: another version of the format. Fields that readers of sanlock ignore are not judged.
Result<LeaseLeader> decode_leader(std::span<const std::byte> sector, LeaseKind expected);
// corrupt: the checksum does not match, or no host has that id. All zeros are a valid block.
Result<LeaseBlock> decode_lease_block(std::span<const std::byte> sector);
// All zeros are a request for nothing.
Result<LeaseRequest> decode_lease_request(std::span<const std::byte> sector);
LeaseHostBits decode_lease_host_bits(std::span<const std::byte> sector);

// Where in its area; host ids count from 1 to geometry.hosts_max().
std::uint64_t host_lease_offset(const LeaseGeometry& geometry, std::uint64_t host_id);
std::uint64_t request_offset(const LeaseGeometry& geometry);
std::uint64_t block_offset(const LeaseGeometry& geometry, std::uint64_t host_id);

// Of a host that never was; the caller says who has it.
LeaseLeader make_host_lease(const LeaseGeometry& geometry, std::string_view space_name,
                            std::uint16_t io_timeout);
// As leases have it: whole seconds, never 0, which means free.
std::uint64_t lease_timestamp(BootTime now);

// Whole areas, free and never owned, byte for byte as `sanlock direct init` makes them. sanlock
// writes an area of hosts with the first four bytes zero, then its first sector: without that one
// the area is nobody's. `hosts` 0: as many as fit.
std::vector<std::byte> make_host_lease_area(const LeaseGeometry& geometry,
                                            std::string_view space_name,
                                            std::uint16_t io_timeout = kLeaseIoTimeoutDefault);
std::vector<std::byte> make_volume_lease_area(const LeaseGeometry& geometry,
                                              std::string_view space_name,
                                              std::string_view resource_name,
                                              std::uint64_t hosts = 0);

}  // namespace holdfast::format
