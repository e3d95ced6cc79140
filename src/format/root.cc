// SPDX-License-Identifier: Apache-2.0
#include "format/root.h"

#include "base/bytes.h"
#include "base/limits.h"
#include "base/units.h"
#include "format/page.h"
#include "format/sealed_block.h"

namespace holdfast::format {
namespace {

constexpr std::uint64_t kKnownRootFeatures =
    kFeatureColdSegments | kFeatureSnapshots | kFeatureLineage | kFeatureAdopted;
constexpr std::uint64_t kSegmentNumberEnd = std::uint64_t{1}
                                            << (64 - BlockLocation::kBlockIndexBits);

bool lineage_agrees(const Root& root) {
  const auto has = [&](std::uint64_t feature) {
    return (root.incompatible_features & feature) != 0;
  };
  SegmentNumber end{1};
  for (const Ancestor& ancestor : root.lineage) {
    if (ancestor.end_segment < end || ancestor.end_segment > root.next_segment ||
        ancestor.volume.is_nil()) {
      return false;
    }
    end = ancestor.end_segment;
  }
  return (root.lineage.empty() || has(kFeatureLineage)) &&
         (root.newest_snapshot.value == 0 || has(kFeatureSnapshots));
}

// What no field contradicts on its own.
bool fields_agree(const Root& root) {
  const auto is_place = [&](const BlockLocation& location) {
    return location.is_hole() || (location.is_stored() && location.segment() < root.next_segment &&
                                  location.block_index() < root.segment_bytes / kBlockBytes);
  };
  // A position may be at the end of its segment: the record then begins a later one.
  const auto is_end = [&](SegmentNumber segment, std::uint32_t blocks) {
    return segment.value == 0
               ? blocks == 0
               : segment < root.next_segment && blocks <= root.segment_bytes / kBlockBytes;
  };
  return root.segment_bytes >= limits::kSegmentBytesMin &&
         root.segment_bytes <= limits::kSegmentBytesMax && root.segment_bytes % kBlockBytes == 0 &&
         root.size_bytes >= limits::kVolumeBytesMin && root.size_bytes <= limits::kVolumeBytesMax &&
         root.size_bytes % kSectorBytes == 0 && root.next_segment.value != 0 &&
         root.next_segment.value < kSegmentNumberEnd && root.position.next_sequence.value != 0 &&
         is_place(root.map_top) && is_place(root.segment_table_top) &&
         is_end(root.position.segment, root.position.block_index) &&
         is_end(root.page_segment, root.page_segment_used_blocks) && lineage_agrees(root);
}

Error corrupt_root(const RootId& id, std::string_view why) {
  return Error(ErrorCode::corrupt, "root " + std::to_string(id.epoch.value) + "." +
                                       std::to_string(id.number) + " of volume " +
                                       id.volume.to_string() + ": " + std::string(why));
}

}  // namespace

VolumeId owner_of(const Root& root, SegmentNumber segment) {
  for (const Ancestor& ancestor : root.lineage) {
    if (segment < ancestor.end_segment) return ancestor.volume;
  }
  return root.id.volume;
}

std::vector<std::byte> encode_root(const Root& root) {
  const std::size_t blocks = 1 + divide_up(root.lineage.size(), kAncestorsPerBlock);
  std::vector<std::byte> bytes(blocks * kBlockBytes);
  const std::span<std::byte> first(bytes.data(), kBlockBytes);
  ByteWriter out(first);
  out.put_zeros(kSealBytes);
  out.put<std::uint16_t>(kRootVersion);
  out.put<std::uint8_t>(kPageLevels);
  out.put_zeros(5);
  out.put_bytes(root.id.volume.bytes);
  out.put<std::uint64_t>(root.id.epoch.value);
  out.put<std::uint64_t>(root.id.number);
  out.put<std::uint64_t>(root.size_bytes);
  out.put<std::uint64_t>(root.segment_bytes);
  out.put<std::uint64_t>(root.map_top.raw);
  out.put<std::uint64_t>(root.segment_table_top.raw);
  out.put<std::uint64_t>(root.position.next_sequence.value);
  out.put<std::uint64_t>(root.position.segment.value);
  out.put<std::uint32_t>(root.position.block_index);
  out.put_zeros(4);
  out.put<std::uint64_t>(root.next_segment.value);
  out.put<std::uint64_t>(root.incompatible_features);
  out.put_bytes(root.parent.bytes);
  out.put<std::uint64_t>(root.page_segment.value);
  out.put<std::uint32_t>(root.page_segment_used_blocks);
  out.put<std::uint32_t>(static_cast<std::uint32_t>(root.lineage.size()));
  out.put<std::uint64_t>(root.newest_snapshot.value);
  out.put<std::uint64_t>(root.parent_snapshot.value);
  out.fill_rest_with_zeros();
  seal_block(first, kRootMagic);
  for (std::size_t i = 0; i < root.lineage.size(); ++i) {
    std::byte* const block = bytes.data() + (1 + i / kAncestorsPerBlock) * kBlockBytes;
    const std::size_t at = kSealBytes + i % kAncestorsPerBlock * kAncestorBytes;
    ByteWriter entry({block + at, kAncestorBytes});
    entry.put<std::uint64_t>(root.lineage[i].end_segment.value);
    entry.put_bytes(root.lineage[i].volume.bytes);
  }
  for (std::size_t block = 1; block < blocks; ++block) {
    seal_block({bytes.data() + block * kBlockBytes, kBlockBytes}, kLineageMagic);
  }
  return bytes;
}

namespace {

// Of `count` ancestors; false: the blocks are damaged.
bool decode_lineage(std::span<const std::byte> blocks, std::size_t count,
                    std::vector<Ancestor>& lineage) {
  for (; !blocks.empty(); blocks = blocks.subspan(kBlockBytes)) {
    const std::span<const std::byte> block = blocks.first(kBlockBytes);
    if (!check_sealed_block(block, kLineageMagic)) return false;
    ByteReader in(block.subspan(kSealBytes));
    for (std::size_t i = 0; i < kAncestorsPerBlock && lineage.size() < count; ++i) {
      Ancestor ancestor;
      ancestor.end_segment = {in.get<std::uint64_t>()};
      in.get_bytes(ancestor.volume.bytes);
      lineage.push_back(ancestor);
    }
    in.expect_zeros(in.remaining());
    if (!in.ok()) return false;
  }
  return true;
}

}  // namespace

Result<Root> decode_root(std::span<const std::byte> bytes, const RootId& id) {
  if (bytes.size() < kBlockBytes || bytes.size() % kBlockBytes != 0 ||
      !check_sealed_block(bytes.first(kBlockBytes), kRootMagic)) {
    return corrupt_root(id, "its checksum does not match");
  }
  ByteReader in(bytes.first(kBlockBytes).subspan(kSealBytes));
  const auto version = in.get<std::uint16_t>();
  if (version != kRootVersion) {
    return Error(ErrorCode::unsupported, "volume " + id.volume.to_string() +
                                             " has root format version " + std::to_string(version) +
                                             "; this program knows version " +
                                             std::to_string(kRootVersion) +
                                             ": use the program that wrote it, or a newer one");
  }
  const auto levels = in.get<std::uint8_t>();
  in.expect_zeros(5);
  Root root;
  in.get_bytes(root.id.volume.bytes);
  root.id.epoch = {in.get<std::uint64_t>()};
  root.id.number = in.get<std::uint64_t>();
  root.size_bytes = in.get<std::uint64_t>();
  root.segment_bytes = in.get<std::uint64_t>();
  root.map_top = {in.get<std::uint64_t>()};
  root.segment_table_top = {in.get<std::uint64_t>()};
  root.position.next_sequence = {in.get<std::uint64_t>()};
  root.position.segment = {in.get<std::uint64_t>()};
  root.position.block_index = in.get<std::uint32_t>();
  in.expect_zeros(4);
  root.next_segment = {in.get<std::uint64_t>()};
  root.incompatible_features = in.get<std::uint64_t>();
  in.get_bytes(root.parent.bytes);
  root.page_segment = {in.get<std::uint64_t>()};
  root.page_segment_used_blocks = in.get<std::uint32_t>();
  const auto ancestors = in.get<std::uint32_t>();
  root.newest_snapshot = {in.get<std::uint64_t>()};
  root.parent_snapshot = {in.get<std::uint64_t>()};
  if ((root.incompatible_features & ~kKnownRootFeatures) != 0) {
    const int bit = __builtin_ctzll(root.incompatible_features & ~kKnownRootFeatures);
    return Error(ErrorCode::unsupported,
                 "volume " + id.volume.to_string() + " uses feature bit " + std::to_string(bit) +
                     ", which this program does not know: use the program that wrote it, or a "
                     "newer one");
  }
  in.expect_zeros(in.remaining());
  if (!in.ok()) return corrupt_root(id, "reserved bytes are not zero");
  if (root.id != id) return corrupt_root(id, "it names another volume, epoch or number");
  if (bytes.size() != (1 + divide_up(std::size_t{ancestors}, kAncestorsPerBlock)) * kBlockBytes ||
      !decode_lineage(bytes.subspan(kBlockBytes), ancestors, root.lineage)) {
    return corrupt_root(id, "the list of the volumes it was cloned from is damaged");
  }
  if (levels != kPageLevels || !fields_agree(root)) {
    return corrupt_root(id, "its fields contradict each other");
  }
  return root;
}

}  // namespace holdfast::format
