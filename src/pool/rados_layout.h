// SPDX-License-Identifier: Apache-2.0
//
// The names of a pool on RADOS: of objects, and of what they hold (see rados_pool.h for the whole
// picture). Pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "io/rados_client.h"
#include "pool/pool.h"

namespace holdfast::rados_layout {

inline constexpr std::string_view kPoolObject = "holdfast.pool";
inline constexpr std::string_view kHostsObject = "holdfast.hosts";
// Keys of the pool's object.
inline constexpr std::string_view kNamePrefix = "name-";
inline constexpr std::string_view kVolumePrefix = "volume-";
inline constexpr std::string_view kTrashPrefix = "trash-";
inline constexpr std::string_view kCreatingPrefix = "creating-";
inline constexpr std::string_view kRemovingPrefix = "removing-";
inline constexpr std::string_view kClientPrefix = "client-";
// Attributes.
inline constexpr std::string_view kLayoutAttribute = "layout";
inline constexpr std::string_view kStateAttribute = "state";
inline constexpr std::string_view kStateLive = "live";
inline constexpr std::string_view kStateRemoving = "removing";
inline constexpr std::string_view kEpochAttribute = "epoch";
inline constexpr std::string_view kOwnerAttribute = "owner";

// "rados:POOL[/NAMESPACE][?conf=FILE&id=NAME&keyring=FILE]". invalid_argument: what is wrong.
Result<RadosAddress> parse_location(std::string_view location);
std::string location_of(const RadosAddress& address);

// How segments are spread over objects.
struct Striping {
  std::uint64_t stripe_bytes = 0;
  std::uint64_t objects_per_segment = 0;
};
Striping striping_of(std::uint64_t segment_bytes);
// "stripe_bytes=524288 objects_per_segment=4": stored, so that a program that does it in another
// way leaves the pool alone.
std::string layout_text(const Striping& striping);

std::string volume_object(const VolumeId& volume);
std::string lease_object(const VolumeId& volume);

// What the volume's object says of a segment.
struct SegmentEntry {
  std::uint64_t length_bytes = 0;
  std::uint64_t copy = 0;  // not 0: it was adopted, and the names of its objects say so
  friend bool operator==(const SegmentEntry&, const SegmentEntry&) = default;
};
std::vector<std::byte> encode_segment_entry(const SegmentEntry& entry);
Result<SegmentEntry> decode_segment_entry(std::span<const std::byte> bytes);
std::vector<std::string> segment_objects(const SegmentId& segment, const SegmentEntry& entry,
                                         const Striping& striping);
// The key of a copy that is being made.
std::string new_copy_key(const SegmentId& segment, std::uint64_t copy);
inline constexpr std::string_view kNewCopyPrefix = ".new-";
std::optional<SegmentId> parse_new_copy_key(const VolumeId& volume, std::string_view key);

std::string epoch_text(Epoch epoch);  // 16 digits: as text in the order of epochs

// Records without the zeros at their end.
std::vector<std::byte> encode_record(const VolumeRecord& record);
Result<VolumeRecord> decode_record(const VolumeId& volume, std::span<const std::byte> bytes);
std::vector<std::byte> encode_trashed(const TrashedVolume& trashed);
Result<TrashedVolume> decode_trashed(const VolumeId& volume, std::span<const std::byte> bytes);

std::vector<std::byte> bytes_of(std::string_view text);
RadosValue attribute(std::string_view name, std::string_view value);

}  // namespace holdfast::rados_layout
