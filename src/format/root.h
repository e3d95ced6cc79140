// SPDX-License-Identifier: Apache-2.0
//
// A root: one checksummed description of a volume at a position of its log. One block (4096 bytes),
// and for a clone further ones with its lineage; stored as an object of its own named by (volume,
// epoch, number). docs/format.md, "Root".
//
//   0 u32 magic "HFRT"   4 u32 CRC-32C of bytes 8..4095   8 u16 version   10 u8 page levels
//   11 u8 zero   12 u32 zero   16 volume id (16)   32 u64 epoch   40 u64 number
//   48 u64 size in bytes   56 u64 segment bytes   64 u64 location of the map's top page
//   72 u64 of the segment table's   80 u64 next sequence   88 u64 segment of the log position (0:
//   the next segment with that sequence)   96 u32 block index of it   100 u32 zero
//   104 u64 next segment number   112 u64 incompatible feature bits   120 parent volume id (16)
//   136 u64 page segment being filled (0: none)   144 u32 its used blocks
//   148 u32 count of ancestors   152 u64 newest snapshot ever (0: none)   160 u64 parent snapshot
//   168.. zero
// Each further block: magic "HFRL", CRC-32C, then up to 170 ancestors of 24 bytes { u64 end of its
// segment numbers, volume id }, ascending; the rest zero.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "format/location.h"

namespace holdfast::format {

inline constexpr std::uint32_t kRootMagic = 0x54524648;     // "HFRT"
inline constexpr std::uint32_t kLineageMagic = 0x4C524648;  // "HFRL"
inline constexpr std::uint16_t kRootVersion = 1;

// Incompatible feature bits of a root.
inline constexpr std::uint64_t kFeatureColdSegments = 1;  // segments with records of kind copy
inline constexpr std::uint64_t kFeatureSnapshots = 2;     // segments may be kept for other roots
inline constexpr std::uint64_t kFeatureLineage = 4;  // segments of other volumes are referred to
inline constexpr std::uint64_t kFeatureAdopted = 8;  // which are in a later volume's directory

inline constexpr std::size_t kAncestorBytes = 24;
inline constexpr std::size_t kAncestorsPerBlock = 170;

// Where replay starts: the record `next_sequence` is at (segment, block_index), or begins a later
// segment.
struct LogPosition {
  Sequence next_sequence{1};
  SegmentNumber segment;  // 0: no segment yet
  std::uint32_t block_index = 0;
  bool operator==(const LogPosition&) const = default;
};

// Whose the segments are whose numbers a clone took over: those below `end_segment`, and not below
// the end of the ancestor before, were written by `volume`. They are in its directory, or in that
// of a later volume of the lineage, which was flattened.
struct Ancestor {
  SegmentNumber end_segment;
  VolumeId volume;
  bool operator==(const Ancestor&) const = default;
};

struct Root {
  RootId id;
  std::uint64_t size_bytes = 0;
  std::uint64_t segment_bytes = 0;
  BlockLocation map_top;
  BlockLocation segment_table_top;
  LogPosition position;
  SegmentNumber next_segment{1};
  std::uint64_t incompatible_features = 0;
  VolumeId parent;  // nil: none, or flattened
  SegmentNumber page_segment;  // what lies behind its used blocks is nobody's
  std::uint32_t page_segment_used_blocks = 0;
  SnapshotNumber newest_snapshot;  // ever taken; numbers are not used again
  SnapshotNumber parent_snapshot;  // of `parent`, that a clone was made from
  std::vector<Ancestor> lineage;   // ends ascending; empty: every segment is the volume's own
  bool operator==(const Root&) const = default;
};

// Whose segment that is.
VolumeId owner_of(const Root& root, SegmentNumber segment);

std::vector<std::byte> encode_root(const Root& root);
// corrupt: the bytes fail their check or are not the root `id`; unsupported: a newer version or an
// unknown feature, named.
Result<Root> decode_root(std::span<const std::byte> bytes, const RootId& id);

}  // namespace holdfast::format
