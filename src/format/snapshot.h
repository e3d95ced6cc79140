// SPDX-License-Identifier: Apache-2.0
//
// A snapshot: a name, and the root that it keeps. One block (4096 bytes) followed by that root,
// byte for byte as it was published (format/root.h). docs/format.md, "Snapshot". Pure.
//
//   0 u32 magic "HFSN"   4 u32 CRC-32C of bytes 8..4095   8 u16 version   10 u16 zero   12 u32 zero
//   16 volume id (16)   32 u64 number   40 u64 created, seconds since 1970   48 name (64,
//   zero-padded)   112 u64 epoch of the root   120 u64 its number   128.. zero
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "base/time.h"
#include "format/root.h"

namespace holdfast::format {

inline constexpr std::uint32_t kSnapshotMagic = 0x4E534648;  // "HFSN"
inline constexpr std::uint16_t kSnapshotVersion = 1;
inline constexpr std::size_t kSnapshotNameFieldBytes = 64;

struct Snapshot {
  SnapshotNumber number;  // of its volume; the order in which they were taken
  std::string name;
  WallTime created;
  Root root;
};

std::vector<std::byte> encode_snapshot(const Snapshot& snapshot);
// corrupt: the bytes fail their check or are not that snapshot; unsupported: a newer version or an
// unknown feature of the root, named.
Result<Snapshot> decode_snapshot(std::span<const std::byte> bytes, const VolumeId& volume,
                                 SnapshotNumber number);

}  // namespace holdfast::format
