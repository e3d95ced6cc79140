// SPDX-License-Identifier: Apache-2.0
#include "format/root.h"

#include <gtest/gtest.h>

#include "base/limits.h"
#include "format/testing_golden.h"

namespace holdfast::format {
namespace {

RootId golden_id() {
  return {golden_volume(), Epoch{0x1112}, 0x1314};
}

Root golden_root() {
  Root root;
  root.id = golden_id();
  root.size_bytes = 20 * kGiB;
  root.segment_bytes = 32 * kMiB;
  root.map_top = BlockLocation::at(SegmentNumber{0x21}, 0x22);
  root.segment_table_top = BlockLocation::at(SegmentNumber{0x23}, 0x24);
  root.position.next_sequence = Sequence{0x3132333435};
  root.position.segment = SegmentNumber{0x25};
  root.position.block_index = 0x26;
  root.next_segment = SegmentNumber{0x4142};
  root.parent = Uuid::parse("00112233-4455-4677-8899-aabbccddeeff").value();
  root.page_segment = SegmentNumber{0x27};
  root.page_segment_used_blocks = 0x2000;
  return root;
}

// The code of the refusal, or nothing when the bytes are taken.
std::optional<ErrorCode> refusal(const Bytes& bytes) {
  const Result<Root> root = decode_root(bytes, golden_id());
  return root.ok() ? std::nullopt : std::optional(root.error().code());
}
bool is_corrupt(const Bytes& bytes) {
  return refusal(bytes) == ErrorCode::corrupt;
}

TEST(RootTest, TheBytesNeverChange) {
  EXPECT_EQ(first_difference(encode_root(golden_root()), golden_block("root")), -1);
}

TEST(RootTest, TheGoldenBytesMeanWhatTheySay) {
  const Result<Root> root = decode_root(golden_block("root"), golden_id());
  ASSERT_TRUE(root.ok()) << root.error().message();
  EXPECT_TRUE(root.value() == golden_root());
}

TEST(RootTest, TheFirstRootOfAVolumeSurvivesEncodingAndDecoding) {
  Root first;
  first.id = {golden_volume(), Epoch{1}, 0};
  first.size_bytes = limits::kVolumeBytesMax;
  first.segment_bytes = limits::kSegmentBytesMin;
  const Result<Root> back = decode_root(encode_root(first), first.id);
  ASSERT_TRUE(back.ok()) << back.error().message();
  EXPECT_TRUE(back.value() == first);
}

TEST(RootTest, EveryFlippedBitIsRefused) {
  expect_every_flip_refused(golden_block("root"), is_corrupt);
}

TEST(RootTest, ARootIsTakenForNoOther) {
  const Bytes bytes = golden_block("root");
  RootId other = golden_id();
  ++other.epoch.value;
  EXPECT_FALSE(decode_root(bytes, other).ok());
  other = golden_id();
  ++other.number;
  EXPECT_FALSE(decode_root(bytes, other).ok());
  other = golden_id();
  other.volume.bytes[0] ^= std::byte{1};
  EXPECT_FALSE(decode_root(bytes, other).ok());
}

TEST(RootTest, OtherVersionsAndFeaturesAreUnsupportedAndNamed) {
  const Bytes good = golden_block("root");
  for (const std::uint16_t version : {std::uint16_t{0}, std::uint16_t{2}, std::uint16_t{0xffff}}) {
    Bytes bytes = with<std::uint16_t>(good, 8, version);
    bytes = with<std::uint8_t>(bytes, 4000, 1);  // what a later version may mean by it
    EXPECT_EQ(refusal(bytes), ErrorCode::unsupported) << version;
  }
  const Result<Root> later = decode_root(with<std::uint16_t>(good, 8, 7), golden_id());
  EXPECT_NE(later.error().message().find("version 7"), std::string::npos);
  const Bytes feature = with<std::uint64_t>(good, 112, std::uint64_t{1} << 40);
  const Result<Root> unknown = decode_root(feature, golden_id());
  ASSERT_FALSE(unknown.ok());
  EXPECT_EQ(unknown.error().code(), ErrorCode::unsupported);
  EXPECT_NE(unknown.error().message().find("bit 40"), std::string::npos);
}

TEST(RootTest, FieldsOutOfRangeAreCorruptAlsoWithAGoodChecksum) {
  const Bytes good = golden_block("root");
  const std::uint64_t no_segment = 0x4142;  // next_segment: not there yet
  EXPECT_TRUE(is_corrupt(with<std::uint8_t>(good, 10, 3))) << "levels";
  EXPECT_TRUE(is_corrupt(with<std::uint8_t>(good, 10, 5))) << "levels";
  for (const std::uint64_t size : {std::uint64_t{0}, kMiB - 512, kGiB + 1, 32 * kTiB + 512}) {
    EXPECT_TRUE(is_corrupt(with<std::uint64_t>(good, 48, size))) << size;
  }
  for (const std::uint64_t bytes : {std::uint64_t{0}, kMiB / 2, kMiB + 512, 2 * kGiB}) {
    EXPECT_TRUE(is_corrupt(with<std::uint64_t>(good, 56, bytes))) << bytes;
  }
  for (const std::size_t top : {64u, 72u}) {
    for (const std::uint64_t raw : {std::uint64_t{1}, std::uint64_t{0xffffff},
                                    BlockLocation::at(SegmentNumber{0x21}, 8192).raw,
                                    BlockLocation::at(SegmentNumber{no_segment}, 0).raw}) {
      EXPECT_TRUE(is_corrupt(with<std::uint64_t>(good, top, raw))) << top << " " << raw;
    }
  }
  EXPECT_TRUE(is_corrupt(with<std::uint64_t>(good, 80, 0))) << "sequences count from 1";
  EXPECT_TRUE(is_corrupt(with<std::uint64_t>(good, 88, no_segment)));
  EXPECT_TRUE(is_corrupt(with<std::uint64_t>(good, 88, 0))) << "a block of no segment";
  EXPECT_TRUE(is_corrupt(with<std::uint32_t>(good, 96, 8193)));
  EXPECT_FALSE(is_corrupt(with<std::uint32_t>(good, 96, 8192))) << "the end of a full segment";
  EXPECT_TRUE(is_corrupt(with<std::uint64_t>(good, 104, 0))) << "next segment";
  EXPECT_TRUE(is_corrupt(with<std::uint64_t>(good, 104, std::uint64_t{1} << 40)));
  EXPECT_TRUE(is_corrupt(with<std::uint64_t>(good, 136, no_segment)));
  EXPECT_TRUE(is_corrupt(with<std::uint32_t>(good, 144, 8193)));
}

TEST(RootTest, ReservedBytesMustBeZero) {
  const Bytes good = golden_block("root");
  for (const std::size_t at : {11u, 12u, 15u, 100u, 103u, 148u, 2000u, 4095u}) {
    EXPECT_TRUE(is_corrupt(with<std::uint8_t>(good, at, 1))) << at;
  }
}

TEST(RootTest, OtherLengthsAreCorrupt) {
  Bytes bytes = golden_block("root");
  for (const std::size_t length : {0u, 8u, 148u, 4095u}) {
    EXPECT_FALSE(decode_root(std::span(bytes).first(length), golden_id()).ok()) << length;
  }
  bytes.resize(kBlockBytes + 1);
  EXPECT_TRUE(is_corrupt(bytes));
}

}  // namespace
}  // namespace holdfast::format
