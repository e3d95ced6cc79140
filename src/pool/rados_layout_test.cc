// SPDX-License-Identifier: Apache-2.0
#include "pool/rados_layout.h"

#include <gtest/gtest.h>

#include "base/bytes.h"
#include "base/limits.h"

namespace holdfast::rados_layout {
namespace {

VolumeId volume() {
  std::array<std::byte, 16> random{};
  random[0] = std::byte{0xab};
  return Uuid::from_random(random);
}

TEST(RadosLayout, ALocationSaysPoolNamespaceClusterAndClient) {
  const auto bare = parse_location("rados:vms");
  ASSERT_TRUE(bare.ok());
  EXPECT_EQ(bare.value(), (RadosAddress{"vms", "", "", "", ""}));
  EXPECT_EQ(location_of(bare.value()), "rados:vms");
  const std::string whole = "rados:vms/web.1?conf=/etc/ceph/b.conf&id=holdfast&keyring=/k=1";
  const auto all = parse_location(whole);
  ASSERT_TRUE(all.ok()) << all.error().message();
  EXPECT_EQ(all.value(), (RadosAddress{"vms", "web.1", "/etc/ceph/b.conf", "holdfast", "/k=1"}));
  EXPECT_EQ(location_of(all.value()), whole);
  EXPECT_EQ(parse_location("rados:vms?id=client.x").value().client_id, "x");
}

TEST(RadosLayout, WhatIsNoLocationIsRefused) {
  for (const char* text :
       {"rados:", "rados:/ns", "rados:a b", "rados:vms/", "rados:vms/a/b", "rados:vms?conf=etc",
        "rados:vms?id=", "rados:vms?id=a/b", "rados:vms?other=1", "rados:vms?conf", "vms"}) {
    const auto refused = parse_location(text);
    ASSERT_FALSE(refused.ok()) << text;
    EXPECT_EQ(refused.error().code(), ErrorCode::invalid_argument);
  }
}

TEST(RadosLayout, NoObjectOfASegmentIsLargerThanAllowedAndTogetherTheyHoldIt) {
  for (std::uint64_t mib = 1; mib <= 1024; mib = mib < 40 ? mib + 1 : mib * 2) {
    const std::uint64_t bytes = mib * kMiB;
    const Striping striping = striping_of(bytes);
    EXPECT_GE(striping.objects_per_segment, 2u);
    const std::uint64_t stripes = bytes / striping.stripe_bytes;
    const std::uint64_t longest =
        (stripes + striping.objects_per_segment - 1) / striping.objects_per_segment;
    EXPECT_LE(longest * striping.stripe_bytes, limits::kRadosObjectBytesMax) << mib;
    EXPECT_EQ(stripes * striping.stripe_bytes, bytes);
  }
  EXPECT_EQ(layout_text(striping_of(32 * kMiB)), "stripe_bytes=524288 objects_per_segment=4");
}

TEST(RadosLayout, ObjectsAreCalledWhatTheFormatSays) {
  const SegmentId segment{volume(), Epoch{3}, SegmentNumber{0x1f}};
  const std::string id = volume().to_string();
  EXPECT_EQ(volume_object(volume()), "holdfast.volume." + id);
  EXPECT_EQ(lease_object(volume()), "holdfast.lease." + id);
  const auto own = segment_objects(segment, {}, Striping{524288, 2});
  EXPECT_EQ(own, (std::vector<std::string>{
                     "holdfast.data." + id + ".seg-0000000000000003-000000000000001f.0",
                     "holdfast.data." + id + ".seg-0000000000000003-000000000000001f.1"}));
  const auto copy = segment_objects(segment, SegmentEntry{0, 0xbeef}, Striping{524288, 1});
  EXPECT_EQ(copy[0], "holdfast.data." + id +
                         ".seg-0000000000000003-000000000000001f.copy-000000000000beef.0");
  EXPECT_EQ(new_copy_key(segment, 0xbeef),
            ".new-seg-0000000000000003-000000000000001f-000000000000beef");
  EXPECT_EQ(parse_new_copy_key(volume(), new_copy_key(segment, 0xbeef)), segment);
  EXPECT_FALSE(parse_new_copy_key(volume(), ".new-seg-3-1f-beef").has_value());
  EXPECT_FALSE(parse_new_copy_key(volume(), "seg-0000000000000003-000000000000001f").has_value());
}

TEST(RadosLayout, EntriesOfSegmentsAreSixteenBytes) {
  const std::vector<std::byte> bytes = encode_segment_entry({0x0200'0000, 0x1122334455667788});
  const std::string expected("\0\0\0\2\0\0\0\0\x88\x77\x66\x55\x44\x33\x22\x11", 16);
  EXPECT_EQ(bytes, bytes_of(expected));
  EXPECT_EQ(decode_segment_entry(bytes).value(), (SegmentEntry{0x0200'0000, 0x1122334455667788}));
  EXPECT_EQ(decode_segment_entry(std::span(bytes).first(15)).error().code(), ErrorCode::corrupt);
  EXPECT_EQ(decode_segment_entry(std::vector<std::byte>(16, std::byte{0xff})).error().code(),
            ErrorCode::corrupt);
}

TEST(RadosLayout, RecordsComeBackWithoutTheirZerosAndDamageIsSeen) {
  VolumeRecord record;
  record.id = volume();
  record.name = "web";
  record.thick = false;
  record.created = WallTime{1'700'000'000};
  std::vector<std::byte> bytes = encode_record(record);
  EXPECT_LT(bytes.size(), 110u);
  const auto back = decode_record(volume(), bytes);
  ASSERT_TRUE(back.ok());
  EXPECT_EQ(back->name, "web");
  EXPECT_EQ(back->created.unix_seconds, 1'700'000'000);
  EXPECT_FALSE(decode_record(VolumeId{}, bytes).ok()) << "another volume's";
  const TrashedVolume trashed{record, WallTime{100}, WallTime{200}};
  const auto restored = decode_trashed(volume(), encode_trashed(trashed));
  ASSERT_TRUE(restored.ok());
  EXPECT_EQ(restored->since.unix_seconds, 100);
  EXPECT_EQ(restored->until.unix_seconds, 200);
  EXPECT_EQ(restored->record.name, "web");
  EXPECT_FALSE(decode_trashed(volume(), std::span(bytes).first(10)).ok());
  bytes.resize(5000);
  EXPECT_FALSE(decode_record(volume(), bytes).ok());
  bytes.resize(41);  // in the middle of the name
  EXPECT_FALSE(decode_record(volume(), bytes).ok());
}

TEST(RadosLayout, EpochsAreInOrderAsText) {
  EXPECT_LT(epoch_text(Epoch{9}), epoch_text(Epoch{10}));
  EXPECT_LT(epoch_text(Epoch{0xffff}), epoch_text(Epoch{0x1'0000}));
  EXPECT_EQ(epoch_text(Epoch{0xab}), "00000000000000ab");
}

}  // namespace
}  // namespace holdfast::rados_layout
