// SPDX-License-Identifier: Apache-2.0
#include "pool/space.h"

#include <gtest/gtest.h>

namespace holdfast {
namespace {

constexpr std::uint64_t kSegment = 32 * kMiB;

PoolSpace space_with(std::uint64_t available_bytes) {
  return PoolSpace{100 * kGiB, available_bytes, reserve_bytes_of(100 * kGiB)};
}

TEST(SpaceTest, TheReserveIsAGibibyteOrOnePercentAndLittleOfATinyPool) {
  EXPECT_EQ(reserve_bytes_of(64 * kMiB), 8 * kMiB);
  EXPECT_EQ(reserve_bytes_of(50 * kGiB), kGiB);
  EXPECT_EQ(reserve_bytes_of(1000 * kGiB), 10 * kGiB);
}

TEST(SpaceTest, GuestsAreRefusedAtTheReserveTheirDiscardsAtHalfOfItMetadataNever) {
  const PoolSpace space = space_with(kGiB + kSegment);
  EXPECT_TRUE(has_room_for(space, SegmentPurpose::guest_data, kSegment));
  EXPECT_FALSE(has_room_for(space, SegmentPurpose::guest_data, kSegment + 1));
  EXPECT_FALSE(has_room_for(space_with(kGiB - 1), SegmentPurpose::guest_data, 0));
  EXPECT_TRUE(has_room_for(space_with(kGiB - 1), SegmentPurpose::guest_discard, kSegment));
  EXPECT_TRUE(has_room_for(space_with(kGiB / 2), SegmentPurpose::guest_discard, 0));
  EXPECT_FALSE(has_room_for(space_with(kGiB / 2), SegmentPurpose::guest_discard, 1));
  EXPECT_TRUE(has_room_for(space_with(kSegment), SegmentPurpose::metadata, kSegment));
}

TEST(SpaceTest, AHundredPercentIsWhereTheReserveBegins) {
  EXPECT_DOUBLE_EQ(used_percent(space_with(100 * kGiB)), 0);
  EXPECT_DOUBLE_EQ(used_percent(space_with(kGiB)), 100);
  EXPECT_GT(used_percent(space_with(0)), 100);
  EXPECT_EQ(free_bytes(space_with(kGiB / 2)), 0u);
  EXPECT_DOUBLE_EQ(used_percent(PoolSpace{}), 100) << "no room for anything";
}

TEST(SpaceTest, TheOvercommitRatioIsOfWhatVolumesCanHave) {
  const PoolSpace space = space_with(50 * kGiB);
  EXPECT_DOUBLE_EQ(*overcommit_ratio(space, 9 * kGiB, 180 * kGiB), 2.0);
  EXPECT_FALSE(overcommit_ratio(space, 99 * kGiB, kGiB).has_value()) << "they can have nothing";
}

SpaceLevel level_at(double percent, SpaceLevel before) {
  const double usable = 99.0 * static_cast<double>(kGiB);
  const auto used = static_cast<std::uint64_t>(usable * percent / 100);
  return space_level(space_with(100 * kGiB - used), kSegment, {}, before);
}

TEST(SpaceTest, LevelsAreReachedAtTheirThresholdsAndFullAtTheReserve) {
  EXPECT_EQ(level_at(79.9, SpaceLevel::ok), SpaceLevel::ok);
  EXPECT_EQ(level_at(80.1, SpaceLevel::ok), SpaceLevel::warn);
  EXPECT_EQ(level_at(90.1, SpaceLevel::ok), SpaceLevel::critical);
  EXPECT_EQ(level_at(99.9, SpaceLevel::ok), SpaceLevel::critical);
  EXPECT_EQ(level_at(100, SpaceLevel::ok), SpaceLevel::full);
  // Exactly when the next segment would be refused.
  const PoolSpace room = space_with(kGiB + kSegment);
  EXPECT_EQ(space_level(room, kSegment, {}, SpaceLevel::ok), SpaceLevel::critical);
  const PoolSpace none = space_with(kGiB + kSegment - 1);
  EXPECT_EQ(space_level(none, kSegment, {}, SpaceLevel::ok), SpaceLevel::full);
}

TEST(SpaceTest, AFigureThatTremblesDoesNotFlap) {
  EXPECT_EQ(level_at(79.0, SpaceLevel::warn), SpaceLevel::warn);
  EXPECT_EQ(level_at(77.9, SpaceLevel::warn), SpaceLevel::ok);
  EXPECT_EQ(level_at(89.0, SpaceLevel::critical), SpaceLevel::critical);
  EXPECT_EQ(level_at(87.9, SpaceLevel::critical), SpaceLevel::warn);
  EXPECT_EQ(level_at(79.0, SpaceLevel::critical), SpaceLevel::warn) << "one level, not two";
  const PoolSpace one_segment = space_with(kGiB + kSegment);
  EXPECT_EQ(space_level(one_segment, kSegment, {}, SpaceLevel::full), SpaceLevel::full);
  const PoolSpace two_segments = space_with(kGiB + 2 * kSegment);
  EXPECT_EQ(space_level(two_segments, kSegment, {}, SpaceLevel::full), SpaceLevel::critical);
}

TEST(SpaceTest, ThresholdsAreTheOperators) {
  const PoolSpace half = space_with(50 * kGiB);
  EXPECT_EQ(space_level(half, kSegment, {40, 60}, SpaceLevel::ok), SpaceLevel::warn);
  EXPECT_EQ(space_level(half, kSegment, {40, 45}, SpaceLevel::ok), SpaceLevel::critical);
}

TEST(SpaceTest, ATinyPoolIsFullOnlyAfterItWasCritical) {
  // Its reserve is an eighth: percentages of the capacity would make it full at 87 %.
  const PoolSpace tiny{512 * kMiB, 100 * kMiB, reserve_bytes_of(512 * kMiB)};
  EXPECT_EQ(space_level(tiny, 4 * kMiB, {}, SpaceLevel::ok), SpaceLevel::critical);
}

}  // namespace
}  // namespace holdfast
