// SPDX-License-Identifier: Apache-2.0
//
// What a pool says of itself and of each volume before anything is opened. One block (4096 bytes)
// each; docs/format.md, "Pool record" and "Volume record". Pure.
//
// Pool record:
//   0 u32 magic "HFPL"   4 u32 CRC-32C of bytes 8..4095   8 u32 format version   12 u32 flags (bit
//   0 shared)   16 pool id (16)   32 u64 segment bytes   40 u64 created, seconds since 1970   48
//   u64 compatible   56 u64 read-only compatible   64 u64 incompatible feature bits   72 u16 I/O
//   timeout of leases   74 u16 watchdog allowance, both seconds, of shared pools   76.. zero
// Volume record:
//   0 u32 magic "HFVL"   4 u32 CRC-32C of bytes 8..4095   8 u32 format version   12 u32 flags (bit
//   0 thick)   16 volume id (16)   32 u64 created   40 name (64, zero-padded)   104.. zero
//
// Feature bits: a program that does not know a bit may ignore it (compatible), must not write
// (read-only compatible), must not even read (incompatible).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/ids.h"
#include "base/limits.h"
#include "base/result.h"
#include "base/time.h"

namespace holdfast::format {

inline constexpr std::uint32_t kPoolRecordMagic = 0x4C504648;    // "HFPL"
inline constexpr std::uint32_t kVolumeRecordMagic = 0x4C564648;  // "HFVL"
inline constexpr std::uint32_t kPoolFormatVersion = 1;
inline constexpr std::uint32_t kVolumeRecordVersion = 1;
inline constexpr std::size_t kVolumeNameFieldBytes = 64;

// Every shared pool has it, and no other: to programs that know no leases it must stay closed.
inline constexpr std::uint64_t kFeatureLeases = 1;

// How long hosts of a shared pool wait for each other; all of them must go by the same.
struct LeaseTimes {
  std::uint16_t io_timeout_seconds = limits::kLeaseIoTimeoutSecondsDefault;  // N
  std::uint16_t watchdog_seconds = 0;  // W, beyond a host's own deadline until others may take over

  friend bool operator==(const LeaseTimes&, const LeaseTimes&) = default;
};

struct PoolRecord {
  PoolId id;
  bool shared = false;
  LeaseTimes lease_times;  // of a shared pool
  std::uint64_t segment_bytes = 0;
  WallTime created;
  std::uint64_t compatible_features = 0;
  std::uint64_t read_only_compatible_features = 0;
  std::uint64_t incompatible_features = 0;
};

struct StoredVolumeRecord {
  VolumeId id;
  std::string name;
  bool thick = false;
  WallTime created;
};

// The bit kFeatureLeases is set by `shared`, whether the record has it or not.
std::vector<std::byte> encode_pool_record(const PoolRecord& record);
// corrupt: the bytes fail their check. unsupported: a newer format version or a feature that this
// program does not know, by name, and what to do.
Result<PoolRecord> decode_pool_record(std::span<const std::byte> bytes);

std::vector<std::byte> encode_volume_record(const StoredVolumeRecord& record);
Result<StoredVolumeRecord> decode_volume_record(std::span<const std::byte> bytes);

// "leases" or "bit 17": names are given when a feature is planned, so that an older program can say
// what it lacks.
std::string incompatible_feature_name(unsigned bit);

}  // namespace holdfast::format
