// SPDX-License-Identifier: Apache-2.0
//
// Record headers, as recovery meets them in a segment: what is accepted keeps its promises, and is
// what RecordBuilder would have written (but for extents that it would have merged).
#include "base/assert.h"
#include "base/limits.h"
#include "format/record.h"
#include "fuzz/sealed_input.h"

using namespace holdfast;  // NOLINT: a program of one file

namespace {

void check(const std::vector<std::byte>& block, const format::RecordView& view) {
  std::vector<std::byte> header(kBlockBytes);
  format::RecordBuilder builder(header);
  std::uint32_t payload_block = 0;
  for (std::uint32_t i = 0; i < view.extent_count(); ++i) {
    const format::RecordExtent extent = view.extent(i);
    const std::uint64_t end = extent.first_block.value + extent.block_count;
    HOLDFAST_ASSERT(extent.block_count != 0 && end <= limits::kVolumeBytesMax / kBlockBytes);
    if (extent.kind == format::ExtentKind::data) {
      HOLDFAST_ASSERT(builder.data_room(extent.first_block, extent.block_count) ==
                      extent.block_count);
    } else {
      HOLDFAST_ASSERT(builder.has_extent_room(extent.first_block, extent.kind));
    }
    builder.add_extent(extent);
    if (extent.kind != format::ExtentKind::data) continue;
    for (std::uint32_t n = 0; n < extent.block_count; ++n) {
      builder.add_checksum(view.checksum(payload_block++));
    }
  }
  HOLDFAST_ASSERT(payload_block == view.payload_blocks());
  const bool nothing_merged = builder.extent_count() == view.extent_count();
  builder.finish(view.identity(), view.durable());
  const auto again = format::RecordView::parse(header);
  HOLDFAST_ASSERT(again.has_value() && again->identity() == view.identity());
  HOLDFAST_ASSERT(!nothing_merged || header == block);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
  const std::vector<std::byte> block = sealed_input(data, bytes, format::kRecordMagic);
  const auto view = format::RecordView::parse(block);
  if (view.has_value()) check(block, *view);
  return 0;
}
