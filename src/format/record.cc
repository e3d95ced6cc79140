// SPDX-License-Identifier: Apache-2.0
#include "format/record.h"

#include <algorithm>
#include <cstring>

#include "base/assert.h"
#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/limits.h"
#include "format/sealed_block.h"

namespace holdfast::format {
namespace {

constexpr std::size_t kIdentityOffset = 16;
constexpr std::size_t kExtentCountOffset = 52;
constexpr std::uint64_t kVolumeBlocksMax = limits::kVolumeBytesMax / kBlockBytes;

void encode_extent(std::byte* at, const RecordExtent& extent) {
  store_little(at, extent.first_block.value);
  store_little(at + 8, extent.block_count);
  store_little(at + 12, static_cast<std::uint32_t>(extent.kind));
}

bool is_known_kind(std::uint32_t kind) {
  return kind >= 1 && kind <= 3;
}

}  // namespace

RecordExtent record_extent(const std::byte* header, std::uint32_t i) {
  const std::byte* at = header + kRecordFixedBytes + i * kRecordExtentBytes;
  return {{load_little<std::uint64_t>(at)},
          load_little<std::uint32_t>(at + 8),
          static_cast<ExtentKind>(load_little<std::uint32_t>(at + 12))};
}

std::uint32_t record_checksum(const std::byte* header, std::uint32_t payload_block) {
  return load_little<std::uint32_t>(header + kBlockBytes - 4 * (std::size_t{payload_block} + 1));
}

RecordBuilder::RecordBuilder(std::span<std::byte> header) : header_(header.data()) {
  HOLDFAST_ASSERT(header.size() == kBlockBytes);
  std::memset(header_, 0, kBlockBytes);
}

std::byte* RecordBuilder::extent_at(std::uint32_t i) const {
  return header_ + kRecordFixedBytes + i * kRecordExtentBytes;
}

bool RecordBuilder::continues_last(BlockNumber first, ExtentKind kind) const {
  if (extent_count_ == 0) return false;
  const RecordExtent last = record_extent(header_, extent_count_ - 1);
  return last.kind == kind && last.first_block.value + last.block_count == first.value &&
         last.block_count < (std::uint32_t{1} << 30);
}

std::uint32_t RecordBuilder::data_room(BlockNumber first, std::uint32_t wanted) const {
  const std::size_t extents = extent_count_ + (continues_last(first, ExtentKind::data) ? 0u : 1u);
  const std::size_t used = extents * kRecordExtentBytes + payload_blocks_ * std::size_t{4};
  if (used >= kRecordVariableBytes) return 0;
  const std::size_t room = (kRecordVariableBytes - used) / 4;
  return static_cast<std::uint32_t>(std::min<std::size_t>(
      {room, wanted, std::size_t{limits::kRecordPayloadBlocksMax} - payload_blocks_}));
}

bool RecordBuilder::has_extent_room(BlockNumber first, ExtentKind kind) const {
  if (continues_last(first, kind)) return true;
  return (extent_count_ + std::size_t{1}) * kRecordExtentBytes + payload_blocks_ * std::size_t{4} <=
         kRecordVariableBytes;
}

void RecordBuilder::add_extent(RecordExtent extent) {
  HOLDFAST_ASSERT(extent.block_count != 0);
  if (continues_last(extent.first_block, extent.kind)) {
    std::byte* last = extent_at(extent_count_ - 1);
    store_little(last + 8, load_little<std::uint32_t>(last + 8) + extent.block_count);
  } else {
    HOLDFAST_ASSERT(has_extent_room(extent.first_block, extent.kind));
    encode_extent(extent_at(extent_count_), extent);
    ++extent_count_;
  }
  if (extent.kind == ExtentKind::data) payload_blocks_ += extent.block_count;
  HOLDFAST_ASSERT(payload_blocks_ <= limits::kRecordPayloadBlocksMax);
}

void RecordBuilder::add_checksum(std::uint32_t crc) {
  HOLDFAST_ASSERT(checksum_count_ < payload_blocks_);
  ++checksum_count_;
  store_little(header_ + kBlockBytes - 4 * std::size_t{checksum_count_}, crc);
}

void RecordBuilder::finish(const RecordIdentity& identity, Sequence durable, RecordKind kind) {
  HOLDFAST_ASSERT(checksum_count_ == payload_blocks_ && extent_count_ != 0);
  ByteWriter out({header_ + kSealBytes, kRecordFixedBytes - kSealBytes});
  out.put<std::uint16_t>(kRecordVersion);
  out.put<std::uint8_t>(static_cast<std::uint8_t>(kind));
  out.put<std::uint8_t>(0);
  out.put<std::uint32_t>(payload_blocks_);
  HOLDFAST_ASSERT(kSealBytes + out.position() == kIdentityOffset);
  out.put_bytes(identity.volume.bytes);
  out.put<std::uint64_t>(identity.epoch.value);
  out.put<std::uint64_t>(identity.segment.value);
  out.put<std::uint32_t>(identity.block_index);
  HOLDFAST_ASSERT(kSealBytes + out.position() == kExtentCountOffset);
  out.put<std::uint32_t>(extent_count_);
  out.put<std::uint64_t>(identity.sequence.value);
  out.put<std::uint64_t>(durable.value);
  seal_block({header_, kBlockBytes}, kRecordMagic);
}

std::optional<RecordView> RecordView::parse(std::span<const std::byte> header) {
  if (header.size() != kBlockBytes || !check_sealed_block(header, kRecordMagic)) {
    return std::nullopt;
  }
  RecordView view;
  view.header_ = header.data();
  ByteReader in(header.subspan(kSealBytes, kRecordFixedBytes - kSealBytes));
  if (in.get<std::uint16_t>() != kRecordVersion) return std::nullopt;
  view.kind_ = static_cast<RecordKind>(in.get<std::uint8_t>());
  if (view.kind_ != RecordKind::write && view.kind_ != RecordKind::copy) return std::nullopt;
  in.expect_zeros(1);
  view.payload_blocks_ = in.get<std::uint32_t>();
  in.get_bytes(view.identity_.volume.bytes);
  view.identity_.epoch = {in.get<std::uint64_t>()};
  view.identity_.segment = {in.get<std::uint64_t>()};
  view.identity_.block_index = in.get<std::uint32_t>();
  view.extent_count_ = in.get<std::uint32_t>();
  view.identity_.sequence = {in.get<std::uint64_t>()};
  view.durable_ = {in.get<std::uint64_t>()};
  if (!in.ok() || view.durable_ >= view.identity_.sequence || view.extent_count_ == 0 ||
      view.extent_count_ > kRecordVariableBytes / kRecordExtentBytes ||
      view.payload_blocks_ > limits::kRecordPayloadBlocksMax ||
      view.extent_count_ * kRecordExtentBytes + view.payload_blocks_ * std::size_t{4} >
          kRecordVariableBytes) {
    return std::nullopt;
  }
  std::uint64_t data_blocks = 0;
  for (std::uint32_t i = 0; i < view.extent_count_; ++i) {
    const std::byte* at = view.header_ + kRecordFixedBytes + i * kRecordExtentBytes;
    if (!is_known_kind(load_little<std::uint32_t>(at + 12))) return std::nullopt;
    const RecordExtent extent = view.extent(i);
    // Behind the largest volume there is nothing, and the map has no pages for it.
    if (extent.block_count == 0 || extent.first_block.value >= kVolumeBlocksMax ||
        extent.block_count > kVolumeBlocksMax - extent.first_block.value) {
      return std::nullopt;
    }
    if (extent.kind == ExtentKind::data) data_blocks += extent.block_count;
    if (extent.kind != ExtentKind::data && view.kind_ == RecordKind::copy) return std::nullopt;
  }
  if (data_blocks != view.payload_blocks_) return std::nullopt;
  const std::size_t extents_end = kRecordFixedBytes + view.extent_count_ * kRecordExtentBytes;
  const std::size_t checksums_begin = kBlockBytes - std::size_t{4} * view.payload_blocks_;
  ByteReader unused(header.subspan(extents_end, checksums_begin - extents_end));
  unused.expect_zeros(unused.remaining());
  if (!unused.ok()) return std::nullopt;
  return view;
}

RecordExtent RecordView::extent(std::uint32_t i) const {
  HOLDFAST_ASSERT(i < extent_count_);
  return record_extent(header_, i);
}

std::uint32_t RecordView::checksum(std::uint32_t payload_block) const {
  HOLDFAST_ASSERT(payload_block < payload_blocks_);
  return record_checksum(header_, payload_block);
}

bool RecordView::payload_is_intact(std::span<const std::byte> payload) const {
  HOLDFAST_ASSERT(payload.size() == payload_blocks_ * kBlockBytes);
  for (std::uint32_t i = 0; i < payload_blocks_; ++i) {
    if (crc32c(payload.subspan(i * kBlockBytes, kBlockBytes)) != checksum(i)) return false;
  }
  return true;
}

}  // namespace holdfast::format
