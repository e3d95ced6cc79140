// SPDX-License-Identifier: Apache-2.0
//
// A page of a copy-on-write paged array (the block map or the segment table): a 64-byte header and
// 4032 bytes of entries. docs/format.md, "Page".
//
//   0 u32 magic "HFPG"   4 u32 CRC-32C of bytes 8..4095   8 u16 version   10 u8 array   11 u8 level
//   12 u32 zero   16 volume id (16)   32 u64 epoch   40 u64 segment number
//   48 u32 block index in the segment   52 u32 zero   56 u64 index of the page in its level
//   64 entries:
//     map, level 0: 336 x { u64 location, u32 CRC-32C of the block }   (0 for hole and zero)
//     segment table, level 0: 126 x SegmentEntry (32 bytes)
//     either, level > 0: 504 x u64 location of the child page, 0: an absent child (all zero)
//
// The page names its own place, so that a stale or misdirected page is never taken for another.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "base/bytes.h"
#include "base/ids.h"
#include "base/units.h"
#include "format/location.h"

namespace holdfast::format {

inline constexpr std::uint32_t kPageMagic = 0x47504648;  // "HFPG"
inline constexpr std::uint16_t kPageVersion = 1;
inline constexpr std::size_t kPageHeaderBytes = 64;
inline constexpr std::size_t kPageEntryBytes = kBlockBytes - kPageHeaderBytes;
inline constexpr std::uint32_t kMapEntryBytes = 12;
inline constexpr std::uint32_t kMapEntriesPerPage = kPageEntryBytes / kMapEntryBytes;
inline constexpr std::uint32_t kSegmentEntryBytes = 32;
inline constexpr std::uint32_t kSegmentEntriesPerPage = kPageEntryBytes / kSegmentEntryBytes;
inline constexpr std::uint32_t kChildrenPerPage = kPageEntryBytes / 8;
// 336 * 504^3 blocks: 160 TiB; recorded in the root.
inline constexpr std::uint32_t kPageLevels = 4;
static_assert(kMapEntriesPerPage == 336 && kSegmentEntriesPerPage == 126 &&
              kChildrenPerPage == 504);

enum class ArrayKind : std::uint8_t { map = 1, segment_table = 2 };

struct PageIdentity {
  VolumeId volume;
  Epoch epoch;  // of the segment that holds it
  SegmentNumber segment;
  std::uint32_t block_index = 0;
  ArrayKind array = ArrayKind::map;
  std::uint8_t level = 0;
  std::uint64_t index = 0;
};

// Writes the header and the checksum around the entries already in `page` (one block).
void seal_page(std::span<std::byte> page, const PageIdentity& identity);
// True when the page is intact and exactly the one asked for.
bool check_page(std::span<const std::byte> page, const PageIdentity& identity);
// Which page an intact one says it is, wherever it stands; the tree knows whether it is still in
// use.
struct PageName {
  ArrayKind array = ArrayKind::map;
  std::uint8_t level = 0;
  std::uint64_t index = 0;
};
std::optional<PageName> page_name(std::span<const std::byte> page);
// Whether every entry is zero.
bool page_is_empty(std::span<const std::byte> page);

struct MapEntry {
  BlockLocation location;
  std::uint32_t checksum = 0;
};
inline std::byte* map_entry_at(std::byte* page, std::uint32_t slot) {
  return page + kPageHeaderBytes + std::size_t{slot} * kMapEntryBytes;
}
inline MapEntry load_map_entry(const std::byte* at) {
  return {{load_little<std::uint64_t>(at)}, load_little<std::uint32_t>(at + 8)};
}
inline void store_map_entry(std::byte* at, MapEntry entry) {
  store_little(at, entry.location.raw);
  store_little(at + 8, entry.checksum);
}

inline std::byte* child_at(std::byte* page, std::uint32_t slot) {
  return page + kPageHeaderBytes + std::size_t{slot} * 8;
}

// What the volume knows of one segment. 32 bytes: u64 epoch, u32 zero, u32 live blocks, u32 used
// blocks (appended so far; final once sealed), u8 stream, u8 state, 2 zero, u64 newest snapshot.
enum class SegmentStream : std::uint8_t { main = 1, pages = 2, cold = 3 };
enum class SegmentState : std::uint8_t { absent = 0, open = 1, sealed = 2 };

struct SegmentEntry {
  Epoch epoch;
  std::uint32_t live_blocks = 0;
  std::uint32_t used_blocks = 0;
  SegmentStream stream = SegmentStream::main;
  SegmentState state = SegmentState::absent;
  SnapshotNumber died_after;  // the newest one when the last live block went: none later needs it
};
inline std::byte* segment_entry_at(std::byte* page, std::uint32_t slot) {
  return page + kPageHeaderBytes + std::size_t{slot} * kSegmentEntryBytes;
}
SegmentEntry load_segment_entry(const std::byte* at);
void store_segment_entry(std::byte* at, const SegmentEntry& entry);
// For pages that came from storage: known enumerators, zero reserved bytes, live <= segment.
bool segment_entries_are_valid(std::span<const std::byte> page);
bool map_entries_are_valid(std::span<const std::byte> page);
bool children_are_valid(std::span<const std::byte> page);

}  // namespace holdfast::format
