// SPDX-License-Identifier: Apache-2.0
#include "format/location.h"

#include <gtest/gtest.h>

namespace holdfast::format {
namespace {

TEST(BlockLocationTest, HoleZeroAndStoredPlacesAreToldApart) {
  EXPECT_TRUE(BlockLocation::hole().is_hole());
  EXPECT_FALSE(BlockLocation::zero().is_hole());
  EXPECT_FALSE(BlockLocation::hole().is_stored());
  EXPECT_FALSE(BlockLocation::zero().is_stored());
  EXPECT_EQ(BlockLocation{}, BlockLocation::hole());
  EXPECT_TRUE(BlockLocation::at(SegmentNumber{1}, 0).is_stored()) << "the smallest place there is";
  EXPECT_FALSE(BlockLocation::at(SegmentNumber{1}, 0).is_hole());
}

TEST(BlockLocationTest, SegmentAndBlockSurviveBeingPacked) {
  for (const std::uint64_t segment :
       {std::uint64_t{1}, std::uint64_t{0xabcdef}, (std::uint64_t{1} << 40) - 1}) {
    for (const std::uint32_t block : {0u, 1u, 8191u, (1u << 24) - 1}) {
      const BlockLocation location = BlockLocation::at(SegmentNumber{segment}, block);
      EXPECT_EQ(location.segment().value, segment);
      EXPECT_EQ(location.block_index(), block);
      EXPECT_TRUE(location.is_valid());
    }
  }
}

TEST(BlockLocationTest, ConsecutiveBlocksAreConsecutiveNumbers) {
  const BlockLocation first = BlockLocation::at(SegmentNumber{5}, 100);
  EXPECT_EQ(BlockLocation{first.raw + 27}, BlockLocation::at(SegmentNumber{5}, 127));
}

TEST(BlockLocationTest, OnlyTwoValuesBelowTheFirstSegmentAreValid) {
  EXPECT_TRUE(BlockLocation{0}.is_valid());
  EXPECT_TRUE(BlockLocation{1}.is_valid());
  for (const std::uint64_t raw : {2u, 3u, 4096u, (1u << 24) - 1}) {
    EXPECT_FALSE(BlockLocation{raw}.is_valid()) << raw;
  }
}

}  // namespace
}  // namespace holdfast::format
