// SPDX-License-Identifier: Apache-2.0
#include "format/snapshot.h"

#include <gtest/gtest.h>

#include "base/limits.h"
#include "format/testing_golden.h"

namespace holdfast::format {
namespace {

constexpr SnapshotNumber kNumber{0x51};

Snapshot golden_snapshot() {
  Snapshot snapshot;
  snapshot.number = kNumber;
  snapshot.name = "before-upgrade";
  snapshot.created = WallTime{1'700'000'000};
  Root& root = snapshot.root;
  root.id = {golden_volume(), Epoch{0x1112}, 0x1314};
  root.size_bytes = 20 * kGiB;
  root.segment_bytes = 32 * kMiB;
  root.map_top = BlockLocation::at(SegmentNumber{0x21}, 0x22);
  root.segment_table_top = BlockLocation::at(SegmentNumber{0x23}, 0x24);
  root.position.next_sequence = Sequence{0x3132333435};
  root.next_segment = SegmentNumber{0x4142};
  root.incompatible_features = kFeatureColdSegments | kFeatureSnapshots | kFeatureLineage;
  root.parent = Uuid::parse("00112233-4455-4677-8899-aabbccddeeff").value();
  root.parent_snapshot = SnapshotNumber{0x52};
  root.newest_snapshot = kNumber;
  root.lineage = {
      {SegmentNumber{0x10}, Uuid::parse("10112233-4455-4677-8899-aabbccddeeff").value()},
      {SegmentNumber{0x1F}, root.parent}};
  return snapshot;
}

Bytes golden_bytes() {
  Bytes all;
  for (const char* name : {"snapshot", "root_of_clone", "root_of_clone_lineage"}) {
    const Bytes block = golden_block(name);
    all.insert(all.end(), block.begin(), block.end());
  }
  return all;
}

std::optional<ErrorCode> refusal(const Bytes& bytes) {
  const Result<Snapshot> snapshot = decode_snapshot(bytes, golden_volume(), kNumber);
  return snapshot.ok() ? std::nullopt : std::optional(snapshot.error().code());
}
bool is_corrupt(const Bytes& bytes) {
  return refusal(bytes) == ErrorCode::corrupt;
}
// One of the three blocks changed, and sealed again.
template <typename T>
Bytes changed(std::size_t block, std::size_t offset, T value) {
  Bytes all = golden_bytes();
  const auto at = all.begin() + static_cast<std::ptrdiff_t>(block * kBlockBytes);
  const Bytes fresh = with<T>(Bytes(at, at + kBlockBytes), offset, value);
  std::copy(fresh.begin(), fresh.end(), at);
  return all;
}

TEST(SnapshotTest, TheBytesNeverChange) {
  EXPECT_EQ(first_difference(encode_snapshot(golden_snapshot()), golden_bytes()), -1);
}

TEST(SnapshotTest, TheGoldenBytesMeanWhatTheySay) {
  const auto snapshot = decode_snapshot(golden_bytes(), golden_volume(), kNumber);
  ASSERT_TRUE(snapshot.ok()) << snapshot.error().message();
  EXPECT_EQ(snapshot->name, "before-upgrade");
  EXPECT_EQ(snapshot->number, kNumber);
  EXPECT_EQ(snapshot->created.unix_seconds, 1'700'000'000);
  EXPECT_TRUE(snapshot->root == golden_snapshot().root);
}

TEST(SnapshotTest, EverySingleFlippedBitIsRefused) {
  expect_every_flip_refused(golden_bytes(),
                            [](const Bytes& bytes) { return refusal(bytes).has_value(); });
}

TEST(SnapshotTest, CutOffOrTooLongIsRefused) {
  Bytes bytes = golden_bytes();
  for (const std::size_t size : {std::size_t{0}, std::size_t{8}, std::size_t{kBlockBytes},
                                 std::size_t{2 * kBlockBytes}, bytes.size() - 1}) {
    EXPECT_TRUE(is_corrupt(Bytes(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size))))
        << size;
  }
  bytes.resize(bytes.size() + kBlockBytes);
  EXPECT_TRUE(is_corrupt(bytes));
}

TEST(SnapshotTest, FieldsThatContradictAreRefused) {
  EXPECT_TRUE(is_corrupt(changed<std::uint32_t>(0, 12, 1))) << "reserved";
  EXPECT_TRUE(is_corrupt(changed<std::uint8_t>(0, 16, 1))) << "another volume";
  EXPECT_TRUE(is_corrupt(changed<std::uint64_t>(0, 32, 0x50))) << "another number";
  EXPECT_TRUE(is_corrupt(changed<std::uint8_t>(0, 48, 0))) << "a name that begins with a zero";
  EXPECT_TRUE(is_corrupt(changed<std::uint64_t>(0, 120, 1))) << "another root";
  EXPECT_TRUE(is_corrupt(changed<std::uint64_t>(1, 152, 0x50))) << "taken after its own root";
  EXPECT_TRUE(is_corrupt(changed<std::uint32_t>(1, 148, 1))) << "fewer ancestors than there are";
  EXPECT_TRUE(is_corrupt(changed<std::uint64_t>(2, 8, 0x20))) << "ancestors out of order";
  EXPECT_TRUE(is_corrupt(changed<std::uint64_t>(2, 32, 0x4143))) << "beyond the next segment";
  EXPECT_EQ(refusal(changed<std::uint16_t>(0, 8, 2)), ErrorCode::unsupported) << "a newer version";
  EXPECT_TRUE(is_corrupt(changed<std::uint64_t>(1, 112, kFeatureSnapshots)))
      << "a lineage without its feature bit";
}

TEST(SnapshotTest, ALongLineageSurvivesEncodingAndDecoding) {
  Snapshot deep = golden_snapshot();
  deep.root.lineage.clear();
  for (std::uint64_t i = 1; i <= 2 * kAncestorsPerBlock + 1; ++i) {
    VolumeId volume = golden_volume();
    volume.bytes[0] = static_cast<std::byte>(i);
    volume.bytes[1] = static_cast<std::byte>(i >> 8);
    deep.root.lineage.push_back({SegmentNumber{i * 3}, volume});
  }
  const Bytes bytes = encode_snapshot(deep);
  EXPECT_EQ(bytes.size(), 5 * kBlockBytes);
  const auto back = decode_snapshot(bytes, golden_volume(), kNumber);
  ASSERT_TRUE(back.ok()) << back.error().message();
  EXPECT_TRUE(back->root == deep.root);
  EXPECT_EQ(owner_of(back->root, SegmentNumber{1}), deep.root.lineage[0].volume);
  EXPECT_EQ(owner_of(back->root, SegmentNumber{3}), deep.root.lineage[1].volume);
  EXPECT_EQ(owner_of(back->root, SegmentNumber{5}), deep.root.lineage[1].volume);
  EXPECT_EQ(owner_of(back->root, deep.root.lineage.back().end_segment), golden_volume());
}

}  // namespace
}  // namespace holdfast::format
