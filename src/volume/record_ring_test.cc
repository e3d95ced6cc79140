// SPDX-License-Identifier: Apache-2.0
#include "volume/record_ring.h"

#include <gtest/gtest.h>

#include <cstring>
#include <deque>
#include <random>

#include "base/units.h"

namespace holdfast {
namespace {

struct Record {
  RecordRing::Space space;
  std::uint32_t blocks = 0;
};

Record take(RecordRing& ring, std::uint32_t blocks) {
  const auto space = ring.peek(blocks, blocks);
  EXPECT_TRUE(space.has_value());
  ring.commit(*space, blocks);
  return {*space, blocks};
}
void give_back(RecordRing& ring, const Record& record) {
  ring.release_oldest(record.space.offset_blocks, record.blocks);
}

TEST(RecordRingTest, RecordsStandSideBySideUntilTheRingIsFull) {
  RecordRing ring(10);
  const Record first = take(ring, 4);
  const Record second = take(ring, 6);
  EXPECT_EQ(second.space.memory, first.space.memory + 4 * kBlockBytes);
  EXPECT_EQ(ring.used_blocks(), 10u);
  EXPECT_FALSE(ring.peek(1, 1).has_value());
  give_back(ring, first);
  EXPECT_EQ(ring.used_blocks(), 6u);
  EXPECT_EQ(ring.peek(1, 100)->capacity_blocks, 4u);
  EXPECT_FALSE(ring.peek(5, 100).has_value());
}

TEST(RecordRingTest, PeekingTakesNothingAndACommitMayUseLess) {
  RecordRing ring(10);
  const auto wide = ring.peek(2, 8);
  ASSERT_TRUE(wide.has_value());
  EXPECT_EQ(wide->capacity_blocks, 8u);
  EXPECT_TRUE(ring.empty());
  ring.commit(*wide, 3);
  EXPECT_EQ(ring.used_blocks(), 3u);
  EXPECT_EQ(ring.peek(1, 100)->offset_blocks, 3u);
}

TEST(RecordRingTest, ARecordIsNeverSplitAtTheEnd) {
  RecordRing ring(10);
  const Record first = take(ring, 4);
  const Record second = take(ring, 4);
  give_back(ring, first);
  // Two blocks are left at the end, four at the front.
  const auto space = ring.peek(2, 4);
  ASSERT_TRUE(space.has_value());
  EXPECT_EQ(space->offset_blocks, 0u);
  ring.commit(*space, 4);
  EXPECT_FALSE(ring.peek(1, 1).has_value()) << "the end is passed over until the oldest goes";
  give_back(ring, second);
  EXPECT_EQ(ring.peek(1, 100)->offset_blocks, 4u);
}

TEST(RecordRingTest, AnEmptyRingOffersAllOfItself) {
  RecordRing ring(10);
  const Record first = take(ring, 7);
  give_back(ring, first);
  EXPECT_TRUE(ring.empty());
  EXPECT_EQ(ring.peek(10, 10)->offset_blocks, 0u);
}

TEST(RecordRingTest, ShrinkingKeepsWhatIsInUse) {
  RecordRing ring(10);
  const Record first = take(ring, 2);
  std::memset(first.space.memory, 0x5a, 2 * kBlockBytes);
  ring.shrink();
  EXPECT_EQ(first.space.memory[2 * kBlockBytes - 1], std::byte{0x5a});
  give_back(ring, first);
  ring.shrink();
  const Record second = take(ring, 10);  // the memory is back
  std::memset(second.space.memory, 1, 10 * kBlockBytes);
}

TEST(RecordRingTest, RecordsNeverOverlapWhateverTheirSizes) {
  RecordRing ring(37);
  std::mt19937 random(7);
  std::deque<std::pair<Record, std::byte>> live;
  std::size_t committed = 0;
  for (int step = 0; step < 20'000; ++step) {
    const auto wanted = static_cast<std::uint32_t>(random() % 12 + 1);
    const auto space = random() % 3 == 0 ? std::nullopt : ring.peek(1, wanted);
    if (space.has_value()) {
      ASSERT_LE(space->offset_blocks + space->capacity_blocks, 37u);
      const auto used = static_cast<std::uint32_t>(random() % space->capacity_blocks + 1);
      ring.commit(*space, used);
      const auto mark = static_cast<std::byte>(++committed);
      std::memset(space->memory, static_cast<int>(mark), used * kBlockBytes);
      live.push_back({{*space, used}, mark});
    } else if (!live.empty()) {
      const auto& [record, mark] = live.front();
      ASSERT_EQ(record.space.memory[0], mark);
      ASSERT_EQ(record.space.memory[record.blocks * kBlockBytes - 1], mark);
      give_back(ring, record);
      live.pop_front();
    }
    std::uint32_t blocks = 0;
    for (const auto& entry : live) blocks += entry.first.blocks;
    ASSERT_EQ(ring.used_blocks(), blocks);
    ASSERT_EQ(ring.empty(), live.empty());
  }
  EXPECT_GT(committed, 5000u);
}

}  // namespace
}  // namespace holdfast
