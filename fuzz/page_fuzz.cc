// SPDX-License-Identifier: Apache-2.0
//
// Pages of the map and of the segment table, asked for as exactly what they say they are, so that
// only their entries decide.
#include <algorithm>

#include "base/assert.h"
#include "format/page.h"
#include "fuzz/sealed_input.h"

using namespace holdfast;  // NOLINT: a program of one file

namespace {

format::PageIdentity identity_in(const std::vector<std::byte>& page, format::ArrayKind array) {
  const std::span<const std::byte> bytes(page);
  ByteReader in(bytes.subspan(format::kSealBytes));
  format::PageIdentity identity;
  in.get<std::uint16_t>();
  in.get<std::uint8_t>();
  identity.array = array;
  identity.level = in.get<std::uint8_t>();
  in.get<std::uint32_t>();
  in.get_bytes(identity.volume.bytes);
  identity.epoch = {in.get<std::uint64_t>()};
  identity.segment = {in.get<std::uint64_t>()};
  identity.block_index = in.get<std::uint32_t>();
  in.get<std::uint32_t>();
  identity.index = in.get<std::uint64_t>();
  return identity;
}

void check_entries(std::vector<std::byte>& page, const format::PageIdentity& identity) {
  if (identity.level != 0) {
    for (std::uint32_t slot = 0; slot < format::kChildrenPerPage; ++slot) {
      const format::BlockLocation child{
          load_little<std::uint64_t>(format::child_at(page.data(), slot))};
      HOLDFAST_ASSERT(child.is_hole() || child.is_stored());
    }
  } else if (identity.array == format::ArrayKind::map) {
    for (std::uint32_t slot = 0; slot < format::kMapEntriesPerPage; ++slot) {
      const format::MapEntry entry =
          format::load_map_entry(format::map_entry_at(page.data(), slot));
      HOLDFAST_ASSERT(entry.location.is_valid());
    }
  } else {
    for (std::uint32_t slot = 0; slot < format::kSegmentEntriesPerPage; ++slot) {
      const format::SegmentEntry entry =
          format::load_segment_entry(format::segment_entry_at(page.data(), slot));
      HOLDFAST_ASSERT(entry.state <= format::SegmentState::sealed);
      HOLDFAST_ASSERT(entry.state == format::SegmentState::absent || entry.epoch.value != 0);
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
  const std::vector<std::byte> page = sealed_input(data, bytes, format::kPageMagic);
  for (const format::ArrayKind array : {format::ArrayKind::map, format::ArrayKind::segment_table}) {
    const format::PageIdentity identity = identity_in(page, array);
    if (!format::check_page(page, identity)) continue;
    std::vector<std::byte> copy = page;
    check_entries(copy, identity);
    format::seal_page(copy, identity);
    HOLDFAST_ASSERT(copy == page);
    format::PageIdentity other = identity;
    ++other.index;
    HOLDFAST_ASSERT(!format::check_page(page, other));
  }
  return 0;
}
