// SPDX-License-Identifier: Apache-2.0
#include "format/page.h"

#include <algorithm>
#include <array>

#include "base/assert.h"
#include "format/sealed_block.h"

namespace holdfast::format {
namespace {

using Header = std::array<std::byte, kPageHeaderBytes - kSealBytes>;

Header encode_header(const PageIdentity& identity) {
  Header header;
  ByteWriter out(header);
  out.put<std::uint16_t>(kPageVersion);
  out.put<std::uint8_t>(static_cast<std::uint8_t>(identity.array));
  out.put<std::uint8_t>(identity.level);
  out.put_zeros(4);
  out.put_bytes(identity.volume.bytes);
  out.put<std::uint64_t>(identity.epoch.value);
  out.put<std::uint64_t>(identity.segment.value);
  out.put<std::uint32_t>(identity.block_index);
  out.put_zeros(4);
  out.put<std::uint64_t>(identity.index);
  HOLDFAST_ASSERT(out.position() == header.size());
  return header;
}

}  // namespace

void seal_page(std::span<std::byte> page, const PageIdentity& identity) {
  HOLDFAST_ASSERT(page.size() == kBlockBytes);
  const Header header = encode_header(identity);
  std::copy(header.begin(), header.end(), page.begin() + kSealBytes);
  seal_block(page, kPageMagic);
}

bool check_page(std::span<const std::byte> page, const PageIdentity& identity) {
  if (page.size() != kBlockBytes || !check_sealed_block(page, kPageMagic)) return false;
  const Header header = encode_header(identity);
  if (!std::equal(header.begin(), header.end(), page.begin() + kSealBytes)) return false;
  if (identity.level != 0) return children_are_valid(page);
  return identity.array == ArrayKind::map ? map_entries_are_valid(page)
                                          : segment_entries_are_valid(page);
}

std::optional<PageName> page_name(std::span<const std::byte> page) {
  if (page.size() != kBlockBytes || !check_sealed_block(page, kPageMagic)) return std::nullopt;
  ByteReader in(page.subspan(kSealBytes));
  if (in.get<std::uint16_t>() != kPageVersion) return std::nullopt;
  PageName name;
  name.array = static_cast<ArrayKind>(in.get<std::uint8_t>());
  name.level = in.get<std::uint8_t>();
  name.index = load_little<std::uint64_t>(page.data() + 56);
  if (name.array != ArrayKind::map && name.array != ArrayKind::segment_table) return std::nullopt;
  if (name.level >= kPageLevels) return std::nullopt;
  return name;
}

bool page_is_empty(std::span<const std::byte> page) {
  return std::all_of(page.begin() + kPageHeaderBytes, page.end(),
                     [](std::byte b) { return b == std::byte{0}; });
}

SegmentEntry load_segment_entry(const std::byte* at) {
  return {{load_little<std::uint64_t>(at)},
          load_little<std::uint32_t>(at + 12),
          load_little<std::uint32_t>(at + 16),
          static_cast<SegmentStream>(std::to_integer<std::uint8_t>(at[20])),
          static_cast<SegmentState>(std::to_integer<std::uint8_t>(at[21])),
          {load_little<std::uint64_t>(at + 24)}};
}

void store_segment_entry(std::byte* at, const SegmentEntry& entry) {
  ByteWriter out({at, kSegmentEntryBytes});
  if (entry.state == SegmentState::absent) {  // so that a page of absent entries is an empty page
    out.fill_rest_with_zeros();
    return;
  }
  out.put<std::uint64_t>(entry.epoch.value);
  out.put_zeros(4);
  out.put<std::uint32_t>(entry.live_blocks);
  out.put<std::uint32_t>(entry.used_blocks);
  out.put<std::uint8_t>(static_cast<std::uint8_t>(entry.stream));
  out.put<std::uint8_t>(static_cast<std::uint8_t>(entry.state));
  out.put_zeros(2);
  out.put<std::uint64_t>(entry.died_after.value);
}

bool segment_entries_are_valid(std::span<const std::byte> page) {
  for (std::uint32_t slot = 0; slot < kSegmentEntriesPerPage; ++slot) {
    ByteReader in(page.subspan(kPageHeaderBytes + std::size_t{slot} * kSegmentEntryBytes,
                               kSegmentEntryBytes));
    const auto epoch = in.get<std::uint64_t>();
    in.expect_zeros(4);
    const auto live = in.get<std::uint32_t>();
    const auto used = in.get<std::uint32_t>();
    const auto stream = in.get<std::uint8_t>();
    const auto state = in.get<std::uint8_t>();
    in.expect_zeros(2);
    const auto died_after = in.get<std::uint64_t>();
    constexpr std::uint32_t kBlocksMax = 1u << BlockLocation::kBlockIndexBits;
    if (!in.ok() || state > 2 || live > kBlocksMax || used > kBlocksMax) return false;
    // Absent entries of the first programs have the stream 1.
    if (state == 0 ? (epoch != 0 || live != 0 || used != 0 || stream > 1 || died_after != 0)
                   : (epoch == 0 || stream < 1 || stream > 3)) {
      return false;
    }
  }
  return true;
}

bool map_entries_are_valid(std::span<const std::byte> page) {
  for (std::uint32_t slot = 0; slot < kMapEntriesPerPage; ++slot) {
    const MapEntry entry =
        load_map_entry(page.data() + kPageHeaderBytes + std::size_t{slot} * kMapEntryBytes);
    if (!entry.location.is_valid()) return false;
    if (!entry.location.is_stored() && entry.checksum != 0) return false;
  }
  return true;
}

bool children_are_valid(std::span<const std::byte> page) {
  for (std::uint32_t slot = 0; slot < kChildrenPerPage; ++slot) {
    const BlockLocation child{
        load_little<std::uint64_t>(page.data() + kPageHeaderBytes + std::size_t{slot} * 8)};
    if (!child.is_hole() && !child.is_stored()) return false;
  }
  return true;
}

}  // namespace holdfast::format
