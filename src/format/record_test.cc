// SPDX-License-Identifier: Apache-2.0
#include "format/record.h"

#include <gtest/gtest.h>

#include "base/crc32c.h"
#include "base/limits.h"
#include "format/testing_golden.h"

namespace holdfast::format {
namespace {

constexpr std::size_t kExtents = kRecordFixedBytes;  // offset of the first

constexpr Sequence kGoldenDurable{0x1112131415160000};

RecordIdentity golden_identity() {
  return {golden_volume(), Epoch{0x0102}, SegmentNumber{0x0304050607}, 0x0a0b,
          Sequence{0x1112131415161718}};
}

Bytes golden_payload() {
  Bytes payload(4 * kBlockBytes);
  for (std::size_t i = 0; i < payload.size(); ++i) {
    payload[i] = static_cast<std::byte>(i / kBlockBytes * 7 + i % kBlockBytes);
  }
  return payload;
}

void add_data(RecordBuilder& builder, std::uint64_t first, std::uint32_t count,
              std::uint32_t crc = 1) {
  builder.add_extent({BlockNumber{first}, count, ExtentKind::data});
  for (std::uint32_t i = 0; i < count; ++i) builder.add_checksum(crc + i);
}

void add_other(RecordBuilder& builder, std::uint64_t first, std::uint32_t count, ExtentKind kind) {
  builder.add_extent({BlockNumber{first}, count, kind});
}

bool is_refused(const Bytes& bytes) {
  return !RecordView::parse(bytes).has_value();
}

TEST(RecordTest, TheBytesNeverChange) {
  Bytes header(kBlockBytes, std::byte{0xee});
  const Bytes payload = golden_payload();
  RecordBuilder builder(header);
  std::size_t block = 0;
  const auto add_payload = [&](std::uint64_t first, std::uint32_t count) {
    builder.add_extent({BlockNumber{first}, count, ExtentKind::data});
    for (std::uint32_t i = 0; i < count; ++i, ++block) {
      builder.add_checksum(crc32c(std::span(payload).subspan(block * kBlockBytes, kBlockBytes)));
    }
  };
  add_payload(0x1000, 3);
  add_other(builder, 0x2000, 0x10000, ExtentKind::hole);
  add_other(builder, 1, 5, ExtentKind::zero);
  add_payload((std::uint64_t{1} << 33) - 1, 1);
  builder.finish(golden_identity(), kGoldenDurable);
  EXPECT_EQ(first_difference(header, golden_block("record")), -1);
}

TEST(RecordTest, TheGoldenBytesMeanWhatTheySay) {
  const Bytes golden = golden_block("record");
  const std::optional<RecordView> view = RecordView::parse(golden);
  ASSERT_TRUE(view.has_value());
  EXPECT_EQ(view->identity(), golden_identity());
  EXPECT_EQ(view->durable(), kGoldenDurable);
  EXPECT_EQ(view->payload_blocks(), 4u);
  ASSERT_EQ(view->extent_count(), 4u);
  EXPECT_EQ(view->extent(0), (RecordExtent{BlockNumber{0x1000}, 3, ExtentKind::data}));
  EXPECT_EQ(view->extent(1), (RecordExtent{BlockNumber{0x2000}, 0x10000, ExtentKind::hole}));
  EXPECT_EQ(view->extent(2), (RecordExtent{BlockNumber{1}, 5, ExtentKind::zero}));
  EXPECT_EQ(view->extent(3),
            (RecordExtent{BlockNumber{(std::uint64_t{1} << 33) - 1}, 1, ExtentKind::data}));
  Bytes payload = golden_payload();
  EXPECT_TRUE(view->payload_is_intact(payload));
  for (const std::size_t at : {std::size_t{0}, kBlockBytes, 4 * kBlockBytes - 1}) {
    payload[at] ^= std::byte{4};
    EXPECT_FALSE(view->payload_is_intact(payload)) << at;
    payload[at] ^= std::byte{4};
  }
}

TEST(RecordTest, TheBytesOfARecordOfCopiesNeverChange) {
  Bytes header(kBlockBytes, std::byte{0xee});
  const Bytes payload = golden_payload();
  RecordBuilder builder(header);
  std::size_t index = 0;
  for (const std::uint64_t block : {0x1000, 0x1001, 7}) {
    builder.add_extent({BlockNumber{block}, 1, ExtentKind::data});
    builder.add_checksum(crc32c(std::span(payload).subspan(index++ * kBlockBytes, kBlockBytes)));
  }
  RecordIdentity identity = golden_identity();
  identity.sequence = Sequence{0x11};
  builder.finish(identity, {}, RecordKind::copy);
  EXPECT_EQ(first_difference(header, golden_block("record_of_copies")), -1);
  const std::optional<RecordView> view = RecordView::parse(golden_block("record_of_copies"));
  ASSERT_TRUE(view.has_value());
  EXPECT_EQ(view->kind(), RecordKind::copy);
  EXPECT_EQ(view->identity(), identity);
  EXPECT_EQ(view->extent_count(), 2u);
}

TEST(RecordTest, EveryFlippedBitIsRefused) {
  expect_every_flip_refused(golden_block("record"), is_refused);
}

TEST(RecordTest, FieldsOutOfRangeAreRefusedAlsoWithAGoodChecksum) {
  const Bytes good = golden_block("record");
  ASSERT_FALSE(is_refused(with<std::uint32_t>(good, 48, 0))) << "any place is a place";
  EXPECT_TRUE(is_refused(with<std::uint16_t>(good, 8, 0))) << "version";
  EXPECT_TRUE(is_refused(with<std::uint16_t>(good, 8, 2))) << "version";
  EXPECT_TRUE(is_refused(with<std::uint8_t>(good, 10, 0))) << "kind";
  EXPECT_TRUE(is_refused(with<std::uint8_t>(good, 10, 2))) << "a copy has no holes";
  EXPECT_TRUE(is_refused(with<std::uint8_t>(good, 10, 3))) << "kind";
  EXPECT_TRUE(is_refused(with<std::uint8_t>(good, 11, 1))) << "reserved";
  for (const std::uint32_t blocks : {0u, 3u, 5u, 128u, 0xffffffffu}) {
    EXPECT_TRUE(is_refused(with<std::uint32_t>(good, 12, blocks))) << "payload blocks " << blocks;
  }
  EXPECT_TRUE(is_refused(with<std::uint64_t>(good, 56, 0))) << "sequences count from 1";
  EXPECT_TRUE(is_refused(with<std::uint64_t>(good, 64, golden_identity().sequence.value)))
      << "no record is durable before it is written";
  EXPECT_FALSE(is_refused(with<std::uint64_t>(good, 64, 0)));
  for (const std::uint32_t count : {0u, 3u, 5u, 251u, 252u, 0x10000000u, 0xffffffffu}) {
    EXPECT_TRUE(is_refused(with<std::uint32_t>(good, 52, count))) << "extents " << count;
  }
}

TEST(RecordTest, ExtentsOutOfRangeAreRefusedAlsoWithAGoodChecksum) {
  const Bytes good = golden_block("record");
  for (const std::uint8_t kind : {std::uint8_t{0}, std::uint8_t{4}, std::uint8_t{255}}) {
    EXPECT_TRUE(is_refused(with<std::uint8_t>(good, kExtents + 16 + 12, kind)));
  }
  for (const std::size_t reserved : {13u, 14u, 15u}) {
    EXPECT_TRUE(is_refused(with<std::uint8_t>(good, kExtents + reserved, 1)));
  }
  const std::uint64_t volume_end = limits::kVolumeBytesMax / kBlockBytes;
  EXPECT_TRUE(is_refused(with<std::uint32_t>(good, kExtents + 16 + 8, 0))) << "an empty hole";
  EXPECT_TRUE(is_refused(with<std::uint32_t>(good, kExtents + 48 + 8, 2)))
      << "one block more than payload, and behind the largest volume";
  EXPECT_TRUE(is_refused(with<std::uint64_t>(good, kExtents + 16, volume_end)));
  EXPECT_TRUE(is_refused(with<std::uint64_t>(good, kExtents + 16, ~std::uint64_t{0})));
  EXPECT_TRUE(is_refused(with<std::uint64_t>(good, kExtents + 16, volume_end - 0xffff)));
  EXPECT_FALSE(is_refused(with<std::uint64_t>(good, kExtents + 16, volume_end - 0x10000)));
  // A data extent turned hole leaves payload that belongs to nothing.
  EXPECT_TRUE(is_refused(with<std::uint8_t>(good, kExtents + 12, 2)));
}

TEST(RecordTest, WhatLiesBetweenExtentsAndChecksumsMustBeZero) {
  const Bytes good = golden_block("record");
  const std::size_t begin = kExtents + 4 * kRecordExtentBytes;
  const std::size_t end = kBlockBytes - 4 * 4;
  for (const std::size_t at : {begin, begin + 1, std::size_t{2000}, end - 1}) {
    EXPECT_TRUE(is_refused(with<std::uint8_t>(good, at, 1))) << at;
  }
  EXPECT_FALSE(is_refused(with<std::uint8_t>(good, end, 1))) << "a checksum: the payload's matter";
}

TEST(RecordTest, OtherLengthsAreRefused) {
  const Bytes good = golden_block("record");
  for (const std::size_t length : {0u, 7u, 8u, 64u, 4095u}) {
    EXPECT_FALSE(RecordView::parse(std::span(good).first(length)).has_value()) << length;
  }
  Bytes longer = good;
  longer.resize(2 * kBlockBytes);
  EXPECT_TRUE(is_refused(longer));
}

TEST(RecordBuilderTest, ExtentsThatContinueTheLastAreMergedWithIt) {
  Bytes header(kBlockBytes);
  RecordBuilder builder(header);
  add_data(builder, 10, 2);
  add_data(builder, 12, 3, 3);
  EXPECT_EQ(builder.extent_count(), 1u);
  add_data(builder, 16, 1, 6);                  // a gap
  add_other(builder, 17, 1, ExtentKind::hole);  // another kind
  add_other(builder, 18, 7, ExtentKind::hole);
  add_other(builder, 25, 1, ExtentKind::zero);
  add_other(builder, 10, 1, ExtentKind::zero);  // backwards
  EXPECT_EQ(builder.extent_count(), 5u);
  EXPECT_EQ(builder.payload_blocks(), 6u);
  builder.finish(golden_identity());
  const std::optional<RecordView> view = RecordView::parse(header);
  ASSERT_TRUE(view.has_value());
  EXPECT_EQ(view->extent(0), (RecordExtent{BlockNumber{10}, 5, ExtentKind::data}));
  EXPECT_EQ(view->extent(1), (RecordExtent{BlockNumber{16}, 1, ExtentKind::data}));
  EXPECT_EQ(view->extent(2), (RecordExtent{BlockNumber{17}, 8, ExtentKind::hole}));
  EXPECT_EQ(view->extent(4), (RecordExtent{BlockNumber{10}, 1, ExtentKind::zero}));
  for (std::uint32_t i = 0; i < 6; ++i) EXPECT_EQ(view->checksum(i), 1 + i);
}

TEST(RecordBuilderTest, ARecordTakesAsManyPayloadBlocksAsTheLimitSays) {
  Bytes header(kBlockBytes);
  RecordBuilder builder(header);
  EXPECT_EQ(builder.data_room(BlockNumber{0}, 1000), limits::kRecordPayloadBlocksMax);
  add_data(builder, 0, 100);
  EXPECT_EQ(builder.data_room(BlockNumber{500}, 1000), 27u);
  EXPECT_EQ(builder.data_room(BlockNumber{500}, 20), 20u);
  add_data(builder, 500, 27);
  EXPECT_EQ(builder.data_room(BlockNumber{527}, 1), 0u);
  EXPECT_EQ(builder.data_room(BlockNumber{900}, 1), 0u);
  EXPECT_TRUE(builder.has_extent_room(BlockNumber{900}, ExtentKind::hole));
  builder.finish(golden_identity());
  const std::optional<RecordView> view = RecordView::parse(header);
  ASSERT_TRUE(view.has_value());
  EXPECT_EQ(view->payload_blocks(), 127u);
}

// Extents that never merge: every other block.
TEST(RecordBuilderTest, ExtentsWithoutPayloadFillTheHeaderToItsEnd) {
  Bytes header(kBlockBytes);
  RecordBuilder builder(header);
  std::uint32_t count = 0;
  for (; builder.has_extent_room(BlockNumber{2 * count}, ExtentKind::hole); ++count) {
    add_other(builder, 2 * count, 1, ExtentKind::hole);
  }
  EXPECT_EQ(count, kRecordVariableBytes / kRecordExtentBytes);
  EXPECT_EQ(builder.data_room(BlockNumber{9999}, 1), 0u);
  EXPECT_TRUE(builder.has_extent_room(BlockNumber{2 * count - 1}, ExtentKind::hole)) << "it merges";
  builder.finish(golden_identity());
  const std::optional<RecordView> view = RecordView::parse(header);
  ASSERT_TRUE(view.has_value());
  EXPECT_EQ(view->extent_count(), 251u);
}

TEST(RecordBuilderTest, ExtentsAndChecksumsNeverMeet) {
  Bytes header(kBlockBytes);
  RecordBuilder builder(header);
  std::uint32_t holes = 0;
  for (; holes < 130; ++holes) add_other(builder, 2 * holes, 1, ExtentKind::hole);
  std::uint32_t blocks = 0;
  for (; builder.data_room(BlockNumber{100'000 + 2 * blocks}, 1) != 0; ++blocks) {
    ASSERT_LE((builder.extent_count() + 1) * kRecordExtentBytes + (blocks + 1) * 4,
              kRecordVariableBytes);
    add_data(builder, 100'000 + 2 * blocks, 1);
  }
  // 130 extents, then 20 bytes for each single block.
  EXPECT_EQ(blocks, (kRecordVariableBytes - 130 * kRecordExtentBytes) / 20);
  builder.finish(golden_identity());
  const std::optional<RecordView> view = RecordView::parse(header);
  ASSERT_TRUE(view.has_value());
  EXPECT_EQ(view->payload_blocks(), blocks);
  EXPECT_EQ(view->checksum(blocks - 1), 1u);
}

TEST(RecordBuilderTest, FinishingAgainElsewhereChangesOnlyThePlace) {
  Bytes header(kBlockBytes);
  RecordBuilder builder(header);
  add_data(builder, 10, 2);
  builder.finish(golden_identity());
  RecordIdentity elsewhere = golden_identity();
  elsewhere.segment = SegmentNumber{99};
  elsewhere.block_index = 0;
  builder.finish(elsewhere, kGoldenDurable);
  const std::optional<RecordView> view = RecordView::parse(header);
  ASSERT_TRUE(view.has_value());
  EXPECT_EQ(view->identity(), elsewhere);
  EXPECT_EQ(view->durable(), kGoldenDurable);
  EXPECT_EQ(view->extent(0), (RecordExtent{BlockNumber{10}, 2, ExtentKind::data}));
  EXPECT_EQ(record_extent(header.data(), 0), view->extent(0));
  EXPECT_EQ(record_checksum(header.data(), 1), view->checksum(1));
}

TEST(RecordBuilderTest, UsedMemoryDoesNotShineThrough) {
  Bytes header(kBlockBytes, std::byte{0xff});
  RecordBuilder builder(header);
  add_other(builder, 0, 1, ExtentKind::hole);
  builder.finish(golden_identity());
  EXPECT_TRUE(RecordView::parse(header).has_value()) << "reserved bytes are zero";
}

}  // namespace
}  // namespace holdfast::format
